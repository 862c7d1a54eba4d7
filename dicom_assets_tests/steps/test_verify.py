"""Verify and repair: each way in which a lakehouse can be wrong is named, and mended if it can be.

A lakehouse of two dates is broken in one way at a time.
"""

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake

from dicom_assets.steps import catalog
from dicom_assets.steps.findings import Kind
from dicom_assets.steps.repair import verify_and_repair
from dicom_assets.steps.verify import verify

FIRST, SECOND = date(2026, 1, 30), date(2026, 3, 14)
NOT_CONTENT = {"createdAt", "modifiedAt", "sourceModifiedAt", "sourceFilePath"}
SILVER = catalog.silver_imaging_study()
LAYERS = (SILVER, catalog.PERSON, catalog.PROCEDURE_OCCURRENCE, catalog.IMAGE_OCCURRENCE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three studies, the first one in parts of two dates, and a file that failed."""
    from dicom_assets_tests.conftest import House, dicom

    house = House(tmp_path_factory.mktemp("made") / "lakehouse", workers=1)
    for number in (1, 2):
        dicom(
            house.drop / f"{number}.dcm",
            StudyInstanceUID=f"1.2.{number}",
            PatientID=f"P{number}",
            SeriesInstanceUID=f"1.2.{number}.1",
            SOPInstanceUID=f"1.2.{number}.1.1",
        )
    house.chain(FIRST)
    for number in (1, 3):
        dicom(
            house.drop / f"{number}.dcm",
            StudyInstanceUID=f"1.2.{number}",
            PatientID=f"P{number}",
            SeriesInstanceUID=f"1.2.{number}.2",
            SOPInstanceUID=f"1.2.{number}.2.1",
        )
    (house.drop / "readme.txt").write_text("no image")
    house.chain(SECOND)
    return house


@pytest.fixture
def whole(made, make_house):
    """A copy, to be broken."""
    house = make_house(workers=1)
    shutil.rmtree(house.settings.lakehouse)
    shutil.copytree(made.settings.lakehouse, house.settings.lakehouse)
    return house


def found(house, **choices: Any) -> dict[Kind, int]:
    return dict(verify(house.settings, **choices).counts)


def remaining(house, **choices: Any) -> dict[Kind, int]:
    _, rest = verify_and_repair(house.settings, **choices)
    assert dict(verify(house.settings, **choices).counts) == dict(rest.counts)
    return dict(rest.counts)


def content(house) -> dict[str, list[str]]:
    """Table → rows, but for when and from where they were made."""
    tables = (catalog.metastore(), *LAYERS)
    return {
        table.full_name: sorted(
            str({k: v for k, v in row.items() if k not in NOT_CONTENT}) for row in house.rows(table)
        )
        for table in tables
    }


def drop_rows(house, table, keep: Callable[[dict], bool]) -> None:
    """Writes a table anew without some rows."""
    delta = DeltaTable(str(house.run.engine.layout.table(table.layer, table.name)))
    rows = delta.to_pyarrow_table()
    kept = [keep(row) for row in rows.to_pylist()]
    assert not all(kept)
    import pyarrow as pa

    write_deltalake(delta, rows.filter(pa.array(kept)), mode="overwrite")


def zips(house) -> list[Path]:
    return house.files("bronze/Files/Process/Imaging")


def test_a_sound_lakehouse_agrees_and_repair_leaves_it_as_it_is(whole):
    before = whole.everything()
    assert found(whole) == found(whole, hashes=True) == found(whole, day=SECOND) == {}
    assert remaining(whole) == {}
    assert whole.everything() == before


def test_a_missing_zip_is_named_and_stays_a_finding(whole):
    zips(whole)[0].unlink()
    assert found(whole) == {Kind.FILE_MISSING: 1}
    assert remaining(whole) == {Kind.FILE_MISSING: 1}
