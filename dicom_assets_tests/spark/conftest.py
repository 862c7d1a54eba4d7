"""Lakehouses on which Spark works: here, or on a cluster (`benchmarks.spark_cluster`)."""

# pyright: reportMissingImports=false
# PySpark is an extra: `pip install 'dicom-assets[spark]'`

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.spark_cluster import CONF, JARS, Cluster, missing, running

QUICK = {
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.codegen.wholeStage": "false",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1",
}
"""A few rows are worked through sooner than code for them is generated and optimised."""


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


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("spark")) as started:
        yield started
        _leave()


@pytest.fixture
def idle_cluster(cluster: Cluster) -> Cluster:
    """A cluster whose cores this process does not hold."""
    _leave()
    return cluster


def _leave(unless: str | None = None) -> None:
    """Ends this process's session, unless Spark is where it should be."""
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session and session.sparkContext.master != unless:
        session.stop()


@pytest.fixture
def make_spark_house(tmp_path: Path, house_class: Any) -> Callable[..., Any]:
    """Makes lakehouses on which Spark works in this process's JVM."""
    if reason := missing():
        pytest.skip(reason)
    return _maker("local[2]", tmp_path, house_class)


@pytest.fixture
def make_cluster_house(cluster: Cluster, tmp_path: Path, house_class: Any) -> Callable[..., Any]:
    """Makes lakehouses on which the cluster works."""
    return _maker(cluster.address, tmp_path, house_class)


def _maker(master: str, folder: Path, house_class: Any) -> Callable[..., Any]:
    _leave(unless=master)

    def make(name: str) -> Any:
        return house_class(
            folder / name,
            engine="spark",
            spark_master=master,
            spark_jars=JARS,
            spark_conf=CONF | QUICK,
        )

    return make
