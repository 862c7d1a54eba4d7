"""Step 1 and 2, organise: the drop folder becomes `process files` yyyy/mm/dd.

Decided here: what becomes of each dropped file. DICOM files, loose or out of ZIPs at any depth, go
to Process under a name of their own; everything else goes to Failed with a reason; the drop folder
ends empty. An archive of which any member could not be read goes to Failed as it came, so that no
byte is lost. Not decided here: whether a DICOM file's content is good (`extract`).
"""

import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from dicom_assets.dicom import HeaderError, read_header
from dicom_assets.dicom.archives import ArchiveError, Budget, Limits, members
from dicom_assets.dicom.sniff import HEAD_BYTES, Kind, kind_of, what_it_looks_like
from dicom_assets.lakehouse.drop_folder import Dropped, stable
from dicom_assets.lakehouse.journal import ROWS_PER_COMMIT, Batch, Journal, microseconds
from dicom_assets.lakehouse.layout import (
    DEFAULT_SOURCE_SYSTEM,
    MANIFEST_NAME,
    organised_name,
    printable,
    zip_name,
)
from dicom_assets.lakehouse.reasons import MEANINGS, Reason
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog
from dicom_assets.steps.report import Progress, Report, now, reporting
from dicom_assets.steps.run import Run

STEP = "organise"


