"""Silver studies and metastore rows → OMOP person, one per patient and source system.

Decided here: who is one person. A site's crosswalk says so, else source system and Patient ID;
without a Patient ID each study has a person of its own, so that two unknown patients are never one.
Silver says whose a study is, the metastore's newest row that states them sex and year of birth. Not
decided here: a patient's name, which gold does not hold.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.lakehouse.keys import int_key, stated
from dicom_assets.lakehouse.schemas import PERSON
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.studies import Json, patients, studies

METASTORE_COLUMNS = (
    "sourceSystem",
    "patientId",
    "patientSex",
    "patientBirthDate",
    "studyInstanceUid",
    "sopInstanceUid",
    "ingestedAt",
    "sourceModifiedAt",
)
"""Metastore columns that `persons` reads."""

_SAID = ["sourceSystem", "patientId", "studyInstanceUid", "patientSex", "patientBirthDate"]
_ORDER = ("ingestedAt", "sourceModifiedAt", "sopInstanceUid")
_STATED = ("gender_concept_id", "year_of_birth")
_AUDIT = ("sourceTable", "sourceRecordId", "sourceModifiedAt")
GENDER_CONCEPTS: Mapping[str, int] = {"M": 8507, "F": 8532}
SOURCE_TABLE = "dicomimagingmetastore"
_NEVER = datetime.fromtimestamp(0, UTC)
_YEAR = re.compile(r"(1[89]\d\d|20\d\d)(?:[.-]?\d\d){0,2}", re.ASCII)


def person_id(
    source_system: str, patient_id: str | None, study_uid: str, crosswalks: Crosswalks
) -> int:
    """Returns the key of a study's patient: the one rule for every table of gold."""
    if not patient_id:
        # begins with no source system, so that it is no Patient ID's key, whatever that holds
        return int_key("", source_system, study_uid)
    given = crosswalks.persons.get((source_system, patient_id))
    return int_key(source_system, patient_id) if given is None else given


def newest_statements(rows: pa.Table) -> pa.Table:
    """Returns of rows that say the same the newest: all that `persons` looks at.

    Args:
        rows: Metastore rows (METASTORE_COLUMNS), or what this made of some of them.
    """
    place = rows.schema.get_field_index(_ORDER[1])
    field = rows.schema.field(place)
    modified = rows[_ORDER[1]].fill_null(pa.scalar(_NEVER, field.type))
    dated = rows.set_column(place, field, modified).select([*_SAID, *_ORDER])
    ordered = dated.sort_by([(name, "ascending") for name in _ORDER])
    last = ordered.group_by(_SAID, use_threads=False).aggregate([(n, "last") for n in _ORDER])
    return last.rename_columns([name.removesuffix("_last") for name in last.column_names])


def persons(
    rows: pa.Table,
    silver: pa.Table,
    *,
    known: Callable[[list[int]], pa.Table],
    crosswalks: Crosswalks,
    now: datetime,
) -> pa.Table:
    """Returns the `schemas.PERSON` rows that studies point to, one each.

    Args:
        rows: The studies' metastore rows with at least METASTORE_COLUMNS.
        silver: The studies in silver (`studies.studies`).
        known: Person ids → the gold rows there are; what is newest, there or here, holds.
        crosswalks: The site's ids.
        now: The instant that goes into modifiedAt.
    """
    found: dict[int, Json] = {}
    of_study: dict[tuple[str, str], int] = {}
    was_unknown: dict[int, int] = {}
    for study in studies(silver):
        key = person_id(study.source_system, study.patient_id, study.uid, crosswalks)
        of_study[study.source_system, study.uid] = key
        was_unknown[person_id(study.source_system, None, study.uid, crosswalks)] = key
        found[key] = {
            **dict.fromkeys(("gender_concept_id", "race_concept_id", "ethnicity_concept_id"), 0),
            "person_id": key,
            "person_source_value": study.patient_id,
            **study.audit(now),
        }
    statements: dict[int, list[tuple[datetime, Json]]] = {key: [] for key in found}
    # a gold row without a gender does not say whether anybody stated one
    for row in known(sorted({*found, *was_unknown})).to_pylist():
        held, patient_id = int(row["person_id"]), row["person_source_value"]
        key = was_unknown.get(held, held)
        # a crosswalk may have given the key of one patient to another
        if patient_id and key != person_id(row["sourceSystem"], patient_id, "", crosswalks):
            continue
        statement = row | {"gender_concept_id": row["gender_concept_id"] or None}
        statements[key].append((_NEVER, statement))
    for key, modified, statement in _statements(rows, of_study, crosswalks):
        if key in statements:
            statements[key].append((modified, statement))
    for key, said in statements.items():
        for _, statement in sorted(said, key=_by_arrival):
            found[key] |= {name: statement[name] for name in _AUDIT}
            found[key] |= {name: statement[name] for name in _STATED if statement[name] is not None}
    return pa.Table.from_pylist(list(found.values()), schema=PERSON)


