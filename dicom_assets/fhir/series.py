"""The series and instances of an ImagingStudy, from the rows of one study.

Decided here: which row counts. Rows come newest first; an instance is counted once, in the series
its newest row names, and each attribute is what the newest row that states it says. Not decided
here: the attributes of the study itself (`imaging_study`).
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from dicom_assets.fhir import codes
from dicom_assets.fhir.dates import fhir_datetime
from dicom_assets.lakehouse.uris import FOLDER_URL

T = TypeVar("T")

_INTEGER = re.compile(r"\+?\d{1,30}", re.ASCII)
_LARGEST = 2**31 - 1


class Row(NamedTuple):
    """What the conversion reads of a row of `instances.INSTANCES`; instants in UTC, naive."""

    sourceSystem: str
    studyInstanceUid: str
    seriesInstanceUid: str
    sopInstanceUid: str
    patientId: str | None
    accessionNumber: str | None
    referringPhysicianName: str | None
    studyDate: str | None
    studyTime: str | None
    timezoneOffsetFromUtc: str | None
    studyDescription: str | None
    modality: str | None
    seriesNumber: str | None
    seriesDescription: str | None
    seriesDate: str | None
    seriesTime: str | None
    bodyPartExamined: str | None
    laterality: str | None
    sopClassUid: str | None
    instanceNumber: str | None
    patientIdIssuer: str | None
    accessionIssuer: str | None
    procedureCodes: str | None
    reasonCodes: str | None
    reasonText: str | None
    anatomicRegion: str | None
    imageLaterality: str | None
    performers: list[str] | None
    title: str | None
    folder: str | None
    fileName: str | None
    sourcePath: str | None
    ingestedAt: datetime


def newest(rows: Sequence[Row], read: Callable[[Row], T | None]) -> T | None:
    """Returns what the newest row that states something says; rows come newest first."""
    for row in rows:
        value = read(row)
        if value is not None:
            return value
    return None


def newest_text(rows: Sequence[Row], column: str) -> str | None:
    """Returns the text of the newest row that has one in that column."""
    for row in rows:
        if (value := getattr(row, column)) and (text := codes.text(value)):
            return text
    return None


@lru_cache(maxsize=4096)
def unsigned(value: str | None) -> int | None:
    """Returns a FHIR unsignedInt; None for a negative, non-numeric or too large IS."""
    match = _INTEGER.fullmatch(value.strip()) if value else None
    number = int(match[0]) if match else None
    return number if number is not None and number <= _LARGEST else None


def person_name(value: str | None) -> str | None:
    """Returns a PN as it stands, without empty trailing components."""
    return codes.text((value or "").rstrip("^ "))


def by_number(element: dict[str, Any]) -> tuple[bool, int, str]:
    """Orders series and instances: by number, those without last, then by UID."""
    number = element.get("number")
    known = isinstance(number, int)
    return not known, number if known else 0, element.get("uid") or ""


def stated(elements: dict[str, Any]) -> dict[str, Any]:
    """Returns the elements that are stated."""
    return {name: value for name, value in elements.items() if value is not None}


def series_of(rows: Sequence[Row], *, site_timezone: str | None) -> list[dict[str, Any]]:
    """Returns `ImagingStudy.series` in order.

    Args:
        rows: The rows of one study, newest first.
        site_timezone: IANA zone of times without offset.
    """
    by_instance: dict[str, list[Row]] = {}
    by_series: dict[str, list[Row]] = {}
    members: dict[str, list[str]] = {}
    for row in rows:
        instance, series = row.sopInstanceUid, row.seriesInstanceUid
        by_series.setdefault(series, []).append(row)
        if instance in by_instance:
            by_instance[instance].append(row)
        else:
            by_instance[instance] = [row]
            members.setdefault(series, []).append(instance)
    series = [
        _series(uid, by_series[uid], [by_instance[i] for i in instances], site_timezone)
        for uid, instances in members.items()
    ]
    return sorted(series, key=by_number)


def _series(
    uid: str, rows: list[Row], instances: list[list[Row]], site_timezone: str | None
) -> dict[str, Any]:
    folder = next(sent[0].folder for sent in instances)  # of the newest row that counts
    return stated(
        {
            "extension": [{"url": FOLDER_URL, "valueString": folder}] if folder else None,
            "uid": uid,
            "number": newest(rows, lambda row: unsigned(row.seriesNumber)),
            "modality": codes.modality(newest_text(rows, "modality")),
            "description": newest_text(rows, "seriesDescription"),
            "numberOfInstances": len(instances),
            "bodySite": newest(
                rows, lambda row: codes.body_site(row.anatomicRegion, row.bodyPartExamined)
            ),
            "laterality": newest(rows, lambda row: codes.laterality(row.laterality))
            or _image_laterality([sent[0] for sent in instances]),
            "started": newest(
                rows,
                lambda row: fhir_datetime(
                    row.seriesDate,
                    row.seriesTime,
                    offset=row.timezoneOffsetFromUtc,
                    site_timezone=site_timezone,
                ),
            ),
            "performer": newest(rows, lambda row: _performers(row.performers)),
            "instance": sorted((_instance(sent) for sent in instances), key=by_number),
        }
    )


def _performers(names: list[str] | None) -> list[dict[str, Any]] | None:
    shown = filter(None, (person_name(name) for name in names or ()))
    return [{"actor": {"display": name}} for name in shown] or None


def _image_laterality(rows: list[Row]) -> dict[str, Any] | None:
    """Returns what all images agree on: one mammography series may hold both sides."""
    values = {(row.imageLaterality or "").strip().upper() for row in rows} - {""}
    return codes.laterality(values.pop()) if len(values) == 1 else None


def _instance(rows: list[Row]) -> dict[str, Any]:
    """Returns one instance from its rows, of which re-sending makes several."""
    return stated(
        {
            "uid": rows[0].sopInstanceUid,
            "sopClass": _sop_class(newest_text(rows, "sopClassUid")),
            "number": newest(rows, lambda row: unsigned(row.instanceNumber)),
            "title": newest_text(rows, "title"),
        }
    )


@lru_cache(maxsize=1024)
def _sop_class(uid: str | None) -> dict[str, Any]:
    """Returns a Coding, the same for all instances of a class."""
    # sopClass is required; a file without (0008,0016) says nothing about its class
    if uid is None:
        return {"extension": [codes.UNKNOWN]}
    return {"system": codes.URI, "code": f"urn:oid:{uid}"}
