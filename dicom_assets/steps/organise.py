"""Step 1 and 2, organise: the drop folder becomes `process files` yyyy/mm/dd.

Decided here: what becomes of each dropped file. DICOM files, loose or out of ZIPs at any depth, go
to Process under a name of their own, deflated members already in the ZIP of their own (where sites
want one); everything else goes to Failed with a reason; the drop folder ends empty. An archive of
which any member could not be read goes to Failed as it came, so that no byte is lost. Not decided
here: whether a DICOM file's content is good (`extract`).

Operations are taken in before everything else: they are about what came earlier, not about what was
dropped with them. What one may say is decided in `lakehouse.operations`.
"""

import os
import shutil
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final

from dicom_assets.dicom import HeaderError, read_header
from dicom_assets.dicom.archives import ArchiveError, Budget, Limits, Member, members
from dicom_assets.dicom.sniff import HEAD_BYTES, Kind, kind_of, what_it_looks_like
from dicom_assets.lakehouse import manifest, operations
from dicom_assets.lakehouse.allocator import keep_memory
from dicom_assets.lakehouse.drop_folder import Dropped, remove_empty_folders, stable_parts
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.journal import ROWS_PER_COMMIT, STAGED_PER_COMMIT, Journal, Plan
from dicom_assets.lakehouse.layout import (
    OPERATIONS_FOLDER,
    dicom_name,
    organised_name,
    zip_name,
)
from dicom_assets.lakehouse.opening import open_regular
from dicom_assets.lakehouse.paths import names_in, path_of
from dicom_assets.lakehouse.reasons import MEANINGS, Reason
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog, extract
from dicom_assets.steps.new_operations import NewOperations
from dicom_assets.steps.report import Progress, Report, reporting
from dicom_assets.steps.run import Run
from dicom_assets.steps.sources import Source

STEP: Final = "organise"
_MAX_MANIFEST_BYTES = 1 << 20
_MISPLACED = (
    f"operations in a place where none are taken: put them into {OPERATIONS_FOLDER} of the drop"
    f" folder, or into {OPERATIONS_FOLDER} of a known namespace's folder there, not into an archive"
)
_OBJECTS_AHEAD = 16
"""Objects whose beginnings are fetched before their turn."""
_SMALL_ARCHIVE = 8 << 20
"""Bytes of archives that are unpacked several at once; larger ones have members enough."""


def organise(run: Run) -> Report:
    """Works through the drop folder; the run's partition takes what is there.

    Returns:
        Rows = DICOM files organised; counts `failures`, `archives`, `still_changing`, and, where
        there are any, `operations` taken in, `operations_known` already, and `not_taken`: files
        that may not be read or taken away, or have gone.
    """
    layout, settings = run.engine.layout, run.settings
    keep_memory()
    journal = journal_of(run.engine)
    threads = ThreadPoolExecutor(settings.workers)
    with _begun(run) as report, journal.open(), threads:
        layout.drop_folder.mkdir(parents=True, exist_ok=True)
        report.count({"failures": 0, "archives": 0, "still_changing": 0})
        progress, emptied = Progress(STEP, 0, "dropped files"), set[str]()
        turn = _Turn(run, journal, threads)
        parts = stable_parts(
            layout.drop_folder,
            settle_seconds=settings.settle_seconds,
            is_first=turn.is_of_operations,
            scratch=layout.scratch,
        )
        for entries, changing in parts:
            report.count({"still_changing": changing})
            extract.expect(run, files=len(entries), size=sum(entry.size for entry in entries))
            progress.expect(len(entries))
            emptied |= {entry.folder for entry in entries}
            for entry in turn.ahead_of(entries):
                try:
                    turn.take(entry)
                except (PermissionError, FileNotFoundError) as error:
                    if error.filename != entry.address:
                        raise
                    # not ours to read, or gone meanwhile: it stays for a later run
                    report.count({"not_taken": 1})
                progress.advance()
                if turn.is_full():
                    turn.finish(report)
        turn.finish(report)
        remove_empty_folders(
            layout.drop_folder,
            emptied=set(map(path_of, emptied)),
            kept=_folders_that_stay(run),
            settle_seconds=settings.settle_seconds,
        )
    return report


