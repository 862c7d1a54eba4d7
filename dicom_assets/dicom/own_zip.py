"""The ZIP of its own that holds one DICOM file.

Decided here: its form (one member, deflated or stored; APPNOTE.TXT 4.3), how it is written in one
pass over the file, and how it is read. Levels 1 to 3 are ISA-L's, which deflates several times
faster than zlib at nearly zlib's size; from 4 on it is zlib, slower and smaller. Not decided here:
which files get one (`steps.extract`), or what is taken out of others' archives (`archives`).
"""

import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from isal import isal_zlib

from dicom_assets.lakehouse.opening import open_regular
from dicom_assets.lakehouse.paths import appear, temporary_of

CHUNK = 4 << 20
"""Bytes held at once; a file up to this size is read, packed and written in one go."""

DEFLATED, STORED = zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED
RAW = -zlib.MAX_WBITS
"""Window of a deflate stream without header and checksum, as ZIPs hold it."""

_INFLATE_ERROR = cast(type[Exception], isal_zlib.error)
_FASTEST_LEVELS = 3
_MOST_MEMORY = 9  # some hundred KiB, with which ISA-L is a fifth faster
_WORTH = 0.97
"""Pixels that are compressed already are deflated only where that leaves less than this."""
_SAMPLE = 128 << 10
_PIECE = 32 << 10
_FULL = 0xFFFFFFFF
_UTF8 = 0x800
_DAY = 0x21  # 1 January 1980, the first one a ZIP knows
_REGULAR_FILE = 0o100640 << 16
_LOCAL = struct.Struct("<4s5H3L2H")
_DIRECTORY = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_EXTRA_64 = struct.Struct("<2H2Q")


@dataclass(frozen=True, slots=True)
class Digest:
    """Size in bytes and SHA-256 of a DICOM file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """The one member of a ZIP: all that stands around its data.

    Attributes:
        name: The member's name.
        method: DEFLATED or STORED.
        crc: CRC-32 of the file.
        packed: Bytes of the data as they stand in the ZIP.
        size: Bytes of the file.
        is_large: Whether sizes take eight bytes (ZIP64), for a file near 2 GiB or beyond.
    """

    name: str
    method: int
    crc: int
    packed: int
    size: int
    is_large: bool

    @property
    def head(self) -> bytes:
        """What stands before the data; as long for any CRC and any sizes."""
        return _LOCAL.pack(b"PK\3\4", *self._common) + self._name + self._extra

    @property
    def tail(self) -> bytes:
        """What stands behind the data: the directory."""
        made_on_unix = 3 << 8 | self._common[0]
        rest = (0, 0, 0, _REGULAR_FILE, 0)
        directory = _DIRECTORY.pack(b"PK\1\2", made_on_unix, *self._common, *rest)
        directory += self._name + self._extra
        at, size = len(self.head) + self.packed, len(directory)
        end = _END.pack(b"PK\5\6", 0, 0, 1, 1, size, _FULL if self.is_large else at, 0)
        if not self.is_large:
            return directory + end
        end_64 = _END_64.pack(b"PK\6\6", _END_64.size - 12, 45, 45, 0, 0, 1, 1, size, at)
        return directory + end_64 + _LOCATOR_64.pack(b"PK\6\7", 0, at + size, 1) + end

    @property
    def _name(self) -> bytes:
        return self.name.encode()

    @property
    def _extra(self) -> bytes:
        return _EXTRA_64.pack(1, 16, self.size, self.packed) if self.is_large else b""

    @property
    def _common(self) -> tuple[int, ...]:
        """Version needed to lengths; always the same time, so that the same file packs the same."""
        version, sizes = 20, (self.packed, self.size)
        if self.is_large:
            version, sizes = 45, (_FULL, _FULL)
        flags = 0 if self.name.isascii() else _UTF8
        lengths = len(self._name), len(self._extra)
        return version, flags, self.method, 0, _DAY, self.crc, *sizes, *lengths


def is_large(size: int) -> bool:
    """Says whether a file of this size needs ZIP64; deflating may add a little."""
    return size >= 1 << 31


def write_zip(
    source: BinaryIO, target: Path, *, member: str, level: int, is_compressed: bool = False
) -> Digest:
    """Writes a file into a ZIP of its own, which appears at once and whole.

    Hash, CRC and compression share one pass over the bytes, of which CHUNK are held at a time.

    Args:
        source: The DICOM file, at its start.
        target: The ZIP; a file of that name is replaced.
        member: Name of the one member.
        level: Deflate level, 1 to 9.
        is_compressed: Whether its transfer syntax compresses the pixels: then it is stored, unless
            deflating a sample from the middle of its first CHUNK, past the header, gains 3 %.

    Returns:
        Size and SHA-256 of what was read.
    """
    large = is_large(source.seek(0, os.SEEK_END))
    source.seek(0)
    chunk = source.read(CHUNK)
    sample = chunk[len(chunk) // 2 :][:_SAMPLE]
    stores = is_compressed and len(_packed(sample, level)) > _WORTH * len(sample)
    packer = None if stores else _deflater(level)
    sha, crc, size, written = hashlib.sha256(), 0, 0, 0
    method = STORED if stores else DEFLATED
    temporary = temporary_of(target)
    with temporary.open("wb") as sink:
        sink.write(Entry(member, method, 0, 0, 0, large).head)
        while chunk:
            sha.update(chunk)
            crc = isal_zlib.crc32(chunk, crc)
            size += len(chunk)
            written += sink.write(packer.compress(chunk) if packer else chunk)
            chunk = source.read(CHUNK)
        if packer:
            written += sink.write(packer.flush())
        entry = Entry(member, method, crc, written, size, large)
        sink.write(entry.tail)
        sink.seek(0)
        sink.write(entry.head)
    appear(temporary, target)
    return Digest(size, sha.hexdigest())


def digest(source: BinaryIO) -> Digest:
    """Reads a stream to its end.

    Raises:
        zipfile.BadZipFile: It lies in a ZIP that is damaged.
    """
    sha, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        sha.update(chunk)
        size += len(chunk)
    return Digest(size, sha.hexdigest())


def stated(path: Path) -> Entry:
    """Returns what a ZIP says of its one member, at both ends; its data are not read.

    Raises:
        zipfile.BadZipFile: It is cut short, too long, or its ends do not say the same.
        OSError: The file is missing or cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        start, length = file.read(_PIECE), file.seek(0, os.SEEK_END)
        if len(start) < _LOCAL.size or not start.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile("no ZIP with one DICOM file")
        *_, method, _, _, crc, packed, size, name_length, extra = _LOCAL.unpack_from(start)
        end = _LOCAL.size + name_length
        large = packed == size == _FULL and extra >= _EXTRA_64.size
        if large:
            if len(start) < end + _EXTRA_64.size:
                raise zipfile.BadZipFile("the ZIP is cut short")
            _, _, size, packed = _EXTRA_64.unpack_from(start, end)
        name = start[_LOCAL.size : end].decode("utf-8", "replace")
        entry = Entry(name, method, crc, packed, size, large)
        tail = entry.tail
        file.seek(max(length - len(tail), 0))
        if length != len(entry.head) + packed + len(tail) or file.read(len(tail)) != tail:
            raise zipfile.BadZipFile("what stands before the data and behind them differs")
    return entry


