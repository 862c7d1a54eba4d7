"""Studies that are written whole: of all their rows that count, whenever these came.

Decided here: which rows those are. A row counts where its instance stands in the study and is not
deleted; one whose file arrived before the instance was deleted does not, though a later file
brought the instance back. What a study says otherwise, every row that counts has its say in. Not
decided here: which studies are to be written whole (`current_files`), or how (`convert`).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.fhir.instances import COLUMNS, INSTANCES, project
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.schemas import INGEST_DATE
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
    columns = columns_of(new, "sourceSystem", "studyInstanceUid", "sopInstanceUid")
    keys = {instance_key(system, instance) for system, _, instance in columns}
    keys |= {study_key_of(*study) for study in {(system, study) for system, study, _ in columns}}
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
    kept = [
        (system, study) not in whole and (system, instance) not in deleted
        for system, study, instance in columns
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
        as_of = {study: row["wholeAt"] for study, row in some.items()}
        counting = pa.array(_counting(engine, rows, as_of), pa.bool_())
        batches = [project(batch) for batch in rows.filter(counting).to_batches()]
        instances = pa.Table.from_batches(batches, schema=INSTANCES)
        yield Part(corrections.with_patients(instances), as_of)


def columns_of(rows: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    """Returns the values of some columns, row by row."""
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))


def _counting(
    engine: LocalEngine, rows: pa.Table, as_of: dict[StudyUid, datetime | None]
) -> list[bool]:
    """Says of each metastore row whether it counts; moves `as_of` on to each study's newest row."""
    told = columns_of(rows, "sourceSystem", "studyInstanceUid", "sopInstanceUid")
    files = columns_of(rows, "filePath", "version")
    read: list[Any] = rows["ingestedAt"].to_pylist()
    where = {"id": {instance_key(system, instance) for system, _, instance in told}}
    known = engine.read(catalog.CURRENT_FILES, _CURRENT, where=where).to_pylist()
    current = {(row["sourceSystem"], row["sopInstanceUid"]): row for row in known}
    arrived: dict[tuple[Any, ...], datetime] = {}
    for file, at in zip(files, read, strict=True):
        arrived[file] = min(at, arrived.get(file, at))
    found = []
    for (system, uid, sop), file, at in zip(told, files, read, strict=True):
        study, instance = (system, uid), current.get((system, sop))
        if study in as_of:
            as_of[study] = max(at, as_of[study] or at)
        if study not in as_of or not instance or instance["studyInstanceUid"] != uid:
            found.append(False)
        else:
            deleted_at = instance["deletedAt"]
            found.append(deleted_at is None or arrived[file] > deleted_at)
    return found


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
