"""Resources: what assets are given to work with. Choices are made in `dicom_assets.settings`."""

from functools import cached_property

import dagster as dg

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.settings import Settings, load_settings
from dicom_assets.steps.reconcile import Day


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

    def day(self, partition_key: str) -> Day:
        """Returns one ingest date of it, with the engine that works on it."""
        engine = LocalEngine(Layout(self.settings.lakehouse), self.settings.workers)
        return Day.of(engine, self.settings, partition_key)


@dg.definitions
def resources() -> dg.Definitions:
    """Returns resources and executor: steps run in process, work spreads inside a step."""
    return dg.Definitions(resources={"lakehouse": Lakehouse()}, executor=dg.in_process_executor)
