"""Invalid resources → as much of them as silver's columns hold.

Decided here: what is kept of an element that is not as R4B has it. One value where there should be
an array becomes an array of it, an array of one value where there should be one becomes that value;
numbers and booleans where there should be text become text; anything else is left out. What is
wrong is said beside the row (`model.problems`), and bronze keeps all of it. Not decided here:
whether invalid resources are kept at all (the setting `fhir_validation`).
"""

from collections.abc import Callable
from typing import Any

import orjson

from dicom_assets.fhir.model import Element, elements, known_elements

_INT32 = 1 << 31
_FITS: dict[str, Callable[[Any], bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: type(value) is int and -_INT32 <= value < _INT32,
    "positiveInt": lambda value: type(value) is int and 0 <= value < _INT32,
    "unsignedInt": lambda value: type(value) is int and 0 <= value < _INT32,
    "decimal": lambda value: type(value) in (int, float),
}


def fitting(resource: dict[str, Any]) -> dict[str, Any]:
    """Returns what of a resource fits silver's columns; of a valid one, all that R4B knows."""
    known = known_elements(resource)
    kept = _object(known, elements(resource["resourceType"]))
    return {"resourceType": resource["resourceType"], **kept}


def _object(value: dict[str, Any], fields: tuple[Element, ...]) -> dict[str, Any]:
    kept = {}
    for field in fields:
        part = _element(value.get(field.name), field)
        if part is not None:
            kept[field.name] = part
        extension = value.get(f"_{field.name}")
        if extension is not None:
            kept[f"_{field.name}"] = extension
    return kept


def _element(value: Any, field: Element) -> Any:
    if value is None or field.as_text:
        return value
    if not field.many:
        if isinstance(value, list):
            value = value[0] if len(value) == 1 else None
        return _one(value, field)
    values = value if isinstance(value, list) else [value]
    if field.fields:
        return [part for each in values if (part := _one(each, field)) is not None] or None
    # a null has its place: an extension may stand for it
    return [_one(each, field) for each in values]


def _one(value: Any, field: Element) -> Any:
    if value is None:
        return None
    if field.fields:
        return _object(value, field.fields) or None if isinstance(value, dict) else None
    if fits := _FITS.get(field.fhir_type):
        return value if fits(value) else None
    return value if isinstance(value, str) else orjson.dumps(value).decode()
