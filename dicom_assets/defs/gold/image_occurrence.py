"""Image_Occurrence: OMOP Medical Imaging CDM, one row per DICOM series. Upserted by stable key."""

import dagster as dg

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import lineage, result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.settings import load_settings
from dicom_assets.steps import catalog, to_omop
from dicom_assets.steps.reconcile import Day

ASSET = "gold/Image_Occurrence"
LINEAGE = lineage(
    {
        "silver/ImagingStudy": {
            "image_occurrence_id": ["sourceSystem", "identifier", "series"],
            "person_id": ["sourceSystem", "subject"],
            "procedure_occurrence_id": ["sourceSystem", "identifier"],
            "visit_occurrence_id": ["sourceSystem", "identifier"],
            "anatomic_site_concept_id": ["series"],
            "wadors_uri": ["identifier"],
            "local_path": ["series"],
            "image_occurrence_date": ["series", "started"],
            "image_study_uid": ["identifier"],
            "image_series_uid": ["series"],
            "modality_concept_id": ["series"],
            "modality_source_value": ["series"],
            "modality_source_concept_id": ["series"],
            "anatomic_site_source_value": ["series"],
            "sourceSystem": ["sourceSystem"],
            "sourceRecordId": ["id"],
            "sourceModifiedAt": ["modifiedAt"],
        }
    }
)
_SETTINGS = load_settings()
_POINTED_TO = {
    "gold/person": _SETTINGS.omop_person,
    "gold/procedure_occurrence": _SETTINGS.omop_procedure_occurrence,
}


@layer_asset(
    ASSET,
    deps=["silver/ImagingStudy", *(asset for asset, is_on in _POINTED_TO.items() if is_on)],
    doc=__doc__,
    kinds={"omop", "deltalake"},
    table=catalog.IMAGE_OCCURRENCE,
)
def image_occurrence(
    context: dg.AssetExecutionContext, lakehouse: Lakehouse
) -> dg.MaterializeResult:
    """Upserts the series of studies that changed."""
    run = lakehouse.run(context)
    report = to_omop.image_occurrence(run)
    day = Day(run)
    columns = ["modality_source_value", "modality_concept_id", "anatomic_site_concept_id"]
    groups = day.gold.groupby(columns, observed=True)
    return result(
        ASSET,
        day,
        report,
        preview=groups.agg(series=("series", "size")).reset_index(),
        partition_rows=len(day.gold),
        table=catalog.IMAGE_OCCURRENCE,
        more=LINEAGE,
    )
