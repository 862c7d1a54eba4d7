"""Files into a DICOM service, and whether they came out as they went in.

Decided here: which files of some paths are sent (DICOM files of Part 10, loose or in ZIPs), how
many in one request, and when one counts as stored: when the service says so of it. What it says
nothing of is sent again, alone. Compared is the dataset, byte for byte, by its SHA-256; the head
of the file a service may write anew. Not decided here: how requests are sent
(`dicom_assets.dicomweb`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from dicom_assets.dicom import HeaderError, read_header
from dicom_assets.dicom.archives import ArchiveError, Budget, Limits, members
from dicom_assets.dicom.sniff import HEAD_BYTES, Kind, kind_of
from dicom_assets.dicomweb.client import Client, Instance, Stored
from dicom_assets.dicomweb.connection import AT_ONCE, ServiceError
from dicom_assets.dicomweb.multipart import CHUNK
from dicom_assets.dicomweb.part10 import MOST_HEAD_BYTES, Head, dataset_hash, head_of
from dicom_assets.lakehouse.drop_folder import dropped
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.reasons import Reason
from dicom_assets.settings import Settings
from dicom_assets.steps.report import Progress

_BYTES_PER_REQUEST = 64 << 20
_FILES_PER_REQUEST = 200
_NO_PREAMBLE = "a dataset without the head of a file (PS3.10 section 7.1), which no service takes"


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is to be stored or compared.

    Attributes:
        source: What it is called: its path, or `archive.zip!/member`.
        path: Where its bytes lie for now.
        size: Its bytes.
        problem: Why it cannot be stored, if so.
    """

    source: str
    path: Path
    size: int
    problem: str | None = None


@dataclass
class Outcome:
    """What came of files.

    Attributes:
        counts: By what became of them.
        size: Bytes of the good ones.
        problems: Of the others, in order: what each is called, and what is wrong.
    """

    counts: Counter[str] = field(default_factory=Counter)
    size: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)

    def good(self, kind: str, found: Found) -> None:
        """Counts a good one."""
        self.counts[kind] += 1
        self.size += found.size

    def bad(self, kind: str, found: Found, problem: str) -> None:
        """Counts and keeps another one."""
        self.counts[kind] += 1
        self.problems.append((found.source, problem))


def store(client: Client, paths: Sequence[Path], settings: Settings) -> Outcome:
    """Stores all DICOM files of some files and folders.

    Returns:
        Counts `stored`, `stored before` (what the service keeps as it was), `failed`, `no DICOM`.

    Raises:
        ServiceError: The service is out of reach, or lets nobody in.
    """
    outcome = Outcome()
    progress = Progress("store", 0, "files")
    for group in _groups(paths, settings, outcome):
        for batch in _batches(group):
            good = [found for found in batch if found.problem is None]
            for found in batch:
                if found.problem is not None:
                    outcome.bad("failed", found, found.problem)
            if good:
                _store(client, good, outcome)
            progress.advance(len(batch))
    return outcome


def compare(client: Client, paths: Sequence[Path], settings: Settings) -> Outcome:
    """Retrieves what some files hold, and compares dataset with dataset.

    Returns:
        Counts `the same`, `differs`, `not there`, `failed`, `no DICOM`.

    Raises:
        ServiceError: The service is out of reach, or lets nobody in.
    """
    outcome = Outcome()
    progress = Progress("verify", 0, "files")
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for group in _groups(paths, settings, outcome):
            while some := list(islice(group, 16 * AT_ONCE)):
                said = threads.map(lambda found: _compared(client, found, settings), some)
                for found, (kind, problem) in zip(some, said, strict=True):
                    if problem is None:
                        outcome.good(kind, found)
                    else:
                        outcome.bad(kind, found, problem)
                progress.advance(len(some))
    return outcome


def _store(client: Client, batch: Sequence[Found], outcome: Outcome) -> None:
    """Sends some files, and those alone of which the service then says nothing."""
    try:
        said = client.store([(found.path, found.size) for found in batch])
    except ServiceError as error:
        if error.is_of_the_service:
            raise
        if len(batch) == 1:
            outcome.bad("failed", batch[0], str(error))
            return
        said = Stored()  # of which one that is, is not said
    unsaid = []
    for found in batch:
        uid = _sop_instance_uid(found)
        if uid in said.failed:
            outcome.bad("failed", found, said.failed[uid])
        elif uid in said.before:
            outcome.good("stored before", found)
        elif uid in said.stored:
            outcome.good("stored", found)
        else:
            unsaid.append(found)
    if len(batch) == 1 and unsaid:
        outcome.bad("failed", batch[0], "the service does not say that it took it")
        return
    for found in unsaid:
        _store(client, [found], outcome)


def _sop_instance_uid(found: Found) -> str:
    with found.path.open("rb") as file:
        head = head_of(file.read(MOST_HEAD_BYTES))
    return head.sop_instance_uid if head else ""


