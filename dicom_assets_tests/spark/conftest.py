"""Lakehouses on which a standalone Spark cluster works (`benchmarks.spark_cluster`)."""

# pyright: reportMissingImports=false
# PySpark is an extra: `pip install 'dicom-assets[spark]'`

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


def _leave() -> None:
    from pyspark.sql import SparkSession

    if session := SparkSession.getActiveSession():
        session.stop()


@pytest.fixture
def make_spark_house(cluster: Cluster, tmp_path: Path, house_class: Any) -> Callable[..., Any]:
    """Makes lakehouses on which Spark works."""

    def make(name: str) -> Any:
        return house_class(
            tmp_path / name,
            engine="spark",
            spark_master=cluster.address,
            spark_jars=JARS,
            spark_conf=CONF | QUICK,
        )

    return make
