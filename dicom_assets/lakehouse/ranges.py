"""An object as a stream of which only those bytes are fetched that are asked for.

Decided here: how much is fetched at once. What goes on where the last piece ended is fetched in
ever longer pieces, as long as all before; behind a jump a piece is short, and longer only after
many jumps. Not decided here: how a range is fetched (`storage`), who reads it (`dicom`).
"""

import io

from dicom_assets.lakehouse.storage import ObjectError, Piece, Store

FIRST_BYTES = 1 << 14
"""Bytes fetched first: the header of most files."""

_SHORT = 1 << 12
_LONGEST = 1 << 22
_JUMPS_TO_DOUBLE = 8


class ObjectStream:
    """A binary file that lies in a store.

    Attributes:
        first: What was fetched of it first.
        is_far: Whether each read costs a request.
        requests: How often something was fetched.
        fetched: How many bytes.
    """

    def __init__(self, store: Store, key: str, first: Piece) -> None:
        """Takes what was fetched of it first, from its beginning."""
        self._store, self._key, self.first = store, key, first
        self.is_far = store.is_far
        self._window, self._begin = first.data, 0
        self._at = self._jumps = 0
        self.requests, self.fetched = 1, len(first.data)

    def read(self, size: int, /) -> bytes:
        """Returns up to `size` bytes, none at the end.

        Raises:
            ObjectError: The object cannot be read, or was changed meanwhile.
        """
        if size <= 0 or self._at >= self.first.size:
            return b""
        end = self._begin + len(self._window)
        if not self._begin <= self._at < end:
            self._fetch(size, goes_on=self._at == end)
        offset = self._at - self._begin
        data = self._window[offset : offset + size]
        self._at += len(data)
        return data

    def _fetch(self, size: int, *, goes_on: bool) -> None:
        if not self._store.is_far:
            wanted = size
        elif goes_on:
            wanted = max(size, min(self._at, _LONGEST))
        else:
            self._jumps += 1
            wanted = min(_SHORT << self._jumps // _JUMPS_TO_DOUBLE, _LONGEST)
        etag = self.first.etag
        piece = self._store.get(self._key, self._at, wanted, etag=etag)
        if piece.version != self.first.version:
            raise ObjectError("it changed while it was being read")
        self._window, self._begin = piece.data, self._at
        self.requests += 1
        self.fetched += len(piece.data)

    def seekable(self) -> bool:
        """Seeks without a request."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves, as `io.IOBase.seek`; past the end is allowed."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.first.size}[whence]
        self._at = base + offset
        return self._at
