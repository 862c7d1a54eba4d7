"""Step 3, extract: organised files become metastore rows, and each gets a ZIP of its own.

Decided here: which files are read (those organised since the last commit), so many at a time that
neither memory nor what a killed run has to do again grows with them; how they are shared out to
workers, and in which order things are committed. Not decided here: what a worker does with them
(`read_files`), what a header says (`dicom_assets.dicom`).

A run that is killed and started again finds a file plain, zipped or in Failed, and reads it where
it lies, so it makes the same row.
"""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa

from dicom_assets.lakehouse.allocator import give_back_memory, keep_memory
from dicom_assets.lakehouse.durable import sync
from dicom_assets.lakehouse.engine import Progress
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.layout import Layout, one_name
from dicom_assets.lakehouse.pool import MANY_TASKS, get_ready
from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.lakehouse.written import Written
from dicom_assets.steps import catalog, report
from dicom_assets.steps.commits import commits
from dicom_assets.steps.read_external import read_external
from dicom_assets.steps.read_files import (
    STEP,
    Done,
    Task,
    failed_folders,
    read_and_replace,
    read_files,
)
from dicom_assets.steps.report import Report, reporting
from dicom_assets.steps.reread import reread
from dicom_assets.steps.run import Run

_LOG = logging.getLogger(__name__)
_FILES_PER_TASK = 16
_BYTES_PER_TASK = 8 << 20
_BYTES_TWICE = 1 << 30


def extract(run: Run) -> Report:
    """Reads the partition's organised files that have no row yet, then what is new in External.

    And at last what is to be read again.

    Returns:
        Rows = metastore rows appended; counts `failures`, of all files read `slow_path`: those that
        the fast header reader left to the careful one, and, where there are any, `read_again` and
        what `read_external` counts; size in bytes.
    """
    engine, ingest_date = run.engine, run.ingest_date
    keep_memory()
    with reporting(STEP, engine.layout.root) as done:
        done.count({"failures": 0, "slow_path": 0})
        app_id = engine.app_id(STEP, catalog.PROCESS_FILES, ingest_date)
        parts = run.new_parts(
            catalog.PROCESS_FILES,
            app_id,
            said_in=[catalog.INGESTION_FAILURES],
        )
        is_first = True
        for found, version in parts:
            # a killed run may have committed some of their rows
            files = _without_known(run, found) if is_first else found
            if files.num_rows:
                _read_part(run, files.sort_by("filePath"), Progress(app_id, version), done)
                is_first = False
        read_external(run, done)
        reread(run, done)
    return done


def extract_again(run: Run, addresses: Collection[str]) -> None:
    """Reads organised files whatever has been read, for `repair`; says no progress.

    Args:
        run: The run.
        addresses: `filePath` of their `process_files` rows, which have neither a metastore nor a
            failure row.
    """
    table, day = catalog.PROCESS_FILES, run.ingest_date
    where = {"filePath": addresses}
    files = run.engine.read(table, table.schema.names, ingest_date=day, where=where)
    failures: list[Failure] = []
    replaced = _Replaced(run.engine.layout)
    for rows, _ in commits(
        _read_all(run, files, failures, replaced, Report(STEP)),
        rows_each=run.engine.rows_per_commit,
    ):
        replaced.remove()
        run.engine.append(run.metastore, rows, progress=None, ingest_date=day)
    if failures:
        rows = run.failure_rows(failures)
        run.engine.append(catalog.INGESTION_FAILURES, rows, progress=None, ingest_date=day)


def expect(run: Run, *, files: int, size: int) -> None:
    """Gets worker processes ready where so many files, of so many bytes, will need them."""
    tasks = max(files / _FILES_PER_TASK, size / _BYTES_PER_TASK)
    if run.settings.workers > 1 and tasks >= MANY_TASKS and not run.engine.works_elsewhere:
        get_ready(read_files)


def _read_part(run: Run, files: pa.Table, progress: Progress, tally: Report) -> None:
    """Reads some of the new files, and says that it is done in the last commit of their rows."""
    failures: list[Failure] = []
    replaced = _Replaced(run.engine.layout)
    for rows, is_last in commits(
        _read_all(run, files, failures, replaced, tally), rows_each=run.engine.rows_per_commit
    ):
        replaced.remove()
        if is_last:  # failures first: this commit is the one that says that all is done
            run.record(failures, progress)
        run.engine.append(
            run.metastore,
            rows,
            progress=progress if is_last else None,
            ingest_date=run.ingest_date,
        )
        give_back_memory()
    tally.count({"failures": len(failures)})


