import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Field, QueryBuilder, Schema
from deltalake.exceptions import CommitFailedError
from deltalake.schema import PrimitiveType

from dicom_assets.lakehouse import query, written
from dicom_assets.lakehouse.compaction import compact
from dicom_assets.lakehouse.engine import LocalEngine, Progress
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.lock import locked
from dicom_assets.lakehouse.schemas import PERSON, field
from dicom_assets.lakehouse.tables import TableError, Tables, files_of
from dicom_assets.steps import catalog

TABLE = catalog.PROCESS_FILES
FIRST, SECOND = date(2026, 1, 1), date(2026, 1, 2)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


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
    monkeypatch.setattr(Tables, "create", lambda *_: stale)
    with pytest.raises(CommitFailedError):
        append(engine, FIRST, "b", version=2)


def test_only_rows_after_a_version_are_new(engine):
    append(engine, FIRST, "a", version=1)
    append(engine, FIRST, "b", version=2)
    assert new(engine, None) == ["a", "b"]
    assert new(engine, 1) == ["b"]
    assert new(engine, engine.version(TABLE)) == []


def test_rows_that_are_more_than_a_file_holds_are_one_commit_all_the_same(engine, monkeypatch):
    monkeypatch.setattr(written, "_BYTES_PER_FILE", 1)
    names = ["a", "b", "c"]
    each = [batch for name in names for batch in rows(FIRST, name).to_batches()]
    batches = pa.RecordBatchReader.from_batches(TABLE.schema, each)
    engine.append(TABLE, batches, progress=Progress("test", 1), ingest_date=FIRST)
    assert (engine.version(TABLE), len(engine.open(TABLE).file_uris())) == (1, 3)
    assert new(engine, None) == names
    assert sorted(engine.read(TABLE, ["filePath"])["filePath"].to_pylist()) == names


def test_nothing_is_appended_but_how_far_was_read(engine):
    append(engine, FIRST, version=5)
    assert engine.progress(TABLE, f"test/{FIRST}") == 5
    assert (engine.row_count(TABLE), new(engine, None)) == (0, [])


def test_a_key_too_long_or_missing_has_no_statistics_and_is_found(engine):
    long, table = "x" * 2000, catalog.bronze_fhir("Patient")
    for keys in ([long], ["y", long], [None]):
        found = pa.Table.from_pylist(
            [
                {
                    "ingestDate": FIRST,
                    "sourceSystem": "default",
                    "id": key,
                    "resource": "{}",
                    "filePath": "f",
                    "lineNumber": number,
                    "ingestedAt": NOW,
                }
                for number, key in enumerate(keys)
            ],
            schema=table.schema,
        )
        engine.append(table, found, progress=None, ingest_date=FIRST)
    commits = sorted(engine.layout.root.rglob("*.json"))[1:]
    assert [path.stat().st_size < 1000 for path in commits] == [True] * 3
    read = engine.read(table, ["id"], where={"id": [long]}, ingest_date=FIRST)
    assert read["id"].to_pylist() == [long, long]
    assert engine.row_count(table) == 4


def test_rows_of_which_a_column_was_set_are_not_new_again(engine):
    append(engine, FIRST, "a", "b", version=1)
    changed = pa.table({"filePath": ["a"], "fileSize": pa.array([7], pa.int64())})
    columns = ["fileSize"]
    engine.update(TABLE, changed, key="filePath", columns=columns, ingest_date=FIRST)
    append(engine, FIRST, "c", version=2)
    assert new(engine, None) == ["a", "b", "c"]
    assert new(engine, 1) == ["c"]
    sizes = engine.read(TABLE, ["filePath", "fileSize"]).to_pylist()
    assert {row["filePath"]: row["fileSize"] for row in sizes} == {"a": 7, "b": None, "c": None}


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
    monkeypatch.setattr("dicom_assets.lakehouse.log.commit_of", None)
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


