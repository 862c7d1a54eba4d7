"""The rules: they hold after every odd but right run, and not after a wrong one."""

import json
from collections import Counter
from datetime import timedelta

from dicom_assets.defs.checks import RULES
from dicom_assets.dicom.own_zip import write_zip
from dicom_assets.lakehouse.layout import zip_name
from dicom_assets.lakehouse.manifest import NAME as MANIFEST_NAME
from dicom_assets.steps import catalog, to_omop
from dicom_assets.steps.organise import organise
from dicom_assets.steps.promote import fill
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.reconcile_rows import UNKNOWN


def broken(house, run=None) -> set[str]:
    """Names of the blocking rules that do not hold."""
    day = Day(run or house.run)
    return {rule.name for rule in RULES if rule.blocking and not rule.evaluate(day)[0]}


def test_a_run_killed_between_zip_and_removal_does_not_block_the_next(house, write_dicom):
    write_dicom(house.drop / "x.dcm")
    organise(house.run)
    (file,) = house.files("bronze/Files/Process")
    with file.open("rb") as stream:
        write_zip(stream, file.with_name(zip_name(file.name)), member="x.dcm", level=1)
    assert "files_match_rows" not in broken(house)
    house.chain()
    assert broken(house) == set()


def test_a_vanished_file_one_that_nobody_organised_and_a_line_in_no_table_are_noticed(
    house, write_dicom
):
    write_dicom(house.drop / "x.dcm")
    house.chain()
    (file,) = house.files("bronze/Files/Process/Clinical")
    file.write_bytes(2 * file.read_bytes())
    assert broken(house) == {"every_line_has_a_row"}
    (file,) = house.files("bronze/Files/Process/Imaging")
    file.rename(file.with_name("stranger.dcm.zip"))
    assert Day(house.run).unaccounted() == {"rows_without_file": 1, "files_without_row": 1}
    assert broken(house) >= {"files_match_rows", "every_line_has_a_row"}


def test_what_fails_is_a_failure_by_itself_and_blocks_nothing(house, write_dicom):
    write_dicom(house.drop / "gone.dcm")
    organise(house.run)
    house.files("bronze/Files/Process/Imaging")[0].unlink()
    write_dicom(house.drop / "good.dcm", SOPInstanceUID="1.2.5")
    content = (house.drop / "good.dcm").read_bytes()
    (house.drop / "bad.dcm").write_bytes(
        content.replace(b"UI\x06\x001.2.5\0", b"UI\x06\x00a_b_c\0")
    )
    for folder, text in (("a", "{nonsense"), ("b", "{}"), ("c", '{"expected": ["1"]}')):
        (house.drop / folder).mkdir()
        (house.drop / folder / MANIFEST_NAME).write_text(text)
    lines = house.run.engine.layout.fhir_folder("default", house.run.ingest_date, "ImagingStudy")
    lines.mkdir(parents=True)
    (lines / "no ids.ndjson").write_text("{nonsense\n[1]\n")
    (lines / "invalid.ndjson").write_text(
        '{"resourceType": "ImagingStudy"}\n'
        '{"resourceType": "ImagingStudy", "id": "7", "status": "none"}\n'
    )
    house.chain()
    failures = house.rows(catalog.INGESTION_FAILURES)
    assert Counter((row["step"], row["reasonCode"]) for row in failures) == {
        ("extract", "unreadable"): 1,
        ("convert", "invalid_resource"): 1,
        ("organise", "invalid_json"): 3,
        ("ingest_fhir", "invalid_json"): 2,
        ("flatten", "invalid_resource"): 2,
    }
    found = Day(house.run).lines
    assert (len(found), (found == UNKNOWN).sum()) == (5, 3)
    assert broken(house) == set()


def test_no_folder_name_reaches_the_work_area(make_house, write_dicom):
    house = make_house(source_systems="*")
    for name in (".organise", "2026", "a|b", "default"):
        write_dicom(house.drop / name / "x.dcm")
    for _ in range(2):
        house.chain()
    assert len(house.files("bronze/Files/Process/Imaging")) == 4
    assert {row["sourceSystem"] for row in house.metastore()} == {"default"}


def test_a_crosswalk_that_changes_and_a_column_promoted_later_are_taken_and_make_no_row_new(
    make_house, write_dicom, tmp_path
):
    house = make_house()
    write_dicom(house.drop / "x.dcm", KVP="120")
    house.chain()
    crosswalk = tmp_path / "persons.csv"
    crosswalk.write_text("source_system,person_source_value,person_id\ndefault,P1,42\n")
    house = make_house(person_crosswalk=crosswalk)
    house.chain()
    (series,) = house.rows(catalog.IMAGE_OCCURRENCE)
    assert series["person_id"] == 42
    assert broken(house) == set()
    house = make_house(person_crosswalk=crosswalk, promoted_tags={"KVP": "kvp"})
    assert fill(house.run.engine, house.settings).rows == 1
    house.chain()
    assert len(house.rows(catalog.BRONZE_IMAGING_STUDY)) == 1
    assert len(house.files("bronze/Files/Process/Clinical")) == 1
    write_dicom(house.drop / "y.dcm", StudyInstanceUID="1.2.2")
    house.chain()
    studies = [row["id"] for row in house.rows(catalog.BRONZE_IMAGING_STUDY)]
    assert sorted(studies) == ["1.2.2", "1.2.3.4"], "what comes later is new alone"
    assert broken(house) == set()


