"""FHIR R4B: metastore rows → ImagingStudy, NDJSON → lines, lines → silver columns.

Rooms: `instances` (what the conversion needs of a metastore row), `imaging_study` and `series`
(the resource), `dates` and `codes` (DICOM values in FHIR's words), `ndjson` (files → lines),
`model` (the R4B types), `compiled` (a quick check of what we write ourselves), `flatten` (resource
↔ silver row), `merge` and `silver` (late arrivals and upserts). Knows no Dagster, no Delta table,
no DICOM file and no OMOP.
"""
