"""The journal: moves of files and the rows about them happen all or not at all.

Decided here: in which order files are moved, rows committed and sources removed, and how a run that
was killed in between is brought to its end. What is about to happen is written down first; every
act can be repeated without harm; then the note is removed. The caller holds the lakehouse's lock
(`steps.report.reporting`). Not decided here: what is moved (`dicom_assets.steps.organise`).
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from dicom_assets.lakehouse.drop_folder import Dropped, look
from dicom_assets.lakehouse.engine import LocalEngine, Progress, Table

APP_ID = "organise"
ROWS_PER_COMMIT = 1000
_LOG = logging.getLogger(__name__)


@dataclass
class Batch:
    """What one turn of `organise` is about to do.

    Attributes:
        ingest_date: The partition.
        moves: (from, to); where a file is moved to, nothing lies yet.
        remove: Sources that the moves replace, as they were when read.
        files: `process_files` rows, times as microseconds since 1970.
        failures: `ingestion_failures` rows, times as microseconds since 1970.
    """

    ingest_date: date
    moves: list[tuple[Path, Path]] = field(default_factory=list)
    remove: list[Dropped] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def sizes(self) -> tuple[int, int, int]:
        """Returns how much is planned, for `cut_back`."""
        return len(self.moves), len(self.files), len(self.failures)

    def cut_back(self, sizes: tuple[int, int, int]) -> None:
        """Takes back what was planned since `sizes`."""
        for planned, size in zip((self.moves, self.files, self.failures), sizes, strict=True):
            del planned[size:]


class Journal:
    """Carries batches out, exactly once.

    Attributes:
        staging: A folder for files on their way, emptied at the start; on the file system of the
            organised files.
    """

    def __init__(self, engine: LocalEngine, *, files: Table, failures: Table) -> None:
        """Uses an engine and the two tables that rows go to."""
        self._engine = engine
        self._files = files
        self._failures = failures
        self._folder = engine.layout.organise_folder
        self._note = self._folder / "journal.json"
        self.staging = self._folder / "staging"

    @contextmanager
    def open(self) -> Iterator[None]:
        """Ends what a killed organiser began, and clears its remains."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._recover()
        self.staging.mkdir(parents=True)
        yield
        shutil.rmtree(self._folder)

    def carry_out(self, batch: Batch) -> None:
        """Moves the files, commits the rows, removes the sources."""
        if not (batch.moves or batch.remove or batch.files or batch.failures):
            return
        sequence = max(self._done(self._files), self._done(self._failures)) + 1
        _write_whole(self._note, json.dumps({"sequence": sequence, "batch": _plain(batch)}))
        self._act(batch, sequence)
        self._note.unlink()

    def _recover(self) -> None:
        if self._note.exists():
            _LOG.warning("an earlier run was interrupted while moving files; finishing its work")
            note = json.loads(self._note.read_text())
            self._act(_batch(note["batch"]), note["sequence"])
            self._note.unlink()
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _act(self, batch: Batch, sequence: int) -> None:
        for folder in {target.parent for _, target in batch.moves}:
            folder.mkdir(parents=True, exist_ok=True)
        for source, target in batch.moves:
            # a source that stands beside its target is a new file under an old name
            if not os.path.lexists(target) and os.path.lexists(source):
                source.rename(target)
        chunks = range(0, max(len(batch.files), 1), ROWS_PER_COMMIT)
        self._commit(self._failures, batch.failures, sequence + len(chunks) - 1, batch)
        for number, start in enumerate(chunks):
            rows = batch.files[start : start + ROWS_PER_COMMIT]
            self._commit(self._files, rows, sequence + number, batch)
        for source in batch.remove:
            if look(source.path) == source:
                source.path.unlink()

    def _commit(
        self, table: Table, rows: list[dict[str, Any]], sequence: int, batch: Batch
    ) -> None:
        if rows and self._done(table) < sequence:
            self._engine.append(
                table,
                _table(rows, table.schema),
                progress=Progress(APP_ID, sequence),
                ingest_date=batch.ingest_date,
            )

    def _done(self, table: Table) -> int:
        return self._engine.progress(table, APP_ID) or 0


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    plain = pa.schema([_as_written(f) for f in schema])
    return pa.Table.from_pylist(rows, schema=plain).cast(schema)


def _as_written(column: pa.Field) -> pa.Field:
    kind = pa.int64() if pa.types.is_timestamp(column.type) else column.type
    return column.with_type(pa.string() if pa.types.is_date(kind) else kind)


def microseconds(moment: datetime) -> int:
    """Returns a UTC instant as the journal writes it."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _plain(batch: Batch) -> dict[str, Any]:
    return {
        **asdict(batch),
        "ingest_date": batch.ingest_date.isoformat(),
        "moves": [(str(source), str(target)) for source, target in batch.moves],
        "remove": [{**asdict(each), "path": str(each.path)} for each in batch.remove],
    }


def _batch(plain: dict[str, Any]) -> Batch:
    return Batch(
        ingest_date=date.fromisoformat(plain["ingest_date"]),
        moves=[(Path(source), Path(target)) for source, target in plain["moves"]],
        remove=[Dropped(**{**each, "path": Path(each["path"])}) for each in plain["remove"]],
        files=plain["files"],
        failures=plain["failures"],
    )


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
