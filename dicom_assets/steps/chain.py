"""The chain without Dagster: its steps in order, for `stream`, tests and benchmarks.

Decided here: nothing but the order, which the assets' dependencies give in Dagster, and that there
are the steps whose assets a site has.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from dicom_assets.fhir.links import LINKED
from dicom_assets.omop.note import SOURCE_TABLE as REPORT
from dicom_assets.settings import Settings
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

Step = Callable[[Run], Report]
Steps = Mapping[str, Step]


def steps_of(settings: Settings) -> Steps:
    """Returns the steps of a site, by name, in order."""
    return _steps(
        settings.fhir_resource_types,
        person=settings.omop_person,
        procedure_occurrence=settings.omop_procedure_occurrence,
    )


def _steps(resource_types: Sequence[str], *, person: bool, procedure_occurrence: bool) -> Steps:
    return {
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
        **({"procedure_occurrence": to_omop.procedure_occurrence} if procedure_occurrence else {}),
        **({"person": to_omop.person} if person else {}),
        "image_occurrence": to_omop.image_occurrence,
        **{name: step for each in resource_types for name, step in _of_type(each)},
        **({"note": note} if REPORT in resource_types else {}),
    }


def _of_type(resource_type: str) -> Iterator[tuple[str, Step]]:
    bronze = catalog.bronze_fhir(resource_type)
    yield f"ingest_{resource_type}", lambda run: ingest_fhir(run, bronze)
    yield (
        f"flatten_{resource_type}",
        lambda run: flatten(run, bronze=bronze, silver=catalog.silver_fhir(resource_type)),
    )
    if resource_type in LINKED:
        yield f"link_{resource_type}", lambda run: link_again(run, resource_type)


STEPS = _steps([REPORT], person=True, procedure_occurrence=True)
"""The steps of a site that has changed no setting."""
