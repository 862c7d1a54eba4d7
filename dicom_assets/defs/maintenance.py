"""Maintenance: a job that looks after the tables' files, every Sunday at three in the morning.

It holds the lakehouse (`resources`), so that runs of the chain wait for it. Not decided here: what
is done (`dicom_assets.steps.maintain`).
"""

import dagster as dg

from dicom_assets.defs.errors import told_plainly
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.settings import load_settings
from dicom_assets.steps.maintain import maintain


@dg.op(description="Joins small files, writes checkpoints, removes files that are of no table")
@told_plainly()
def look_after_tables(context: dg.OpExecutionContext, lakehouse: Lakehouse) -> None:
    """Maintains every table and says what was done, as the op's metadata."""
    settings = lakehouse.settings
    for each in maintain(LocalEngine(Layout(settings.lakehouse)), settings):
        context.log.info(
            f"{each.table}: {each.files_before} files before, {each.files_after} after; "
            f"{each.files_removed} old ones removed, {each.bytes_freed:,} bytes freed"
        )


@dg.job(description="Upkeep of all tables: compaction, checkpoints, vacuum")
def maintenance() -> None:
    """Looks after the tables."""
    look_after_tables()


maintenance_schedule = dg.ScheduleDefinition(
    job=maintenance,
    cron_schedule="0 3 * * 0",
    execution_timezone=load_settings().site_timezone or "UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
