"""Spark and this machine do the same, and each goes on where the other stopped.

So does Spark over Spark Connect, and as a stream. All on one JVM, which takes long to warm up.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake.exceptions import CommitFailedError

from dicom_assets.cli import main
from dicom_assets.defs.checks import RULES
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.lakehouse.engine import Progress
from dicom_assets.lakehouse.spark_engine import SparkEngine
from dicom_assets.lakehouse.told import StepError
from dicom_assets.runner import job
from dicom_assets.steps import catalog, to_omop
from dicom_assets.steps.stream import streaming, today
from dicom_assets_tests.conftest import DAY, NAME
from dicom_assets_tests.spark.conftest import surroundings
from dicom_assets_tests.spark.states import drop, state


def test_the_sample_half_begun_over_connect_and_half_here_and_finished_by_the_other_is_as_by_one(
    make_spark_house, connect_server, house_class, sample, tmp_path, monkeypatch
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
    begun_over_connect(connect_server, spark.settings.lakehouse)
    local.chain()
    # late parts of the same studies: what Spark makes of them is merged with what is there
    drop(local, halves[1], root)
    local.chain(until="organise")
    result = materialized(spark, monkeypatch)
    assert result.success
    assert len(result.get_asset_materialization_events()) == len(result.get_step_success_events())
    checks = result.get_asset_check_evaluations()
    assert len(checks) == len(RULES)
    assert [check.check_name for check in checks if not check.passed] == []
    assert "Spark" in written_by(spark, catalog.silver_imaging_study())
    assert "delta-rs" in written_by(spark, catalog.IMAGE_OCCURRENCE)
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


_OVER_CONNECT = textwrap.dedent(
    """
    import sys
    from pathlib import Path

    import dicom_assets
    import pyarrow as pa
    from dicom_assets.settings import load_settings
    from dicom_assets.steps import catalog
    from dicom_assets.steps.chain import STEPS
    from dicom_assets.steps.run import Run

    def where(batches):
        import dicom_assets

        for batch in batches:
            yield pa.RecordBatch.from_pydict({"path": [dicom_assets.__path__[0]] * len(batch)})

    root, address = sys.argv[1:]
    settings = load_settings(
        lakehouse=Path(root), engine="spark", spark_master=address, settle_seconds=0
    )
    run = Run.of(settings, "2026-03-14")
    for name, step in STEPS.items():
        step(run)
        if name == "flatten":
            break
    for table in (run.metastore, catalog.silver_imaging_study()):
        print(run.engine.row_count(table))
    print(run.engine.spark.range(1).mapInArrow(where, "path string").first()["path"])
    """
)


def begun_over_connect(address: str, lakehouse: Path) -> None:
    """Lets another process run the chain as far as silver; workers are sent the package."""
    done = subprocess.run(
        [sys.executable, "-c", _OVER_CONNECT, str(lakehouse), address],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    *counts, package = done.stdout.split()
    assert counts == ["48", "7"]
    assert "dicom_assets.zip" in package


def materialized(house: Any, monkeypatch: pytest.MonkeyPatch) -> dg.ExecuteInProcessResult:
    """Lets Dagster run the whole chain for the date, as a sensor would."""
    master = house.settings.spark.master
    with monkeypatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setattr(SparkEngine, "merged_here", 24 << 10)  # silver's rows are more than that
        for name, value in surroundings(master).items():
            patch.setenv(name, value)
        return job().execute_in_process(
            instance=instance,
            partition_key=f"{DAY}",
            resources={"lakehouse": Lakehouse(root=str(house.settings.lakehouse))},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )


def written_by(house: Any, table: Any) -> str:
    """Returns who has done a table's last commit."""
    return house.run.engine.open(table).history(1)[0]["engineInfo"]


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


def test_upserts_insert_replace_and_delete_as_locally(
    make_spark_house, house_class, tmp_path, monkeypatch
):
    gold, found = catalog.PERSON, {}
    for name, house, merged_here in (
        ("here", house_class(tmp_path / "here"), 0),
        ("driver", make_spark_house("driver"), 1 << 20),
        ("spark", make_spark_house("spark"), 0),
    ):
        monkeypatch.setattr(SparkEngine, "merged_here", merged_here)
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
        assert not (house.settings.lakehouse / ".spark").exists()
    assert found["spark"] == found["here"] == found["driver"]
    rows, version = found["spark"]
    assert [(row["person_id"], row["person_source_value"]) for row in rows] == [
        (2, "b"),
        (4, "a"),
        (5, "b"),
    ]
    assert version == 3


