"""The tables: columns, types and descriptions, each said once.

Decided here: what bronze and gold tables look like, and the small schemas that steps speak in.
Silver schemas follow the FHIR model and are derived in `dicom_assets.fhir.flatten`. Not decided
here: where tables lie (`layout`) or how they are written (`engine`). A column's description travels
as Arrow field metadata `comment`, which Delta keeps as the column comment.
"""

from collections.abc import Sequence

import pyarrow as pa

from dicom_assets.lakehouse.promoted import PROMOTED_TAGS, PromotedTag

TIMESTAMP = pa.timestamp("us", tz="UTC")
REQUIRED_TAGS = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
METADATA_MAP = pa.map_(
    pa.string(), pa.struct([("vr", pa.string()), ("Value", pa.list_(pa.string()))])
)


def field(name: str, kind: pa.DataType, comment: str, *, required: bool = False) -> pa.Field:
    """Returns a column with its description."""
    return pa.field(name, kind, nullable=not required, metadata={"comment": comment})


STATED = pa.struct(
    [
        ("attribute", pa.string()),
        ("value", pa.string()),
        ("filePath", pa.string()),
        ("contentHash", pa.string()),
        ("arrivedAt", TIMESTAMP),
        ("sourceModifiedAt", TIMESTAMP),
    ]
)
"""What the newest file that states an attribute of a study says."""

INGEST_DATE = "ingestDate"
INGEST_MONTH = "ingestMonth"
"""Partition columns. Rows of a table that is upserted stay where they first came."""

_INGEST_DATE = field(INGEST_DATE, pa.date32(), "Partition: the ingest date", required=True)
_SOURCE_SYSTEM = field(
    "sourceSystem", pa.string(), "Namespace of the source, else `default`", required=True
)


def by_date(schema: pa.Schema) -> pa.Schema:
    """Returns the schema of an upserted table with the date that it is partitioned by."""
    comment = "Partition: the ingest date that first brought the row"
    return schema.append(field(INGEST_DATE, pa.date32(), comment, required=True))


def by_month(schema: pa.Schema) -> pa.Schema:
    """Returns the schema of an upserted table with the month that it is partitioned by."""
    comment = "Partition: month of the ingest date that first brought the row, yyyy-mm"
    return schema.append(field(INGEST_MONTH, pa.string(), comment, required=True))


PROCESS_FILES = pa.schema(
    [
        _INGEST_DATE,
        _SOURCE_SYSTEM,
        field("filePath", pa.string(), "Where the organised file lies", required=True),
        field("sourcePath", pa.string(), "Where it was dropped; members as archive.zip!/inner"),
        field("fileSize", pa.int64(), "Bytes of the DICOM file, uncompressed"),
        field("contentHash", pa.string(), "Its SHA-256, where it came out of an archive so"),
        field("sourceModifiedAt", TIMESTAMP, "Modification time of the dropped file"),
        field("organisedAt", TIMESTAMP, "When it was organised"),
    ]
)
"""One row per organised DICOM file, append only: what `extract` has to read, in order."""


EXTERNAL_FILES = pa.schema(
    [
        _INGEST_DATE,
        _SOURCE_SYSTEM,
        field("shortcut", pa.string(), "The shortcut it was found by", required=True),
        field("filePath", pa.string(), "Its address", required=True),
        field("state", pa.string(), "new, changed, gone, back, again, skipped", required=True),
        field("fileSize", pa.int64(), "Its bytes, where listing or inventory say so"),
        field("etag", pa.string(), "Its version, where listing or inventory say so"),
        field("sourceModifiedAt", TIMESTAMP, "When it was last written"),
        field("foundAt", TIMESTAMP, "When that was found", required=True),
    ]
)
"""One row each time an object of External is found in another state, append only.

new, changed: it is to be read. again: so it is, since it could not be fetched before. gone: the
shortcut no longer lists it. back: it was gone, and lies there unchanged. skipped: it was looked
into and is no DICOM file. The newest row of an address says how it stands.
"""


