"""Client of a DICOM service: DICOMweb (PS3.18), and the feeds that say what is new in it.

`service` says what a site states about one; `connection` sends, tries again and proves who asks;
`multipart` and `part10` cut what is sent and what comes; `client` stores, retrieves and searches;
`feeds` tell of changes. Knows no Dagster and no tables: `steps.pull` decides what becomes of
what it hands over.
"""
