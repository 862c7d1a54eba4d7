"""External files: what lies in bring-your-own-storage, and how it has changed. Append only.

Each shortcut under `bronze/Files/External/Imaging/DICOM` is listed, or its inventory read. One row
says that an object is new, changed, gone or back; those that are new or changed are then read by
`dicomimagingmetastore`, by ranges, where they lie.
"""

import dagster as dg

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.steps import catalog
from dicom_assets.steps.external import external_files as list_external
from dicom_assets.steps.reconcile import Day

ASSET = "bronze/external_files"


@layer_asset(
    ASSET,
    deps=["bronze/external_storage"],
    doc=__doc__,
    kinds={"dicom", "deltalake"},
    table=catalog.EXTERNAL_FILES,
)
def external_files(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:
    """Lists all shortcuts."""
    run = lakehouse.run(context)
    report = list_external(run)
    day = Day(run)
    states = day.external.groupby("state", observed=True).agg(rows=("path", "size")).reset_index()
    return result(
        ASSET,
        day,
        report,
        preview=states,
        partition_rows=len(day.external),
        table=catalog.EXTERNAL_FILES,
    )
