"""Codes: DICOM's coded values in FHIR's words.

Decided here: the URIs of code systems and identifier systems, which modalities acquire images, and
the SNOMED codes of laterality. Body parts come from `dicom_assets.terminology`. Codes of SNOMED RT,
which DICOM has retired, become those of SNOMED CT by the standard's own list (PS3.16 Annex O), as
pydicom has it. What is returned may be cached, since codes repeat: it is not to be changed. Not
decided here: which element of a resource a code goes to.
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any
from urllib.parse import quote

import orjson

from dicom_assets.lakehouse import keys
from dicom_assets.lakehouse.uris import SCT, SOURCE_VALUE_URL
from dicom_assets.terminology import body_parts

DCM = "http://dicom.nema.org/resources/ontology/DCM"
URI = "urn:ietf:rfc:3986"

DATA_ABSENT_URL = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
UNKNOWN = {"url": DATA_ABSENT_URL, "valueCode": "unknown"}
"""The extension that says: the file does not say."""

_SCHEMES = {
    "SCT": SCT,
    "LN": "http://loinc.org",
    "DCM": DCM,
    "RADLEX": "http://www.radlex.org",
    "UCUM": "http://unitsofmeasure.org",
    "I10": "http://hl7.org/fhir/sid/icd-10",
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "C4": "http://www.ama-assn.org/go/cpt",
}

_CID_29 = """
AR BDUS BI BMD CFM CR CT DG DMS DX ECG EEG EMG EOG EPS ES GM HD IO IVOCT IVUS KER LEN LS MG MR NM
OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS PA POS PT PX RESP RF RG RTIMAGE SM SRF TG US VA XA XC
"""
ACQUISITION_MODALITIES = frozenset(_CID_29.split())
"""DICOM CID 29, Acquisition Modality (PS3.16)."""

_LATERALITIES = {
    "R": ("24028007", "Right"),
    "L": ("7771000", "Left"),
    "B": ("51440002", "Bilateral"),
    "U": ("66459002", "Unilateral"),
}
"""DICOM CID 244, Laterality (PS3.16)."""

_SNOMED_RT = ("SRT", "SNM3", "99SDM")
_OID = re.compile(r"[0-2](\.(0|[1-9]\d*))+", re.ASCII)
_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]+")


text = lru_cache(maxsize=2048)(keys.stated)
"""What a text states, by `lakehouse.keys`."""


def scheme_uri(designator: str | None, code: str) -> str | None:
    """Returns the URI of a Coding Scheme Designator (0008,0102); the bare designator is none."""
    if not designator:
        return URI if code.startswith("urn:") else None
    known = _SCHEMES.get(designator.upper())
    return known or f"urn:dicom-assets:scheme:{quote(designator, safe='')}"


def codings(codes: str | None) -> list[dict[str, Any]]:
    """Returns Codings; an item without code has its meaning as display only.

    Args:
        codes: JSON text [[code, scheme designator, meaning], …] of `instances`.
    """
    found = []
    for code, designator, meaning in orjson.loads(codes) if codes else ():
        value, scheme = " ".join((text(code) or "").split()), text(designator)
        coding: dict[str, Any] = {}
        current = _snomed_rt().get(value) if scheme in _SNOMED_RT else None
        if current:
            coding = {"extension": [_source_value(value)], "system": SCT, "code": current}
        elif value:
            system = scheme_uri(scheme, value)
            coding = {"system": system, "code": value} if system else {"code": value}
        if display := text(meaning):
            coding["display"] = display
        if coding:
            found.append(coding)
    return found


@lru_cache(maxsize=1024)
def concepts(codes: str | None) -> list[dict[str, Any]]:
    """Returns CodeableConcepts; an item without code is text only."""
    return [
        {"coding": [coding]} if "code" in coding else {"text": coding["display"]}
        for coding in codings(codes)
    ]


@lru_cache(maxsize=1024)
def modality(value: str | None) -> dict[str, Any]:
    """Returns the Coding of Modality (0008,0060).

    A code that had to be changed keeps the file's value in the extension SOURCE_VALUE_URL. Where
    the file has none, the code is OT, and that extension says `unknown` in place of a value.
    """
    stated = text(value)
    if stated is None:
        absent = {"url": SOURCE_VALUE_URL, "extension": [UNKNOWN]}
        return {"extension": [absent], "system": DCM, "code": "OT"}
    code = " ".join(stated.upper().split())
    coding = {"system": DCM, "code": code}
    return coding if code == stated else {"extension": [_source_value(stated)], **coding}


def acquisition(codings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the distinct acquisition modalities among series modalities, by code."""
    found = {c["code"] for c in codings if c.get("code") in ACQUISITION_MODALITIES}
    return [{"system": DCM, "code": code} for code in sorted(found)]


