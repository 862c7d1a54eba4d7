"""Metastore rows → OMOP person, one per patient and source system.

Decided here: who is one person. A site's crosswalk says so, else source system and Patient ID;
without a Patient ID each study has a person of its own, so that two unknown patients are never one.
What the newest row that states something says is taken. Not decided here: a patient's name, which
gold does not hold.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.schemas import PERSON
from dicom_assets.omop.crosswalk import Crosswalks

METASTORE_COLUMNS = (
    "sourceSystem",
    "patientId",
    "patientSex",
    "patientBirthDate",
    "studyInstanceUid",
    "sopInstanceUid",
    "ingestedAt",
)
"""Metastore columns that `persons` reads."""

GENDER_CONCEPTS: Mapping[str, int] = {"M": 8507, "F": 8532}
SOURCE_TABLE = "dicomimagingmetastore"
_CONTROL = {code: None for code in (*range(32), 127) if chr(code) not in "\t\n\r"}
_YEAR = re.compile(r"(1[89]\d\d|20\d\d)(?:[.-]?\d\d){0,2}", re.ASCII)


def person_id(
    source_system: str, patient_id: str | None, study_uid: str, crosswalks: Crosswalks
) -> int:
    """Returns the key of a study's patient: the one rule for every table of gold."""
    if not patient_id:
        return int_key(source_system, "study", study_uid)
    given = crosswalks.persons.get((source_system, patient_id))
    return int_key(source_system, patient_id) if given is None else given


def persons(
    rows: pa.Table,
    *,
    crosswalks: Crosswalks,
    now: datetime,
    existing: pa.Table | None = None,
) -> pa.Table:
    """Returns one `schemas.PERSON` row per patient of the rows.

    Args:
        rows: Metastore rows with at least METASTORE_COLUMNS.
        crosswalks: The site's ids.
        now: The instant that goes into modifiedAt.
        existing: Gold rows of these persons; they fill what the rows do not state.
    """
    known = {row["person_id"]: row for row in existing.to_pylist()} if existing else {}
    found: dict[int, dict[str, Any]] = {}
    for row in _newest_first(rows):
        system, patient_id = row["sourceSystem"], _stated(row["patientId"])
        key = person_id(system, patient_id, row["studyInstanceUid"], crosswalks)
        person = found.setdefault(
            key,
            {
                "person_id": key,
                "race_concept_id": 0,
                "ethnicity_concept_id": 0,
                "person_source_value": patient_id,
                "sourceSystem": system,
                "sourceTable": SOURCE_TABLE,
                "sourceRecordId": row["sopInstanceUid_max"],
                "sourceModifiedAt": row["ingestedAt_max"],
                "modifiedAt": now,
            },
        )
        if sex := (row["patientSex"] or "").strip().upper():
            person.setdefault("gender_concept_id", GENDER_CONCEPTS.get(sex, 0))
        born = _year(row["patientBirthDate"])
        if born is not None:
            person.setdefault("year_of_birth", born)
    for key, person in found.items():
        before = known.get(key, {})
        person.setdefault("gender_concept_id", before.get("gender_concept_id", 0))
        person.setdefault("year_of_birth", before.get("year_of_birth"))
    return pa.Table.from_pylist(list(found.values()), schema=PERSON)


def _newest_first(rows: pa.Table) -> list[dict[str, Any]]:
    """Returns the distinct statements about patients, with when they were last made."""
    said = ["sourceSystem", "patientId", "studyInstanceUid", "patientSex", "patientBirthDate"]
    last = [("ingestedAt", "max"), ("sopInstanceUid", "max")]
    statements = rows.group_by(said).aggregate(last)
    order = [f"{name}_{kind}" for name, kind in last] + said
    return statements.sort_by([(name, "descending") for name in order]).to_pylist()


def _stated(patient_id: str | None) -> str | None:
    """Returns a Patient ID as the conversion to FHIR writes it, so that both give one key."""
    return patient_id.translate(_CONTROL).strip() or None if patient_id else None


def _year(birth_date: str | None) -> int | None:
    """Returns the year of a DA; the rest of it need not be a date (19600000)."""
    match = _YEAR.fullmatch(birth_date.strip()) if birth_date else None
    return int(match[1]) if match else None
