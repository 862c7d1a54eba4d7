"""Step 6, flatten: raw bronze FHIR becomes silver, one row per resource and source system.

Decided here: which bronze rows are new and how many are merged at a time. Not decided here: what a
silver row looks like and how a late arrival is merged (`dicom_assets.fhir`), and to which study a
report points (`link`).

An upsert of the same lines again changes nothing, so only the last one of a run carries progress.
"""

from collections.abc import Collection, Iterator

import pyarrow as pa

from dicom_assets.fhir.flatten import resource_columns
from dicom_assets.fhir.links import LINKED
from dicom_assets.fhir.silver import silver_ids, upserts
from dicom_assets.lakehouse.engine import Progress, Table
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.steps import report
from dicom_assets.steps.link import linked
from dicom_assets.steps.report import Report, now, reporting
from dicom_assets.steps.run import Run

STEP = "flatten"
_LINES_PER_UPSERT = 500


def flatten(run: Run, *, bronze: Table, silver: Table) -> Report:
    """Upserts the partition's new bronze lines into silver.

    Args:
        run: The run.
        bronze: Raw resources; the table's name is the resource type.
        silver: The flattened table.

    Returns:
        Rows = silver rows inserted or changed; count `failures`.
    """
    engine = run.engine
    with reporting(STEP, run.engine.layout.root) as done:
        done.count({"failures": 0})
        app_id = engine.app_id(STEP, bronze, run.ingest_date)
        until = engine.version(bronze)
        since = engine.progress(silver, app_id)
        failures: list[Failure] = []
        waiting: pa.Table | None = None
        new = engine.table_of_new(
            bronze, ["lineNumber"], since=since, until=until, ingest_date=run.ingest_date
        )
        progress = report.Progress(STEP, new.num_rows, "lines")
        for lines in _new_lines(run, bronze, since, until):
            if waiting is not None:
                engine.upsert(silver, waiting, progress=None, ingest_date=run.ingest_date)
            rows, bad = _merged(run, bronze, silver, lines)
            failures += bad
            done.rows += rows.num_rows
            waiting = rows
            progress.advance(lines.num_rows)
        done.count({"failures": len(failures)})
        if waiting is not None:
            run.record(failures, Progress(app_id, until))
            engine.upsert(
                silver, waiting, progress=Progress(app_id, until), ingest_date=run.ingest_date
            )
    return done


def flatten_again(
    run: Run,
    *,
    bronze: Table,
    silver: Table,
    studies: Collection[tuple[str, str]],
    from_scratch: bool,
) -> None:
    """Upserts all lines about some resources, of all dates, for `repair`; says no progress.

    Args:
        run: The run; rows that are new go to its date.
        bronze: Raw resources.
        silver: The flattened table.
        studies: Source system and id of each resource.
        from_scratch: Whether what silver holds of them is forgotten.
    """
    wanted = sorted(studies)
    for start in range(0, len(wanted), _LINES_PER_UPSERT):
        some = set(wanted[start : start + _LINES_PER_UPSERT])
        where = {"id": {own_id for _, own_id in some}}
        lines = run.engine.read(bronze, bronze.schema.names, where=where)
        pairs = zip(lines["sourceSystem"].to_pylist(), lines["id"].to_pylist(), strict=True)
        lines = lines.filter(pa.array([pair in some for pair in pairs], pa.bool_()))
        # bad lines have their failure rows already
        rows, _ = _merged(run, bronze, silver, lines, from_scratch=from_scratch)
        run.engine.upsert(silver, rows, progress=None, ingest_date=run.ingest_date)


def _new_lines(run: Run, bronze: Table, since: int | None, until: int) -> Iterator[pa.Table]:
    """Yields new lines, some hundred at a time."""
    waiting: list[pa.RecordBatch] = []
    for batch in run.engine.read_new(
        bronze, bronze.schema.names, since=since, until=until, ingest_date=run.ingest_date
    ):
        for start in range(0, batch.num_rows, _LINES_PER_UPSERT):
            waiting.append(batch.slice(start, _LINES_PER_UPSERT))
            if sum(part.num_rows for part in waiting) >= _LINES_PER_UPSERT:
                yield pa.Table.from_batches(waiting, bronze.schema)
                waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting, bronze.schema)


def _merged(
    run: Run,
    bronze: Table,
    silver: Table,
    lines: pa.Table,
    *,
    from_scratch: bool = False,
) -> tuple[pa.Table, list[Failure]]:
    ids = [] if from_scratch else silver_ids(bronze.name, lines)
    existing = run.engine.read(silver, resource_columns(bronze.name), where={"id": ids})
    lenient = run.settings.fhir_validation == "lenient"
    rows, failures = upserts(bronze.name, lines, existing, now=now(), lenient=lenient)
    if bronze.name in LINKED and rows.num_rows:
        rows = linked(run, bronze.name, rows)
    return rows, failures
