"""Bytes → tags: DICOM headers, archives of DICOM files, thumbnails.

Knows no Dagster, no tables, no FHIR. `header` reads a file's header: first the fast reader (`fast`,
`plain`, `heads`, `memory`), then, where a file is not plain, the careful one (`careful`, `part10`,
`elements`, `source`); what values mean stands in `values`, `charset` and `vr`, what a header is in
`attributes`. `columns` makes headers Arrow columns; `sniff` tells what a file is by its first
bytes; `archives` opens and writes ZIP archives; `thumbnails` draws.
"""

from dicom_assets.dicom.header import Header, HeaderError, read_header

__all__ = ["Header", "HeaderError", "read_header"]
