import shutil
from dataclasses import replace
from datetime import date

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from dicom_assets.lakehouse.engine import LocalEngine, Progress
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.schemas import field
from dicom_assets.steps import catalog

TABLE = catalog.PROCESS_FILES
FIRST, SECOND = date(2026, 1, 1), date(2026, 1, 2)


@pytest.fixture
def engine(tmp_path) -> LocalEngine:
    return LocalEngine(Layout(tmp_path))


def rows(day: date, *names: str) -> pa.Table:
    return pa.Table.from_pylist(
        [{"ingestDate": day, "sourceSystem": "default", "filePath": name} for name in names],
        schema=TABLE.schema,
    )


def append(engine: LocalEngine, day: date, *names: str, version: int) -> None:
    progress = Progress(f"test/{day}", version)
    engine.append(TABLE, rows(day, *names), progress=progress, ingest_date=day)


def new(engine: LocalEngine, since: int | None, day: date = FIRST) -> list[str]:
    until = engine.version(TABLE)
    found = engine.table_of_new(TABLE, ["filePath"], since=since, until=until, ingest_date=day)
    return sorted(found["filePath"].to_pylist())


def test_a_table_that_does_not_exist_is_empty(engine):
    assert engine.version(TABLE) == -1
    assert engine.progress(TABLE, "x") is None
    assert engine.read(TABLE, ["filePath"]).num_rows == engine.row_count(TABLE) == 0
    assert new(engine, None) == []


def test_data_and_progress_are_one_commit(engine):
    append(engine, FIRST, "a", version=5)
    assert engine.version(TABLE) == 1
    assert engine.progress(TABLE, f"test/{FIRST}") == 5


def test_a_second_writer_of_the_same_step_fails_instead_of_writing_twice(engine, monkeypatch):
    append(engine, FIRST, "a", version=1)
    stale = DeltaTable(str(engine.layout.table("bronze", TABLE.name)))
    append(engine, FIRST, "b", version=2)
    monkeypatch.setattr(engine, "_create", lambda _: stale)
    with pytest.raises(CommitFailedError):
        append(engine, FIRST, "b", version=2)


def test_only_rows_after_a_version_are_new(engine):
    append(engine, FIRST, "a", version=1)
    append(engine, FIRST, "b", version=2)
    assert new(engine, None) == ["a", "b"]
    assert new(engine, 1) == ["b"]
    assert new(engine, engine.version(TABLE)) == []


def test_a_partition_sees_its_own_rows_alone(engine):
    append(engine, FIRST, "a", version=1)
    append(engine, SECOND, "b", version=1)
    assert new(engine, None, FIRST) == ["a"]
    assert new(engine, None, SECOND) == ["b"]
    assert engine.read(TABLE, ["filePath"], ingest_date=SECOND)["filePath"].to_pylist() == ["b"]
    assert engine.rows_by_date(TABLE) == {"2026-01-01": 1, "2026-01-02": 1}


def test_the_first_reader_of_a_partition_does_not_need_the_log_before_it(engine):
    for number in range(3):
        append(engine, FIRST, f"{number}", version=number + 1)
    table = engine.layout.table("bronze", TABLE.name)
    DeltaTable(str(table)).create_checkpoint()
    for version in range(engine.version(TABLE)):
        (table / "_delta_log" / f"{version:020}.json").unlink()
    append(engine, SECOND, "b", version=1)
    assert new(engine, None, SECOND) == ["b"]


def test_where_the_log_has_been_cleaned_the_whole_partition_is_new(engine):
    append(engine, FIRST, "a", version=1)
    for number in range(3):
        append(engine, SECOND, f"{number}", version=number + 1)
    append(engine, FIRST, "b", version=2)
    table = engine.layout.table("bronze", TABLE.name)
    DeltaTable(str(table)).create_checkpoint()
    for version in range(engine.version(TABLE)):
        (table / "_delta_log" / f"{version:020}.json").unlink()
    assert new(engine, 1, FIRST) == ["a", "b"]
    assert new(engine, 4, FIRST) == ["b"]
    assert new(engine, 5, FIRST) == []


def test_where_files_have_been_vacuumed_the_whole_partition_is_new(engine):
    for number in range(12):  # more than stay apart
        append(engine, FIRST, f"{number}", version=number + 1)
    table = DeltaTable(str(engine.layout.table("bronze", TABLE.name)))
    assert table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert len(new(engine, None, FIRST)) == len(new(engine, 3, FIRST)) == 12


def test_a_partition_that_nobody_wrote_to_since_is_not_looked_for_in_the_log(engine, monkeypatch):
    append(engine, FIRST, "a", version=1)
    append(engine, SECOND, "b", version=1)
    monkeypatch.setattr(DeltaTable, "load_cdf", None)
    assert new(engine, 1, FIRST) == []
    assert new(engine, None, date(2026, 1, 3)) == []


