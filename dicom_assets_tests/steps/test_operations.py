"""Operations: taken in from the drop folder, once each."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dicom_assets.lakehouse.drop_folder import dropped
from dicom_assets.lakehouse.journal import Journal
from dicom_assets.steps import catalog
from dicom_assets.steps.organise import organise
from dicom_assets_tests.conftest import interrupting

DELETE = {
    "operation": "delete",
    "studyInstanceUid": "1.2.3.4",
    "requestedBy": "Dr. Moll",
    "reason": "wrong patient on the table",
}


def ask(house, *operations: dict[str, Any], name: str = "x.json", namespace: str = "") -> Path:
    path = house.drop / namespace / "Operations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    one, *more = operations
    path.write_text(json.dumps([one, *more] if more else one))
    return path


def test_an_operation_becomes_a_row_and_its_file_is_put_aside(house, write_dicom):
    content = ask(house, DELETE).read_bytes()
    write_dicom(house.drop / "x.dcm")
    report = organise(house.run)
    assert report.counts["operations"] == 1
    (row,) = house.rows(catalog.OPERATIONS)
    assert {name: row[name] for name in DELETE} == DELETE
    assert (row["sourceSystem"], row["sourcePath"]) == ("default", "Operations/x.json")
    assert row["ingestDate"] == house.run.ingest_date
    assert row["seriesInstanceUid"] is row["newPatientId"] is None
    (file,) = house.files("bronze/Files/Process/Operations/2026/03/14")
    assert file.read_bytes() == content
    assert house.files("bronze/Files/Ingest") == []
    (organised,) = house.rows(catalog.PROCESS_FILES)
    assert row["takenAt"] < organised["organisedAt"], "it is not about what was dropped with it"


def test_operations_keep_their_order_by_instants_of_their_own(house):
    restore = DELETE | {"operation": "restore"}
    ask(house, DELETE, restore, name="a.json")
    ask(house, DELETE, name="b.json")
    organise(house.run)
    rows = sorted(house.rows(catalog.OPERATIONS), key=lambda row: row["takenAt"])
    assert [row["operation"] for row in rows] == ["delete", "restore", "delete"]
    assert len({row["takenAt"] for row in rows}) == len({row["operationId"] for row in rows}) == 3


def test_a_namespace_has_operations_of_its_own_even_where_all_folders_are_namespaces(make_house):
    house = make_house(source_systems="*")
    for namespace in ("", "PACS1"):
        ask(house, DELETE | {"id": "one"}, namespace=namespace)
    organise(house.run)
    assert {row["sourceSystem"] for row in house.rows(catalog.OPERATIONS)} == {"default", "PACS1"}
    assert len(house.files("bronze/Files/Process/Operations/PACS1")) == 1
    left = sorted(str(path.relative_to(house.drop)) for path in house.drop.rglob("*"))
    assert left == ["Operations", "PACS1", "PACS1/Operations"], "whoever drops some counts on them"


def test_a_namespace_that_the_lakehouse_holds_has_operations_though_no_setting_names_it(
    make_house, write_dicom
):
    house = make_house()
    layout = house.run.engine.layout
    write_dicom(layout.external_root / "PACS1/x.dcm")
    house.chain()
    ask(house, DELETE, namespace="PACS1")
    ask(house, DELETE, namespace="PACS2")
    organise(house.run)
    assert [row["sourceSystem"] for row in house.rows(catalog.OPERATIONS)] == ["PACS1"]
    assert house.failures() == {"PACS2/Operations/x.json": "not_dicom"}
    left = sorted(str(path.relative_to(house.drop)) for path in house.drop.rglob("*"))
    assert left == ["PACS1", "PACS1/Operations"]


def test_the_same_file_dropped_again_is_the_same_operation_and_a_new_one_is_not(house, tmp_path):
    shutil.copy2(ask(house, DELETE), tmp_path / "kept.json")
    organise(house.run)
    shutil.copy2(tmp_path / "kept.json", house.drop / "Operations/x.json")
    assert organise(house.run).counts["operations_known"] == 1
    assert len(house.rows(catalog.OPERATIONS)) == 1
    assert len(house.files("bronze/Files/Process/Operations")) == 2, "both files are kept"
    os.utime(ask(house, DELETE), ns=(0, 10**18))
    assert organise(house.run).counts["operations"] == 1
    assert len(house.rows(catalog.OPERATIONS)) == 2, "asked twice on purpose"


def test_an_id_says_what_is_the_same_and_may_not_stand_for_something_else(house):
    one = DELETE | {"id": "ticket-7"}
    ask(house, one, one)
    organise(house.run)
    ask(house, one | {"reason": "asked by hand once more"}, name="y.json")
    organise(house.run)
    assert [row["operationId"] for row in house.rows(catalog.OPERATIONS)] == ["ticket-7"]
    ask(house, DELETE, one | {"operation": "restore"}, name="z.json")
    organise(house.run)
    assert len(house.rows(catalog.OPERATIONS)) == 1, "none of a file with a wrong one counts"
    (failure,) = house.rows(catalog.INGESTION_FAILURES)
    assert failure["message"] == "operation 2: its id is that of another operation"


PATIENT = {"requestedBy": "a", "reason": "b", "operation": "change_patient"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "operation 1: Expected `object`, got `array`"),
        ('{"operation": "\\ud800"}', "not JSON"),
        ("7", "Expected"),
        ([], "an array without operations"),
        (json.dumps(DELETE)[:-1] + ', "studyInstanceUid": "1.2"}', "a field is there twice"),
        ([DELETE, {}], "operation 2: there is no `operation`"),
        (DELETE | {"operation": "SECRET"}, "operation is not delete, restore, reread or"),
        (DELETE | {"SECRET": 1}, "a field is unknown; known are operation, studyInstanceUid"),
        (DELETE | {"studyInstanceUid": "SECRET "}, "studyInstanceUid is not a UID"),
        (DELETE | {"studyInstanceUid": "1.2\n"}, "studyInstanceUid is not a UID"),
        (DELETE | {"studyInstanceUid": "1." * 128 + "1"}, "studyInstanceUid is not a UID"),
        (DELETE | {"seriesInstanceUid": None}, "seriesInstanceUid is not a UID"),
        (DELETE | {"reason": " "}, "reason is not why"),
        (DELETE | {"reason": "a\x1b[2J"}, "reason is not why"),
        ({k: v for k, v in DELETE.items() if k != "requestedBy"}, "there is no `requestedBy`"),
        ({k: v for k, v in DELETE.items() if k != "studyInstanceUid"}, "delete needs one of"),
        (DELETE | {"patientId": "SECRET"}, "delete takes no patientId"),
        (PATIENT | {"patientId": "SECRET"}, "change_patient needs patientId and newPatientId"),
        (PATIENT | {"patientId": "SECRET", "newPatientId": "SECRET"}, "are the same"),
        (
            PATIENT | {"patientId": "SECRET", "newPatientId": "2", "sopInstanceUid": "1.2"},
            "change_patient is about a patient",
        ),
    ],
)
def test_a_wrong_one_fails_and_says_what_is_wrong_without_what_it_holds(house, content, says):
    text = content if isinstance(content, str) else json.dumps(content)
    ask(house, DELETE).write_text(text)
    organise(house.run)
    (row,) = house.rows(catalog.INGESTION_FAILURES)
    assert (row["reasonCode"], row["step"]) == ("invalid_operation", "organise")
    assert says in row["message"]
    assert "SECRET" not in row["message"]
    assert (house.settings.lakehouse / row["failedPath"]).read_text() == text
    assert house.rows(catalog.OPERATIONS) == []


def test_a_file_too_long_is_refused_unread(house):
    os.truncate(ask(house, DELETE), (8 << 20) + 1)
    organise(house.run)
    assert house.failures() == {"Operations/x.json": "invalid_operation"}


def test_only_json_directly_in_the_folder_is_an_operation(house, write_dicom):
    ask(house, DELETE, name="deeper/x.json")
    shutil.move(ask(house, DELETE), house.drop / "x.json")
    (house.drop / "Operations/notes.txt").write_text("hello")
    write_dicom(house.drop / "Operations/image.json")
    organise(house.run)
    assert set(house.failures().values()) == {"not_dicom"}
    assert len(house.failures()) == 3
    assert len(house.rows(catalog.PROCESS_FILES)) == 1
    assert house.rows(catalog.OPERATIONS) == []


def test_operations_in_a_place_where_none_are_taken_say_where_they_are(house):
    ask(house, DELETE, namespace="default")
    padded = {"reason": "x" * 4000, "requestedBy": "y" * 200}
    ask(house, DELETE | padded, DELETE, name="of a namespace.JSON", namespace="PACS1")
    with zipfile.ZipFile(house.drop / "a.zip", "w") as archive:
        archive.writestr("Operations/x.json", json.dumps([DELETE]))
        archive.writestr("Operations/other.json", json.dumps([DELETE, {}]))
        archive.writestr("Operations/x.txt", json.dumps(DELETE))
    organise(house.run)
    assert set(house.failures().values()) == {"not_dicom"}
    said = {row["sourcePath"]: row["message"] for row in house.rows(catalog.INGESTION_FAILURES)}
    assert {path: "put them into Operations of the" in why for path, why in said.items()} == {
        "default/Operations/x.json": True,
        "PACS1/Operations/of a namespace.JSON": True,
        "a.zip!/Operations/x.json": True,
        "a.zip!/Operations/other.json": False,
        "a.zip!/Operations/x.txt": False,
    }
    assert house.rows(catalog.OPERATIONS) == []


def test_a_change_of_patient_may_be_about_one_study(house):
    asked = PATIENT | {"patientId": "P1", "newPatientId": "P2", "studyInstanceUid": "1.2"}
    content = b"\xef\xbb\xbf" + json.dumps(asked).encode()  # as Windows writes it
    ask(house, asked).write_bytes(content)
    organise(house.run)
    (row,) = house.rows(catalog.OPERATIONS)
    assert {name: row[name] for name in asked} == asked


def test_a_sender_sees_operations_as_any_file_in_the_drop_folder(house):
    path = ask(house, DELETE)
    assert [entry.path for entry in dropped(house.drop)] == [path]


@pytest.mark.parametrize("done", range(8))
def test_killed_at_any_point_an_operation_is_taken_in_once(house, monkeypatch, done: int):
    ask(house, DELETE, DELETE | {"operation": "reread"}, name="a.json")
    ask(house, DELETE | {"id": "7"}, name="b.json")
    (house.drop / "Operations/bad.json").write_text("{}")
    interrupted = interrupting(done)
    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "unlink"):
            patch.setattr(Path, name, interrupted(getattr(Path, name)))
        patch.setattr(Journal, "_commit", interrupted(Journal._commit))
        with pytest.raises(KeyboardInterrupt):
            organise(house.run)
    for _ in range(2):
        organise(house.run)
    asked = sorted(row["operation"] for row in house.rows(catalog.OPERATIONS))
    assert asked == ["delete", "delete", "reread"]
    assert house.failures() == {"Operations/bad.json": "invalid_operation"}
    assert len(house.files("bronze/Files/Process/Operations")) == 2
    assert house.files("bronze/Files/Ingest") == []
