"""Sensors: what is looked at from time to time.

Decided here: when new files in the drop folders are an arrival, and that an arrival is one event
and at most one run for the day's partition, however many files there are; when a run looks at
External again, and when DICOM services are pulled from. Not decided here: how shortcuts are watched
(`steps.watch_external`), and what follows from news anywhere else in the chain (`automation`).
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import dagster as dg

from dicom_assets.defs.automation import PULLED, drop_to_gold, pull_from_services
from dicom_assets.defs.bronze import drop_folder, fhir_drop_folder
from dicom_assets.defs.bronze.external_storage import KEY as EXTERNAL_KEY
from dicom_assets.defs.errors import told_plainly
from dicom_assets.defs.partitions import ingest_date
from dicom_assets.defs.resources import DicomServices, Lakehouse
from dicom_assets.defs.running import RESUMES, end_killed_runs, partition_of
from dicom_assets.dicomweb.connection import ServiceError
from dicom_assets.lakehouse.drop_folder import Dropped, dropped, is_settled
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.steps.pull import has_news
from dicom_assets.steps.run import Run
from dicom_assets.steps.watch_external import NOTHING, fingerprint

AGAIN_SECONDS = 600
# Dagster's daemon calls a sensor every five seconds at best; one that watches for most of that time
# sees a file as soon as it is complete.
WATCH_SECONDS = 4.0
LOOK_SECONDS = 0.25
# what was dropped need not wait until all objects of External are listed
_LISTING = frozenset({dg.AssetKey(["bronze", "external_files"])})
_LOOK_AT_EXTERNAL_SECONDS = 60
_LISTED_FOR_SECONDS = 20.0
_WAITING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
]
_RUNNING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def arrival(
    entries: Iterable[Dropped], *, cursor: str | None, now_ns: int, settle_seconds: float
) -> tuple[int, str]:
    """Decides whether there is something new and complete to take.

    New is told by folder: a folder moved in as a whole brings files that changed long ago.

    Args:
        entries: What lies in the drop folder.
        cursor: What this function returned last.
        now_ns: The time, nanoseconds since 1970.
        settle_seconds: A file unchanged for so long is complete.

    Returns:
        How many files are complete when some of them are new, else 0; and the next cursor. Files
        that still lie there ten minutes after they were reported count as new again, so that a
        failed run does not leave them behind; so do all files when the clock was set back, since
        nothing can be said of their age here. The run looks twice at those.
    """
    seen = {"folders": {}, "reported_ns": 0} | json.loads(cursor or "{}")
    changes: dict[str, list[int]] = {}
    for entry in entries:
        is_future = entry.changed_ns > now_ns
        if is_future or is_settled(entry, now_ns=now_ns, settle_seconds=settle_seconds):
            changes.setdefault(entry.folder, []).append(entry.changed_ns)
    newest = {_anonymous(folder): max(times) for folder, times in changes.items()}
    known = {folder: seen["folders"].get(folder, 0) for folder in newest}
    is_late = not 0 <= now_ns - seen["reported_ns"] < AGAIN_SECONDS * 10**9
    if newest and (is_late or any(newest[folder] > known[folder] for folder in newest)):
        count = sum(map(len, changes.values()))
        return count, json.dumps({"folders": newest, "reported_ns": now_ns})
    return 0, json.dumps(seen | {"folders": known})


def _anonymous(folder: str) -> str:
    """Stands for a folder in Dagster's database, where its name, maybe a person's, must not be."""
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]


def watch(folders: Sequence[Path], *, cursor: str | None, settle_seconds: float) -> tuple[int, str]:
    """Looks for an arrival until there is one, or until the daemon's next call is near.

    Returns:
        What `arrival` says.
    """
    end = time.monotonic() + WATCH_SECONDS
    while True:
        begin = time.monotonic()
        count, cursor = arrival(
            chain.from_iterable(map(dropped, folders)),
            cursor=cursor,
            now_ns=time.time_ns(),
            settle_seconds=settle_seconds,
        )
        # a folder that takes long to list is looked at less often
        pause = max(LOOK_SECONDS, 4 * (time.monotonic() - begin))
        if any(isinstance(folder, FarPath) for folder in folders):  # each look is paid for
            return count, cursor
        if count or time.monotonic() + pause > end:
            return count, cursor
        time.sleep(pause)


@dg.sensor(
    job=drop_to_gold,
    minimum_interval_seconds=2,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports complete files in the drop folders for today's partition, and runs it",
)
@told_plainly()
def drop_folder_sensor(
    context: dg.SensorEvaluationContext, lakehouse: Lakehouse
) -> dg.SensorResult:
    """Watches the drop folders; a run that still waits takes what has arrived since.

    A run whose process was killed is taken up first, once.
    """
    settings = lakehouse.settings
    resumed = [
        _request(context, partition_of(killed.run), tags={RESUMES: killed.run.run_id})
        for killed in end_killed_runs(context.instance)
        if killed.lakehouse == settings.lakehouse
        and partition_of(killed.run)
        and RESUMES not in killed.run.tags
    ]
    if resumed:
        return dg.SensorResult(run_requests=resumed, cursor=context.cursor)
    layout = Layout(settings.lakehouse)
    count, cursor = watch(
        (layout.drop_folder, layout.fhir_drop_folder),
        cursor=context.cursor,
        settle_seconds=settings.settle_seconds,
    )
    if not count:
        nothing = "no new complete files in the drop folders"
        return dg.SensorResult(skip_reason=nothing, cursor=cursor)
    today = ingest_date.get_last_partition_key() or ""
    fhir = sum(
        is_settled(entry, now_ns=time.time_ns(), settle_seconds=settings.settle_seconds)
        for entry in dropped(layout.fhir_drop_folder)
    )
    events = [
        dg.AssetObservation(key, partition=today, metadata={"complete_files": complete})
        for key, complete in ((drop_folder.KEY, count - fhir), (fhir_drop_folder.KEY, fhir))
        if complete > 0
    ]
    if _is_run_waiting(context, today):
        return dg.SensorResult(
            asset_events=events,
            skip_reason=f"{count} complete files, for the run of {today} that waits",
            cursor=cursor,
        )
    # An observation and a run, not a materialization for automation to follow: that would start
    # the run up to five seconds later, and miss what arrives just while process_files is being
    # materialized.
    request = _request(context, today, without=_LISTING)
    return dg.SensorResult(asset_events=events, run_requests=[request], cursor=cursor)


def _request(
    context: dg.SensorEvaluationContext,
    partition_key: str,
    *,
    tags: dict[str, str] | None = None,
    without: frozenset[dg.AssetKey] = frozenset(),
) -> dg.RunRequest:
    """Asks for the chain; named assets tell automation that the run covers what follows, too."""
    repository = context.repository_def
    chain = repository.asset_graph.materializable_asset_keys - {PULLED} if repository else set()
    return dg.RunRequest(
        partition_key=partition_key,
        asset_selection=sorted(chain - without) or None,
        tags=tags or {},
    )


def _is_run_waiting(
    context: dg.SensorEvaluationContext,
    partition_key: str,
    *,
    also: Sequence[dg.DagsterRunStatus] = (),
) -> bool:
    tags = {"dagster/sensor_name": context.sensor_name, "dagster/partition": partition_key}
    waiting = dg.RunsFilter(tags=tags, statuses=[*_WAITING, *also])
    return context.instance.get_runs_count(waiting) > 0


@dg.sensor(
    job=pull_from_services,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks the configured DICOM services for news, and pulls it for today's partition",
)
@told_plainly()
def dicom_service_sensor(
    context: dg.SensorEvaluationContext, dicom_services: DicomServices
) -> dg.SensorResult:
    """Asks each service; one out of reach does not keep the others' news back."""
    settings = dicom_services.settings
    if not settings.dicom_services:
        return dg.SensorResult(skip_reason="no DICOM service is configured")
    today = ingest_date.get_last_partition_key() or ""
    if _is_run_waiting(context, today, also=_RUNNING):
        return dg.SensorResult(skip_reason="what is new is being pulled", cursor=context.cursor)
    last: dict[str, float] = json.loads(context.cursor or "{}")
    now, news, problems = time.time(), dict[str, float](), list[str]()
    run = Run.of(settings, today)
    for name in sorted(settings.dicom_services):
        try:
            if has_news(run, name, asked_before=now - last.get(name, 0.0)):
                news[name] = now
        except ServiceError as error:
            problems.append(str(error))
            context.log.warning(f"{error}")
    cursor = json.dumps(last | news)
    if not news:
        nothing = "; ".join(problems) or "no service tells of anything new"
        return dg.SensorResult(skip_reason=nothing, cursor=cursor)
    return dg.SensorResult(run_requests=[dg.RunRequest(partition_key=today)], cursor=cursor)


