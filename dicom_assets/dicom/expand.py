"""The data of a ZIP's members, expanded a bounded piece at a time.

Decided here: which compression methods are known, and that a handful of compressed bytes never
becomes more than CHUNK bytes at once: Python's own zipfile expands what bzip2 and LZMA members hold
a megabyte of input at a time, which may be a terabyte of output. Not decided here: where the data
lie, or whether they are what the directory says of them (`archives`).
"""

import bz2
import lzma
import struct
import zipfile
from collections.abc import Iterator
from typing import Any, Protocol

from isal import isal_zlib

from dicom_assets.dicom.own_zip import RAW

CHUNK = 1 << 20
"""Most bytes that are held at once."""

_LZMA_HEAD = struct.Struct("<2xHBL")
_LEAST_DICTIONARY = 1 << 12


class Expander(Protocol):
    """What expands the data of one member."""

    def feed(self, piece: bytes, /) -> Iterator[bytes]:
        """Yields what the next compressed bytes expand to, at most CHUNK at a time."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the stream has said that it ends."""
        ...

    @property
    def ended_early(self) -> bool:
        """Whether bytes were fed that lie behind the stream's end."""
        ...


def expander(method: int, size: int) -> Expander:
    """Returns what expands one member.

    Args:
        method: Its compression method, one of `METHODS`.
        size: Bytes that it declares to expand to.
    """
    return METHODS[method](size)


class _Stored:
    ended = ended_early = False

    def __init__(self, _: int) -> None: ...

    def feed(self, piece: bytes, /) -> Iterator[bytes]:
        yield piece


class _Stream:
    _stream: Any

    @property
    def ended(self) -> bool:
        return self._stream.eof

    @property
    def ended_early(self) -> bool:
        return bool(self._stream.unused_data)


class _Deflated(_Stream):
    def __init__(self, _: int) -> None:
        self._stream = isal_zlib.decompressobj(RAW)

    def feed(self, piece: bytes, /) -> Iterator[bytes]:
        while data := self._stream.decompress(piece, CHUNK):
            yield data
            piece = self._stream.unconsumed_tail


class _Bzip2(_Stream):
    def __init__(self, _: int) -> None:
        self._stream = bz2.BZ2Decompressor()

    def feed(self, piece: bytes, /) -> Iterator[bytes]:
        while not self._stream.eof:
            if data := self._stream.decompress(piece, CHUNK):
                yield data
            if self._stream.needs_input:
                return
            piece = b""


class _Lzma(_Bzip2):
    """LZMA as ZIPs hold it (APPNOTE.TXT 5.8.8): version, size of properties, properties, data."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._begun = False

    def feed(self, piece: bytes, /) -> Iterator[bytes]:
        if not self._begun:
            length, packed, dictionary = _LZMA_HEAD.unpack_from(piece)
            if length != 5:
                raise lzma.LZMAError("properties of another length")
            packed, lc = divmod(packed, 9)
            pb, lp = divmod(packed, 5)
            # none needs to look back further than there is; four gigabytes may be asked for
            dictionary = max(min(dictionary, self._size), _LEAST_DICTIONARY)
            filters = {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb}
            filters["dict_size"] = dictionary
            self._stream = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[filters])
            self._begun = True
            piece = piece[_LZMA_HEAD.size :]
        for data in super().feed(piece):
            # a stream may have no mark of its end; what its last bits give is not meant then
            if kept := data[: self._size]:
                self._size -= len(kept)
                yield kept


METHODS: dict[int, type[_Stored | _Deflated | _Bzip2]] = {
    zipfile.ZIP_STORED: _Stored,
    zipfile.ZIP_DEFLATED: _Deflated,
    zipfile.ZIP_BZIP2: _Bzip2,
    zipfile.ZIP_LZMA: _Lzma,
}
"""The compression methods that are known."""
