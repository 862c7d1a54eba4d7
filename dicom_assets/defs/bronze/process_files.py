"""Process files: every dropped DICOM file, organised by ingest date.

`bronze/Files/Process/Imaging/DICOM/[<Namespace>/]yyyy/mm/dd/<unix ms>_<original name>`, later
`….dcm.zip`. Loose files are moved, members of ZIPs (also of ZIPs in ZIPs) each become one file.
What is no DICOM file lies in Failed, with a reason in `bronze/Tables/ingestion_failures`. One row
per file stands in `bronze/Tables/process_files`.
"""

import dagster as dg
import pandas as pd

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.steps import catalog
from dicom_assets.steps.organise import organise
from dicom_assets.steps.reconcile import Day

ASSET = "bronze/process_files"


@layer_asset(
    ASSET,
    deps=["bronze/drop_folder"],
    doc=__doc__,
    kinds={"dicom", "file"},
    table=catalog.PROCESS_FILES,
)
def process_files(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:
    """Organises the drop folder."""
    run = lakehouse.run(context)
    report = organise(run)
    day = Day(run)
    failures = day.failures_of("organise")
    preview = pd.concat(
        [
            pd.DataFrame([{"outcome": "organised", "files": len(day.organised)}]),
            failures.groupby("reasonCode")
            .size()
            .reset_index()
            .set_axis(["outcome", "files"], axis=1),
        ]
    )
    return result(
        ASSET,
        day,
        report,
        preview=preview,
        partition_rows=len(day.organised),
        table=catalog.PROCESS_FILES,
        more={"folder": dg.MetadataValue.path(str(run.engine.layout.process_root))},
    )
