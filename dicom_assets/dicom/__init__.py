"""Bytes → tags: DICOM headers, archives of DICOM files, thumbnails.

Knows no Dagster, no tables, no FHIR. `header` reads a file's header; `part10`, `elements`,
`values`, `charset` and `vr` are its parts; `columns` makes headers Arrow columns; `sniff` tells
what a file is by its first bytes; `archives` opens and writes ZIP archives; `thumbnails` draws.
"""

from dicom_assets.dicom.header import Header, HeaderError, read_header

__all__ = ["Header", "HeaderError", "read_header"]