def test_of_rows_that_take_little_room_on_disk_no_file_gets_very_many(engine):
    few = replace(TABLE, rows_per_group=4)
    for at in range(0, 120, 4):
        names = [f"{number:03}" for number in range(at, at + 4)]
        engine.append(few, rows(FIRST, *names), progress=None, ingest_date=FIRST)
    delta = engine.open(few)
    assert delta is not None
    for _ in range(2):
        files = pa.table(delta.get_add_actions(flatten=True))
        assert sum(files["num_records"].to_pylist()) == 120
        assert 8 * 4 // 2 < max(files["num_records"].to_pylist()) < 2 * 8 * 4
        assert len(files) < 120 // 4
        compact(delta, few)  # as upkeep does


def test_many_upserts_become_few_files(engine):
    for number in range(20):
        upsert(engine, person(number, 1950), progress=Progress("p", number + 1))
    assert len(DeltaTable(str(engine.layout.table("gold", "person"))).file_uris()) < 10
    assert engine.row_count(catalog.PERSON) == 20
    assert engine.progress(catalog.PERSON, "p") == 20


def person(key: int, born: int) -> pa.Table:
    row = {"person_id": key, "year_of_birth": born, "sourceSystem": "default"}
    zeros = dict.fromkeys(("gender_concept_id", "race_concept_id", "ethnicity_concept_id"), 0)
    return pa.Table.from_pylist([row | zeros], schema=PERSON)


def upsert(
    engine: LocalEngine,
    rows: pa.Table,
    *,
    progress: Progress | None = None,
    day: date = FIRST,
    gone: set[int] | None = None,
) -> None:
    engine.upsert(catalog.PERSON, rows, progress=progress, ingest_date=day, gone=gone or set())


def test_an_upsert_replaces_known_keys_and_inserts_new_ones(engine):
    upsert(engine, person(1, 1950), progress=Progress("p", 1))
    upsert(engine, person(1, 1960), progress=Progress("p", 2))
    upsert(engine, person(2, 1970), progress=Progress("p", 3))
    found = engine.read(catalog.PERSON, ["person_id", "year_of_birth"]).to_pylist()
    assert sorted((row["person_id"], row["year_of_birth"]) for row in found) == [
        (1, 1960),
        (2, 1970),
    ]
    assert engine.progress(catalog.PERSON, "p") == 3


def test_an_upsert_deletes_what_is_gone_in_the_same_commit(engine):
    upsert(engine, pa.concat_tables([person(1, 1950), person(2, 1960)]), progress=None)
    before = engine.version(catalog.PERSON)
    upsert(engine, person(3, 1970), progress=Progress("p", 1), gone={1})
    assert engine.version(catalog.PERSON) == before + 1
    found = engine.read(catalog.PERSON, ["person_id"])["person_id"].to_pylist()
    assert sorted(found) == [2, 3]


def test_an_upsert_of_nothing_still_says_how_far_it_read(engine):
    nothing = PERSON.empty_table()
    upsert(engine, nothing, progress=Progress("p", 7))
    assert engine.progress(catalog.PERSON, "p") == 7
    before = engine.version(catalog.PERSON)
    upsert(engine, nothing, progress=None)
    assert engine.version(catalog.PERSON) == before


@pytest.mark.parametrize("value", ["it's", 'say "hi"', "a\\b", "x' OR '1'='1", "é\n;--"])
def test_values_are_looked_for_as_they_are(engine, value):
    append(engine, FIRST, value, "other", version=1)
    found = engine.read(TABLE, ["filePath"], where={"filePath": [value]})
    assert found["filePath"].to_pylist() == [value]
    assert engine.read(TABLE, ["filePath"], where={"filePath": []}).num_rows == 0


@pytest.mark.parametrize(
    "columns", [["filePath"], ["sourceSystem"], ["filePath", "sourceSystem"], ["ingestDate"]]
)
def test_rows_that_meet_all_conditions_are_found(engine, columns):
    append(engine, FIRST, "it's", "b", "c", "d", version=1)
    append(engine, SECOND, "it's", "e", version=1)
    where = {"filePath": {"it's", "d", "none"}, "sourceSystem": ["x", "default"]}
    found = engine.read(TABLE, columns, where={**where, "ingestDate": [FIRST]})
    assert found.schema.names == [name for name in TABLE.schema.names if name in columns]
    assert found.num_rows == 2
    if "filePath" in columns:
        assert found["filePath"].to_pylist() == ["it's", "d"]
    assert engine.read(TABLE, columns, where=where).num_rows == 3
    assert engine.read(TABLE, columns, where={**where, "sourceSystem": ["x"]}).num_rows == 0