def journal_of(engine: LocalEngine) -> Journal:
    """Returns the journal that a killed run's moves, if any, stand in."""
    return Journal(
        engine,
        app_id=STEP,
        folder=engine.layout.organise_folder,
        files=catalog.PROCESS_FILES,
        failures=catalog.INGESTION_FAILURES,
        operations=catalog.OPERATIONS,
    )


def limits_of(settings: Settings) -> Limits:
    """Returns what archives may do, as the site has set it."""
    return Limits(
        max_file_bytes=settings.max_file_bytes,
        max_bytes=settings.archive_max_bytes,
        max_ratio=settings.archive_max_ratio,
        max_depth=settings.archive_max_depth,
        max_members=settings.archive_max_members,
    )


@contextmanager
def _begun(run: Run) -> Iterator[Report]:
    with reporting(STEP, run.engine.layout.root) as report:
        run.check_choices()  # before anything is moved
        yield report


def _folders_that_stay(run: Run) -> set[Path]:
    """Returns drop folders of namespaces and of operations: senders count on those."""
    layout = run.engine.layout
    if isinstance(layout.drop_folder, FarPath):  # there are no empty folders
        return set()
    with os.scandir(layout.drop_folder) as entries:
        named = {entry.name for entry in entries if run.settings.is_namespace(entry.name)}
    corrected = {"", *named, *layout.source_systems()}
    return {layout.drop_folder / name for name in named} | {
        layout.drop_folder / name / OPERATIONS_FOLDER for name in corrected
    }


@dataclass(frozen=True, slots=True)
class _Found:
    """A file as it was found: of a member carried over into the ZIP of its own, with its hash."""

    path: Path
    size: int
    kind: Kind
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class _Begun:
    """An archive that is being unpacked before its turn."""

    name: str
    budget: Budget
    folder: Path
    members: Future[list[Member]]


