"""The drop folder of FHIR files: reports, and resources of any other type.

`bronze/Files/Ingest/Clinical/FHIR NDJSON/[<Namespace>/]…`, any name, any depth: NDJSON, JSON,
arrays and Bundles, also compressed by gzip. It is a queue: what is taken from it lies in Process
or, with a reason, in Failed. The drop-folder sensor reports an arrival for the day's partition when
stable files lie here.
"""

import dagster as dg

from dicom_assets.defs.partitions import ingest_date

KEY = dg.AssetKey(["bronze", "fhir_drop_folder"])

fhir_drop_folder = dg.AssetSpec(
    KEY,
    description=__doc__,
    group_name="bronze",
    kinds={"fhir", "file"},
    owners=["team:imaging-data"],
    partitions_def=ingest_date,
)
