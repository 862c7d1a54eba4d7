"""Pulling: what is new in a DICOM service is retrieved, file by file, into External.

Decided here: where pulled files lie, how one gets there whole, and that nothing is done twice: how
far a service's feed has been read is an application transaction of the failures table, committed
once the files of that stretch are durable. A file's modification time is the instant of the change
that brought it, with the change's number in its microseconds, so that a run that goes on from where
a killed one stopped knows what is there already. A deletion becomes a delete operation in the drop
folder, whose id is the deletion's: the file itself stays, for it may be restored. Not decided here:
what a feed tells (`dicom_assets.dicomweb.feeds`), and what is made of the files (`extract`).
"""

import os
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec

from dicom_assets.dicomweb.client import Client, Instance, is_uid
from dicom_assets.dicomweb.connection import AT_ONCE, ServiceError
from dicom_assets.dicomweb.feeds import Change, Feed, feed_of
from dicom_assets.dicomweb.part10 import MOST_HEAD_BYTES, head_of
from dicom_assets.lakehouse.durable import sync
from dicom_assets.lakehouse.engine import Progress
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.keys import hex_key
from dicom_assets.lakehouse.lock import locked
from dicom_assets.lakehouse.operations import Operation, operation
from dicom_assets.lakehouse.reasons import MEANINGS, Reason
from dicom_assets.steps import catalog, report
from dicom_assets.steps.ask import put_operations
from dicom_assets.steps.report import Report, reporting
from dicom_assets.steps.run import Run

STEP: Final = "pull"
_NO_DICOM = "what the service hands out is no DICOM file"
_ANOTHER = "what the service hands out is another instance"
_SERIES_SHARE = 0.5
"""A series is retrieved as a whole when so much of it is new; else one instance after another."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An instance to retrieve."""

    change: Change
    target: Path

    @property
    def mtime_ns(self) -> int | None:
        """Its file's modification time; None where the feed does not say when it came."""
        at = self.change.at_ns
        return None if at is None else at // 10**9 * 10**9 + self.change.sequence % 10**6 * 1000

    def is_there(self) -> bool:
        """Says whether the file lies there as this change brought it."""
        try:
            if isinstance(self.target, FarPath):
                noted = self.target.note()
                return self.mtime_ns is None or noted == f"{self.mtime_ns}"
            there = self.target.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        return self.mtime_ns in (None, there)


@dataclass
class _Stretch:
    """What has come of a stretch of the feed.

    Attributes:
        got: Retrieved files, under the names they have for now.
        gone: Instances that the service does not have any more.
        failures: Instances that it does not hand out.
    """

    got: dict[_Wanted, Path] = field(default_factory=dict)
    gone: int = 0
    failures: list[Failure] = field(default_factory=list)


def pull(run: Run, name: str, *, seconds: float | None = None) -> Report:
    """Retrieves what is new in a service.

    Args:
        run: The failures' partition.
        name: The service's name, which is the namespace of what it holds.
        seconds: After how long to stop, at the end of a stretch; None: when there is nothing more.

    Returns:
        Rows = files retrieved; counts `deleted`, `gone`, `failures`, and `more`: 1 where the feed
        goes on.

    Raises:
        ServiceError: The service is out of reach, or lets nobody in.
    """
    layout = run.engine.layout
    folder, service = layout.external_root / name, run.settings.dicom_services[name]
    end = None if seconds is None else time.monotonic() + seconds
    # the service's folder is what is locked: other steps go on meanwhile
    with (
        Client.of(name, service) as client,
        reporting(STEP, folder) as said,
        _Work(run, name, client, said) as work,
    ):
        said.count({"deleted": 0, "gone": 0, "failures": 0, "more": 0})
        feed = work.feed
        app_id = cursor_of(name, feed, service.address)
        position = run.engine.progress(catalog.INGESTION_FAILURES, app_id) or 0
        for page in feed.pages(position):
            failures = work.take(page.changes)
            if failures or page.position > position:
                # failures are committed, also where the feed cannot be gone on with from here
                position = max(page.position, position + 1 if failures else 0)
                with locked(layout.root):
                    run.record(failures, Progress(app_id, position), even_none=True)
            if end is not None and time.monotonic() > end and page.more:
                said.count({"more": 1})
                break
    return said


def has_news(run: Run, name: str, *, asked_before: float) -> bool:
    """Says whether a service may hold something new.

    Args:
        run: The lakehouse.
        name: The service's name.
        asked_before: Seconds since it was pulled from.

    Raises:
        ServiceError: It cannot be asked.
    """
    service = run.settings.dicom_services[name]
    with Client.of(name, service) as client:
        feed = feed_of(client)
        if asked_before < feed.seconds_between:
            return False
        app_id = cursor_of(name, feed, service.address)
        return feed.has_news(run.engine.progress(catalog.INGESTION_FAILURES, app_id) or 0)


