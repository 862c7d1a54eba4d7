"""A cluster of a master and two workers runs the chain that is submitted to it, and loses a worker.

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

from benchmarks.spark_cluster import CONF, JARS
from dicom_assets_tests.conftest import DAY, NAME, drop_published
from dicom_assets_tests.spark.conftest import QUICK
from dicom_assets_tests.spark.states import state

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json
import sys
from collections.abc import Iterator

import pyarrow as pa

from dicom_assets.settings import load_settings
from dicom_assets.steps.chain import STEPS
from dicom_assets.steps.run import Run


def where(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    import dicom_assets

    list(batches)
    yield pa.RecordBatch.from_pydict({"file": [dicom_assets.__file__], "python": [sys.executable]})


run = Run.of(load_settings(), "2026-03-14", "test-run")
for step in STEPS.values():
    step(run)
spark = run.engine.spark
found = spark.range(1).mapInArrow(where, "file string, python string").first()
delta = spark.conf.get("spark.sql.extensions")

print(json.dumps(found.asDict() | {"master": spark.sparkContext.master, "delta": delta}))
"""


def test_published_files_come_out_the_same_though_a_worker_is_lost_in_the_middle(
    cluster, with_published, house_class, tmp_path
):
    here, there = with_published, house_class(tmp_path / "spark")
    drop_published(there.drop)
    expected = len(here.files("bronze/Files/Process/Imaging"))
    folder = there.run.engine.layout.process_folder("default", DAY)
    zips: list[int] = []

    def count() -> int:
        return len(list(folder.glob("[0-9]*.zip")))

    def lose() -> None:
        while len(list(cluster.folder.glob("worker-*/app-*"))) < 2:
            time.sleep(0.01)
        zips.append(count())
        while count() < zips[0] + 20:  # which executors have made
            time.sleep(0.01)
        cluster.lose()
        zips.append(count())

    watching = threading.Thread(target=lose, daemon=True)
    watching.start()
    found = submitted(tmp_path, cluster.address, tmp_path / "spark")
    watching.join(60)
    assert len(zips) == 2, "no worker was lost"
    assert zips[0] + 20 <= zips[1] < expected, "it was lost in the middle"
    assert len(here.failures()) > 10
    assert there.failures() == here.failures()
    tables, wanted = state(tmp_path / "spark"), state(here.settings.lakehouse)
    assert {name for name in tables if tables[name][0]} == {n for n in wanted if wanted[n][0]}
    for name, table in wanted.items():
        assert tables[name] == table, name
    assert len(there.files("bronze/Files/Process/Imaging")) == expected
    assert found["master"] == cluster.address
    assert found["python"] == sys.executable
    assert Path(found["file"]).is_relative_to(cluster.folder), "the archive's, where it is unpacked"
    assert found["delta"] == "io.delta.sql.DeltaSparkSessionExtension"
    logs = [path.read_text() for path in cluster.folder.rglob("std*") if path.is_file()]
    assert len(logs) >= 4, "of two executors, at least"
    assert [log for log in logs if NAME in log] == []


def installed(folder: Path) -> Path:
    """Makes an environment with the package installed, and all else as in this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = folder / f"lib/python3.{sys.version_info.minor}/site-packages"
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "ours.pth").write_text(ours)
    with tarfile.open(folder / "packages.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(ROOT / "dicom_assets", "dicom_assets")
    shutil.copytree(ROOT / "dicom_assets", packages / "dicom_assets")
    return folder


def submitted(folder: Path, master: str, lakehouse: Path) -> dict[str, str]:
    """Lets spark-submit run the script, with what executors import as an archive."""
    environment = installed(folder / "venv")
    (folder / "script.py").write_text(SCRIPT)
    python, programs = environment / "bin/python", Path(sys.executable).parent
    conf = (
        CONF
        | QUICK
        | {
            "spark.pyspark.driver.python": python,
            "spark.pyspark.python": sys.executable,
        }
    )
    done = subprocess.run(
        [
            programs / "spark-submit",
            *("--properties-file", ROOT / "deploy/spark-defaults.conf"),
            *("--master", master),
            *("--jars", ",".join(map(str, JARS.glob("*.jar")))),
            *("--archives", f"{environment}/packages.tar.gz#packages"),
            *(part for name, value in conf.items() for part in ("--conf", f"{name}={value}")),
            folder / "script.py",
        ],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | {
            "DICOM_ASSETS_ENGINE": "spark",
            "DICOM_ASSETS_LAKEHOUSE": str(lakehouse),
            "DICOM_ASSETS_SETTLE_SECONDS": "0",
            "PATH": f"{programs}:{os.environ['PATH']}",  # it looks for PySpark with `python3`
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert NAME not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
