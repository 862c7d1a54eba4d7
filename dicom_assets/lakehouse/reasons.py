"""Why a file, a member or a line did not make it, and in which step: the closed lists.

Decided here: the codes and what each means. Not decided here: when one applies (the code that
meets the bad input says so) or how a failure row looks (`schemas.INGESTION_FAILURES`).
"""

from enum import StrEnum
from typing import Literal

Step = Literal[
    "pull",
    "organise",
    "organise_fhir",
    "extract",
    "external",
    "reread",
    "convert",
    "ingest_fhir",
    "flatten",
]
"""Steps of which failures become rows."""


class Reason(StrEnum):
    """Machine-readable reason codes of `bronze/Tables/ingestion_failures`."""

    NOT_DICOM = "not_dicom"
    DICOMDIR = "dicomdir"
    TRUNCATED = "truncated"
    NO_STUDY_UID = "no_study_uid"
    NO_SERIES_UID = "no_series_uid"
    NO_SOP_UID = "no_sop_uid"
    UNREADABLE = "unreadable"
    NOT_A_FILE = "not_a_file"
    NESTED_TOO_DEEP = "nested_too_deep"
    ARCHIVE_EMPTY = "archive_empty"
    ARCHIVE_DAMAGED = "archive_damaged"
    ARCHIVE_ENCRYPTED = "archive_encrypted"
    ARCHIVE_UNSUPPORTED_COMPRESSION = "archive_unsupported_compression"
    ARCHIVE_MEMBER_UNSAFE = "archive_member_unsafe"
    ARCHIVE_BOMB = "archive_bomb"
    MEMBER_DAMAGED = "member_damaged"
    TOO_LARGE = "too_large"
    GZIP_DAMAGED = "gzip_damaged"
    INVALID_JSON = "invalid_json"
    WRONG_RESOURCE_TYPE = "wrong_resource_type"
    INVALID_RESOURCE = "invalid_resource"
    INVALID_OPERATION = "invalid_operation"
    NOT_RETRIEVED = "not_retrieved"
    SHORTCUT_UNUSABLE = "shortcut_unusable"
    NOT_FETCHED = "not_fetched"


MEANINGS: dict[Reason, str] = {
    Reason.NOT_DICOM: "neither a DICOM file nor a ZIP archive",
    Reason.DICOMDIR: "a DICOMDIR: an index of files, not an image",
    Reason.TRUNCATED: "the file ends inside a header element",
    Reason.NO_STUDY_UID: "no Study Instance UID (0020,000D)",
    Reason.NO_SERIES_UID: "no Series Instance UID (0020,000E)",
    Reason.NO_SOP_UID: "no SOP Instance UID (0008,0018)",
    Reason.UNREADABLE: "the header cannot be read",
    Reason.NOT_A_FILE: "a link, pipe, socket or device, which is never followed",
    Reason.NESTED_TOO_DEEP: (
        "archives nested deeper than archive_max_depth, or sequences or JSON too deep"
    ),
    Reason.ARCHIVE_EMPTY: "the archive holds no file",
    Reason.ARCHIVE_DAMAGED: "the archive's directory cannot be read, or does not name all",
    Reason.ARCHIVE_ENCRYPTED: "the member is encrypted",
    Reason.ARCHIVE_UNSUPPORTED_COMPRESSION: "the member's compression method is not supported",
    Reason.ARCHIVE_MEMBER_UNSAFE: "the member is a link or its name leaves the archive",
    Reason.ARCHIVE_BOMB: (
        "the archive expands beyond archive_max_ratio, archive_max_bytes or archive_max_members"
    ),
    Reason.MEMBER_DAMAGED: "the member's data do not match its length or checksum",
    Reason.TOO_LARGE: "larger than max_file_bytes, or its header than max_header_bytes",
    Reason.GZIP_DAMAGED: "the gzip data end too early, or do not match their checksum",
    Reason.INVALID_JSON: "the line is not JSON",
    Reason.WRONG_RESOURCE_TYPE: "the line holds another resource type than its folder",
    Reason.INVALID_RESOURCE: "the resource is not valid FHIR R4B",
    Reason.INVALID_OPERATION: "the file holds no operations, or a wrong one",
    Reason.NOT_RETRIEVED: "the DICOM service did not hand out the instance",
    Reason.SHORTCUT_UNUSABLE: "not all behind a shortcut of External can be listed",
    Reason.NOT_FETCHED: "an object of External cannot be read; tried again on the next ingest date",
}
