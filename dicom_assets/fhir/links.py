"""References to ImagingStudies: by what names resources speak of a study, and which one it is.

Decided here: a study is named by its resource's id (`id:…`) or its Study Instance UID (`uid:…`,
whether written bare or as `urn:oid:`). Of studies with that name the one of the same source system
is meant, else the only one of any; where there are several, none. Not decided here: which studies
there are (`dicom_assets.steps.link`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from dicom_assets.lakehouse.uris import STUDY_UID_SYSTEM

LINKED: Mapping[str, str] = {"DiagnosticReport": "imagingStudy"}
"""Types that point to ImagingStudies, and the element in which they do."""
STUDY_IDS = "imagingStudyIds"

_ID, _UID = "id:", "uid:"
_OID = "urn:oid:"
_URI_SYSTEM = "urn:ietf:rfc:3986"
_REFERENCE = re.compile(
    r"(?:.*/)?ImagingStudy/([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?"
)
_UUID = "urn:uuid:"

Json = dict[str, Any]


def names_of_study(own_id: str, identifiers: str | None) -> list[str]:
    """Returns the names of an ImagingStudy.

    Args:
        own_id: The resource's id.
        identifiers: Its identifiers, JSON text.
    """
    uids = filter(None, map(_uid, orjson.loads(identifiers or "[]")))
    return list(dict.fromkeys([f"{_ID}{own_id}", *(f"{_UID}{uid}" for uid in uids)]))


def names_of_uid(uid: str) -> list[str]:
    """Returns the names of an ImagingStudy of which only the Study Instance UID is known."""
    return [f"{_UID}{uid}"]


def names_in_references(references: str | None) -> list[list[str]]:
    """Returns for each reference to an ImagingStudy the names it uses, the surest first.

    Args:
        references: The references, JSON text.
    """
    return [list(_names(each)) for each in orjson.loads(references or "[]")]


def uid_of(name: str) -> str | None:
    """Returns the Study Instance UID of a name; None of one that is an id."""
    return name.removeprefix(_UID) if name.startswith(_UID) else None


def id_of(name: str) -> str | None:
    """Returns the resource id of a name; None of one that is a UID."""
    return name.removeprefix(_ID) if name.startswith(_ID) else None


def meant(
    names: Iterable[str], studies: Mapping[str, Sequence[tuple[str, str]]], *, source_system: str
) -> str | None:
    """Returns the silver id of the study that a reference means; None where that is not known.

    Args:
        names: The names that it uses.
        studies: Name → source system and silver id of the studies that have it.
        source_system: Where the reference comes from.
    """
    for name in names:
        found = set(studies.get(name, ()))
        own = {silver_id for system, silver_id in found if system == source_system}
        candidates = own or {silver_id for _, silver_id in found}
        if len(candidates) == 1:
            return candidates.pop()
    return None


def _names(reference: Json) -> Iterator[str]:
    text = reference.get("reference") or ""
    if match := _REFERENCE.fullmatch(text):
        yield f"{_ID}{match[1]}"
    elif of_uuid := _behind(_UUID, text):
        yield f"{_ID}{of_uuid}"
    elif of_oid := _behind(_OID, text):
        yield f"{_UID}{of_oid}"
    identifier = reference.get("identifier")
    if isinstance(identifier, dict) and (uid := _uid(identifier)):
        yield f"{_UID}{uid}"


def _uid(identifier: Json) -> str | None:
    """Returns the UID of an identifier that is one, by its system, or as a URN."""
    value = (identifier.get("value") or "").strip()
    uid = _behind(_OID, value)
    if identifier.get("system") == STUDY_UID_SYSTEM:
        return (value if uid is None else uid) or None
    return uid or None if identifier.get("system") in (None, _URI_SYSTEM) else None


def _behind(begin: str, urn: str) -> str | None:
    """Returns what follows the beginning of a URN, in which capitals do not count (RFC 8141)."""
    return urn[len(begin) :] if urn[: len(begin)].lower() == begin else None
