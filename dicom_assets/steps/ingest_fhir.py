"""Step 5, ingest_fhir: FHIR files become raw bronze rows, one a resource.

Decided here: which files are new (those of which the bronze table holds no line), that one which
others put there is left alone while it changes, how many go into a commit, what becomes of bad
lines (Failed, with line number and reason), and that what is called like a file and is none is a
failure. Takes any FHIR resource type. Not decided here: what a good line is
(`dicom_assets.fhir.ndjson`).
"""

import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final

import pyarrow as pa

from dicom_assets.fhir.ndjson import BadLine, Line
from dicom_assets.lakehouse.drop_folder import look, without_changing
from dicom_assets.lakehouse.durable import sync
from dicom_assets.lakehouse.engine import Progress, Table
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.layout import failed_lines_name
from dicom_assets.lakehouse.query import values_of
from dicom_assets.lakehouse.reasons import MEANINGS, Reason
from dicom_assets.lakehouse.spill import spilled
from dicom_assets.lakehouse.uris import is_written_here
from dicom_assets.steps import catalog, report
from dicom_assets.steps.fhir_lines import lines_in
from dicom_assets.steps.report import Report, reporting
from dicom_assets.steps.run import Run

STEP: Final = "ingest_fhir"
_BATCH_BYTES = 4 << 20
_ROW_BYTES = 500
"""What a row takes besides its text while it waits."""
_FILES_PER_COMMIT = 500
"""Reports often come one a file, and a commit costs as much as hundreds of rows."""
_BYTES_PER_COMMIT = 64 << 20
"""Of small files; a large one has a commit of its own."""
_BAD_LINES_PER_COMMIT = 10_000
"""They are held until it; once there are so many, the files that follow have another one."""


def ingest_fhir(run: Run, table: Table) -> Report:
    """Appends the lines of the partition's new FHIR files.

    Args:
        run: The run.
        table: The bronze table; its name is the resource type.

    Returns:
        Rows = lines appended; counts `files`, `failures` and `still_changing`.
    """
    engine, ingest_date = run.engine, run.ingest_date
    with reporting(STEP, run.engine.layout.root) as done:
        done.count({"files": 0, "failures": 0})
        rows = engine.read(table, ["filePath"], ingest_date=ingest_date)
        known = set(rows["filePath"].to_pylist())
        new = [
            (system, path)
            for system, path in engine.layout.fhir_files(ingest_date, table.name)
            if engine.layout.relative(path) not in known
        ]
        done.count({"failures": _fail_strays(run, table)})
        complete, changing = _complete(run, [path for _, path in new])
        done.count({"still_changing": changing})
        files = [_File(run, system, path) for system, path in new if path in complete]
        progress = report.Progress(STEP, len(files), "FHIR files")
        at = 0
        while some := _for_one_commit(files[at : at + _FILES_PER_COMMIT]):
            read = _ingest(run, table, some)
            for file in some[:read]:
                done.rows += file.good
                done.count({"files": 1, "failures": len(file.bad)})
                file.bad.clear()  # those of all files would add up
            progress.advance(read)
            at += read
    return done


def _fail_strays(run: Run, table: Table) -> int:
    """Records what lies among the files and is none; returns how many there are now."""
    layout = run.engine.layout
    strays = layout.fhir_strays(run.ingest_date, table.name)
    addresses = {layout.relative(path): system for system, path in strays}
    for address in _recorded(run, addresses, as_lines=False):
        del addresses[address]
    failures = [
        Failure(STEP, Reason.NOT_A_FILE, MEANINGS[Reason.NOT_A_FILE], system, address)
        for address, system in addresses.items()
    ]
    _record(run, table, failures)
    return len(failures)


def _recorded(run: Run, addresses: Collection[str], *, as_lines: bool) -> set[str]:
    """Returns those of some paths of which bad lines, or that they are no file, are recorded."""
    if not addresses:
        return set()
    where = {"step": [STEP], "sourcePath": list(addresses)}
    # a link where namespaces lie is in no date
    day = run.ingest_date if as_lines else None
    columns = ["sourcePath", "line"]
    rows = run.engine.read(catalog.INGESTION_FAILURES, columns, ingest_date=day, where=where)
    return {path for path, line in values_of(rows, "sourcePath", "line") if as_lines == bool(line)}


def _record(run: Run, table: Table, failures: Sequence[Failure]) -> None:
    if failures:
        app_id = f"{STEP}/{table.name}/{run.ingest_date}"
        done = run.engine.progress(catalog.INGESTION_FAILURES, app_id) or 0
        run.record(failures, Progress(app_id, done + 1))


def ingest_again(run: Run, table: Table, source_system: str, path: Path) -> None:
    """Appends the lines of a file that have no row, though others may have; for `repair`."""
    where = {"filePath": [run.engine.layout.relative(path)]}
    rows = run.engine.read(table, ["lineNumber"], ingest_date=run.ingest_date, where=where)
    known = set(rows["lineNumber"].to_pylist())
    _ingest(run, table, [_File(run, source_system, path, known=known)])


