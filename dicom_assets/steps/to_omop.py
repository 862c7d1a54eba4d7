"""Step 7, to_omop: silver studies that changed become OMOP rows.

Decided here: which silver rows are new, and in which order gold tables are written: the rows that
others point to first. Not decided here: the mapping (`dicom_assets.omop`).
"""

from collections.abc import Callable

import pyarrow as pa

from dicom_assets.lakehouse.engine import COMMIT_VERSION, Progress, Table
from dicom_assets.omop.image_occurrence import SILVER_COLUMNS, image_occurrences
from dicom_assets.omop.person import METASTORE_COLUMNS, persons
from dicom_assets.omop.procedure_occurrence import procedure_occurrences
from dicom_assets.omop.vocabulary import Vocabulary
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog
from dicom_assets.steps.report import Report, now, reporting
from dicom_assets.steps.run import Run

STEP = "to_omop"


def image_occurrence(run: Run) -> Report:
    """Upserts one gold/Image_Occurrence row per series of the studies that changed."""
    vocabulary, crosswalks = _vocabulary(run.settings), run.crosswalks
    return _from_silver(
        run,
        catalog.IMAGE_OCCURRENCE,
        lambda silver: image_occurrences(
            silver,
            vocabulary=vocabulary,
            crosswalks=crosswalks,
            dicomweb_base_address=run.settings.dicomweb_base_address,
            now=now(),
        ),
    )


def procedure_occurrence(run: Run) -> Report:
    """Upserts one gold/procedure_occurrence row per study that changed."""
    crosswalks = run.crosswalks
    return _from_silver(
        run,
        catalog.PROCEDURE_OCCURRENCE,
        lambda silver: procedure_occurrences(silver, crosswalks=crosswalks, now=now()),
    )


def person(run: Run) -> Report:
    """Upserts one gold/person row per patient of the partition's new metastore rows."""
    engine, crosswalks = run.engine, run.crosswalks
    metastore, gold = catalog.metastore(run.settings.promoted), catalog.PERSON
    app_id = f"{STEP}/person/{run.ingest_date}"
    with reporting(STEP, run.engine.layout.root) as report:
        since, until = engine.progress(gold, app_id), engine.version(metastore)
        new = engine.table_of_new(
            metastore,
            METASTORE_COLUMNS,
            since=since,
            until=until,
            ingest_date=run.ingest_date,
        )
        if new.num_rows:
            ids = persons(new, crosswalks=crosswalks, now=now())["person_id"].to_pylist()
            known = engine.read(gold, gold.schema.names, where={"person_id": ids})
            rows = persons(new, crosswalks=crosswalks, now=now(), existing=known)
            engine.upsert(gold, rows, progress=Progress(app_id, until))
            report.rows = rows.num_rows
    return report


def _from_silver(run: Run, gold: Table, mapping: Callable[[pa.Table], pa.Table]) -> Report:
    engine, silver = run.engine, catalog.silver_imaging_study()
    app_id = f"{STEP}/{gold.name}"
    with reporting(STEP, run.engine.layout.root) as report:
        since, until = engine.progress(gold, app_id), engine.version(silver)
        new = engine.table_of_new(silver, SILVER_COLUMNS, since=since, until=until)
        if new.num_rows:
            rows = mapping(_newest(new))
            engine.upsert(gold, rows, progress=Progress(app_id, until))
            report.rows = rows.num_rows
    return report


def _newest(rows: pa.Table) -> pa.Table:
    """Keeps, of each silver row that changed several times, its last state."""
    ordered = rows.sort_by([("id", "ascending"), (COMMIT_VERSION, "descending")])
    ids = ordered["id"].to_pylist()
    first = [index == 0 or ids[index - 1] != each for index, each in enumerate(ids)]
    return ordered.filter(pa.array(first, pa.bool_()))


def _vocabulary(settings: Settings) -> Vocabulary:
    folder = settings.athena_vocabulary
    return Vocabulary.from_athena(folder) if folder else Vocabulary.default()
