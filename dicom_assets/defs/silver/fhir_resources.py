"""Flattened FHIR R4B, one row per resource and source system. Upserted.

A newer statement replaces an older one. Complex elements have a `_string` twin in JSON. What is
invalid is kept, with what is wrong in `validationErrors`, or a failure: setting `fhir_validation`.
One asset for each type of the setting `fhir_resource_types`; DiagnosticReport by default, whose
`imagingStudyIds` are ids of rows of silver ImagingStudy, found also when the study comes later.
"""

import dagster as dg
import pandas as pd

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import lineage, result
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.fhir.links import LINKED
from dicom_assets.settings import load_settings
from dicom_assets.steps import catalog
from dicom_assets.steps.flatten import flatten
from dicom_assets.steps.link_again import link_again
from dicom_assets.steps.reconcile import Day

_FROM = {
    "id": ["sourceSystem", "id"],
    "idOrig": ["id"],
    "sourceSystem": ["sourceSystem"],
    "sourceFilePath": ["filePath"],
    "ingestDate": ["ingestDate"],
    "createdAt": [],
    "modifiedAt": [],
}


def fhir_resource(resource_type: str) -> dg.AssetsDefinition:
    """Returns the silver asset of a resource type."""
    asset = f"silver/{resource_type}"
    bronze, silver = catalog.bronze_fhir(resource_type), catalog.silver_fhir(resource_type)
    columns = {name: _FROM.get(name, ["resource"]) for name in silver.schema.names}

    @layer_asset(
        asset,
        deps=[f"bronze/{resource_type}", *(["silver/ImagingStudy"] * (resource_type in LINKED))],
        doc=f"{resource_type}, silver. {__doc__}",
        kinds={"fhir", "deltalake"},
        table=silver,
    )
    def flattened(context: dg.AssetExecutionContext, lakehouse: Lakehouse) -> dg.MaterializeResult:
        run = lakehouse.run(context)
        report = flatten(run, bronze=bronze, silver=silver)
        if resource_type in LINKED:
            report.count({"linked_again": link_again(run, resource_type).rows})
        day = Day(run)
        found = day.resources(resource_type)
        counts = {"resources": len(found.silver), "invalid": found.invalid()}
        return result(
            asset,
            day,
            report,
            preview=pd.DataFrame([counts]),
            partition_rows=len(found.silver),
            table=silver,
            more=lineage({f"bronze/{resource_type}": columns}),
        )

    return flattened


@dg.definitions
def definitions() -> dg.Definitions:
    """Returns the assets of the types that the site has chosen."""
    return dg.Definitions(assets=list(map(fhir_resource, load_settings().fhir_resource_types)))