def test_a_table_made_anew_is_another_source(engine):
    append(engine, FIRST, "a", version=1)
    first = engine.app_id("step", TABLE, FIRST)
    assert engine.app_id("step", TABLE, FIRST) == first
    shutil.rmtree(engine.layout.table("bronze", TABLE.name))
    append(engine, FIRST, "a", version=1)
    assert engine.app_id("step", TABLE, FIRST) != first


def test_many_small_commits_become_few_files_and_their_rows_stay_new_once(engine):
    read: list[str] = []
    since = None
    for number in range(40):
        append(engine, FIRST, f"{number}", version=number + 1)
        append(engine, SECOND, f"{number}", version=number + 1)
        if number % 7 == 0:
            read += new(engine, since, FIRST)
            since = engine.version(TABLE)
    read += new(engine, since, FIRST)
    assert sorted(read) == sorted(f"{number}" for number in range(40))
    files = DeltaTable(str(engine.layout.table("bronze", TABLE.name))).file_uris()
    assert len(files) < 20
    assert engine.rows_by_date(TABLE) == {"2026-01-01": 40, "2026-01-02": 40}


def test_many_upserts_become_few_files(engine):
    for number in range(20):
        engine.upsert(catalog.PERSON, person(number, 1950), progress=Progress("p", number + 1))
    assert len(DeltaTable(str(engine.layout.table("gold", "person"))).file_uris()) < 10
    assert engine.row_count(catalog.PERSON) == 20
    assert engine.progress(catalog.PERSON, "p") == 20


def person(key: int, born: int) -> pa.Table:
    row = {"person_id": key, "year_of_birth": born, "sourceSystem": "default"}
    zeros = dict.fromkeys(("gender_concept_id", "race_concept_id", "ethnicity_concept_id"), 0)
    return pa.Table.from_pylist([row | zeros], schema=catalog.PERSON.schema)


def test_an_upsert_replaces_known_keys_and_inserts_new_ones(engine):
    engine.upsert(catalog.PERSON, person(1, 1950), progress=Progress("p", 1))
    engine.upsert(catalog.PERSON, person(1, 1960), progress=Progress("p", 2))
    engine.upsert(catalog.PERSON, person(2, 1970), progress=Progress("p", 3))
    found = engine.read(catalog.PERSON, ["person_id", "year_of_birth"]).to_pylist()
    assert sorted((row["person_id"], row["year_of_birth"]) for row in found) == [
        (1, 1960),
        (2, 1970),
    ]
    assert engine.progress(catalog.PERSON, "p") == 3


def test_an_upsert_deletes_what_is_gone_in_the_same_commit(engine):
    engine.upsert(
        catalog.PERSON, pa.concat_tables([person(1, 1950), person(2, 1960)]), progress=None
    )
    before = engine.version(catalog.PERSON)
    engine.upsert(catalog.PERSON, person(3, 1970), progress=Progress("p", 1), gone={1})
    assert engine.version(catalog.PERSON) == before + 1
    found = engine.read(catalog.PERSON, ["person_id"])["person_id"].to_pylist()
    assert sorted(found) == [2, 3]


def test_an_upsert_of_nothing_still_says_how_far_it_read(engine):
    nothing = catalog.PERSON.schema.empty_table()
    engine.upsert(catalog.PERSON, nothing, progress=Progress("p", 7))
    assert engine.progress(catalog.PERSON, "p") == 7
    before = engine.version(catalog.PERSON)
    engine.upsert(catalog.PERSON, nothing, progress=None)
    assert engine.version(catalog.PERSON) == before


@pytest.mark.parametrize("value", ["it's", 'say "hi"', "a\\b", "x' OR '1'='1", "é\n;--"])
def test_values_reach_a_query_escaped(engine, value):
    append(engine, FIRST, value, "other", version=1)
    found = engine.read(TABLE, ["filePath"], where={"filePath": [value]})
    assert found["filePath"].to_pylist() == [value]
    assert engine.read(TABLE, ["filePath"], where={"filePath": []}).num_rows == 0


def test_a_column_added_later_is_null_in_old_rows(engine):
    append(engine, FIRST, "a", version=1)
    wider = replace(TABLE, schema=TABLE.schema.append(field("extra", pa.string(), "added")))
    row = {"ingestDate": FIRST, "sourceSystem": "default", "filePath": "b", "extra": "x"}
    added = pa.Table.from_pylist([row], schema=wider.schema)
    engine.append(wider, added, progress=Progress("x", 1), ingest_date=FIRST)
    found = engine.read(wider, ["filePath", "extra"]).to_pylist()
    assert {row["filePath"]: row["extra"] for row in found} == {"a": None, "b": "x"}
    assert new(engine, None) == ["a", "b"]


def test_column_descriptions_and_compression_are_in_the_table(engine):
    append(engine, FIRST, "a", version=1)
    delta = DeltaTable(str(engine.layout.table("bronze", TABLE.name)))
    fields = {each.name: each.metadata for each in delta.schema().fields}
    assert fields["filePath"]["comment"] == "Where the organised file lies"
    assert delta.metadata().partition_columns == ["ingestDate"]
    assert "zstd" in delta.file_uris()[0]
