"""A standalone Spark cluster of one master and two workers on this machine, and what it needs.

Decided here: how PySpark's own classes are started, each in a process, on 127.0.0.1 and free ports,
and that all of them end with the cluster. Tests of the Spark engine and `benchmarks.engines` run on
it. Not decided here: what is asked of it.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dicom_assets_tests.serving import free_port

JARS = Path(__file__).parents[1] / "spark_jars"
WORKERS = 2
CONF = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.executor.memory": "1g",
}
"""What a driver must be told: to stay on this machine, and how much a worker has."""
LITTLE = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=240m -XX:MetaspaceSize=256m"
)
"""What Java is told where it has little to do: it does not compile for long what soon ends, and has
room for all of it: Spark's code fills the 48 MB that this compiler is given else, and is compiled
again and again."""
_START_SECONDS = 180


@dataclass
class Cluster:
    """One master and its workers, each a process.

    Attributes:
        folder: Where they work and log.
        address: The master's URL.
        workers: The workers.
    """

    folder: Path
    address: str
    workers: list[subprocess.Popen] = field(default_factory=list)

    def lose(self) -> None:
        """Kills a worker with all that runs on it, as when a machine goes down."""
        worker = self.workers.pop()
        for pid in [*_descendants(worker.pid), worker.pid]:
            with suppress(ProcessLookupError):  # it ended by itself, with its parent
                os.kill(pid, signal.SIGKILL)
        worker.wait()


def missing() -> str | None:
    """Says why Spark cannot run here; None when it can."""
    if not shutil.which("java"):
        return "Java is not installed"
    if importlib.util.find_spec("pyspark") is None:
        return "PySpark is not installed: pip install '.[spark]'"
    return None if list(JARS.glob("delta-spark*.jar")) else "`make test-spark` fetches Delta's jars"


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Starts a cluster, waits until its workers are there, and ends it.

    Args:
        folder: An empty one, for its logs and what its executors write.
    """
    port = free_port()
    cluster = Cluster(folder, f"spark://127.0.0.1:{port}")
    master = _start(folder, "Master", 0, "--port", str(port))
    try:
        for number in range(WORKERS):
            place = folder / f"worker-{number}"
            place.mkdir()
            options = ("--cores", "1", "--memory", "1g", "--work-dir", str(place))
            cluster.workers.append(_start(folder, "Worker", number, *options, cluster.address))
        _wait(folder / "Master-0.log", master)
        yield cluster
    finally:
        processes = (*cluster.workers, master)
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def _start(folder: Path, name: str, number: int, *arguments: str) -> subprocess.Popen:
    import pyspark  # pyright: ignore[reportMissingImports]

    home = Path(str(pyspark.__file__)).parent
    with (folder / f"{name}-{number}.log").open("wb") as sink:
        return subprocess.Popen(  # noqa: S603
            [
                str(home / "bin/spark-class"),
                f"org.apache.spark.deploy.{name.lower()}.{name}",
                *("--host", "127.0.0.1", "--webui-port", str(free_port())),
                *arguments,
            ],
            env=os.environ
            | {
                "SPARK_HOME": str(home),
                "PYSPARK_PYTHON": sys.executable,
                "SPARK_DAEMON_JAVA_OPTS": LITTLE,
            },
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )


def _wait(log: Path, master: subprocess.Popen) -> None:
    """Waits until the workers have registered with the master."""
    until = time.monotonic() + _START_SECONDS
    while (told := log.read_text()).count("Registering worker") < WORKERS:
        if time.monotonic() > until or master.poll() is not None:
            raise RuntimeError(f"the cluster has not started:\n{told[-4000:]}")
        time.sleep(0.2)


def _descendants(pid: int) -> list[int]:
    children = subprocess.run(  # noqa: S603
        ["ps", "-o", "pid=", "--ppid", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return [each for child in map(int, children) for each in (*_descendants(child), child)]
