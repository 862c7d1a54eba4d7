"""Studies that are written whole: of all their rows that count, whenever these came.

Decided here: which rows those are. A row counts where FHIR can hold its UIDs, its instance stands
in the study and is not deleted, and where it is the newest of its file; one whose file was deleted
does not, though a later file brought the instance back. What a study says otherwise, every row that
counts has its say in. Not decided here: which studies are to be written whole (`current_files`), or
how (`convert`).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.fhir.imaging_study import is_told
from dicom_assets.fhir.instances import COLUMNS, INSTANCES, project
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.query import values_of
from dicom_assets.lakehouse.schemas import INGEST_DATE, REQUIRED_TAGS
from dicom_assets.steps import catalog
from dicom_assets.steps.corrections import Corrections
from dicom_assets.steps.current_files import (
    Row,
    StudyUid,
    instance_key,
    is_deleted,
    study_key_of,
)
from dicom_assets.steps.run import Run

_STUDIES_AT_A_TIME = 32
_CURRENT = (
    "level",
    "sourceSystem",
    "studyInstanceUid",
    "sopInstanceUid",
    "filePath",
    "version",
    "arrivedAt",
    "deletedAt",
    "otherStudies",
    "ingestDates",
    "wholeAt",
)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows, and which of their studies are written whole.

    Attributes:
        instances: The rows that count (`instances.INSTANCES`).
        whole: Studies → as of when.
    """

    instances: pa.Table
    whole: Mapping[StudyUid, datetime]


def split(engine: LocalEngine, new: pa.Table) -> tuple[pa.Table, dict[StudyUid, Row]]:
    """Returns those of new rows that make statements to be merged, and the studies written whole.

    Args:
        engine: The lakehouse; silver/current_files knows all of the rows.
        new: Rows (`instances.INSTANCES`).
    """
    columns = values_of(new, "sourceSystem", *REQUIRED_TAGS)
    keys = {instance_key(system, instance) for system, _, _, instance in columns}
    keys |= {study_key_of(*study) for study in {(system, study) for system, study, *_ in columns}}
    known = _unusual(engine.read(catalog.CURRENT_FILES, _CURRENT, where={"id": keys}))
    whole = {_study(row): row for row in known if row["wholeAt"]}
    elsewhere = {
        (row["sourceSystem"], uid)
        for row in known
        if row["otherStudies"]
        for uid in (row["studyInstanceUid"], *row["otherStudies"])
    }
    whole |= studies_by_key(engine, {study_key_of(*study) for study in elsewhere - set(whole)})
    deleted = {(row["sourceSystem"], row["sopInstanceUid"]) for row in known if is_deleted(row)}
    if not whole and not deleted:
        return new, {}
    # of one that FHIR cannot hold a failure is made there
    kept = [
        not is_told(series, instance)
        or ((system, study) not in whole and (system, instance) not in deleted)
        for system, study, series, instance in columns
    ]
    return new.filter(pa.array(kept, pa.bool_())), whole


def studies_by_key(engine: LocalEngine, keys: Collection[int]) -> dict[StudyUid, Row]:
    """Returns studies of silver/current_files by their keys."""
    rows = engine.read(catalog.CURRENT_FILES, _CURRENT, where={"id": keys}).to_pylist()
    return {_study(row): row for row in rows}


def whole_parts(
    run: Run, corrections: Corrections, studies: Mapping[StudyUid, Row]
) -> Iterator[Part]:
    """Yields all rows of studies that count, some studies at a time.

    Args:
        run: The run.
        corrections: What holds of deletes and patients.
        studies: The studies' rows of silver/current_files.
    """
    engine, left = run.engine, iter(studies.items())
    while some := dict(islice(left, _STUDIES_AT_A_TIME)):
        where = {
            INGEST_DATE: {day for row in some.values() for day in row["ingestDates"]},
            "sourceSystem": {system for system, _ in some},
            "studyInstanceUid": {uid for _, uid in some},
        }
        rows = engine.read(run.metastore, (*COLUMNS, "version"), where=where)
        rows = counting(engine, corrections, rows)
        ours = [study in some for study in values_of(rows, "sourceSystem", "studyInstanceUid")]
        batches = [project(batch) for batch in rows.filter(pa.array(ours, pa.bool_())).to_batches()]
        instances = pa.Table.from_batches(batches, schema=INSTANCES)
        as_of = {study: row["wholeAt"] for study, row in some.items()}
        yield Part(corrections.with_patients(instances), as_of)


def counting(
    engine: LocalEngine, corrections: Corrections, rows: pa.Table, *, wherever: bool = False
) -> pa.Table:
    """Returns those metastore rows that count, the newest of each file.

    Their ingestedAt is when the file was taken in, also where it has been read again.

    Args:
        engine: The lakehouse.
        corrections: What was deleted.
        rows: With at least UIDs, filePath, version and ingestedAt; all there are of each file.
        wherever: Whether files count whose instance stands in another study by now.
    """
    told = values_of(rows, "sourceSystem", *REQUIRED_TAGS)
    files = values_of(rows, "filePath", "version")
    read: list[Any] = rows["ingestedAt"].to_pylist()
    where = {"id": {instance_key(system, instance) for system, _, _, instance in told}}
    known = engine.read(catalog.CURRENT_FILES, _CURRENT, where=where).to_pylist()
    current = {(row["sourceSystem"], row["sopInstanceUid"]): row for row in known}
    arrived: dict[tuple[Any, ...], datetime] = {
        (row["filePath"], row["version"]): row["arrivedAt"] for row in known
    }
    last: dict[tuple[Any, ...], datetime] = {}
    for file, at in zip(files, read, strict=True):
        arrived[file] = min(at, arrived.get(file, at))
        last[file] = max(at, last.get(file, at))
    kept = []
    for (system, *uids), file, at in zip(told, files, read, strict=True):
        instance = current.get((system, uids[-1]))
        row = dict(zip(REQUIRED_TAGS, uids, strict=True)) | {"sourceSystem": system}
        kept.append(
            is_told(*uids[1:])  # else it has failed, though another file may tell of its instance
            and at == last[file]
            and instance is not None
            and (wherever or instance["studyInstanceUid"] == uids[0])
            and not is_deleted(instance)
            # asked with the file's own UIDs: its instance may have come elsewhere since
            and not corrections.is_deleted(row | {"arrivedAt": arrived[file]})
        )
    place = rows.schema.get_field_index("ingestedAt")
    arrivals = pa.array([arrived[file] for file in files], rows.schema.field(place).type)
    rows = rows.set_column(place, rows.schema.field(place), arrivals)
    return rows.filter(pa.array(kept, pa.bool_()))


def _unusual(current: pa.Table) -> list[Row]:
    """Returns studies, and those instances that were deleted or stood in several studies."""
    is_study = pc.call_function("equal", [current["level"], pa.scalar("study")])
    was_deleted = pc.call_function("is_valid", [current["deletedAt"]])
    others = pc.call_function("list_value_length", [current["otherStudies"]])
    has_moved = pc.call_function("greater", [others, pa.scalar(0)])
    either = pc.call_function("or", [is_study, was_deleted])
    return current.filter(pc.call_function("or_kleene", [either, has_moved])).to_pylist()


def _study(row: Row) -> StudyUid:
    return row["sourceSystem"], row["studyInstanceUid"]
