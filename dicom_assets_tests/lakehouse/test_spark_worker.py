"""What Spark's workers do, without Spark."""

import gc
import pickle
import shutil
import traceback
from dataclasses import replace
from datetime import date

import pyarrow as pa
import pytest
from deltalake.exceptions import CommitFailedError

from dicom_assets.lakehouse import spark_session, spark_worker
from dicom_assets.lakehouse.engine import LocalEngine, Progress
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.reader import New
from dicom_assets.lakehouse.spark_engine import SparkEngine
from dicom_assets.lakehouse.spark_session import Spark, SparkError, configuration, jars_of
from dicom_assets.lakehouse.spark_worker import Target, over_rows, over_tasks, results_of
from dicom_assets.lakehouse.storage_error import StorageError
from dicom_assets.lakehouse.written import NOTHING
from dicom_assets.steps import catalog
from dicom_assets.steps.organise import organise
from dicom_assets.steps.to_omop import Mapped

DAY = date(2026, 3, 14)
PATIENT = "DOE^JANE"
TABLE = catalog.bronze_fhir("ImagingStudy")


def lines(*ids: str) -> pa.Table:
    rows = [
        dict.fromkeys(TABLE.schema.names)
        | {"ingestDate": DAY, "sourceSystem": "default", "id": each, "resource": "{}"}
        | {"filePath": "a.ndjson", "lineNumber": number, "ingestedAt": 0}
        for number, each in enumerate(ids, start=1)
    ]
    return pa.Table.from_pylist(rows, schema=TABLE.schema)


def made(ids: list[str]) -> Mapped:
    return Mapped(lines(*ids).to_batches()[0], set())  # pyright: ignore[reportArgumentType]


def _see(rows: pa.Table):
    yield rows["id"].to_pylist()


@pytest.fixture
def target(tmp_path) -> Target:
    return Target(tmp_path, TABLE, DAY, tmp_path / ".spark/one")


def handed_over(names, target):
    return [
        each
        for batch in names
        for name in batch["name"].to_pylist()
        for each in results_of(target.staging / name)
    ]


def test_rows_of_many_tasks_become_one_file_that_is_committed_as_it_stands(target, tmp_path):
    engine = SparkEngine(Layout(tmp_path))
    engine.prepare(TABLE)
    tasks = pa.RecordBatch.from_pydict({"tasks": [pickle.dumps([["a", "b"], ["c"]])]})
    results = handed_over(over_tasks([tasks], made, target), target)
    assert [each.rows.num_rows for each in results] == [0, 3]
    progress = Progress("step/1/2", 7)
    rows = [each.rows for each in results]
    engine.append(TABLE, rows, progress=progress, ingest_date=DAY)
    local = LocalEngine(Layout(tmp_path))
    assert local.read(TABLE, ["id"])["id"].to_pylist() == ["a", "b", "c"]
    assert local.row_count(TABLE) == 3, "by the file's statistics"
    assert local.progress(TABLE, "step/1/2") == 7
    new = local.table_of_new(TABLE, TABLE.schema.names, since=None, until=9, ingest_date=DAY)
    assert new.num_rows == 3
    with pytest.raises(CommitFailedError):
        engine.append(TABLE, rows, progress=progress, ingest_date=DAY)


def stumbles(_: list[str]) -> Mapped:
    raise PermissionError(13, "Permission denied", f"/drop/1700_{PATIENT}.dcm")


def test_what_a_worker_stumbles_over_is_told_without_its_name(target):
    tasks = pa.RecordBatch.from_pydict({"tasks": [pickle.dumps([["a"]])]})
    with pytest.raises(StorageError) as told:
        list(over_tasks([tasks], stumbles, target))
    assert PATIENT not in "".join(traceback.format_exception(told.value))


def test_a_commit_of_no_rows_says_how_far_was_read(tmp_path):
    engine = SparkEngine(Layout(tmp_path))
    engine.append(TABLE, [NOTHING], progress=Progress("step/1/2", 7), ingest_date=DAY)
    assert LocalEngine(Layout(tmp_path)).progress(TABLE, "step/1/2") == 7
    assert engine.row_count(TABLE) == 0


def test_rows_of_one_key_are_worked_on_together_however_few_at_a_time(target):
    new = New(TABLE, TABLE.schema.names, None, 9, DAY, by=("id",), schema=TABLE.schema)
    rows = lines("b", "a", "b", "c", "a", "b").to_batches()
    nothing = Target(target.root, None, DAY, target.staging)
    results = handed_over(over_rows(rows, _see, nothing, new, 2), nothing)
    assert results == [["a", "a"], ["b", "b", "b"], ["c"]]


