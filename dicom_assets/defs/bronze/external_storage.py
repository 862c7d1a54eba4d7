"""External storage: DICOM files that stay where they are, in folders or object stores.

`bronze/Files/External/Imaging/DICOM/<Namespace>/…`: folders, symbolic links, and `<Shortcut>.json`
files that name an address. Read only: nothing is ever written, moved or deleted there. The
external-storage sensor asks for a run when something has changed behind a shortcut.
"""

import dagster as dg

from dicom_assets.defs.partitions import ingest_date

KEY = dg.AssetKey(["bronze", "external_storage"])

external_storage = dg.AssetSpec(
    KEY,
    description=__doc__,
    group_name="bronze",
    kinds={"dicom", "file"},
    owners=["team:imaging-data"],
    partitions_def=ingest_date,
)
