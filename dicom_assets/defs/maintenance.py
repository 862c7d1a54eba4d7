"""Maintenance: a job that looks after the tables' files, every Sunday at three in the morning.

And one that compares files, rows and layers, on the first of a month once it is switched on. Each
holds the lakehouse (`resources`), so that runs of the chain wait for it. Not decided here: what is
done (`dicom_assets.steps.maintain`, `dicom_assets.steps.verify`).
"""

import dagster as dg

from dicom_assets.defs.errors import told_plainly
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.settings import load_settings
from dicom_assets.steps.maintain import maintain
from dicom_assets.steps.verify import verify as compare


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


@dg.op(description="Compares files, rows and layers; fails when something does not agree")
def compare_all(context: dg.OpExecutionContext, lakehouse: Lakehouse) -> None:
    """Compares the lakehouse; says how many of each kind do not agree, and never which."""
    found = compare(lakehouse.settings)
    counts = {f"{kind}": number for kind, number in found.counts.items()}
    context.add_output_metadata(counts)
    if found:
        raise dg.Failure("not all agrees; `dicom-assets verify` names what", metadata=counts)


@dg.job(description="Comparison of files, hashes, rows and layers: dicom-assets verify")
def verify() -> None:
    """Compares the lakehouse."""
    compare_all()


verify_schedule = dg.ScheduleDefinition(
    job=verify,
    cron_schedule="0 4 1 * *",
    execution_timezone=load_settings().site_timezone or "UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