class _Turn:
    """Decides about dropped files, a batch at a time, and has the journal carry it out."""

    def __init__(self, run: Run, journal: Journal, threads: ThreadPoolExecutor) -> None:
        self._threads, self._begun = threads, dict[str, _Begun]()
        self._lookers = ThreadPoolExecutor(_OBJECTS_AHEAD)  # starts none before it is needed
        self._looks: dict[str, Future[_Found]] = {}
        self._layout, self._settings, self._journal = run.engine.layout, run.settings, journal
        self._operations = NewOperations(run.engine)
        self._day, self._run_id = run.ingest_date, run.id
        self._limits = limits_of(run.settings)
        # each turn is later than the one before, on whatever day it ran
        self._organised_at = journal.instant()
        # prefixes never repeat within a run; names of earlier runs are looked up on disk
        self._prefixes = count(self._organised_at // 1000)
        self._folders: dict[str, tuple[Path, Path]] = {}
        self._names: dict[Path, set[str]] = {}
        self._plans: list[Plan] = []
        self._staged: list[Path] = []
        self._planned = self._unpacked = 0
        self._archives: set[str] = set()

    def is_of_operations(self, entry: Dropped) -> bool:
        """Says whether an entry holds operations, by its place and name."""
        if not entry.address.lower().endswith(".json"):
            return False
        source = self._source_of(entry)
        return operations.holds_operations(source.path, source.system)

    def ahead_of(self, entries: Sequence[Dropped]) -> Iterator[Dropped]:
        """Yields the entries, while a few small archives that come next are unpacked already.

        What becomes of them is decided when it is their turn.
        """
        ahead = 2 * self._settings.workers if self._settings.workers > 1 else 0
        is_far = isinstance(self._layout.root, FarPath)
        for number, entry in enumerate(entries, start=1):
            for after in entries[number - 1 : number + _OBJECTS_AHEAD] if is_far else ():
                if after.address not in self._looks:
                    self._looks[after.address] = self._lookers.submit(self._look, after)
            for after in entries[number : number + ahead]:
                is_archive = after.regular and after.address.lower().endswith(".zip")
                if is_archive and after.size < _SMALL_ARCHIVE and after.address not in self._begun:
                    self._begun[after.address] = self._begin(after)
            yield entry
            if unused := self._begun.pop(entry.address, None):  # it is no ZIP, or not to be taken
                wait([unused.members])
                shutil.rmtree(unused.folder)
            self._looks.pop(entry.address, None)

    def _begin(self, entry: Dropped) -> _Begun:
        source, budget = self._source_of(entry), Budget(entry.size, self._limits)
        name, folder = self._name(source), self._journal.new_folder()
        unpacked = self._threads.submit(self._unpack_alone, entry.path, source, budget, folder)
        return _Begun(name, budget, folder, unpacked)

    def is_full(self) -> bool:
        """Says whether it is time to finish what has been decided."""
        return self._planned >= ROWS_PER_COMMIT or self._unpacked >= STAGED_PER_COMMIT

    def finish(self, report: Report) -> None:
        """Has everything that was decided carried out."""
        done = self._journal.carry_out(
            self._plans,
            staged=self._staged,
            ingest_date=self._day,
            instant=self._organised_at,
        )
        for plan in done:
            report.rows += len(plan.files)
            report.size += sum(row["fileSize"] for row in plan.files)
            archives = int(plan.entry.address in self._archives)
            report.count({"failures": len(plan.failures), "archives": archives})
            if plan.operations:
                report.count({"operations": len(plan.operations)})
        if known := self._operations.known():
            report.count({"operations_known": known})
        if len(done) < len(self._plans):
            report.count({"not_taken": len(self._plans) - len(done)})
        self._plans, self._staged = [], []
        self._planned = self._unpacked = 0
        self._organised_at = self._journal.instant()

    def take(self, entry: Dropped) -> None:
        """Decides about one dropped file."""
        source, plan, path = self._source_of(entry), Plan(entry), entry.path
        looked = self._looks.get(entry.address)  # of objects, while others were
        found = (looked.result() if looked else self._look(entry)) if entry.regular else None
        if found is None:
            self._fail(plan, path, source, self._name(source), Reason.NOT_A_FILE)
        elif found.kind is Kind.ZIP:
            plan = self._take_dropped_archive(entry, source)
        else:
            self._take_file(plan, found, source, self._name(source))
        self._plans.append(plan)
        self._planned += 1 + len(plan.files) + len(plan.failures) + len(plan.operations)

    def _open(self, path: Path) -> BinaryIO:
        """Opens a dropped or a staged file; follows no link that a dropper may have put there."""
        return open_regular(path, within=self._within(path))

    def _within(self, path: Path) -> Path | None:
        """Returns the folder below which no link is followed to a file; None for a staged one."""
        drop_folder = self._layout.drop_folder
        return drop_folder if path.is_relative_to(drop_folder) else None

    def _look(self, entry: Dropped) -> _Found:
        with self._open(entry.path) as stream:
            return _Found(entry.path, entry.size, kind_of(stream.read(HEAD_BYTES)))

    def _take_file(self, plan: Plan, found: _Found, source: Source, name: str) -> None:
        """Plans the move of one file to Process or, with a reason, to Failed."""
        if found.kind is not Kind.DICOM:  # which may have any name
            if source.name == manifest.NAME:
                self._take_manifest(plan, found, source, name)
                return
            if operations.holds_operations(source.path, source.system):
                self._take_operations(plan, found, source, name)
                return
        problem = self._problem(found, is_json=source.path.lower().endswith(".json"))
        if problem:
            reason, message = problem
            self._fail(plan, found.path, source, name, reason, message)
            return
        if found.sha256:
            name = zip_name(name)
        elif name.lower().endswith(".zip"):  # it is not to be taken for the ZIP of its own
            name = dicom_name(name)
        target = self._process_and_failed(source.system)[0] / name
        plan.moves.append((found.path, target))
        plan.files.append(
            {
                "ingestDate": self._day.isoformat(),
                "sourceSystem": source.system,
                "filePath": self._layout.relative(target),
                "sourcePath": source.path,
                "fileSize": found.size,
                "contentHash": found.sha256,
                "sourceModifiedAt": source.modified_ns // 1000,
                "organisedAt": self._organised_at,
            }
        )

    def _take_manifest(self, plan: Plan, found: _Found, source: Source, name: str) -> None:
        """Puts a delivery's manifest aside for the checks, when it declares counts."""
        try:
            if found.size > _MAX_MANIFEST_BYTES:
                raise ValueError("no manifest is that long")
            with self._open(found.path) as stream:
                content = manifest.kept(stream.read(), folder=source.folder)
        except ValueError as error:
            self._fail(plan, found.path, source, name, Reason.INVALID_JSON, str(error))
        else:
            staged = found.path  # of a member it is ours
            if self._within(staged):
                self._staged.append(self._journal.new_folder())
                staged = self._staged[-1] / manifest.NAME
            staged.write_bytes(content)
            folder = self._layout.manifest_folder(self._day)
            plan.moves.append((staged, folder / self._free([folder], manifest.NAME)))

    def _take_operations(self, plan: Plan, found: _Found, source: Source, name: str) -> None:
        """Takes in the operations of a file that are not known yet, and puts the file aside."""
        try:
            if found.size > operations.MAX_BYTES:
                raise operations.OperationError(f"longer than {operations.MAX_BYTES} bytes")
            with self._open(found.path) as stream:
                asked = operations.parse(stream.read())
            new = self._operations.of(
                asked,
                source_system=source.system,
                source_path=source.path,
                modified_us=source.modified_ns // 1000,
            )
        except operations.OperationError as error:
            self._fail(plan, found.path, source, name, Reason.INVALID_OPERATION, str(error))
            return
        for row in new:
            when = {"ingestDate": self._day.isoformat(), "takenAt": self._organised_at}
            plan.operations.append(row | when)
            # each has an instant of its own, which says their order, before that of the files
            self._organised_at += 1
        folder = self._layout.operations_folder(source.system, self._day)
        plan.moves.append((found.path, folder / self._free([folder], source.path)))

    def _take_dropped_archive(self, entry: Dropped, source: Source) -> Plan:
        """Unpacks a dropped archive; a bomb fails as one, whatever was found in it before."""
        self._archives.add(entry.address)
        begun = self._begun.pop(entry.address, None)
        plan, name = Plan(entry), begun.name if begun else self._name(source)
        budget = begun.budget if begun else Budget(entry.size, self._limits)
        folder = begun.folder if begun else self._journal.new_folder()
        self._staged.append(folder)
        try:
            unpacking = (
                nullcontext(begun.members.result())
                if begun
                else closing(self._unpack(entry.path, source, budget, folder))
            )
            with unpacking as unpacked:  # when it is left nothing is written any more
                self._take_archive(plan, entry.path, source, name, budget, unpacked, depth=1)
            self._unpacked += budget.spent
        except ArchiveError as error:
            # at once: there may be many, and each may have expanded to a GiB
            self._staged.remove(folder)
            shutil.rmtree(folder)
            plan = Plan(entry)
            self._fail(plan, entry.path, source, name, error.reason, error.message)
        return plan

    def _unpack(
        self,
        archive: Path,
        source: Source,
        budget: Budget,
        folder: Path,
        workers: int | None = None,
    ) -> Generator[Member]:
        """Unpacks an archive into a staging folder of its own."""
        is_far = isinstance(archive, FarPath)  # read here and there
        fetched = folder / "fetched"
        try:
            yield from members(
                archive.download(fetched) if is_far else archive,
                into=folder,
                budget=budget,
                organised=lambda inner: self._name(source.inside(inner)),
                own_name=dicom_name if self._settings.compress else None,
                workers=workers or self._settings.workers,
                within=None if is_far else self._within(archive),
            )
        finally:
            if is_far:
                fetched.unlink(missing_ok=True)

    def _unpack_alone(
        self, archive: Path, source: Source, budget: Budget, folder: Path
    ) -> list[Member]:
        """Unpacks an archive while others are unpacked beside it."""
        return list(self._unpack(archive, source, budget, folder, workers=1))

    def _take_archive(
        self,
        plan: Plan,
        archive: Path,
        source: Source,
        name: str,
        budget: Budget,
        unpacked: Iterable[Member],
        *,
        depth: int,
    ) -> None:
        """Plans what becomes of an archive's members, and of archives inside it.

        When not every member found a place, the archive itself goes to Failed, and the failures of
        its members name it.

        Raises:
            ArchiveError: The archive is a bomb.
        """
        unread: list[tuple[Source, ArchiveError]] = []
        empty = True
        try:
            for member in unpacked:
                empty = False
                inside = source if member.name is None else source.inside(member.name)
                if member.error or member.file is None:
                    unread.append((inside, member.error or ArchiveError(Reason.MEMBER_DAMAGED)))
                elif member.kind is not Kind.ZIP:
                    found = _Found(member.file, member.size, member.kind, member.sha256)
                    self._take_file(plan, found, inside, member.organised)
                elif depth == self._limits.max_depth:
                    reason = Reason.NESTED_TOO_DEEP
                    self._fail(plan, member.file, inside, member.organised, reason)
                else:
                    folder = member.file.with_name(f"{member.file.name}-")
                    folder.mkdir()
                    with closing(self._unpack(member.file, inside, budget, folder)) as inner:
                        self._take_archive(
                            plan,
                            member.file,
                            inside,
                            member.organised,
                            budget,
                            inner,
                            depth=depth + 1,
                        )
        except ArchiveError as error:
            if error.reason is Reason.ARCHIVE_BOMB:
                raise
            unread.append((source, error))
        if empty and not unread:
            unread.append((source, ArchiveError(Reason.ARCHIVE_EMPTY)))
        if unread:
            kept = self._keep(plan, archive, source, name)
            for member_source, error in unread:
                self._record(plan, member_source, error.reason, error.message, kept)
        elif depth > 1:  # all that was in it lies beside it
            archive.unlink()

    def _problem(self, found: _Found, *, is_json: bool) -> tuple[Reason, str] | None:
        """Says why a file is not a DICOM file to be taken; None when it is one."""
        if found.size > self._settings.max_file_bytes:
            return Reason.TOO_LARGE, MEANINGS[Reason.TOO_LARGE]
        if found.kind is Kind.DICOM:
            return None
        if found.kind is Kind.DICOMDIR:
            return Reason.DICOMDIR, MEANINGS[Reason.DICOMDIR]
        with self._open(found.path) as stream:
            if found.kind is not Kind.BARE:
                head = stream.read(HEAD_BYTES)
                is_asked = is_json and operations.are_in(head + stream.read(operations.MAX_BYTES))
                why = f"not a DICOM file: {what_it_looks_like(head)}"
                return Reason.NOT_DICOM, _MISPLACED if is_asked else why
            try:
                read_header(stream, most=self._settings.max_header_bytes)
            except HeaderError as error:
                return error.reason, error.message
        return None

    def _fail(
        self,
        plan: Plan,
        path: Path,
        source: Source,
        name: str,
        reason: Reason,
        message: str | None = None,
    ) -> None:
        kept = self._keep(plan, path, source, name)
        self._record(plan, source, reason, message or MEANINGS[reason], kept)

    def _keep(self, plan: Plan, path: Path, source: Source, name: str) -> Path:
        """Plans a file's move to Failed and returns where it will lie."""
        target = self._process_and_failed(source.system)[1] / name
        plan.moves.append((path, target))
        return target

    def _record(self, plan: Plan, source: Source, reason: Reason, message: str, kept: Path) -> None:
        row = source.failure(
            STEP,
            reason,
            message,
            failed_path=self._layout.relative(kept),
            day=self._day,
            run_id=self._run_id,
        )
        plan.failures.append(row)

    def _name(self, source: Source) -> str:
        """Returns a name of its own, under which nothing lies in Process or Failed."""
        return self._free(self._process_and_failed(source.system), source.path)

    def _process_and_failed(self, system: str) -> tuple[Path, Path]:
        if system not in self._folders:
            layout, day = self._layout, self._day
            folders = layout.process_folder(system, day), layout.failed_folder(system, day)
            self._folders[system] = folders
        return self._folders[system]

    def _free(self, folders: Collection[Path], original: str) -> str:
        """Returns a name under which nothing lies, nor will when the file is compressed."""
        for prefix in self._prefixes:
            name = organised_name(prefix, original)
            names = {name, dicom_name(name), zip_name(name)}
            if not any(self._is_taken(each, n) for each in folders for n in names):
                return name
        raise AssertionError("count() does not end")

    def _is_taken(self, folder: Path, name: str) -> bool:
        if not isinstance(folder, FarPath):
            return os.path.lexists(f"{folder}/{name}")
        if folder not in self._names:  # prefixes do not repeat: what this run puts there is new
            self._names[folder] = set(names_in(folder))
        return name in self._names[folder]

    def _source_of(self, entry: Dropped) -> Source:
        source = Source.of(entry, self._layout.drop_folder, self._settings.is_namespace)
        first = source.path.partition("/")[0]
        is_asked_of = first != source.system and operations.holds_operations(source.path, first)
        if is_asked_of and first in self._systems:
            return replace(source, system=first)  # also where the setting names it no more
        return source

    @cached_property
    def _systems(self) -> set[str]:
        """Namespaces that the lakehouse holds something of."""
        return self._layout.source_systems()
