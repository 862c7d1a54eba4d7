"""FHIR files: one resource type each, in the date's folder of that type.

`bronze/Files/Process/Clinical/FHIR NDJSON/[<Namespace>/]yyyy/mm/dd/<ResourceType>/`. A dropped file
of several types, a Bundle for example, becomes one file for each, and is itself kept in `Mixed`.
What holds no resource lies in Failed.
"""

import dagster as dg

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.steps import catalog
from dicom_assets.steps.organise_fhir import organise_fhir
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.reconcile_fhir import organised_files

ASSET = "bronze/fhir_files"


@layer_asset(
    ASSET,
    deps=["bronze/fhir_drop_folder"],
    doc=__doc__,
    kinds={"fhir", "file"},
    table=catalog.FHIR_FILES,
)
def fhir_files(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:
    """Organises the FHIR drop folder."""
    run = lakehouse.run(context)
    report = organise_fhir(run)
    files = organised_files(run)
    return result(
        ASSET,
        Day(run),
        report,
        preview=files.groupby("resourceType").agg(files=("filePath", "size")).reset_index(),
        partition_rows=len(files),
        table=catalog.FHIR_FILES,
    )
