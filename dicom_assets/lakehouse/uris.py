"""URIs that one layer writes and another reads.

Decided here: what they are. Not decided here: where they stand (`dicom_assets.fhir` writes them,
`dicom_assets.omop` reads them).
"""

SCT = "http://snomed.info/sct"
"""Code system SNOMED CT."""

STUDY_UID_SYSTEM = "urn:dicom:uid"
"""Identifier system of a Study Instance UID."""

FOLDER_URL = "urn:dicom-assets:folder"
"""Extension of ImagingStudy.series: the folder that holds the series' files (valueString)."""

SOURCE_VALUE_URL = "urn:dicom-assets:source-value"
"""Extension of a Coding: the DICOM text that the code stands for (valueString)."""

WHOLE_TAG = {"system": "urn:dicom-assets:statement", "code": "whole"}
"""Tag of a resource's meta: it says all that holds of the study; older statements count no more."""
