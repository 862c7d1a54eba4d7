"""ZIP archives that were dropped: their members, streamed out.

Decided here: what makes an archive or a member bad, and in which form a member is written: DICOM
that is deflated keeps its deflate stream, in a ZIP of its own, so that nothing is inflated and
deflated again but for the look at its checksum. Not decided here: where members go
(`dicom_assets.steps.organise`), what a ZIP of its own looks like (`own_zip`). Nothing here holds a
whole member in memory.
"""

import errno
import hashlib
import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from isal import isal_zlib

from dicom_assets.dicom.expand import CHUNK, METHODS, expander
from dicom_assets.dicom.own_zip import DEFLATED, Entry, is_large
from dicom_assets.dicom.sniff import HEAD_BYTES, Kind, kind_of
from dicom_assets.lakehouse.opening import open_regular
from dicom_assets.lakehouse.pool import over_threads
from dicom_assets.lakehouse.reasons import MEANINGS, Reason

FREE_EXPANSION = 1 << 30
FREE_MEMBERS = 10_000
MEMBER_OVERHEAD = 76
"""Bytes that the shortest member takes in a ZIP: local header and directory entry."""
ENTRY_BYTES = 512
"""Bytes of a directory entry, on average, up to which a directory is read at all."""
_ENTRY_SIGNATURE = b"PK\1\2"
_LOCAL_SIGNATURE = b"PK\3\4"
_END_SIGNATURE = b"PK\5\6"
_END_BYTES = 22
_LONGEST_END = _END_BYTES + 0xFFFF
_HOLDS_MORE = (
    "the archive holds entries that its directory does not name, as of two archives joined; those"
    " that it names were taken: take it apart and drop the others again"
)
_ENCRYPTED = 0x1 | 0x40
_PATCHED = 0x20
_UTF8 = 0x800
_LOCAL = struct.Struct("<4s5H3L2H")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may do.

    Attributes:
        max_file_bytes: Largest member, expanded.
        max_bytes: What the dropped archive may expand to, all depths together.
        max_ratio: Past 1 GiB, the dropped archive may expand at most so many times.
        max_depth: How many archives may lie inside each other.
        max_members: How many members it may have, all depths together.
    """

    max_file_bytes: int
    max_bytes: int
    max_ratio: float
    max_depth: int
    max_members: int


class ArchiveError(Exception):
    """An archive, or one member of it, cannot be taken.

    Attributes:
        reason: The reason code.
        message: What was wrong, without names or content.
    """

    def __init__(self, reason: Reason, message: str | None = None) -> None:
        """Makes the error; the message defaults to the meaning of the reason."""
        self.reason = reason
        self.message = message or MEANINGS[reason]
        super().__init__(self.message)


class Budget:
    """How many bytes and files one dropped archive may still expand to, all depths together.

    Attributes:
        spent: Bytes that it has expanded to.
    """

    def __init__(self, archive_bytes: int, limits: Limits) -> None:
        """Starts the budget for a dropped archive of so many bytes."""
        self.limits, self.spent = limits, 0
        by_ratio = max(FREE_EXPANSION, int(archive_bytes * limits.max_ratio))
        self._most = min(by_ratio, limits.max_bytes)
        # only archives compressed inside archives hold more members than their bytes have room for
        self._members = min(FREE_MEMBERS + archive_bytes // MEMBER_OVERHEAD, limits.max_members)

    @property
    def members(self) -> int:
        """How many members there may still be."""
        return self._members

    def spend(self, *, members: int, size: int) -> None:
        """Takes members and their bytes from the budget.

        Raises:
            ArchiveError: ARCHIVE_BOMB when it does not suffice.
        """
        self._members -= members
        self.spent += size
        if self._members < 0 or self.spent > self._most:
            raise ArchiveError(Reason.ARCHIVE_BOMB)


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive, or what none of them is.

    Attributes:
        name: Its path inside the archive, as it stands there; None when the error is of the archive
            itself, of which the members are good nevertheless.
        organised: The name it was given.
        file: Where it was written; None when it could not be read.
        kind: What it is by its first bytes.
        size: Its bytes.
        sha256: SHA-256 of its bytes, when it was written as the ZIP of its own, else None.
        error: Why it could not be read; None when it could.
    """

    name: str | None
    organised: str
    file: Path | None
    kind: Kind = Kind.OTHER
    size: int = 0
    sha256: str | None = None
    error: ArchiveError | None = None


