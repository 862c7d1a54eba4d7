"""The one partition definition: a day of ingest, today included.

A day begins at midnight in the site's time zone, else UTC.
"""

import dagster as dg

from dicom_assets.settings import load_settings

FIRST_DATE = "2020-01-01"

ingest_date = dg.DailyPartitionsDefinition(
    start_date=FIRST_DATE, end_offset=1, timezone=load_settings().site_timezone or "UTC"
)
