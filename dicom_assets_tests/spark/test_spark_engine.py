"""Spark and this machine do the same, and each goes on where the other stopped."""

import re
import shutil
import threading
import time
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pydicom
import pytest
from deltalake.exceptions import CommitFailedError

from dicom_assets.lakehouse.engine import LocalEngine, Progress
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.steps import catalog
from dicom_assets_tests.conftest import SHARED_DICOM

DAY = date(2026, 3, 14)
PUBLISHED = SHARED_DICOM if SHARED_DICOM.is_dir() else Path(pydicom.__path__[0]) / "data/test_files"
_OF_THIS_RUN = re.compile(
    r"\d{13}_|\d{4}-\d\d-\d\dT[0-9:.]+(Z|\+00:00)?|_[0-9a-f]{8}_v[0-9-]+|datetime\.datetime\(.*?\)"
)


def state(root: Path) -> dict[str, Any]:
    """Every table: rows but for instants, columns, partitioning, properties and protocol."""
    engine, found = LocalEngine(Layout(root)), {}
    for table in catalog.tables():
        delta = engine.open(table)
        if delta is None:
            continue
        names = [name for name in table.schema.names if not name.endswith(("At", "Updated"))]
        rows = sorted(_OF_THIS_RUN.sub("", repr(r)) for r in engine.read(table, names).to_pylist())
        about = delta.metadata()
        protocol = delta.protocol()
        found[table.full_name] = (
            rows,
            delta.schema().to_json(),
            about.partition_columns,
            about.configuration,
            (protocol.min_reader_version, protocol.min_writer_version),
            (protocol.reader_features, protocol.writer_features),
        )
    return found


def drop(house: Any, files: Iterable[Path], root: Path) -> None:
    for path in files:
        target = house.drop / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def test_the_sample_half_by_half_by_one_engine_and_the_other_is_as_by_one(
    make_spark_house, house_class, sample, tmp_path
):
    root = sample / "Imaging/DICOM"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    halves = files[::2], files[1::2]
    here = house_class(tmp_path / "here")
    for half in halves:
        drop(here, half, root)
        here.chain()
    spark = make_spark_house("spark")
    local = house_class(tmp_path / "spark")
    drop(spark, halves[0], root)
    spark.chain(until="convert")
    local.chain()
    # late parts of the same studies: what Spark makes of them is merged with what is there
    drop(local, halves[1], root)
    local.chain(until="settle")
    spark.chain()
    found, expected = state(tmp_path / "spark"), state(tmp_path / "here")
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        assert found[name] == table, name
    counts = [
        len(found[table.full_name][0])
        for table in (catalog.metastore(), catalog.silver_imaging_study(), catalog.IMAGE_OCCURRENCE)
    ]
    assert counts == [96, 9, 24]
    assert len(spark.files("bronze/Files/Process/Imaging")) == 96
    assert not (tmp_path / "spark/.spark").exists()
    before = spark.everything()
    local.chain()
    assert spark.everything() == before, "for this machine there is nothing left to do"


def people(*ids: int, said: str) -> pa.Table:
    gold = catalog.PERSON
    empty = dict.fromkeys(gold.upserted.names)
    rows = [
        empty
        | {field.name: 0 for field in gold.upserted if pa.types.is_integer(field.type)}
        | {"person_id": each, "person_source_value": said, "sourceSystem": "default"}
        for each in ids
    ]
    schema = pa.schema([field.with_nullable(True) for field in gold.upserted])
    now = pa.scalar(datetime(2026, 3, 14, tzinfo=UTC), pa.timestamp("us", "UTC"))
    table = pa.Table.from_pylist(rows, schema=schema)
    for place, field in enumerate(schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(place, field, pa.array([now.as_py()] * len(ids), field.type))
    return table.cast(gold.upserted)


def test_upserts_insert_replace_and_delete_as_locally(make_spark_house, house_class, tmp_path):
    gold, found = catalog.PERSON, {}
    for name, house in (
        ("here", house_class(tmp_path / "here")),
        ("spark", make_spark_house("spark")),
    ):
        engine = house.run.engine
        later = DAY + timedelta(days=40)
        engine.upsert(gold, people(1, 2, 3, 4, said="a"), progress=None, ingest_date=DAY)
        done = Progress("test/1/2", 3)
        new = people(2, 5, said="b")
        engine.upsert(gold, new, progress=done, ingest_date=later, gone={3, 9})
        engine.upsert(gold, people(said="c"), progress=None, ingest_date=later, gone={1})
        rows = engine.read(gold, gold.schema.names).sort_by("person_id").to_pylist()
        found[name] = rows, engine.progress(gold, done.app_id)
    with pytest.raises(CommitFailedError):  # Spark itself would leave it out and say nothing
        engine.upsert(gold, new, progress=done, ingest_date=later)
    assert found["spark"] == found["here"]
    rows, version = found["spark"]
    assert [(row["person_id"], row["person_source_value"]) for row in rows] == [
        (2, "b"),
        (4, "a"),
        (5, "b"),
    ]
    assert version == 3


def test_published_files_come_out_the_same_though_a_worker_is_lost_in_the_middle(
    make_spark_house, house_class, cluster, tmp_path
):
    here, spark = house_class(tmp_path / "here"), make_spark_house("spark")
    for house in (here, spark):
        shutil.copytree(PUBLISHED, house.drop, dirs_exist_ok=True)
    here.chain()
    expected = len(here.files("bronze/Files/Process/Imaging"))
    folder = spark.run.engine.layout.process_folder("default", DAY)
    zips: list[int] = []

    def lose() -> None:
        while len(list(folder.glob("[0-9]*.zip"))) < 20:
            time.sleep(0.01)
        cluster.lose()
        zips.append(len(list(folder.glob("[0-9]*.zip"))))

    watching = threading.Thread(target=lose, daemon=True)
    watching.start()
    spark.chain()
    watching.join(60)
    assert zips, "no worker was lost"
    assert 20 <= zips[0] < expected, "it was lost in the middle"
    assert len(here.failures()) > 10
    assert spark.failures() == here.failures()
    found, wanted = state(tmp_path / "spark"), state(tmp_path / "here")
    assert found.keys() == wanted.keys()
    for name, table in wanted.items():
        assert found[name] == table, name
    assert len(spark.files("bronze/Files/Process/Imaging")) == expected