def once(house: Any) -> None:
    with streaming(house.settings) as stream:
        stream.run(every=None, stop=threading.Event())


def tables_of(house: Any) -> dict[str, Any]:
    """Every table that holds rows."""
    return {name: it for name, it in state(house.settings.lakehouse).items() if it[0]}


def all_but_checkpoints(house: Any) -> dict[str, Any]:
    return {n: it for n, it in house.everything().items() if not n.startswith(".stream")}


def test_each_date_is_worked_on_once_also_when_a_step_broke(
    make_spark_house, house_class, sample, tmp_path, monkeypatch
):
    root, reports = sample / "Imaging/DICOM", sample / "Clinical/FHIR NDJSON"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    spark, local = make_spark_house("spark"), house_class(tmp_path / "spark")
    here = house_class(tmp_path / "here")
    # one date this machine has begun, and was killed; the rest arrives
    drop(local, files[::2], root)
    local.chain(until="flatten")
    drop(spark, files[1::2], root)
    shutil.copytree(reports, spark.run.engine.layout.fhir_drop_folder, dirs_exist_ok=True)

    def broken(_run: Any) -> None:
        raise KeyError(NAME)

    monkeypatch.setattr(to_omop, "image_occurrence", broken)
    with pytest.raises(StepError, match="KeyError") as told:
        once(spark)
    assert NAME not in str(told.value)
    monkeypatch.undo()
    assert spark.rows(catalog.PERSON), "it broke in the middle"
    once(spark)

    arrived = today(spark.settings)
    drop(here, files[::2], root)
    here.chain()
    drop(here, files[1::2], root)
    shutil.copytree(reports, here.run.engine.layout.fhir_drop_folder, dirs_exist_ok=True)
    here.chain(arrived)
    found, expected = tables_of(spark), tables_of(here)
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        assert found[name] == table, name
    counted = (catalog.metastore(), catalog.silver_imaging_study(), catalog.IMAGE_OCCURRENCE)
    assert [len(found[table.full_name][0]) for table in counted] == [96, 9, 24]
    assert spark.run.engine.rows_by_date(catalog.metastore()).keys() == {f"{DAY}", f"{arrived}"}

    before = all_but_checkpoints(spark)
    once(spark)
    assert all_but_checkpoints(spark) == before, "there is nothing left to do"
    shutil.rmtree(spark.run.engine.layout.checkpoint_root)
    once(spark)
    assert tables_of(spark) == found, "a lost checkpoint costs a look"


@contextmanager
def left_as_it_was() -> Iterator[None]:
    """What a command changes of its process, which is ours."""
    ours = logging.getLogger("dicom_assets")
    handlers, level = [*ours.handlers], ours.level
    signals = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        ours.handlers[:] = handlers
        ours.setLevel(level)
        for each, handler in signals.items():
            signal.signal(each, handler)


def test_what_is_dropped_while_it_runs_comes_out_in_gold_until_it_is_stopped(
    make_spark_house, house_class, write_dicom, tmp_path, monkeypatch
):
    house, local = make_spark_house("lakehouse"), house_class(tmp_path / "lakehouse")
    for name, value in surroundings(house.settings.spark.master).items():
        monkeypatch.setenv(name, value)
    reached, over = [], threading.Event()

    def gold_has(rows: int) -> bool:
        until = time.monotonic() + 240
        while local.run.engine.row_count(catalog.IMAGE_OCCURRENCE) != rows:
            if over.wait(0.2) or time.monotonic() > until:
                return False
        reached.append(rows)
        return True

    write_dicom(tmp_path / "one.dcm", PatientName=NAME)
    # what brings no metastore row is news, too
    asked = {"operation": "delete", "requestedBy": "a", "reason": "b"}
    folder = tmp_path / "operations"
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps(asked | {"studyInstanceUid": "1.2.3.4"}))

    def send() -> None:
        try:
            (tmp_path / "one.dcm").rename(local.drop / NAME)
            if gold_has(1):
                folder.rename(local.run.engine.layout.operations_drop("default"))
                gold_has(0)
        finally:
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    sending = threading.Thread(target=send)
    with left_as_it_was():
        sending.start()
        try:
            root = str(house.settings.lakehouse)
            said = CliRunner().invoke(main, ["stream", "--every", "1", "--lakehouse", root])
        finally:
            over.set()
            sending.join()
    assert (said.exit_code, reached) == (0, [1, 0]), said.output
    assert "\nstopped\n" in said.output
    assert "worked on" in said.output
    assert NAME not in said.output
    assert "1.2.3.4" not in said.output
