"""Corrections: deletes, restores and changes of patient flow through to gold, once."""

from datetime import date, timedelta

import pytest

from dicom_assets.lakehouse.operations import operation
from dicom_assets.steps import ask, catalog
from dicom_assets_tests.conftest import DAY
from dicom_assets_tests.steps.test_policies import broken, gold, one, patients, places

DAYS = [DAY + timedelta(days=number) for number in range(6)]
ALL = {
    ("default", "1.2.1", "1.2.1.1", "1.2.9"),
    ("default", "1.2.1", "1.2.1.1", "1.2.10"),
    ("default", "1.2.1", "1.2.1.2", "1.2.11"),
    ("default", "1.2.2", "1.2.2.1", "1.2.12"),
}
FILES = {
    "9": one(StudyDescription="of 9"),
    "10": one(SOPInstanceUID="1.2.10"),
    "11": one(SOPInstanceUID="1.2.11", SeriesInstanceUID="1.2.1.2"),
    "12": one(
        SOPInstanceUID="1.2.12",
        StudyInstanceUID="1.2.2",
        SeriesInstanceUID="1.2.2.1",
        PatientID="P2",
    ),
}


@pytest.fixture
def full(house, write_dicom):
    for name, elements in FILES.items():
        write_dicom(house.drop / name, **elements)
    house.chain(DAYS[0])
    assert places(house) == ALL
    return house


def do(house, day: date, kind: str, **what: str) -> None:
    """Asks for an operation and runs the chain, twice."""
    said = operation(operation=kind, requestedBy="me", reason="wrong", id=f"{kind}{day}", **what)
    ask.ask(house.run.engine, said, source_system="default")
    house.chain(day)
    before = house.everything()
    house.chain(day)
    assert house.everything() == before, "the second run finds nothing to do"


@pytest.mark.parametrize(
    ("what", "gone"),
    [
        ({"sopInstanceUid": "1.2.9"}, {"1.2.9"}),
        ({"seriesInstanceUid": "1.2.1.1"}, {"1.2.9", "1.2.10"}),
        ({"studyInstanceUid": "1.2.1"}, {"1.2.9", "1.2.10", "1.2.11"}),
        ({"studyInstanceUid": "1.2.2", "sopInstanceUid": "1.2.9"}, set()),
    ],
    ids=["instance", "series", "study", "instance of another study"],
)
def test_what_is_deleted_is_gone_from_silver_and_gold_until_it_is_restored(full, what, gone):
    do(full, DAYS[1], "delete", **what)
    assert places(full) == {place for place in ALL if place[3] not in gone}
    assert gold(full) == {place[:3] for place in places(full)}
    assert patients(full) == ({"P2"} if len(gone) == 3 else {"P1", "P2"})
    assert len(full.metastore()) == 4, "bronze keeps all"
    flagged = {r["sopInstanceUid"] for r in full.rows(catalog.CURRENT_FILES) if r["deletedAt"]}
    assert flagged == gone
    assert broken(full, *DAYS[:2]) == set()
    do(full, DAYS[2], "restore", **what)
    assert places(full) == ALL
    assert gold(full) == {place[:3] for place in ALL}
    assert patients(full) == {"P1", "P2"}
    assert broken(full, *DAYS[:3]) == set()


def test_what_arrives_after_a_delete_is_there_without_what_the_deleted_file_said(full, write_dicom):
    do(full, DAYS[1], "delete", studyInstanceUid="1.2.1")
    write_dicom(full.drop / "x", **one())
    full.chain(DAYS[2])
    assert places(full) == {place for place in ALL if place[3] in ("1.2.9", "1.2.12")}
    rows = full.rows(catalog.silver_imaging_study())
    assert {row["idOrig"]: row["description"] for row in rows} == {"1.2.1": None, "1.2.2": None}
    assert broken(full, *DAYS[:3]) == set()


def test_reading_a_deleted_study_again_does_not_bring_it_back(full):
    do(full, DAYS[1], "delete", studyInstanceUid="1.2.1")
    do(full, DAYS[2], "reread", studyInstanceUid="1.2.1")
    assert len(full.metastore()) == 7
    assert places(full) == {place for place in ALL if place[1] == "1.2.2"}
    assert broken(full, *DAYS[:3]) == set()
    do(full, DAYS[3], "restore", studyInstanceUid="1.2.1")
    assert places(full) == ALL
    assert broken(full, *DAYS[:4]) == set()


