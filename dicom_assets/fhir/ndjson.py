"""Files of FHIR resources → lines.

Decided here: what counts as a line, and what is wrong with a bad one. The form is NDJSON, one
resource a line; files that hold pretty-printed resources, arrays or Bundles are taken too, each
resource in them as if it were a line, and any of them compressed by gzip. Also decided here: how
much a file may expand to, of how many bad lines each is told, and how many of them end the reading,
so that neither memory nor rows nor time are more than its size justifies. Where resources stand in
such a document is decided in `document`. Not decided here: whether one is valid (`model`).
"""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, BinaryIO, cast

import orjson

from dicom_assets.fhir.dates import instant_of
from dicom_assets.fhir.document import (
    MAX_RESOURCE_BYTES,
    BrokenDocumentError,
    Document,
    on_one_line,
    starts_several,
)
from dicom_assets.lakehouse.reasons import MEANINGS, Reason

_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_BUFFER = 1 << 17
_LONG_LINE = 16 << 20
"""A first line longer than this may be a whole document; it is read piece by piece then."""
_FREE_EXPANSION = 16 << 20
_FREE_BAD_LINES = 1000
_BYTES_PER_BAD_LINE = 100
_MOST_TOLD = 10_000
"""Bad lines of one file: each takes a KB in memory until it is a row."""
_OF_THE_FILE = frozenset({Reason.ARCHIVE_BOMB, Reason.GZIP_DAMAGED})
_NOT_TOLD = "; of bad lines after it none is told, good ones are taken"
_REST = "; too many lines are bad before it: what follows was not read"
TOO_DEEP = "JSON nested deeper than 254 levels"
_GZIP_ERRORS = (EOFError, zlib.error)
_GZIP_MEMBER = 16 + zlib.MAX_WBITS
_PACKED_PIECE = 1 << 12
"""Bytes that are expanded at once; they become four megabytes at most."""


@dataclass(frozen=True, slots=True)
class Line:
    """One resource.

    Attributes:
        number: Line number from 1. Where arrays or Bundles come before, at least the next number:
            in a file that is one document it is the resource's position.
        text: The line unchanged, without its end; out of a document, the resource on one line.
        resource_type: Its type.
        id: The resource's id, if it has one.
        last_updated: meta.lastUpdated in UTC, if it has one.
    """

    number: int
    text: str
    resource_type: str
    id: str | None
    last_updated: datetime | None


@dataclass(frozen=True, slots=True)
class BadLine:
    """One line that is no such resource.

    Attributes:
        number: As of a line.
        text: Its bytes, without its end; none where they are too many, or not to be had.
        reason: INVALID_JSON, NESTED_TOO_DEEP, WRONG_RESOURCE_TYPE, TOO_LARGE, GZIP_DAMAGED or
            ARCHIVE_BOMB.
        message: What is wrong, without patient data.
    """

    number: int
    text: bytes
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Expansion:
    """What a compressed file may expand to.

    Attributes:
        max_ratio: Past 16 MiB, at most so many times its size.
        max_bytes: At most so much.
    """

    max_ratio: float
    max_bytes: int


class _BombError(OSError):
    """A file expands to more than it may."""


class _Expanded(io.RawIOBase):
    """What a gzip file expands to, up to a limit; where it is damaged, up to the damage.

    Attributes:
        is_damaged: Whether it ended with damage when it was last read to its end.
    """

    def __init__(self, packed: BinaryIO, most: int) -> None:
        self._packed, self._most = packed, most
        self._begin()

    def _begin(self) -> None:
        self._packed.seek(0)
        self._pieces, self._piece, self._at = _expanded(self._packed), memoryview(b""), 0
        self.is_damaged = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self._piece = self._piece or memoryview(next(self._pieces, b""))
        except _GZIP_ERRORS:
            self.is_damaged = True
        read = min(len(buffer), len(self._piece))
        buffer[:read], self._piece = self._piece[:read], self._piece[read:]
        self._at += read
        if self._at > self._most:
            raise _BombError
        return read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("where it ends is not known")
        if offset < self._at:
            self._begin()
        while self._at < offset and self.read(min(offset - self._at, _BUFFER)):
            pass
        return self._at

    def tell(self) -> int:
        return self._at


def _expanded(packed: BinaryIO) -> Iterator[bytes]:
    """Yields what the members of a gzip file expand to, all that comes before damage first.

    Not by isal, which is faster, but cannot say what it had expanded when it met damage.
    """
    member = None
    while piece := packed.read(_PACKED_PIECE):
        while piece:
            if member is None and not (piece := piece.lstrip(b"\0")):  # what fills up a block
                break
            member = member or zlib.decompressobj(_GZIP_MEMBER)
            before = member.copy()
            try:
                data = member.decompress(piece)
            except zlib.error:
                # the byte that is wrong raises it again
                yield from filter(None, (before.decompress(bytes([byte])) for byte in piece))
                raise
            if data:
                yield data
            piece = member.unused_data
            if member.eof:
                member = None
    if member:
        raise EOFError