@pytest.mark.parametrize(("bytes_", "rows_"), [(1, 100), (200, 100), (1 << 20, 2), (1 << 20, 100)])
def test_of_files_with_many_groups_rows_are_found_in_each(engine, monkeypatch, bytes_, rows_):
    # one row at once, some groups, a part of one, all of them
    monkeypatch.setattr(query, "_BYTES_AT_ONCE", bytes_)
    monkeypatch.setattr(query, "_ROWS_AT_ONCE", rows_)
    small = replace(TABLE, rows_per_group=3)
    names = [f"{n}" for n in range(20)]
    engine.append(small, rows(FIRST, *names), progress=None, ingest_date=FIRST)
    assert engine.read(small, ["filePath"])["filePath"].to_pylist() == names
    for wanted in (["filePath"], ["sourceSystem", "filePath"]):
        for some in (["1", "7", "8", "19"], names, ["none"]):
            found = engine.read(
                small, wanted, where={"filePath": some, "sourceSystem": ["default"]}
            )
            assert found["filePath"].to_pylist() == [each for each in some if each in names]


def by_merge(delta: DeltaTable) -> None:
    keys = pa.table({"filePath": ["b"]})
    merge = delta.merge(keys, "s.filePath = t.filePath", source_alias="s", target_alias="t")
    merge.when_matched_update({"sourcePath": "'said'"}).execute()


@pytest.mark.parametrize(
    "write",
    [
        by_merge,
        lambda delta: delta.update({"sourcePath": "'said'"}, predicate="\"filePath\" = 'b'"),
        lambda delta: delta.delete(predicate="\"filePath\" = 'a'"),
        lambda delta: delta.optimize.compact(),
    ],
    ids=["merge", "update", "delete", "compact"],
)
def test_what_delta_rs_has_written_is_found_like_what_we_have(engine, write):
    append(engine, FIRST, "a", "b", version=1)
    append(engine, FIRST, "c", version=2)
    write(DeltaTable(str(engine.layout.table("bronze", TABLE.name))))
    for columns in (["filePath"], ["sourceSystem", "filePath"], TABLE.schema.names):
        found = engine.read(TABLE, columns, where={"filePath": ["b", "none"]})
        assert found["filePath"].to_pylist() == ["b"]
    assert engine.read(TABLE, ["sourcePath"], where={"sourceSystem": ["default"]}).num_rows >= 2


def test_an_upsert_and_a_look_up_find_what_delta_rs_has_written(engine):
    upsert(engine, pa.concat_tables([person(1, 1950), person(2, 1960)]))
    delta = DeltaTable(str(engine.layout.table("gold", "person")))
    delta.update({"person_source_value": "'said'"}, predicate="person_id = 1")
    upsert(engine, person(2, 1961))
    rows = engine.read(catalog.PERSON, ["person_source_value"], where={"person_id": [1]})
    assert rows.to_pylist() == [{"person_source_value": "said"}]
    assert {key: year for key, (year, _) in people(engine).items()} == {1: 1950, 2: 1961}


def test_files_are_passed_over_that_cannot_hold_a_key_by_their_statistics(engine):
    for version, names in enumerate((["a", "c"], ["d", "f"], ["x" * 5000])):
        append(engine, FIRST, *names, version=version)
    delta = DeltaTable(str(engine.layout.table("bronze", TABLE.name)))
    assert len(files_of(delta, TABLE, {})) == 3
    for value, count in (("b", 2), ("e", 2), ("g", 1)):  # that of the long one is not known
        assert len(files_of(delta, TABLE, {"filePath": [value, "0"]})) == count
    for value in ("a", "f", "x" * 5000):
        assert engine.read(TABLE, ["filePath"], where={"filePath": [value]}).num_rows == 1