def doubtful_persons(
    rows: pa.Table,
    silver: pa.Table,
    *,
    known: Callable[[list[int]], pa.Table],
    crosswalks: Crosswalks,
) -> set[int]:
    """Returns people of whom gold may state what is not the newest.

    A gold row says of all it states only when the last of it came. So where a file that is no newer
    contradicts it, neither is known to be the newer: all that was said of the patient must be read.
    Dates that run in their order meet none.

    Args:
        rows: As in `persons`.
        silver: The studies in silver, with at least `studies.PATIENT_COLUMNS`.
        known: Person ids → the gold rows there are.
        crosswalks: The site's ids.
    """
    of_study = {
        (system, uid): person_id(system, patient_id, uid, crosswalks)
        for system, patient_id, uid in patients(silver)
    }
    oldest = pc.call_function("min", [rows["ingestedAt"]]).as_py()
    held = {
        int(row["person_id"]): row
        for row in known(sorted({*of_study.values()})).to_pylist()
        if oldest and row["sourceModifiedAt"] >= oldest
    }
    if not held:
        return set()
    return {
        key
        for key, _, statement in _statements(rows, of_study, crosswalks)
        if (row := held.get(key))
        and statement["sourceModifiedAt"] <= row["sourceModifiedAt"]
        and any(statement[name] not in (None, row[name]) for name in _STATED)
    }


def unknown_persons(silver: pa.Table) -> set[int]:
    """Returns the keys that studies whose patient is known had while nobody knew whose they are."""
    return {
        person_id(study.source_system, None, study.uid, Crosswalks())
        for study in studies(silver)
        if study.patient_id
    }


def _by_arrival(said: tuple[datetime, Json]) -> tuple[datetime, datetime, str]:
    """Orders statements as files are: of those that came at once, the last modified is newest."""
    modified, statement = said
    return statement["sourceModifiedAt"], modified, statement["sourceRecordId"]


def _statements(
    rows: pa.Table, of_study: Mapping[tuple[str, str], int], crosswalks: Crosswalks
) -> Iterator[tuple[int, datetime, Json]]:
    """Yields whom each distinct statement is about, when its last file was modified, what it says.

    Where a file does not say whose it is, another of its study may.
    """
    for row in newest_statements(rows).to_pylist():
        system, uid = row["sourceSystem"], row["studyInstanceUid"]
        patient_id = stated(row["patientId"])
        key = (
            person_id(system, patient_id, uid, crosswalks)
            if patient_id
            else of_study.get((system, uid))
        )
        if key is not None:
            yield (
                key,
                row["sourceModifiedAt"],
                {
                    "gender_concept_id": _gender(row["patientSex"]),
                    "year_of_birth": _year(row["patientBirthDate"]),
                    "sourceTable": SOURCE_TABLE,
                    "sourceRecordId": row["sopInstanceUid"],
                    "sourceModifiedAt": row["ingestedAt"],
                },
            )


def _gender(sex: str | None) -> int | None:
    stated = (sex or "").strip().upper()
    return GENDER_CONCEPTS.get(stated, 0) if stated else None


def _year(birth_date: str | None) -> int | None:
    """Returns the year of a DA; the rest of it need not be a date (19600000)."""
    match = _YEAR.fullmatch(birth_date.strip()) if birth_date else None
    return int(match[1]) if match else None
