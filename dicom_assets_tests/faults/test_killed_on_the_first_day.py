"""A run that is killed at any act on files, on a new lakehouse, and run again."""

import pytest

from dicom_assets_tests.faults.scene import QUICK, SHARES, Scene

DAY = "2026-03-14"


@pytest.fixture(scope="module")
def scene(nursery, tmp_path_factory) -> Scene:
    return Scene(nursery, tmp_path_factory.mktemp("scene"), DAY)


@pytest.mark.parametrize("share", range(SHARES))
def test_a_run_that_is_killed_or_loses_power_and_run_again_is_as_if_it_had_not_been(scene, share):
    scene.killed_in_rows(share, points=scene.kill_points(QUICK))


def test_as_many_kills_as_promised_have_struck(scene):
    scene.has_struck(118)  # with those of the next day 200
