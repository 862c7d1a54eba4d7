"""The same over Spark Connect: Spark is a server, this process has neither Java nor a context."""

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.spark_cluster import JARS, missing, spark_class
from dicom_assets.lakehouse.spark_session import Spark, configuration
from dicom_assets_tests.serving import free_port
from dicom_assets_tests.spark.conftest import QUICK

_CHAIN = textwrap.dedent(
    """
    import sys
    from pathlib import Path

    import dicom_assets
    import pyarrow as pa
    from dicom_assets.sample import write_sample
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
    write_sample(run.engine.layout.drop_folder.parents[1])
    for step in STEPS.values():
        step(run)
    for table in (run.metastore, catalog.silver_imaging_study(), catalog.IMAGE_OCCURRENCE):
        print(run.engine.row_count(table))
    print(run.engine.spark.range(1).mapInArrow(where, "path string").first()["path"])
    """
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a Spark Connect server of two cores."""
    if reason := missing():
        pytest.skip(reason)
    port = free_port()
    conf = (
        configuration(Spark("local[2]", JARS))
        | QUICK
        | {
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": f"{port}",
        }
    )
    conf.pop("spark.executorEnv.PYTHONPATH", None)  # what workers have of us was sent to them
    settings = [part for name, value in conf.items() for part in ("--conf", f"{name}={value}")]
    log = tmp_path / "server.log"
    process = spark_class(
        log,
        "org.apache.spark.deploy.SparkSubmit",
        *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
        *settings,
        "spark-internal",
    )
    until = time.monotonic() + 120
    while "Spark Connect server started" not in log.read_text():
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.2)
    yield f"sc://127.0.0.1:{port}"
    process.terminate()
    process.wait(30)


def test_the_sample_goes_through_and_the_package_is_sent_to_workers(server, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _CHAIN, str(tmp_path / "lakehouse"), server],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    *counts, package = done.stdout.split()
    assert counts == ["96", "9", "24"]
    assert "dicom_assets.zip" in package