def test_a_worker_waits_until_it_sees_what_the_driver_sees(target, tmp_path, monkeypatch):
    engine = SparkEngine(Layout(tmp_path))
    engine.append(TABLE, lines("a"), progress=None, ingest_date=DAY)
    seen = replace(target, table=None, seen=engine._tables.seen())
    newest = engine.layout.table(TABLE.layer, TABLE.name) / f"_delta_log/{1:020}.json"
    hidden = newest.rename(tmp_path / "hidden")
    new = New(TABLE, TABLE.schema.names, None, 9, DAY, by=("id",), schema=TABLE.schema)

    def results() -> list[list[str]]:
        return handed_over(over_rows(lines("b").to_batches(), _see, seen, new, None), seen)

    monkeypatch.setattr(spark_worker, "_SEEN_WITHIN_SECONDS", 0.0)
    with pytest.raises(PlainError, match="does not see version 1 of"):
        results()
    monkeypatch.setattr(spark_worker, "_SEEN_WITHIN_SECONDS", 60.0)
    monkeypatch.setattr(spark_worker.time, "sleep", lambda _: hidden.rename(newest))
    assert results() == [["b"]]
    shutil.rmtree(newest.parents[1])
    assert engine._tables.seen() == {}, "a table that was removed is not waited for"


def test_what_a_worker_has_loaded_is_not_looked_through_after_each_task(target):
    assert list(over_tasks([], str, target)) == []
    assert gc.get_freeze_count() > 10_000


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, False),
        ({"SPARK_HOME": "home"}, False),
        ({"SPARK_HOME": "set up"}, True),
        ({"SPARK_CONF_DIR": "set up/conf"}, True),
        ({"PYSPARK_GATEWAY_PORT": "1"}, True),
    ],
)
def test_spark_is_where_its_settings_or_spark_submit_say(tmp_path, monkeypatch, variables, told):
    (tmp_path / "set up/conf").mkdir(parents=True)
    (tmp_path / "set up/conf/spark-defaults.conf").touch()
    for name in ("SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, f"{tmp_path}/{value}")
    assert spark_session.is_told_by_surroundings() == told


def test_a_connect_server_may_be_told_by_the_surroundings(monkeypatch):
    assert not Spark().is_remote
    monkeypatch.setenv("SPARK_REMOTE", "sc://there:15002")
    assert Spark().is_remote
    assert not Spark("local[1]").is_remote
    assert configuration(Spark()) == {"spark.remote": "sc://there:15002"}


def test_whatever_a_site_sets_wins():
    factor, partitions = "spark.executor.memoryOverheadFactor", "spark.sql.shuffle.partitions"
    site = (("spark.jars", "delta.jar"), (factor, "0.2"), (partitions, "3"))
    found = configuration(Spark("yarn", conf=site))
    assert (found[factor], found[partitions]) == ("0.2", "3")
    at_first = "spark.sql.adaptive.coalescePartitions.initialPartitionNum"
    assert at_first not in found, "Spark heeds it before what the site has set"
    ours = configuration(Spark("yarn", conf=site[:1]))
    assert (ours[factor], ours[at_first]) == ("0.4", "64")


def test_a_mirror_of_maven_leaves_delta_in():
    mirror = (("spark.jars.ivySettings", "/etc/ivy.xml"),)
    assert "delta-spark" in jars_of(Spark("yarn", conf=mirror))["spark.jars.packages"]
    assert jars_of(Spark("yarn", conf=(("spark.jars.packages", "x"),))) == {}


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({}, "needs spark_master"),
        ({"spark_master": "local[1]", "spark_jars": "."}, "holds no delta-spark jar"),
        ({"spark_master": "x", "spark_conf": {"spark.speculation": "true"}}, "must be false"),
        # nobody listens on port 1
        ({"spark_master": "sc://127.0.0.1:1/;token=SECRET"}, "no Spark Connect server answ"),
        ({"spark_master": "sc://127.0.0.1;token=SECRET"}, "spark_master is no address"),
        ({"spark_master": "sc://[::1]:15002"}, "spark_master is no address"),
    ],
)
def test_what_spark_lacks_is_told_before_anything_is_moved(
    make_house, write_dicom, monkeypatch, choices, told
):
    sql = pytest.importorskip("pyspark.sql")
    # what other tests have started would do as it is
    monkeypatch.setattr(sql.SparkSession, "getActiveSession", lambda: None)
    ours = ("SPARK_HOME", "SPARK_CONF_DIR", "SPARK_REMOTE", "PYSPARK_GATEWAY_PORT")
    for name in (*ours, "grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    house = make_house(engine="spark", **choices)
    write_dicom(house.drop / "x.dcm")
    before = house.everything()
    with pytest.raises(SparkError, match=told) as error:
        organise(house.run)
    assert "SECRET" not in str(error.value)
    assert house.everything() == before


def test_a_folder_without_delta_is_refused_before_spark_is_started(tmp_path):
    with pytest.raises(SparkError, match="holds no delta-spark jar"):
        jars_of(Spark("local[1]", tmp_path))
