"""What the drop-folder sensor decides, and what it asks Dagster for."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dicom_assets.definitions import defs
from dicom_assets.defs import sensors
from dicom_assets.defs.automation import JOB_NAME
from dicom_assets.defs.bronze.drop_folder import KEY
from dicom_assets.defs.partitions import ingest_date
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.lakehouse.drop_folder import Dropped

SECOND = 10**9
NOW = 1_800_000_000 * SECOND
SETTLE = 2.0
DROP = Path("/lakehouse/drop")


def dropped(name: str = "a.dcm", *, age: float = 60, now: int = NOW) -> Dropped:
    changed = now - int(age * SECOND)
    return Dropped(DROP / name, size=1, modified_ns=changed, changed_ns=changed, regular=True)


def arrival(*entries: Dropped, cursor: str | None = None, now: int = NOW) -> tuple[int, str]:
    return sensors.arrival(entries, cursor=cursor, now_ns=now, settle_seconds=SETTLE)


def test_an_empty_folder_is_no_arrival():
    assert arrival()[0] == 0


def test_a_file_still_being_written_is_left_alone():
    count, cursor = arrival(dropped(age=0.5))
    assert count == 0
    assert arrival(dropped(age=2.0), cursor=cursor)[0] == 1, "two seconds later it is complete"


def test_thousands_at_once_are_one_arrival():
    count, cursor = arrival(*(dropped(f"{number}.dcm") for number in range(3000)))
    assert count == 3000
    assert len(cursor) < 200, "the cursor does not grow with the number of files"


def test_nothing_new_is_not_reported_again():
    count, cursor = arrival(dropped())
    assert count == 1
    assert arrival(dropped(), cursor=cursor, now=NOW + 30 * SECOND)[0] == 0


def test_one_more_file_is_an_arrival_of_all_that_lies_there():
    _, cursor = arrival(dropped())
    assert arrival(dropped(), dropped("b.dcm", age=3), cursor=cursor)[0] == 2


def test_a_complete_file_is_reported_though_another_is_still_being_written():
    assert arrival(dropped(), dropped("b.dcm", age=0))[0] == 1


def test_a_file_that_changes_again_is_reported_again():
    _, cursor = arrival(dropped(age=60))
    assert arrival(dropped(age=5), cursor=cursor)[0] == 1


def test_a_folder_moved_in_is_new_though_its_files_changed_long_ago():
    _, cursor = arrival(dropped("recent.dcm", age=10))
    _, cursor = arrival(cursor=cursor)
    assert arrival(dropped("study/1.dcm", age=86_400), cursor=cursor)[0] == 1


def test_a_folder_of_the_same_name_is_new_again_once_the_first_was_taken():
    _, cursor = arrival(dropped("study/1.dcm", age=10))
    _, cursor = arrival(cursor=cursor)
    assert arrival(dropped("study/1.dcm", age=86_400), cursor=cursor)[0] == 1


def test_files_that_a_run_is_taking_are_no_arrival():
    _, cursor = arrival(dropped("a.dcm", age=9), dropped("b.dcm", age=8), dropped("c.dcm", age=7))
    assert arrival(dropped("a.dcm", age=9), cursor=cursor)[0] == 0


def test_files_left_lying_are_reported_again_after_ten_minutes():
    _, cursor = arrival(dropped())
    assert arrival(dropped(), cursor=cursor, now=NOW + 599 * SECOND)[0] == 0
    count, cursor = arrival(dropped(), cursor=cursor, now=NOW + 600 * SECOND)
    assert count == 1
    assert arrival(dropped(), cursor=cursor, now=NOW + 601 * SECOND)[0] == 0


def test_a_clock_set_back_hides_no_file():
    _, cursor = arrival(dropped())
    earlier = NOW - 3600 * SECOND
    count, cursor = arrival(dropped("b.dcm", now=earlier), cursor=cursor, now=earlier)
    assert count == 1
    later = earlier + 5 * SECOND
    assert arrival(dropped("b.dcm", now=earlier), cursor=cursor, now=later)[0] == 0


def test_the_cursor_holds_no_name():
    _, cursor = arrival(dropped("Doe^Jane/1.dcm"))
    assert "Doe" not in cursor


def test_a_cursor_of_an_older_version_is_understood():
    assert arrival(dropped(), cursor='{"newest_ns": 1, "reported_ns": 1}')[0] == 1


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
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
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        sensor_name="drop_folder_sensor",
        repository_def=defs().get_repository_def(),
        resources={"lakehouse": lakehouse},
    )
    result = sensors.drop_folder_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def drop(lakehouse: Lakehouse, name: str) -> None:
    path = Path(lakehouse.root, "bronze/Files/Ingest/Imaging/DICOM", name)
    path.write_bytes(b"DICM")


def test_the_sensor_waits_for_a_file_to_be_complete_and_asks_for_one_run(lakehouse, instance):
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


def test_the_run_that_the_sensor_asks_for_is_the_whole_chain(lakehouse, instance):
    drop(lakehouse, "a.dcm")
    (request,) = evaluate(lakehouse, instance).run_requests or []
    graph = defs().resolve_asset_graph()
    assert set(request.asset_selection or ()) == graph.materializable_asset_keys


def test_an_empty_drop_folder_is_a_skipped_tick(lakehouse, instance):
    result = evaluate(lakehouse, instance)
    assert not result.run_requests
    assert not result.asset_events
    assert str(result.skip_reason and result.skip_reason.skip_message).startswith("no new")


def test_a_run_that_still_waits_takes_what_arrives_meanwhile(lakehouse, instance):
    drop(lakehouse, "a.dcm")
    today = ingest_date.get_last_partition_key() or ""
    instance.create_run_for_job(
        defs().resolve_job_def(JOB_NAME),
        status=dg.DagsterRunStatus.STARTING,
        tags={"dagster/sensor_name": "drop_folder_sensor", "dagster/partition": today},
    )
    result = evaluate(lakehouse, instance)
    assert len(result.asset_events) == 1
    assert not result.run_requests


def test_the_sensor_and_automation_are_on_by_default():
    repository = defs().get_repository_def()
    assert {sensor.name: sensor.default_status for sensor in repository.sensor_defs} == {
        "drop_folder_sensor": dg.DefaultSensorStatus.RUNNING,
        "automation_sensor": dg.DefaultSensorStatus.RUNNING,
    }


def test_a_link_moved_in_is_looked_at_but_not_followed(lakehouse, instance, tmp_path):
    outside = tmp_path / "outside.dcm"
    outside.write_bytes(b"DICM")
    os.utime(outside, (1, 1))
    link = Path(lakehouse.root, "bronze/Files/Ingest/Imaging/DICOM/link.dcm")
    link.symlink_to(outside)
    (event,) = evaluate(lakehouse, instance).asset_events
    assert event.metadata["complete_files"].value == 1
