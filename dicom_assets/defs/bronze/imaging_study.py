"""ImagingStudy, bronze: raw FHIR R4B ImagingStudy, one row per NDJSON line. Append only."""

import dagster as dg
import pandas as pd

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import lineage, result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.fhir.instances import COLUMNS
from dicom_assets.steps import catalog
from dicom_assets.steps.ingest_fhir import ingest_fhir
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.reconcile_rows import UNKNOWN

ASSET = "bronze/ImagingStudy"
TABLE = catalog.BRONZE_IMAGING_STUDY
LINEAGE = lineage(
    {"bronze/dicomimagingmetastore": {"resource": COLUMNS, "id": ["studyInstanceUid"]}}
)


@layer_asset(
    ASSET,
    deps=["bronze/ImagingStudy_ndjson"],
    doc=__doc__,
    kinds={"fhir", "deltalake"},
    table=TABLE,
)
def imaging_study(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:
    """Appends the lines of new NDJSON files."""
    run = lakehouse.run(context)
    report = ingest_fhir(run, TABLE)
    day = Day(run)
    named = run.settings.shown_namespace
    lines = day.bronze.assign(sourceSystem=day.bronze["sourceSystem"].map(named))
    by_system = lines.groupby("sourceSystem", observed=True)["resource"]
    return result(
        ASSET,
        day,
        report,
        preview=by_system.agg(lines="size", studies=_studies).reset_index(),
        partition_rows=len(day.bronze),
        table=TABLE,
        more=LINEAGE,
    )


def _studies(of_lines: pd.Series) -> int:
    return of_lines.loc[of_lines != UNKNOWN].nunique()
