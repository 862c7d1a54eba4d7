"""OMOP: silver ImagingStudy rows → gold rows of the Medical Imaging CDM.

Rooms: `image_occurrence` (one row per series), `procedure_occurrence` (one per study), `person`
(one per patient), `studies` (what they read of a silver row), `vocabulary` and `crosswalk` (what a
site can give). Knows no Dagster, no Delta table and no FHIR library.
"""
