"""Sensors: what is looked at from time to time.

Decided here: when new files in the drop folder are an arrival. An arrival is one event for the
day's partition, however many files there are. Not decided here: what happens then (`automation`).
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import dagster as dg

from dicom_assets.defs.bronze.drop_folder import KEY
from dicom_assets.defs.partitions import ingest_date
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.lakehouse.drop_folder import Dropped, dropped, is_settled
from dicom_assets.lakehouse.layout import Layout

AGAIN_SECONDS = 600
# Dagster's daemon calls a sensor every five seconds at best; one that watches for most of that time
# sees a file as soon as it is complete.
WATCH_SECONDS = 4.0
LOOK_SECONDS = 0.25


def arrival(
    entries: Iterable[Dropped], *, cursor: str | None, now_ns: int, settle_seconds: float
) -> tuple[int, str | None]:
    """Decides whether there is something new and complete to take.

    Args:
        entries: What lies in the drop folder.
        cursor: What this function returned last.
        now_ns: The time, nanoseconds since 1970.
        settle_seconds: A file unchanged for so long is complete.

    Returns:
        How many files are complete when some of them are new, else 0; and the next cursor. Files
        that still lie there ten minutes after they were reported count as new again, so that a
        failed run does not leave them behind; so do all files when the clock was set back, since
        nothing can be said of their age.
    """
    seen = json.loads(cursor) if cursor else {"newest_ns": 0, "reported_ns": 0}
    stable = [
        entry.changed_ns
        for entry in entries
        if is_settled(entry, now_ns=now_ns, settle_seconds=settle_seconds)
    ]
    newest = max(stable, default=0)
    was_just_reported = 0 <= now_ns - seen["reported_ns"] < AGAIN_SECONDS * 10**9
    if not stable or (newest <= seen["newest_ns"] and was_just_reported):
        return 0, cursor
    return len(stable), json.dumps({"newest_ns": newest, "reported_ns": now_ns})


def watch(folder: Path, *, cursor: str | None, settle_seconds: float) -> tuple[int, str | None]:
    """Looks for an arrival until there is one, or until the daemon's next call is near.

    Returns:
        What `arrival` says.
    """
    end = time.monotonic() + WATCH_SECONDS
    while True:
        begin = time.monotonic()
        count, next_cursor = arrival(
            dropped(folder),
            cursor=cursor,
            now_ns=time.time_ns(),
            settle_seconds=settle_seconds,
        )
        # a folder that takes long to list is looked at less often
        pause = max(LOOK_SECONDS, 4 * (time.monotonic() - begin))
        if count or time.monotonic() + pause > end:
            return count, next_cursor
        time.sleep(pause)


@dg.sensor(
    minimum_interval_seconds=2,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports complete files in the drop folder as an arrival for today's partition",
)
def drop_folder_sensor(
    context: dg.SensorEvaluationContext, lakehouse: Lakehouse
) -> dg.SensorResult | dg.SkipReason:
    """Watches the drop folder."""
    settings = lakehouse.settings
    count, cursor = watch(
        Layout(settings.lakehouse).drop_folder,
        cursor=context.cursor,
        settle_seconds=settings.settle_seconds,
    )
    if not count:
        return dg.SkipReason("no new complete files in the drop folder")
    today = ingest_date.get_last_partition_key()
    event = dg.AssetMaterialization(KEY, partition=today, metadata={"complete_files": count})
    return dg.SensorResult(
        asset_events=[event],
        skip_reason=f"{count} complete files reported for {today}; automation starts the run",
        cursor=cursor,
    )
