"""What the conversion to ImagingStudy needs of a metastore row, kept small.

Decided here: which columns are read, and which nested elements are taken out of `metadata_string`
(DICOM JSON Model, PS3.18 F), as JSON text or lists. A header is scanned, not parsed: only the
wanted elements become Python values, and the same elements, as a series repeats them, once. Not
decided here: what they mean in FHIR (`imaging_study`, `series`, `codes`).
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
import orjson
import pyarrow as pa

from dicom_assets.lakehouse.schemas import TIMESTAMP, field

_KEPT = (
    "sourceSystem",
    "studyInstanceUid",
    "seriesInstanceUid",
    "sopInstanceUid",
    "patientId",
    "accessionNumber",
    "referringPhysicianName",
    "studyDate",
    "studyTime",
    "timezoneOffsetFromUtc",
    "studyDescription",
    "modality",
    "seriesNumber",
    "seriesDescription",
    "seriesDate",
    "seriesTime",
    "bodyPartExamined",
    "laterality",
    "sopClassUid",
    "instanceNumber",
)

COLUMNS = (
    *_KEPT,
    "documentTitle",
    "metadata_string",
    "filePath",
    "sourcePath",
    "contentHash",
    "ingestedAt",
    "sourceModifiedAt",
)
"""Metastore columns that `project` reads."""

_CODES = "as JSON text [[code, scheme designator, meaning], …]"
_ISSUER = "as JSON text [namespace, universal id, universal id type]"

INSTANCES = pa.schema(
    [
        *(
            field(name, pa.string(), "As in the metastore", required=name in _KEPT[:4])
            for name in _KEPT
        ),
        field("patientIdIssuer", pa.string(), f"Issuer of Patient ID (0010,0021/0024) {_ISSUER}"),
        field("accessionIssuer", pa.string(), f"Issuer of Accession Number (0008,0051) {_ISSUER}"),
        field("procedureCodes", pa.string(), f"Procedure codes (0008,1032) {_CODES}"),
        field("reasonCodes", pa.string(), f"Reasons of the request (0040,100A) {_CODES}"),
        field("reasonText", pa.string(), "Reason for the Requested Procedure (0040,1002)"),
        field("anatomicRegion", pa.string(), f"Anatomic Region (0008,2218) {_CODES}"),
        field("imageLaterality", pa.string(), "Image Laterality (0020,0062)"),
        field(
            "performers",
            pa.list_(pa.string()),
            "Operators' Name (0008,1070), Performing Physician's Name (0008,1050)",
        ),
        field("title", pa.string(), "Document Title, else Concept Name, else Content Label"),
        field("folder", pa.string(), "Parent folder of filePath"),
        field("fileName", pa.string(), "Last part of filePath"),
        field("sourcePath", pa.string(), "Where it was dropped"),
        field("contentHash", pa.string(), "SHA-256 of the DICOM file"),
        field("ingestedAt", TIMESTAMP, "When the file was taken in"),
        field("sourceModifiedAt", TIMESTAMP, "Modification time of the dropped file"),
    ]
)
"""One row per metastore row: what the conversion needs of it."""

_COPIED = {*_KEPT, "sourcePath", "contentHash", "ingestedAt", "sourceModifiedAt"}

_WANTED = """
00080051 00081032 00081050 00081070 00082218 00100021 00100024 00200062 0040A043 0040100A 00400275
00401002 00700080
"""
_Wanted = msgspec.defstruct(
    "_Wanted",
    [(f"_{tag}", msgspec.Raw, msgspec.Raw()) for tag in _WANTED.split()],
    rename=lambda name: name[1:],
    omit_defaults=True,
)
_SCANNER = msgspec.json.Decoder(_Wanted)
_WRITER = msgspec.json.Encoder()
_LONGEST_KEPT = 8192

Elements = dict[str, Any]


def project(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns the batch's rows with the schema INSTANCES.

    A `metadata_string` that is no JSON states nothing; the row keeps what its own columns say.

    Args:
        batch: Metastore rows with at least COLUMNS.
    """
    metadata = _typed(batch["metadata_string"], pa.string())
    nested = [_nested(each.as_buffer()) if each.is_valid else {} for each in metadata]
    found: dict[str, list[Any]] = {
        name: [row.get(name) for row in nested] for name in INSTANCES.names if name not in _COPIED
    }
    found["title"] = [
        _text(stated) or title
        for stated, title in zip(batch["documentTitle"].to_pylist(), found["title"], strict=True)
    ]
    paths = [(path or "").rpartition("/") for path in batch["filePath"].to_pylist()]
    found["folder"] = [folder or None for folder, _, _ in paths]
    found["fileName"] = [name or None for _, _, name in paths]
    arrays = [
        _typed(batch[each.name], each.type)
        if each.name in _COPIED
        else pa.array(found[each.name], each.type)
        for each in INSTANCES
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=INSTANCES)


