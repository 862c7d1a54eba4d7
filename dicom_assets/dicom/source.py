"""A stream read forward: with a look ahead, and never holding more than the stream has.

Decided here: how bytes are fetched from files, archive members and inflated streams, and what
counts as their end. Not decided here: what the bytes mean (`elements`).
"""

import io
import sys
import zipfile
import zlib
from typing import Protocol

CHUNK = 1 << 14
"""Bytes fetched at once: the header of most files."""

_PIECE = 1 << 20


class ReadableStream(Protocol):
    """What is asked of a file, of a member of an archive, or of an inflated stream."""

    def read(self, size: int, /) -> bytes:
        """Returns up to `size` bytes, none at the end."""
        ...

    def seekable(self) -> bool:
        """Whether `seek` works."""
        ...

    def seek(self, offset: int, whence: int, /) -> int:
        """Moves, as `io.IOBase.seek`; past the end is allowed."""
        ...


TAKE_BYTES = 32
"""What is kept of each element and item besides its value, about."""


class Truncated(Exception):
    """The file ends here."""


class TooLong(Exception):
    """More is to be kept of the file than may be."""


class Source:
    """Bytes read forward with a look ahead, never holding more than the stream has."""

    def __init__(self, stream: ReadableStream, *, most: int = sys.maxsize) -> None:
        """Starts at the stream's position, which is counted as 0.

        Args:
            stream: The bytes.
            most: How many may be taken, TAKE_BYTES more counted for each time. A small file may
                inflate to very many.
        """
        self.position = 0
        self.most = most
        self._left = most
        self.damaged = False
        self._stream = stream
        self._seekable = stream.seekable()
        self._buffer = b""
        self._at = 0

    def peek(self, size: int) -> bytes:
        """Returns the next bytes without consuming them; fewer where the stream ends."""
        end = self._at + size
        missing = end - len(self._buffer)
        if missing > 0:
            pieces = [self._rest()]
            while missing > 0 and (piece := self._read(CHUNK)):
                pieces.append(piece)
                missing -= len(piece)
            self._buffer, end = b"".join(pieces), size
        return self._buffer[self._at : end]

    def take(self, size: int) -> bytes:
        """Returns exactly so many bytes.

        Raises:
            Truncated: The stream ends before.
            TooLong: Too many have been taken.
        """
        end = self._at + size
        if end <= len(self._buffer):
            taken = self._buffer[self._at : end]
            self._at = end
        else:
            pieces = [self._rest()]
            missing = size - len(pieces[0])
            while missing:
                if size - missing > self._left:
                    raise TooLong
                piece = self._read(min(missing, _PIECE))
                if not piece:
                    raise Truncated
                pieces.append(piece)
                missing -= len(piece)
            taken = b"".join(pieces)
        self.position += size
        self._left -= size + TAKE_BYTES
        if self._left < 0:
            raise TooLong
        return taken

    def some(self) -> bytes:
        """Returns the next bytes, as many as come cheaply; none at the end."""
        taken = self._rest() or self._read(CHUNK)
        self.position += len(taken)
        return taken

    def skip(self, size: int) -> None:
        """Passes over bytes, by seeking where the stream can. May pass the end: see `overran`."""
        missing = size - (len(self._buffer) - self._at)
        self.position += size
        if missing <= 0:
            self._at += size
            return
        self._buffer, self._at = b"", 0
        if self._seekable:
            self._seek(missing, io.SEEK_CUR)
            return
        while missing:
            piece = self._read(min(missing, _PIECE))
            if not piece:
                raise Truncated
            missing -= len(piece)

    def ends_at(self, position: int) -> bool:
        """Whether the stream surely ends just there; a stream that cannot tell does not."""
        if self.damaged or not self._seekable:
            return False
        if self._seek(0, io.SEEK_END) == position and not self.damaged:
            return True
        self.damaged = False
        self._seek(self.position - self._at + len(self._buffer), io.SEEK_SET)
        return False

    def tail(self, size: int) -> bytes:
        """Returns the last bytes of a stream that can seek, up to so many; stays where it is."""
        here = self.position - self._at + len(self._buffer)
        end = self._seek(0, io.SEEK_END)
        self._seek(max(end - size, 0), io.SEEK_SET)
        data = self._read(size)
        self._seek(here, io.SEEK_SET)
        return data

    def overran(self) -> bool:
        """Whether a skip has passed the end, or the stream is damaged. Asked at the end only."""
        if self.damaged or not self._seekable:
            return self.damaged
        return self._seek(0, io.SEEK_END) < self.position

    def _rest(self) -> bytes:
        rest = self._buffer[self._at :]
        self._buffer, self._at = b"", 0
        return rest

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size) or b""
        except (zlib.error, zipfile.BadZipFile, EOFError):
            self.damaged = True
            return b""

    def _seek(self, offset: int, whence: int) -> int:
        try:
            return self._stream.seek(offset, whence)
        except (zlib.error, zipfile.BadZipFile, EOFError):
            self.damaged = True
            return 0
