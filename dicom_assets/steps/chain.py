"""The chain without Dagster: its steps in order, for tests and benchmarks.

Decided here: nothing but the order, which the assets' dependencies give in Dagster.
"""

from collections.abc import Callable, Mapping

from dicom_assets.steps import catalog, to_omop
from dicom_assets.steps.convert import convert
from dicom_assets.steps.external import external_files
from dicom_assets.steps.extract import extract
from dicom_assets.steps.flatten import flatten
from dicom_assets.steps.ingest_fhir import ingest_fhir
from dicom_assets.steps.link_again import link_again
from dicom_assets.steps.organise import organise
from dicom_assets.steps.organise_fhir import organise_fhir
from dicom_assets.steps.report import Report
from dicom_assets.steps.run import Run
from dicom_assets.steps.settle import settle
from dicom_assets.steps.to_note import note

_REPORT = "DiagnosticReport"

STEPS: Mapping[str, Callable[[Run], Report]] = {
    "organise": organise,
    "external": external_files,
    "extract": extract,
    "settle": settle,
    "convert": convert,
    "organise_fhir": organise_fhir,
    "ingest_fhir": lambda run: ingest_fhir(run, catalog.BRONZE_IMAGING_STUDY),
    "flatten": lambda run: flatten(
        run, bronze=catalog.BRONZE_IMAGING_STUDY, silver=catalog.silver_imaging_study()
    ),
    "procedure_occurrence": to_omop.procedure_occurrence,
    "person": to_omop.person,
    "image_occurrence": to_omop.image_occurrence,
    "ingest_reports": lambda run: ingest_fhir(run, catalog.bronze_fhir(_REPORT)),
    "flatten_reports": lambda run: flatten(
        run, bronze=catalog.bronze_fhir(_REPORT), silver=catalog.silver_fhir(_REPORT)
    ),
    "link_reports": lambda run: link_again(run, _REPORT),
    "note": note,
}
