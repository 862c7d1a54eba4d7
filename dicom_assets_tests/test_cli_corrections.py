"""Corrections and failures on the command line, on a real lakehouse."""

import errno
import json
import os
import re
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result

from dicom_assets.cli import main
from dicom_assets.lakehouse import query
from dicom_assets.steps import catalog
from dicom_assets.steps.organise import organise
from dicom_assets_tests.conftest import DAY


@pytest.fixture
def call(house):
    def run(*arguments: str, **more: str) -> Result:
        environment = {"DICOM_ASSETS_LAKEHOUSE": str(house.settings.lakehouse), **more}
        return CliRunner().invoke(main, arguments, env=environment)

    return run


@pytest.fixture
def shown(call):
    def rows(*arguments: str) -> list[dict[str, str]]:
        """Returns the table that a verb prints; of its cells none may be empty."""
        lines = call(*arguments).output.splitlines()
        columns, *cells = [
            re.split(r"\s{2,}", line.strip()) for line in lines if re.search(r"\w", line)
        ]
        return [dict(zip(columns, row, strict=True)) for row in cells]

    return rows


@pytest.mark.parametrize("verb", ["delete", "restore", "reread"])
def test_a_correction_is_asked_for_and_taken_in_by_the_next_run(
    house, write_dicom, call, shown, verb
):
    for number in range(3):
        write_dicom(house.drop / f"{number}.dcm", SOPInstanceUID=f"1.2.{number}")
    house.chain(until="extract")
    done = call(verb, "--study", "1.2.3.4", "--reason", "wrong patient", "--by", "Moll")
    assert done.exit_code == 0, done.output
    assert "holds 3 instances of it" in done.output
    assert "dicom-assets run" in done.output
    (file,) = house.files("bronze/Files/Ingest")
    assert re.fullmatch(rf"\d{{13}}_{verb}_[0-9a-f]{{32}}\.json", file.name)
    assert call("operations").output.strip() == "no operations"
    organise(house.run)
    (row,) = house.rows(catalog.OPERATIONS)
    assert (row["operation"], row["studyInstanceUid"]) == (verb, "1.2.3.4")
    assert (row["requestedBy"], row["reason"]) == ("Moll", "wrong patient")
    (listed,) = shown("operations")
    assert listed["about"] == "studyInstanceUid 1.2.3.4"
    assert [listed[name] for name in ("operation", "instances", "by", "reason")] == [
        *(verb, "3", "Moll", "wrong patient")
    ]


def test_what_was_dropped_about_nothing_that_is_held_is_listed_with_no_instances(
    house, write_dicom, shown
):
    write_dicom(house.drop / "PACS1.dcm", PatientID="P1")
    house.chain(until="extract")
    asked = [
        {"operation": "delete", "studyInstanceUid": "1.2.3.5"},
        {"operation": "change_patient", "patientId": "P1", "newPatientId": "P2"},
        {"operation": "change_patient", "patientId": "P9", "newPatientId": "P2"},
    ]
    folder = house.drop / "Operations"
    folder.mkdir()
    more = {"requestedBy": "HIS", "reason": "merged"}
    folder.joinpath("x.json").write_text(json.dumps([each | more for each in asked]))
    organise(house.run)
    listed = {(row["operation"], row["about"]): row["instances"] for row in shown("operations")}
    assert listed == {
        ("delete", "studyInstanceUid 1.2.3.5"): "0",
        ("change_patient", "patientId P1, newPatientId P2"): "1",
        ("change_patient", "patientId P9, newPatientId P2"): "0",
    }


def test_an_instance_may_be_named_alone_and_the_login_name_asks(house, write_dicom, call):
    write_dicom(house.drop / "x.dcm", SOPInstanceUID="1.2.9")
    house.chain(until="extract")
    done = call("delete", "--instance", "1.2.9", "--reason", "blurred", LOGNAME="somebody")
    assert "holds 1 instances" in done.output
    (file,) = house.files("bronze/Files/Ingest")
    said = json.loads(file.read_text())
    assert (said["sopInstanceUid"], said["requestedBy"]) == ("1.2.9", "somebody")