def dicomimagingmetastore(tags: Sequence[PromotedTag] = PROMOTED_TAGS) -> pa.Schema:
    """Returns the metastore's schema: one row per DICOM file read, append only."""
    promoted = [
        field(
            tag.column,
            pa.string(),
            f"{tag.keyword} ({tag.tag[:4]},{tag.tag[4:]}) {tag.vr}, as it stands in the file",
            required=tag.column in REQUIRED_TAGS,
        )
        for tag in tags
    ]
    return pa.schema(
        [
            _INGEST_DATE,
            _SOURCE_SYSTEM,
            *promoted,
            field("metadata", METADATA_MAP, "All elements but pixel data: tag → vr and values"),
            field("metadata_string", pa.string(), "The same as DICOM JSON Model (PS3.18 F)"),
            field("filePath", pa.string(), "Where the file lies now", required=True),
            field("sourcePath", pa.string(), "Where it was dropped; members as archive.zip!/inner"),
            field("fileSize", pa.int64(), "Bytes of the DICOM file, uncompressed"),
            field("contentHash", pa.string(), "SHA-256 of the DICOM file; null for External"),
            field("version", pa.string(), "External: etag or modification time and size"),
            field("transferSyntaxUid", pa.string(), "Transfer Syntax UID (0002,0010)"),
            field("decodeNotes", pa.list_(pa.string()), "`TAG reason` of elements kept raw"),
            field("ingestedAt", TIMESTAMP, "When the file was taken in"),
            field("sourceModifiedAt", TIMESTAMP, "Modification time of the dropped file"),
        ]
    )


INGESTION_FAILURES = pa.schema(
    [
        _INGEST_DATE,
        _SOURCE_SYSTEM,
        field("step", pa.string(), "The step that met it", required=True),
        field("reasonCode", pa.string(), "Why: one of lakehouse.reasons", required=True),
        field("message", pa.string(), "What was wrong, without patient data"),
        field("sourcePath", pa.string(), "The file, member or NDJSON file it came from"),
        field("failedPath", pa.string(), "Where its bytes lie now; null for External"),
        field("tags", pa.list_(pa.string()), "The DICOM tags concerned, where it applies"),
        field("line", pa.int64(), "Line number in an NDJSON file, from 1, where it applies"),
        field("failedAt", TIMESTAMP, "When"),
        field("runId", pa.string(), "The Dagster run"),
        field("retriedAt", TIMESTAMP, "When its file was dropped again; null: not yet"),
    ]
)

OPERATIONS = pa.schema(
    [
        _INGEST_DATE,
        _SOURCE_SYSTEM,
        field("operationId", pa.string(), "Its own id: the same one again is done", required=True),
        field("operation", pa.string(), "delete, restore, reread, change_patient", required=True),
        field("studyInstanceUid", pa.string(), "The study it is about, if it is about one"),
        field("seriesInstanceUid", pa.string(), "The series, if it is about one"),
        field("sopInstanceUid", pa.string(), "The instance, if it is about one"),
        field("patientId", pa.string(), "change_patient: the Patient ID that is wrong"),
        field("newPatientId", pa.string(), "change_patient: the one that holds"),
        field("requestedBy", pa.string(), "Who asked for it"),
        field("reason", pa.string(), "Why"),
        field("sourcePath", pa.string(), "The file it was dropped as"),
        field("takenAt", TIMESTAMP, "When it was taken in; it is about what came before"),
    ]
)
"""One row per correction that somebody asked for, append only."""