def test_a_condition_about_a_column_that_there_is_not_is_an_error(engine):
    append(engine, FIRST, "a", version=1)
    with pytest.raises(KeyError, match="filepath"):
        engine.read(TABLE, ["filePath"], where={"filepath": ["a"]})


def test_many_threads_may_read_one_table_at_once(engine):
    append(engine, FIRST, *map(str, range(1000)), version=1)
    expected = engine.read(TABLE, TABLE.schema.names)
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(engine.read, TABLE, TABLE.schema.names) for _ in range(100)]
        here = [engine.read(TABLE, TABLE.schema.names) for _ in range(100)]
    assert all(each.equals(expected) for each in [*here, *(read.result() for read in reads)])


def test_a_column_added_later_is_null_in_old_rows(engine):
    append(engine, FIRST, "a", version=1)
    wider = replace(TABLE, schema=TABLE.schema.append(field("extra", pa.string(), "added")))
    row = {"ingestDate": FIRST, "sourceSystem": "default", "filePath": "b", "extra": "x"}
    added = pa.Table.from_pylist([row], schema=wider.schema)
    engine.append(wider, added, progress=Progress("x", 1), ingest_date=FIRST)
    found = engine.read(wider, ["filePath", "extra"]).to_pylist()
    assert {row["filePath"]: row["extra"] for row in found} == {"a": None, "b": "x"}
    assert new(engine, None) == ["a", "b"]


def test_an_upsert_adds_the_columns_that_an_older_table_lacks(engine):
    table = catalog.PROCEDURE_OCCURRENCE
    wider = replace(table, schema=table.schema.append(field("extra", pa.string(), "added")))
    for key, each in enumerate((table, wider)):
        filled = {f.name: f"{f.name}" for f in each.upserted if pa.types.is_string(f.type)}
        filled |= {f.name: key for f in each.upserted if pa.types.is_integer(f.type)}
        filled |= {f.name: SECOND for f in each.upserted if pa.types.is_date(f.type)}
        filled |= {f.name: NOW for f in each.upserted if pa.types.is_timestamp(f.type)}
        found = pa.Table.from_pylist([filled], schema=each.upserted)
        engine.upsert(each, found, progress=None, ingest_date=FIRST)
    rows = engine.read(wider, [*table.key, "extra"]).to_pylist()
    assert {row[table.key[0]]: row["extra"] for row in rows} == {0: None, 1: "extra"}


def test_of_an_append_that_breaks_off_nothing_stays(engine, monkeypatch):
    append(engine, FIRST, "a", version=1)
    monkeypatch.setattr(written, "_BYTES_PER_FILE", 1)
    before = {path for path in engine.layout.root.rglob("*") if path.is_file()}

    def batches():
        yield from rows(FIRST, "b").to_batches()
        raise OSError("the storage fails")

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    with pytest.raises(OSError, match="the storage fails"):
        engine.append(TABLE, reader, progress=Progress("test", 1), ingest_date=FIRST)
    assert {path for path in engine.layout.root.rglob("*") if path.is_file()} == before
    assert new(engine, None) == ["a"]


def test_column_descriptions_and_compression_are_in_the_table(engine):
    append(engine, FIRST, "a", version=1)
    delta = DeltaTable(str(engine.layout.table("bronze", TABLE.name)))
    fields = {each.name: each.metadata for each in delta.schema().fields}
    assert fields["filePath"]["comment"] == "Where the organised file lies"
    assert delta.metadata().partition_columns == ["ingestDate"]
    assert "zstd" in delta.file_uris()[0]


def people(engine: LocalEngine) -> dict[int, tuple[int, str]]:
    """Person → year of birth, and the month that the row stands in."""
    rows = engine.read(catalog.PERSON, ["person_id", "year_of_birth", "ingestMonth"]).to_pylist()
    assert len({row["person_id"] for row in rows}) == len(rows)
    return {row["person_id"]: (row["year_of_birth"], row["ingestMonth"]) for row in rows}


