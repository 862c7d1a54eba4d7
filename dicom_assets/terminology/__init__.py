"""Terminology: modality and body part codes, the only place that knows them.

Decided here: DICOM code → SNOMED code → OMOP concept id, from two tables beside this file
(facts from the Apache-2.0 projects paulnagy/DICOM2OMOP and UMEssen/dicom-fhir-converter; codes by
DICOM PS3.16 Annex L). Not decided here: where a code ends up in FHIR or OMOP.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class BodyPart:
    """A body part: Body Part Examined (0018,0015), SNOMED code and standard OMOP concept."""

    body_part_examined: str
    meaning: str
    snomed_code: str
    concept_id: int


def _rows(name: str) -> list[dict[str, str]]:
    text = files(__name__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def body_parts() -> dict[str, BodyPart]:
    """Returns Body Part Examined (upper case) → body part."""
    return {
        row["body_part_examined"]: BodyPart(
            row["body_part_examined"],
            row["meaning"],
            row["snomed_code"],
            int(row["omop_concept_id"] or 0),
        )
        for row in _rows("body_part.csv")
    }


@cache
def body_part_concepts() -> dict[str, int]:
    """Returns SNOMED code → standard OMOP concept id, for the codes that have one."""
    parts = body_parts().values()
    return {part.snomed_code: part.concept_id for part in parts if part.concept_id}


@cache
def modality_concepts() -> dict[str, int]:
    """Returns DICOM modality → OMOP concept id of the proposed DICOM vocabulary (2128…)."""
    return {row["modality"]: int(row["omop_dicom_concept_id"]) for row in _rows("modality.csv")}