CURRENT_FILES = pa.schema(
    [
        field("id", pa.int64(), "Key: the level, the source system and the UID", required=True),
        field("level", pa.string(), "instance, series or study", required=True),
        _SOURCE_SYSTEM,
        field("studyInstanceUid", pa.string(), "The study it stands in", required=True),
        field("seriesInstanceUid", pa.string(), "The series it stands in; null for a study"),
        field("sopInstanceUid", pa.string(), "The instance; null for series and studies"),
        field("filePath", pa.string(), "The newest file, by arrival; it speaks", required=True),
        field("contentHash", pa.string(), "Its SHA-256; null for External"),
        field("version", pa.string(), "External: etag or modification time and size"),
        field("arrivedAt", TIMESTAMP, "When it was taken in", required=True),
        field("sourceModifiedAt", TIMESTAMP, "Modification time of the dropped file"),
        field("deletedAt", TIMESTAMP, "Instance: files that arrived before then are deleted"),
        field("otherStudies", pa.list_(pa.string()), "Instance: studies that it stood in, too"),
        field("ingestDates", pa.list_(pa.date32()), "Study: dates on which files of it came"),
        field("wholeAt", TIMESTAMP, "Study: when it last became one to be written whole"),
        field("stated", pa.list_(STATED), "Study: what its files say, each as the newest says it"),
    ]
)
"""Which file speaks for each instance, series and study of a source system."""

CONFLICTS = pa.schema(
    [
        field("id", pa.int64(), "Key: the UID, the attribute and both values", required=True),
        field("level", pa.string(), "instance, series or study", required=True),
        _SOURCE_SYSTEM,
        field("studyInstanceUid", pa.string(), "The study, as the newer file says", required=True),
        field("seriesInstanceUid", pa.string(), "The series, as the newer file says"),
        field("sopInstanceUid", pa.string(), "The instance"),
        field("attribute", pa.string(), "The column in which two files differ", required=True),
        field("newerValue", pa.string(), "What the newer of the two files says", required=True),
        field("newerPath", pa.string(), "The newer file", required=True),
        field("newerArrivedAt", TIMESTAMP, "When it was taken in"),
        field("olderValue", pa.string(), "What the older file says", required=True),
        field("olderPath", pa.string(), "The older file", required=True),
        field("olderArrivedAt", TIMESTAMP, "When it was taken in"),
    ]
)
"""Two files that say different things about one instance, series or study; decided ones, too."""

RAW_FHIR = pa.schema(
    [
        _INGEST_DATE,
        _SOURCE_SYSTEM,
        field("id", pa.string(), "The resource's own id"),
        field("lastUpdated", TIMESTAMP, "meta.lastUpdated"),
        field("resource", pa.string(), "The JSON text of the line, unchanged", required=True),
        field("filePath", pa.string(), "The NDJSON file", required=True),
        field("lineNumber", pa.int64(), "Line in that file, from 1", required=True),
        field("ingestedAt", TIMESTAMP, "When the row was made"),
    ]
)
"""bronze ImagingStudy, DiagnosticReport, …: raw FHIR, append only."""

FHIR_FILES = pa.schema(
    [
        _INGEST_DATE,
        _SOURCE_SYSTEM,
        field("resourceType", pa.string(), "Type of the resources in it", required=True),
        field("filePath", pa.string(), "Where the organised file lies", required=True),
        field("sourcePath", pa.string(), "Where it was dropped"),
        field("fileSize", pa.int64(), "Bytes, as it lies"),
        field("sourceModifiedAt", TIMESTAMP, "Modification time of the dropped file"),
        field("organisedAt", TIMESTAMP, "When it was organised"),
    ]
)
"""One row per organised FHIR file, append only; a file of several types becomes several."""

STUDY_NAMES = pa.schema(
    [
        _INGEST_DATE,
        _SOURCE_SYSTEM,
        field("name", pa.string(), "`id:` and its id, or `uid:` and Study UID", required=True),
        field("resourceType", pa.string(), "Type of the resource that says it", required=True),
        field("silverId", pa.string(), "Its silver id", required=True),
    ]
)
"""By what names resources speak of ImagingStudies, append only: so that each finds the other."""

_AUDIT = [
    field("sourceSystem", pa.string(), "Namespace of the source, else `default`", required=True),
    field("sourceTable", pa.string(), "Table the row was made from"),
    field("sourceRecordId", pa.string(), "Key of the row it was made from"),
    field("sourceModifiedAt", TIMESTAMP, "When that row was last written"),
    field("modifiedAt", TIMESTAMP, "When this row was last written"),
]

