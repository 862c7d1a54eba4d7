"""Upkeep changes files, never content, and takes nothing from a reader that is half way."""

from datetime import date

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from dicom_assets.lakehouse.engine import LocalEngine, Progress
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.steps import catalog
from dicom_assets.steps.maintain import maintain

TABLE = catalog.PROCESS_FILES
DAYS = date(2026, 1, 1), date(2026, 1, 2)


@pytest.fixture
def engine(tmp_path) -> LocalEngine:
    """An engine on a table of two partitions, six small files each."""
    engine = LocalEngine(Layout(tmp_path / "lake häuser"))
    for number in range(6):
        for day in DAYS:
            append(engine, day, f"{number}")
    return engine


def append(engine: LocalEngine, day: date, name: str) -> None:
    row = {"ingestDate": day, "sourceSystem": "default", "filePath": name}
    rows = pa.Table.from_pylist([row], schema=TABLE.schema)
    done = engine.progress(TABLE, f"test/{day}") or 0
    engine.append(TABLE, rows, progress=Progress(f"test/{day}", done + 1), ingest_date=day)


def new(engine: LocalEngine, since: int | None) -> list[str]:
    until = engine.version(TABLE)
    found = engine.table_of_new(TABLE, ["filePath"], since=since, until=until, ingest_date=DAYS[0])
    return sorted(found["filePath"].to_pylist())


def test_files_become_few_and_content_stays(engine):
    before = engine.read(TABLE, TABLE.schema.names).sort_by("filePath")
    done = engine.maintain(TABLE, keep_hours=0)
    assert done is not None
    assert (done.files_before, done.files_after, done.files_removed) == (12, 2, 12)
    assert done.bytes_freed > 0
    folder = engine.layout.table("bronze", TABLE.name)
    assert len(list(folder.rglob("ingestDate=*/*.parquet"))) == 2
    order = [("filePath", "ascending"), ("ingestDate", "ascending")]
    after = engine.read(TABLE, TABLE.schema.names)
    assert after.sort_by(order).equals(before.sort_by(order))
    assert engine.rows_by_date(TABLE) == {f"{day}": 6 for day in DAYS}


def test_files_are_kept_as_long_as_they_should_be(engine):
    done = engine.maintain(TABLE, keep_hours=24)
    assert done is not None
    assert (done.files_after, done.files_removed, done.bytes_freed) == (2, 0, 0)
    assert new(engine, None) == [f"{number}" for number in range(6)]


def test_a_reader_that_is_half_way_reads_on_where_it_was(engine):
    half = engine.version(TABLE)
    append(engine, DAYS[0], "later")
    engine.maintain(TABLE, keep_hours=24)
    assert new(engine, half) == ["later"]
    assert new(engine, engine.version(TABLE)) == []


def test_a_reader_whose_files_are_gone_reads_its_partition_again(engine):
    half = engine.version(TABLE)
    append(engine, DAYS[0], "later")
    engine.maintain(TABLE, keep_hours=0)
    assert new(engine, half) == [*(f"{number}" for number in range(6)), "later"]


def test_a_table_that_does_not_exist_needs_no_upkeep(engine):
    assert engine.maintain(catalog.PERSON, keep_hours=0) is None


def test_what_keeps_keys_is_not_taken_for_an_old_file(engine):
    (folder,) = [engine.layout.table("bronze", TABLE.name)]
    (folder / "_places").mkdir()
    (folder / "_places/0.arrow").write_bytes(b"")
    engine.maintain(TABLE, keep_hours=0)
    assert (folder / "_places/0.arrow").exists()
    assert DeltaTable(str(folder)).version() == engine.version(TABLE)


def test_upkeep_removes_what_a_killed_run_on_spark_has_left(house):
    staging = house.run.engine.layout.staging
    (staging / "0-rows").mkdir(parents=True)
    (staging / "0-rows/part.parquet").write_bytes(b"rows of patients")
    assert maintain(house.run.engine, house.settings) == []
    assert not staging.exists()
