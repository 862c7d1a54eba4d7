"""The FHIR R4B model: what elements a type has, and whether a resource is valid.

Decided here: how fhir.resources' models are read, where recursion is cut, and what is said about an
invalid resource. Not decided here: how elements become columns (`flatten`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from fhir_core.fhirabstractmodel import FHIRAbstractModel
from fhir_core.types import FhirBase

RECURSIVE = frozenset({"extension", "modifierExtension", "contained", "assigner"})
"""Elements that are kept as JSON text wherever they stand."""

_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)\. (?=[A-Z])")
_EXTRA = "extra_forbidden"
_NOT_TEXT = "string_type"
_DATES = frozenset({"date", "dateTime", "instant", "time"})
_PROBLEMS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a FHIR type.

    Attributes:
        name: Its name in FHIR JSON.
        fhir_type: `code`, `dateTime`, `Coding`, `ImagingStudySeries`, …
        many: Whether it is an array.
        comment: First sentence of its definition.
        fields: Its own elements, if it is complex and not kept as text.
        as_text: Whether it is kept as JSON text: it recurs into itself, or holds any type.
        targets: Resource types a reference may point to; empty means any.
    """

    name: str
    fhir_type: str
    many: bool
    comment: str
    fields: tuple["Element", ...] = ()
    as_text: bool = False
    targets: tuple[str, ...] = ()


@cache
def elements(resource_type: str) -> tuple[Element, ...]:
    """Returns a resource type's elements in FHIR's order.

    Raises:
        ValueError: FHIR R4B has no such resource type.
    """
    model = _resource_model(resource_type)
    if model is None:
        raise ValueError(f"{resource_type!r} is no FHIR R4B resource type")
    return tuple(_elements(model, ()))


def is_resource_type(name: str) -> bool:
    """Says whether FHIR R4B has a resource type of that name."""
    return _resource_model(name) is not None


def problem(resource: dict[str, Any], *, known_only: bool = False) -> str | None:
    """Returns what is invalid about a resource, without its values; None if nothing is.

    Args:
        resource: FHIR JSON.
        known_only: Whether elements that R4B does not know are passed over.
    """
    return "; ".join(problems(resource, known_only=known_only)) or None


def problems(resource: dict[str, Any], *, known_only: bool = False) -> list[str]:
    """Returns the same as a list, of the first few."""
    resource_type = resource.get("resourceType")
    model = _resource_model(resource_type) if isinstance(resource_type, str) else None
    if model is None:
        return ["FHIR R4B has no such resource type"]
    wrong = _wrong(model, resource)
    if unknown := [each for each in wrong if each[1] == _EXTRA]:
        # unknown elements may hide other problems: look again without them
        known = known_elements(resource)
        wrong = [each for each in _wrong(model, known) if each[1] != _EXTRA]
        wrong += [] if known_only else unknown
    told = {place for place, _ in wrong}
    numbers = _numbers_as_dates(resource, elements(resource_type), ())
    wrong += [(place, _NOT_TEXT) for place in numbers if place not in told]
    shown = [
        f"{'.'.join(_named(place, kind)) or resource_type}: {kind}"
        for place, kind in wrong[:_PROBLEMS_SHOWN]
    ]
    more = len(wrong) - len(shown)
    return [*shown, f"and {more} more"] if more > 0 else shown


def _named(place: tuple[str, ...], kind: str) -> tuple[str, ...]:
    """Returns the place as far as R4B names it; what else somebody writes may be anything."""
    return place[:-1] if kind == _EXTRA else place


def known_elements(resource: dict[str, Any]) -> dict[str, Any]:
    """Returns a resource without elements that R4B does not know, and without nulls.

    What is kept as JSON text is left as it is.
    """
    known = _known(resource, elements(resource["resourceType"]))
    return {"resourceType": resource["resourceType"], **known}