def test_a_change_of_patient_may_be_about_one_study(house, write_dicom, call):
    write_dicom(house.drop / "1.dcm", PatientID="P1")
    write_dicom(house.drop / "2.dcm", PatientID="P1", StudyInstanceUID="1.2.5")
    house.chain(until="extract")
    ask = ("change-patient", "--from", "P1", "--to", "P2", "--reason", "merged")
    assert "holds 2 instances" in call(*ask).output
    assert "holds 1 instances" in call(*ask, "--study", "1.2.5").output
    organise(house.run)
    rows = {row["studyInstanceUid"]: row for row in house.rows(catalog.OPERATIONS)}
    assert set(rows) == {None, "1.2.5"}
    assert {(row["patientId"], row["newPatientId"]) for row in rows.values()} == {("P1", "P2")}


def test_a_change_of_patient_is_about_what_the_changes_before_it_have_left(
    house, write_dicom, call, shown
):
    write_dicom(house.drop / "1.dcm", PatientID="B")
    write_dicom(house.drop / "2.dcm", PatientID="B", StudyInstanceUID="1.2.5")
    house.chain(until="extract")
    ask = ("change-patient", "--reason", "mixed up", "--from")
    assert call(*ask, "B", "--to", "A", "--study", "1.2.3.4").exit_code == 0
    organise(house.run)
    done = call(*ask, "B", "--to", "Q", "--study", "1.2.3.4")
    assert done.exit_code == 2, done.output
    assert "holds nothing of it in default" in done.output
    assert "holds 1 instances" in call(*ask, "A", "--to", "Q").output
    assert "holds 1 instances" in call(*ask, "B", "--to", "R").output
    organise(house.run)
    assert call(*ask, "B", "--to", "S").exit_code == 2
    folder = house.drop / "Operations"
    said = {"operation": "change_patient", "patientId": "B", "newPatientId": "S"}
    folder.joinpath("late.json").write_text(json.dumps(said | {"requestedBy": "x", "reason": "y"}))
    organise(house.run)
    listed = {row["about"].rpartition(" ")[2]: row["instances"] for row in shown("operations")}
    assert listed == {"A": "1", "Q": "1", "R": "1", "S": "0"}


def test_what_is_not_there_or_not_right_is_refused_and_nothing_is_written(
    make_house, write_dicom, call
):
    house = make_house(source_systems=("PACS1",))
    write_dicom(house.drop / "PACS1/x.dcm", PatientID="P1")
    house.chain(until="extract")
    delete, why = ("delete", "--reason", "x"), {"DICOM_ASSETS_SOURCE_SYSTEMS": "PACS1"}
    change = ("change-patient", "--reason", "x", "--from", "P1", "--to")
    for arguments, says in (
        ((*delete, "--study", "1.2.3.5"), "holds nothing of it in default"),
        ((*delete, "--study", "1.2.3.4"), "PACS1 holds 1 instances: --namespace PACS1"),
        ((*delete, "--study", "1.2.3.4", "--namespace", "PACS2"), "no such namespace"),
        ((*delete, "--study", " 1.2"), "studyInstanceUid is not a UID"),
        (delete, "delete needs one of"),
        ((*delete[:1], "--study", "1.2.3.4"), "--reason"),
        ((*change, "P1"), "are the same"),
        ((*change, "P2"), "--namespace PACS1"),
    ):
        done = call(*arguments, **why)
        assert done.exit_code == 2, done.output
        assert says in " ".join(done.output.split()), done.output
    assert house.files("bronze/Files/Ingest") == []
    ask = (*delete, "--study", "1.2.3.4", "--namespace", "PACS1")
    assert call(*ask, **why).exit_code == 0
    (file,) = house.files("bronze/Files/Ingest")
    assert file.parent == house.drop / "PACS1/Operations"


def test_a_namespace_that_is_in_external_alone_can_be_corrected(house, write_dicom, call):
    before = os.umask(0o022)
    try:
        write_dicom(house.run.engine.layout.external_root / "PACS1/x.dcm")
        house.chain()
        ask = ("delete", "--study", "1.2.3.4", "--reason", "x", "--namespace")
        assert "the lakehouse has PACS1, default" in call(*ask, "PACS2").output
        assert "holds 1 instances of it" in call(*ask, "PACS1").output
        (file,) = house.drop.rglob("*.json")
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o640, 0o750)
    finally:
        os.umask(before)
    house.chain(DAY + timedelta(days=1))
    assert house.rows(catalog.silver_imaging_study()) == []


