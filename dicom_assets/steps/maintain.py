"""Upkeep of the lakehouse: every table's small files are joined and old ones removed.

With them goes what a killed run has left in `Layout.staging`: Spark may not be started again.

Decided here: which tables, and that nothing else works on the lakehouse meanwhile. Not decided
here: what upkeep is (`dicom_assets.lakehouse.maintenance`).
"""

import shutil

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.maintenance import Upkeep
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog
from dicom_assets.steps.report import reporting


def maintain(engine: LocalEngine, settings: Settings) -> list[Upkeep]:
    """Looks after all tables that there are; returns what was done to each."""
    with reporting("maintain", engine.layout.root):
        if engine.layout.staging.exists():
            shutil.rmtree(engine.layout.staging)
        done = (
            engine.maintain(table, keep_hours=24 * settings.keep_removed_files_days)
            for table in catalog.tables(settings.promoted, settings.fhir_resource_types)
        )
        return [each for each in done if each]
