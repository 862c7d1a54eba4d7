"""A run that is killed at any act on files, on what the day before has left, and run again."""

import pytest

from dicom_assets_tests.faults.scene import QUICK, Scene

DAY = "2026-03-15"
KILLS = 4
"""So many runs in a row are killed, each further on, before one gets through."""
SHARES = 8


@pytest.fixture(scope="module")
def scene(nursery, tmp_path_factory) -> Scene:
    return Scene(nursery, tmp_path_factory.mktemp("scene"), DAY)


@pytest.mark.parametrize("share", range(SHARES))
def test_a_run_that_is_killed_or_loses_power_and_run_again_is_as_if_it_had_not_been(scene, share):
    points = scene.kill_points(QUICK)
    assert len(points) > 80
    rows = -(-len(points) // KILLS)
    tried = killed = 0
    for row in range(share, rows, SHARES):
        power = (None, "data", "names")[row % 3]
        number, different = scene.killed_again_and_again(points[row::rows], power=power)
        assert different == []
        killed, tried = killed + number, tried + len(points[row::rows])
    assert killed > 0.7 * tried, "what an earlier kill has left done is not done again"
