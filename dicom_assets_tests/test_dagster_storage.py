"""Dagster's storage that stays open: Dagster's own files, read and written by either class."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef

from dicom_assets import dagster_storage
from dicom_assets.settings import home

ANSWER = dg.AssetKey("answer")


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["today"]))
def answer() -> None: ...


@contextmanager
def instance(folder: Path, *, ours: bool) -> Iterator[dg.DagsterInstance]:
    folder.mkdir(exist_ok=True)
    if ours:
        (folder / "dagster.yaml").write_bytes((home() / "dagster.yaml").read_bytes())
    else:
        (folder / "dagster.yaml").unlink(missing_ok=True)
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder))) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("ours", [True, False])
def test_each_storage_goes_on_with_what_the_other_wrote(folder: Path, ours: bool) -> None:
    with instance(folder, ours=ours) as first:
        before = dg.materialize([answer], instance=first, partition_key="today").run_id
    with instance(folder, ours=not ours) as second:
        after = dg.materialize([answer], instance=second, partition_key="today").run_id
        assert {record.dagster_run.run_id for record in second.get_run_records()} == {before, after}
        assert {len(second.all_logs(run)) for run in (before, after)} == {
            len(second.all_logs(after))
        }
        found = second.fetch_materializations(ANSWER, limit=9).records
        assert [record.run_id for record in found] == [after, before]


def test_a_database_is_connected_to_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    create = dagster_storage.create_engine
    monkeypatch.setattr(
        dagster_storage, "create_engine", lambda at, **more: made.append(at) or create(at, **more)
    )
    with instance(folder, ours=True) as opened:
        assert isinstance(opened.event_log_storage, dagster_storage.OpenEventLogStorage)
        dg.materialize([answer], instance=opened, partition_key="today")
    assert len(made) == len(set(made)) == 3  # runs, the run's events, the index of events


def test_more_runs_than_are_kept_open_are_all_readable_and_can_be_wiped(folder: Path) -> None:
    with instance(folder, ours=True) as opened:
        runs = [
            dg.materialize([answer], instance=opened, partition_key="today").run_id
            for _ in range(dagster_storage._MOST_OPEN + 1)
        ]
        assert all(opened.all_logs(run) for run in runs)
        opened.wipe()
        assert not opened.get_runs() and not any(opened.all_logs(run) for run in runs)
        again = dg.materialize([answer], instance=opened, partition_key="today")
        assert opened.all_logs(again.run_id)
