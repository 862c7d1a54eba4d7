"""Verify: compares files, hashes, rows and layers of a lakehouse, and says what does not agree.

Decided here: in which order things are compared, and when repairing ends. No run works on the
lakehouse meanwhile. Ingest dates are walked one by one; what lies between dates is compared without
holding more than keys (`verify_silver`, `verify_gold`). Not decided here: what a disagreement is
(`verify_files`, `verify_date`, `verify_fhir`, `verify_operations` and those two) or how one is
mended (`repair`).
"""

from collections.abc import Sequence
from datetime import date

from dicom_assets.lakehouse.paths import path_of
from dicom_assets.lakehouse.pool import over_threads, shared_out
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog
from dicom_assets.steps.check_files import Stored, Task, check_files
from dicom_assets.steps.findings import Findings, Kind
from dicom_assets.steps.report import Progress, now, reporting
from dicom_assets.steps.run import Run
from dicom_assets.steps.verify_date import DateCheck
from dicom_assets.steps.verify_fhir import FhirCheck
from dicom_assets.steps.verify_files import Trees, check_table_files
from dicom_assets.steps.verify_gold import GoldCheck
from dicom_assets.steps.verify_operations import compare_operations
from dicom_assets.steps.verify_silver import SilverCheck

STEP = "verify"
_FILES_PER_TASK = 64
_MOST_LOOKED_FOR = 1000


def verify(settings: Settings, *, day: date | None = None, hashes: bool = False) -> Findings:
    """Compares a lakehouse, or one ingest date of it.

    Args:
        settings: Where it lies, and what the site chose.
        day: The ingest date; None for all. Of one date, the layers are compared for the studies
            that its lines are about; what silver holds too much is looked for with all dates only.
        hashes: Whether every byte of every file is read, and compared with checksum and hash, and
            FHIR lines with what rows hold of them; else sizes are, and what stands around a ZIP's
            data, and the numbers of lines.
    """
    run = Run.of(settings, f"{day or now().date()}")
    found = Findings()
    with reporting(STEP, settings.lakehouse):
        trees = Trees(run.engine.layout, found)
        for table in catalog.tables(settings.promoted, settings.fhir_resource_types):
            check_table_files(run.engine, table, found)
        if found.counts[Kind.DATA_FILE]:
            return found  # a table that cannot be read cannot be compared
        days = [day] if day else sorted(_days(run, trees))
        rows = run.engine.rows_by_date(run.metastore)
        files = sum(rows.get(f"{each}", 0) for each in days)
        progress = Progress(f"{STEP} files", files, "files")
        for each in days:
            check = DateCheck(Run.of(settings, f"{each}"), trees, found, hashes=hashes)
            check.compare()
            _check_stored(run, each, list(check.stored()), found, progress, hashes=hashes)
        _look_elsewhere(run, found)
        compare_operations(run, trees, found, days)
        silver = SilverCheck(run, found, days=days, is_whole=day is None)
        gold = GoldCheck(run, found, silver.studies())
        gold.compare(silver.compare(gold.studies), is_whole=day is None)
        FhirCheck(run, found, days=days, is_whole=day is None).compare()
    return found


def _days(run: Run, trees: Trees) -> set[date]:
    """Returns all dates that have files or rows."""
    tables = (
        catalog.PROCESS_FILES,
        run.metastore,
        catalog.INGESTION_FAILURES,
        catalog.OPERATIONS,
        catalog.EXTERNAL_FILES,
        catalog.BRONZE_IMAGING_STUDY,
        catalog.FHIR_FILES,
        *map(catalog.bronze_fhir, run.settings.fhir_resource_types),
    )
    rows = {each for table in tables for each in run.engine.rows_by_date(table)}
    return trees.days() | {date.fromisoformat(each) for each in rows}


def _check_stored(
    run: Run,
    day: date,
    files: Sequence[Stored],
    found: Findings,
    progress: Progress,
    *,
    hashes: bool,
) -> None:
    """Looks into a date's files, each of which is there."""
    size = _FILES_PER_TASK
    tasks = [Task(files[at : at + size], hashes) for at in range(0, len(files), size)]
    # reading heads is waiting for a disk, hashing is work
    spread = shared_out if hashes else over_threads
    workers = run.settings.workers
    for checked in spread(check_files, tasks, workers=workers, count=len(tasks)):
        for file, why in checked.wrong:
            address = run.engine.layout.relative(path_of(file.path))
            found.add(Kind.CONTENT, address, day=day, note=why)
        progress.advance(checked.count)


def _look_elsewhere(run: Run, found: Findings) -> None:
    """Says of missing files where the same content lies, if it was sent again."""
    missing = [each for each in found.of(Kind.FILE_MISSING) if each.key][:_MOST_LOOKED_FOR]
    if not missing:
        return
    where = {"contentHash": {each.key for each in missing}}
    rows = run.engine.read(run.metastore, ["filePath", "contentHash"], where=where)
    pairs = zip(rows["contentHash"].to_pylist(), rows["filePath"].to_pylist(), strict=True)
    layout = run.engine.layout
    lying = {content: path for content, path in pairs if layout.absolute(path).exists()}
    for each in missing:
        if each.key in lying:
            found.note(each, f"the same content lies at {lying[each.key]}")
