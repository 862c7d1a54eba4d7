"""Work in many parts, killed in any of them and taken up again, is as work in one."""

from collections.abc import Iterator
from typing import Any

import pytest

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.steps import catalog
from dicom_assets_tests.conftest import interrupting

STUDIES = 3


def drop(house: Any, write_dicom: Any) -> None:
    """Drops studies whose instances come apart, one of them in two studies."""
    for number in range(9):
        study = f"1.2.3.{number % STUDIES}"
        write_dicom(
            house.drop / f"{number}/x.dcm",
            StudyInstanceUID=study,
            SeriesInstanceUID=f"{study}.1",
            SOPInstanceUID=f"1.2.9.{min(number, 7)}",
            StudyDescription="first" if number < 6 else "second",
        )
    (house.drop / "8/no.dcm").write_bytes(b"no DICOM file" * 20)
    write_dicom(house.drop / "7/without.dcm", StudyInstanceUID=None)


def told(house: Any) -> Iterator[list[Any]]:
    """Yields what the tables say, but for instants and names of this run."""
    yield sorted((row["sourcePath"], row["contentHash"]) for row in house.metastore())
    yield sorted(
        (row["id"], row["contentHash"], row["wholeAt"] is None)
        for row in house.rows(catalog.CURRENT_FILES)
    )
    yield sorted(
        (row["id"], row["newerValue"], row["olderValue"]) for row in house.rows(catalog.CONFLICTS)
    )
    yield sorted(
        (row["id"], row["numberOfInstances"], row["description"])
        for row in house.rows(catalog.silver_imaging_study())
    )
    yield sorted(row["image_occurrence_id"] for row in house.rows(catalog.IMAGE_OCCURRENCE))
    yield sorted((row["sourcePath"], row["reasonCode"]) for row in house.rows(FAILURES))


FAILURES = catalog.INGESTION_FAILURES


@pytest.fixture
def in_small_parts(monkeypatch) -> None:
    for name, size in (
        ("lakehouse.drop_folder._ENTRIES_AT_ONCE", 4),
        ("lakehouse.journal.ROWS_PER_COMMIT", 2),
        ("steps.organise.ROWS_PER_COMMIT", 2),
        ("steps.run._FILES_AT_ONCE", 4),
        ("steps.extract._FILES_PER_TASK", 1),
        ("steps.settle._FILES_AT_ONCE", 4),
        ("steps.convert._INSTANCES_AT_ONCE", 4),
        ("lakehouse.engine.LocalEngine.rows_per_commit", 2),
    ):
        monkeypatch.setattr(f"dicom_assets.{name}", size)


def test_parts_killed_one_after_another_come_to_the_same(
    house_class, in_small_parts, monkeypatch, write_dicom, tmp_path
):
    house = house_class(tmp_path / "killed", workers=1)  # as they lie, so they come
    drop(house, write_dicom)
    kills = 0
    while True:
        with monkeypatch.context() as patched:
            cut = interrupting(2)  # each run commits twice
            for verb in ("append", "upsert"):
                patched.setattr(LocalEngine, verb, cut(getattr(LocalEngine, verb)))
            try:
                house.chain()
                break
            except KeyboardInterrupt:
                kills += 1
    assert kills > 10
    monkeypatch.undo()
    at_once = house_class(tmp_path / "at once")
    drop(at_once, write_dicom)
    at_once.chain()
    assert len(at_once.metastore()) == 9
    assert list(told(house)) == list(told(at_once))


def test_each_part_says_how_far_it_came(house, in_small_parts, write_dicom):
    drop(house, write_dicom)
    house.chain(until="extract")
    engine, table = house.run.engine, catalog.PROCESS_FILES
    until = engine.version(table)
    parts = [
        (rows["filePath"].to_pylist(), version)
        for rows, version in engine.new_parts(
            table, ["filePath"], since=None, until=until, ingest_date=house.run.ingest_date, most=4
        )
    ]
    assert len(parts) > 2
    assert all(len(names) <= 4 for names, _ in parts)
    assert sorted(name for names, _ in parts for name in names) == sorted(
        row["filePath"] for row in house.rows(table)
    )
    versions = [version for _, version in parts]
    assert versions == sorted(set(versions))
    assert versions[-1] == until
