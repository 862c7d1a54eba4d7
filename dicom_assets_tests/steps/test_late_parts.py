"""Late parts of studies: into the rows that there are, whatever the order of dates."""

from datetime import date

import pytest
from deltalake import DeltaTable

from dicom_assets.defs.checks import RULES
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog
from dicom_assets.steps.maintain import maintain
from dicom_assets.steps.reconcile import Day

JANUARY, FEBRUARY, MARCH = date(2026, 1, 30), date(2026, 2, 1), date(2026, 3, 14)
UPSERTED = (
    catalog.silver_imaging_study(),
    catalog.PERSON,
    catalog.PROCEDURE_OCCURRENCE,
    catalog.IMAGE_OCCURRENCE,
)


@pytest.fixture
def parts(house, write_dicom):
    """Drops one more instance of studies, each in a series of that day, and runs the chain."""

    def drop_and_run(day: date, *studies: int) -> None:
        for study in studies:
            uid = f"1.2.{study}"
            write_dicom(
                house.drop / f"{study}.dcm",
                StudyInstanceUID=uid,
                SeriesInstanceUID=f"{uid}.{day:%Y%m%d}",
                PatientID=f"P{study}",
            )
        house.chain(day)

    return drop_and_run


def studies(house) -> dict[str, tuple[int, int, date]]:
    """Study → series, instances, and the date that its row stands in."""
    rows = house.rows(catalog.silver_imaging_study())
    found = {
        row["idOrig"]: (row["numberOfSeries"], row["numberOfInstances"], row["ingestDate"])
        for row in rows
    }
    assert len(found) == len(rows), "a study has two rows"
    return found


def broken(house, *days: date) -> set[str]:
    found = [Day(house.on(day)) for day in days]
    return {rule.name for day in found for rule in RULES if not rule.evaluate(day)[0]}


def files(house) -> dict[str, set[str]]:
    """Table → its data files."""
    layout = house.run.engine.layout
    return {
        table.full_name: set(DeltaTable(str(layout.table(table.layer, table.name))).file_uris())
        for table in UPSERTED
    }


def test_a_part_that_comes_months_later_or_before_lands_in_the_study_that_there_is(house, parts):
    """And rewrites the files of its own partition alone."""
    parts(JANUARY, 1)
    parts(FEBRUARY, 2)
    before = files(house)
    parts(MARCH, 1, 3, 4)
    for name, after in files(house).items():
        gone = before[name] - after
        assert len(gone) == 1, name
        assert "2026-01" in gone.pop()
    parts(FEBRUARY, 1, 4)
    parts(MARCH, 4)
    assert studies(house) == {
        "1.2.1": (3, 3, JANUARY),
        "1.2.2": (1, 1, FEBRUARY),
        "1.2.3": (1, 1, MARCH),
        "1.2.4": (2, 3, MARCH),
    }
    gold = house.rows(catalog.IMAGE_OCCURRENCE)
    assert len(gold) == len({row["image_occurrence_id"] for row in gold}) == 7
    assert len(house.rows(catalog.PERSON)) == len(house.rows(catalog.PROCEDURE_OCCURRENCE)) == 4
    assert broken(house, JANUARY, FEBRUARY, MARCH) == {"dates_in_order"}  # which only warns


def test_an_instance_sent_again_months_later_is_counted_on_both_dates(house, write_dicom):
    for day in (JANUARY, MARCH):
        write_dicom(house.drop / "x.dcm", SOPInstanceUID="1.2.9", InstanceNumber=day.month)
        house.chain(day)
    for day in (JANUARY, MARCH):
        assert Day(house.on(day)).resent() == {"resent": 1, "conflicting": 1}


def content(house) -> list[str]:
    """What silver and gold say, but for when."""
    times = {"createdAt", "modifiedAt", "sourceModifiedAt", "sourceFilePath"}
    times |= {"meta", "meta_string", "meta_lastUpdated"}
    return sorted(
        str({name: value for name, value in row.items() if name not in times})
        for table in UPSERTED
        for row in house.rows(table)
    )


def test_upkeep_in_the_middle_of_a_date_changes_no_result(tmp_path, house, write_dicom):
    """Whether files that were replaced are kept for a while or not."""
    houses = {days: house.__class__(tmp_path / f"kept{days}") for days in (0, 30)}
    for turn, until in enumerate(("extract", "ingest_fhir", "flatten", None)):
        for each in (house, *houses.values()):
            for study in range(3):
                write_dicom(
                    each.drop / f"{turn}_{study}.dcm",
                    StudyInstanceUID=f"1.2.{study}",
                    SeriesInstanceUID=f"1.2.{study}.{turn}",
                    SOPInstanceUID=f"1.2.{study}.{turn}.1",
                    PatientID=f"P{study}",
                )
            each.chain(MARCH, until=until)
        for days, each in houses.items():
            maintain(each.run.engine, keeping(each, days))
    for days, each in houses.items():
        assert content(each) == content(house)
        assert broken(each, MARCH) == set()
        assert len(each.rows(catalog.IMAGE_OCCURRENCE)) == 12
        tables = maintain(each.run.engine, keeping(each, days))
        assert [one.table for one in tables if one.files_before != one.files_after] == []
        folders = [each.run.engine.layout.table(table.layer, table.name) for table in UPSERTED]
        lying = {f"{path}" for folder in folders for path in folder.glob("*=*/*.parquet")}
        replaced = lying.difference(*files(each).values())
        assert bool(replaced) == bool(days), "what was replaced lies there for so long"


def keeping(house, days: int) -> Settings:
    return house.settings.model_copy(update={"keep_removed_files_days": days})
