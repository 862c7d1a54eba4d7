"""Corrections: deletes, restores and changes of patient flow through to gold, once."""

import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

from dicom_assets.lakehouse.operations import operation
from dicom_assets.lakehouse.uris import WHOLE_TAG
from dicom_assets.omop.person import GENDER_CONCEPTS
from dicom_assets.steps import ask, catalog
from dicom_assets.steps.verify import verify
from dicom_assets_tests.conftest import DAY, House, dicom
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
MALE, FEMALE = GENDER_CONCEPTS["M"], GENDER_CONCEPTS["F"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies that have come to gold."""
    house = House(tmp_path_factory.mktemp("made") / "lakehouse")
    for name, elements in FILES.items():
        dicom(house.drop / name, **elements)
    house.chain(DAYS[0])
    assert places(house) == ALL
    return house.settings.lakehouse


@pytest.fixture
def full(made, tmp_path) -> House:
    """A copy of them, to be corrected."""
    shutil.copytree(made, tmp_path / "lakehouse")
    return House(tmp_path / "lakehouse")


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


def test_a_patient_is_changed_whom_only_an_older_file_of_a_study_names(house, write_dicom):
    write_dicom(house.drop / "x", **one(PatientID="P1", SOPInstanceUID="1.2.11"))
    house.chain(DAYS[0])
    write_dicom(house.drop / "y", **one(PatientID="P9", SOPInstanceUID="1.2.12"))
    house.chain(DAYS[1])
    moved = one(PatientID="P8", StudyInstanceUID="1.2.3", SOPInstanceUID="1.2.12")
    write_dicom(house.drop / "z", **moved)
    house.chain(DAYS[2])
    do(house, DAYS[3], "change_patient", patientId="P1", newPatientId="P2")
    rows = house.rows(catalog.silver_imaging_study())
    held = {row["idOrig"]: row["subject"]["identifier"]["value"] for row in rows}
    assert held == {"1.2.1": "P2", "1.2.3": "P8"}
    assert patients(house) == {"P2", "P8"}


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


def asked(house, kind: str, **what: str) -> None:
    said = operation(operation=kind, requestedBy="me", reason="wrong", id=f"{kind}{what}", **what)
    ask.ask(house.run.engine, said, source_system="default")


def agrees(house, *days: date) -> None:
    assert broken(house, *days) == set()
    assert dict(verify(house.settings).counts) == {}


def described(house) -> dict[str, str | None]:
    columns = ["idOrig", "description"]
    rows = house.run.engine.read(catalog.silver_imaging_study(), columns).to_pylist()
    return {row["idOrig"]: row["description"] for row in rows}


def test_reading_an_older_part_again_does_not_give_it_the_last_word(full, write_dicom):
    write_dicom(
        full.drop / "x", **one(SOPInstanceUID="1.2.13", StudyDescription="new", PatientID="P7")
    )
    full.chain(DAYS[1])
    for day, what in (
        (DAYS[2], {"sopInstanceUid": "1.2.9"}),
        (DAYS[3], {"studyInstanceUid": "1.2.1"}),
    ):
        do(full, day, "reread", **what)
        assert described(full)["1.2.1"] == "new"
        assert patients(full) == {"P7", "P2"}
    agrees(full, *DAYS[:4])


def test_a_statement_in_the_middle_that_is_taken_in_last_still_counts(full, write_dicom):
    write_dicom(full.drop / "x", **one(SOPInstanceUID="1.2.13", StudyDescription="two"))
    full.chain(DAYS[1], until="organise")
    write_dicom(full.drop / "y", **one(SOPInstanceUID="1.2.14"))
    full.chain(DAYS[2])
    full.chain(DAYS[1])
    assert described(full)["1.2.1"] == "two"
    agrees(full, *DAYS[:3])


def test_a_late_file_and_one_read_again_keep_their_order(full, write_dicom):
    """The newest file, stopped; an older one of the same instance read again; then it goes on."""
    write_dicom(full.drop / "x", **one(StudyInstanceUID="1.2.2", SeriesInstanceUID="1.2.2.1"))
    full.chain(DAYS[1], until="organise")
    asked(full, "reread", sopInstanceUid="1.2.9")
    full.chain(DAYS[2], until="extract")
    full.chain(DAYS[1])
    full.chain(DAYS[2])
    moved = ("default", "1.2.2", "1.2.2.1", "1.2.9")
    assert places(full) == ALL - {("default", "1.2.1", "1.2.1.1", "1.2.9")} | {moved}
    agrees(full, *DAYS[:3])


def test_a_part_that_comes_late_into_a_corrected_study_is_not_lost(full, write_dicom):
    do(full, DAYS[1], "delete", sopInstanceUid="1.2.10")
    write_dicom(full.drop / "x", **one(SOPInstanceUID="1.2.13"))
    full.chain(DAYS[2], until="organise")
    asked(full, "reread", sopInstanceUid="1.2.9")
    full.chain(DAYS[3], until="convert")
    full.chain(DAYS[2])
    full.chain(DAYS[3])
    assert {place[3] for place in places(full)} == {"1.2.9", "1.2.11", "1.2.12", "1.2.13"}
    agrees(full, *DAYS[:4])


def test_what_a_deleted_file_said_stays_away_when_its_instance_comes_in_another_series(
    full, write_dicom
):
    do(full, DAYS[1], "delete", seriesInstanceUid="1.2.1.1")
    write_dicom(full.drop / "x", **one(SeriesInstanceUID="1.2.1.3", PatientID="P7"))
    full.chain(DAYS[2])
    assert described(full)["1.2.1"] is None
    agrees(full, *DAYS[:3])


def test_a_deleted_files_sex_is_not_its_patients(house, write_dicom):
    write_dicom(house.drop / "x", **one(PatientSex="M"))
    house.chain(DAYS[0])
    write_dicom(house.drop / "y", **one(SOPInstanceUID="1.2.10", PatientSex="F"))
    house.chain(DAYS[1])
    do(house, DAYS[2], "delete", sopInstanceUid="1.2.10")
    (person,) = house.rows(catalog.PERSON)
    assert person["gender_concept_id"] == 8507
    agrees(house, *DAYS[:3])


def test_a_file_that_fhir_cannot_hold_fails_in_a_corrected_study_too(full, write_dicom):
    do(full, DAYS[1], "delete", sopInstanceUid="1.2.10")
    with pytest.warns(UserWarning, match="Invalid value"):
        write_dicom(full.drop / "x", **one(SOPInstanceUID="1.2.13", SeriesInstanceUID="1_2"))
    full.chain(DAYS[2])
    assert full.failures() == {"x": "invalid_resource"}
    agrees(full, *DAYS[:3])


@pytest.mark.parametrize("stopped", ["flatten", "person"])
def test_a_patient_of_a_study_on_its_way_to_gold_is_kept(full, write_dicom, stopped):
    write_dicom(full.drop / "x", **one(StudyInstanceUID="1.2.3", SOPInstanceUID="1.2.13"))
    full.chain(DAYS[1], until=stopped)
    do(full, DAYS[2], "delete", studyInstanceUid="1.2.1")
    full.chain(DAYS[1])
    assert patients(full) == {"P1", "P2"}
    agrees(full, *DAYS[:3])


def test_a_patient_to_whom_nothing_points_goes_whichever_date_was_stopped(full, write_dicom):
    write_dicom(full.drop / "x", **one(StudyInstanceUID="1.2.3", SOPInstanceUID="1.2.13"))
    full.chain(DAYS[1])
    for day, study in ((DAYS[2], "1.2.1"), (DAYS[3], "1.2.3")):
        asked(full, "change_patient", patientId="P1", newPatientId="P2", studyInstanceUid=study)
        full.chain(day, until="person")
    full.chain(DAYS[3])
    full.chain(DAYS[2])
    assert patients(full) == {"P2"}
    agrees(full, *DAYS[:4])


def test_a_delete_that_came_before_its_files_were_converted_and_its_restore_agree(
    full, write_dicom
):
    write_dicom(full.drop / "x", **one(StudyInstanceUID="1.2.3", SOPInstanceUID="1.2.13"))
    full.chain(DAYS[1], until="extract")
    asked(full, "delete", studyInstanceUid="1.2.3")
    full.chain(DAYS[2])
    full.chain(DAYS[1])
    do(full, DAYS[3], "restore", studyInstanceUid="1.2.3")
    full.chain(DAYS[1])
    assert ("default", "1.2.3", "1.2.1.1", "1.2.13") in places(full)
    agrees(full, *DAYS[:4])


def test_counts_that_were_declared_hold_after_a_delete(house, write_dicom):
    for study in (1, 2):
        write_dicom(
            house.drop / f"{study}.dcm",
            **one(StudyInstanceUID=f"1.2.{study}", SOPInstanceUID=f"1.2.9.{study}"),
        )
    expected = {"process_files": 2, "dicomimagingmetastore": 2, "ImagingStudy": 2}
    expected["Image_Occurrence"] = 2
    (house.drop / "dicom_assets_manifest.json").write_text(json.dumps({"expected": expected}))
    house.chain(DAYS[0])
    assert broken(house, DAYS[0]) == set()
    do(house, DAYS[0], "delete", studyInstanceUid="1.2.1")
    agrees(house, DAYS[0])


def test_what_others_say_of_a_corrected_study_is_kept_and_their_tag_means_nothing(full):
    def theirs(name: str, day: date, **elements) -> None:
        said = {
            "resourceType": "ImagingStudy",
            "id": "1.2.1",
            "status": "available",
            "subject": {"display": "somebody"},
            **elements,
        }
        folder = full.run.engine.layout.fhir_folder("default", day, "ImagingStudy")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(said) + "\n")
        full.chain(day)

    series = {
        "uid": "5.1",
        "modality": {"code": "CT"},
        "instance": [{"uid": "5.1.1", "sopClass": {"code": "1.2.840.10008.5.1.4.1.1.2"}}],
    }
    old = {"lastUpdated": "2020-01-01T00:00:00Z"}
    theirs("ris.ndjson", DAYS[1], note=[{"text": "seen"}], series=[series], meta=old)
    do(full, DAYS[2], "delete", sopInstanceUid="1.2.9")
    theirs("tag.ndjson", DAYS[3], meta={**old, "tag": [WHOLE_TAG]})
    assert {place[3] for place in places(full)} == {"1.2.10", "1.2.11", "1.2.12", "5.1.1"}
    rows = {row["idOrig"]: row for row in full.rows(catalog.silver_imaging_study())}
    assert rows["1.2.1"]["note_string"] and "seen" in rows["1.2.1"]["note_string"]


def test_a_study_whose_uid_is_none_can_be_deleted(house, write_dicom):
    with pytest.warns(UserWarning, match="Invalid value"):
        write_dicom(house.drop / "x", **one(StudyInstanceUID="my study"))
    house.chain(DAYS[0])
    assert len(places(house)) == 1
    do(house, DAYS[1], "delete", studyInstanceUid="my study")
    assert places(house) == set()
    agrees(house, *DAYS[:2])


@pytest.mark.parametrize(
    "operation",
    [("change_patient", {"patientId": "P1", "newPatientId": "P2"}), ("delete", {})],
    ids=["given to another patient", "deleted"],
)
def test_a_patient_is_only_what_the_studies_say_that_are_theirs_still(
    house, write_dicom, operation
):
    kind, patients_changed = operation
    write_dicom(house.drop / "x", **one(PatientSex="M", PatientBirthDate="19500101"))
    write_dicom(house.drop / "y", **FILES["12"] | {"PatientID": "P1"})
    house.chain(DAYS[0])
    write_dicom(house.drop / "x", **one(SOPInstanceUID="1.2.10", PatientSex="F"))
    house.chain(DAYS[1])

    def said() -> dict[str, tuple[int, int | None]]:
        rows = house.rows(catalog.PERSON)
        said = ("gender_concept_id", "year_of_birth")
        return {row["person_source_value"]: tuple(row[name] for name in said) for row in rows}

    assert said() == {"P1": (8532, 1950)}
    do(house, DAYS[2], kind, studyInstanceUid="1.2.1", **patients_changed)
    assert said() == {"P1": (0, None)} | ({"P2": (8532, 1950)} if patients_changed else {})


@pytest.mark.parametrize("stopped", [None, "flatten"])
def test_of_dates_that_overtook_each_other_the_newest_file_says_a_patients_sex(
    house, write_dicom, stopped
):
    for number, until, said in (
        (1, None, {"PatientSex": "M"}),
        (2, stopped, {"PatientSex": "F"}),
        (3, None, {"PatientBirthDate": "19600101"}),
    ):
        write_dicom(house.drop / "x.dcm", **study(number), **said)
        house.chain(DAYS[number], until=until)
    house.chain(DAYS[2])
    assert sex_and_year(house) == {"P1": (FEMALE, 1960)}


def test_a_deleted_file_says_nothing_of_an_unknown_patient(house, write_dicom):
    for number, sex in ((1, "M"), (2, "F")):
        uid = f"1.2.1.1.{number}"
        said = study(1) | {"SOPInstanceUID": uid, "PatientID": None, "PatientSex": sex}
        write_dicom(house.drop / "x.dcm", **said)
        house.chain(DAYS[number])
    assert sex_and_year(house) == {None: (FEMALE, None)}
    do(house, DAYS[3], "delete", sopInstanceUid="1.2.1.1.2")
    assert sex_and_year(house) == {None: (MALE, None)}


@pytest.fixture
def unfinished(house, write_dicom):
    """A man's study that gold does not hold yet, and a woman's under the same Patient ID."""
    write_dicom(house.drop / "x.dcm", **study(1), PatientSex="M")
    house.chain(DAYS[0], until="flatten")
    write_dicom(house.drop / "x.dcm", **study(2), PatientSex="F")
    house.chain(DAYS[1])
    return house


def test_a_deleted_study_says_nothing_of_a_patient_whose_other_study_came_to_gold_later(
    unfinished,
):
    do(unfinished, DAYS[2], "delete", studyInstanceUid="1.2.2")
    unfinished.chain(DAYS[0])
    assert sex_and_year(unfinished) == {"P1": (MALE, None)}


def test_a_study_given_to_another_says_nothing_of_whom_it_was_whichever_date_was_stopped(
    unfinished,
):
    what = {"studyInstanceUid": "1.2.2", "patientId": "P1", "newPatientId": "P2"}
    do(unfinished, DAYS[2], "change_patient", **what)
    unfinished.chain(DAYS[0])
    assert sex_and_year(unfinished) == {"P1": (MALE, None), "P2": (FEMALE, None)}


def test_a_deleted_study_says_nothing_though_another_of_the_patient_gets_a_file(house, write_dicom):
    for number, sex in ((1, "M"), (2, "F")):
        write_dicom(house.drop / "x.dcm", **study(number), PatientSex=sex)
        house.chain(DAYS[number])
    said = operation(
        operation="delete", requestedBy="me", reason="wrong", id="1", studyInstanceUid="1.2.2"
    )
    ask.ask(house.run.engine, said, source_system="default")
    write_dicom(house.drop / "x.dcm", **study(1) | {"SOPInstanceUID": "1.2.1.1.2"})
    house.chain(DAYS[3])
    assert sex_and_year(house) == {"P1": (MALE, None)}


def study(number: int) -> dict[str, str | None]:
    """The UIDs of a study of one instance, of patient P1."""
    uid = f"1.2.{number}"
    return one(StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1", SOPInstanceUID=f"{uid}.1.1")


def sex_and_year(house) -> dict[str | None, tuple[int, int | None]]:
    rows = house.rows(catalog.PERSON)
    return {
        row["person_source_value"]: (row["gender_concept_id"], row["year_of_birth"]) for row in rows
    }