def _complete(run: Run, paths: list[Path]) -> tuple[set[Path], int]:
    """Returns the files that are complete, and how many are still changing.

    What this pipeline has put there is complete; what others did, once it does not change any more.
    """
    layout = run.engine.layout
    addresses = {path: layout.relative(path) for path in paths}
    foreign = {path for path, address in addresses.items() if not is_written_here(address)}
    if foreign:
        rows = run.engine.read(catalog.FHIR_FILES, ["filePath"], ingest_date=run.ingest_date)
        organised = set(rows["filePath"].to_pylist())
        foreign = {path for path in foreign if addresses[path] not in organised}
    entries = [entry for path in sorted(foreign) if (entry := look(str(path)))]
    settled, changing = without_changing(
        entries, layout.root, settle_seconds=run.settings.settle_seconds
    )
    regular = {entry.path for entry in settled if entry.regular}
    return {path for path in paths if path not in foreign or path in regular}, changing


class _File:
    """One FHIR file on its way into the bronze table."""

    def __init__(
        self, run: Run, source_system: str, path: Path, *, known: Collection[int] = ()
    ) -> None:
        self.system, self.path, self.known = source_system, path, known
        self.address = run.engine.layout.relative(path)
        self.size = path.stat().st_size
        self.good, self.is_read = 0, False
        self.bad: list[BadLine] = []
        self.bad_from = self.bad_until = 0


def _for_one_commit(files: Sequence[_File]) -> Sequence[_File]:
    """Returns as many of the first files as by their size go into a commit."""
    size = 0
    for number, file in enumerate(files):
        size += file.size
        if number and size > _BYTES_PER_COMMIT:
            return files[:number]
    return files


def _ingest(run: Run, table: Table, files: Sequence[_File]) -> int:
    """Appends the files' good lines in one commit, after the bad ones are kept and recorded.

    Returns:
        How many of the files were read: not all where those have too many bad lines for a commit.
    """
    engine = run.engine
    # each file comes later than the one before, also when the clock was set back
    app_id = f"{STEP}/{table.name}"
    last = engine.progress(table, app_id) or 0
    first = max(time.time_ns() // 1000, last + 1)
    with tempfile.TemporaryFile(dir=engine.layout.scratch) as bad_texts:
        batches = _batches(run, table, files, first, bad_texts)
        rows = spilled(batches, schema=table.schema, folder=engine.layout.scratch)
        files = [file for file in files if file.is_read]
        _keep_bad_lines(run, table, files, bad_texts)
    if any(file.good for file in files):
        done = Progress(app_id, first + len(files) - 1)
        engine.append(table, rows, progress=done, ingest_date=run.ingest_date)
    return len(files)


def _batches(
    run: Run, table: Table, files: Sequence[_File], first: int, bad_texts: IO[bytes]
) -> Iterator[pa.RecordBatch]:
    """Yields rows; sets bad lines aside, and reads on while there are not too many."""
    rows: list[dict] = []
    size = bad = 0
    for instant, file in enumerate(files, start=first):
        ingested_at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=instant)
        file.bad_from = bad_texts.tell()
        for line in lines_in(run, file.path, table.name):
            if isinstance(line, BadLine):
                bad_texts.write(line.text + b"\n")
                file.bad.append(replace(line, text=b""))
            elif line.number not in file.known:
                file.good += 1
                rows.append(_row(run, file, line, ingested_at))
                size += len(line.text) + _ROW_BYTES
            if size >= _BATCH_BYTES:
                yield pa.RecordBatch.from_pylist(rows, schema=table.schema)
                rows, size = [], 0
        file.bad_until, file.is_read = bad_texts.tell(), True
        bad += len(file.bad)
        if bad >= _BAD_LINES_PER_COMMIT:
            break
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=table.schema)


def _row(run: Run, file: _File, line: Line, ingested_at: datetime) -> dict:
    return {
        "ingestDate": run.ingest_date,
        "sourceSystem": file.system,
        "id": line.id,
        "lastUpdated": line.last_updated,
        "resource": line.text,
        "filePath": file.address,
        "lineNumber": line.number,
        "ingestedAt": ingested_at,
    }


def _keep_bad_lines(run: Run, table: Table, files: Sequence[_File], bad_texts: IO[bytes]) -> None:
    """Writes bad lines to Failed and records them, but for files of which an earlier try did."""
    bad = {file.address: file for file in files if file.bad}
    for address in _recorded(run, bad, as_lines=True):
        del bad[address]
    failures = [
        Failure(STEP, line.reason, line.message, file.system, file.address, kept, line=line.number)
        for file in bad.values()
        for kept in [_kept(run, table, file, bad_texts)]
        for line in file.bad
    ]
    if failures:
        layout = run.engine.layout
        sync({layout.absolute(each.failed_path).parent for each in failures if each.failed_path})
    _record(run, table, failures)


def _kept(run: Run, table: Table, file: _File, bad_texts: IO[bytes]) -> str:
    """Writes a file's bad lines to Failed; returns where they lie."""
    layout = run.engine.layout
    folder = layout.fhir_failed_folder(file.system, run.ingest_date, table.name)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / failed_lines_name(file.path.name)
    bad_texts.seek(file.bad_from)
    with kept.open("wb") as sink:
        left = file.bad_until - file.bad_from
        while left and (chunk := bad_texts.read(min(left, 1 << 20))):
            sink.write(chunk)
            left -= len(chunk)
    return layout.relative(kept)
