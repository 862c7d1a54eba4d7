"""Raw FHIR resources, one row per resource in a file. Append only.

One asset for each type of the setting `fhir_resource_types`; DiagnosticReport by default.
"""

import dagster as dg

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.settings import load_settings
from dicom_assets.steps import catalog
from dicom_assets.steps.ingest_fhir import ingest_fhir
from dicom_assets.steps.reconcile import Day


def fhir_resource(resource_type: str) -> dg.AssetsDefinition:
    """Returns the bronze asset of a resource type."""
    asset, table = f"bronze/{resource_type}", catalog.bronze_fhir(resource_type)

    @layer_asset(
        asset,
        deps=["bronze/fhir_files"],
        doc=f"{resource_type}, bronze. {__doc__}",
        kinds={"fhir", "deltalake"},
        table=table,
    )
    def ingested(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:
        run = lakehouse.run(context)
        report = ingest_fhir(run, table)
        day = Day(run)
        rows = day.resources(resource_type).bronze
        systems = rows["sourceSystem"].map(run.settings.shown_namespace)
        by_system = rows.assign(sourceSystem=systems).groupby("sourceSystem")
        return result(
            asset,
            day,
            report,
            preview=by_system.agg(lines=("filePath", "size")).reset_index(),
            partition_rows=len(rows),
            table=table,
        )

    return ingested


@dg.definitions
def definitions() -> dg.Definitions:
    """Returns the assets of the types that the site has chosen."""
    return dg.Definitions(assets=list(map(fhir_resource, load_settings().fhir_resource_types)))