@dg.sensor(
    job=drop_to_gold,
    minimum_interval_seconds=_LOOK_AT_EXTERNAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for a run for today when something behind a shortcut of External has changed",
)
@told_plainly()
def external_storage_sensor(
    context: dg.SensorEvaluationContext, lakehouse: Lakehouse
) -> dg.SensorResult:
    """Watches shortcuts, by a fingerprint of what they list.

    What takes longer to list than a sensor may take is looked at by a run, once an hour. A run that
    its budget cut short is followed by another.
    """
    settings = lakehouse.settings
    seen = fingerprint(Layout(settings.lakehouse), settings, seconds=_LISTED_FOR_SECONDS)
    today = ingest_date.get_last_partition_key() or ""
    if seen == (context.cursor or NOTHING) and not _has_more(context):
        return dg.SensorResult(skip_reason="nothing has changed behind shortcuts", cursor=seen)
    if _is_run_waiting(context, today, also=_RUNNING):
        # it may have listed already: the cursor stays, so that what it does not see is asked for
        return dg.SensorResult(skip_reason=f"a run of {today} is waiting or at work")
    event = dg.AssetObservation(EXTERNAL_KEY, partition=today)
    return dg.SensorResult(
        asset_events=[event], run_requests=[_request(context, today)], cursor=seen
    )


def _has_more(context: dg.SensorEvaluationContext) -> bool:
    """Says whether the last listing has left some objects to the next one."""
    (key,) = _LISTING
    event = context.instance.get_latest_materialization_event(key)
    found = event.asset_materialization if event else None
    return bool(found and found.metadata["more_to_come"].value)
