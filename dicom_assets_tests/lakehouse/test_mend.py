"""Tables after a crash."""

import os
import shutil
from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pytest

from dicom_assets.lakehouse.engine import LocalEngine, Progress
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.lock import locked
from dicom_assets.steps import catalog
from dicom_assets.steps import run as run_module

DAY = date(2026, 3, 14)
TABLE = catalog.PROCESS_FILES


@pytest.fixture
def engine(tmp_path) -> LocalEngine:
    return LocalEngine(Layout(tmp_path))


def append(engine: LocalEngine, number: int) -> None:
    row = {"ingestDate": DAY, "sourceSystem": "default", "filePath": f"{number}"}
    rows = pa.Table.from_pylist([row], schema=TABLE.schema)
    with locked(engine.layout.root):
        engine.append(TABLE, rows, progress=Progress("test", number), ingest_date=DAY)


@pytest.fixture
def append_and_lose_power(engine, monkeypatch) -> Callable[[int], None]:
    """Appends, and the power fails before that is durable."""

    def appended(number: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("dicom_assets.lakehouse.tables.make_durable", lambda *_: None)
            append(engine, number)

    return appended


def reopened(engine: LocalEngine) -> list[str]:
    """Returns what another process finds that works on the lakehouse."""
    other = LocalEngine(engine.layout)
    with locked(engine.layout.root):
        return sorted(other.read(TABLE, ["filePath"])["filePath"].to_pylist())


def newest(engine: LocalEngine, pattern: str):
    return max(engine.layout.table(TABLE.layer, TABLE.name).glob(pattern), key=os.path.getmtime)


@pytest.mark.parametrize("lost", ["_delta_log/*.json", "ingestDate=*/*.parquet"])
@pytest.mark.parametrize("left", [0, 40])
def test_a_commit_that_a_power_cut_tore_is_taken_back_and_can_be_made_again(
    engine, append_and_lose_power, lost, left
):
    append(engine, 1)
    append_and_lose_power(2)
    os.truncate(newest(engine, lost), left)
    assert reopened(engine) == ["1"]
    engine = LocalEngine(engine.layout)
    append(engine, 2)
    assert reopened(engine) == ["1", "2"]


@pytest.mark.parametrize("is_noted", [True, False], ids=["noted", "the note was lost"])
def test_what_was_durable_and_is_lost_later_stays_committed(engine, is_noted):
    for number in range(4):
        append(engine, number)
    folder = engine.layout.table(TABLE.layer, TABLE.name)
    if not is_noted:
        (folder / "_delta_log/_durable").write_text("")
    for path in folder.rglob("*.parquet"):
        path.unlink()
    other = LocalEngine(engine.layout)
    with locked(engine.layout.root):
        # the newest may have been torn where nothing is known of it; no other can have been
        assert other.version(TABLE) == engine.version(TABLE) - (not is_noted)
        with pytest.raises(FileNotFoundError):
            other.read(TABLE, ["filePath"])


def test_a_note_of_a_version_that_there_is_not_counts_for_nothing(engine, append_and_lose_power):
    append(engine, 1)
    log = engine.layout.table(TABLE.layer, TABLE.name) / "_delta_log"
    append_and_lose_power(2)
    (log / "_durable").write_text("7")  # of before a backup was brought back, say
    os.truncate(newest(engine, "ingestDate=*/*.parquet"), 0)
    assert reopened(engine) == ["1"]


def test_a_table_of_which_the_first_commit_is_torn_is_made_again(engine):
    append(engine, 1)
    log = engine.layout.table(TABLE.layer, TABLE.name) / "_delta_log"
    (log / f"{1:020}.json").unlink()
    os.truncate(log / f"{0:020}.json", 0)
    append(LocalEngine(engine.layout), 2)
    assert reopened(engine) == ["2"]


@pytest.mark.parametrize("left", [0, 40])
def test_a_torn_checkpoint_is_done_without(engine, left):
    for number in range(1, 12):
        append(engine, number)
    os.truncate(newest(engine, "_delta_log/*.checkpoint.parquet"), left)
    assert len(reopened(engine)) == 11


def test_a_torn_pointer_to_the_last_checkpoint_is_done_without(engine):
    for number in range(1, 12):
        append(engine, number)
    os.truncate(newest(engine, "_delta_log/_last_checkpoint"), 3)
    assert len(reopened(engine)) == 11


def test_temporaries_of_killed_writers_are_removed(engine):
    append(engine, 1)
    folder = engine.layout.table(TABLE.layer, TABLE.name)
    left = [
        folder / f"_delta_log/{2:020}.json#1",
        folder / f"ingestDate={DAY}/part-0.parquet#1",
        folder / "_places.arrow.tmp",
    ]
    for path in left:
        path.write_bytes(b"half")
    assert reopened(engine) == ["1"]
    assert [path for path in left if path.exists()] == []


def test_who_only_reads_mends_nothing(engine):
    append(engine, 1)
    left = engine.layout.table(TABLE.layer, TABLE.name) / f"_delta_log/{2:020}.json#1"
    left.write_bytes(b"of a writer that is still at work")
    assert LocalEngine(engine.layout).read(TABLE, ["filePath"]).num_rows == 1
    assert left.exists()


def test_a_whole_table_is_left_as_it_is(engine):
    for number in range(1, 12):
        append(engine, number)
    folder = engine.layout.table(TABLE.layer, TABLE.name)
    copy = shutil.copytree(folder, engine.layout.root / "copy")
    assert len(reopened(engine)) == 11
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == sorted(
        p.relative_to(copy) for p in copy.rglob("*")
    )


def test_a_run_that_finds_nothing_to_do_takes_away_what_any_table_has_of_a_broken_writer(
    house, sample
):
    bronze = house.drop.parents[1]
    shutil.copytree(sample, bronze, dirs_exist_ok=True)
    house.chain()
    house.chain()
    logs = sorted((house.settings.lakehouse).glob("*/Tables/*/_delta_log"))
    assert len(logs) > 10
    for log in logs:
        (log / f"{7:020}.json#1").write_bytes(b"{}")
    run_module._engine.cache_clear()  # another process works now
    house.chain()
    assert [log.parent.name for log in logs if list(log.glob("*#*"))] == []


def test_who_looked_at_a_table_before_it_was_mended_leaves_no_hole_in_its_log(
    engine, append_and_lose_power
):
    for number in range(2):
        append(engine, number)
    append_and_lose_power(2)
    newest(engine, "**/*.parquet").write_bytes(b"cut short")
    other = LocalEngine(engine.layout)
    torn = other.version(TABLE)
    append(other, 3)
    assert other.version(TABLE) == torn, "its commit has taken the place of the torn one"
    assert reopened(engine) == ["0", "1", "3"]