def members(
    archive: Path,
    *,
    into: Path,
    budget: Budget,
    organised: Callable[[str], str],
    own_name: Callable[[str], str] | None,
    workers: int = 1,
    within: Path | None = None,
) -> Iterator[Member]:
    """Streams every member of a ZIP into a folder, under running numbers.

    Args:
        archive: The ZIP.
        into: An existing folder; the caller moves or removes what is written there.
        budget: What the dropped archive may still expand to.
        organised: A member's name → the name that it will have; called once for each, in order.
        own_name: That name → the name of its member in the ZIP of its own; None when DICOM files
            are not to have one.
        workers: Threads that read, inflate and write.
        within: A folder above the archive, below which no link is followed.

    Yields:
        One Member for each file, in the archive's order; folders are passed over. Then one without
        a name, where the archive holds entries that its directory does not name.

    Raises:
        ArchiveError: The archive as a whole cannot be read (damaged directory), or is a bomb.
    """
    with open_regular(archive, within=within) as raw:
        with _damage_is(Reason.ARCHIVE_DAMAGED):
            bounded = _Bounded(raw.fileno(), budget.members)
            opened = zipfile.ZipFile(bounded)  # pyright: ignore[reportArgumentType]
        files = [info for info in opened.infolist() if info.file_size or not _is_folder(info)]
        problems = [_problem(info, budget.limits) for info in files]
        # by what the directory declares: no member is expanded past that
        sizes = [i.file_size for i, problem in zip(files, problems, strict=True) if not problem]
        budget.spend(members=len(files), size=sum(sizes))
        ends = _ends(files, opened.start_dir)

        def tasks() -> Iterator[_Task]:
            every = zip(files, problems, ends, strict=True)
            for number, (info, problem, end) in enumerate(every):
                name = organised(info.filename)
                own = own_name(name) if own_name else None
                yield _Task(info, problem, end, into / f"{number}", name, own)

        def unpack(task: _Task) -> Member:
            try:
                if task.problem:
                    raise ArchiveError(task.problem)
                return _unpack(raw.fileno(), task)
            except ArchiveError as error:
                task.target.unlink(missing_ok=True)
                return Member(task.info.filename, task.name, None, error=error)

        is_told = False
        for member in over_threads(unpack, tasks(), workers=workers, count=len(files)):
            # one that the directory names at a wrong place lies somewhere without a name
            is_told |= bool(member.error and member.error.reason is Reason.MEMBER_DAMAGED)
            yield member
        if not is_told and _holds_more(raw.fileno(), opened):
            yield Member(None, "", None, error=ArchiveError(Reason.ARCHIVE_DAMAGED, _HOLDS_MORE))


def _holds_more(archive: int, opened: zipfile.ZipFile) -> bool:
    """Says whether entries lie before the first one that the directory names, or behind its end.

    Looked at is where those of another archive begin: at the beginning of the file, where a program
    that unpacks itself has none, and behind the end. Not seen is what lies between members.
    """
    first = min((info.header_offset for info in opened.infolist()), default=opened.start_dir)
    before = os.pread(archive, min(max(first, 0), HEAD_BYTES), 0)
    size = os.fstat(archive).st_size
    end = os.pread(archive, _LONGEST_END, max(size - _LONGEST_END, 0))
    begin = end.rfind(_END_SIGNATURE) + _END_BYTES + len(opened.comment)
    behind = end[begin : begin + HEAD_BYTES]
    return _LOCAL_SIGNATURE in before or _LOCAL_SIGNATURE in behind


class _Bounded(io.FileIO):
    """An archive of which no directory is read that holds more members than there may be.

    What is known of a member takes ten times the bytes of its entry, so it is counted before.
    """

    def __init__(self, archive: int, members: int) -> None:
        super().__init__(archive, closefd=False)
        self._members = members

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # of the archive's end
            size = CHUNK
        if size > max(self._members * ENTRY_BYTES, CHUNK):
            raise ArchiveError(Reason.ARCHIVE_BOMB)
        data = super().read(size) or b""
        if data.count(_ENTRY_SIGNATURE) > self._members:
            raise ArchiveError(Reason.ARCHIVE_BOMB)
        return data


@dataclass(frozen=True, slots=True)
class _Task:
    """A member, what is wrong with it, where its data must end, and what it is to become."""

    info: zipfile.ZipInfo
    problem: Reason | None
    end: int
    target: Path
    name: str
    own: str | None


def _ends(files: Sequence[zipfile.ZipInfo], directory: int) -> list[int]:
    """Returns where each member ends at the latest: where the next one begins.

    Of members that begin at the same place all but one have no room.
    """
    order = sorted(range(len(files)), key=lambda number: files[number].header_offset)
    ends = [directory] * len(files)
    for number, following in pairwise(order):
        ends[number] = min(files[following].header_offset, directory)
    return ends


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith("/")


