"""Resources: what assets are given to work with. Choices are made in `dicom_assets.settings`."""

from functools import cached_property

import dagster as dg

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

    def run(self, partition_key: str, run_id: str = "") -> Run:
        """Returns a run of steps on it, for one ingest date."""
        return Run.of(self.settings, partition_key, run_id)


@dg.definitions
def resources() -> dg.Definitions:
    """Returns resources and executor: steps run in process, work spreads inside a step."""
    return dg.Definitions(resources={"lakehouse": Lakehouse()}, executor=dg.in_process_executor)
