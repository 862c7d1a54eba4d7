"""current_files: which file speaks for each instance, series and study: the newest, by arrival.

Re-sent instances, moves between series and studies, deletes and restores are settled here; what is
written as FHIR follows it. What files contradict each other in stands in `silver/conflicts`, both
sides of each, so that a person can decide (`dicom-assets conflicts` shows those still open).
"""

import dagster as dg

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import lineage, result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.steps.current_files import FILE
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.settle import TABLE, settle

ASSET = "silver/current_files"
_FROM = {
    "id": ["sourceSystem", "studyInstanceUid", "seriesInstanceUid", "sopInstanceUid"],
    "arrivedAt": ["ingestedAt"],
    "stated": FILE,
}
LINEAGE = lineage(
    {
        "bronze/dicomimagingmetastore": {
            name: _FROM.get(name, [name] if name in FILE else []) for name in TABLE.schema.names
        }
    }
)


@layer_asset(
    ASSET,
    deps=["bronze/dicomimagingmetastore"],
    doc=__doc__,
    kinds={"deltalake"},
    table=TABLE,
)
def current_files(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:
    """Takes in new metastore rows and corrections."""
    run = lakehouse.run(context)
    report = settle(run)
    day = Day(run)
    conflicts = day.conflicts.groupby(["level", "attribute"])
    return result(
        ASSET,
        day,
        report,
        preview=conflicts.agg(conflicts=("id", "size")).reset_index(),
        partition_rows=len(day.current),
        table=TABLE,
        more=LINEAGE,
    )
