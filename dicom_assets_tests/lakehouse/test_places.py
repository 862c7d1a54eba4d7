import random
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from dicom_assets.lakehouse import places
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.places import Places, partition_of
from dicom_assets.lakehouse.schemas import PERSON
from dicom_assets.lakehouse.segments import Segment, sortable
from dicom_assets.lakehouse.tables import Tables
from dicom_assets.steps import catalog


@pytest.fixture
def engine(tmp_path) -> LocalEngine:
    return LocalEngine(Layout(tmp_path))


def people(ids) -> pa.Table:
    row = {
        "gender_concept_id": 0,
        "race_concept_id": 0,
        "ethnicity_concept_id": 0,
        "sourceSystem": "s",
    }
    return pa.Table.from_pylist([{"person_id": each, **row} for each in ids], schema=PERSON)


def lines(ids, day) -> pa.Table:
    schema = catalog.BRONZE_IMAGING_STUDY.schema
    row = {"ingestDate": day, "sourceSystem": "s", "resource": "{}", "filePath": "f"}
    rows = [{**row, "id": each, "lineNumber": n} for n, each in enumerate(ids, 1)]
    return pa.Table.from_pylist(rows, schema=schema)


def of(engine, table) -> Places:
    """What another process would remember."""
    return Places(table, engine.layout.table(table.layer, table.name))


def in_partitions(places, delta, keys) -> dict:
    return {key: partition_of(file) for key, file in places.of(delta, keys)}


def test_of_random_rows_in_many_files_each_key_is_found_where_it_stands(engine, monkeypatch):
    # so that segments become full, too
    monkeypatch.setattr(places, "_MOST_KEYS", 200)
    chance, expected = random.Random(7), {}  # noqa: S311
    for number in range(25):
        ids = {chance.randrange(-(2**63), 2**63) for _ in range(20)}
        ids |= set(chance.sample(sorted(expected), min(2, len(expected))))
        day = date(2026, 1 + number % 12, 1)
        engine.upsert(catalog.PERSON, people(ids), progress=None, ingest_date=day)
        for each in ids:
            expected.setdefault(each, f"{day:%Y-%m}")
    delta = Tables(engine.layout).create(catalog.PERSON)
    asked = [*expected, *(chance.randrange(2**63) for _ in range(50))]
    for each in (of(engine, catalog.PERSON), of(engine, catalog.PERSON)):
        assert in_partitions(each, delta, asked) == expected
        assert list(each.of(delta, [])) == []
    folder = engine.layout.table("gold", "person") / "_places"
    held = [Segment.at(path, is_text=False) for path in folder.iterdir()]
    assert 1 < len(held) < 8
    assert max(map(len, held)) <= 200


def test_a_text_that_stands_in_several_partitions_is_found_in_all_and_none_is_no_key(engine):
    table, days = (
        catalog.BRONZE_IMAGING_STUDY,
        [date(2026, 1, 1) + timedelta(n) for n in range(10)],
    )
    for day in days:
        ids = ["always", f"é{day}", "x" * 5000 + f"{day}", None]
        engine.append(table, lines(ids, day), progress=None, ingest_date=day)
    delta = Tables(engine.layout).create(table)
    for each in (of(engine, table), of(engine, table)):
        found = [partition_of(file) for _, file in each.of(delta, ["always"])]
        assert sorted(found) == sorted(map(str, days))
        for key, day in ((f"é{days[3]}", days[3]), ("x" * 5000 + f"{days[4]}", days[4])):
            assert in_partitions(each, delta, [key, "none"]) == {key: f"{day}"}


def test_files_that_are_no_longer_of_the_table_are_left_out_when_segments_are_joined():
    keys = [sortable(each, is_text=False) for each in ([5, 1, 3], [2, 5], [9])]
    first = Segment.of_files(keys[:2], ["a", "b"])
    second = Segment.of_files(keys[2:], ["c"])
    first.live({"b", "c"})
    joined = Segment.joined([first, second])
    assert joined.files == ["b", "c"]
    which, numbers = joined.find(np.array([1, 2, 5, 9, 10]))
    assert which.tolist() == [1, 2, 3]
    assert [joined.files[n] for n in numbers] == ["b", "b", "c"]


def test_a_segment_without_keys_is_kept_like_any_other(tmp_path):
    empty = Segment.of_files([sortable([], is_text=True)], ["a"])
    empty.keep(tmp_path)
    (path,) = tmp_path.iterdir()
    again = Segment.at(path, is_text=True)
    assert (len(again), again.files) == (0, ["a"])
    assert not again.find(sortable(["x"], is_text=True))[0].size
    with pytest.raises(ValueError, match="not as it is kept"):
        Segment.at(path, is_text=False)
