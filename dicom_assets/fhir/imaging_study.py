"""Metastore rows → FHIR R4B ImagingStudy, one resource per study and source system.

Decided here: how rows become studies, and the elements of a study. Series and instances are decided
in `series`, codes in `codes`, dates in `dates`. What the DICOM file does not say is not said here
either: no invented system, zone or number. Every line is checked before it is given out: by
`compiled`, and where that is not sure, by the R4B model. Re-sent rows: the newest wins, by
ingestedAt, then sourceModifiedAt, contentHash and path, so that the same rows in any order give the
same bytes.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any
from urllib.parse import quote

import orjson
import pyarrow as pa

from dicom_assets.fhir import codes
from dicom_assets.fhir.compiled import surely_valid
from dicom_assets.fhir.dates import fhir_datetime, instant
from dicom_assets.fhir.flatten import silver_id
from dicom_assets.fhir.model import problem
from dicom_assets.fhir.series import (
    Row,
    newest,
    newest_text,
    person_name,
    series_of,
    stated,
)
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.reasons import Reason
from dicom_assets.lakehouse.uris import STUDY_UID_SYSTEM, WHOLE_TAG

_ACCESSION_TYPE = {
    "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]
}
_ENDPOINT_ID = "dicomweb"
_FHIR_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_ROWS_AT_A_TIME = 16_384
_STUDY = Row._fields[:2]
_NEWEST_FIRST = ("ingestedAt", "sourceModifiedAt", "contentHash", "folder", "fileName")
_UIDS = (("seriesInstanceUid", "0020000E"), ("sopInstanceUid", "00080018"))


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """What a site chooses about the conversion; named as in the settings.

    Attributes:
        site_timezone: IANA zone of times without offset; None leaves such times out.
        patient_id_system: URI of the Patient ID's identifier system.
        accession_number_system: URI of the accession number's identifier system.
        dicomweb_base_address: Base address of a DICOMweb service, without /studies.
    """

    site_timezone: str | None = None
    patient_id_system: str | None = None
    accession_number_system: str | None = None
    dicomweb_base_address: str | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """One converted study.

    Attributes:
        source_system: Namespace of the source.
        id: The resource's id.
        line: The resource as one line of NDJSON, without the newline.
        series: Number of series.
        instances: Number of instances; re-sent ones count once.
    """

    source_system: str
    id: str
    line: bytes
    series: int
    instances: int


def convert_studies(
    instances: pa.Table,
    *,
    options: ConversionOptions,
    whole: Mapping[tuple[str, str], datetime] | None = None,
) -> Iterator[Study | Failure]:
    """Converts rows to one ImagingStudy per source system and Study Instance UID, in that order.

    A study to be written whole says so (`uris.WHOLE_TAG`), and is there even without a row.

    One study is in memory at a time. A row whose series or instance UID FHIR cannot hold becomes a
    failure, and the study is written without it. meta.lastUpdated is when the newest of the rows
    was taken in, not when it is converted: of two statements about a study, the one with the newer
    files is the newer one, in whatever order they are made.

    Args:
        instances: Rows with the schema `instances.INSTANCES`, in any order.
        options: What the site chose.
        whole: Source system and Study Instance UID → as of when, of studies all of whose rows that
            count are given.
    """
    left = dict(whole or {})
    for (system, uid), group in groupby(_in_order(instances), key=itemgetter(0, 1)):
        rows = []
        for row in group:
            if is_told(row.seriesInstanceUid, row.sopInstanceUid):
                rows.append(row)
                continue
            column, tag = next((c, t) for c, t in _UIDS if not is_told(getattr(row, c)))
            message = f"{column} is no FHIR id: more than 64 characters or others than A-Za-z0-9.-"
            yield _failure(row, message, tags=(tag,))
        if rows:
            yield from _convert(system, uid, rows, options, left.pop((system, uid), None))
    for (system, uid), as_of in left.items():
        yield _without_instances(system, uid, as_of)


def _in_order(instances: pa.Table) -> Iterator[Row]:
    """Yields rows study by study, newest first."""
    keys = [(name, "ascending") for name in _STUDY] + [(n, "descending") for n in _NEWEST_FIRST]
    table = instances.combine_chunks()
    places = pa.array(range(table.num_rows), pa.int64())
    ranked = table.select([name for name, _ in keys]).append_column("place", places)
    order = ranked.sort_by(keys)["place"].combine_chunks()  # nulls last: they are oldest
    table = table.select(Row._fields)
    for start in range(0, len(order), _ROWS_AT_A_TIME):
        columns = table.take(order.slice(start, _ROWS_AT_A_TIME)).columns
        yield from map(Row._make, zip(*map(_values, columns), strict=True))


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Returns the values; by numpy, which makes naive datetimes ten times faster."""
    if pa.types.is_list(column.type):
        return column.to_pylist()
    return column.to_numpy().tolist()


def _convert(
    system: str, uid: str, rows: list[Row], options: ConversionOptions, as_of: datetime | None
) -> Iterator[Study | Failure]:
    resource = _resource(system, uid, rows, options, as_of)
    line = orjson.dumps(resource)
    if not surely_valid(line) and (wrong := problem(resource)):
        message = f"the study makes no valid ImagingStudy: {wrong}"
        yield from (_failure(row, message) for row in rows)
        return
    yield Study(
        source_system=system,
        id=resource["id"],
        line=line,
        series=resource["numberOfSeries"],
        instances=resource["numberOfInstances"],
    )


