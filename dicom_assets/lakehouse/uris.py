"""URIs that one layer writes and another reads.

Decided here: what they are. Not decided here: where they stand (`dicom_assets.fhir` writes them,
`dicom_assets.omop` reads them).
"""

import re

SCT = "http://snomed.info/sct"
"""Code system SNOMED CT."""

STUDY_UID_SYSTEM = "urn:dicom:uid"
"""Identifier system of a Study Instance UID."""

FOLDER_URL = "urn:dicom-assets:folder"
"""Extension of ImagingStudy.series: the folder that holds the series' files (valueString)."""

SOURCE_VALUE_URL = "urn:dicom-assets:source-value"
"""Extension of a Coding: the DICOM text that the code stands for (valueString)."""

WHOLE_TAG = {"system": "urn:dicom-assets:statement", "code": "whole"}
"""Tag of a resource's meta: it says all that our files say of the study; what we said before counts
no more. It means nothing in a file that others wrote."""

_WRITTEN_HERE = re.compile(r".*/\d+_ImagingStudy_[0-9a-f]{8}_(?:v\d+-\d+|again)\.ndjson")


def is_written_here(address: str) -> bool:
    """Says whether an NDJSON file is one of ImagingStudy that we wrote, by its name."""
    return _WRITTEN_HERE.fullmatch(address) is not None
