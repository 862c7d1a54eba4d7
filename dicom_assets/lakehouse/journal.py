"""The journal: moves of files and the rows about them happen all or not at all.

Decided here: in which order dropped files are taken, moved and written about, and how a run that
was killed in between is brought to its end. What is about to happen is written down first; every
act can be repeated without harm; then the note is removed. Each of these is durable before the next
begins, so that it holds when the power fails, too. The note names places within the lakehouse, so
that it holds in one that was moved, or copied, and of that one alone. A file that may not be taken
from where it lies stays there, and nothing is written of it. The caller holds the lakehouse's lock
(`steps.report.reporting`). Not decided here: what is moved (`dicom_assets.steps.organise`).
"""

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from dicom_assets.lakehouse.drop_folder import Dropped, is_same, look
from dicom_assets.lakehouse.durable import put, sync
from dicom_assets.lakehouse.engine import LocalEngine, Progress, Table
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.modes import FILE
from dicom_assets.lakehouse.move import transfer
from dicom_assets.lakehouse.paths import lies, path_of, scratch_of, temporary_of
from dicom_assets.lakehouse.pool import over_threads

ROWS_PER_COMMIT = 1000
STAGED_PER_COMMIT = 1 << 30
"""Bytes that wait in `staging`: once there are so many, they are carried out."""
_AT_ONCE = 16
"""Requests to an object store."""
_LOG = logging.getLogger(__name__)
_ENTRY = fields(Dropped)
_NOT_TO_BE_TAKEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG})


@dataclass
class Plan:
    """What becomes of one dropped entry.

    Attributes:
        entry: The entry, as it was when it was read.
        moves: (from, to): the entry itself, or staged members; nothing lies at `to` yet. An entry
            that is not moved is removed.
        files: `process_files` or `fhir_files` rows, times as microseconds since 1970.
        failures: `ingestion_failures` rows, times as microseconds since 1970.
        operations: `operations` rows, times as microseconds since 1970.
    """

    entry: Dropped
    moves: list[tuple[Path, Path]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)