IMAGE_OCCURRENCE = pa.schema(
    [
        field("image_occurrence_id", pa.int64(), "Key of the series", required=True),
        field("person_id", pa.int64(), "OMOP person", required=True),
        field("procedure_occurrence_id", pa.int64(), "Key of the study", required=True),
        field("visit_occurrence_id", pa.int64(), "From the visit crosswalk, else null"),
        field("anatomic_site_concept_id", pa.int32(), "SNOMED concept of the body part, else 0"),
        field("wadors_uri", pa.string(), "Study-level WADO-RS address, when configured"),
        field("local_path", pa.string(), "Folder that holds the series' files"),
        field("image_occurrence_date", pa.date32(), "Series date, else study date"),
        field("image_study_uid", pa.string(), "Study Instance UID", required=True),
        field("image_series_uid", pa.string(), "Series Instance UID", required=True),
        field("modality_concept_id", pa.int32(), "DICOM concept of the modality, else 0"),
        field("modality_source_value", pa.string(), "Modality as it stands in the file"),
        field("modality_source_concept_id", pa.int32(), "Concept of the source value, else 0"),
        field("anatomic_site_source_value", pa.string(), "Body part as it came"),
        *_AUDIT,
    ]
)
"""OMOP Medical Imaging CDM image_occurrence: one row per series."""

PERSON = pa.schema(
    [
        field("person_id", pa.int64(), "Key of the patient", required=True),
        field("gender_concept_id", pa.int32(), "8507 male, 8532 female, else 0", required=True),
        field("year_of_birth", pa.int32(), "From Patient's Birth Date (0010,0030)"),
        field("race_concept_id", pa.int32(), "0: DICOM does not say", required=True),
        field("ethnicity_concept_id", pa.int32(), "0: DICOM does not say", required=True),
        field("person_source_value", pa.string(), "Patient ID (0010,0020)"),
        *_AUDIT,
    ]
)

PROCEDURE_OCCURRENCE = pa.schema(
    [
        field("procedure_occurrence_id", pa.int64(), "Key of the study", required=True),
        field("person_id", pa.int64(), "OMOP person", required=True),
        field("procedure_concept_id", pa.int32(), "0: not mapped", required=True),
        field("procedure_date", pa.date32(), "Date the study started"),
        field("procedure_datetime", TIMESTAMP, "Instant the study started, when known"),
        field("procedure_type_concept_id", pa.int32(), "32817: EHR", required=True),
        field("visit_occurrence_id", pa.int64(), "From the visit crosswalk, else null"),
        field("procedure_source_value", pa.string(), "Procedure code, else study description"),
        *_AUDIT,
    ]
)

NOTE = pa.schema(
    [
        field("note_id", pa.int64(), "Key of report and study", required=True),
        field("person_id", pa.int64(), "OMOP person, of the study", required=True),
        field("note_date", pa.date32(), "Date the report was issued, else of the study"),
        field("note_datetime", TIMESTAMP, "Instant the report was issued, when known"),
        field("note_type_concept_id", pa.int32(), "32841: EHR radiology report", required=True),
        field("note_class_concept_id", pa.int32(), "0: not mapped", required=True),
        field("note_title", pa.string(), "What the report is about, in words"),
        field("note_text", pa.string(), "The report's text", required=True),
        field("encoding_concept_id", pa.int32(), "32678: UTF-8", required=True),
        field("language_concept_id", pa.int32(), "4180186: English, else 0", required=True),
        field("visit_occurrence_id", pa.int64(), "From the visit crosswalk, else null"),
        field("note_source_value", pa.string(), "Code of the report"),
        field("note_event_id", pa.int64(), "procedure_occurrence_id of the study", required=True),
        field("note_event_field_concept_id", pa.int32(), "1147082", required=True),
        *_AUDIT,
    ]
)
"""OMOP note: the text of a report, a row for each study that it is about."""