def test_a_row_stays_in_the_month_in_which_it_first_came(engine):
    upsert(engine, person(1, 1950), day=date(2026, 3, 1))
    upsert(engine, pa.concat_tables([person(1, 1951), person(2, 1960)]), day=date(2026, 5, 1))
    upsert(engine, pa.concat_tables([person(2, 1961), person(3, 1970)]), day=date(2025, 12, 1))
    assert people(engine) == {
        1: (1951, "2026-03"),
        2: (1961, "2026-05"),
        3: (1970, "2025-12"),
    }
    upsert(engine, person(1, 1952), day=date(2026, 6, 1), gone={2, 99})
    assert people(engine) == {1: (1952, "2026-03"), 3: (1970, "2025-12")}


def uris_of(engine: LocalEngine, month: str) -> set[str]:
    delta = DeltaTable(str(engine.layout.table("gold", "person")))
    return {uri for uri in delta.file_uris() if f"ingestMonth={month}" in uri}


def test_an_upsert_leaves_the_files_of_other_months_alone(engine):
    for month in (1, 2, 3):
        upsert(engine, person(month, 1950), day=date(2026, month, 1))
    before = {month: uris_of(engine, month) for month in ("2026-01", "2026-02", "2026-03")}
    upsert(engine, pa.concat_tables([person(2, 1960), person(9, 1990)]), day=date(2026, 3, 2))
    after = {month: uris_of(engine, month) for month in before}
    assert after["2026-01"] == before["2026-01"]
    assert after["2026-02"].isdisjoint(before["2026-02"])
    assert after["2026-03"] > before["2026-03"]


def test_an_upsert_leaves_the_files_of_a_month_alone_in_which_no_known_key_stands(engine):
    upsert(engine, person(1, 1950))
    before = uris_of(engine, "2026-01")
    upsert(engine, pa.concat_tables([person(2, 1960), person(3, 1970)]))
    (other,) = uris_of(engine, "2026-01") - before
    size = Path(other.removeprefix("file://")).stat().st_size
    upsert(engine, pa.concat_tables([person(2, 1961), person(4, 1980)]))
    log = engine.layout.table("gold", "person") / "_delta_log"
    said = (log / f"{engine.version(catalog.PERSON):020}.json").read_text().splitlines()
    (removed,) = [json.loads(line)["remove"] for line in said if "remove" in line]
    assert (removed["size"], removed["partitionValues"]) == (size, {"ingestMonth": "2026-01"})
    after = uris_of(engine, "2026-01")
    assert after > before
    assert other not in after
    born = {key: year for key, (year, _) in people(engine).items()}
    assert born == {1: 1950, 2: 1961, 3: 1970, 4: 1980}


def test_a_key_that_stands_twice_stands_once_after_its_next_upsert(engine):
    upsert(engine, person(1, 1950))
    twice = person(1, 1951).append_column("ingestMonth", pa.array(["2026-04"]))
    engine.append(catalog.PERSON, twice, progress=None, ingest_date=FIRST)
    upsert(engine, person(1, 1960))
    assert [year for year, _ in people(engine).values()] == [1960]


def test_columns_that_others_have_added_stay_as_they_are(engine):
    upsert(engine, pa.concat_tables([person(number, 1950) for number in range(4)]))
    folder = str(engine.layout.table("gold", "person"))
    delta = DeltaTable(folder)
    delta.alter.add_columns([Field("theirs", PrimitiveType("string"))])
    delta.alter.add_columns([Field("number", PrimitiveType("integer"))])
    delta.update({"theirs": "'kept'", "number": "person_id"}, predicate="person_id < 3")
    other = LocalEngine(engine.layout)
    new = pa.concat_tables([person(4, 1970), person(2, 1961), person(3, 1941)])
    other.upsert(catalog.PERSON, new, progress=None, ingest_date=FIRST, gone={0})
    found = pa.table(QueryBuilder().register("t", DeltaTable(folder)).execute("SELECT * FROM t"))
    rows = found.select(["person_id", "year_of_birth", "theirs", "number"]).to_pylist()
    assert {row.pop("person_id"): tuple(row.values()) for row in rows} == {
        1: (1950, "kept", 1),
        2: (1961, "kept", 2),
        3: (1941, None, None),
        4: (1970, None, None),
    }