def test_reading_again_does_not_make_an_older_file_the_newest(full, write_dicom):
    write_dicom(full.drop / "x", **one(StudyInstanceUID="1.2.2"))
    full.chain(DAYS[1])
    held = places(full)
    for day, study in ((DAYS[2], "1.2.1"), (DAYS[3], "1.2.2")):
        do(full, day, "reread", studyInstanceUid=study)
        assert places(full) == held
    assert broken(full, *DAYS[:4]) == set()


def test_a_changed_patient_has_all_studies_and_what_comes_later_too(full, write_dicom):
    do(full, DAYS[1], "change_patient", patientId="P1", newPatientId="P2")
    assert places(full) == ALL
    assert patients(full) == {"P2"}
    write_dicom(full.drop / "x", **one(StudyInstanceUID="1.2.3", SOPInstanceUID="1.2.13"))
    full.chain(DAYS[2])
    assert patients(full) == {"P2"}
    do(full, DAYS[3], "change_patient", patientId="P2", newPatientId="P3")
    rows = full.rows(catalog.silver_imaging_study())
    assert {row["subject"]["identifier"]["value"] for row in rows} == {"P3"}
    assert patients(full) == {"P3"}
    assert len(full.rows(catalog.IMAGE_OCCURRENCE)) == 4
    assert {row["patientId"] for row in full.metastore()} == {"P1", "P2"}, "as the files say"
    assert broken(full, *DAYS[:4]) == set()


def test_a_patient_can_be_changed_for_one_study_alone(full, write_dicom):
    write_dicom(full.drop / "x", **one(StudyInstanceUID="1.2.3", SOPInstanceUID="1.2.13"))
    full.chain(DAYS[1])
    do(full, DAYS[2], "change_patient", patientId="P1", newPatientId="P9", studyInstanceUid="1.2.3")
    rows = full.rows(catalog.silver_imaging_study())
    held = {row["idOrig"]: row["subject"]["identifier"]["value"] for row in rows}
    assert held == {"1.2.1": "P1", "1.2.2": "P2", "1.2.3": "P9"}
    assert patients(full) == {"P1", "P2", "P9"}
    assert broken(full, *DAYS[:3]) == set()


def test_a_changed_patients_sex_and_year_of_birth_are_those_of_their_files(house, write_dicom):
    write_dicom(house.drop / "x", **one(PatientSex="F", PatientBirthDate="19700101"))
    house.chain(DAYS[0])
    do(house, DAYS[1], "change_patient", patientId="P1", newPatientId="P2")
    (person,) = house.rows(catalog.PERSON)
    held = (person["person_source_value"], person["gender_concept_id"], person["year_of_birth"])
    assert held == ("P2", 8532, 1970)


@pytest.mark.parametrize("killed_after", ["organise", "extract", "settle", "convert"])
@pytest.mark.parametrize("first", ["files", "operation"])
def test_a_correction_holds_whichever_of_its_dates_was_stopped(
    full, write_dicom, killed_after, first
):
    """Of two dates, one with a late part and then one that deletes it, either may be stopped."""
    write_dicom(full.drop / "x", **one(SOPInstanceUID="1.2.13"))
    full.chain(DAYS[1], until=killed_after if first == "files" else None)
    said = operation(
        operation="delete", requestedBy="me", reason="wrong", id="1", studyInstanceUid="1.2.1"
    )
    ask.ask(full.run.engine, said, source_system="default")
    full.chain(DAYS[2], until=killed_after if first == "operation" else None)
    full.chain(DAYS[1])
    full.chain(DAYS[2])
    assert places(full) == {place for place in ALL if place[1] == "1.2.2"}
    assert gold(full) == {place[:3] for place in places(full)}
    assert broken(full, *DAYS[:3]) == set()


def test_of_two_whole_statements_the_one_that_knows_more_is_the_later_one(full, write_dicom):
    """A date with a late part, stopped; a delete, stopped once it is written; then both go on."""
    write_dicom(full.drop / "x", **one(SOPInstanceUID="1.2.13"))
    full.chain(DAYS[1], until="extract")
    said = operation(
        operation="delete", requestedBy="me", reason="wrong", id="1", sopInstanceUid="1.2.9"
    )
    ask.ask(full.run.engine, said, source_system="default")
    full.chain(DAYS[2], until="convert")
    full.chain(DAYS[1])
    full.chain(DAYS[2])
    assert {place[3] for place in places(full)} == {"1.2.10", "1.2.11", "1.2.12", "1.2.13"}
    assert broken(full, *DAYS[:3]) == set()