def _known(value: dict[str, Any], fields: tuple[Element, ...]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for field in fields:
        part = value.get(field.name)
        if part is not None:
            kept[field.name] = _known_part(part, field)
        extension = None if field.fields or field.as_text else value.get(f"_{field.name}")
        if extension is not None:
            kept[f"_{field.name}"] = extension
    return kept


def _known_part(part: Any, field: Element) -> Any:
    if not field.fields:
        return part
    if isinstance(part, list):
        return [_known(v, field.fields) if isinstance(v, dict) else v for v in part]
    return _known(part, field.fields) if isinstance(part, dict) else part


def _wrong(
    model: type[FHIRAbstractModel], resource: dict[str, Any]
) -> list[tuple[tuple[str, ...], str]]:
    """Returns place and kind of each problem; never a value, which may be patient data."""
    from pydantic import ValidationError

    try:
        model.model_validate(resource)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return [(tuple(str(p) for p in each["loc"]), _kind(each)) for each in found]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return [((), type(error).__name__)]
    return []


def _numbers_as_dates(
    value: dict[str, Any], fields: tuple[Element, ...], place: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    """Yields the places of dates that are numbers: the model takes these for seconds since 1970."""
    for field in fields:
        if not (field.fields or field.fhir_type in _DATES):
            continue
        part = value.get(field.name)
        for number, each in enumerate(part if isinstance(part, list) else [part]):
            at = (*place, field.name, *([str(number)] if isinstance(part, list) else ()))
            if field.fields:
                if isinstance(each, dict):
                    yield from _numbers_as_dates(each, field.fields, at)
            elif isinstance(each, int | float):
                yield at


def _kind(error: Any) -> str:
    """Returns the kind of a problem; about choice types, the message, which names elements only."""
    message = error["msg"].removeprefix("Value error, ")
    return message if "field value" in message and "this list" in message else error["type"]


@cache
def _resource_model(resource_type: str) -> type[FHIRAbstractModel] | None:
    from fhir.resources.R4B import get_fhir_model_class

    try:
        model = get_fhir_model_class(resource_type)
    except ValueError:
        return None
    return model if model.has_resource_base() else None


def _elements(
    model: type[FHIRAbstractModel], parents: tuple[type[FHIRAbstractModel], ...]
) -> Iterator[Element]:
    fields = {info.alias or name: info for name, info in model.model_fields.items()}
    for name in model.elements_sequence():
        info = fields[name]
        many, kind = _unwrap(info.annotation, info.metadata)
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        comment = _first_sentence(info.description or info.title or "")
        if not (isinstance(kind, type) and issubclass(kind, FhirBase)):
            yield Element(name, _primitive(kind), many, comment)
            continue
        klass = kind.get_model_klass()
        fhir_type = klass.__name__
        cut = (
            name in RECURSIVE or fhir_type in ("Resource", "Element") or klass in (*parents, model)
        )
        targets = extra.get("enum_reference_types")
        yield Element(
            name,
            fhir_type,
            many,
            comment,
            fields=() if cut else tuple(_elements(klass, (*parents, model))),
            as_text=cut,
            targets=tuple(str(t) for t in targets) if isinstance(targets, list) else (),
        )


def _unwrap(annotation: Any, metadata: list[Any]) -> tuple[bool, Any]:
    """Returns whether it is a list, and what of, without Optional."""
    if metadata:
        return False, metadata[0]
    origin = get_origin(annotation)
    if origin is list:
        return True, _unwrap(get_args(annotation)[0], [])[1]
    if hasattr(annotation, "__metadata__"):
        return False, annotation.__metadata__[-1]
    options = [option for option in get_args(annotation) if option is not type(None)]
    return _unwrap(options[0], []) if options else (False, annotation)


def _primitive(kind: Any) -> str:
    """Returns the FHIR name of a primitive type, such as `dateTime`."""
    name = getattr(kind, "__visit_name__", None)
    return name or {bool: "boolean", int: "integer"}.get(kind, "string")


def _first_sentence(text: str) -> str:
    return _SENTENCE_END.split(" ".join(text.split()), maxsplit=1)[0].rstrip(".")
