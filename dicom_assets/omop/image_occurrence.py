"""Silver ImagingStudy → OMOP image_occurrence, one row per series (MI-CDM).

Decided here: what each column holds. `modality_source_value` is Modality (0008,0060) as it stands
in the file: null where it is empty, although FHIR then says OT, and the concept is then 0.
`anatomic_site_source_value` is Body Part Examined as it came, else the code, else its meaning. Not
decided here: keys of persons (`person`), concepts (`vocabulary`).
"""

from collections import Counter
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.schemas import IMAGE_OCCURRENCE
from dicom_assets.lakehouse.uris import FOLDER_URL, SCT, SOURCE_VALUE_URL
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.person import person_id
from dicom_assets.omop.studies import (
    Json,
    Series,
    Study,
    day,
    procedure_occurrence_id,
    series_of,
    studies,
)
from dicom_assets.omop.vocabulary import Vocabulary

MODALITY = "modality"
ANATOMIC_SITE = "anatomic_site"


def image_occurrences(
    silver: pa.Table,
    *,
    vocabulary: Vocabulary,
    crosswalks: Crosswalks,
    dicomweb_base_address: str | None,
    now: datetime,
) -> pa.Table:
    """Returns one `schemas.IMAGE_OCCURRENCE` row per series.

    Args:
        silver: Silver ImagingStudy rows with at least `studies.STUDY_COLUMNS`.
        vocabulary: Code → concept id.
        crosswalks: The site's person and visit ids.
        dicomweb_base_address: Base address of a DICOMweb service, without /studies.
        now: The instant that goes into modifiedAt.
    """
    base = (
        dicomweb_base_address.rstrip("/").removesuffix("/studies")
        if dicomweb_base_address
        else None
    )
    rows: dict[int, Json] = {}
    for study in studies(silver):
        shared = _of_study(study, crosswalks, base, now)
        for series in series_of(study):
            row = shared | _of_series(series, study, vocabulary)
            rows[row["image_occurrence_id"]] = row
    return pa.Table.from_pylist(list(rows.values()), schema=IMAGE_OCCURRENCE)


def unmapped(rows: pa.Table) -> dict[str, dict[str, int]]:
    """Returns how many rows carry each code that has no concept: {"modality": {"XX": 3}, …}.

    Args:
        rows: image_occurrence rows.
    """
    found = {}
    for name in (MODALITY, ANATOMIC_SITE):
        concept, source = f"{name}_concept_id", f"{name}_source_value"
        pairs = zip(rows[concept].to_pylist(), rows[source].to_pylist(), strict=True)
        counts = Counter(code for number, code in pairs if code and not number)
        found[name] = dict(sorted(counts.items()))
    return found


def _of_study(
    study: Study, crosswalks: Crosswalks, base: str | None, now: datetime
) -> dict[str, Any]:
    system, uid = study.source_system, study.uid
    return {
        "person_id": person_id(system, study.patient_id, uid, crosswalks),
        "procedure_occurrence_id": procedure_occurrence_id(system, uid),
        "visit_occurrence_id": crosswalks.visit(system, uid, study.accession_number),
        "wadors_uri": f"{base}/studies/{quote(uid, safe='')}" if base else None,
        "image_study_uid": uid,
        **study.audit(now),
    }


def _of_series(series: Series, study: Study, vocabulary: Vocabulary) -> dict[str, Any]:
    uid = series.uid or ""
    modality = _modality(series.modality or {})
    concept = vocabulary.modality(modality and modality.upper())
    site = series.bodySite or {}
    return {
        "image_occurrence_id": int_key(study.source_system, study.uid, uid),
        "anatomic_site_concept_id": _site_concept(site, vocabulary),
        "local_path": _extension(series.extension, FOLDER_URL),
        "image_occurrence_date": day(series.started) or study.date,
        "image_series_uid": uid,
        "modality_concept_id": concept,
        "modality_source_value": modality,
        "modality_source_concept_id": concept,
        "anatomic_site_source_value": _extension(site.get("extension"), SOURCE_VALUE_URL)
        or site.get("code")
        or site.get("display"),
    }


def _modality(coding: Json) -> str | None:
    """Returns the modality as it stands in the file; a source value without text is none."""
    if any(e.get("url") == SOURCE_VALUE_URL for e in coding.get("extension") or ()):
        return _extension(coding["extension"], SOURCE_VALUE_URL)
    return coding.get("code")


def _site_concept(site: Json, vocabulary: Vocabulary) -> int:
    # only a SNOMED code is one; the same digits in another scheme mean something else
    return vocabulary.snomed_concept(site.get("code")) if site.get("system") == SCT else 0


def _extension(extensions: list[Json] | None, url: str) -> str | None:
    values = (each.get("valueString") for each in extensions or () if each.get("url") == url)
    return next(values, None)