def test_conflicts_show_both_sides_until_somebody_decides(house, write_dicom, call, shown):
    write_dicom(house.drop / "1.dcm", SOPInstanceUID="1.2.1", PatientID="P1", StudyDate="20200101")
    house.chain()
    assert call("conflicts").output.strip() == "no open conflicts"
    write_dicom(house.drop / "2.dcm", SOPInstanceUID="1.2.2", PatientID="P2", StudyDate="20200102")
    house.chain()
    (about_patient,) = shown("conflicts", "--attribute", "patientId")
    assert about_patient in shown("conflicts")
    assert {row["attribute"] for row in shown("conflicts")} == {"patientId", "studyDate"}
    assert (about_patient["namespace"], about_patient["about"]) == ("default", "study 1.2.3.4")
    assert about_patient["the newer file says"] == "P2"
    assert about_patient["the older file says"] == "P1"
    assert about_patient["older file"].endswith("_1.dcm.zip")
    assert about_patient["newer file"].endswith("_2.dcm.zip")
    mistyped = call("conflicts", "--attribute", "PatientID")
    assert mistyped.exit_code == 2
    assert "studyInstanceUid, seriesInstanceUid, contentHash, patientId" in mistyped.output
    call("delete", "--instance", "1.2.1", "--reason", "another's")
    house.chain()
    assert call("conflicts").output.strip() == "no open conflicts"


@pytest.mark.parametrize("is_link", [True, False])
def test_no_correction_goes_behind_a_link_and_that_it_does_not_is_told(
    house, write_dicom, call, tmp_path, is_link
):
    write_dicom(house.drop / "x.dcm")
    house.chain(until="extract")
    outside, operations = tmp_path / "outside", house.drop / "Operations"
    outside.mkdir()
    if operations.exists():
        operations.rmdir()
    operations.symlink_to(outside) if is_link else operations.touch()
    asked = ("delete", "--study", "1.2.3.4", "--reason", "wrong")
    done = call(*asked)
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: no operation can be put into {operations}: a link or a")
    assert list(outside.iterdir()) == []
    assert [path.name for path in house.drop.parent.iterdir()] == [house.drop.name]
    operations.unlink()
    assert call(*asked).exit_code == 0
    organise(house.run)
    assert len(house.rows(catalog.OPERATIONS)) == 1


@pytest.mark.parametrize(
    "verb",
    ["verify", "maintain", "failures", "failures retry", "conflicts", "operations"],
)
def test_a_lakehouse_that_is_not_there_does_not_look_empty(call, tmp_path, verb):
    done = call(*verb.split(), "--lakehouse", str(tmp_path / "mistyped"))
    assert done.exit_code == 2
    assert "there is no lakehouse at" in done.output
    assert not (tmp_path / "mistyped").exists()


def test_a_storage_that_fails_is_told_in_a_sentence(call, monkeypatch):
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "Doe^Jane")

    monkeypatch.setattr("dicom_assets.steps.verify.check_table_files", fails)
    done = call("verify")
    assert done.exit_code == 1
    assert done.output.startswith("Error: the storage failed: Input/output error. First look into")
    assert "Doe" not in done.output


def test_a_table_that_lost_a_file_is_told_without_names_and_says_who_finds_it(
    house, write_dicom, call
):
    (house.drop / "notes.txt").write_text("no")
    write_dicom(house.drop / "x.dcm")
    house.chain(until="organise")
    for path in house.settings.lakehouse.rglob("*.parquet"):
        path.unlink()
    for verb in ("status", "failures"):
        query._small.cache_clear()  # another process asks
        done = call(verb)
        assert done.exit_code == 1
        assert "`dicom-assets verify` which file of a table is missing" in done.output
        assert "parquet" not in done.output
        assert isinstance(done.exception, SystemExit)
    assert "table_file_missing" in call("verify").output


def test_failures_tell_open_from_retried_ones(house, call):
    (house.drop / "notes.txt").write_text("no")
    house.chain(until="organise")
    assert re.search(r"not_dicom +open +1", call("failures").output)
    done = call("failures", "retry", "--reason", "not_dicom", "--step", "organise")
    assert "1 files dropped again" in done.output
    assert (house.drop / "notes.txt").exists()
    assert re.search(r"not_dicom +retried +1", call("failures").output)
    mistyped = call("failures", "retry", "--step", "organize")
    assert (mistyped.exit_code, "'organise_fhir'" in mistyped.output) == (2, True)
    misplaced = call("failures", "--reason", "not_dicom", "retry")
    assert (misplaced.exit_code, "belong behind retry" in misplaced.output) == (2, True)