@lru_cache(maxsize=1024)
def body_site(anatomic_region: str | None, examined: str | None) -> dict[str, Any] | None:
    """Returns the Coding of a body part.

    Args:
        anatomic_region: Anatomic Region Sequence (0008,2218) as JSON text; it comes first.
        examined: Body Part Examined (0018,0015), by DICOM PS3.16 Annex L, in any case. The text
            stays in the extension SOURCE_VALUE_URL; unmapped, it is a display only.
    """
    if coded := codings(anatomic_region):
        return coded[0]
    stated = text(examined)
    if stated is None:
        return None
    part = body_parts().get(stated.upper())
    if part is None or not part.snomed_code:
        return {"display": stated}
    return {
        "extension": [_source_value(stated)],
        "system": SCT,
        "code": part.snomed_code,
        "display": part.meaning,
    }


@lru_cache(maxsize=1024)
def laterality(value: str | None) -> dict[str, Any] | None:
    """Returns the SNOMED Coding of R, L, B or U; None for anything else."""
    found = _LATERALITIES.get((value or "").strip().upper())
    return {"system": SCT, "code": found[0], "display": found[1]} if found else None


@lru_cache(maxsize=1024)
def issuer(stated: str | None, *, configured: str | None) -> dict[str, Any]:
    """Returns `system` and `assigner` of an identifier, as far as they are known.

    The issuer in the file goes before the configured system; one that is no URI names the assigner.

    Args:
        stated: JSON text [namespace, universal id, universal id type] of `instances`.
        configured: The site's identifier system.
    """
    namespace, universal, kind = orjson.loads(stated) if stated else (None, None, None)
    namespace, universal = text(namespace), text(universal)
    system = _system(universal, kind) or _system(namespace, None)
    found: dict[str, Any] = {}
    if system or configured:
        found["system"] = system or configured
    label = next((n for n in (namespace, universal) if n and not _system(n, kind)), None)
    if label:
        found["assigner"] = {"display": label}
    return found


def is_unknown(element: dict[str, Any]) -> bool:
    """Says whether an element only says that the file does not say (subject, modality)."""
    for extension in element.get("extension", ()):
        if extension.get("url") == DATA_ABSENT_URL:
            return True
        if extension.get("url") == SOURCE_VALUE_URL and "valueString" not in extension:
            return True
    return False


@cache
def _snomed_rt() -> Mapping[str, str]:
    """Returns SNOMED RT code → SNOMED CT code."""
    from pydicom.sr._snomed_dict import mapping

    return mapping["SRT"]


def _source_value(stated: str) -> dict[str, str]:
    return {"url": SOURCE_VALUE_URL, "valueString": stated}


def _system(identifier: str | None, kind: str | None) -> str | None:
    if not identifier or " " in identifier:
        return None
    if _OID.fullmatch(identifier):
        return f"urn:oid:{identifier}"
    if kind in ("UUID", "GUID"):
        return f"urn:uuid:{identifier.lower()}"
    absolute = kind == "URI" or identifier.startswith(("urn:", "http://", "https://"))
    return identifier if absolute and _ABSOLUTE_URI.fullmatch(identifier) else None
