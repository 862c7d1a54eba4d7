"""Step 3, extract: organised files become metastore rows, and each gets a ZIP of its own.

Decided here: which files are read (those organised since the last commit), what happens to a file
on disk when it is read (ZIP beside it, original gone; or Failed), and in which order things are
committed. Not decided here: what a header says (`dicom_assets.dicom`).

A run that is killed and started again finds a file plain, zipped or in Failed, and reads it where
it lies, so it makes the same row.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa

from dicom_assets.dicom import Header, HeaderError, read_header
from dicom_assets.dicom.archives import (
    ArchiveError,
    Digest,
    digest,
    open_organised,
    write_zip,
)
from dicom_assets.dicom.columns import metadata_column, metadata_string
from dicom_assets.lakehouse import schemas
from dicom_assets.lakehouse.engine import Progress
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.layout import Layout, dicom_name, one_name, zip_name
from dicom_assets.lakehouse.move import transfer
from dicom_assets.lakehouse.promoted import PromotedTag
from dicom_assets.lakehouse.reasons import MEANINGS, Reason
from dicom_assets.steps import catalog, report
from dicom_assets.steps.report import Report, reporting
from dicom_assets.steps.run import Run

STEP = "extract"
_ROWS_PER_COMMIT = 1000
_FILES_PER_TASK = 16
_BYTES_PER_TASK = 8 << 20
_BYTES_PER_COMMIT = 32 << 20  # of rows in memory; their writer holds them several times
_MISSING = "the file lies neither in Process nor in Failed any more"


@dataclass(frozen=True, slots=True)
class Task:
    """Files that one worker reads in one go.

    Attributes:
        root: Lakehouse root.
        ingest_date: The partition.
        files: `process_files` rows.
        tags: Promoted tags.
        level: Deflate level of the files' own ZIPs; 0 leaves files as they are.
    """

    root: Path
    ingest_date: date
    files: pa.RecordBatch
    tags: tuple[PromotedTag, ...]
    level: int


def extract(run: Run) -> Report:
    """Reads the partition's organised files that have no row yet.

    Returns:
        Rows = metastore rows appended; count `failures`; size in bytes.
    """
    engine, ingest_date = run.engine, run.ingest_date
    with reporting(STEP, engine.layout.root) as done:
        done.count({"failures": 0})
        app_id = engine.app_id(STEP, catalog.PROCESS_FILES, ingest_date)
        until = engine.version(catalog.PROCESS_FILES)
        files = _new_files(run, engine.progress(run.metastore, app_id), until)
        failures: list[Failure] = []
        for rows, is_last in _commits(_read_all(run, files, failures, done)):
            if is_last:  # failures first: this commit is the one that says that all is done
                run.record(failures, Progress(app_id, until))
            engine.append(
                run.metastore,
                pa.Table.from_batches(rows, schema=run.metastore.schema),
                progress=Progress(app_id, until) if is_last else None,
                ingest_date=ingest_date,
            )
        done.count({"failures": len(failures)})
    return done


def _new_files(run: Run, since: int | None, until: int) -> pa.Table:
    """Returns `process_files` rows that have neither a metastore nor a failure row."""
    table, day = catalog.PROCESS_FILES, run.ingest_date
    found = run.engine.table_of_new(
        table, table.schema.names, since=since, until=until, ingest_date=day
    )
    if found.num_rows:
        columns = ["sourceSystem", "filePath", "failedPath"]
        read = run.engine.read(run.metastore, columns, ingest_date=day)
        failed = run.engine.read(
            catalog.INGESTION_FAILURES, columns, ingest_date=day, where={"step": [STEP]}
        )
        known = set(_names(read, "filePath")) | set(_names(failed, "failedPath"))
        found = found.filter(pa.array([name not in known for name in _names(found, "filePath")]))
    return found.sort_by("filePath")


def _names(rows: pa.Table, column: str) -> Iterator[tuple[str, str]]:
    pairs = zip(rows["sourceSystem"].to_pylist(), rows[column].to_pylist(), strict=True)
    return ((system, one_name(path or "")) for system, path in pairs)


def _read_all(
    run: Run, files: pa.Table, failures: list[Failure], tally: Report
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of files as workers hand them over; adds to the failures."""
    settings = run.settings
    level = settings.compression_level if settings.compress else 0
    tasks = [
        Task(run.engine.layout.root, run.ingest_date, chunk, settings.promoted, level)
        for chunk in _chunks(files)
    ]
    progress = report.Progress(STEP, len(files), "files")
    for rows, bad in run.engine.map(read_files, tasks, count=len(tasks)):
        failures += bad
        tally.rows += rows.num_rows
        tally.size += sum(rows["fileSize"].to_pylist())
        progress.advance(rows.num_rows + len(bad))
        yield rows