def _without_known(run: Run, files: pa.Table) -> pa.Table:
    """Returns `process_files` rows that have neither a metastore nor a failure row."""
    asked, known = set(_names(files, "filePath")), set[tuple[str, str]]()
    today = {INGEST_DATE: [run.ingest_date]}
    for table, column, where in (
        (run.metastore, "filePath", today),
        (catalog.INGESTION_FAILURES, "failedPath", today | {"step": [STEP]}),
    ):
        for batch in run.engine.stream(table, ["sourceSystem", column], where=where):
            known |= asked.intersection(_names(batch, column))
    return files.filter(pa.array([name not in known for name in _names(files, "filePath")]))


def _names(rows: pa.Table | pa.RecordBatch, column: str) -> Iterator[tuple[str, str]]:
    pairs = zip(rows["sourceSystem"].to_pylist(), rows[column].to_pylist(), strict=True)
    return ((system, one_name(path or "")) for system, path in pairs)


class _Replaced:
    """Files that a ZIP of their own replaces: removed once that is durable, many at a time."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._files: list[Path] = []
        self._written: set[Path] = set()
        self._size = 0

    def add(self, done: Done) -> None:
        """Takes more files; not so many that the disk has to hold much twice."""
        self._files += done.replaced
        self._written |= {file.parent for file in done.replaced}
        self._written |= failed_folders(done, self._layout)
        self._size += done.size
        if self._size >= _BYTES_TWICE:
            self.remove()

    def remove(self) -> None:
        """Removes all of them; also what was moved to Failed is durable then."""
        sync(self._written)
        for file in self._files:
            file.unlink()
        self._files, self._written, self._size = [], set(), 0


def _read_all(
    run: Run, files: pa.Table, failures: list[Failure], replaced: _Replaced, tally: Report
) -> Iterator[pa.RecordBatch | Written]:
    """Yields the rows of files as workers hand them over; adds to failures and replaced files."""
    settings = run.settings
    level = settings.compression_level if settings.compress else 0
    tasks = [
        Task(
            run.engine.layout.root,
            run.ingest_date,
            chunk,
            settings.promoted,
            level,
            settings.max_header_bytes,
        )
        for chunk in _chunks(files)
    ]
    progress = report.Progress(STEP, len(files), "files")
    work = read_and_replace if run.engine.works_elsewhere else read_files
    slow = 0
    for done in run.share_out(work, tasks):
        failures += done.failures
        replaced.add(done)
        tally.rows += done.rows.num_rows
        tally.size += done.size
        tally.count({"slow_path": done.slow})
        slow += done.slow
        progress.advance(done.rows.num_rows + len(done.failures))
        yield done.rows
    if len(files):
        _LOG.info("slow path %s of %s files", slow, len(files))


def _copied(table: pa.Table, start: int, count: int) -> pa.RecordBatch:
    """Returns some rows alone: a slice would take the whole table with it to another process."""
    return table.take(pa.array(range(start, start + count), pa.int64())).to_batches()[0]


def _chunks(files: pa.Table) -> Iterator[pa.RecordBatch]:
    """Cuts files into tasks by bytes; the largest files first, each alone, while others go on."""
    table = files.combine_chunks()
    sizes = table["fileSize"].to_pylist()
    large = [i for i, size in enumerate(sizes) if size >= _BYTES_PER_TASK]
    for i in sorted(large, key=lambda i: -sizes[i]):
        yield _copied(table, i, 1)
    # the order of arrival: a series' files are alike, and its values are decoded once
    small = table.filter(
        pa.array([size < _BYTES_PER_TASK for size in sizes], pa.bool_())
    ).combine_chunks()
    start, size = 0, 0
    for end, length in enumerate(small["fileSize"].to_pylist(), start=1):
        size += length
        if end == len(small) or end - start >= _FILES_PER_TASK or size >= _BYTES_PER_TASK:
            yield _copied(small, start, end - start)
            start, size = end, 0
