"""note: OMOP, the text of each report, one row per report and study. Upserted by stable key.

`note_event_id` is the study's `procedure_occurrence_id`, the person that of the study. A report
whose study is not known yet has no row; it comes with the study.
"""

import dagster as dg
import pandas as pd

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import lineage, result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.omop.note import SOURCE_TABLE
from dicom_assets.settings import load_settings
from dicom_assets.steps import catalog, to_note
from dicom_assets.steps.reconcile import Day

ASSET = "gold/note"
LINEAGE = lineage(
    {
        "silver/DiagnosticReport": {
            "note_id": ["id", "imagingStudyIds"],
            "note_date": ["issued", "effectiveDateTime", "effectivePeriod"],
            "note_datetime": ["issued"],
            "note_title": ["code"],
            "note_text": ["presentedForm", "conclusion", "text"],
            "language_concept_id": ["language"],
            "note_source_value": ["code"],
            "sourceSystem": ["sourceSystem"],
            "sourceRecordId": ["id"],
            "sourceModifiedAt": ["modifiedAt"],
        },
        "silver/ImagingStudy": {
            "person_id": ["sourceSystem", "subject", "identifier"],
            "visit_occurrence_id": ["identifier"],
            "note_event_id": ["sourceSystem", "identifier"],
        },
    }
)
_SETTINGS = load_settings()
_POINTED_TO = {
    "gold/person": _SETTINGS.omop_person,
    "gold/procedure_occurrence": _SETTINGS.omop_procedure_occurrence,
}


@layer_asset(
    ASSET,
    deps=[
        "silver/DiagnosticReport",
        "silver/ImagingStudy",
        *(asset for asset, is_on in _POINTED_TO.items() if is_on),
    ],
    doc=__doc__,
    kinds={"omop", "deltalake"},
    table=catalog.NOTE,
)
def note(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:
    """Upserts the notes of reports that changed, and of those whose study did."""
    run = lakehouse.run(context)
    report = to_note.note(run)
    day = Day(run)
    notes = day.resources(SOURCE_TABLE).notes
    return result(
        ASSET,
        day,
        report,
        preview=pd.DataFrame([{"notes": len(notes), "people": notes["person_id"].nunique()}]),
        partition_rows=len(notes),
        table=catalog.NOTE,
        more=LINEAGE,
    )


@dg.definitions
def definitions() -> dg.Definitions:
    """Returns the asset where reports have tables."""
    has_reports = SOURCE_TABLE in load_settings().fhir_resource_types
    return dg.Definitions(assets=[note] if has_reports else [])