def _typed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)


def _nested(text: pa.Buffer) -> Mapping[str, Any]:
    """Returns the nested elements that are stated, by column of INSTANCES."""
    try:
        wanted = _WRITER.encode(_SCANNER.decode(text))
    except msgspec.MsgspecError:  # no strict JSON
        return _read(text.to_pybytes())
    return _read_once(wanted) if len(wanted) <= _LONGEST_KEPT else _read(wanted)


@lru_cache(maxsize=1024)
def _read_once(text: bytes) -> Mapping[str, Any]:
    return _read(text)


def _read(text: bytes) -> Mapping[str, Any]:
    elements = _parse(text)
    row: dict[str, Any] = {}
    if "00100021" in elements or "00100024" in elements:
        qualifiers = _items(elements, "00100024")
        universal = _universal(qualifiers[0]) if qualifiers else (None, None)
        row["patientIdIssuer"] = _issuer(_value(elements, "00100021"), *universal)
    if issuers := _items(elements, "00080051"):
        namespace = _value(issuers[0], "00400031")
        row["accessionIssuer"] = _issuer(namespace, *_universal(issuers[0]))
    row["procedureCodes"] = _codes(_items(elements, "00081032"))
    row["anatomicRegion"] = _codes(_items(elements, "00082218")[:1])
    # images state the reason inside Request Attributes (0040,0275), requests at the top
    places = [elements, *_items(elements, "00400275")]
    row["reasonCodes"] = _codes([item for each in places for item in _items(each, "0040100A")])
    row["reasonText"] = next(filter(None, (_value(each, "00401002") for each in places)), None)
    row["imageLaterality"] = _value(elements, "00200062")
    names = [_name(v) for tag in ("00081070", "00081050") for v in _values(elements, tag)]
    row["performers"] = list(dict.fromkeys(filter(None, names))) or None
    concepts = [_code(item) for item in _items(elements, "0040A043")[:1]]
    titles = [meaning or code for code, _, meaning in concepts]
    row["title"] = next(filter(None, titles), None) or _value(elements, "00700080")
    return row


def _parse(text: bytes) -> Elements:
    try:
        elements = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:  # NaN of a float element, half of a surrogate pair: the standard library takes both
            elements = json.loads(text)
        except (ValueError, RecursionError):
            return {}
    return elements if isinstance(elements, dict) else {}


def _values(elements: Elements, tag: str) -> list[Any]:
    element = elements.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [v for v in values if v is not None] if isinstance(values, list) else []


def _items(elements: Elements, tag: str) -> list[Elements]:
    return [item for item in _values(elements, tag) if isinstance(item, dict)]


def _value(elements: Elements, tag: str) -> str | None:
    return next(filter(None, (_text(v) for v in _values(elements, tag))), None)


def _text(value: Any) -> str | None:
    if not isinstance(value, str | int | float):
        return None
    return str(value).encode("utf-8", "replace").decode().strip() or None


def _name(value: Any) -> str | None:
    """Returns a person's name: its alphabetic group, else ideographic, else phonetic."""
    if not isinstance(value, dict):
        return _text(value)
    groups = (_text(value.get(group)) for group in ("Alphabetic", "Ideographic", "Phonetic"))
    return next(filter(None, groups), None)


def _universal(item: Elements) -> tuple[str | None, str | None]:
    return _value(item, "00400032"), _value(item, "00400033")


def _issuer(*parts: str | None) -> str | None:
    return _json(parts) if any(parts) else None


def _code(item: Elements) -> tuple[str | None, str | None, str | None]:
    """Returns code, scheme designator, meaning of a code sequence item (PS3.3 8.8)."""
    # Code Value, Long Code Value, URN Code Value: one of them
    code = next(filter(None, (_value(item, t) for t in ("00080100", "00080119", "00080120"))), None)
    return code, _value(item, "00080102"), _value(item, "00080104")


def _codes(items: list[Elements]) -> str | None:
    codes = [code for code in dict.fromkeys(_code(item) for item in items) if code[0] or code[2]]
    return _json(codes) if codes else None


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
