"""ZIP archives: members out of dropped ones, one DICOM file into its own.

Decided here: how members are streamed out and what makes an archive or a member bad; how the ZIP
that holds one DICOM file is written and read. Not decided here: where members go
(`dicom_assets.steps.organise`). Nothing here holds a whole member in memory.
"""

import errno
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from dicom_assets.lakehouse.reasons import MEANINGS, Reason

CHUNK = 1 << 20
FREE_EXPANSION = 1 << 30
FREE_MEMBERS = 10_000
MEMBER_OVERHEAD = 76
"""Bytes that the shortest member takes in a ZIP: local header and directory entry."""
_ENCRYPTED = 0x1 | 0x40
_SUPPORTED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may do.

    Attributes:
        max_file_bytes: Largest member, expanded.
        max_ratio: Past 1 GiB, the dropped archive may expand at most so many times.
        max_depth: How many archives may lie inside each other.
    """

    max_file_bytes: int
    max_ratio: float
    max_depth: int


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
    """How many bytes and files one dropped archive may still expand to, all depths together."""

    def __init__(self, archive_bytes: int, limits: Limits) -> None:
        """Starts the budget for a dropped archive of so many bytes."""
        self.limits = limits
        self._bytes = max(FREE_EXPANSION, int(archive_bytes * limits.max_ratio))
        # only archives compressed inside archives hold more members than their bytes have room for
        self._members = FREE_MEMBERS + archive_bytes // MEMBER_OVERHEAD

    def spend(self, *, members: int, size: int) -> None:
        """Takes members and their bytes from the budget.

        Raises:
            ArchiveError: ARCHIVE_BOMB when it does not suffice.
        """
        self._members -= members
        self._bytes -= size
        if self._members < 0 or self._bytes < 0:
            raise ArchiveError(Reason.ARCHIVE_BOMB)


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        name: Its path inside the archive, as it stands there.
        file: Where its bytes were written; None when they could not be read.
        error: Why it could not be read; None when it could.
    """

    name: str
    file: Path | None
    error: ArchiveError | None = None


def members(archive: Path, *, into: Path, budget: Budget) -> Iterator[Member]:
    """Streams every member of a ZIP into a folder, under running numbers.

    Args:
        archive: The ZIP.
        into: An existing folder; the caller moves or removes what is written there.
        budget: What the dropped archive may still expand to.

    Yields:
        One Member for each file; folders are passed over.

    Raises:
        ArchiveError: The archive as a whole cannot be read (damaged directory), or is a bomb.
    """
    with _damage_is(Reason.ARCHIVE_DAMAGED):
        opened = zipfile.ZipFile(archive)
    with opened:
        files = [info for info in opened.infolist() if info.file_size or not _is_folder(info)]
        problems = [_problem(info, budget.limits) for info in files]
        # by what the directory declares: zipfile never expands a member past that
        sizes = [i.file_size for i, problem in zip(files, problems, strict=True) if not problem]
        budget.spend(members=len(files), size=sum(sizes))
        for number, (info, problem) in enumerate(zip(files, problems, strict=True)):
            target = into / f"{number}"
            try:
                if problem:
                    raise ArchiveError(problem)
                _stream(opened, info, target)
            except ArchiveError as error:
                target.unlink(missing_ok=True)
                yield Member(info.filename, None, error)
            else:
                yield Member(info.filename, target)


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
    if info.compress_type not in _SUPPORTED:
        return Reason.ARCHIVE_UNSUPPORTED_COMPRESSION
    if info.file_size > limits.max_file_bytes:
        return Reason.TOO_LARGE
    return None


def _stream(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    with _damage_is(Reason.MEMBER_DAMAGED):
        source = opened.open(info)
    with source, target.open("wb") as sink:
        while chunk := _read(source):
            sink.write(chunk)
    if target.stat().st_size != info.file_size:
        raise ArchiveError(Reason.MEMBER_DAMAGED)


def _read(source: IO[bytes]) -> bytes:
    with _damage_is(Reason.MEMBER_DAMAGED):
        return source.read(CHUNK)


@contextmanager
def _damage_is(reason: Reason) -> Iterator[None]:
    """Turns what zipfile raises for a bad archive into ArchiveError; a broken disk stays one.

    Bad bytes make zipfile and the decompressors raise almost anything, so all of it is taken for
    damage, but for what the operating system says (zipfile's own bad seeks aside).
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ArchiveError(reason) from error


@dataclass(frozen=True, slots=True)
class Digest:
    """Size in bytes and SHA-256 of a DICOM file."""

    size: int
    sha256: str


def digest(source: BinaryIO) -> Digest:
    """Reads a stream to its end."""
    sha, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        sha.update(chunk)
        size += len(chunk)
    return Digest(size, sha.hexdigest())


def write_zip(source: BinaryIO, target: Path, *, member: str, level: int) -> Digest:
    """Writes a stream into a ZIP of its own, which appears at once and whole.

    Args:
        source: The DICOM file, read to its end.
        target: The ZIP; a file of that name is replaced.
        member: Name of the one member.
        level: Deflate level, 1 to 9.

    Returns:
        Size and SHA-256 of what was read.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    sha, size = hashlib.sha256(), 0
    with (
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive,
        archive.open(member, "w", force_zip64=_is_huge(source)) as sink,
    ):
        while chunk := source.read(CHUNK):
            sha.update(chunk)
            size += len(chunk)
            sink.write(chunk)
    temporary.replace(target)
    return Digest(size, sha.hexdigest())


def _is_huge(source: BinaryIO) -> bool:
    here = source.tell()
    end = source.seek(0, os.SEEK_END)
    source.seek(here)
    return end - here > zipfile.ZIP64_LIMIT // 2


@contextmanager
def open_organised(path: Path) -> Iterator[BinaryIO]:
    """Opens an organised DICOM file, be it plain or in a ZIP of its own; seekable.

    Raises:
        ArchiveError: The ZIP is damaged.
        OSError: The file is missing or cannot be read.
    """
    if path.suffix != ".zip":
        with path.open("rb") as stream:
            yield stream
        return
    with _damage_is(Reason.ARCHIVE_DAMAGED):
        archive = zipfile.ZipFile(path)
        inner = archive.open(archive.infolist()[0])
    with archive, inner:
        yield inner  # pyright: ignore[reportReturnType]