def _without_instances(system: str, uid: str, as_of: datetime) -> Study:
    """Returns what is said of a study of which nothing is left."""
    resource = {
        "resourceType": "ImagingStudy",
        "id": resource_id(uid),
        "meta": _meta(system, as_of, is_whole=True),
        "identifier": [_study_uid(uid)],
        "status": "entered-in-error",
        "subject": _subject((), None),
        "numberOfSeries": 0,
        "numberOfInstances": 0,
    }
    return Study(system, resource["id"], orjson.dumps(resource), series=0, instances=0)


def _failure(row: Row, message: str, *, tags: tuple[str, ...] = ()) -> Failure:
    path = "/".join(part for part in (row.folder, row.fileName) if part)
    return Failure(
        "convert",
        Reason.INVALID_RESOURCE,
        message,
        row.sourceSystem,
        source_path=row.sourcePath,
        failed_path=path or None,
        tags=tags,
    )


def is_told(*uids: str) -> bool:
    """Says whether FHIR can hold series and instance UIDs; a row of others is a failure."""
    return all(map(_FHIR_ID.fullmatch, uids))


def resource_id(uid: str) -> str:
    """Returns the resource id of a study: its UID where FHIR allows that, else its SHA-256."""
    return uid if _FHIR_ID.fullmatch(uid) else hashlib.sha256(uid.encode()).hexdigest()


def silver_study_id(source_system: str, uid: str) -> str:
    """Returns the key in silver of a study, from its Study Instance UID."""
    return silver_id(source_system, "ImagingStudy", resource_id(uid))


def _resource(
    system: str, uid: str, rows: list[Row], options: ConversionOptions, as_of: datetime | None
) -> dict[str, Any]:
    newest_at = rows[0].ingestedAt.replace(tzinfo=UTC)
    series = series_of(rows, site_timezone=options.site_timezone)
    endpoint = _endpoint(options.dicomweb_base_address)
    referrer = newest(rows, lambda row: person_name(row.referringPhysicianName))
    return stated(
        {
            "resourceType": "ImagingStudy",
            "id": resource_id(uid),
            "meta": _meta(system, as_of or newest_at, is_whole=as_of is not None),
            "contained": [endpoint] if endpoint else None,
            "identifier": [
                _study_uid(uid),
                *_accession(rows, options.accession_number_system),
            ],
            "status": "available",
            "modality": codes.acquisition([each["modality"] for each in series]) or None,
            "subject": _subject(rows, options.patient_id_system),
            "started": newest(
                rows,
                lambda row: fhir_datetime(
                    row.studyDate,
                    row.studyTime,
                    offset=row.timezoneOffsetFromUtc,
                    site_timezone=options.site_timezone,
                ),
            ),
            "referrer": {"display": referrer} if referrer else None,
            "endpoint": [{"reference": f"#{_ENDPOINT_ID}"}] if endpoint else None,
            "numberOfSeries": len(series),
            "numberOfInstances": sum(each["numberOfInstances"] for each in series),
            "procedureCode": newest(rows, lambda row: codes.concepts(row.procedureCodes) or None),
            "reasonCode": _reasons(rows),
            "description": newest_text(rows, "studyDescription"),
            "series": series,
        }
    )


def _meta(system: str, last_updated: datetime, *, is_whole: bool) -> dict[str, Any]:
    meta = {"lastUpdated": instant(last_updated), "source": _source(system)}
    return meta | {"tag": [WHOLE_TAG]} if is_whole else meta


def _study_uid(uid: str) -> dict[str, Any]:
    return {"system": STUDY_UID_SYSTEM, "value": f"urn:oid:{uid}"}


@lru_cache(maxsize=256)
def _source(system: str) -> str:
    return f"urn:dicom-assets:source:{quote(system, safe='')}"


def _accession(rows: Iterable[Row], configured: str | None) -> list[dict[str, Any]]:
    for row in rows:
        if number := codes.text(row.accessionNumber):
            issuer = codes.issuer(row.accessionIssuer, configured=configured)
            return [{"type": _ACCESSION_TYPE, **_identifier(number, issuer)}]
    return []


def _subject(rows: Iterable[Row], configured: str | None) -> dict[str, Any]:
    for row in rows:
        if patient_id := codes.text(row.patientId):
            issuer = codes.issuer(row.patientIdIssuer, configured=configured)
            return {"type": "Patient", "identifier": _identifier(patient_id, issuer)}
    return {"extension": [codes.UNKNOWN], "type": "Patient"}


def _identifier(value: str, issuer: dict[str, Any]) -> dict[str, Any]:
    """Returns system, value and assigner, in FHIR's order."""
    return stated(
        {"system": issuer.get("system"), "value": value, "assigner": issuer.get("assigner")}
    )


def _reasons(rows: list[Row]) -> list[dict[str, Any]] | None:
    """Returns the coded reasons, then the reason in words: of the newest row that gives one."""

    def read(row: Row) -> list[dict[str, Any]] | None:
        reason = codes.text(row.reasonText)
        return codes.concepts(row.reasonCodes) + ([{"text": reason}] if reason else []) or None

    return newest(rows, read)


@lru_cache(maxsize=16)
def _endpoint(base_address: str | None) -> dict[str, Any] | None:
    if not base_address:
        return None
    return {
        "resourceType": "Endpoint",
        "id": _ENDPOINT_ID,
        "status": "active",
        "connectionType": {
            "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
            "code": "dicom-wado-rs",
        },
        "payloadType": [{"text": "DICOM"}],
        "address": base_address.rstrip("/").removesuffix("/studies"),
    }
