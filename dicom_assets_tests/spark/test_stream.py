"""The continuous mode says what it lacks; what it does is in `test_spark_engine`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dicom_assets.cli import main
from dicom_assets_tests.spark.conftest import JARS, missing

COMMAND = str(Path(sys.executable).with_name("dicom-assets"))


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