def _problem(info: zipfile.ZipInfo, limits: Limits) -> Reason | None:
    """Says why a member is not even tried."""
    special = info.create_system == 3 and stat.S_IFMT(info.external_attr >> 16) not in (
        0,
        stat.S_IFREG,
    )
    parts = PurePosixPath(info.filename.replace("\\", "/")).parts
    if special or _is_folder(info) or ".." in parts:
        return Reason.ARCHIVE_MEMBER_UNSAFE
    if info.flag_bits & _ENCRYPTED:
        return Reason.ARCHIVE_ENCRYPTED
    if info.compress_type not in METHODS or info.flag_bits & _PATCHED:
        return Reason.ARCHIVE_UNSUPPORTED_COMPRESSION
    if info.file_size > limits.max_file_bytes:
        return Reason.TOO_LARGE
    return None


def _unpack(archive: int, task: _Task) -> Member:
    """Writes one member, in one pass over it."""
    with _damage_is(Reason.MEMBER_DAMAGED):
        begin = _begin_of_data(archive, task)
        carry = task.own is not None and task.info.compress_type == DEFLATED
        return _expanded(archive, begin, task, carry=carry)


def _begin_of_data(archive: int, task: _Task) -> int:
    """Returns where a member's data begin; the local header must say what the directory says."""
    info = task.info
    local = os.pread(archive, _LOCAL.size, info.header_offset)
    signature, _, flags, method, *_, name, extra = _LOCAL.unpack(local)
    named = os.pread(archive, name, info.header_offset + _LOCAL.size)
    is_same = method == info.compress_type and (
        named.decode("utf-8" if flags & _UTF8 else "cp437") == info.orig_filename
    )
    if signature != _LOCAL_SIGNATURE or flags & _ENCRYPTED or not is_same:
        raise ArchiveError(Reason.MEMBER_DAMAGED, "the member begins otherwise than it should")
    begin = info.header_offset + _LOCAL.size + name + extra
    if begin + info.compress_size > task.end:
        raise ArchiveError(Reason.MEMBER_DAMAGED, "the member's data overlap the next member")
    return begin


def _expanded(archive: int, begin: int, task: _Task, *, carry: bool) -> Member:
    """Expands a member, and writes what that gives, or carries its deflate stream over.

    Args:
        archive: Descriptor of the archive.
        begin: Where the data begin.
        task: The member.
        carry: Whether the stream is carried over into a ZIP of its own if this is DICOM; what is
            inflated is then only hashed and checked.
    """
    info, at, left = task.info, begin, task.info.compress_size
    entry = Entry(
        task.own or "", DEFLATED, info.CRC, left, info.file_size, is_large(info.file_size)
    )
    stream = expander(info.compress_type, info.file_size)
    kind, size, crc, sha = None, 0, 0, hashlib.sha256()
    with task.target.open("wb") as sink:
        while left and (piece := os.pread(archive, min(left, CHUNK), at)):
            at, left = at + len(piece), left - len(piece)
            for data in stream.feed(piece):
                if kind is None:
                    kind = kind_of(data[:HEAD_BYTES])
                    carry = carry and kind is Kind.DICOM
                    sink.write(entry.head if carry else b"")
                size, crc = size + len(data), isal_zlib.crc32(data, crc)
                if size > info.file_size:
                    raise ArchiveError(Reason.MEMBER_DAMAGED)
                if carry:
                    sha.update(data)
                else:
                    sink.write(data)
            if carry and kind is None:  # nothing to tell it by
                return _expanded(archive, begin, task, carry=False)
            sink.write(piece if carry else b"")
            if stream.ended:
                break
        sink.write(entry.tail if carry else b"")
    if (size, crc) != (info.file_size, info.CRC):
        raise ArchiveError(Reason.MEMBER_DAMAGED)
    if carry and (left or stream.ended_early or not stream.ended):
        return _expanded(archive, begin, task, carry=False)  # a stream that not all would read
    sha256 = sha.hexdigest() if carry else None
    return _member(task, kind or kind_of(b""), size, sha256)


def _member(task: _Task, kind: Kind, size: int, sha256: str | None) -> Member:
    return Member(task.info.filename, task.name, task.target, kind, size, sha256)


@contextmanager
def _damage_is(reason: Reason) -> Iterator[None]:
    """Turns what zipfile raises for a bad archive into ArchiveError; a broken disk stays one.

    Bad bytes make zipfile and the decompressors raise almost anything, so all of it is taken for
    damage, but for what the operating system says (zipfile's own bad seeks aside).
    """
    try:
        yield
    except (MemoryError, ArchiveError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ArchiveError(reason) from error
