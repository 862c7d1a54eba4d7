"""Resources: what assets are given to work with. Choices are made in `dicom_assets.settings`."""

# pyright: reportMissingImports=false
# dagster-pyspark comes with the extra: `pip install 'dicom-assets[spark]'`

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import dagster as dg

from dicom_assets.defs.running import marked
from dicom_assets.lakehouse.lock import locked
from dicom_assets.lakehouse.storage_error import told_without_names
from dicom_assets.settings import Settings, load_settings
from dicom_assets.steps.run import Run


class Lakehouse(dg.ConfigurableResource):
    """One lakehouse, with the site's settings.

    Attributes:
        root: Its root folder; empty means the setting `lakehouse`.
    """

    root: str = ""

    @cached_property
    def settings(self) -> Settings:
        """The site's settings, with this root."""
        return load_settings(lakehouse=self.root or None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["Lakehouse"]:
        """Holds the lakehouse for the whole of a run: its checks look at what its steps wrote."""
        if context.run is None or context.instance is None:
            yield self
            return
        root = self.settings.lakehouse
        with (
            marked(context.instance, context.run.run_id, lakehouse=root),
            told_without_names(),
            locked(root),
        ):
            yield self

    def run(self, context: dg.AssetExecutionContext) -> Run:
        """Returns what a step is given, for the ingest date of an asset's run."""
        return Run.of(
            self.settings, context.partition_key, context.run.run_id, start_spark=_pyspark
        )


class DicomServices(Lakehouse):
    """The same, for who pulls from DICOM services: it takes long, and others go on meanwhile."""

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["DicomServices"]:
        """Tells that the run is alive; the lakehouse is held for each commit alone."""
        if context.run is None or context.instance is None:
            yield self
            return
        with marked(context.instance, context.run.run_id, lakehouse=self.settings.lakehouse):
            yield self


def _pyspark(conf: dict[str, str]) -> Any:
    """Starts Spark as Dagster does; only where the engine is Spark, which is installed apart."""
    from dagster_pyspark import LazyPySparkResource

    return LazyPySparkResource(spark_config=conf).spark_session


@dg.definitions
def resources() -> dg.Definitions:
    """Returns resources and executor: steps run in process, work spreads inside a step."""
    return dg.Definitions(
        resources={"lakehouse": Lakehouse(), "dicom_services": DicomServices()},
        executor=dg.in_process_executor,
    )
