"""Late parts of studies: into the rows that there are, whatever the order of dates."""

from datetime import date

import pytest
from deltalake import DeltaTable

from dicom_assets.defs.checks import RULES
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
def part(house, write_dicom):
    """Drops one more instance of a study, in a series of that day, and runs the chain."""

    def drop_and_run(day: date, study: int) -> None:
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


def test_a_part_that_comes_months_later_lands_in_the_study_that_there_is(house, part):
    part(JANUARY, 1)
    part(FEBRUARY, 2)
    part(MARCH, 1)
    part(MARCH, 3)
    part(FEBRUARY, 1)
    assert studies(house) == {
        "1.2.1": (3, 3, JANUARY),
        "1.2.2": (1, 1, FEBRUARY),
        "1.2.3": (1, 1, MARCH),
    }
    gold = house.rows(catalog.IMAGE_OCCURRENCE)
    assert len(gold) == len({row["image_occurrence_id"] for row in gold}) == 5
    assert len(house.rows(catalog.PERSON)) == len(house.rows(catalog.PROCEDURE_OCCURRENCE)) == 3
    assert broken(house, JANUARY, FEBRUARY, MARCH) == {"dates_in_order"}  # which only warns


def test_past_dates_that_run_after_later_ones_make_no_second_row(house, part):
    part(MARCH, 1)
    part(JANUARY, 1)
    part(FEBRUARY, 1)
    part(MARCH, 1)
    assert studies(house) == {"1.2.1": (3, 4, MARCH)}
    assert len(house.rows(catalog.IMAGE_OCCURRENCE)) == 3
    assert broken(house, JANUARY, FEBRUARY, MARCH) == {"dates_in_order"}  # which only warns


def test_a_late_part_rewrites_the_files_of_its_own_partition_alone(house, part):
    for day, study in ((JANUARY, 1), (FEBRUARY, 2), (MARCH, 3)):
        part(day, study)
    before = files(house)
    part(MARCH, 2)
    for name, after in files(house).items():
        gone = before[name] - after
        assert len(gone) == 1, name
        assert "2026-02" in gone.pop()


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


@pytest.mark.parametrize("kept", [0, 30])
def test_upkeep_in_the_middle_of_a_date_changes_no_result(tmp_path, house, write_dicom, kept):
    undisturbed = house.__class__(tmp_path / "undisturbed")
    settings = house.settings.model_copy(update={"keep_removed_files_days": kept})
    for turn, until in enumerate(("extract", "ingest_fhir", "flatten", None)):
        for each in (house, undisturbed):
            for study in range(3):
                write_dicom(
                    each.drop / f"{turn}_{study}.dcm",
                    StudyInstanceUID=f"1.2.{study}",
                    SeriesInstanceUID=f"1.2.{study}.{turn}",
                    SOPInstanceUID=f"1.2.{study}.{turn}.1",
                    PatientID=f"P{study}",
                )
            each.chain(MARCH, until=until)
        maintain(house.run.engine, settings)
    assert content(house) == content(undisturbed)
    assert broken(house, MARCH) == set()
    assert len(house.rows(catalog.IMAGE_OCCURRENCE)) == 12
    tables = maintain(house.run.engine, settings)
    assert [each.table for each in tables if each.files_before != each.files_after] == []
    folders = [house.run.engine.layout.table(table.layer, table.name) for table in UPSERTED]
    lying = {f"{path}" for folder in folders for path in folder.glob("*=*/*.parquet")}
    replaced = lying.difference(*files(house).values())
    assert bool(replaced) == bool(kept), "what was replaced lies there for so long"
