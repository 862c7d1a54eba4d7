"""How steps record failures: once, and before the commit that says the work is done.

Decided here: that a failure row is appended under the same progress as the step's own commit, and
skipped when a killed run has already appended it. Not decided here: what failed.
"""

from collections.abc import Sequence
from datetime import date

from dicom_assets.lakehouse.engine import LocalEngine, Progress
from dicom_assets.lakehouse.failures import Failure, failure_rows
from dicom_assets.steps import catalog
from dicom_assets.steps.report import now


def record(
    engine: LocalEngine,
    failures: Sequence[Failure],
    progress: Progress,
    ingest_date: date,
    run_id: str,
    *,
    even_none: bool = False,
) -> None:
    """Appends failure rows, unless that was done under this progress before.

    Args:
        engine: Where to.
        failures: What did not make it.
        progress: The step's progress once this work is done.
        ingest_date: The partition.
        run_id: The Dagster run.
        even_none: Commit the progress also when nothing failed.
    """
    table = catalog.INGESTION_FAILURES
    done = engine.progress(table, progress.app_id)
    if (failures or even_none) and (done is None or done < progress.version):
        rows = failure_rows(failures, ingest_date=ingest_date, failed_at=now(), run_id=run_id)
        engine.append(table, rows, progress=progress, ingest_date=ingest_date)
