"""Silver ImagingStudy → OMOP procedure_occurrence, one row per study.

Decided here: what each column holds, so that image_occurrence's foreign key resolves. Procedures
are not mapped: their concept is 0, their source value the code or the study's description. Not
decided here: keys of persons (`person`).
"""

from datetime import datetime
from typing import Any

import pyarrow as pa

from dicom_assets.lakehouse.schemas import PROCEDURE_OCCURRENCE
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.person import person_id
from dicom_assets.omop.studies import Json, Study, loads, procedure_occurrence_id, studies
from dicom_assets.omop.vocabulary import NO_CONCEPT

EHR = 32817
"""OMOP type concept: the record comes from an electronic health record."""


def procedure_occurrences(silver: pa.Table, *, crosswalks: Crosswalks, now: datetime) -> pa.Table:
    """Returns one `schemas.PROCEDURE_OCCURRENCE` row per study.

    Args:
        silver: Silver ImagingStudy rows with at least `studies.STUDY_COLUMNS`.
        crosswalks: The site's person and visit ids.
        now: The instant that goes into modifiedAt.
    """
    rows: dict[int, Json] = {}
    for study in studies(silver):
        row = _row(study, crosswalks, now)
        rows[row["procedure_occurrence_id"]] = row
    return pa.Table.from_pylist(list(rows.values()), schema=PROCEDURE_OCCURRENCE)


def _row(study: Study, crosswalks: Crosswalks, now: datetime) -> dict[str, Any]:
    system, uid = study.source_system, study.uid
    procedures = loads(study.row["procedureCode_string"])
    codings = [coding for each in procedures for coding in each.get("coding") or ()]
    said = [coding["code"] for coding in codings if coding.get("code")]
    said += [each["text"] for each in procedures if each.get("text")]
    return {
        "procedure_occurrence_id": procedure_occurrence_id(system, uid),
        "person_id": person_id(system, study.patient_id, uid, crosswalks),
        "procedure_concept_id": NO_CONCEPT,
        "procedure_date": study.date,
        "procedure_datetime": study.row["started_timestamp"],
        "procedure_type_concept_id": EHR,
        "visit_occurrence_id": crosswalks.visit(system, uid, study.accession_number),
        "procedure_source_value": said[0] if said else study.row["description"],
        **study.audit(now),
    }
