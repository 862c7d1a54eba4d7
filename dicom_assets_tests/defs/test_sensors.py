"""What the drop-folder sensor decides, and what it asks Dagster for."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import dagster as dg
import pytest

from dicom_assets.definitions import defs
from dicom_assets.defs import sensors
from dicom_assets.defs.automation import JOB_NAME, PULLED
from dicom_assets.defs.bronze import fhir_drop_folder
from dicom_assets.defs.bronze.drop_folder import KEY
from dicom_assets.defs.partitions import ingest_date
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.defs.running import RESUMES, end_killed_runs
from dicom_assets.defs.sensors import AGAIN_SECONDS, arrival
from dicom_assets.lakehouse.drop_folder import Dropped
from dicom_assets_tests.defs.held_run import worked_on

SECOND = 10**9
NOW = 1_800_000_000 * SECOND


def entry(name: str, *, age: float) -> Dropped:
    """A regular file that last changed so many seconds before NOW."""
    changed = NOW - int(age * SECOND)
    return Dropped(f"/drop/{name}", 1, changed, changed, 1, True)


def decide(*entries: Dropped, cursor: str | None = None, after: float = 0) -> tuple[int, str]:
    now_ns = NOW + int(after * SECOND)
    return arrival(entries, cursor=cursor, now_ns=now_ns, settle_seconds=2)


def test_an_empty_folder_is_no_arrival():
    assert decide()[0] == 0


def test_a_file_still_being_written_is_left_alone():
    count, cursor = decide(entry("a.dcm", age=0.5))
    assert count == 0
    assert decide(entry("a.dcm", age=0.5), cursor=cursor, after=2)[0] == 1


def test_thousands_of_files_are_one_arrival():
    count, cursor = decide(*(entry(f"{n}.dcm", age=5) for n in range(5000)))
    assert count == 5000
    assert len(cursor) < 500


def test_what_was_reported_is_not_reported_again():
    _, cursor = decide(entry("a.dcm", age=5))
    assert decide(entry("a.dcm", age=5), cursor=cursor, after=5)[0] == 0


def test_a_further_file_is_a_further_arrival():
    _, cursor = decide(entry("a.dcm", age=5))
    assert decide(entry("a.dcm", age=5), entry("b.dcm", age=3), cursor=cursor, after=1)[0] == 2


def test_an_old_folder_moved_in_as_a_whole_is_an_arrival():
    _, cursor = decide(entry("a.dcm", age=5))
    old = entry("study/b.dcm", age=90_000)
    assert decide(entry("a.dcm", age=5), old, cursor=cursor, after=1)[0] == 2


def test_files_left_lying_are_reported_again_after_ten_minutes():
    _, cursor = decide(entry("a.dcm", age=5))
    assert decide(entry("a.dcm", age=5), cursor=cursor, after=AGAIN_SECONDS - 1)[0] == 0
    assert decide(entry("a.dcm", age=5), cursor=cursor, after=AGAIN_SECONDS)[0] == 1


def test_a_clock_set_back_leaves_nothing_behind():
    _, cursor = decide(entry("a.dcm", age=5))
    assert decide(entry("b.dcm", age=3700), cursor=cursor, after=-3600)[0] == 1


def test_the_cursor_names_no_folder():
    _, cursor = decide(entry("Doe Jane/a.dcm", age=5))
    assert "Doe" not in cursor


def test_files_that_a_run_is_taking_are_no_arrival():
    _, cursor = decide(entry("a.dcm", age=9), entry("b.dcm", age=8))
    assert decide(entry("a.dcm", age=9), cursor=cursor, after=1)[0] == 0


def test_a_folder_of_the_same_name_is_new_again_once_the_first_was_taken():
    _, cursor = decide(entry("study/a.dcm", age=5))
    _, cursor = decide(cursor=cursor, after=1)
    assert decide(entry("study/a.dcm", age=90_000), cursor=cursor, after=2)[0] == 1


def test_a_cursor_of_an_earlier_version_is_understood():
    assert decide(entry("a.dcm", age=5), cursor='{"newest_ns": 1, "reported_ns": 1}')[0] == 1


@cache
def definitions() -> dg.Definitions:
    """All definitions, loaded once: nobody changes them."""
    return defs()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def instance_on_disk() -> Iterator[dg.DagsterInstance]:
    """One that another process can open."""
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def lakehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakehouse:
    monkeypatch.setenv("DICOM_ASSETS_SETTLE_SECONDS", "0.1")
    monkeypatch.setattr(sensors, "WATCH_SECONDS", 1.0)
    (tmp_path / "bronze/Files/Ingest/Imaging/DICOM").mkdir(parents=True)
    return Lakehouse(root=str(tmp_path))


def evaluate(
    lakehouse: Lakehouse, instance: dg.DagsterInstance, cursor: str | None = None
) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        sensor_name="drop_folder_sensor",
        repository_def=definitions().get_repository_def(),
        resources={"lakehouse": lakehouse},
    ) as context:
        result = sensors.drop_folder_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def drop(lakehouse: Lakehouse, name: str) -> None:
    path = Path(lakehouse.root, "bronze/Files/Ingest/Imaging/DICOM", name)
    path.write_bytes(b"DICM")


def test_the_sensor_waits_for_a_file_to_be_complete_and_asks_for_one_run(
    lakehouse, instance, monkeypatch
):
    monkeypatch.setattr(sensors, "WATCH_SECONDS", 20.0)
    for number in range(50):
        drop(lakehouse, f"{number}.dcm")
    begin = time.monotonic()
    result = evaluate(lakehouse, instance)
    assert time.monotonic() - begin < sensors.WATCH_SECONDS, "it does not watch to the end"
    (request,) = result.run_requests or []
    (event,) = result.asset_events
    today = ingest_date.get_last_partition_key()
    assert request.partition_key == event.partition == today
    assert event.asset_key == KEY
    assert event.metadata["complete_files"].value == 50


def test_the_sensor_watches_the_drop_folder_of_fhir_files_too(lakehouse, instance):
    folder = Path(lakehouse.root, "bronze/Files/Ingest/Clinical/FHIR NDJSON/RIS")
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.json").write_text("{}")
    result = evaluate(lakehouse, instance)
    (request,) = result.run_requests or []
    (event,) = result.asset_events
    assert event.asset_key == fhir_drop_folder.KEY
    assert event.metadata["complete_files"].value == 3
    assert request.partition_key == ingest_date.get_last_partition_key()
    assert not evaluate(lakehouse, instance, cursor=result.cursor).run_requests


def test_the_run_that_it_asks_for_is_the_chain_but_for_listing_external(lakehouse, instance):
    drop(lakehouse, "a.dcm")
    (request,) = evaluate(lakehouse, instance).run_requests or []
    graph = definitions().resolve_asset_graph()
    apart = {PULLED, dg.AssetKey(["bronze", "external_files"])}
    assert set(request.asset_selection or ()) == graph.materializable_asset_keys - apart


def test_an_empty_drop_folder_is_a_skipped_tick(lakehouse, instance):
    result = evaluate(lakehouse, instance)
    assert not result.run_requests
    assert not result.asset_events
    assert str(result.skip_reason and result.skip_reason.skip_message).startswith("no new")


def test_a_run_that_still_waits_takes_what_arrives_meanwhile(lakehouse, instance):
    drop(lakehouse, "a.dcm")
    today = ingest_date.get_last_partition_key() or ""
    waiting = {"dagster/sensor_name": "drop_folder_sensor", "dagster/partition": today}
    instance.add_run(dg.DagsterRun(JOB_NAME, status=dg.DagsterRunStatus.STARTING, tags=waiting))
    result = evaluate(lakehouse, instance)
    assert len(result.asset_events) == 1
    assert not result.run_requests


def killed(instance: dg.DagsterInstance, *begun: tuple[str, str, Mapping[str, str]]) -> list[str]:
    """Makes runs that processes of their own work on at once, and kills these.

    Args:
        instance: One on disk.
        begun: Date, lakehouse and tags of each run.

    Returns:
        The runs' ids.
    """
    ids = []
    with ExitStack() as living:
        for day, lakehouse, tags in begun:
            run = instance.add_run(
                dg.DagsterRun(
                    JOB_NAME,
                    status=dg.DagsterRunStatus.STARTED,
                    tags={"dagster/partition": day, **tags},
                )
            )
            living.enter_context(worked_on(instance, run.run_id, lakehouse=lakehouse))
            ids.append(run.run_id)
        assert end_killed_runs(instance) == [], "none is taken for dead while it lives"
    return ids


def test_runs_whose_process_was_killed_are_ended_and_those_of_the_own_lakehouse_taken_up_once(
    lakehouse, instance_on_disk
):
    unseen, noticed, elsewhere = killed(
        instance_on_disk,
        ("2026-03-14", lakehouse.root, {}),
        ("2026-03-15", lakehouse.root, {}),
        ("2026-03-16", "/another/lakehouse", {}),
    )
    by_dagster = instance_on_disk.get_run_by_id(noticed)
    instance_on_disk.report_run_failed(by_dagster, "terminated by signal 9")
    requests = evaluate(lakehouse, instance_on_disk).run_requests or []
    tags = {request.partition_key: request.tags for request in requests}
    resumed = {day: each[RESUMES] for day, each in tags.items()}
    assert resumed == {"2026-03-14": unseen, "2026-03-15": noticed}
    assert len(requests) == 2
    for run in (unseen, elsewhere):
        assert instance_on_disk.get_run_by_id(run).status is dg.DagsterRunStatus.FAILURE
    assert not evaluate(lakehouse, instance_on_disk).run_requests
    killed(instance_on_disk, ("2026-03-14", lakehouse.root, tags["2026-03-14"]))
    assert not evaluate(lakehouse, instance_on_disk).run_requests, (
        "what kills every process is not retried"
    )


def look(lakehouse: Lakehouse, instance: dg.DagsterInstance, cursor: str | None = None):
    """Evaluates the sensor that watches External."""
    with dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        sensor_name="external_storage_sensor",
        repository_def=definitions().get_repository_def(),
        resources={"lakehouse": lakehouse},
    ) as context:
        result = sensors.external_storage_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


@pytest.fixture
def shortcut(lakehouse, tmp_path_factory, monkeypatch) -> Path:
    """A folder elsewhere, behind a link of External."""
    monkeypatch.setenv("DICOM_ASSETS_SETTLE_SECONDS", "0")
    folder = tmp_path_factory.mktemp("elsewhere")
    namespace = Path(lakehouse.root, "bronze/Files/External/Imaging/DICOM/PACS1")
    namespace.mkdir(parents=True)
    (namespace / "archive").symlink_to(folder)
    return folder


def test_nothing_in_external_asks_for_nothing(lakehouse, instance, shortcut):
    assert not look(lakehouse, instance).run_requests


def test_what_is_new_behind_a_shortcut_asks_for_a_run_once(lakehouse, instance, shortcut):
    (shortcut / "a.dcm").write_bytes(b"DICM")
    first = look(lakehouse, instance)
    (request,) = first.run_requests or []
    assert request.partition_key == ingest_date.get_last_partition_key()
    assert dg.AssetKey(["bronze", "external_files"]) in (request.asset_selection or ())
    assert not look(lakehouse, instance, first.cursor).run_requests
    (shortcut / "a.dcm").write_bytes(b"DICM, changed")
    assert look(lakehouse, instance, first.cursor).run_requests


def test_a_listing_that_was_cut_short_is_followed_by_another(lakehouse, instance, shortcut):
    (shortcut / "a.dcm").write_bytes(b"DICM")
    cursor = look(lakehouse, instance).cursor
    for more, asked in ((1, 1), (0, 0)):
        event = dg.AssetMaterialization(
            ["bronze", "external_files"], metadata={"more_to_come": more}
        )
        instance.report_runless_asset_event(event)
        assert len(look(lakehouse, instance, cursor).run_requests or ()) == asked


def test_a_listing_that_takes_too_long_is_left_to_a_run_each_hour(
    lakehouse, instance, shortcut, monkeypatch
):
    (shortcut / "a.dcm").write_bytes(b"DICM")
    monkeypatch.setattr(sensors, "_LISTED_FOR_SECONDS", -1.0)
    monkeypatch.setattr(
        "dicom_assets.steps.watch_external.now", lambda: datetime(2027, 3, 14, 9, tzinfo=UTC)
    )
    first = look(lakehouse, instance)
    assert first.run_requests
    assert not look(lakehouse, instance, first.cursor).run_requests
    monkeypatch.setattr(
        "dicom_assets.steps.watch_external.now", lambda: datetime(2027, 3, 14, 10, tzinfo=UTC)
    )
    assert look(lakehouse, instance, first.cursor).run_requests


def test_the_sensor_and_automation_are_on_by_default():
    repository = definitions().get_repository_def()
    assert {sensor.name: sensor.default_status for sensor in repository.sensor_defs} == {
        "drop_folder_sensor": dg.DefaultSensorStatus.RUNNING,
        "dicom_service_sensor": dg.DefaultSensorStatus.RUNNING,
        "external_storage_sensor": dg.DefaultSensorStatus.RUNNING,
        "automation_sensor": dg.DefaultSensorStatus.RUNNING,
    }