def test_a_later_date_names_a_patient_moves_an_instance_and_keeps_namespaces_apart(
    make_house, write_dicom
):
    house = make_house(source_systems="*")
    write_dicom(house.drop / "x.dcm", PatientID=None, PatientSex="F")
    moved = {"SOPInstanceUID": "1.2.9", "StudyInstanceUID": "1.2.3.5", "PatientID": "P2"}
    write_dicom(house.drop / "moved.dcm", SeriesInstanceUID="1.2.3.5.1", **moved)
    write_dicom(house.drop / "B/u.dcm", StudyInstanceUID="1.2.1")
    house.chain()
    later = house.run.ingest_date + timedelta(days=1)
    write_dicom(house.drop / "y.dcm")
    write_dicom(house.drop / "moved.dcm", SeriesInstanceUID="1.2.3.5.2", **moved)
    write_dicom(house.drop / "A/u.dcm", StudyInstanceUID="1.2.1")
    write_dicom(house.drop / "B/v.dcm", StudyInstanceUID="1.2.2")
    house.chain(later)
    people = sorted(
        (row["person_source_value"], row["gender_concept_id"])
        for row in house.rows(catalog.PERSON)
        if row["sourceSystem"] == "default"
    )
    assert people == [("P1", 8532), ("P2", 0)], "who became known has replaced the unknown one"
    series = [
        row["image_series_uid"]
        for row in house.rows(catalog.IMAGE_OCCURRENCE)
        if row["image_study_uid"] == "1.2.3.5"
    ]
    assert series == ["1.2.3.5.2"]
    assert broken(house) == broken(house, house.on(later)) == set()


def test_gold_that_runs_before_silver_loses_nothing(house, write_dicom):
    write_dicom(house.drop / "x.dcm")
    house.chain(until="ingest_fhir")
    for step in (to_omop.procedure_occurrence, to_omop.person, to_omop.image_occurrence):
        assert step(house.run).rows == 0
    house.chain()
    assert len(house.rows(catalog.IMAGE_OCCURRENCE)) == len(house.rows(catalog.PERSON)) == 1
    assert broken(house) == set()


def test_gold_of_a_date_that_was_stopped_is_left_to_its_own_run(house, write_dicom):
    write_dicom(house.drop / "x.dcm", StudyInstanceUID="1.2.1")
    house.chain(until="flatten")
    later = house.run.ingest_date + timedelta(days=1)
    write_dicom(house.drop / "y.dcm", StudyInstanceUID="1.2.2", PatientID="P2")
    house.chain(later)
    (series,) = house.rows(catalog.IMAGE_OCCURRENCE)
    assert series["image_study_uid"] == "1.2.2"
    assert broken(house, house.on(later)) == set()
    house.chain()
    assert len(house.rows(catalog.IMAGE_OCCURRENCE)) == len(house.rows(catalog.PERSON)) == 2


def test_each_manifest_is_about_its_own_folder_and_a_delivery_may_come_again_with_its_own(
    house, write_dicom
):
    def declare(folder: str, **counts: int) -> None:
        (house.drop / folder).mkdir(parents=True, exist_ok=True)
        (house.drop / folder / MANIFEST_NAME).write_text(json.dumps({"expected": counts}))

    for folder in "ab":
        write_dicom(house.drop / folder / "x.dcm")
        counts = {"process_files": 1, "dicomimagingmetastore": 1, "ImagingStudy": 1}
        declare(folder, **counts, Image_Occurrence=1)
    write_dicom(house.drop / "of_nobody.dcm")
    for _ in range(2):
        for name in "12":
            write_dicom(house.drop / "again" / name, SOPInstanceUID=f"1.2.{name}")
        declare("again", process_files=2, dicomimagingmetastore=2, ImagingStudy=1)
        house.chain()
        assert broken(house) == set()
        assert set(Day(house.run).manifests) == {"a", "b", "again"}
    write_dicom(house.drop / "again/3")
    declare("again", process_files=1)
    write_dicom(house.drop / "a/later.dcm")
    house.chain()
    assert broken(house) == {"counts_as_declared"}
    declare("a", process_files=2)
    house.chain()
    assert broken(house) == set()


def test_failed_files_that_are_sent_again_or_mended_in_failed_are_as_declared(house, write_dicom):
    write_dicom(house.drop / "1.dcm")
    write_dicom(house.drop / "2.dcm", StudyInstanceUID=None)
    write_dicom(house.drop / "3.dcm", SeriesInstanceUID=None)
    counts = {"process_files": 3, "dicomimagingmetastore": 3}
    (house.drop / MANIFEST_NAME).write_text(json.dumps({"expected": counts}))
    house.chain()
    assert broken(house) == {"counts_as_declared"}
    (mended,) = (file for file in house.files("bronze/Files/Failed") if file.match("*_3.dcm"))
    mended.unlink()
    for name in ("2.dcm", "3.dcm"):
        write_dicom(house.drop / name)
    house.chain()
    assert broken(house) == set()
    assert len(house.metastore()) == 3


def test_text_that_people_typed_into_a_code_is_not_shown(house, write_dicom):
    write_dicom(house.drop / "x.dcm", Modality="Doe, Jane", BodyPartExamined="JANE DOE")
    write_dicom(house.drop / "y.dcm", BodyPartExamined="DOE", SeriesInstanceUID="1.2.3.4.2")
    house.chain()
    day = Day(house.run)
    assert set(day.by_modality()["modality"]) == {"other", "CT"}
    assert day.unmapped() == {"modality other": 1, "anatomic_site other": 2}


def test_failures_of_the_same_name_at_the_same_time_are_both_kept(house, write_dicom, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    for size in (1, 2):
        write_dicom(house.drop / "x.dcm", StudyInstanceUID=None, InstanceNumber=size)
        house.chain()
    assert len(house.files("bronze/Files/Failed")) == 2
