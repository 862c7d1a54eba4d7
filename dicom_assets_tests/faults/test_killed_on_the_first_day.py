"""A run that is killed at any act on files, on a new lakehouse, and run again."""

import pytest

from dicom_assets_tests.faults.scene import QUICK, Scene

DAY = "2026-03-14"
SHARES = 8


@pytest.fixture(scope="module")
def scene(nursery, tmp_path_factory) -> Scene:
    return Scene(nursery, tmp_path_factory.mktemp("scene"), DAY)


@pytest.mark.parametrize("share", range(SHARES))
def test_a_run_killed_at_any_act_and_run_again_is_as_if_it_had_not_been(scene, share):
    points = scene.kill_points(QUICK)
    assert len(points) > 100
    assert scene.all_killed(points[share::SHARES]) == []
