"""The catalogue: every Delta table of the lakehouse, by layer.

Decided here: which tables there are, their keys and partitioning. Their columns are decided in
`lakehouse.schemas` (bronze, gold, and silver tables that are not FHIR) and `fhir.flatten` (silver).
"""

from functools import cache

from dicom_assets.lakehouse import schemas
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS, PromotedTag

PROCESS_FILES = Table(
    "bronze",
    "process_files",
    schemas.PROCESS_FILES,
    "One row per organised DICOM file: where it came from and where it lies",
    key=("filePath",),
    partition=schemas.INGEST_DATE,
)
EXTERNAL_FILES = Table(
    "bronze",
    "external_files",
    schemas.EXTERNAL_FILES,
    "One row each time an object of bring-your-own-storage is found new, changed or gone",
    key=("filePath",),
    partition=schemas.INGEST_DATE,
)
INGESTION_FAILURES = Table(
    "bronze",
    "ingestion_failures",
    schemas.INGESTION_FAILURES,
    "One row per file, member or line that did not make it, with the reason",
    key=("sourcePath",),
    partition=schemas.INGEST_DATE,
)
OPERATIONS = Table(
    "bronze",
    "operations",
    schemas.OPERATIONS,
    "One row per correction asked for: delete, restore, read again, change of patient",
    key=("operationId",),
    partition=schemas.INGEST_DATE,
)
FHIR_FILES = Table(
    "bronze",
    "fhir_files",
    schemas.FHIR_FILES,
    "One row per organised FHIR file: where it came from and where it lies",
    key=("filePath",),
    partition=schemas.INGEST_DATE,
)
STUDY_NAMES = Table(
    "silver",
    "study_names",
    schemas.STUDY_NAMES,
    "By what names FHIR resources speak of ImagingStudies, append only",
    key=("name",),
    partition=schemas.INGEST_DATE,
    is_looked_up=True,
)
CURRENT_FILES = Table(
    "silver",
    "current_files",
    schemas.by_date(schemas.CURRENT_FILES),
    "One row per instance, series and study: which file speaks for it",
    key=("id",),
    partition=schemas.INGEST_DATE,
    is_looked_up=True,
)
CONFLICTS = Table(
    "silver",
    "conflicts",
    schemas.by_date(schemas.CONFLICTS),
    "One row per two files that say different things about an instance, series or study",
    key=("id",),
    partition=schemas.INGEST_DATE,
    is_looked_up=True,
)


@cache
def bronze_fhir(resource_type: str) -> Table:
    """Returns the bronze table of a FHIR resource type."""
    return Table(
        "bronze",
        resource_type,
        schemas.RAW_FHIR,
        f"Raw FHIR {resource_type}, one row per NDJSON line, append only",
        key=("id",),
        partition=schemas.INGEST_DATE,
        is_looked_up=True,
    )


BRONZE_IMAGING_STUDY = bronze_fhir("ImagingStudy")
IMAGE_OCCURRENCE = Table(
    "gold",
    "Image_Occurrence",
    schemas.by_month(schemas.IMAGE_OCCURRENCE),
    "OMOP Medical Imaging CDM image_occurrence: one row per DICOM series",
    key=("image_occurrence_id",),
    partition=schemas.INGEST_MONTH,
    is_looked_up=True,
)
PERSON = Table(
    "gold",
    "person",
    schemas.by_month(schemas.PERSON),
    "OMOP person: one row per patient and source system",
    key=("person_id",),
    partition=schemas.INGEST_MONTH,
    is_looked_up=True,
)
NOTE = Table(
    "gold",
    "note",
    schemas.by_month(schemas.NOTE),
    "OMOP note: the text of a report, one row per report and study",
    key=("note_id",),
    partition=schemas.INGEST_MONTH,
    is_looked_up=True,
)
PROCEDURE_OCCURRENCE = Table(
    "gold",
    "procedure_occurrence",
    schemas.by_month(schemas.PROCEDURE_OCCURRENCE),
    "OMOP procedure_occurrence: one row per imaging study",
    key=("procedure_occurrence_id",),
    partition=schemas.INGEST_MONTH,
    is_looked_up=True,
)


@cache
def metastore(tags: tuple[PromotedTag, ...] = PROMOTED_TAGS) -> Table:
    """Returns bronze/dicomimagingmetastore with its promoted columns."""
    return Table(
        "bronze",
        "dicomimagingmetastore",
        schemas.dicomimagingmetastore(tags),
        "One row per DICOM file read: all elements but pixel data, append only",
        key=("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid"),
        partition=schemas.INGEST_DATE,
        rows_per_group=1024,  # a row holds all of a header
    )


@cache
def silver_imaging_study() -> Table:
    """Returns silver/ImagingStudy; its columns follow the FHIR R4B model."""
    from dicom_assets.fhir.flatten import silver_schema

    return Table(
        "silver",
        "ImagingStudy",
        schemas.by_date(silver_schema("ImagingStudy")),
        "Flattened FHIR R4B ImagingStudy: one row per study and source system",
        key=("id",),
        # a late part rewrites the file that its study stands in: by date that is a small one
        partition=schemas.INGEST_DATE,
        is_looked_up=True,
        rows_per_group=512,  # a row holds all instances of a study
        compression="SNAPPY",  # ZSTD begins anew in each of 500 columns, in ever so small files
    )


@cache
def silver_fhir(resource_type: str) -> Table:
    """Returns the silver table of a FHIR resource type; its columns follow the FHIR R4B model."""
    if resource_type == "ImagingStudy":
        return silver_imaging_study()
    from dicom_assets.fhir.flatten import silver_schema

    return Table(
        "silver",
        resource_type,
        schemas.by_date(silver_schema(resource_type)),
        f"Flattened FHIR R4B {resource_type}: one row per resource and source system",
        key=("id",),
        partition=schemas.INGEST_DATE,
        is_looked_up=True,
        compression="SNAPPY",  # as of ImagingStudy: many columns, most of them empty
    )


def tables(
    tags: tuple[PromotedTag, ...] = PROMOTED_TAGS, resource_types: tuple[str, ...] = ()
) -> tuple[Table, ...]:
    """Returns every table, bronze to gold, with those of further FHIR resource types."""
    return (
        PROCESS_FILES,
        EXTERNAL_FILES,
        metastore(tags),
        INGESTION_FAILURES,
        OPERATIONS,
        CURRENT_FILES,
        CONFLICTS,
        BRONZE_IMAGING_STUDY,
        silver_imaging_study(),
        PERSON,
        PROCEDURE_OCCURRENCE,
        IMAGE_OCCURRENCE,
        FHIR_FILES,
        *map(bronze_fhir, resource_types),
        *map(silver_fhir, resource_types),
        STUDY_NAMES,
        NOTE,
    )
