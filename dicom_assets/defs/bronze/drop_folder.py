"""The drop folder: where people and systems put DICOM files and ZIPs.

`bronze/Files/Ingest/Imaging/DICOM/[<Namespace>/]…`, any name, any depth. It is a queue: what is
taken from it lies in `process_files` or, with a reason, in Failed. The drop-folder sensor reports
an arrival for the day's partition when stable files lie here.
"""

import dagster as dg

from dicom_assets.defs.partitions import ingest_date

KEY = dg.AssetKey(["bronze", "drop_folder"])

drop_folder = dg.AssetSpec(
    KEY,
    description=__doc__,
    group_name="bronze",
    kinds={"dicom", "file"},
    owners=["team:imaging-data"],
    partitions_def=ingest_date,
)
