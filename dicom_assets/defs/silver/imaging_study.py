"""ImagingStudy, silver: flattened FHIR R4B, one row per study and source system. Upserted.

Parts of a study that arrive later are merged: series by series UID, instances by SOP Instance UID,
the newer statement wins. Complex elements have a `_string` twin in JSON.
"""

import dagster as dg

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import lineage, result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.steps import catalog
from dicom_assets.steps.flatten import flatten
from dicom_assets.steps.reconcile import Day

ASSET = "silver/ImagingStudy"
TABLE = catalog.silver_imaging_study()
_FROM = {
    "id": ["sourceSystem", "id"],
    "idOrig": ["id"],
    "sourceSystem": ["sourceSystem"],
    "sourceFilePath": ["filePath"],
    "ingestDate": ["ingestDate"],
    "createdAt": [],
    "modifiedAt": [],
}
LINEAGE = lineage(
    {"bronze/ImagingStudy": {name: _FROM.get(name, ["resource"]) for name in TABLE.schema.names}}
)


@layer_asset(
    ASSET, deps=["bronze/ImagingStudy"], doc=__doc__, kinds={"fhir", "deltalake"}, table=TABLE
)
def imaging_study(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:
    """Upserts the studies of new bronze lines."""
    run = lakehouse.run(context)
    report = flatten(run, bronze=catalog.BRONZE_IMAGING_STUDY, silver=TABLE)
    day = Day(run)
    return result(
        ASSET,
        day,
        report,
        preview=day.study_sizes(),
        partition_rows=len(day.silver.studies),
        table=TABLE,
        more=LINEAGE,
    )