class Journal:
    """Carries plans out, exactly once.

    Attributes:
        staging: A folder for files on their way, emptied at the start; on the file system of the
            organised files, or, where those lie in an object store, on this machine.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        app_id: str,
        folder: Path,
        files: Table,
        failures: Table,
        operations: Table,
    ) -> None:
        """Uses an engine and the tables that rows go to.

        Args:
            engine: The lakehouse.
            app_id: Whose journal it is: what its commits carry.
            folder: Where it lies.
            files: Where rows of organised files go.
            failures: Where rows of failures go.
            operations: Where rows of operations go.
        """
        self._engine = engine
        self._app_id = app_id
        self._files = files
        self._failures = failures
        self._operations = operations
        self._folder = folder
        self._note = self._folder / "journal.json"
        self._work = self._folder
        if isinstance(folder, FarPath):
            self._work = scratch_of(engine.layout.root) / app_id
        self.staging = self._work / "staging"
        self._folders = count()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Ends what a killed organiser began, and clears its remains."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._recover()
        self.staging.mkdir(parents=True)
        yield
        shutil.rmtree(self._work)

    def instant(self) -> int:
        """Returns microseconds since 1970: now, but after all that has been organised before.

        A clock may be set back; what came later must still be told to be later.
        """
        return max(time.time_ns() // 1000, self._last() + 1)

    def new_folder(self) -> Path:
        """Makes a folder in `staging`, for what comes of one entry."""
        folder = self.staging / f"{next(self._folders)}"
        folder.mkdir()
        return folder

    def carry_out(
        self, plans: list[Plan], *, staged: Sequence[Path], ingest_date: date, instant: int
    ) -> list[Plan]:
        """Takes the entries, moves the files, commits the rows.

        Args:
            plans: What becomes of each entry.
            staged: Folders of `staging` that are needed no more then, whatever is left in them.
            ingest_date: The partition.
            instant: When it was decided, of `instant`; the commits carry it as their progress.

        Returns:
            The plans that were carried out; the entries of the others could not be taken.
        """
        note = _Note(ingest_date, instant, plans)
        if plans:
            sync([self.staging])
            self._write(note)
            self._act(note)
        for folder in staged:  # a run that is killed before leaves them to the next one
            shutil.rmtree(folder)
        return note.plans

    def _recover(self) -> None:
        if self._note.is_file():
            _LOG.warning("an earlier run was interrupted while moving files; finishing its work")
            sync([self._folder])  # before it counts
            self._act(self._read())
        if self._work.exists():
            shutil.rmtree(self._work)

    def _act(self, note: "_Note") -> None:
        if not note.moved:
            is_far = isinstance(self._folder, FarPath)
            note.plans = _taken_to_store(note.plans) if is_far else _taken(note.plans)
            # from here on the rows are settled: how they fall into commits must not change
            note.moved = True
            sync({target.parent for plan in note.plans for _, target in plan.moves})
            self._write(note)
        files = [row for plan in note.plans for row in plan.files]
        failures = [row for plan in note.plans for row in plan.failures]
        operations = [row for plan in note.plans for row in plan.operations]
        chunks = range(0, max(len(files), 1), ROWS_PER_COMMIT)
        last = note.sequence + len(chunks) - 1
        self._commit(self._failures, failures, last, note.ingest_date)
        self._commit(self._operations, operations, last, note.ingest_date)
        for number, start in enumerate(chunks):
            rows = files[start : start + ROWS_PER_COMMIT]
            self._commit(self._files, rows, note.sequence + number, note.ingest_date)
        self._note.unlink()

    def _commit(
        self, table: Table, rows: list[dict[str, Any]], sequence: int, ingest_date: date
    ) -> None:
        if rows and self._done(table) < sequence:
            self._engine.append(
                table,
                _table(rows, table.schema),
                progress=Progress(self._app_id, sequence),
                ingest_date=ingest_date,
            )

    def _write(self, note: "_Note") -> None:
        """Writes the note whole or not at all."""
        plain = {
            "ingest_date": note.ingest_date.isoformat(),
            "sequence": note.sequence,
            "folder": _number_of(self._folder),
            "plans": [
                {
                    # not dataclasses.asdict, which copies every row
                    **vars(plan),
                    "entry": {f.name: getattr(plan.entry, f.name) for f in _ENTRY}
                    | {"address": self._within(plan.entry.address)},
                    "moves": [[self._within(str(path)) for path in move] for move in plan.moves],
                }
                for plan in note.plans
            ],
            "moved": note.moved,
        }
        # not orjson: a path may hold bytes that are not UTF-8
        text = json.dumps(plain)
        temporary = temporary_of(self._note)
        temporary.write_text(text)
        put(temporary, self._note)

    def _read(self) -> "_Note":
        """Reads the note back.

        Raises:
            PlainError: It is damaged; files that it was about may have been moved half-way.
        """
        try:
            plain = json.loads(self._note.read_text())
            is_copy = plain["folder"] != _number_of(self._folder)
            plans = [self._plan_of(plan, is_copy=is_copy) for plan in plain["plans"]]
            day = date.fromisoformat(plain["ingest_date"])
            return _Note(day, plain["sequence"], plans, plain["moved"])
        except (ValueError, KeyError, TypeError) as error:
            raise PlainError(
                f"the journal of an interrupted run is damaged: {self._note}. What it was about"
                " lies in the drop folder, in `staging` beside it, or in Process already: look"
                f" there, move {self._folder} away and run again"
            ) from error

    def _plan_of(self, plain: dict[str, Any], *, is_copy: bool) -> Plan:
        address = str(self._path(plain["entry"]["address"]))
        entry = Dropped(**plain["entry"] | {"address": address})
        return Plan(
            _in_copy(entry) if is_copy else entry,
            [(self._path(source), self._path(target)) for source, target in plain["moves"]],
            plain["files"],
            plain["failures"],
            plain["operations"],
        )

    def _within(self, address: str) -> str:
        """Returns where something lies within the lakehouse, or in `staging`."""
        work = f"{self._work}/"
        return address.removeprefix(work).removeprefix(f"{self._engine.layout.root}/")

    def _path(self, within: str) -> Path:
        is_staged = within.startswith(f"{self.staging.name}/")
        return path_of(f"{self._work if is_staged else self._engine.layout.root}/{within}")

    def _last(self) -> int:
        return max(map(self._done, (self._files, self._failures, self._operations)))

    def _done(self, table: Table) -> int:
        return self._engine.progress(table, self._app_id) or 0


@dataclass
class _Note:
    """What is written down: the plans, and whether their files have been moved."""

    ingest_date: date
    sequence: int
    plans: list[Plan]
    moved: bool = False


def _number_of(folder: Path) -> int:
    """Returns what a folder has another of once it was copied: its number on the file system."""
    return 0 if isinstance(folder, FarPath) else folder.stat().st_ino


def _in_copy(entry: Dropped) -> Dropped:
    """Returns an entry as it is in a copy of the lakehouse: another file with the same content."""
    found = look(entry.address)
    is_there = found and (found.size, found.modified_ns) == (entry.size, entry.modified_ns)
    return replace(entry, inode=found.inode) if found and is_there else entry


def _taken(plans: list[Plan]) -> list[Plan]:
    """Takes entries from the drop folder and moves what was planned; returns what it could take.

    An entry goes first: where it may not be taken, nothing else must have happened. One on another
    file system is copied, and goes once all copies are durable.
    """
    for plan in plans:
        _bring(plan)
    sync({own.parent for plan in plans if (own := _copied(plan))})
    taken = [plan for plan in plans if _take(plan)]
    for plan in taken:
        if plan.entry.regular and (own := _own(plan)):
            _make_ours(own)
        for source, target in plan.moves:
            if source != plan.entry.path and os.path.lexists(source):
                transfer(source, target)
    return taken


def _taken_to_store(plans: list[Plan]) -> list[Plan]:
    """Does the same where all lies in an object store; returns what it could take.

    An entry goes last, once all that comes of it is there: staged files lie on this machine alone,
    and another one may have to end what this one began. What it then cannot bring is taken back,
    with all that came of the same entry, which still lies in the drop folder.
    """
    moves = [(plan, *move) for plan in plans for move in plan.moves]
    brought = over_threads(lambda m: _brought(*m), moves, workers=_AT_ONCE, count=len(moves))
    missing = {id(m[0]) for m, is_there in zip(moves, brought, strict=True) if not is_there}
    for plan in plans:
        if id(plan) in missing:
            for _, target in plan.moves:
                target.unlink(missing_ok=True)
    taken = [plan for plan in plans if id(plan) not in missing]
    for _ in over_threads(_remove_from_store, taken, workers=_AT_ONCE, count=len(taken)):
        pass
    return taken


def _brought(plan: Plan, source: Path, target: Path) -> bool:
    """Brings a file to where it goes; says whether it is there, maybe since an earlier try."""
    is_entry = source == plan.entry.path
    if is_same(plan.entry) if is_entry else source.exists():
        try:
            transfer(source, target)
        except FileNotFoundError:
            return False
        if not is_entry:  # it need not lie twice
            source.unlink()
        return True
    return lies(target)


def _remove_from_store(plan: Plan) -> None:
    if is_same(plan.entry):
        plan.entry.path.unlink(missing_ok=True)


def _make_ours(path: Path) -> None:
    """Gives what a sender has written the mode of our files, where that is ours to give."""
    with suppress(PermissionError):
        path.chmod(FILE)


def _own(plan: Plan) -> Path | None:
    """Returns where the entry itself goes; None when it is removed."""
    return next((target for source, target in plan.moves if source == plan.entry.path), None)


def _copied(plan: Plan) -> Path | None:
    """Returns where the entry lies, too: it was copied, now or by a run that was killed."""
    own = _own(plan)
    return own if own and os.path.lexists(own) and is_same(plan.entry) else None


def _bring(plan: Plan) -> None:
    """Moves an entry to where it goes, or copies it."""
    own = _own(plan)
    with _left_where_it_may_not_be_taken(plan.entry):
        # what lies at its place already is a copy, of which a power cut may have taken the data
        if own and is_same(plan.entry):
            transfer(plan.entry.path, own)


def _take(plan: Plan) -> bool:
    """Sees to it that an entry does not lie in the drop folder any more; says whether it could."""
    entry, own = plan.entry.path, _own(plan)
    if own and not os.path.lexists(own):
        return False
    with _left_where_it_may_not_be_taken(plan.entry):
        if is_same(plan.entry):
            entry.unlink()
        return True
    if own:
        own.unlink()
    return False


@contextmanager
def _left_where_it_may_not_be_taken(entry: Dropped) -> Iterator[None]:
    try:
        yield
    except shutil.SpecialFileError:
        return
    except OSError as error:
        # about a folder of ours it is no matter of this entry
        if error.errno not in _NOT_TO_BE_TAKEN or error.filename != entry.address:
            raise


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    plain = pa.schema([_as_written(f) for f in schema])
    return pa.Table.from_pylist(rows, schema=plain).cast(schema)


def _as_written(column: pa.Field) -> pa.Field:
    kind = pa.int64() if pa.types.is_timestamp(column.type) else column.type
    return column.with_type(pa.string() if pa.types.is_date(kind) else kind)


def microseconds(moment: datetime) -> int:
    """Returns a UTC instant as the journal writes it."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
