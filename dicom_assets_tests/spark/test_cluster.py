"""A cluster of one master and two workers runs the chain, loses a worker, and is submitted to.

spark-submit says where Spark is, and ships the package to executors that have none.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pydicom

from dicom_assets_tests.conftest import DAY, SHARED_DICOM
from dicom_assets_tests.spark.states import state

PUBLISHED = SHARED_DICOM if SHARED_DICOM.is_dir() else Path(pydicom.__path__[0]) / "data/test_files"
ROOT = Path(__file__).parents[2]
SCRIPT = """
import json
import sys
from collections.abc import Iterator

import pyarrow as pa

from dicom_assets.settings import load_settings
from dicom_assets.steps.run import Run


def where(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    import dicom_assets

    list(batches)
    yield pa.RecordBatch.from_pydict({"file": [dicom_assets.__file__], "python": [sys.executable]})


spark = Run.of(load_settings(), "2026-03-14", "submitted").engine.spark
found = spark.range(1).mapInArrow(where, "file string, python string").first()
delta = spark.conf.get("spark.sql.extensions")
print(json.dumps(found.asDict() | {"master": spark.sparkContext.master, "delta": delta}))
"""


def test_published_files_come_out_the_same_though_a_worker_is_lost_in_the_middle(
    make_cluster_house, house_class, cluster, tmp_path
):
    here, spark = house_class(tmp_path / "here"), make_cluster_house("spark")
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


def installed(folder: Path) -> Path:
    """Makes an environment with the package installed, and all else as in this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = folder / f"lib/python3.{sys.version_info.minor}/site-packages"
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "ours.pth").write_text(ours)
    with tarfile.open(folder / "packages.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(ROOT / "dicom_assets", "dicom_assets")
    with tarfile.open(folder / "packages.tar.gz") as tar:
        tar.extractall(packages, filter="data")
    return folder


def test_what_is_submitted_runs_where_it_says_with_what_it_ships(idle_cluster, tmp_path):
    environment = installed(tmp_path / "venv")
    (tmp_path / "script.py").write_text(SCRIPT)
    python, programs = environment / "bin/python", Path(sys.executable).parent
    done = subprocess.run(
        [
            programs / "spark-submit",
            *("--properties-file", ROOT / "deploy/spark-defaults.conf"),
            *("--master", idle_cluster.address),
            *("--jars", ",".join(map(str, (ROOT / "spark_jars").glob("*.jar")))),
            *("--archives", f"{environment}/packages.tar.gz#packages"),
            *("--conf", f"spark.pyspark.driver.python={python}"),
            *("--conf", f"spark.pyspark.python={sys.executable}"),
            *("--conf", "spark.executor.memory=1g"),
            *("--conf", "spark.driver.host=127.0.0.1"),
            *("--conf", "spark.ui.enabled=false"),
            tmp_path / "script.py",
        ],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | {
            "DICOM_ASSETS_ENGINE": "spark",
            "DICOM_ASSETS_LAKEHOUSE": str(tmp_path / "lakehouse"),
            "PATH": f"{programs}:{os.environ['PATH']}",  # it looks for PySpark with `python3`
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["master"] == idle_cluster.address
    assert found["python"] == sys.executable
    assert Path(found["file"]).is_relative_to(idle_cluster.folder), (
        "the archive's, where it is unpacked"
    )
    assert found["delta"] == "io.delta.sql.DeltaSparkSessionExtension"
