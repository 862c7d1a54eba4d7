"""Pulled files: what configured DICOM services hold, retrieved over DICOMweb as it is stored there.

`bronze/Files/External/Imaging/DICOM/<service>/<study>/<series>/<sop>.dcm`, one file per instance,
only what is new since last time. Deletions that a service tells of become delete operations in the
drop folder. What a service does not hand out is a row of `bronze/Tables/ingestion_failures`.
"""

import dagster as dg
import pandas as pd

from dicom_assets.defs.asset import layer_asset
from dicom_assets.defs.metadata import result
from dicom_assets.defs.resources import DicomServices
from dicom_assets.dicomweb.connection import ServiceError
from dicom_assets.steps.pull import STEP, pull
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.report import Report

ASSET = "bronze/pulled_files"
SECONDS_PER_RUN = 120.0
"""After so long a run ends; the sensor asks for the next one, and others get their turn."""


@layer_asset(ASSET, deps=[], doc=__doc__, kinds={"dicom", "file"}, condition=None)
def pulled_files(
    context: dg.AssetExecutionContext, dicom_services: DicomServices
) -> dg.MaterializeResult:
    """Retrieves what is new in each service; one out of reach does not stop the others."""
    run = dicom_services.run(context)
    total, shown, broken = Report(STEP), [], []
    for name in sorted(run.settings.dicom_services):
        try:
            report = pull(run, name, seconds=SECONDS_PER_RUN)
        except ServiceError as error:
            broken.append(error)
            continue
        shown.append({"service": name, "files": report.rows, **report.counts})
        total.rows += report.rows
        total.size += report.size
        total.seconds += report.seconds
        total.count(report.counts)
    if broken:
        raise broken[0]
    root = run.engine.layout.external_root
    return result(
        ASSET,
        Day(run),
        total,
        preview=pd.DataFrame(shown),
        partition_rows=total.rows,
        address=str(root),
    )
