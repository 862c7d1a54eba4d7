"""The continuous mode: dates that have news are found, worked on, and come again after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dicom_assets.cli import main
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.told import StepError
from dicom_assets.steps import catalog, to_omop
from dicom_assets.steps.stream import streaming, today
from dicom_assets_tests.conftest import DAY
from dicom_assets_tests.spark.conftest import JARS, missing, surroundings
from dicom_assets_tests.spark.states import drop, state

COMMAND = str(Path(sys.executable).with_name("dicom-assets"))
NAME = "Zqxname"


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


def test_what_is_dropped_while_it_runs_comes_out_in_gold_until_it_is_stopped(tmp_path, write_dicom):
    if reason := missing():
        pytest.skip(reason)
    root = tmp_path / "lakehouse"
    engine = LocalEngine(Layout(root))
    engine.layout.drop_folder.mkdir(parents=True)
    environment = os.environ | surroundings("local[1]") | {"DICOM_ASSETS_LAKEHOUSE": f"{root}"}
    log = tmp_path / "log"

    def until_gold_has(rows: int) -> None:
        until = time.monotonic() + 240
        while engine.row_count(catalog.IMAGE_OCCURRENCE) != rows:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)

    with log.open("wb") as said:
        process = subprocess.Popen(
            [COMMAND, "stream", "--every", "1"], env=environment, stdout=said, stderr=said
        )
    try:
        write_dicom(tmp_path / "one.dcm", PatientName=NAME)
        (tmp_path / "one.dcm").rename(engine.layout.drop_folder / NAME)
        until_gold_has(1)
        # what brings no metastore row is news, too
        asked = {"operation": "delete", "requestedBy": "a", "reason": "b"}
        folder = tmp_path / "operations"
        folder.mkdir()
        (folder / "one.json").write_text(json.dumps(asked | {"studyInstanceUid": "1.2.3.4"}))
        folder.rename(engine.layout.operations_drop("default"))
        until_gold_has(0)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    assert code == 0, log.read_text()
    text = log.read_text()
    assert "\nstopped\n" in text
    assert "worked on" in text
    assert NAME not in text
    assert "1.2.3.4" not in text


def test_without_spark_it_says_what_to_set(tmp_path):
    said = CliRunner().invoke(main, ["stream", "--lakehouse", f"{tmp_path}"])
    assert said.exit_code == 2
    assert "DICOM_ASSETS_ENGINE=spark" in said.output


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "needs spark_master (local[8], spark://…, sc://…)"),
        ({"DICOM_ASSETS_SPARK_MASTER": "local[1]"}, "it needs Java 17 (JAVA_HOME)"),
    ],
)
def test_where_spark_does_not_start_it_says_what_it_needs(tmp_path, settings, expected):
    if reason := missing():
        pytest.skip(reason)
    spark = {"DICOM_ASSETS_ENGINE": "spark", "DICOM_ASSETS_SPARK_JARS": f"{JARS}"}
    unset = {n: v for n, v in os.environ.items() if not n.startswith(("DICOM_ASSETS", "SPARK"))}
    said = subprocess.run(
        [COMMAND, "stream", "--once", "--lakehouse", tmp_path],
        env=unset | spark | settings | {"JAVA_HOME": f"{tmp_path}/none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert expected in said.stderr
    assert "Traceback" not in said.stderr
