"""The Spark session: where Spark is, with which jars, and how it is set.

Decided here: what must hold for the tables to be the same (UTC, microseconds, Delta's extension),
and what suits this work; whatever a site sets (`spark_conf`) wins. A session that is there
already, as on Databricks, in Fabric or under spark-submit, is taken as it is. Not decided here:
what Spark is asked to do (`spark_engine`).
"""

# pyright: reportMissingImports=false
# PySpark is an extra: `pip install 'dicom-assets[spark]'`

import os
import re
import shutil
import site
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import proxy_bypass

from dicom_assets.lakehouse.errors import PlainError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_DELTA = "io.delta:delta-spark_{spark}_2.13:{delta}"
_PARTITIONS = "spark.sql.shuffle.partitions"
_AT_FIRST = "spark.sql.adaptive.coalescePartitions.initialPartitionNum"
_DEFAULTS = {
    "spark.app.name": "dicom_assets",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # a table's log is read in so many tasks: ours are short, by checkpoints
    "spark.databricks.delta.snapshotPartitions": "2",
    _AT_FIRST: "64",
    "spark.speculation": "false",  # two would move the same file
    "spark.executor.memoryOverheadFactor": "0.4",  # Python lives outside of the heap
    "spark.python.worker.reuse": "true",  # what a worker has looked up, it knows
    "spark.ui.showConsoleProgress": "false",
}
_ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # rows hold whole headers
    "spark.sql.execution.arrow.maxRecordsPerBatch": "512",
}


class SparkError(PlainError):
    """Spark cannot be used as it is set up. The message says what to do."""


_CONNECT_SECONDS = 10
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_SPECULATES = "spark.speculation must be false: two would move the same file"
_REMOTE = "SPARK_REMOTE"
"""The variable by which a Spark Connect server is told."""


@dataclass(frozen=True)
class Spark:
    """What a site has chosen.

    Attributes:
        master: Spark's master URL, or that of a Spark Connect server (`sc://…`); None where the
            surroundings say it.
        jars: Folder of Delta's jars; None where Spark has them, or Maven is asked.
        conf: Further settings of Spark, which win.
    """

    master: str | None = None
    jars: Path | None = None
    conf: tuple[tuple[str, str], ...] = ()

    @property
    def is_remote(self) -> bool:
        """Whether Spark is asked over Spark Connect."""
        return (self.master or os.environ.get(_REMOTE) or "").startswith("sc://")


Start = Callable[[dict[str, str]], "SparkSession"]
"""Starts a session that is set so, or goes on with one that is there."""


