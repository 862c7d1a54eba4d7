"""Objects as streams: read by ranges, written to a file that is put when it is closed.

Decided here: that half of what was to be written never appears. Not decided here: what a path is
(`far`), how much is fetched at once (`ranges`).
"""

import errno
import io
import os
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dicom_assets.lakehouse.ranges import FIRST_BYTES, ObjectStream
from dicom_assets.lakehouse.storage import ObjectError

if TYPE_CHECKING:
    from dicom_assets.lakehouse.far import FarPath


class Reader(io.RawIOBase):
    """An object, of which only what is read is fetched."""

    def __init__(self, path: "FarPath") -> None:
        """Fetches its beginning."""
        self._path = path
        self._stream = ObjectStream(path.store, path.key, path.piece(0, FIRST_BYTES))
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is, without a request."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves; nothing is fetched before something is read there."""
        self._at = self._stream.seek(offset, whence)
        return self._at

    def tell(self) -> int:
        """Returns where it is."""
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Reads what comes next, as much as fits and one request brings."""
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Reads all that is left."""
        pieces = []
        while data := self._next(max(self._stream.first.size - self._at, 0)):
            pieces.append(data)
        return b"".join(pieces)

    def _next(self, most: int) -> bytes:
        try:
            data = self._stream.read(most)
        except ObjectError as error:
            raise FileNotFoundError(errno.ENOENT, str(error), str(self._path)) from None
        self._at += len(data)
        return data


class Writer(io.FileIO):
    """An object that appears when it is closed, unless that is because of an error."""

    def __init__(self, path: "FarPath") -> None:
        """Makes the local file."""
        from dicom_assets.lakehouse.paths import temporary_of

        self._path, self._temporary = path, temporary_of(path)
        self._is_good = True
        super().__init__(self._temporary, "wb")

    def __exit__(
        self, kind: type[BaseException] | None, error: Any, where: TracebackType | None
    ) -> None:
        """Closes it; after an error nothing appears."""
        self._is_good = kind is None
        self.close()

    def close(self) -> None:
        """Puts it."""
        if self.closed:
            return
        super().close()
        try:
            if self._is_good:
                self._path.upload(self._temporary)
        finally:
            self._temporary.unlink(missing_ok=True)
