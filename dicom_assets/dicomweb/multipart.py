"""multipart/related (RFC 2387), both ways, in pieces: nothing is held whole.

Decided here: how a body is cut into parts, and how one is made of files. Not decided here: what a
part is (`client`).
"""

import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from dicom_assets.lakehouse.errors import PlainError

CHUNK = 1 << 18
_MOST_HEADER_BYTES = 1 << 16
_BOUNDARY = re.compile(r';\s*boundary="?([^";]+)"?', re.IGNORECASE)


class MultipartError(ValueError):
    """A body ends too early, or is not what it says it is."""


def boundary_of(content_type: str) -> bytes:
    """Returns the boundary that a Content-Type states.

    Raises:
        MultipartError: It states none.
    """
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/") or not found:
        raise MultipartError("the answer is no multipart/related")
    return found[1].encode()


def parts(chunks: Iterator[bytes], boundary: bytes) -> Iterator[Iterator[bytes]]:
    """Yields each part's content, in pieces; what a caller leaves of one is passed over.

    Raises:
        MultipartError: The body ends before its last boundary.
    """
    stream = _Stream(chunks)
    delimiter = b"\r\n--" + boundary
    _pass(stream.until(delimiter))
    while (begin := stream.take(2)) != b"--":
        stream.give_back(begin)
        _pass(stream.until(b"\r\n", most=_MOST_HEADER_BYTES))  # blanks may stand there
        stream.give_back(b"\r\n")  # so that no header at all ends like some
        _pass(stream.until(b"\r\n\r\n", most=_MOST_HEADER_BYTES))
        content = stream.until(delimiter)
        yield content
        _pass(content)


def _pass(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass


class _Stream:
    """Bytes that come in chunks, cut at delimiters."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = bytearray(b"\r\n")  # the first boundary may stand at the very beginning

    def _more(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise MultipartError("the answer ends too early")
        self._held += chunk

    def take(self, count: int) -> bytes:
        """Returns the next bytes."""
        while len(self._held) < count:
            self._more()
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    def give_back(self, data: bytes) -> None:
        """Puts bytes in front of what comes."""
        self._held[:0] = data

    def until(self, delimiter: bytes, *, most: int | None = None) -> Iterator[bytes]:
        """Yields what comes before a delimiter, and takes that too."""
        passed = 0
        while (at := self._held.find(delimiter)) < 0:
            ready = len(self._held) - len(delimiter) + 1  # of the rest it may begin here
            if ready > 0:
                passed += ready
                yield self.take(ready)
            if most is not None and passed > most:
                raise MultipartError("a part's header is too long")
            self._more()
        if at:
            yield self.take(at)
        del self._held[: len(delimiter)]


class Body:
    """A multipart/related body of DICOM files; may be sent several times.

    Attributes:
        content_type: With the boundary.
        length: Bytes.
    """

    def __init__(self, files: Sequence[tuple[Path, int]]) -> None:
        """Takes files and their sizes."""
        self._files = files
        boundary = uuid.uuid4().hex
        self.content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        self._before = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._end = f"--{boundary}--\r\n".encode()
        around = len(self._before) + len(b"\r\n")
        self.length = sum(size + around for _, size in files) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        """Yields it in pieces.

        Raises:
            FileNotFoundError: A file has gone.
            PlainError: One has become shorter.
        """
        for path, size in self._files:
            yield self._before
            with path.open("rb") as file:
                yield from _exactly(file, size)
            yield b"\r\n"
        yield self._end


def _exactly(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        data = file.read(min(CHUNK, size))
        if not data:
            raise PlainError("a file has become shorter while it was sent; send it again")
        size -= len(data)
        yield data
