"""Lakehouses on which Spark works: here, or on a cluster (`benchmarks.spark_cluster`)."""

# pyright: reportMissingImports=false
# PySpark is an extra: `pip install 'dicom-assets[spark]'`

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.spark_cluster import CONF, JARS, LITTLE, Cluster, missing, running
from dicom_assets.lakehouse.spark_session import Spark, session
from dicom_assets_tests.serving import free_port

MASTER = "local[2]"
# and a heap that need not grow from nothing
_JAVA = f"{LITTLE} -Xms900m -Xmn500m -Duser.timezone=Asia/Kolkata"
os.environ["SPARK_LAUNCHER_OPTS"] = LITTLE  # of the Java that says how to start the one that works
QUICK = {
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.extraJavaOptions": _JAVA,
    "spark.executor.extraJavaOptions": _JAVA,
}
"""A few rows are worked through sooner than code for them is generated and optimised. And Java is
not where UTC is: instants must be the same all the same."""


def surroundings(master: str) -> dict[str, str]:
    """Returns the variables that say to the whole product where Spark is."""
    settings = {
        "ENGINE": "spark",
        "SPARK_MASTER": master,
        "SPARK_JARS": f"{JARS}",
        "SPARK_CONF": json.dumps(CONF | QUICK),
        "SETTLE_SECONDS": "0",
    }
    return {f"DICOM_ASSETS_{name}": value for name, value in settings.items()}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of one master and two workers."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path / "cluster"
    folder.mkdir()
    with running(folder) as started:
        yield started


@pytest.fixture(scope="session")
def connect_server(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of this process's JVM, which is a Spark Connect server beside.

    All tests share it: it takes longer to start and to warm up than most of them.
    """
    if reason := missing():
        pytest.skip(reason)
    port = free_port()
    connect = {
        "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": f"{port}",
        "spark.executorEnv.PYTHONPATH": "",  # what its workers have of us was sent to them
    }
    settings = tuple((CONF | QUICK | connect).items())
    with contextlib.chdir(tmp_path_factory.mktemp("jvm")):  # nor do they find a checkout here
        session(Spark(MASTER, JARS, settings))
    return f"sc://127.0.0.1:{port}"


@pytest.fixture
def make_spark_house(tmp_path: Path, house_class: Any, connect_server: str) -> Callable[..., Any]:
    """Makes lakehouses on which Spark works in this process's JVM."""

    def make(name: str) -> Any:
        return house_class(tmp_path / name, engine="spark", spark_master=MASTER)

    return make
