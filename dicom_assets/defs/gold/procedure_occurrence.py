"""procedure_occurrence: OMOP, one row per imaging study, so that gold stands alone.

A site with its own OMOP instance sets `omop_procedure_occurrence = false`.
"""

import dagster as dg

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import lineage, result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.settings import load_settings
from dicom_assets.steps import catalog, to_omop
from dicom_assets.steps.reconcile import Day

ASSET = "gold/procedure_occurrence"
LINEAGE = lineage(
    {
        "silver/ImagingStudy": {
            "procedure_occurrence_id": ["sourceSystem", "identifier"],
            "person_id": ["sourceSystem", "subject"],
            "procedure_date": ["started"],
            "procedure_datetime": ["started"],
            "visit_occurrence_id": ["identifier"],
            "procedure_source_value": ["procedureCode", "description"],
            "sourceSystem": ["sourceSystem"],
            "sourceRecordId": ["id"],
            "sourceModifiedAt": ["modifiedAt"],
        }
    }
)


@layer_asset(
    ASSET,
    deps=["silver/ImagingStudy"],
    doc=__doc__,
    kinds={"omop", "deltalake"},
    table=catalog.PROCEDURE_OCCURRENCE,
)
def procedure_occurrence(
    context: dg.AssetExecutionContext, lakehouse: Lakehouse
) -> dg.MaterializeResult:
    """Upserts the studies that changed."""
    run = lakehouse.run(context)
    report = to_omop.procedure_occurrence(run)
    day = Day(run)
    groups = day.procedures.groupby("procedure_type_concept_id")
    return result(
        ASSET,
        day,
        report,
        preview=groups.agg(studies=("person_id", "size")).reset_index(),
        partition_rows=len(day.procedures),
        table=catalog.PROCEDURE_OCCURRENCE,
        more=LINEAGE,
    )


@dg.definitions
def definitions() -> dg.Definitions:
    """Returns the asset, unless the site has its own."""
    is_on = load_settings().omop_procedure_occurrence
    return dg.Definitions(assets=[procedure_occurrence] if is_on else [])
