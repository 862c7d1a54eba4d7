"""What gold reads of a silver ImagingStudy row.

Decided here: where study UID, patient, accession number and dates stand in FHIR. The JSON text
columns are read, and of a series only what gold needs, so that its many instances need not become
values. Not decided here: what gold makes of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.uris import STUDY_UID_SYSTEM

STUDY_COLUMNS = (
    "id",
    "idOrig",
    "sourceSystem",
    "identifier_string",
    "subject",
    "started",
    "started_timestamp",
    "procedureCode_string",
    "description",
    "series_string",
    "modifiedAt",
)
"""Silver columns that gold reads."""

SERIES_COLUMN = "series_string"
"""The one of them that grows with a study's instances; only `series_of` reads it."""

PATIENT_COLUMNS = ("idOrig", "sourceSystem", "identifier_string", "subject")
"""Those of them that say whose a study is."""

_ROW = tuple(name for name in STUDY_COLUMNS if name != "subject")
SOURCE_TABLE = "ImagingStudy"
_STUDIES_AT_A_TIME = 512
_OID = "urn:oid:"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Study:
    """One silver row.

    Attributes:
        row: Its columns, but for the subject.
        uid: Study Instance UID.
        patient_id: Patient ID, or the id of the Patient resource; None when unknown.
        accession_number: Accession number.
        date: The calendar date it started.
    """

    row: Json
    uid: str
    patient_id: str | None
    accession_number: str | None
    date: date | None

    @property
    def source_system(self) -> str:
        """Namespace of the source."""
        return self.row["sourceSystem"]

    def audit(self, now: datetime) -> Json:
        """Returns the audit columns of a gold row made from it."""
        return {
            "sourceSystem": self.source_system,
            "sourceTable": SOURCE_TABLE,
            "sourceRecordId": self.row["id"],
            "sourceModifiedAt": self.row["modifiedAt"],
            "modifiedAt": now,
        }


class Series(msgspec.Struct):
    """What gold reads of a series, as FHIR JSON; its other elements are passed over."""

    uid: Any = None
    modality: Any = None
    bodySite: Any = None
    started: Any = None
    extension: Any = None


_SERIES = msgspec.json.Decoder(list[Series])


def procedure_occurrence_id(source_system: str, study_uid: str) -> int:
    """Returns the key of a study in procedure_occurrence."""
    return int_key(source_system, study_uid)


def studies(silver: pa.Table) -> Iterator[Study]:
    """Yields silver rows (STUDY_COLUMNS; may be without their series), the last modified last."""
    order = [("modifiedAt", "ascending"), ("id", "ascending")]
    names = [name for name in _ROW if name != SERIES_COLUMN or name in silver.column_names]
    table = silver.select([*names, "subject"]).sort_by(order)
    for batch in table.to_batches(max_chunksize=_STUDIES_AT_A_TIME):
        columns = [_values(batch[name]) for name in names]
        for values, patient_id in zip(zip(*columns, strict=True), _patient_ids(batch), strict=True):
            yield _study(dict(zip(names, values, strict=True)), patient_id)


def patients(silver: pa.Table) -> Iterator[tuple[str, str | None, str]]:
    """Yields source system, Patient ID and Study Instance UID of silver rows (PATIENT_COLUMNS)."""
    columns = (silver[name].to_pylist() for name in PATIENT_COLUMNS[:-1])
    for own_id, system, identifiers, patient_id in zip(*columns, _patient_ids(silver), strict=True):
        yield system, patient_id, _study_uid(loads(identifiers), own_id)


def _patient_ids(silver: pa.Table | pa.RecordBatch) -> Iterator[str | None]:
    subject = silver["subject"]
    of_patient = zip(_part(subject, "identifier", "value"), _part(subject, "idOrig"), strict=True)
    return (value or own_id for value, own_id in of_patient)


def _part(column: pa.Array, *path: str) -> list[Any]:
    options = pc.StructFieldOptions(list(path))
    return pc.call_function("struct_field", [column], options).to_pylist()


def _values(column: pa.Array) -> list[Any]:
    """Returns the values; instants by numpy, which makes them ten times faster."""
    if not pa.types.is_timestamp(column.type):
        return column.to_pylist()
    naive = column.to_numpy(zero_copy_only=False).astype("datetime64[us]").tolist()
    return [moment and moment.replace(tzinfo=UTC) for moment in naive]


def series_of(study: Study) -> list[Series]:
    """Returns the series of a study."""
    text = study.row[SERIES_COLUMN]
    return _SERIES.decode(text) if text else []


def day(text: Any) -> date | None:
    """Returns the date a FHIR dateTime begins with; None for a partial one, or what is no text.

    It is the date where the study was made, whatever the offset.
    """
    try:
        is_whole = isinstance(text, str) and len(text) >= 10
        return date.fromisoformat(text[:10]) if is_whole else None
    except ValueError:
        return None


def loads(text: str | None) -> list[Json]:
    """Returns the elements of a JSON text column."""
    return orjson.loads(text) if text else []


def _study(row: Json, patient_id: str | None) -> Study:
    identifiers = loads(row["identifier_string"])
    accession = (i.get("value") for i in identifiers if "ACSN" in _type_codes(i))
    return Study(
        row=row,
        uid=_study_uid(identifiers, row["idOrig"]),
        patient_id=patient_id,
        accession_number=next(accession, None),
        date=day(row["started"]),
    )


def _study_uid(identifiers: list[Json], otherwise: str) -> str:
    """Returns the UID by its system; else an OID among the identifiers; else the resource's id."""
    values = [(i.get("system"), i.get("value") or "") for i in identifiers]
    named = (value for system, value in values if system == STUDY_UID_SYSTEM and value)
    oids = (value for _, value in values if _is_oid(value))
    uid = next(named, None) or next(oids, None) or otherwise
    return uid[len(_OID) :] if _is_oid(uid) else uid


def _is_oid(value: str) -> bool:
    return value[: len(_OID)].lower() == _OID  # in URNs capitals do not count


def _type_codes(identifier: Json) -> list[str | None]:
    return [c.get("code") for c in (identifier.get("type") or {}).get("coding") or ()]
