"""Sensors: what is looked at from time to time.

Decided here: when new files in the drop folder are an arrival. An arrival is one event for the
day's partition, however many files there are. Not decided here: what happens then (`automation`).
"""

import json
import time
from collections.abc import Iterable

import dagster as dg

from dicom_assets.defs.bronze.drop_folder import KEY
from dicom_assets.defs.partitions import ingest_date
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.lakehouse.drop_folder import Dropped, dropped, is_settled

AGAIN_SECONDS = 600


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
        failed run does not leave them behind.
    """
    seen = json.loads(cursor) if cursor else {"newest_ns": 0, "reported_ns": 0}
    stable = [
        entry.changed_ns
        for entry in entries
        if is_settled(entry, now_ns=now_ns, settle_seconds=settle_seconds)
    ]
    newest = max(stable, default=0)
    is_late = now_ns - seen["reported_ns"] >= AGAIN_SECONDS * 10**9
    if not stable or (newest <= seen["newest_ns"] and not is_late):
        return 0, cursor
    return len(stable), json.dumps({"newest_ns": newest, "reported_ns": now_ns})


@dg.sensor(
    minimum_interval_seconds=2,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports complete files in the drop folder as an arrival for today's partition",
)
def drop_folder_sensor(
    context: dg.SensorEvaluationContext, lakehouse: Lakehouse
) -> dg.SensorResult | dg.SkipReason:
    """Looks into the drop folder."""
    run = lakehouse.run(ingest_date.get_last_partition_key() or "")
    count, cursor = arrival(
        dropped(run.engine.layout.drop_folder),
        cursor=context.cursor,
        now_ns=time.time_ns(),
        settle_seconds=run.settings.settle_seconds,
    )
    if not count:
        return dg.SkipReason("no new complete files in the drop folder")
    event = dg.AssetMaterialization(
        KEY, partition=run.ingest_date.isoformat(), metadata={"complete_files": count}
    )
    return dg.SensorResult(asset_events=[event], cursor=cursor)
