"""DICOM metastore: one row per DICOM file read, with all elements but pixel data. Append only.

29 promoted tags have columns of their own; `metadata` holds every element as a map,
`metadata_string` the same in the DICOM JSON Model (PS3.18 Annex F). After reading, each file is
compressed into a ZIP of its own. Unreadable files lie in Failed, with a reason. Of External only
header bytes are fetched, and nothing is written there.
"""

import dagster as dg

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.contact_sheet import contact_sheet_markdown
from dicom_assets.defs.metadata import result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.steps import catalog
from dicom_assets.steps.extract import extract
from dicom_assets.steps.reconcile import Day

ASSET = "bronze/dicomimagingmetastore"


@layer_asset(
    ASSET,
    deps=["bronze/process_files", "bronze/external_files"],
    doc=__doc__,
    kinds={"dicom", "deltalake"},
    table=catalog.metastore(),
)
def dicomimagingmetastore(
    context: dg.AssetExecutionContext, lakehouse: Lakehouse
) -> dg.MaterializeResult:
    """Reads and compresses the files organised since the last run, and reads new External ones."""
    run = lakehouse.run(context)
    since = run.engine.version(run.metastore)
    report = extract(run)
    day = Day(run)
    return result(
        ASSET,
        day,
        report,
        preview=day.by_modality(),
        partition_rows=len(day.instances),
        table=run.metastore,
        more={"contact_sheet": contact_sheet_markdown(run, since=since)},
    )
