"""Step 7, to_omop: the date's silver studies that changed become OMOP rows.

Decided here: which studies are mapped, and which gold rows go. A study changes when a line about it
arrives, so the date's new bronze lines, as far as silver holds them, name the studies; another
date's, whose checks may not have passed, are left to its own run. When the site's crosswalks or
vocabulary change, a date's studies count as changed. Not decided here: the mapping
(`dicom_assets.omop`).
"""

from collections.abc import Callable, Collection

import pyarrow as pa

from dicom_assets.fhir.silver import silver_ids
from dicom_assets.lakehouse.engine import Progress, Table
from dicom_assets.lakehouse.schemas import INGEST_DATE, PERSON
from dicom_assets.omop.image_occurrence import image_occurrences
from dicom_assets.omop.person import METASTORE_COLUMNS, persons, unknown_persons
from dicom_assets.omop.procedure_occurrence import procedure_occurrences
from dicom_assets.omop.studies import STUDY_COLUMNS, studies
from dicom_assets.steps import catalog, flatten
from dicom_assets.steps.corrections import Corrections
from dicom_assets.steps.current_files import study_key_of
from dicom_assets.steps.report import Report, now, reporting
from dicom_assets.steps.run import Run
from dicom_assets.steps.whole import studies_by_key

STEP = "to_omop"


def image_occurrence(run: Run, ids: Collection[str] | None = None) -> Report:
    """Upserts one gold/Image_Occurrence row per series of the studies that changed.

    A series that a study no longer has goes, be it that all its instances are in others now or
    that they were deleted.
    """

    def mapping(silver: pa.Table, ids: Collection[str]) -> tuple[pa.Table, set[int]]:
        rows = image_occurrences(
            silver,
            vocabulary=run.vocabulary,
            crosswalks=run.crosswalks,
            dicomweb_base_address=run.settings.dicomweb_base_address,
            now=now(),
        )
        table, key = catalog.IMAGE_OCCURRENCE, "image_occurrence_id"
        before = _held(run, table, "sourceRecordId", ids)
        return rows, before - set(rows[key].to_pylist())

    return _from_silver(run, catalog.IMAGE_OCCURRENCE, mapping, ids)


def procedure_occurrence(run: Run, ids: Collection[str] | None = None) -> Report:
    """Upserts one gold/procedure_occurrence row per study that changed; that of one gone goes."""

    def mapping(silver: pa.Table, ids: Collection[str]) -> tuple[pa.Table, set[int]]:
        rows = procedure_occurrences(silver, crosswalks=run.crosswalks, now=now())
        gone = set(ids) - set(silver["id"].to_pylist())
        return rows, _held(run, catalog.PROCEDURE_OCCURRENCE, "sourceRecordId", gone)

    return _from_silver(run, catalog.PROCEDURE_OCCURRENCE, mapping, ids)


def person(run: Run, ids: Collection[str] | None = None) -> Report:
    """Upserts the gold/person rows that the studies that changed point to.

    The unknown person of a study whose patient is known by now goes, and so does a person to whom
    nothing points since a study was corrected.
    """
    engine, gold = run.engine, catalog.PERSON

    def mapping(silver: pa.Table, ids: Collection[str]) -> tuple[pa.Table, set[int]]:
        found = list(studies(silver))
        keys = {study_key_of(each.source_system, each.uid) for each in found}
        whole = {
            study: row for study, row in studies_by_key(engine, keys).items() if row["wholeAt"]
        }
        # of these the date's rows are not all that there are
        dates = {run.ingest_date, *(day for row in whole.values() for day in row["ingestDates"])}
        rows = engine.read(
            run.metastore,
            METASTORE_COLUMNS,
            where={INGEST_DATE: dates, "studyInstanceUid": {each.uid for each in found}},
        )
        people = persons(
            Corrections.read(engine).with_patients(rows),
            silver,
            known=lambda keys: engine.read(gold, PERSON.names, where={"person_id": keys}),
            crosswalks=run.crosswalks,
            now=now(),
        )
        gone = _held(run, gold, "person_id", unknown_persons(silver))
        if whole or len(found) < len(ids):
            gone |= _forsaken(run, ids, set(people["person_id"].to_pylist()))
        return people, gone

    return _from_silver(run, gold, mapping, ids)


def _forsaken(run: Run, ids: Collection[str], people: set[int]) -> set[int]:
    """Returns whom nothing points to any more.

    Args:
        run: The run; its gold/Image_Occurrence is as it was before the studies changed.
        ids: The studies that changed, or are gone.
        people: Whom these point to now.
    """
    engine, table, columns = run.engine, catalog.IMAGE_OCCURRENCE, ["person_id", "sourceRecordId"]
    before = engine.read(table, columns, where={"sourceRecordId": ids})
    left = set(before["person_id"].to_pylist()) - people
    pointing = engine.read(table, columns, where={"person_id": left}).to_pylist()
    changed = set(ids)
    return left - {row["person_id"] for row in pointing if row["sourceRecordId"] not in changed}


def _from_silver(
    run: Run,
    gold: Table,
    mapping: Callable[[pa.Table, Collection[str]], tuple[pa.Table, set[int]]],
    again: Collection[str] | None,
) -> Report:
    """Upserts what a mapping makes of the studies that changed; deletes what it says is gone.

    With ids of studies to map again it takes these, whatever has been read, and says no progress.
    """
    engine, bronze, silver = (
        run.engine,
        catalog.BRONZE_IMAGING_STUDY,
        catalog.silver_imaging_study(),
    )
    with reporting(STEP, engine.layout.root) as report:
        if again is not None:
            rows, gone = mapping(engine.read(silver, STUDY_COLUMNS, where={"id": again}), again)
            engine.upsert(gold, rows, progress=None, ingest_date=run.ingest_date, gone=gone)
            report.rows = rows.num_rows
            return report
        # silver made anew, or other choices: another reading of the same lines
        step = f"{STEP}/{gold.name}/{engine.identity(silver)}/{run.choices}"
        app_id = engine.app_id(step, bronze, run.ingest_date)
        until = engine.progress(silver, engine.app_id(flatten.STEP, bronze, run.ingest_date))
        if until is None:
            return report
        lines = engine.table_of_new(
            bronze,
            ["sourceSystem", "id"],
            since=engine.progress(gold, app_id),
            until=until,
            ingest_date=run.ingest_date,
        )
        if lines.num_rows:
            ids = silver_ids(bronze.name, lines)
            rows, gone = mapping(engine.read(silver, STUDY_COLUMNS, where={"id": ids}), ids)
            engine.upsert(
                gold,
                rows,
                progress=Progress(app_id, until),
                ingest_date=run.ingest_date,
                gone=gone,
            )
            report.rows = rows.num_rows
            report.count({"deleted": len(gone)})
    return report


def _held(run: Run, gold: Table, column: str, values: Collection[str | int]) -> set[int]:
    """Returns the keys of the gold rows that have one of the values."""
    (key,) = gold.key
    return set(run.engine.read(gold, [key], where={column: values})[key].to_pylist())
