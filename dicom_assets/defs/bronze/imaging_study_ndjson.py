"""ImagingStudy NDJSON: FHIR R4B ImagingStudy, one JSON object a line, one file for one run.

`bronze/Files/Process/Clinical/FHIR NDJSON/[<Namespace>/]yyyy/mm/dd/ImagingStudy/*.ndjson`. New
metastore rows grouped by study, and studies written anew since they were corrected; every line is
valid by `fhir.resources.R4B`.
"""

import dagster as dg
import pandas as pd

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.steps.convert import convert
from dicom_assets.steps.reconcile import Day

ASSET = "bronze/ImagingStudy_ndjson"


@layer_asset(
    ASSET,
    deps=["bronze/dicomimagingmetastore", "silver/current_files"],
    doc=__doc__,
    kinds={"fhir", "json"},
)
def imaging_study_ndjson(
    context: dg.AssetExecutionContext, lakehouse: Lakehouse
) -> dg.MaterializeResult:
    """Converts the metastore rows added since the last run."""
    run = lakehouse.run(context)
    report = convert(run)
    day = Day(run)
    return result(
        ASSET,
        day,
        report,
        preview=pd.DataFrame([{"studies": report.rows, **report.counts}]),
        partition_rows=len(day.lines),
        address=str(run.engine.layout.fhir_root),
    )
