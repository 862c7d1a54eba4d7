"""Corrections: deletes, restores and changes of patient flow through to gold, once."""

import json
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_assets.lakehouse.operations import operation
from dicom_assets.lakehouse.uris import WHOLE_TAG
from dicom_assets.omop.person import GENDER_CONCEPTS
from dicom_assets.steps import ask, catalog
from dicom_assets.steps import run as run_module
from dicom_assets.steps.verify import verify
from dicom_assets_tests.conftest import DAY, House, dicom
from dicom_assets_tests.steps import test_policies
from dicom_assets_tests.steps.test_policies import broken, gold, patients, places

DAYS = [DAY + timedelta(days=number) for number in range(7)]
STUDIES = range(1, 6)
STOPS = ["organise", "extract", "settle", "convert"]
MALE, FEMALE = GENDER_CONCEPTS["M"], GENDER_CONCEPTS["F"]

Place = tuple[str, str, str, str]


def instance(
    study: int, series: int = 1, number: int = 1, **elements: str | None
) -> dict[str, str | None]:
    """An instance of a study, of the patient of the same number."""
    return test_policies.study(study, series, number) | {"PatientID": f"P{study}"} | elements


def at(study: int, series: int = 1, number: int = 1) -> Place:
    """Where silver holds it."""
    uid = f"1.2.{study}"
    return "default", uid, f"{uid}.{series}", f"{uid}.{series}.{number}"


