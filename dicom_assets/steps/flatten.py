"""Step 6, flatten: raw bronze FHIR becomes silver, one row per resource and source system.

Decided here: which bronze rows are new and how many are merged at a time. Not decided here: what a
silver row looks like and how a late arrival is merged (`dicom_assets.fhir`).

An upsert of the same lines again changes nothing, so only the last one of a run carries progress.
"""

from collections.abc import Iterator
from datetime import date

import pyarrow as pa

from dicom_assets.fhir.flatten import resource_columns
from dicom_assets.fhir.silver import silver_ids, upserts
from dicom_assets.lakehouse import schemas
from dicom_assets.lakehouse.engine import COMMIT_VERSION, LocalEngine, Progress, Table
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.steps import report
from dicom_assets.steps.failures import record
from dicom_assets.steps.report import Report, now, reporting

STEP = "flatten"
_LINES_PER_UPSERT = 500


def flatten(
    engine: LocalEngine, *, bronze: Table, silver: Table, ingest_date: date, run_id: str = ""
) -> Report:
    """Upserts the partition's new bronze lines into silver.

    Args:
        engine: Where the tables lie.
        bronze: Raw resources; the table's name is the resource type.
        silver: The flattened table.
        ingest_date: The partition.
        run_id: The Dagster run, for failure rows.

    Returns:
        Rows = silver rows inserted or changed; count `failures`.
    """
    app_id = f"{STEP}/{bronze.name}/{ingest_date}"
    with reporting(STEP) as done:
        done.count({"failures": 0})
        until = engine.version(bronze)
        since = engine.progress(silver, app_id)
        if since is not None and since >= until:
            return done
        failures: list[Failure] = []
        waiting: pa.Table | None = None
        progress = report.Progress(STEP, _count(engine, bronze, ingest_date), "lines")
        for lines in _new_lines(engine, bronze, since, until, ingest_date):
            if waiting is not None:
                engine.upsert(silver, waiting, progress=None)
            waiting, bad = _merged(engine, bronze, silver, lines)
            failures += bad
            done.rows += waiting.num_rows
            progress.advance(lines.num_rows)
        done.count({"failures": len(failures)})
        if waiting is not None:
            record(engine, failures, Progress(app_id, until), ingest_date, run_id)
            engine.upsert(silver, waiting, progress=Progress(app_id, until))
    return done


def _count(engine: LocalEngine, bronze: Table, ingest_date: date) -> int:
    return engine.read(bronze, ["lineNumber"], ingest_date=ingest_date).num_rows


def _new_lines(
    engine: LocalEngine, bronze: Table, since: int | None, until: int, ingest_date: date
) -> Iterator[pa.Table]:
    """Yields new lines, some hundred at a time."""
    schema = bronze.schema.append(pa.field(COMMIT_VERSION, pa.uint64()))
    waiting: list[pa.RecordBatch] = []
    for batch in engine.read_new(
        bronze, bronze.schema.names, since=since, until=until, ingest_date=ingest_date
    ):
        for start in range(0, batch.num_rows, _LINES_PER_UPSERT):
            waiting.append(batch.slice(start, _LINES_PER_UPSERT))
            if sum(part.num_rows for part in waiting) >= _LINES_PER_UPSERT:
                yield pa.Table.from_batches(waiting, schema)
                waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting, schema)


def _merged(
    engine: LocalEngine, bronze: Table, silver: Table, lines: pa.Table
) -> tuple[pa.Table, list[Failure]]:
    rows = lines.select(schemas.RAW_FHIR.names)
    ids = silver_ids(bronze.name, rows)
    existing = engine.read(silver, resource_columns(bronze.name), where={"id": ids})
    return upserts(bronze.name, rows, existing, now=now())