def read_file(
    stream: BinaryIO, *, resource_type: str | None, may_expand: Expansion
) -> Iterator[Line | BadLine]:
    """Yields a file's resources, in order (`read_lines`), what gzip has compressed expanded.

    Of bad lines the first 10,000 are yielded. Where there are more than the file's size justifies,
    one more is, which says that what follows was not read.

    Args:
        stream: The file, at its beginning; it can be sought.
        resource_type: As of `read_lines`.
        may_expand: How far.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    text = io.BufferedReader(cast(io.RawIOBase, stream), _BUFFER)
    if text.peek(len(_GZIP))[: len(_GZIP)] == _GZIP:
        most = min(max(_FREE_EXPANSION, int(size * may_expand.max_ratio)), may_expand.max_bytes)
        lines = _lines_of_gzip(_Expanded(cast(BinaryIO, text), most), resource_type)
    else:
        lines = read_lines(cast(BinaryIO, text), resource_type=resource_type)
    most, bad = _FREE_BAD_LINES + size // _BYTES_PER_BAD_LINE, 0
    for line in lines:
        if isinstance(line, Line) or line.reason in _OF_THE_FILE:
            yield line
            continue
        bad += 1
        if bad == most:
            yield replace(line, message=line.message + _REST)
            return
        if bad < _MOST_TOLD:
            yield line
        elif bad == _MOST_TOLD:
            yield replace(line, message=line.message + _NOT_TOLD)


def _lines_of_gzip(expanded: _Expanded, resource_type: str | None) -> Iterator[Line | BadLine]:
    """Yields all that comes before damage, then the damage: a last line that was cut is it."""
    last = None
    text = cast(BinaryIO, io.BufferedReader(expanded, _BUFFER))
    for line in read_lines(text, resource_type=resource_type):
        if last:
            yield last
        last = line
    if expanded.is_damaged and isinstance(last, BadLine) and last.reason is Reason.INVALID_JSON:
        yield replace(last, reason=Reason.GZIP_DAMAGED, message=MEANINGS[Reason.GZIP_DAMAGED])
        return
    if last:
        yield last
    if expanded.is_damaged:
        number = last.number + 1 if last else 1
        yield BadLine(number, b"", Reason.GZIP_DAMAGED, MEANINGS[Reason.GZIP_DAMAGED])


def read_lines(stream: BinaryIO, *, resource_type: str | None) -> Iterator[Line | BadLine]:
    """Yields a file's resources, in order. Blank lines count, but say nothing.

    A byte order mark, CRLF, and a last line without end are taken. One resource, or line, is in
    memory at a time.

    Args:
        stream: The file's text; it can be sought.
        resource_type: The type that every resource must have; a Bundle stands for its entries. None
            takes every type that R4B knows.
    """
    last = 0
    try:
        for at, text, wrong in _texts(stream, resource_type):
            at_least = max(at, last + 1)
            bad = wrong and BadLine(at_least, text, *wrong)
            for line in [bad] if bad else _line(at_least, text, resource_type):
                last = line.number
                yield line
    except _BombError:
        yield BadLine(last + 1, b"", Reason.ARCHIVE_BOMB, MEANINGS[Reason.ARCHIVE_BOMB])


_Text = tuple[int, bytes, tuple[Reason, str] | None]
"""Number, text, and, of one that is already known to be bad, why."""


def _texts(stream: BinaryIO, resource_type: str | None) -> Iterator[_Text]:
    """Yields what stands in the place of a resource, with its line, or its position."""
    start = stream.tell()
    for number, text in _lines(stream, most=_LONG_LINE):
        is_long = text[-1:] != b"\n" and len(text) > _LONG_LINE
        goes_on = text[:1] in b"[{" and text.rstrip()[-1:] in b"[{,:"  # below
        if goes_on or (is_long and starts_several(text)):
            stream.seek(start)
            yield from _of_document(stream, resource_type, number, start)
            return
        break
    stream.seek(start)
    yield from _of_lines(stream, resource_type)


def _lines(stream: BinaryIO, *, most: int) -> Iterator[tuple[int, bytes]]:
    """Yields lines that are not blank, without blanks before them, the last of them cut."""
    number = 0
    while raw := stream.readline(most + 1):
        number += 1
        text = raw.removeprefix(_BOM) if number == 1 else raw
        if text.strip():
            yield number, text.lstrip()


def _of_lines(stream: BinaryIO, resource_type: str | None) -> Iterator[_Text]:
    number = 0
    while raw := stream.readline(MAX_RESOURCE_BYTES + 1):
        number += 1
        if len(raw) > MAX_RESOURCE_BYTES:
            while raw and raw[-1:] != b"\n":
                raw = stream.readline(1 << 20)
            yield number, b"", (Reason.TOO_LARGE, f"longer than {MAX_RESOURCE_BYTES} bytes")
            continue
        text = (raw.removeprefix(_BOM) if number == 1 else raw).rstrip(b"\r\n")
        if not text.strip():
            continue
        if resource_type != "Bundle" and starts_several(text.lstrip()):
            yield from _of_one_line(number, text)
        else:
            yield number, text, None


def _of_one_line(number: int, text: bytes) -> Iterator[_Text]:
    is_whole = True
    try:
        for part in Document(io.BytesIO(text)).texts():
            is_whole = False
            yield number, on_one_line(part), None
    except BrokenDocumentError as error:
        rest = text if is_whole else error.rest
        yield number, rest, (Reason.INVALID_JSON, "the line is not JSON")


def _of_document(
    stream: BinaryIO, resource_type: str | None, first: int, start: int
) -> Iterator[_Text]:
    """Yields the resources of a file that is one JSON document, or several; else its lines."""
    if stream.read(len(_BOM)) != _BOM:
        stream.seek(start)
    position = 0
    try:
        document = Document(stream, bundles_are_resources=resource_type == "Bundle")
        for position, part in enumerate(document.texts(), start=1):
            yield position, on_one_line(part), None
    except BrokenDocumentError as error:
        if position:
            message = "the document goes wrong here; what comes before it was taken"
            yield position + 1, error.rest, (Reason.INVALID_JSON, message)
            return
        stream.seek(start)
        if any(_is_object(text) for _, text in _lines(stream, most=MAX_RESOURCE_BYTES)):
            stream.seek(start)  # NDJSON after all, with a bad first line
            yield from _of_lines(stream, resource_type)
            return
        stream.seek(start)
        whole = stream.read(MAX_RESOURCE_BYTES).removeprefix(_BOM).rstrip(b"\r\n")
        yield first, whole, (Reason.INVALID_JSON, "neither NDJSON nor one JSON document")


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _line(number: int, text: bytes, resource_type: str | None) -> Iterator[Line | BadLine]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        yield BadLine(number, text, *_not_json(error))
        return
    if is_too_deep(value):
        yield BadLine(number, text, Reason.NESTED_TOO_DEEP, TOO_DEEP)
    elif isinstance(value, dict) and _is_bundle(value, resource_type):
        for place, part in enumerate(_parts(value, resource_type)):
            yield _resource(number + place, part, orjson.dumps(part), resource_type)
    else:
        yield _resource(number, value, text, resource_type)


def _parts(value: Any, resource_type: str | None) -> Iterator[Any]:
    """Yields the resources in an array or a Bundle, however they are nested."""
    if isinstance(value, list):
        for part in value:
            yield from _parts(part, resource_type)
    elif isinstance(value, dict) and _is_bundle(value, resource_type):
        for entry in value.get("entry") or ():
            yield from _parts(
                entry.get("resource") if isinstance(entry, dict) else entry, resource_type
            )
    else:
        yield value


def _is_bundle(value: dict[str, Any], resource_type: str | None) -> bool:
    entries = isinstance(value.get("entry", []), list)
    return entries and value.get("resourceType") == "Bundle" != resource_type


def _resource(number: int, value: Any, text: bytes, resource_type: str | None) -> Line | BadLine:
    if not isinstance(value, dict):
        message = "JSON, but no object: a FHIR resource is a JSON object"
        return BadLine(number, text, Reason.INVALID_JSON, message)
    said = value.get("resourceType")
    if not isinstance(said, str) or (resource_type and said != resource_type):
        message = f"the resourceType is not {resource_type}" if resource_type else "no resourceType"
        return BadLine(number, text, Reason.WRONG_RESOURCE_TYPE, message)
    if resource_type is None and not _is_known(said):
        message = "FHIR R4B has no such resource type"
        return BadLine(number, text, Reason.WRONG_RESOURCE_TYPE, message)
    identifier, meta = value.get("id"), value.get("meta")
    updated = meta.get("lastUpdated") if isinstance(meta, dict) else None
    return Line(
        number,
        text.decode(),
        said,
        identifier if isinstance(identifier, str) else None,
        instant_of(updated) if isinstance(updated, str) else None,
    )


def _is_known(resource_type: str) -> bool:
    from dicom_assets.fhir.model import is_resource_type

    return is_resource_type(resource_type)


def is_too_deep(value: Any) -> bool:
    """Says whether JSON is nested deeper than can be written again: 254 levels."""
    try:
        orjson.dumps(value)
    except TypeError:  # what was read as JSON has no other
        return True
    return False


def _not_json(error: orjson.JSONDecodeError) -> tuple[Reason, str]:
    if "UTF-8" in str(error):
        return Reason.INVALID_JSON, "the line is not UTF-8"
    if "depth" in error.msg:
        return Reason.NESTED_TOO_DEEP, TOO_DEEP
    return Reason.INVALID_JSON, f"the line is not JSON: it goes wrong at character {error.pos + 1}"