def _compared(client: Client, found: Found, settings: Settings) -> tuple[str, str | None]:
    """Returns what became of a file, and what is wrong, if something is."""
    if found.problem is not None:
        return "failed", found.problem
    try:
        with found.path.open("rb") as file:
            header = read_header(file, most=settings.max_header_bytes)
            file.seek(0)
            ours = dataset_hash(iter(lambda: file.read(CHUNK), b""))
    except HeaderError as error:
        return "failed", error.message
    uids = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
    instance = Instance(*(header.promoted[name] or "" for name in uids))
    theirs = []
    try:
        client.retrieve(instance, lambda pieces: theirs.append(dataset_hash(pieces)))
    except ServiceError as error:
        if error.is_of_the_service:
            raise
        is_gone = error.status in (404, 410)
        return ("not there", "the service does not have it") if is_gone else ("failed", str(error))
    return _difference(ours, theirs[-1])


def _difference(
    ours: tuple[Head, str] | None, theirs: tuple[Head, str] | None
) -> tuple[str, str | None]:
    if ours is None or theirs is None:
        return "failed", "what the service hands out is no DICOM file"
    if ours[1] == theirs[1]:
        return "the same", None
    before, now = ours[0].transfer_syntax_uid, theirs[0].transfer_syntax_uid
    syntaxes = "" if before == now else f": its transfer syntax was {before} and is {now}"
    return "differs", f"the service has another dataset{syntaxes}"


def _batches(group: Iterator[Found]) -> Iterator[list[Found]]:
    """Gathers files to requests."""
    batch: list[Found] = []
    size = 0
    for found in group:
        if batch and (len(batch) == _FILES_PER_REQUEST or size + found.size > _BYTES_PER_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(found)
        size += found.size
    if batch:
        yield batch


def _groups(
    paths: Sequence[Path], settings: Settings, outcome: Outcome
) -> Iterator[Iterator[Found]]:
    """Yields loose files, then each archive's, which are there only until the next group."""
    archives: list[Path] = []
    yield _loose(paths, archives, outcome)
    limits = Limits(
        max_file_bytes=settings.max_file_bytes,
        max_bytes=settings.archive_max_bytes,
        max_ratio=settings.archive_max_ratio,
        max_depth=settings.archive_max_depth,
        max_members=settings.archive_max_members,
    )
    for archive in archives:
        budget = Budget(archive.stat().st_size, limits)
        with TemporaryDirectory() as scratch:
            yield _inside(archive, str(archive), Path(scratch), budget, outcome, depth=1)


def _loose(paths: Iterable[Path], archives: list[Path], outcome: Outcome) -> Iterator[Found]:
    """Yields loose files, and tells of archives."""
    for given in paths:
        listed = [given]
        if given.is_dir():
            listed = [entry.path for entry in dropped(given) if entry.regular]
        for path in listed:
            kind = _kind(path)
            if kind is Kind.ZIP:
                archives.append(path)
            elif found := _found(f"{path}", path, kind, outcome):
                yield found


def _inside(
    archive: Path, source: str, scratch: Path, budget: Budget, outcome: Outcome, *, depth: int
) -> Iterator[Found]:
    """Yields an archive's files, and those of archives inside it."""
    folder = scratch / f"{depth}-{len(list(scratch.iterdir()))}"
    folder.mkdir()
    unpacked = members(
        archive, into=folder, budget=budget, organised=lambda name: name, own_name=None
    )
    try:
        for member in unpacked:
            name = source if member.name is None else f"{source}!/{member.name}"
            if member.file is None:
                error = member.error or ArchiveError(Reason.MEMBER_DAMAGED)
                outcome.bad("failed", Found(name, archive, 0), error.message)
            elif member.kind is not Kind.ZIP:
                if found := _found(name, member.file, member.kind, outcome):
                    yield found
            elif depth == budget.limits.max_depth:
                error = ArchiveError(Reason.NESTED_TOO_DEEP)
                outcome.bad("failed", Found(name, archive, 0), error.message)
            else:
                yield from _inside(member.file, name, scratch, budget, outcome, depth=depth + 1)
    except ArchiveError as error:
        outcome.bad("failed", Found(source, archive, 0), error.message)


def _found(source: str, path: Path, kind: Kind, outcome: Outcome) -> Found | None:
    """Returns a file that is to be stored; None, and counts it, where it is no instance."""
    if kind not in (Kind.DICOM, Kind.BARE):
        outcome.counts["no DICOM"] += 1
        return None
    problem = _NO_PREAMBLE if kind is Kind.BARE else None
    return Found(source, path, path.stat().st_size, problem)


def _kind(path: Path) -> Kind:
    with path.open("rb") as file:
        return kind_of(file.read(HEAD_BYTES))


def chosen(settings: Settings, name: str | None) -> str:
    """Returns which service is meant: the one named, else the only one.

    Raises:
        PlainError: There is none, or not only one.
    """
    known = sorted(settings.dicom_services)
    if not known:
        raise PlainError(
            "no DICOM service is configured; in dicom_assets.toml: [dicom_services.pacs] and"
            ' address = "https://pacs.example/dicom-web"'
        )
    if name is None and len(known) == 1:
        return known[0]
    if name not in settings.dicom_services:
        raise PlainError(f"name one of the configured services: {', '.join(known)}")
    return name