@pytest.mark.parametrize(
    ("reader", "features"),
    [(3, ["deletionVectors", "timestampNtz"]), (3, ["columnMapping"]), (2, None)],
)
def test_a_table_whose_files_say_something_else_than_it_does_is_refused(engine, reader, features):
    upsert(engine, person(1, 1950))
    log = engine.layout.table("gold", "person") / "_delta_log"
    protocol = {"minReaderVersion": reader, "minWriterVersion": 7 if features else 5}
    if features:
        protocol |= {"readerFeatures": features, "writerFeatures": features}
    commit = {"commitInfo": {"timestamp": 0, "operation": "ANOTHER ENGINE"}}
    lines = map(json.dumps, (commit, {"protocol": protocol}))
    (log / f"{engine.version(catalog.PERSON) + 1:020}.json").write_text("\n".join(lines))
    for each in (LocalEngine(engine.layout), engine):  # that has opened it before
        with pytest.raises(TableError, match="Drop the feature there") as told:
            each.read(catalog.PERSON, ["person_id"])
        assert (features or ["columnMapping"])[0] in str(told.value)


def test_rows_that_are_all_new_are_appended(engine):
    for number in range(3):
        upsert(engine, person(number, 1950))
    table = DeltaTable(str(engine.layout.table("gold", "person")))
    assert [each["operation"] for each in table.history(3)] == ["WRITE"] * 3


@pytest.mark.parametrize("known", [False, True])
def test_of_two_writers_of_the_same_key_one_fails(engine, monkeypatch, known):
    upsert(engine, person(1 if known else 0, 1950))
    stale = DeltaTable(str(engine.layout.table("gold", "person")))
    other = LocalEngine(engine.layout)
    upsert(other, person(1, 1960), day=date(2026, 4, 1))
    monkeypatch.setattr(Tables, "create", lambda *_: stale)
    with pytest.raises(CommitFailedError):
        upsert(engine, person(1, 1970))
    monkeypatch.undo()
    assert people(engine)[1][0] == 1960


def test_where_keys_stand_is_found_again_when_it_is_not_remembered(engine):
    for number in range(20):
        upsert(engine, person(number, 1950), day=date(2026, 1 + number % 12, 1))
    folder = engine.layout.table("gold", "person")
    assert list((folder / "_places").glob("*.arrow"))
    remembering = LocalEngine(engine.layout)
    upsert(remembering, person(3, 1960))
    shutil.rmtree(folder / "_places")
    forgetful = LocalEngine(engine.layout)
    upsert(forgetful, person(3, 1970))
    for each in (engine, remembering, forgetful):
        found = each.read(catalog.PERSON, ["year_of_birth"], where={"person_id": [3]})
        assert found["year_of_birth"].to_pylist() == [1970]
    assert people(engine)[3] == (1970, "2026-04")


@pytest.mark.parametrize("damage", ["cut short", "rows missing"])
def test_where_keys_stand_is_found_again_when_what_is_remembered_is_damaged(engine, damage):
    for number in range(20):
        upsert(engine, person(number, 1950), day=date(2026, 1 + number % 12, 1))
    for kept in (engine.layout.table("gold", "person") / "_places").iterdir():
        content = kept.read_bytes()
        kept.unlink()  # it is mapped
        if damage == "cut short":
            kept.write_bytes(content[:100])
        else:
            held = pa.ipc.open_file(content).read_all()
            with pa.ipc.new_file(str(kept), held.schema) as sink:
                sink.write_table(held.slice(5))
    again = LocalEngine(engine.layout)
    upsert(again, pa.concat_tables([person(n, 1960) for n in range(20)]), day=date(2026, 12, 1))
    assert len(people(again)) == 20
    assert {year for year, _ in people(again).values()} == {1960}