def _commits(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[list[pa.RecordBatch], bool]]:
    """Gathers batches to commits that fit into memory, and says which is the last one."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        rows, size = sum(each.num_rows for each in waiting), sum(each.nbytes for each in waiting)
        if rows >= _ROWS_PER_COMMIT or size >= _BYTES_PER_COMMIT:
            yield waiting, False
            waiting = []
        waiting.append(batch)
    if waiting:
        yield waiting, True


def _chunks(files: pa.Table) -> Iterator[pa.RecordBatch]:
    """Cuts files by bytes, so that a large one does not hold up small ones behind it."""
    table = files.combine_chunks()
    start, size = 0, 0
    sizes = table["fileSize"].to_pylist()
    for end, length in enumerate(sizes, start=1):
        size += length
        if end == len(sizes) or end - start >= _FILES_PER_TASK or size >= _BYTES_PER_TASK:
            yield table.slice(start, end - start).to_batches()[0]
            start, size = end, 0


def read_files(task: Task) -> tuple[pa.RecordBatch, list[Failure]]:
    """Reads headers, compresses, moves what is bad to Failed: the work of one worker."""
    good: list[tuple[dict, Header, Digest, Path]] = []
    failures: list[Failure] = []
    layout = Layout(task.root)
    for row in task.files.to_pylist():
        try:
            good.append((row, *_read(row, layout, task)))
        except (HeaderError, ArchiveError) as error:
            failures.append(_fail(row, layout, task.ingest_date, error.reason, error.message))
        except FileNotFoundError:
            failures.append(_fail(row, layout, task.ingest_date, Reason.UNREADABLE, _MISSING))
    return _rows(good, layout, task), failures


def _read(row: dict, layout: Layout, task: Task) -> tuple[Header, Digest, Path]:
    """Returns header, digest and where the file lies now."""
    path = layout.absolute(row["filePath"])
    zipped = path.with_name(zip_name(path.name))
    failed = _failed_path(row, layout, task.ingest_date)
    lies = next((each for each in (path, zipped, failed) if each.exists()), path)
    with open_organised(lies) as stream:
        header = read_header(stream, tags=task.tags)
        stream.seek(0)
        if lies == zipped or not task.level:
            return header, digest(stream), lies
        name = dicom_name(path.name)
        content = write_zip(stream, zipped, member=name, level=task.level)
    path.unlink()
    return header, content, zipped


def _failed_path(row: dict, layout: Layout, ingest_date: date) -> Path:
    return layout.failed_folder(row["sourceSystem"], ingest_date) / Path(row["filePath"]).name


def _fail(row: dict, layout: Layout, ingest_date: date, reason: Reason, message: str) -> Failure:
    """Moves a bad file to Failed, unless an earlier try already did."""
    path = layout.absolute(row["filePath"])
    failed = _failed_path(row, layout, ingest_date)
    if path.exists() and not failed.exists():
        transfer(path, failed)
        path.unlink(missing_ok=True)
    return Failure(
        STEP,
        reason,
        message or MEANINGS[reason],
        row["sourceSystem"],
        row["sourcePath"],
        layout.relative(failed) if failed.exists() else None,
    )


def _rows(
    good: list[tuple[dict, Header, Digest, Path]], layout: Layout, task: Task
) -> pa.RecordBatch:
    """Makes metastore rows of what was read."""
    schema = schemas.dicomimagingmetastore(task.tags)
    headers = [header for _, header, _, _ in good]
    columns: dict[str, object] = {
        tag.column: [header.promoted[tag.column] for header in headers] for tag in task.tags
    }
    columns |= {
        name: [row[name] for row, _, _, _ in good]
        for name in ("ingestDate", "sourceSystem", "sourcePath", "sourceModifiedAt")
    }
    columns |= {
        "metadata": metadata_column(headers),
        "metadata_string": [metadata_string(header) for header in headers],
        "filePath": [layout.relative(path) for _, _, _, path in good],
        "fileSize": [content.size for _, _, content, _ in good],
        "contentHash": [content.sha256 for _, _, content, _ in good],
        "version": [None] * len(good),
        "transferSyntaxUid": [header.transfer_syntax_uid for header in headers],
        "decodeNotes": [list(header.decode_notes) or None for header in headers],
        # the instant it was taken in, so that a run that is killed and run again makes the same row
        "ingestedAt": [row["organisedAt"] for row, _, _, _ in good],
    }
    arrays = [
        values if isinstance(values := columns[f.name], pa.Array) else pa.array(values, f.type)
        for f in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
