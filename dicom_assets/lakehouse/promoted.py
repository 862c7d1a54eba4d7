"""The promoted tags: which DICOM attributes get a column of their own in the metastore.

Decided here: the 29 standard columns and how a configured one is named and resolved. Not decided
here: how a value is read (`dicom_assets.dicom`) or stored (`dicom_assets.lakehouse.schemas`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromotedTag:
    """One promoted attribute.

    Attributes:
        column: Name of the metastore column, camelCase.
        tag: Eight upper-case hex digits, as in the DICOM JSON Model (PS3.18 F.2).
        keyword: The DICOM keyword (PS3.6), used in the column's description.
        vr: The value representation by the data dictionary.
    """

    column: str
    tag: str
    keyword: str
    vr: str


_STANDARD = """
studyInstanceUid 0020000D StudyInstanceUID UI
patientName 00100010 PatientName PN
patientSex 00100040 PatientSex CS
patientId 00100020 PatientID LO
patientBirthDate 00100030 PatientBirthDate DA
accessionNumber 00080050 AccessionNumber SH
referringPhysicianName 00080090 ReferringPhysicianName PN
studyDate 00080020 StudyDate DA
studyDescription 00081030 StudyDescription LO
seriesInstanceUid 0020000E SeriesInstanceUID UI
modality 00080060 Modality CS
modalitiesInStudy 00080061 ModalitiesInStudy CS
performedProcedureStepStartDate 00400244 PerformedProcedureStepStartDate DA
manufacturerModelName 00081090 ManufacturerModelName LO
studyTime 00080030 StudyTime TM
timezoneOffsetFromUtc 00080201 TimezoneOffsetFromUTC SH
numberOfStudyRelatedSeries 00201206 NumberOfStudyRelatedSeries IS
numberOfStudyRelatedInstances 00201208 NumberOfStudyRelatedInstances IS
seriesNumber 00200011 SeriesNumber IS
seriesDescription 0008103E SeriesDescription LO
numberOfSeriesRelatedInstances 00201209 NumberOfSeriesRelatedInstances IS
bodyPartExamined 00180015 BodyPartExamined CS
laterality 00200060 Laterality CS
seriesDate 00080021 SeriesDate DA
seriesTime 00080031 SeriesTime TM
sopClassUid 00080016 SOPClassUID UI
sopInstanceUid 00080018 SOPInstanceUID UI
instanceNumber 00200013 InstanceNumber IS
documentTitle 00420010 DocumentTitle ST
"""

# the metastore's other columns, lower case: `schemas.dicomimagingmetastore` has them
_OTHER_COLUMNS = [
    "ingestdate",
    "sourcesystem",
    "metadata",
    "metadata_string",
    "filepath",
    "sourcepath",
    "filesize",
    "contenthash",
    "version",
    "transfersyntaxuid",
    "decodenotes",
    "ingestedat",
    "sourcemodifiedat",
]

PROMOTED_TAGS: tuple[PromotedTag, ...] = tuple(
    PromotedTag(*line.split()) for line in _STANDARD.split("\n") if line
)


def promoted_tags(extra: Mapping[str, str]) -> tuple[PromotedTag, ...]:
    """Returns the standard promoted tags, then the configured ones.

    Args:
        extra: DICOM keyword (`KVP`) or tag (`00180060`, `0018,0060`) → column name.

    Raises:
        ValueError: A keyword or tag is not in the DICOM dictionary, or a column is taken.
    """
    if not extra:
        return PROMOTED_TAGS
    added = tuple(_resolve(name, column) for name, column in extra.items())
    tags = PROMOTED_TAGS + added
    columns = [*(tag.column.lower() for tag in tags), *_OTHER_COLUMNS]
    taken = sorted({tag.column for tag in added if columns.count(tag.column.lower()) > 1})
    if taken:
        raise ValueError(f"promoted_tags: the column {taken[0]!r} exists already; choose another")
    return tags


def _resolve(name: str, column: str) -> PromotedTag:
    from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", column):
        raise ValueError(
            f"promoted_tags: {column!r} is no column name; use letters, digits and underscores"
        )
    digits = re.sub(r"[(), ]", "", name)
    number = int(digits, 16) if re.fullmatch("[0-9A-Fa-f]{8}", digits) else tag_for_keyword(name)
    keyword = keyword_for_tag(number) if number is not None else ""
    if number is None or not keyword:
        raise ValueError(
            f"promoted_tags: {name!r} is neither a DICOM keyword nor a tag of the data dictionary; "
            "write for example KVP or 0018,0060"
        )
    return PromotedTag(column, f"{number:08X}", keyword, dictionary_VR(number))
