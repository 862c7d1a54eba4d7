"""The one entry point of Dagster: loads everything below `defs/`.

It names that package itself, since an installed one has no pyproject.toml to be asked.
"""

import warnings
from pathlib import Path

import dagster as dg

import dicom_assets.defs
from dicom_assets.lakehouse.garbage import collect_seldom
from dicom_assets.lakehouse.modes import keep_private

collect_seldom()


@dg.definitions
def defs() -> dg.Definitions:
    """Returns all assets, checks, sensors, resources and the executor."""
    keep_private()  # what Dagster's own processes write beside the lakehouse
    root = Path(__file__).parent
    tree = dg.ComponentTree.from_module(defs_module=dicom_assets.defs, project_root=root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # of checks that have partitions
        return tree.build_defs()