def cursor_of(name: str, feed: Feed, address: str) -> str:
    """Returns the application id of how far a feed was read; another address is another feed."""
    return f"{STEP}/{name}/{feed.kind}/{hex_key(address)[:8]}"


def retry(run: Run, name: str) -> Report:
    """Retrieves what could not be retrieved before, and still is not there."""
    layout, service = run.engine.layout, run.settings.dicom_services[name]
    rows = run.engine.read(
        catalog.INGESTION_FAILURES,
        ["sourcePath"],
        where={"step": [STEP], "sourceSystem": [name], "reasonCode": [f"{Reason.NOT_RETRIEVED}"]},
    )
    paths = {layout.absolute(path) for path in rows["sourcePath"].to_pylist()}
    # what has no UIDs has no name of its own
    missing = sorted(path for path in paths if path.suffix == ".dcm" and not path.exists())
    with (
        Client.of(name, service) as client,
        reporting(STEP, layout.external_root / name) as said,
        _Work(run, name, client, said) as work,
    ):
        work.take(
            Change(Instance(path.parent.parent.name, path.parent.name, path.stem))
            for path in missing
        )
    return said


class _Work:
    """Carries out what a feed tells, a stretch at a time."""

    def __init__(self, run: Run, name: str, client: Client, said: Report) -> None:
        """Clears what a killed run has left half retrieved."""
        self._run, self._layout = run, run.engine.layout
        self._name, self._client, self._said = name, client, said
        self._folder = self._layout.external_root / name
        # beside the tree, so that whoever lists that never sees a half file
        self._scratch = self._layout.external_root.parent.parent / f".pull-{name}"
        if isinstance(self._scratch, FarPath):
            self._scratch = self._layout.scratch / f"pull-{name}"
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        self._threads = ThreadPoolExecutor(AT_ONCE)
        self._progress = report.Progress(STEP, 0, "instances")

    def __enter__(self) -> "_Work":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what is under way, and clears up."""
        self._threads.shutdown(cancel_futures=True)
        shutil.rmtree(self._scratch, ignore_errors=True)

    @cached_property
    def feed(self) -> Feed:
        """What tells what is new; to find out which one it is costs a request."""
        return feed_of(self._client)

    def take(self, changes: Iterable[Change]) -> list[Failure]:
        """Does what changes ask for, durably, and returns what failed."""
        last: dict[Instance, Change] = {change.instance: change for change in changes}
        stretch = _Stretch()
        wanted, deleted = [], []
        for change in last.values():
            instance = change.instance
            if not all(map(is_uid, (instance.study, instance.series, instance.sop))):
                unnamed = self._folder / f"change {change.sequence}"
                stretch.failures.append(self._failure("one of its UIDs is none", unnamed))
                continue
            target = self._folder / instance.study / instance.series / f"{instance.sop}.dcm"
            each = _Wanted(change, target)
            if not change.deleted:
                if not each.is_there():
                    wanted.append(each)
            elif target.exists():  # else it was never taken in
                deleted.append(change)
        self._retrieve(wanted, stretch)
        self._put(stretch.got)
        self._ask_to_delete(deleted)
        self._said.rows += len(stretch.got)
        self._said.count(
            {
                "deleted": len(deleted),
                "gone": stretch.gone,
                "failures": len(stretch.failures),
            }
        )
        return self._new(stretch.failures)

    def _new(self, failures: list[Failure]) -> list[Failure]:
        """Returns the failures that are not told of this date already."""
        if not failures:
            return []
        rows = self._run.engine.read(
            catalog.INGESTION_FAILURES,
            ["sourcePath"],
            ingest_date=self._run.ingest_date,
            where={"step": [STEP], "sourceSystem": [self._name]},
        )
        known = set(rows["sourcePath"].to_pylist())
        return [failure for failure in failures if failure.source_path not in known]

    def _retrieve(self, wanted: list[_Wanted], stretch: _Stretch) -> None:
        """Retrieves series that are new for the most part as a whole, and all else one by one."""
        series: dict[tuple[str, str], list[_Wanted]] = defaultdict(list)
        for each in wanted:
            series[each.change.instance.study, each.change.instance.series].append(each)
        whole = [group for group in series.values() if _is_most_of_its_series(group)]
        for got in self._threads.map(self._retrieve_series, whole):
            stretch.got |= got
            self._progress.advance(len(got))
        rest = [each for each in wanted if each not in stretch.got]
        for each, came in zip(rest, self._threads.map(self._retrieve_one, rest), strict=True):
            self._progress.advance()
            if isinstance(came, Path):
                stretch.got[each] = came
            elif self._is_gone(each.change.instance, came):
                stretch.gone += 1  # it was deleted meanwhile; a feed that tells so will
            else:
                stretch.failures.append(self._failure(f"{came}", each.target))

    def _is_gone(self, instance: Instance, said: ServiceError) -> bool:
        """Says whether the service has an instance no more; where that cannot be told, it has."""
        if said.status not in (404, 410):
            return False
        try:
            return not self.feed.holds(instance)
        except PlainError:  # the instance fails alone, with what was said of it
            return False

    def _retrieve_series(self, group: list[_Wanted]) -> dict[_Wanted, Path]:
        """Retrieves a series; what is missing when it breaks off is retrieved one by one."""
        by_sop = {each.change.instance.sop: each for each in group}
        found: dict[_Wanted, Path] = {}

        def take(pieces: Iterator[bytes]) -> None:
            path = self._written(pieces)
            with path.open("rb") as file:
                head = head_of(file.read(MOST_HEAD_BYTES))
            each = by_sop.get(head.sop_instance_uid) if head else None
            if each is None:
                path.unlink()
            else:
                found[each] = path

        instance = group[0].change.instance
        self._client.try_series(instance.study, instance.series, take)
        return found

    def _retrieve_one(self, each: _Wanted) -> Path | ServiceError:
        paths: list[Path] = []
        try:
            self._client.retrieve(
                each.change.instance, lambda pieces: paths.append(self._written(pieces))
            )
        except ServiceError as error:
            if error.is_of_the_service:
                raise
            return error
        with paths[-1].open("rb") as file:
            head = head_of(file.read(MOST_HEAD_BYTES))
        if head is None:
            return ServiceError(_NO_DICOM, 200)
        # a head need not say it
        if head.sop_instance_uid not in ("", each.change.instance.sop):
            return ServiceError(_ANOTHER, 200)
        return paths[-1]

    def _written(self, pieces: Iterator[bytes]) -> Path:
        path = self._scratch / uuid.uuid4().hex
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)
        return path

    def _put(self, got: dict[_Wanted, Path]) -> None:
        """Gives files their names, once their bytes are durable; then the names are made so."""
        if not got:
            return
        if isinstance(self._folder, FarPath):
            self._upload(got)
            return
        for each, path in got.items():
            self._said.size += path.stat().st_size
            if each.mtime_ns is not None:
                os.utime(path, ns=(each.mtime_ns, each.mtime_ns))
        sync([self._scratch])
        for folder in {each.target.parent for each in got}:
            folder.mkdir(parents=True, exist_ok=True)
        for each, path in got.items():
            path.replace(each.target)
        sync([self._folder])

    def _upload(self, got: dict[_Wanted, Path]) -> None:
        """Puts files as objects, with their modification time in a note."""

        def upload(each: _Wanted) -> None:
            assert isinstance(each.target, FarPath)  # noqa: S101 as the folder is
            note = None if each.mtime_ns is None else f"{each.mtime_ns}"
            each.target.upload(got[each], note=note)

        self._said.size += sum(path.stat().st_size for path in got.values())
        for _ in self._threads.map(upload, got):
            pass

    def _ask_to_delete(self, deleted: list[Change]) -> None:
        """Drops a file of operations; the same deletions again are the same operations."""
        if not deleted:
            return
        asked = [self._operation(change) for change in deleted]
        target = self._layout.operations_drop(self._name) / f"{deleted[0].sequence:020}_pull.json"
        path = self._scratch / uuid.uuid4().hex
        path.write_bytes(msgspec.json.encode(asked))
        if isinstance(target, FarPath):
            target.upload(path)
            return
        put_operations(self._layout, path, target)

    def _operation(self, change: Change) -> Operation:
        instance = change.instance
        return operation(
            operation="delete",
            studyInstanceUid=instance.study,
            seriesInstanceUid=instance.series,
            sopInstanceUid=instance.sop,
            requestedBy=self._name,
            reason="deleted in the DICOM service",
            id=f"{STEP}/{change.sequence}",
        )

    def _failure(self, message: str, target: Path) -> Failure:
        path = self._layout.relative(target)
        return Failure(
            STEP,
            Reason.NOT_RETRIEVED,
            f"{MEANINGS[Reason.NOT_RETRIEVED]}: {message}",
            self._name,
            path,
        )


def _is_most_of_its_series(group: list[_Wanted]) -> bool:
    size = group[0].change.series_size
    return size is not None and len(group) > 1 and len(group) >= _SERIES_SHARE * size
