"""person: OMOP person, one row per patient and source system, so that gold stands alone.

A site with its own OMOP instance sets `omop_person = false` and gives a `person_crosswalk`.
"""

import dagster as dg

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import lineage, result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.settings import load_settings
from dicom_assets.steps import catalog, to_omop
from dicom_assets.steps.reconcile import Day

ASSET = "gold/person"
LINEAGE = lineage(
    {
        "silver/ImagingStudy": {
            "person_id": ["sourceSystem", "subject", "identifier"],
            "person_source_value": ["subject"],
            "sourceSystem": ["sourceSystem"],
        },
        "bronze/dicomimagingmetastore": {
            "gender_concept_id": ["patientSex"],
            "year_of_birth": ["patientBirthDate"],
            "sourceRecordId": ["sopInstanceUid"],
            "sourceModifiedAt": ["ingestedAt"],
        },
    }
)


@layer_asset(
    ASSET,
    deps=["bronze/dicomimagingmetastore", "silver/ImagingStudy"],
    doc=__doc__,
    kinds={"omop", "deltalake"},
    table=catalog.PERSON,
)
def person(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:
    """Upserts the patients that the studies that changed point to."""
    run = lakehouse.run(context)
    report = to_omop.person(run)
    day = Day(run)
    groups = day.people.groupby("gender_concept_id")
    return result(
        ASSET,
        day,
        report,
        preview=groups.agg(people=("person_id", "size")).reset_index(),
        partition_rows=len(day.people),
        table=catalog.PERSON,
        more=LINEAGE,
    )


@dg.definitions
def definitions() -> dg.Definitions:
    """Returns the asset, unless the site has its own."""
    return dg.Definitions(assets=[person] if load_settings().omop_person else [])
