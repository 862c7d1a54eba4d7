"""Files of FHIR resources → lines.

Decided here: what counts as a line, and what is wrong with a bad one. The form is NDJSON, one
resource a line; files that hold pretty-printed resources, a JSON array or a Bundle are taken too,
each resource in them as if it were a line. Not decided here: whether one is valid (`model`).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, BinaryIO

import orjson

from dicom_assets.fhir.dates import instant_of
from dicom_assets.lakehouse.reasons import Reason

MAX_DOCUMENT_BYTES = 256 << 20
"""Largest pretty-printed file: it has to be in memory as a whole, unlike NDJSON."""

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Line:
    """One resource.

    Attributes:
        number: Line number from 1; in a file that is one JSON document, the resource's position.
        text: The line unchanged, without its end; out of a document, the resource on one line.
        id: The resource's id, if it has one.
        last_updated: meta.lastUpdated in UTC, if it has one.
    """

    number: int
    text: str
    id: str | None
    last_updated: datetime | None


@dataclass(frozen=True, slots=True)
class BadLine:
    """One line that is no such resource.

    Attributes:
        number: Line number from 1, or position in a document.
        text: The line's bytes, without its end.
        reason: INVALID_JSON or WRONG_RESOURCE_TYPE.
        message: What is wrong, without patient data.
    """

    number: int
    text: bytes
    reason: Reason
    message: str


def read_lines(stream: BinaryIO, *, resource_type: str) -> Iterator[Line | BadLine]:
    """Yields a file's resources, in order. Blank lines count, but say nothing.

    A byte order mark, CRLF, and a last line without end are taken. NDJSON is streamed.

    Args:
        stream: The file.
        resource_type: The type that every resource must have; a Bundle stands for its entries.
    """
    lines = enumerate(stream, start=1)
    for number, raw in lines:
        text = (raw.removeprefix(_BOM) if number == 1 else raw).rstrip(b"\r\n")
        if not text.strip():
            continue
        if text.lstrip()[:1] in b"[{" and text.rstrip()[-1:] in b"[{,:":  # it goes on below
            yield from _document(number, text, lines, resource_type)
        else:
            yield from _line(number, text, resource_type)
            yield from chain.from_iterable(
                _line(n, each.rstrip(b"\r\n"), resource_type) for n, each in lines if each.strip()
            )


def _line(number: int, text: bytes, resource_type: str) -> Iterator[Line | BadLine]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        yield BadLine(number, text, Reason.INVALID_JSON, _not_json(error))
        return
    if isinstance(value, dict) and not _is_bundle(value, resource_type):
        yield _resource(number, value, text, resource_type)
    else:
        for part in _parts(value, resource_type):
            yield _resource(number, part, orjson.dumps(part), resource_type)


def _document(
    number: int, first: bytes, rest: Iterator[tuple[int, bytes]], resource_type: str
) -> Iterator[Line | BadLine]:
    """Yields the resources of a file that is one JSON document; else its lines."""
    lines, size = [(number, first)], len(first)
    for n, raw in rest:
        lines.append((n, raw.rstrip(b"\r\n")))
        size += len(raw)
        if size > MAX_DOCUMENT_BYTES:
            break
    data = b"\n".join(text for _, text in lines)
    values = _values(data)
    if values is not None:
        for position, part in enumerate(_parts(values, resource_type), start=1):
            yield _resource(position, part, orjson.dumps(part), resource_type)
    elif size <= MAX_DOCUMENT_BYTES and not any(_is_object(text) for _, text in lines):
        message = "neither NDJSON nor one JSON document"
        yield BadLine(number, data, Reason.INVALID_JSON, message)
    else:  # NDJSON after all, with a bad first line
        remaining = ((n, raw.rstrip(b"\r\n")) for n, raw in rest)
        for n, text in chain(lines, remaining):
            if text.strip():
                yield from _line(n, text, resource_type)


def _values(data: bytes) -> list[Any] | None:
    """Returns the JSON values in a text, one after the other; None if there is anything else."""
    decoder, values, at = json.JSONDecoder(), [], 0
    try:
        text = data.decode()
        while (at := _end_of_space(text, at)) < len(text):
            _, end = decoder.raw_decode(text, at)
            values.append(orjson.loads(text[at:end]))
            at = end
    except (ValueError, RecursionError):
        return None
    return values


def _end_of_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _parts(value: Any, resource_type: str) -> Iterator[Any]:
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


def _is_bundle(value: dict[str, Any], resource_type: str) -> bool:
    entries = isinstance(value.get("entry", []), list)
    return entries and value.get("resourceType") == "Bundle" != resource_type


def _resource(number: int, value: Any, text: bytes, resource_type: str) -> Line | BadLine:
    if not isinstance(value, dict):
        message = "JSON, but no object: a FHIR resource is a JSON object"
        return BadLine(number, text, Reason.INVALID_JSON, message)
    if value.get("resourceType") != resource_type:
        message = f"the resourceType is not {resource_type}"
        return BadLine(number, text, Reason.WRONG_RESOURCE_TYPE, message)
    identifier, meta = value.get("id"), value.get("meta")
    updated = meta.get("lastUpdated") if isinstance(meta, dict) else None
    return Line(
        number,
        text.decode(),
        identifier if isinstance(identifier, str) else None,
        instant_of(updated) if isinstance(updated, str) else None,
    )


def _not_json(error: orjson.JSONDecodeError) -> str:
    if "UTF-8" in str(error):
        return "the line is not UTF-8"
    return f"the line is not JSON: it goes wrong at character {error.pos + 1}"
