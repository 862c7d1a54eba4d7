"""Step 5, ingest_fhir: FHIR files become raw bronze rows, one a resource.

Decided here: which files are new (those of which the bronze table holds no line), that one which
others put there is left alone while it changes, and what becomes of bad lines (Failed, with line
number and reason). Takes any FHIR resource type. Not decided here: what a good line is
(`dicom_assets.fhir.ndjson`).
"""

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import pyarrow as pa

from dicom_assets.fhir.ndjson import BadLine, Line, read_lines, unpacked
from dicom_assets.lakehouse.drop_folder import look, without_changing
from dicom_assets.lakehouse.durable import sync
from dicom_assets.lakehouse.engine import Progress, Table
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.spill import spilled
from dicom_assets.steps import catalog, convert, report
from dicom_assets.steps.report import Report, reporting
from dicom_assets.steps.run import Run

STEP = "ingest_fhir"
_BATCH_BYTES = 16 << 20


def ingest_fhir(run: Run, table: Table) -> Report:
    """Appends the lines of the partition's new NDJSON files.

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
        complete, changing = _complete(run, [path for _, path in new])
        done.count({"still_changing": changing})
        files = [_File(run, table, system, path) for system, path in new if path in complete]
        progress = report.Progress(STEP, len(files), "NDJSON files")
        for file in files:
            file.ingest()
            done.rows += file.good
            done.count({"files": 1, "failures": len(file.bad)})
            progress.advance()
    return done


def _complete(run: Run, paths: list[Path]) -> tuple[set[Path], int]:
    """Returns the files that are complete, and how many are still changing.

    What this pipeline has put there is complete; what others did, once it does not change any more.
    """
    layout = run.engine.layout
    addresses = {path: layout.relative(path) for path in paths}
    foreign = [path for path, address in addresses.items() if not convert.is_ours(address)]
    if foreign:
        rows = run.engine.read(catalog.FHIR_FILES, ["filePath"], ingest_date=run.ingest_date)
        organised = set(rows["filePath"].to_pylist())
        foreign = [path for path in foreign if addresses[path] not in organised]
    entries = [entry for path in foreign if (entry := look(str(path)))]
    settled, changing = without_changing(entries, settle_seconds=run.settings.settle_seconds)
    regular = {entry.path for entry in settled if entry.regular}
    return {path for path in paths if path not in foreign or path in regular}, changing


def ingest_again(run: Run, table: Table, source_system: str, path: Path) -> None:
    """Appends the lines of a file that have no row, though others may have; for `repair`."""
    where = {"filePath": [run.engine.layout.relative(path)]}
    rows = run.engine.read(table, ["lineNumber"], ingest_date=run.ingest_date, where=where)
    _File(run, table, source_system, path, known=set(rows["lineNumber"].to_pylist())).ingest()


class _File:
    """One NDJSON file on its way into the bronze table."""

    def __init__(
        self,
        run: Run,
        table: Table,
        source_system: str,
        path: Path,
        known: Collection[int] = (),
    ) -> None:
        self._run, self._engine, self._table = run, run.engine, table
        self._system, self._path, self._day = source_system, path, run.ingest_date
        self._address = run.engine.layout.relative(path)
        self._known = known
        self.good = 0
        self.bad: list[BadLine] = []

    def ingest(self) -> None:
        """Appends the good lines in one commit, after the bad ones are kept and recorded."""
        layout = self._engine.layout
        # each file comes later than the one before, also when the clock was set back
        app_id = f"{STEP}/{self._table.name}"
        last = self._engine.progress(self._table, app_id) or 0
        instant = max(time.time_ns() // 1000, last + 1)
        with tempfile.TemporaryFile(dir=layout.root) as bad_texts:
            batches = self._batches(instant, bad_texts)
            rows = spilled(batches, schema=self._table.schema, folder=layout.root)
            self._keep_bad_lines(bad_texts)
        if not self.good:
            return
        self._engine.append(
            self._table,
            rows,
            progress=Progress(app_id, instant),
            ingest_date=self._day,
        )

    def _batches(self, instant: int, bad_texts: IO[bytes]) -> Iterator[pa.RecordBatch]:
        """Yields rows; sets bad lines aside."""
        ingested_at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=instant)
        rows: list[dict] = []
        size = 0
        with self._path.open("rb", buffering=0) as stream:
            for line in read_lines(unpacked(stream), resource_type=self._table.name):
                if isinstance(line, BadLine):
                    bad_texts.write(line.text + b"\n")
                    self.bad.append(replace(line, text=b""))
                    continue
                if line.number in self._known:
                    continue
                rows.append(self._row(line, ingested_at))
                size += len(line.text)
                if size >= _BATCH_BYTES:
                    yield self._batch(rows)
                    rows, size = [], 0
        if rows:
            yield self._batch(rows)

    def _batch(self, rows: list[dict]) -> pa.RecordBatch:
        self.good += len(rows)
        return pa.RecordBatch.from_pylist(rows, schema=self._table.schema)

    def _row(self, line: Line, ingested_at: datetime) -> dict:
        return {
            "ingestDate": self._day,
            "sourceSystem": self._system,
            "id": line.id,
            "lastUpdated": line.last_updated,
            "resource": line.text,
            "filePath": self._address,
            "lineNumber": line.number,
            "ingestedAt": ingested_at,
        }

    def _keep_bad_lines(self, bad_texts: IO[bytes]) -> None:
        """Writes the bad lines to Failed and records them, unless an earlier try did."""
        if not self.bad or self._is_recorded():
            return
        layout = self._engine.layout
        folder = layout.fhir_failed_folder(self._system, self._day, self._table.name)
        folder.mkdir(parents=True, exist_ok=True)
        name = self._path.name
        kept = folder / (name if name.endswith(".ndjson") else f"{name}.ndjson")
        bad_texts.seek(0)
        with kept.open("wb") as sink:
            shutil.copyfileobj(bad_texts, sink)
        sync([folder])
        failures = [
            Failure(
                STEP,
                line.reason,
                line.message,
                self._system,
                self._address,
                layout.relative(kept),
                line=line.number,
            )
            for line in self.bad
        ]
        app_id = f"{STEP}/{self._table.name}/{self._day}"
        done = self._engine.progress(catalog.INGESTION_FAILURES, app_id) or 0
        self._run.record(failures, Progress(app_id, done + 1))

    def _is_recorded(self) -> bool:
        recorded = self._engine.read(
            catalog.INGESTION_FAILURES,
            ["sourcePath"],
            ingest_date=self._day,
            where={"step": [STEP], "sourcePath": [self._address]},
        )
        return recorded.num_rows > 0
