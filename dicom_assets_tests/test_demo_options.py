"""Every way in gives what dropped files give: a real Azurite, a real Orthanc, the whole chain."""

import json
from collections.abc import Iterator

import pytest

from dicom_assets.demo import OF_REPORTS, PROCESS, ZIPS, drop_reports
from dicom_assets_tests import object_stores, orthanc
from dicom_assets_tests.conftest import House
from dicom_assets_tests.demo_options import (
    EXTERNAL,
    WAYS,
    Sources,
    expected,
    found,
    served,
    shown,
    store_and_compare,
)

OTHERS = [way for way in WAYS if way != "drop_folder"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory, sample) -> Iterator[Sources]:
    if not (orthanc.IS_INSTALLED and object_stores.AZURITE_IS_INSTALLED):
        pytest.skip("Orthanc or Azurite is not there: `make test` installs them where it may")
    with served(tmp_path_factory.mktemp("servers"), sample) as started:
        assert store_and_compare(started) == (96, 96)
        yield started


@pytest.fixture(scope="module")
def bring_in(sources, tmp_path_factory):
    def brought(way: str) -> House:
        house = House(tmp_path_factory.mktemp(way) / "lakehouse", **sources.choices())
        house.drop.rmdir()
        WAYS[way][1](sources, house.run)
        drop_reports(sources.sample, house.settings)
        house.chain()
        return house

    return brought


@pytest.fixture(scope="module")
def dropped(bring_in) -> House:
    return bring_in("drop_folder")


def declared(sources: Sources) -> dict[str, int]:
    return json.loads((sources.sample / "dicom_assets_manifest.json").read_text())["expected"]


def test_what_must_come_out_is_what_the_sample_is_known_to_hold(sources, dropped):
    wanted = expected(declared(sources), is_dropped=True)
    assert wanted["rows in silver/ImagingStudy"] == 9
    assert wanted["rows in gold/Image_Occurrence"] == 24
    assert {wanted[what] for what in OF_REPORTS} == {6}
    assert found(dropped.run, dropped.run) == wanted


@pytest.mark.parametrize("way", OTHERS)
def test_every_way_in_gives_what_dropped_files_give(way, sources, dropped, bring_in):
    house = bring_in(way)
    assert found(house.run, dropped.run) == expected(declared(sources), is_dropped=False)
    before = house.everything()
    house.chain()
    assert house.everything() == before


def test_a_count_that_is_not_as_it_has_to_be_is_told(capsys):
    wanted = {PROCESS: 1, ZIPS: 1, EXTERNAL: 0}
    assert shown({"drop_folder": (wanted, wanted)})
    assert not shown({"drop_folder": (wanted | {ZIPS: 7}, wanted)})
    assert "7, NOT 1" in capsys.readouterr().out
