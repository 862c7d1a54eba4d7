"""A standalone Spark cluster of one master and two workers, from PySpark's own classes."""

# pyright: reportMissingImports=false
# PySpark is an extra: `pip install 'dicom-assets[spark]'`

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

JARS = Path(__file__).parents[2] / "spark_jars"
_SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "2",
    "spark.executor.memory": "1g",
    "spark.databricks.delta.snapshotPartitions": "1",
}


def missing() -> str | None:
    """Says why Spark cannot be tried here."""
    if not shutil.which("java"):
        return "Java is not installed"
    if importlib.util.find_spec("pyspark") is None:
        return "PySpark is not installed: pip install '.[spark]'"
    return None if list(JARS.glob("delta-spark*.jar")) else "`make test-spark` fetches Delta's jars"


@dataclass
class Cluster:
    """One master and two workers, each a process.

    Attributes:
        folder: Where they work and log.
        address: The master's URL.
        workers: The workers.
    """

    folder: Path
    address: str = ""
    workers: list[subprocess.Popen] = field(default_factory=list)

    def lose(self) -> None:
        """Kills a worker with all that runs on it, as when a machine goes down."""
        worker = self.workers.pop()
        for pid in [*descendants(worker.pid), worker.pid]:
            with suppress(ProcessLookupError):  # it ended by itself, with its parent
                os.kill(pid, signal.SIGKILL)
        worker.wait()


def descendants(pid: int) -> list[int]:
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    return [each for child in map(int, children) for each in (*descendants(child), child)]


def free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start(cluster: Cluster, name: str, *arguments: str) -> subprocess.Popen:
    import pyspark

    home = Path(str(pyspark.__file__)).parent
    log = (cluster.folder / f"{name}-{len(cluster.workers)}.log").open("wb")
    return subprocess.Popen(
        [
            str(home / "bin/spark-class"),
            f"org.apache.spark.deploy.{name.lower()}.{name}",
            *("--host", "127.0.0.1", "--webui-port", str(free_port())),
            *arguments,
        ],
        env=os.environ | {"SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable},
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=cluster.folder,
    )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    started = Cluster(tmp_path_factory.mktemp("spark"))
    port = free_port()
    started.address = f"spark://127.0.0.1:{port}"
    master = start(started, "Master", "--port", str(port))
    for number in range(2):
        folder = started.folder / f"worker-{number}"
        folder.mkdir()
        options = ("--cores", "1", "--memory", "1g", "--work-dir", str(folder))
        started.workers.append(start(started, "Worker", *options, started.address))
    log = started.folder / "Master-0.log"
    until = time.monotonic() + 180
    while log.read_text().count("Registering worker") < 2:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)
    yield started
    from pyspark.sql import SparkSession

    if session := SparkSession.getActiveSession():
        session.stop()
    for process in (*started.workers, master):
        process.terminate()
        process.wait(30)


@pytest.fixture
def make_spark_house(cluster: Cluster, tmp_path: Path, house_class: Any) -> Callable[..., Any]:
    """Makes lakehouses on which Spark works."""

    def make(name: str) -> Any:
        return house_class(
            tmp_path / name,
            engine="spark",
            spark_master=cluster.address,
            spark_jars=JARS,
            spark_conf=_SETTINGS,
        )

    return make
