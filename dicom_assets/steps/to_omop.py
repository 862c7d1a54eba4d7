"""Step 7, to_omop: the date's silver studies that changed become OMOP rows.

Decided here: which studies are mapped, and which gold rows go. A study changes when a line about it
arrives, so the date's new bronze lines name the studies; another date's, whose checks may not have
passed, are left to its own run. Not decided here: the mapping (`dicom_assets.omop`).
"""

from collections.abc import Callable

import pyarrow as pa

from dicom_assets.fhir.imaging_study import silver_study_id
from dicom_assets.fhir.silver import silver_ids
from dicom_assets.lakehouse.engine import Progress, Table
from dicom_assets.omop.image_occurrence import image_occurrences
from dicom_assets.omop.person import METASTORE_COLUMNS, persons
from dicom_assets.omop.procedure_occurrence import procedure_occurrences
from dicom_assets.omop.studies import STUDY_COLUMNS
from dicom_assets.steps import catalog
from dicom_assets.steps.report import Report, now, reporting
from dicom_assets.steps.run import Run

STEP = "to_omop"


def image_occurrence(run: Run) -> Report:
    """Upserts one gold/Image_Occurrence row per series of the studies that changed.

    A series that a study no longer has, since all its instances are in others now, goes.
    """
    return _from_silver(
        run,
        catalog.IMAGE_OCCURRENCE,
        lambda silver: image_occurrences(
            silver,
            vocabulary=run.vocabulary,
            crosswalks=run.crosswalks,
            dicomweb_base_address=run.settings.dicomweb_base_address,
            now=now(),
        ),
    )


def procedure_occurrence(run: Run) -> Report:
    """Upserts one gold/procedure_occurrence row per study that changed."""
    return _from_silver(
        run,
        catalog.PROCEDURE_OCCURRENCE,
        lambda silver: procedure_occurrences(silver, crosswalks=run.crosswalks, now=now()),
    )


def person(run: Run) -> Report:
    """Upserts the gold/person rows that the studies of new metastore rows point to."""
    engine, gold = run.engine, catalog.PERSON
    metastore = catalog.metastore(run.settings.promoted)
    with reporting(STEP, engine.layout.root) as report:
        app_id = engine.app_id(f"{STEP}/person", metastore, run.ingest_date)
        until = engine.version(metastore)
        new = engine.table_of_new(
            metastore,
            METASTORE_COLUMNS,
            since=engine.progress(gold, app_id),
            until=until,
            ingest_date=run.ingest_date,
        )
        if new.num_rows:
            pairs = zip(
                new["sourceSystem"].to_pylist(), new["studyInstanceUid"].to_pylist(), strict=True
            )
            ids = {silver_study_id(system, uid) for system, uid in set(pairs)}
            silver = engine.read(catalog.silver_imaging_study(), STUDY_COLUMNS, where={"id": ids})
            rows = persons(
                new,
                silver,
                known=lambda keys: engine.read(gold, gold.schema.names, where={"person_id": keys}),
                crosswalks=run.crosswalks,
                now=now(),
            )
            engine.upsert(gold, rows, progress=Progress(app_id, until))
            report.rows = rows.num_rows
    return report


def _from_silver(run: Run, gold: Table, mapping: Callable[[pa.Table], pa.Table]) -> Report:
    engine, bronze = run.engine, catalog.BRONZE_IMAGING_STUDY
    with reporting(STEP, engine.layout.root) as report:
        app_id = engine.app_id(f"{STEP}/{gold.name}", bronze, run.ingest_date)
        until = engine.version(bronze)
        lines = engine.table_of_new(
            bronze,
            ["sourceSystem", "id"],
            since=engine.progress(gold, app_id),
            until=until,
            ingest_date=run.ingest_date,
        )
        if lines.num_rows:
            ids = silver_ids(bronze.name, lines)
            silver = engine.read(catalog.silver_imaging_study(), STUDY_COLUMNS, where={"id": ids})
            rows = mapping(silver)
            (key,) = gold.key
            before = engine.read(gold, [key], where={"sourceRecordId": ids})[key]
            gone = set(before.to_pylist()) - set(rows[key].to_pylist())
            engine.upsert(gold, rows, progress=Progress(app_id, until), gone=gone)
            report.rows = rows.num_rows
            report.count({"deleted": len(gone)})
    return report
