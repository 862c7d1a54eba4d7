"""FHIR resource ↔ silver row, for any R4B resource type.

Decided here: what columns a resource type has and how an element is written into them.

* Primitives are columns of their own type; decimals float64 (the digits as sent stay in bronze).
* date, dateTime, instant and time are text; `<element>_timestamp` (UTC) and `<element>_date` hold
  them typed where the text is that precise, null where it is not. A time has no typed twin.
* Complex elements are structs or arrays, with `<element>_string`, the same as FHIR JSON text.
  Elements that recur into themselves (extension, contained, assigner, …) are JSON text only.
* References get `idOrig`, the bare id, and `id`, the silver id of the row they point to. They take
  the place of FHIR's inter-element `id`, which stays in the JSON text.
* `primitiveExtension` keeps what FHIR JSON says under `_<element>` of primitives.

`resource_of` reads the JSON texts and the primitives, so nothing R4B knows is lost. Not decided
here: which rows are written (`silver`).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

import orjson
import pyarrow as pa

from dicom_assets.fhir.dates import date_of, instant_of
from dicom_assets.fhir.links import LINKED, STUDY_IDS
from dicom_assets.fhir.model import Element, elements, known_elements
from dicom_assets.lakehouse.keys import hex_key
from dicom_assets.lakehouse.schemas import TIMESTAMP, field

_ARROW = {
    "boolean": pa.bool_(),
    "integer": pa.int32(),
    "positiveInt": pa.int32(),
    "unsignedInt": pa.int32(),
    "decimal": pa.float64(),
}
_WITH_TIMESTAMP = ("dateTime", "instant")
_WITH_DATE = ("date", "dateTime")
_REFERENCE = re.compile(
    r"(?:.*/)?([A-Z][A-Za-z]{1,63})/([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?"
)
_URN = re.compile(r"urn:(?:uuid|oid):(\S+)")


ALWAYS_VALID = frozenset({"ImagingStudy"})
"""Types of which no invalid resource comes into silver: gold's keys are made of them."""
ERRORS = "validationErrors"


@dataclass(frozen=True, slots=True)
class Sourced:
    """A resource and where it comes from.

    Attributes:
        resource: The resource, valid FHIR R4B, with an id.
        source_system: Namespace of the source.
        source_file_path: The NDJSON file.
        created_at: When silver first held the resource.
        modified_at: When silver was last written.
        errors: What is invalid about it, as sent.
    """

    resource: dict[str, Any]
    source_system: str
    source_file_path: str | None
    created_at: datetime
    modified_at: datetime
    errors: tuple[str, ...] = ()


def silver_id(source_system: str, resource_type: str, original_id: str) -> str:
    """Returns the key of a silver row."""
    return hex_key(source_system, resource_type, original_id)


@cache
def silver_schema(resource_type: str) -> pa.Schema:
    """Returns the columns of a resource type's silver table.

    Raises:
        ValueError: FHIR R4B has no such resource type.
    """
    columns = [
        field("id", pa.string(), "SHA-256 of source system, type and original id", required=True),
        field("idOrig", pa.string(), "The resource's own id", required=True),
        field("sourceSystem", pa.string(), "Namespace of the source", required=True),
        field("meta_lastUpdated", TIMESTAMP, "When the resource last changed, by meta"),
    ]
    for element in elements(resource_type):
        if element.name != "id":
            columns += _columns(element)
    if resource_type in LINKED:
        said = f"For each {LINKED[resource_type]} the silver id of the ImagingStudy, if it is known"
        columns.append(field(STUDY_IDS, pa.list_(pa.string()), said))
    if resource_type not in ALWAYS_VALID:
        said = "What is invalid about the resource as it was sent; null: nothing"
        columns.append(field(ERRORS, pa.list_(pa.string()), said))
    return pa.schema(
        [
            *columns,
            field("primitiveExtension", pa.string(), "Extensions of primitives, as JSON text"),
            field("createdAt", TIMESTAMP, "When this row was first written"),
            field("modifiedAt", TIMESTAMP, "When this row was last written"),
            field("sourceFilePath", pa.string(), "The NDJSON file of the newest statement"),
        ]
    )


def resource_columns(resource_type: str) -> list[str]:
    """Returns the silver columns that `resource_of` and `silver.upserts` read."""
    columns = ["id", "idOrig", "primitiveExtension", "createdAt", "sourceFilePath"]
    if resource_type not in ALWAYS_VALID:
        columns.append(ERRORS)
    return columns + [
        f"{element.name}_string" if element.fields else element.name
        for element in elements(resource_type)
        if element.name != "id"
    ]


def flatten(resource_type: str, resources: Iterable[Sourced]) -> pa.Table:
    """Returns silver rows, one per resource.

    Elements that R4B does not know have no column; the bronze row keeps them.
    """
    known = (replace(each, resource=known_elements(each.resource)) for each in resources)
    return flatten_known(resource_type, known)


def flatten_known(resource_type: str, resources: Iterable[Sourced]) -> pa.Table:
    """Returns silver rows of resources as `model.known_elements` returns them."""
    rows = [_row(resource_type, sourced) for sourced in resources]
    schema = silver_schema(resource_type)
    return pa.Table.from_arrays([_array(rows, column) for column in schema], schema=schema)


def _array(rows: list[dict[str, Any]], column: pa.Field) -> pa.Array:
    values = [row.get(column.name) for row in rows]
    # most columns are empty, and a builder of deeply nested ones costs as much as many rows
    empty = values.count(None) == len(values)
    return pa.nulls(len(values), column.type) if empty else pa.array(values, column.type)