def test_a_table_that_is_partitioned_otherwise_is_refused_with_what_to_do(engine):
    folder = engine.layout.table("gold", "person")
    DeltaTable.create(str(folder), Schema.from_arrow(catalog.PERSON.schema))
    with pytest.raises(TableError, match="run every ingest date again"):
        engine.read(catalog.PERSON, ["person_id"])
    with pytest.raises(TableError, match="not by ingestMonth"):
        upsert(engine, person(1, 1950))


def test_a_table_that_holds_something_else_is_refused_with_what_to_do(engine, tmp_path):
    append(engine, FIRST, "a", version=1)
    changed = [f.with_type(pa.string()) if f.name == "fileSize" else f for f in TABLE.schema]
    with pytest.raises(TableError, match=r"fileSize.*Move the folder bronze/Tables/process_files"):
        LocalEngine(Layout(tmp_path)).open(replace(TABLE, schema=pa.schema(changed)))


def test_what_others_commit_and_make_anew_is_seen(engine):
    other = LocalEngine(engine.layout)
    upsert(engine, person(1, 1950))
    upsert(other, person(2, 1960))
    assert set(people(engine)) == {1, 2}
    shutil.rmtree(engine.layout.table("gold", "person"))
    assert people(engine) == {}
    upsert(other, person(3, 1970))
    assert people(engine) == {3: (1970, "2026-01")}


def test_who_holds_the_lock_looks_once_for_what_others_committed_and_sees_its_own(
    engine, monkeypatch
):
    other = LocalEngine(engine.layout)
    upsert(engine, person(1, 1950))
    upsert(other, person(2, 1960))
    looks = []
    look = Tables._look
    monkeypatch.setattr(Tables, "_look", lambda *a, **k: looks.append(a[1].name) or look(*a, **k))
    for _ in range(2):
        with locked(engine.layout.root):
            assert engine.row_count(catalog.PERSON) == 2
            assert engine.row_count(catalog.PERSON) == 2
            assert engine.version(TABLE) == -1
            assert engine.version(TABLE) == -1
    assert looks == ["person", "process_files"] * 2
    with locked(engine.layout.root):
        upsert(engine, PERSON.empty_table(), progress=Progress("p", 1))
        assert engine.progress(catalog.PERSON, "p") == 1
        upsert(engine, person(3, 1970))
        assert set(people(engine)) == {1, 2, 3}


def test_what_commits_say_of_progress_is_looked_for_in_the_log_once(engine, monkeypatch):
    others = LocalEngine(engine.layout)
    for number in range(25):  # more than one checkpoint's
        append(engine if number % 2 else others, FIRST, f"{number}", version=number + 1)
        if number % 3 == 0:
            append(others, SECOND, f"{number}", version=number + 100)
    asked = []
    ask = DeltaTable.transaction_version
    monkeypatch.setattr(
        DeltaTable,
        "transaction_version",
        lambda delta, name: asked.append(name) or ask(delta, name),
    )
    late = LocalEngine(engine.layout)
    for _ in range(2):
        for each in (engine, others, late):
            assert each.progress(TABLE, f"test/{FIRST}") == 25
            assert each.progress(TABLE, f"test/{SECOND}") == 124
            assert each.progress(TABLE, "nobody's") is None
    assert sorted(asked) == ["nobody's", f"test/{FIRST}", f"test/{SECOND}"], "late's, each once"
    append(others, SECOND, "x", version=200)
    assert late.progress(TABLE, f"test/{SECOND}") == engine.progress(TABLE, f"test/{SECOND}") == 200


def test_what_commits_said_is_known_where_the_log_was_cleaned(engine):
    for number in range(4):
        append(engine, FIRST, f"{number}", version=number + 1)
    other = LocalEngine(engine.layout)
    assert engine.progress(TABLE, f"test/{FIRST}") == 4
    for number in range(4, 25):
        append(other, FIRST, f"{number}", version=number + 1)
    table = engine.layout.table("bronze", TABLE.name)
    DeltaTable(str(table)).create_checkpoint()
    for version in range(other.version(TABLE)):
        (table / "_delta_log" / f"{version:020}.json").unlink()
    for each in (engine, other, LocalEngine(engine.layout)):
        assert each.progress(TABLE, f"test/{FIRST}") == 25