def all_of(*studies: int) -> set[Place]:
    return {place for each in studies for place in (at(each), at(each, 1, 2), at(each, 2))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five studies of two series and three instances that have come to gold."""
    house = House(tmp_path_factory.mktemp("made") / "lakehouse")
    for study in STUDIES:
        dicom(house.drop / f"{study}a", **instance(study, StudyDescription=f"of {study}"))
        dicom(house.drop / f"{study}b", **instance(study, number=2))
        dicom(house.drop / f"{study}c", **instance(study, series=2))
    house.chain(DAYS[0])
    assert places(house) == all_of(*STUDIES)
    return house.settings.lakehouse


@pytest.fixture
def full(made, tmp_path) -> House:
    """A copy of them, to be corrected."""
    shutil.copytree(made, tmp_path / "lakehouse")
    return House(tmp_path / "lakehouse")


def asked(house, kind: str, **what: str) -> None:
    said = operation(operation=kind, requestedBy="me", reason="wrong", id=f"{kind}{what}", **what)
    ask.ask(house.run.engine, said, source_system="default")


def twice(house, day: date) -> None:
    """Runs the chain, and again."""
    house.chain(day)
    before = house.everything()
    house.chain(day)
    assert house.everything() == before, "the second run finds nothing to do"


def do(house, day: date, kind: str, **what: str) -> None:
    """Asks for an operation and runs the chain, twice."""
    asked(house, kind, **what)
    twice(house, day)


def agrees(house, *days: date) -> None:
    assert broken(house, *days) == set()
    assert dict(verify(house.settings).counts) == {}


def described(house) -> dict[str, str | None]:
    columns = ["idOrig", "description"]
    rows = house.run.engine.read(catalog.silver_imaging_study(), columns).to_pylist()
    return {row["idOrig"]: row["description"] for row in rows}


def patients_of(house) -> dict[str, str]:
    """Study → Patient ID, as silver has it."""
    rows = house.rows(catalog.silver_imaging_study())
    return {row["idOrig"]: row["subject"]["identifier"]["value"] for row in rows}


def sex_and_year(house) -> dict[str | None, tuple[int, int | None]]:
    rows = house.rows(catalog.PERSON)
    return {
        row["person_source_value"]: (row["gender_concept_id"], row["year_of_birth"]) for row in rows
    }


def test_one_acts_also_where_older_tables_were_brought_back_under_newer_files(full, tmp_path):
    do(full, DAYS[1], "delete", studyInstanceUid="1.2.1")
    root = full.settings.lakehouse
    shutil.copytree(root, tmp_path / "backup")
    do(full, DAYS[1], "delete", studyInstanceUid="1.2.2")
    for tables in root.glob("*/Tables"):
        shutil.rmtree(tables)
        shutil.copytree(tmp_path / "backup" / tables.relative_to(root), tables)
    run_module._engine.cache_clear()  # another process works now
    # its versions are those that the lost operation had
    restored = House(root)
    do(restored, DAYS[1], "delete", studyInstanceUid="1.2.3")
    assert places(restored).isdisjoint(all_of(1, 3))
    assert gold(restored) == {place[:3] for place in places(restored)}


def test_what_is_deleted_is_gone_from_silver_and_gold_until_it_is_restored(full):
    """An instance, a series, a study, and an instance of another study than is said: none."""
    operations = (
        {"sopInstanceUid": "1.2.1.1.1"},
        {"seriesInstanceUid": "1.2.2.1"},
        {"studyInstanceUid": "1.2.3"},
        {"studyInstanceUid": "1.2.5", "sopInstanceUid": "1.2.4.1.1"},
    )
    gone = {at(1), at(2), at(2, 1, 2)} | all_of(3)
    for what in operations:
        asked(full, "delete", **what)
    twice(full, DAYS[1])
    assert places(full) == all_of(*STUDIES) - gone
    assert gold(full) == {place[:3] for place in places(full)}
    assert patients(full) == {"P1", "P2", "P4", "P5"}
    assert len(full.metastore()) == 15, "bronze keeps all"
    flagged = {r["sopInstanceUid"] for r in full.rows(catalog.CURRENT_FILES) if r["deletedAt"]}
    assert flagged == {place[3] for place in gone}
    assert broken(full, *DAYS[:2]) == set()
    for what in operations:
        asked(full, "restore", **what)
    twice(full, DAYS[2])
    assert places(full) == all_of(*STUDIES)
    assert gold(full) == {place[:3] for place in all_of(*STUDIES)}
    assert patients(full) == {"P1", "P2", "P3", "P4", "P5"}
    assert broken(full, *DAYS[:3]) == set()


def test_what_arrives_after_a_delete_is_there_without_what_the_deleted_file_said(full, write_dicom):
    """The instance again, in its series or in another one, and one that FHIR cannot hold."""
    asked(full, "delete", studyInstanceUid="1.2.1")
    asked(full, "delete", seriesInstanceUid="1.2.2.1")
    asked(full, "delete", sopInstanceUid="1.2.3.1.2")
    twice(full, DAYS[1])
    write_dicom(full.drop / "w", **instance(1))
    moved = instance(2, PatientID="P7") | {"SeriesInstanceUID": "1.2.2.3"}
    write_dicom(full.drop / "x", **moved)
    with pytest.warns(UserWarning, match="Invalid value"):
        write_dicom(full.drop / "y", **instance(3, number=3) | {"SeriesInstanceUID": "1_2"})
    full.chain(DAYS[2])
    here = {at(1), ("default", "1.2.2", "1.2.2.3", "1.2.2.1.1"), at(2, 2), at(3), at(3, 2)}
    assert places(full) == here | all_of(4, 5)
    assert described(full) == {
        "1.2.1": None,
        "1.2.2": None,
        "1.2.3": "of 3",
        "1.2.4": "of 4",
        "1.2.5": "of 5",
    }
    assert full.failures() == {"y": "invalid_resource"}
    agrees(full, *DAYS[:3])


def test_reading_again_brings_nothing_back_and_gives_no_older_file_the_last_word(full, write_dicom):
    """A deleted study; two of which an instance went into the other; an older part of a study."""
    asked(full, "delete", studyInstanceUid="1.2.1")
    write_dicom(full.drop / "x", **instance(2) | {"StudyInstanceUID": "1.2.3"})
    write_dicom(full.drop / "y", **instance(4, number=3, StudyDescription="new", PatientID="P7"))
    twice(full, DAYS[1])
    moved = ("default", "1.2.3", "1.2.2.1", "1.2.2.1.1")
    held = all_of(2, 3, 4, 5) - {at(2)} | {moved, at(4, 1, 3)}
    assert places(full) == held

    asked(full, "reread", studyInstanceUid="1.2.1")
    asked(full, "reread", studyInstanceUid="1.2.2")
    asked(full, "reread", sopInstanceUid="1.2.4.1.1")
    twice(full, DAYS[2])
    assert len(full.metastore()) == 15 + 2 + 3 + 2 + 1
    assert places(full) == held
    assert (described(full)["1.2.4"], patients_of(full)["1.2.4"]) == ("new", "P7")
    assert patients(full) == set(patients_of(full).values())

    asked(full, "restore", studyInstanceUid="1.2.1")
    asked(full, "reread", studyInstanceUid="1.2.3")
    asked(full, "reread", studyInstanceUid="1.2.4")
    twice(full, DAYS[3])
    assert places(full) == held | all_of(1)
    assert (described(full)["1.2.4"], patients_of(full)["1.2.4"]) == ("new", "P7")
    assert patients(full) == set(patients_of(full).values())
    agrees(full, *DAYS[:4])


def test_a_changed_patient_has_all_studies_and_what_comes_later_too(full, write_dicom):
    """P1 in all studies, P2 in one of two, and P4, whom only an older file of a study names."""
    asked(full, "change_patient", patientId="P1", newPatientId="P5")
    write_dicom(full.drop / "x", **instance(12, PatientID="P2"))
    write_dicom(full.drop / "y", **instance(4, number=3, PatientID="P40"))
    twice(full, DAYS[1])
    held = {"1.2.1": "P5", "1.2.2": "P2", "1.2.3": "P3", "1.2.5": "P5", "1.2.12": "P2"}
    assert patients_of(full) == held | {"1.2.4": "P40"}
    assert patients(full) == {"P2", "P3", "P40", "P5"}

    write_dicom(full.drop / "x", **instance(11, PatientID="P1"))
    moved = instance(14, PatientID="P8") | {"SOPInstanceUID": "1.2.4.1.3"}
    write_dicom(full.drop / "y", **moved)
    full.chain(DAYS[2])
    assert patients_of(full) == held | {"1.2.4": "P4", "1.2.11": "P5", "1.2.14": "P8"}

    asked(full, "change_patient", patientId="P5", newPatientId="P6")
    asked(full, "change_patient", patientId="P2", newPatientId="P9", studyInstanceUid="1.2.12")
    asked(full, "change_patient", patientId="P4", newPatientId="P3")
    twice(full, DAYS[3])
    assert patients_of(full) == {
        "1.2.1": "P6",
        "1.2.5": "P6",
        "1.2.11": "P6",
        "1.2.2": "P2",
        "1.2.12": "P9",
        "1.2.3": "P3",
        "1.2.4": "P3",
        "1.2.14": "P8",
    }
    assert patients(full) == {"P2", "P3", "P6", "P8", "P9"}
    assert all_of(*STUDIES) < places(full)
    assert gold(full) == {place[:3] for place in places(full)}
    said = {row["patientId"] for row in full.metastore()}
    assert said == {"P1", "P2", "P3", "P4", "P5", "P8", "P40"}, "as the files say"
    agrees(full, *DAYS[:4])


def test_a_patient_is_only_what_the_files_and_studies_say_that_are_theirs_still(house, write_dicom):
    """Men and women; of most the file or study that came second is deleted or given to another."""
    born: Any = {"PatientSex": "M", "PatientBirthDate": "19500101"}
    arriving = [
        [
            instance(1, PatientSex="M"),
            instance(2, PatientSex="M", PatientID=None),
            instance(3, **born),
            instance(30, PatientID="P3"),
            instance(4, **born),
            instance(40, PatientID="P4"),
            instance(5, PatientSex="F", PatientBirthDate="19700101"),
            instance(6, PatientSex="M"),
            instance(7, PatientSex="M"),
        ],
        [
            instance(1, number=2, PatientSex="F"),
            instance(2, number=2, PatientSex="F", PatientID=None),
            instance(3, number=2, PatientSex="F"),
            instance(4, number=2, PatientSex="F"),
            instance(60, PatientSex="F", PatientID="P6"),
            instance(70, PatientSex="F", PatientID="P7"),
        ],
        [instance(6, number=2), instance(71, PatientBirthDate="19600101", PatientID="P7")],
    ]

    def arrive(day: int) -> None:
        for number, elements in enumerate(arriving[day]):
            write_dicom(house.drop / f"{number}.dcm", **elements)

    for day in (0, 1):
        arrive(day)
        house.chain(DAYS[day])
    assert sex_and_year(house) == {
        "P1": (FEMALE, None),
        None: (FEMALE, None),
        "P3": (FEMALE, 1950),
        "P4": (FEMALE, 1950),
        "P5": (FEMALE, 1970),
        "P6": (FEMALE, None),
        "P7": (FEMALE, None),
    }
    asked(house, "delete", sopInstanceUid="1.2.1.1.2")
    asked(house, "delete", sopInstanceUid="1.2.2.1.2")
    asked(house, "delete", studyInstanceUid="1.2.3")
    given = {"patientId": "P4", "newPatientId": "P8", "studyInstanceUid": "1.2.4"}
    asked(house, "change_patient", **given)
    asked(house, "change_patient", patientId="P5", newPatientId="P9")
    asked(house, "delete", studyInstanceUid="1.2.60")
    arrive(2)
    twice(house, DAYS[2])
    corrected = sex_and_year(house)
    assert corrected == {
        "P1": (MALE, None),
        None: (MALE, None),
        "P3": (0, None),
        "P4": (0, None),
        "P8": (FEMALE, 1950),
        "P9": (FEMALE, 1970),
        "P6": (MALE, None),
        "P7": (FEMALE, 1960),
    }
    house.chain(DAYS[1])
    assert sex_and_year(house) == corrected, "also when an older date runs again"
    agrees(house, *DAYS[:3])


def test_a_correction_holds_whichever_of_its_dates_was_stopped(full, write_dicom):
    """Of two dates, one with a late part and then one that deletes it, either may be stopped.

    Each date between the first and the last is stopped after another step: it deletes a study whose
    late part came on the first, and has a late part of one that is deleted on the last.
    """
    _, first, *stopped, last = DAYS
    late, deleted = range(11, 15), range(21, 25)
    for study in (*late, *deleted):
        write_dicom(full.drop / f"{study}.dcm", **instance(study))
    full.chain(DAYS[0])
    for study in deleted:
        write_dicom(full.drop / f"{study}.dcm", **instance(study, number=2))
    full.chain(first)
    for step, day, study, other in zip(STOPS, stopped, late, deleted, strict=True):
        write_dicom(full.drop / "x", **instance(study, number=2))
        asked(full, "delete", studyInstanceUid=f"1.2.{other}")
        full.chain(day, until=step)
    for study in late:
        asked(full, "delete", studyInstanceUid=f"1.2.{study}")
    full.chain(last)
    for day in DAYS[1:]:
        full.chain(day)
    assert places(full) == all_of(*STUDIES)
    assert gold(full) == {place[:3] for place in places(full)}
    assert broken(full, *DAYS) == set()


def test_of_two_whole_statements_the_one_that_knows_more_is_the_later_one_and_restores_agree(
    full, write_dicom
):
    """A date with a late part and a new study, stopped before any is converted; a delete of the
    study, which ends; one of an instance, stopped once it is written; then all go on.
    """
    write_dicom(full.drop / "x", **instance(1, number=3))
    write_dicom(full.drop / "y", **instance(11))
    full.chain(DAYS[1], until="extract")
    asked(full, "delete", studyInstanceUid="1.2.11")
    full.chain(DAYS[2])
    asked(full, "delete", sopInstanceUid="1.2.1.1.1")
    full.chain(DAYS[3], until="convert")
    full.chain(DAYS[1])
    full.chain(DAYS[3])
    held = all_of(*STUDIES) - {at(1)} | {at(1, 1, 3)}
    assert places(full) == held
    do(full, DAYS[4], "restore", studyInstanceUid="1.2.11")
    full.chain(DAYS[1])
    assert places(full) == held | {at(11)}
    agrees(full, *DAYS[:5])


def test_what_a_stopped_date_has_is_not_lost_though_others_overtake_it(full, write_dicom):
    """What it has of one study was followed by another part; in another one, which was corrected
    before, a file is read again meanwhile; and so is the one that a newer file of it replaces.
    """
    do(full, DAYS[1], "delete", sopInstanceUid="1.2.2.1.2")
    write_dicom(full.drop / "x", **instance(1, number=3, StudyDescription="two"))
    write_dicom(full.drop / "y", **instance(2, number=3))
    elsewhere = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.4.1"}
    write_dicom(full.drop / "z", **instance(3) | elsewhere)
    full.chain(DAYS[2], until="organise")
    write_dicom(full.drop / "x", **instance(1, number=4))
    full.chain(DAYS[3])
    asked(full, "reread", sopInstanceUid="1.2.2.1.1")
    full.chain(DAYS[4], until="convert")
    asked(full, "reread", sopInstanceUid="1.2.3.1.1")
    full.chain(DAYS[5], until="extract")
    for day in (DAYS[2], DAYS[4], DAYS[5]):
        full.chain(day)
    assert described(full)["1.2.1"] == "two"
    moved = ("default", "1.2.4", "1.2.4.1", "1.2.3.1.1")
    parts = {at(1, 1, 3), at(1, 1, 4), at(2, 1, 3)}
    assert places(full) == all_of(*STUDIES) - {at(2, 1, 2), at(3)} | parts | {moved}
    agrees(full, *DAYS[:6])


def test_a_patient_of_a_study_on_its_way_to_gold_is_kept_and_one_to_whom_nothing_points_goes(
    full, write_dicom
):
    """Whichever date was stopped: P1 and P2 have such studies, of P3 two are given to P4."""
    for study, day, stopped in ((1, DAYS[1], "flatten"), (2, DAYS[2], "person")):
        write_dicom(full.drop / "x", **instance(10 + study, PatientID=f"P{study}"))
        full.chain(day, until=stopped)
    write_dicom(full.drop / "x", **instance(13, PatientID="P3"))
    asked(full, "delete", studyInstanceUid="1.2.1")
    asked(full, "delete", studyInstanceUid="1.2.2")
    twice(full, DAYS[3])
    assert patients(full) == {"P1", "P2", "P3", "P4", "P5"}
    for day, study in ((DAYS[4], "1.2.3"), (DAYS[5], "1.2.13")):
        asked(full, "change_patient", patientId="P3", newPatientId="P4", studyInstanceUid=study)
        full.chain(day, until="person")
    full.chain(DAYS[5])
    full.chain(DAYS[4])
    assert patients(full) == {"P1", "P2", "P4", "P5"}
    full.chain(DAYS[1])
    full.chain(DAYS[2])
    assert patients(full) == {"P1", "P2", "P4", "P5"}
    agrees(full, *DAYS[:6])


def test_counts_that_were_declared_hold_after_deletes_also_of_a_study_whose_uid_is_none(
    house, write_dicom
):
    for study in (1, 2):
        write_dicom(house.drop / f"{study}.dcm", **instance(study))
    with pytest.warns(UserWarning, match="Invalid value"):
        write_dicom(house.drop / "3.dcm", **instance(3) | {"StudyInstanceUID": "my study"})
    expected = {"process_files": 3, "dicomimagingmetastore": 3, "ImagingStudy": 3}
    expected["Image_Occurrence"] = 3
    (house.drop / "dicom_assets_manifest.json").write_text(json.dumps({"expected": expected}))
    house.chain(DAYS[0])
    assert len(places(house)) == 3
    assert broken(house, DAYS[0]) == set()
    asked(house, "delete", studyInstanceUid="1.2.1")
    asked(house, "delete", studyInstanceUid="my study")
    twice(house, DAYS[0])
    assert places(house) == {at(2)}
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
    do(full, DAYS[2], "delete", sopInstanceUid="1.2.1.1.1")
    theirs("tag.ndjson", DAYS[3], meta={**old, "tag": [WHOLE_TAG]})
    seen = ("default", "1.2.1", "5.1", "5.1.1")
    assert places(full) == all_of(*STUDIES) - {at(1)} | {seen}
    rows = {row["idOrig"]: row for row in full.rows(catalog.silver_imaging_study())}
    assert rows["1.2.1"]["note_string"] and "seen" in rows["1.2.1"]["note_string"]


def test_the_newest_file_that_counts_says_a_patients_sex_whichever_date_was_stopped(
    house, write_dicom
):
    """Of one date three studies are not in gold yet.

    Of one patient there was a study before and comes one after; of two others a woman's study comes
    under the same Patient ID, which is then deleted, or given to another.
    """
    write_dicom(house.drop / "1.dcm", **instance(1, PatientSex="M"))
    house.chain(DAYS[0])
    write_dicom(house.drop / "1.dcm", **instance(11, PatientID="P1", PatientSex="F"))
    for study in (2, 3):
        write_dicom(house.drop / f"{study}.dcm", **instance(study, PatientSex="M"))
    house.chain(DAYS[1], until="flatten")
    write_dicom(house.drop / "1.dcm", **instance(21, PatientID="P1", PatientBirthDate="19600101"))
    for study in (2, 3):
        woman = instance(10 + study, PatientID=f"P{study}", PatientSex="F")
        write_dicom(house.drop / f"{study}.dcm", **woman)
    house.chain(DAYS[2])
    asked(house, "delete", studyInstanceUid="1.2.12")
    given = {"patientId": "P3", "newPatientId": "P4", "studyInstanceUid": "1.2.13"}
    asked(house, "change_patient", **given)
    twice(house, DAYS[3])
    house.chain(DAYS[1])
    assert sex_and_year(house) == {
        "P1": (FEMALE, 1960),
        "P2": (MALE, None),
        "P3": (MALE, None),
        "P4": (FEMALE, None),
    }
