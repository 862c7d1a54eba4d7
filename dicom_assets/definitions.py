"""The one entry point of Dagster: loads everything below `defs/`."""

from pathlib import Path

import dagster as dg

from dicom_assets.lakehouse.modes import keep_private


@dg.definitions
def defs() -> dg.Definitions:
    """Returns all assets, checks, sensors, resources and the executor."""
    keep_private()  # what Dagster's own processes write beside the lakehouse
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
