"""Random sequences of drops, corrections, kills and removed tables leave what a model says.

With reports among them, runs that break off and upkeep in between leave nothing that shows.

`make torture` tries many more.
"""

import pytest

from dicom_assets_tests.faults.model import tried
from dicom_assets_tests.faults.twins import differing


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kills", [True, False], ids=["broken off", "tables removed"])
def test_silver_gold_and_conflicts_are_what_a_model_says(tmp_path, seed, kills):
    _, differences = tried(tmp_path / "lakehouse", seed, rounds=3, kills=kills)
    assert differences == []


def test_runs_that_break_off_and_upkeep_leave_nothing_that_shows(tmp_path):
    assert differing(tmp_path, 1, rounds=2) == []
