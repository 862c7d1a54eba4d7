"""Late arrivals: two statements about one study become one.

Decided here: the rule. Series and instances are united by UID and none is lost; attribute by
attribute, at each level, the newer statement wins where it states something; modality and counts
are computed again from what is there. An instance that both have, in different series, is where the
newer has it. Not decided here: which statement is newer (`silver`).
"""

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from dicom_assets.fhir.codes import acquisition, is_unknown
from dicom_assets.fhir.series import by_number

Json = dict[str, Any]


def merge_studies(older: Json, newer: Json) -> Json:
    """Returns the ImagingStudy that says what both say.

    Args:
        older: A FHIR R4B ImagingStudy; it is not changed.
        newer: Another statement about the same study.
    """
    merged = _overlay(older, newer)
    united: dict[str, Callable[[Json], Any]] = {
        "identifier": _identifier_key,
        "extension": lambda extension: extension.get("url"),
        "contained": lambda resource: (resource.get("resourceType"), resource.get("id")),
    }
    for name, key in united.items():
        if older.get(name) and newer.get(name):
            merged[name] = _unite(older[name], newer[name], key)
    if older.get("meta") and newer.get("meta"):
        merged["meta"] = older["meta"] | newer["meta"]
    series = _series(older.get("series") or [], newer.get("series") or [])
    return _recomputed(merged, series) if series else merged


def _overlay(older: Json, newer: Json) -> Json:
    """Returns newer, and from older what newer does not state."""
    kept, told = _stated(older), _stated(newer)
    unknown = [name for name in kept if _only_says_unknown(told.get(name))]
    return kept | {name: value for name, value in told.items() if name not in unknown}


def _stated(element: Json) -> Json:
    """Returns an element without what states nothing: null, and empty texts, arrays, objects."""
    return {name: value for name, value in element.items() if value or value == 0}


def _only_says_unknown(value: Any) -> bool:
    """Says whether a subject or modality only says that the file does not say."""
    return isinstance(value, dict) and is_unknown(value)


def _unite(older: Iterable[Json], newer: Iterable[Json], key: Callable[[Json], Any]) -> list[Json]:
    """Returns newer's elements in their order, then older's that newer has not."""
    newer = list(newer)
    known = {key(element) for element in newer}
    return newer + [element for element in older if key(element) not in known]


def _identifier_key(identifier: Json) -> tuple[str | None, str | None]:
    codings = (identifier.get("type") or {}).get("coding") or [{}]
    return identifier.get("system"), codings[0].get("code")


def _series(older: list[Json], newer: list[Json]) -> list[Json]:
    """Returns the series of both, in order, each instance in one of them."""
    series: dict[str, Json] = {}
    instances: dict[str, Json] = {}
    place: dict[str, str] = {}
    listed: set[str] = set()
    for each in (*older, *newer):
        uid = _key(each)
        known = series.get(uid, {})
        series[uid] = _overlay(known, each)
        if known.get("extension") and each.get("extension"):
            series[uid]["extension"] = _unite(
                known["extension"], each["extension"], lambda extension: extension.get("url")
            )
        for instance in each.get("instance") or ():
            key = _key(instance)
            listed.add(uid)
            place[key] = uid
            before = instances.get(key)
            instances[key] = _overlay(before, instance) if before else _stated(instance)
    for uid in listed:
        series[uid]["instance"] = []
    for instance, uid in place.items():
        series[uid]["instance"].append(instances[instance])
    # a series all of whose instances have moved to another is no longer there
    kept = [each for uid, each in series.items() if uid not in listed or each["instance"]]
    for each in kept:
        if each.get("instance"):
            each["instance"].sort(key=by_number)
            each["numberOfInstances"] = len(each["instance"])
    return sorted(kept, key=by_number)


def _key(element: Json) -> str:
    """Returns the UID; FHIR allows an extension in its place, then the whole element."""
    return element.get("uid") or orjson.dumps(element, option=orjson.OPT_SORT_KEYS).decode()


def _recomputed(study: Json, series: list[Json]) -> Json:
    """Returns the study with its series, and with what follows from them."""
    study = {**study, "series": series, "numberOfSeries": len(series)}
    study["numberOfInstances"] = sum(each.get("numberOfInstances") or 0 for each in series)
    study.pop("modality", None)
    if modalities := acquisition([each["modality"] for each in series]):
        study["modality"] = modalities
    return study
