"""The rules: they hold after every odd but right run, and not after a wrong one."""

from datetime import timedelta

from dicom_assets.defs.checks import RULES
from dicom_assets.dicom.archives import write_zip
from dicom_assets.lakehouse.layout import zip_name
from dicom_assets.lakehouse.manifest import NAME as MANIFEST_NAME
from dicom_assets.steps import catalog
from dicom_assets.steps.organise import organise
from dicom_assets.steps.promote import fill
from dicom_assets.steps.reconcile import Day


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


def test_a_file_that_vanished_and_a_file_nobody_organised_are_noticed(house, write_dicom):
    write_dicom(house.drop / "x.dcm")
    house.chain()
    (file,) = house.files("bronze/Files/Process/Imaging")
    file.rename(file.with_name("stranger.dcm.zip"))
    assert Day(house.run).unaccounted() == {"rows_without_file": 1, "files_without_row": 1}
    assert "files_match_rows" in broken(house)


def test_an_instance_that_fhir_cannot_hold_fails_alone_and_blocks_nothing(house, write_dicom):
    write_dicom(house.drop / "good.dcm", SOPInstanceUID="1.2.5")
    content = (house.drop / "good.dcm").read_bytes()
    (house.drop / "bad.dcm").write_bytes(
        content.replace(b"UI\x06\x001.2.5\0", b"UI\x06\x00a_b_c\0")
    )
    house.chain()
    assert [row["reasonCode"] for row in house.rows(catalog.INGESTION_FAILURES)] == [
        "invalid_resource"
    ]
    assert broken(house) == set()


def test_two_namespaces_do_not_answer_for_each_other(make_house, write_dicom):
    house = make_house(source_systems="*")
    write_dicom(house.drop / "B/u.dcm", StudyInstanceUID="1.2.1")
    house.chain()
    later = house.run.ingest_date + timedelta(days=1)
    write_dicom(house.drop / "A/u.dcm", StudyInstanceUID="1.2.1")
    write_dicom(house.drop / "B/v.dcm", StudyInstanceUID="1.2.2")
    house.chain(later)
    assert broken(house, house.on(later)) == set()


def test_no_folder_name_reaches_the_work_area(make_house, write_dicom):
    house = make_house(source_systems="*")
    for name in (".organise", "2026", "a|b", "default"):
        write_dicom(house.drop / name / "x.dcm")
    for _ in range(2):
        house.chain()
    assert len(house.files("bronze/Files/Process/Imaging")) == 4
    assert {row["sourceSystem"] for row in house.metastore()} == {"default"}


def test_a_manifest_that_declares_nothing_is_a_failure(house, write_dicom):
    write_dicom(house.drop / "x.dcm")
    for folder, text in (("a", "{nonsense"), ("b", "{}"), ("c", '{"expected": ["1"]}')):
        (house.drop / folder).mkdir()
        (house.drop / folder / MANIFEST_NAME).write_text(text)
    house.chain()
    assert set(house.failures().values()) == {"invalid_json"}
    assert broken(house) == set()


def test_a_foreign_line_without_id_breaks_no_check(house, write_dicom):
    write_dicom(house.drop / "x.dcm")
    folder = house.run.engine.layout.fhir_folder("default", house.run.ingest_date, "ImagingStudy")
    folder.mkdir(parents=True)
    (folder / "foreign.ndjson").write_text("{nonsense\n[]\n")
    house.chain()
    assert len(Day(house.run).lines) == 1


def test_filling_a_promoted_column_makes_no_row_new(make_house, write_dicom):
    house = make_house()
    write_dicom(house.drop / "x.dcm", KVP="120")
    house.chain()
    house = make_house(promoted_tags={"KVP": "kvp"})
    assert fill(house.run.engine, house.settings).rows == 1
    house.chain()
    assert len(house.rows(catalog.BRONZE_IMAGING_STUDY)) == 1
    assert len(house.files("bronze/Files/Process/Clinical")) == 1


def test_failures_of_the_same_name_at_the_same_time_are_both_kept(house, write_dicom, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    for size in (1, 2):
        write_dicom(house.drop / "x.dcm", StudyInstanceUID=None, InstanceNumber=size)
        house.chain()
    assert len(house.files("bronze/Files/Failed")) == 2
