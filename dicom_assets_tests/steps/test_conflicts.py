"""Conflicts that a person has decided are not open; the table keeps them, and can be made again."""

import json
import shutil
from datetime import timedelta

import pytest

from dicom_assets.defs.checks import RULES
from dicom_assets.steps import catalog
from dicom_assets.steps.conflicts import open_conflicts
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.status import contradicting, contradictions
from dicom_assets_tests.conftest import DAY
from dicom_assets_tests.steps.test_policies import one

PATIENTS = ("study", "patientId", "P2", "P1")


@pytest.fixture
def take(house, write_dicom):
    """Drops a file or an operation, and settles it on a day of its own."""
    days = iter(DAY + timedelta(days=number) for number in range(10))

    def drop(operation: str | None = None, **said: str) -> None:
        if operation:
            day = next(days)
            asked = {"operation": operation, "id": f"{day}", "requestedBy": "me", "reason": "wrong"}
            path = house.drop / f"Operations/{day}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(asked | said))
        else:
            day = next(days)
            write_dicom(house.drop / "x.dcm", **one(**said))
        house.chain(day, until="settle")

    return drop


def shown(house) -> set[tuple[str, str, str, str]]:
    rows = open_conflicts(house.run.engine, house.run.metastore)
    return {(r["level"], r["attribute"], r["newerValue"], r["olderValue"]) for r in rows}


@pytest.fixture
def two_patients(take):
    """A study of which two files say P1, one P2."""
    for number, patient in (("1", "P1"), ("2", "P1"), ("3", "P2")):
        take(SOPInstanceUID=f"1.2.{number}", PatientID=patient)


@pytest.mark.usefixtures("two_patients")
def test_a_conflict_is_decided_when_all_files_of_a_side_are_deleted_until_a_restore(house, take):
    assert shown(house) == {PATIENTS}
    take("delete", sopInstanceUid="1.2.2")
    assert shown(house) == {PATIENTS}, "another file says P1 still"
    take("delete", sopInstanceUid="1.2.1")
    assert shown(house) == set()
    assert contradicting(house.run.engine, house.settings) == {}
    assert contradictions(house.run.engine, house.settings) == []
    (rule,) = (each for each in RULES if each.name == "no_conflicts")
    came = DAY + timedelta(days=2)
    assert rule.evaluate(Day(house.on(came))) == (True, {})
    assert len(house.rows(catalog.CONFLICTS)) == 1, "the table keeps it"
    take("restore", sopInstanceUid="1.2.1")
    assert shown(house) == {PATIENTS}
    assert contradicting(house.run.engine, house.settings) == {"study patientId": 1}
    assert rule.evaluate(Day(house.on(came))) == (False, {"study patientId": 1})


@pytest.mark.usefixtures("two_patients")
def test_a_conflict_is_decided_when_both_sides_are_the_same_patient(house, take):
    take("change_patient", patientId="P2", newPatientId="P1")
    assert shown(house) == set()


@pytest.mark.usefixtures("two_patients")
def test_a_conflict_of_a_study_is_decided_when_one_side_comes_in_another_study(house, take):
    take(SOPInstanceUID="1.2.3", PatientID="P2", StudyInstanceUID="1.2.4")
    moved = {("instance", "studyInstanceUid", "1.2.4", "1.2.1")}
    in_both = {("series", "studyInstanceUid", "1.2.4", "1.2.1")}
    found = {each for each in shown(house) if each[1] != "contentHash"}
    assert found == moved | in_both
    take("delete", studyInstanceUid="1.2.1")
    assert shown(house) == set()


def test_what_was_sent_again_is_in_conflict_until_the_instance_is_deleted(house, take):
    take(InstanceNumber="1")
    take(InstanceNumber="2")
    assert {each[:2] for each in shown(house)} == {("instance", "contentHash")}
    take("delete", sopInstanceUid="1.2.9")
    assert shown(house) == set()
    take(InstanceNumber="3")
    assert shown(house) == set(), "the new one contradicts only what was deleted"


def test_a_table_that_was_removed_holds_all_that_was_ever_met_when_it_is_made_again(house, take):
    for description in ("a", "b", "c"):
        take(StudyDescription=description)
    take(SeriesInstanceUID="1.2.1.2", StudyInstanceUID="1.2.4", PatientID="P2")
    take("reread", sopInstanceUid="1.2.9")
    take("delete", studyInstanceUid="1.2.1")
    before, open_before = house.rows(catalog.CONFLICTS), shown(house)
    assert len(before) == 7
    shutil.rmtree(house.run.engine.layout.table("silver", "conflicts"))
    take(SOPInstanceUID="1.2.10", StudyInstanceUID="1.2.5", SeriesInstanceUID="1.2.5.1")
    made = {row["id"]: row for row in house.rows(catalog.CONFLICTS)}
    assert made == {row["id"]: row for row in before}
    assert shown(house) == open_before