def start(conf: dict[str, str]) -> "SparkSession":
    """Starts a session by PySpark itself."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder
    for name, value in conf.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def session(spark: Spark, start: Start = start) -> "SparkSession":
    """Returns the session that is there, or starts one.

    Raises:
        SparkError: PySpark is not installed, nothing says where Spark is, the folder of jars holds
            none of Delta's, Spark does not start, or tasks are done twice.
    """
    session_class = _session_class()
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    chosen = dict(spark.conf).get("spark.pyspark.python", sys.executable)
    os.environ.setdefault("PYSPARK_PYTHON", chosen)  # only spark-submit itself heeds that setting
    found = session_class.getActiveSession()
    if found is None:
        found = _started(spark, start)
        if spark.is_remote:
            _send_package(found)
        else:
            _hush(found)
    try:
        if found.conf.get("spark.speculation", "false") == "true":
            raise SparkError(_SPECULATES)
        for name, value in _ALWAYS.items():
            if name not in dict(spark.conf):
                found.conf.set(name, value)
    except (Py4JError, PySparkException) as error:
        raise SparkError(f"Spark refuses how it is set; see spark_conf: {_words(error)}") from error
    return found


def check(spark: Spark) -> None:
    """Checks what can be told before Spark is started, which takes long.

    Raises:
        SparkError: As `session`.
    """
    session_class = _session_class()
    if dict(spark.conf).get("spark.speculation") == "true":
        raise SparkError(_SPECULATES)
    if session_class.getActiveSession() is None:
        conf = _configured(spark)
        if spark.is_remote:
            _check_that_it_answers(conf["spark.remote"])


def _check_that_it_answers(address: str) -> None:
    """Checks that somebody listens there: PySpark would try again for minutes, and say nothing."""
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.client import DefaultChannelBuilder

    try:
        endpoint = DefaultChannelBuilder(address).endpoint
    except (PySparkException, ValueError):  # whose words may hold a token
        endpoint = ""
    if not endpoint or ";" in endpoint:
        raise SparkError(
            "spark_master is no address of a Spark Connect server: sc://host:port, or"
            " sc://host:port/;name=value"
        )
    host, _, port = endpoint.rpartition(":")
    is_proxied = any(os.environ.get(name) for name in _PROXIES)
    if is_proxied and not proxy_bypass(host):
        return  # that one is asked, and it the server
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise SparkError(
            f"no Spark Connect server answers at {endpoint}: {error}. Start it, or see spark_master"
        ) from error


def _session_class() -> type["SparkSession"]:
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise SparkError(
            "engine = spark needs PySpark: pip install 'dicom-assets[spark]'"
        ) from error
    return SparkSession


def _started(spark: Spark, start: Start) -> "SparkSession":
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    conf = _configured(spark)
    try:
        return start(conf)
    except (Py4JError, PySparkException) as error:
        said = _words(error)
        why = "see spark_master and spark_conf"
        if spark.is_remote:
            why = "it needs a server that answers"
        elif "JAVA_GATEWAY_EXITED" in said:
            why = "it needs Java 17 (JAVA_HOME), or says above what is wrong with spark_conf"
        elif "stopped SparkContext" in said:
            why, said = "spark_master does not answer", f"{spark.master}"
        raise SparkError(f"Spark did not start; {why}: {said}") from error


def _configured(spark: Spark) -> dict[str, str]:
    """Returns `configuration`; Spark by itself would start here, and without Delta."""
    conf = configuration(spark)
    if not (conf.keys() & {"spark.master", "spark.remote"} or is_told_by_surroundings()):
        raise SparkError(
            "engine = spark needs spark_master (local[8], spark://…, sc://…), or to be run by"
            " spark-submit or where there is a session; docs/spark.md says more"
        )
    return conf


def _words(error: Exception) -> str:
    """Returns what Spark says of an error, without Java's stack and py4j's preface."""
    said = " ".join(str(error).split("\n\tat ")[0].split())
    return re.sub(r"^An error occurred while calling \S+ : ", "", said)[:500]


def is_told_by_surroundings() -> bool:
    """Says whether spark-submit has started this process, or the machine is set up for Spark."""
    home = os.environ.get("SPARK_HOME")
    folders = [os.environ.get("SPARK_CONF_DIR"), home and f"{home}/conf"]
    return "PYSPARK_GATEWAY_PORT" in os.environ or any(
        (Path(folder) / "spark-defaults.conf").is_file() for folder in folders if folder
    )


def configuration(spark: Spark) -> dict[str, str]:
    """Returns how a session is set that is started here.

    Raises:
        SparkError: The folder of jars holds none of Delta's.
    """
    if spark.is_remote:  # its server has been set already
        return {"spark.remote": spark.master or os.environ[_REMOTE]} | dict(spark.conf)
    master = {"spark.master": spark.master} if spark.master else {}
    defaults = dict(_DEFAULTS)
    if _PARTITIONS in dict(spark.conf):  # which Spark would not heed beside ours
        del defaults[_AT_FIRST]
    return defaults | master | jars_of(spark) | _package() | dict(spark.conf)


def jars_of(spark: Spark) -> dict[str, str]:
    """Returns the setting of Spark that says where Delta's jars are, where Spark has none."""
    if spark.jars is not None:
        jars = sorted(map(str, spark.jars.glob("*.jar")))
        if not any("delta-spark" in name for name in jars):
            raise SparkError(
                f"spark_jars: {spark.jars} holds no delta-spark jar; docs/spark.md says which"
            )
        return {"spark.jars": ",".join(jars)}
    if {"spark.jars", "spark.jars.packages"} & dict(spark.conf).keys():
        return {}
    if spark.master is None:
        return {}  # an image that has them
    from importlib.metadata import version

    found = {"spark": ".".join(version("pyspark").split(".")[:2]), "delta": version("delta-spark")}
    return {"spark.jars.packages": _DELTA.format(**found)}


def _package() -> dict[str, str]:
    """Lets workers import a checkout that they see, too, here or on a file system.

    A package that is installed here is either installed there as well, or shipped by the site.
    """
    folder = str(_package_folder().parent)
    return {} if folder in site.getsitepackages() else {"spark.executorEnv.PYTHONPATH": folder}


def _hush(spark: "SparkSession") -> None:
    """Silences the class that warns three times of each read of new rows, about Delta's options."""
    jvm: Any = spark._jvm  # PySpark itself sets no level but that of all loggers
    log4j = jvm.org.apache.logging.log4j
    log4j.core.config.Configurator.setLevel(
        "org.apache.spark.sql.util.CaseInsensitiveStringMap", log4j.Level.ERROR
    )


def _send_package(spark: "SparkSession") -> None:
    """Sends this package to the workers behind a Spark Connect server, for this session."""
    with tempfile.TemporaryDirectory() as folder:
        name = str(Path(folder) / "dicom_assets")
        package = _package_folder()
        packed = shutil.make_archive(name, "zip", package.parent, package.name)
        spark.addArtifacts(packed, pyfile=True)


def _package_folder() -> Path:
    import dicom_assets

    return Path(dicom_assets.__path__[0])