def resource_of(resource_type: str, row: dict[str, Any]) -> dict[str, Any]:
    """Returns the FHIR JSON of a silver row, from `resource_columns`."""
    resource: dict[str, Any] = {"resourceType": resource_type, "id": row["idOrig"]}
    for element in elements(resource_type):
        if element.name == "id":
            continue
        as_json = bool(element.fields) or element.as_text
        value = row.get(f"{element.name}_string" if element.fields else element.name)
        if value is not None:
            resource[element.name] = orjson.loads(value) if as_json else value
    return resource | orjson.loads(row.get("primitiveExtension") or "{}")


def _columns(element: Element) -> list[pa.Field]:
    name, comment = element.name, element.comment
    columns = [field(name, _type(element), comment)]
    if element.fields:
        columns.append(field(f"{name}_string", pa.string(), f"{name} as FHIR JSON text"))
    if not element.many and element.fhir_type in _WITH_TIMESTAMP:
        said = f"{name} in UTC; null where it has no time of day"
        columns.append(field(f"{name}_timestamp", TIMESTAMP, said))
    if not element.many and element.fhir_type in _WITH_DATE:
        said = f"{name} as calendar date; null where it is only a year or month"
        columns.append(field(f"{name}_date", pa.date32(), said))
    return columns


def _type(element: Element) -> pa.DataType:
    """Returns an element's Arrow type; a text that stands for a whole array is no array."""
    if element.as_text:
        return pa.string()
    kind = _ARROW.get(element.fhir_type, pa.string())
    if element.fields:
        fields = [
            (each.name, _type(each)) for each in element.fields if not _is_own_id(element, each)
        ]
        if element.fhir_type == "Reference":
            fields += [("id", pa.string()), ("idOrig", pa.string())]
        kind = pa.struct(fields)
    return pa.list_(kind) if element.many else kind


def _is_own_id(element: Element, child: Element) -> bool:
    return element.fhir_type == "Reference" and child.name == "id"


@cache
def _columns_of(resource_type: str) -> dict[str, tuple[Element, "_Write"]]:
    """Returns the elements but for the id, and what writes each into its column."""
    found = elements(resource_type)
    return {each.name: (each, _writer(each)) for each in found if each.name != "id"}


def _row(resource_type: str, sourced: Sourced) -> dict[str, Any]:
    resource, system = sourced.resource, sourced.source_system
    columns = _columns_of(resource_type)
    row: dict[str, Any] = {
        "id": silver_id(system, resource_type, resource["id"]),
        "idOrig": resource["id"],
        "sourceSystem": system,
        "createdAt": sourced.created_at,
        "modifiedAt": sourced.modified_at,
        "sourceFilePath": sourced.source_file_path,
    }
    extensions = {}
    for name, value in resource.items():
        if name not in columns:
            if name.startswith("_"):
                extensions[name] = value
            continue
        element, write = columns[name]
        row[name] = write(value, system)
        if element.fields:
            row[f"{name}_string"] = _json(value)
        if element.fhir_type in _WITH_TIMESTAMP:
            row[f"{name}_timestamp"] = instant_of(row[name])
        if element.fhir_type in _WITH_DATE:
            row[f"{name}_date"] = date_of(row[name])
    if "meta" in row:
        row["meta_lastUpdated"] = instant_of(row["meta"].get("lastUpdated"))
    if extensions:
        row["primitiveExtension"] = _json(extensions)
    if sourced.errors:
        row[ERRORS] = list(sourced.errors)
    return row


_Write = Callable[[Any, str], Any]
"""Writes a value, of a resource of a source system, as its column holds it."""


def _writer(element: Element) -> _Write:
    if element.as_text:
        return lambda value, system: _json(value)
    write = _struct(element) if element.fields else _PRIMITIVES.get(element.fhir_type, _text)
    if not element.many:
        return write
    return lambda values, system: [
        None if value is None else write(value, system) for value in values
    ]


def _struct(element: Element) -> _Write:
    """Returns what writes a complex element; Arrow makes nulls of the parts that are not there."""
    parts = {each.name: _writer(each) for each in element.fields}

    def write(value: dict[str, Any], system: str) -> dict[str, Any]:
        return {name: parts[name](part, system) for name, part in value.items() if name in parts}

    if element.fhir_type != "Reference":
        return write
    return lambda value, system: write(value, system) | _target(value, element.targets, system)


def _text(value: Any, _: str) -> str:
    return value if isinstance(value, str) else _json(value)


# the validator takes "3" for 3, so these do too


def _boolean(value: Any, _: str) -> bool:
    return value if isinstance(value, bool) else str(value).lower() in ("true", "1", "yes", "on")


def _integer(value: Any, _: str) -> int:
    return value if type(value) is int else int(float(value))


def _decimal(value: Any, _: str) -> float:
    return float(value)


_PRIMITIVES: dict[str, _Write] = {
    "boolean": _boolean,
    "integer": _integer,
    "positiveInt": _integer,
    "unsignedInt": _integer,
    "decimal": _decimal,
}


def _target(
    reference: dict[str, Any], targets: tuple[str, ...], source_system: str
) -> dict[str, str | None]:
    """Returns the bare id a reference names, and the silver id of that row.

    `urn:uuid:` names no type: then it comes from Reference.type, or the only type that can stand
    here. Contained, conditional and logical references point to no row.
    """
    text = reference.get("reference") or ""
    if match := _REFERENCE.fullmatch(text):
        kind, bare = match[1], match[2]
    elif match := _URN.fullmatch(text):
        kind = reference.get("type") or (targets[0] if len(targets) == 1 else None)
        bare = match[1]
    else:
        return {"id": None, "idOrig": None}
    return {"id": silver_id(source_system, kind, bare) if kind else None, "idOrig": bare}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