@contextmanager
def open_organised(path: Path) -> Iterator[BinaryIO]:
    """Opens an organised DICOM file, be it plain or in a ZIP of its own; seekable.

    Of a ZIP no more is inflated than is read, or lies before what is read.

    Raises:
        zipfile.BadZipFile: The ZIP is damaged; also when reading, at its end at the latest.
        FileNotFoundError: The file is missing, or there is a link in its place.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        yield file if path.suffix != ".zip" else _Member(file)  # pyright: ignore[reportReturnType]


class _Member(io.RawIOBase):
    """The one member of a ZIP, inflated as far as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        """Reads what stands before the data."""
        start = file.read(_PIECE)
        if len(start) < _LOCAL.size or not start.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile("no ZIP with one DICOM file")
        *_, flags, self._method, _, _, self._crc, self._packed, self.size, name, extra = (
            _LOCAL.unpack_from(start)
        )
        self._begin = _LOCAL.size + name + extra
        if self._packed == self.size == _FULL and extra >= _EXTRA_64.size:
            at = _LOCAL.size + name
            _, _, self.size, self._packed = _EXTRA_64.unpack_from(start, at)
        if flags & ~_UTF8 or self._method not in (DEFLATED, STORED):
            raise zipfile.BadZipFile("not as dicom_assets writes them")
        self._file = file
        self._position = 0
        self._restart()

    def _restart(self) -> None:
        self._file.seek(self._begin)
        self._left = self._packed
        self._at = self._found_crc = 0
        self._inflater = isal_zlib.decompressobj(RAW) if self._method == DEFLATED else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves; nothing is inflated before something is read there."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        if self._position >= self.size or not len(buffer):
            return 0
        if self._position < self._at:
            self._restart()
        while self._at < self._position:
            self._next(min(self._position - self._at, CHUNK))
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        self._position = self._at
        return len(data)

    def _next(self, most: int) -> bytes:
        """Returns the next bytes, up to `most`; none at the end, and only there.

        Raises:
            zipfile.BadZipFile: There are none before the end, or they do not match the CRC.
        """
        if self._at >= self.size:
            return b""
        most = min(most, self.size - self._at)
        data = b""
        try:
            while not data:
                waiting = self._inflater.unconsumed_tail if self._inflater else b""
                if not waiting:
                    waiting = self._file.read(min(self._left, _PIECE if self._inflater else most))
                    self._left -= len(waiting)
                data = self._inflater.decompress(waiting, most) if self._inflater else waiting
                if not data and not waiting:
                    raise zipfile.BadZipFile("the data end too early")
        except _INFLATE_ERROR as error:
            raise zipfile.BadZipFile("the data cannot be inflated") from error
        self._at += len(data)
        self._found_crc = isal_zlib.crc32(data, self._found_crc)
        if self._at == self.size and self._found_crc != self._crc:
            raise zipfile.BadZipFile("the data do not match their checksum")
        return data


def _deflater(level: int) -> Any:
    """Returns the compressor of a level: ISA-L's or zlib's."""
    if level <= _FASTEST_LEVELS:
        return isal_zlib.compressobj(level, DEFLATED, RAW, _MOST_MEMORY)
    return zlib.compressobj(level, wbits=RAW)


def _packed(chunk: bytes, level: int) -> bytes:
    packer = _deflater(level)
    return packer.compress(chunk) + packer.flush()
