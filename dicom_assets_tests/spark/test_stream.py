"""The continuous mode as a process: it takes in what is dropped, and says what it lacks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from dicom_assets.cli import main
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.steps import catalog
from dicom_assets_tests.spark.conftest import JARS, missing, surroundings

COMMAND = str(Path(sys.executable).with_name("dicom-assets"))
NAME = "Zqxname"


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