def organise(run: Run) -> Report:
    """Works through the drop folder; the run's partition takes what is there.

    Returns:
        Rows = DICOM files organised; counts `failures`, `archives`, `still_changing`, and, where
        there are any, `left_unreadable`: files that may not be read or have gone.
    """
    layout, settings = run.engine.layout, run.settings
    journal = Journal(run.engine, files=catalog.PROCESS_FILES, failures=catalog.INGESTION_FAILURES)
    with reporting(STEP, run.engine.layout.root) as report, journal.open():
        entries, changing = stable(layout.drop_folder, settle_seconds=settings.settle_seconds)
        report.count({"failures": 0, "archives": 0, "still_changing": changing})
        progress = Progress(STEP, len(entries), "dropped files")
        turn = _Turn(run, journal)
        for entry in entries:
            try:
                turn.take(entry)
            except (PermissionError, FileNotFoundError):
                # not ours to read, or gone meanwhile: it stays for a later run
                report.count({"left_unreadable": 1})
            progress.advance()
            if turn.is_full():
                turn.finish(report)
        turn.finish(report)
        _remove_empty_folders(layout.drop_folder, settings)
    return report


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a file came from: what its row says of it."""

    path: str
    system: str
    modified_ns: int

    def inside(self, member: str) -> "_Source":
        return _Source(f"{self.path}!/{printable(member)}", self.system, self.modified_ns)


class _Turn:
    """Decides about dropped files, a batch at a time, and has the journal carry it out."""

    def __init__(self, run: Run, journal: Journal) -> None:
        self._layout, self._settings, self._journal = run.engine.layout, run.settings, journal
        self._day, self._run_id = run.ingest_date, run.id
        settings = run.settings
        self._limits = Limits(
            settings.max_file_bytes, settings.archive_max_ratio, settings.archive_max_depth
        )
        # prefixes never repeat within a run; names of earlier runs are looked up on disk
        self._prefixes = count(time.time_ns() // 1_000_000)
        self._staged = count()
        self._same_device = self._layout.process_root.stat().st_dev
        self._batch = Batch(run.ingest_date)
        self._archives = 0
        self._size = 0

    def is_full(self) -> bool:
        return len(self._batch.moves) >= ROWS_PER_COMMIT

    def finish(self, report: Report) -> None:
        batch = self._batch
        self._journal.carry_out(batch)
        report.rows += len(batch.files)
        report.size += self._size
        report.count({"failures": len(batch.failures), "archives": self._archives})
        self._batch, self._archives, self._size = Batch(self._day), 0, 0

    def take(self, entry: Dropped) -> None:
        """Decides about one dropped file."""
        source = self._source_of(entry)
        if not entry.regular:
            self._fail(entry.path, source, Reason.NOT_A_FILE)
        elif entry.path.name == MANIFEST_NAME:
            self._take_manifest(entry.path, source)
        elif self._kind(entry.path) is Kind.ZIP:
            self._take_dropped_archive(entry, source)
        else:
            path = entry.path
            if path.stat().st_dev != self._same_device:
                path = Path(shutil.copy2(path, self._staging_path()))
                self._batch.remove.append(entry)
            self._take_file(path, source)

    def _take_manifest(self, path: Path, source: _Source) -> None:
        """Puts a delivery's manifest aside for the checks, when it declares counts."""
        try:
            expected = json.loads(path.read_bytes())["expected"]
            declares = all(isinstance(count, int) for count in expected.values())
        except (ValueError, KeyError, TypeError, AttributeError):
            declares = False
        if declares:
            folder = self._layout.manifest_folder(self._day)
            self._batch.moves.append((path, self._free(folder, path)))
        else:
            self._fail(path, source, Reason.INVALID_JSON, "a manifest declares counts by table")

    def _take_file(self, path: Path, source: _Source) -> None:
        """Plans the move of one file to Process or, with a reason, to Failed."""
        problem = self._problem(path)
        if problem:
            reason, message = problem
            self._fail(path, source, reason, message)
            return
        target = self._free(self._layout.process_folder(source.system, self._day), path, source)
        size = path.stat().st_size
        self._size += size
        self._batch.moves.append((path, target))
        self._batch.files.append(
            {
                "ingestDate": self._day.isoformat(),
                "sourceSystem": source.system,
                "filePath": self._layout.relative(target),
                "sourcePath": source.path,
                "fileSize": size,
                "sourceModifiedAt": source.modified_ns // 1000,
                "organisedAt": microseconds(now()),
            }
        )

    def _take_dropped_archive(self, entry: Dropped, source: _Source) -> None:
        """Unpacks a dropped archive; a bomb fails as one, whatever was found in it before."""
        self._archives += 1
        before = self._batch.sizes()
        budget = Budget(entry.size, self._limits)
        try:
            emptied = self._take_archive(entry.path, source, budget, depth=1)
        except ArchiveError as error:
            self._batch.cut_back(before)
            self._fail(entry.path, source, error.reason, error.message)
        else:
            if emptied:
                self._batch.remove.append(entry)

    def _take_archive(self, archive: Path, source: _Source, budget: Budget, *, depth: int) -> bool:
        """Plans what becomes of an archive's members, and of archives inside it.

        Returns:
            Whether every member found a place. Otherwise the archive itself goes to Failed, and
            the failures of its members name it.

        Raises:
            ArchiveError: The archive is a bomb.
        """
        folder = self._staging_path()
        folder.mkdir()
        unread: list[tuple[_Source, ArchiveError]] = []
        empty = True
        try:
            for member in members(archive, into=folder, budget=budget):
                empty = False
                inside = source.inside(member.name)
                if member.error or member.file is None:
                    unread.append((inside, member.error or ArchiveError(Reason.MEMBER_DAMAGED)))
                elif self._kind(member.file) is not Kind.ZIP:
                    self._take_file(member.file, inside)
                elif depth == self._limits.max_depth:
                    self._fail(member.file, inside, Reason.NESTED_TOO_DEEP)
                else:
                    self._take_archive(member.file, inside, budget, depth=depth + 1)
        except ArchiveError as error:
            if error.reason is Reason.ARCHIVE_BOMB:
                raise
            unread.append((source, error))
        if empty and not unread:
            unread.append((source, ArchiveError(Reason.ARCHIVE_EMPTY)))
        if unread:
            kept = self._keep(archive, source)
            for member_source, error in unread:
                self._record(member_source, error.reason, error.message, kept)
        return not unread

    def _problem(self, path: Path) -> tuple[Reason, str] | None:
        """Says why a file is not a DICOM file to be taken; None when it is one."""
        size = path.stat().st_size
        if size > self._settings.max_file_bytes:
            return Reason.TOO_LARGE, MEANINGS[Reason.TOO_LARGE]
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
            kind = kind_of(head)
            if kind is Kind.DICOM:
                return None
            if kind is Kind.DICOMDIR:
                return Reason.DICOMDIR, MEANINGS[Reason.DICOMDIR]
            if kind is not Kind.BARE:
                return Reason.NOT_DICOM, f"not a DICOM file: {what_it_looks_like(head)}"
            stream.seek(0)
            try:
                read_header(stream)
            except HeaderError as error:
                return error.reason, error.message
        return None

    def _fail(
        self, path: Path, source: _Source, reason: Reason, message: str | None = None
    ) -> None:
        self._record(source, reason, message or MEANINGS[reason], self._keep(path, source))

    def _keep(self, path: Path, source: _Source) -> Path:
        """Plans a file's move to Failed and returns where it will lie."""
        folder = self._layout.failed_folder(source.system, self._day)
        target = self._free(folder, path, source)
        self._batch.moves.append((path, target))
        return target

    def _record(self, source: _Source, reason: Reason, message: str, kept: Path) -> None:
        self._batch.failures.append(
            {
                "ingestDate": self._day.isoformat(),
                "sourceSystem": source.system,
                "step": STEP,
                "reasonCode": str(reason),
                "message": message,
                "sourcePath": source.path,
                "failedPath": self._layout.relative(kept),
                "failedAt": microseconds(now()),
                "runId": self._run_id,
            }
        )

    def _free(self, folder: Path, path: Path, source: _Source | None = None) -> Path:
        """Returns a name under which nothing lies, nor will when the file is compressed."""
        original = source.path if source else path.name
        for prefix in self._prefixes:
            name = organised_name(prefix, original)
            # also where extract may move it to, so that nothing there is replaced
            folders = {folder}
            if source:
                folders |= {
                    self._layout.process_folder(source.system, self._day),
                    self._layout.failed_folder(source.system, self._day),
                }
            names = (name, zip_name(name))
            if not any(os.path.lexists(each / n) for each in folders for n in names):
                return folder / name
        raise AssertionError("count() does not end")

    def _kind(self, path: Path) -> Kind:
        with path.open("rb") as stream:
            return kind_of(stream.read(HEAD_BYTES))

    def _staging_path(self) -> Path:
        return self._journal.staging / f"{next(self._staged)}"

    def _source_of(self, entry: Dropped) -> _Source:
        inside = entry.path.relative_to(self._layout.drop_folder)
        first = printable(inside.parts[0])
        named = len(inside.parts) > 1 and self._settings.is_namespace(first)
        system = first if named else DEFAULT_SOURCE_SYSTEM
        return _Source(printable(inside.as_posix()), system, entry.modified_ns)


def _remove_empty_folders(drop_folder: Path, settings: Settings) -> None:
    """Removes emptied folders of the drop folder, but for namespaces: senders count on those."""
    for folder, _, _ in os.walk(drop_folder, topdown=False):
        path = Path(folder)
        is_namespace = path.parent == drop_folder and settings.is_namespace(path.name)
        if path != drop_folder and not is_namespace:
            with contextlib.suppress(OSError):  # not empty: something is still being written there
                path.rmdir()
