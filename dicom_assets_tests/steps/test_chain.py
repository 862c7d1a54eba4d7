"""The steps after each other, on real input."""

import shutil
import zipfile
from collections import Counter
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import orjson
import pytest
from fhir.resources.R4B.imagingstudy import ImagingStudy

from dicom_assets.steps import catalog
from dicom_assets.steps.convert import convert
from dicom_assets.steps.ingest_fhir import ingest_fhir
from dicom_assets.steps.run import Run
from dicom_assets_tests.conftest import dicom

DAY = date(2026, 3, 14)
FHIR = "bronze/Files/Process/Clinical/FHIR NDJSON/2026/03/14/ImagingStudy"


def layers(house) -> tuple[int, int, int]:
    """Instances, studies and series: rows of metastore, silver and gold."""
    return (
        len(house.metastore()),
        len(house.rows(catalog.silver_imaging_study())),
        len(house.rows(catalog.IMAGE_OCCURRENCE)),
    )


@pytest.fixture(scope="module")
def with_sample(house_class, sample, tmp_path_factory):
    house = house_class(tmp_path_factory.mktemp("sample") / "lakehouse")
    shutil.copytree(sample / "Imaging/DICOM", house.drop, dirs_exist_ok=True)
    house.chain()
    return house


@pytest.fixture(scope="module")
def two_days(house_class, tmp_path_factory):
    house = house_class(tmp_path_factory.mktemp("two_days") / "lakehouse")
    for number in range(2):
        dicom(house.drop / "x.dcm", StudyInstanceUID=f"1.2.{number}")
        house.chain(DAY + timedelta(days=number))
    return house


def test_the_sample_gives_96_instances_9_studies_24_series(with_sample):
    house = with_sample
    zips = house.files("bronze/Files/Process/Imaging")
    assert len(zips) == 96
    assert all(path.name.endswith(".dcm.zip") for path in zips)
    assert len(house.files(FHIR)) == 1
    assert len(house.rows(catalog.BRONZE_IMAGING_STUDY)) == 9
    assert layers(house) == (96, 9, 24)
    assert house.files("bronze/Files/Ingest") == house.files("bronze/Files/Failed") == []


def test_running_again_changes_no_file_and_no_table(with_sample):
    before = with_sample.everything()
    with_sample.chain()
    assert with_sample.everything() == before


def test_every_line_is_valid_fhir(with_sample):
    lines = with_sample.files(FHIR)[0].read_bytes().splitlines()
    for line in lines:
        ImagingStudy.model_validate_json(line)
    bronze = with_sample.rows(catalog.BRONZE_IMAGING_STUDY)
    assert [row["resource"].encode() for row in sorted(bronze, key=lambda r: r["lineNumber"])] == (
        lines
    )


def test_gold_points_to_people_procedures_and_folders_that_exist(with_sample):
    gold = with_sample.rows(catalog.IMAGE_OCCURRENCE)
    people = {row["person_id"] for row in with_sample.rows(catalog.PERSON)}
    procedures = with_sample.rows(catalog.PROCEDURE_OCCURRENCE)
    assert {row["person_id"] for row in gold} == people
    assert {row["procedure_occurrence_id"] for row in gold} == {
        row["procedure_occurrence_id"] for row in procedures
    }
    assert all((with_sample.settings.lakehouse / row["local_path"]).is_dir() for row in gold)
    assert len(people) == 7


def test_the_96_real_files_give_96_instances_9_studies_24_series(house, shared_dicom):
    for name in (shared_dicom / "sample96.txt").read_text().split():
        target = house.drop / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shared_dicom / name, target)
    house.chain()
    assert layers(house) == (96, 9, 24)
    assert house.failures() == {}


def members_of(path: Path) -> Counter[str]:
    """Counts an archive's members by name, when Python's own zipfile can read them all."""
    with suppress(Exception), zipfile.ZipFile(path) as archive:  # zipfile raises many on odd ones
        files = [each for each in archive.infolist() if not each.is_dir()]
        is_plain = all(each.filename.isprintable() for each in files)
        if len(files) < 1000 and is_plain and archive.testzip() is None:
            return Counter(each.filename for each in files)
    return Counter()


def test_everything_published_at_once_is_a_row_or_a_failure_with_a_reason(
    with_published, shared_dicom
):
    house = with_published
    dropped = [
        path
        for path in shared_dicom.rglob("*")
        if path.is_file() and path.suffix not in (".md", ".txt")
    ]
    readable = {
        path.relative_to(shared_dicom).as_posix(): names
        for path in dropped
        if (names := members_of(path))
    }
    assert len(readable) > 20
    rows, failures = house.metastore(), house.rows(catalog.INGESTION_FAILURES)
    loose = {row["sourcePath"].split("!/")[0] for row in [*rows, *failures]}
    assert len(loose) == len(dropped) + 1, "and one of ours"
    projects = Counter(path.partition("/")[0] for path in loose)
    assert (projects["libzip-regress"], projects["pydicom-testfiles"]) == (165, 193), "all of both"
    counted = Counter(row["sourcePath"] for row in [*house.rows(catalog.PROCESS_FILES), *failures])
    for archive, names in readable.items():
        if archive in house.failures():  # as a whole
            continue
        members = Counter({f"{archive}!/{name}": number for name, number in names.items()})
        assert not members - counted, "each member is a file or a failure"
    taken = house.rows(catalog.PROCESS_FILES)
    extract_failures = [row for row in failures if row["step"] == "extract"]
    assert len(taken) == len(rows) + len(extract_failures)
    assert house.files("bronze/Files/Ingest") == []
    assert all((house.settings.lakehouse / row["failedPath"]).exists() for row in failures)
    reasons = house.failures()
    zips = "libzip-regress/"
    assert reasons[f"{zips}manyfiles-zip.zip"] == "archive_bomb"
    assert reasons[f"{zips}encrypt.zip!/encrypted"] == "archive_encrypted"
    assert reasons["nibabel/nibabel/nicom/tests/data/philips_mprage.dcm.gz"] == "not_dicom"
    assert reasons["pydicom-testfiles/palettes/pet.dcm"] == "no_study_uid"
    assert reasons["pydicom-testfiles/test_files/dicomdirtests/DICOMDIR"] == "dicomdir"


def test_a_study_delivered_in_three_parts_on_three_days_is_one_study(house, write_dicom):
    for part in range(3):
        for number in range(2):
            write_dicom(
                house.drop / f"{number}.dcm",
                SeriesInstanceUID=f"1.2.3.4.{part // 2}",
                InstanceNumber=2 * part + number,
                StudyDescription=f"as of part {part}",
            )
        house.chain(DAY + timedelta(days=part))
    assert layers(house) == (6, 1, 2)
    (study,) = house.rows(catalog.silver_imaging_study())
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (2, 6)
    assert [series["numberOfInstances"] for series in study["series"]] == [4, 2]
    assert study["description"] == "as of part 2"
    folders = {row["image_series_uid"]: row["local_path"] for row in gold(house)}
    assert folders == {
        "1.2.3.4.0": "bronze/Files/Process/Imaging/DICOM/2026/03/15",
        "1.2.3.4.1": "bronze/Files/Process/Imaging/DICOM/2026/03/16",
    }


def gold(house) -> list[dict]:
    return house.rows(catalog.IMAGE_OCCURRENCE)


def test_an_older_day_that_is_finished_after_a_newer_one_does_not_win(house, write_dicom):
    same = {"SOPInstanceUID": "1.2.9", "StudyDate": None}
    write_dicom(house.drop / "1.dcm", StudyDescription="older", PatientSex="M", **same)
    house.chain(until="organise")
    write_dicom(house.drop / "1.dcm", StudyDescription="newer", PatientSex="F", **same)
    house.chain(DAY + timedelta(days=1))
    house.chain()
    (study,) = house.rows(catalog.silver_imaging_study())
    (patient,) = house.rows(catalog.PERSON)
    assert (study["description"], study["numberOfInstances"]) == ("newer", 1)
    assert patient["gender_concept_id"] == 8532


@pytest.mark.parametrize("lost", ["bronze/Tables/dicomimagingmetastore", "silver", "gold"])
def test_a_layer_that_was_removed_is_made_again_from_the_one_before(two_days, tmp_path, lost):
    before = layers(two_days)
    shutil.copytree(two_days.settings.lakehouse, tmp_path / "lakehouse")
    house = two_days.__class__(tmp_path / "lakehouse")
    shutil.rmtree(house.settings.lakehouse / lost)
    for number in range(2):
        house.chain(DAY + timedelta(days=number))
    assert layers(house) == before == (2, 2, 2)
    assert house.failures() == {}


def test_a_killed_conversion_is_taken_up_without_a_second_file(house, write_dicom, monkeypatch):
    from dicom_assets.steps.extract import extract
    from dicom_assets.steps.organise import organise

    write_dicom(house.drop / "x.dcm")
    organise(house.run)
    extract(house.run)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(house.run)
    (file,) = house.files(FHIR)
    write_dicom(house.drop / "later.dcm", StudyInstanceUID="1.2.3.5")
    house.chain()
    ids = [orjson.loads(line)["id"] for path in house.files(FHIR) for line in path.open("rb")]
    assert sorted(ids) == ["1.2.3.4", "1.2.3.5"]
    assert house.files(FHIR)[0] == file
    assert layers(house) == (2, 2, 2)


def test_a_file_that_cannot_be_told_fails_once_though_another_tells_of_its_instance(
    house, write_dicom
):
    for name, number, patient, series in (
        ("a", 1, "P1", "1.2.3.4.1"),
        ("b", 2, "P2", "1.2.3.4.1"),  # so the study is written whole
        ("c", 1, "P1", "1." * 32 + "1"),
    ):
        write_dicom(
            house.drop / f"{name}.dcm",
            SOPInstanceUID=f"1.2.{number}",
            PatientID=patient,
            SeriesInstanceUID=series,
        )
    house.chain()
    (failure,) = house.rows(catalog.INGESTION_FAILURES)
    assert (failure["step"], failure["sourcePath"]) == ("convert", "c.dcm")
    (study,) = house.rows(catalog.silver_imaging_study())
    assert study["numberOfInstances"] == 2


def test_bad_lines_fail_alone_with_their_number_and_the_good_ones_are_kept(house):
    folder = house.settings.lakehouse / FHIR
    folder.mkdir(parents=True)
    good = orjson.dumps(
        {"resourceType": "ImagingStudy", "id": "1", "status": "available", "subject": {}}
    )
    (folder / "x.ndjson").write_bytes(good + b"\n{nonsense\n" + b'{"resourceType":"Patient"}\n')
    for _ in range(2):
        ingest_fhir(house.run, catalog.BRONZE_IMAGING_STUDY)
    (row,) = house.rows(catalog.BRONZE_IMAGING_STUDY)
    assert (row["resource"], row["lineNumber"]) == (good.decode(), 1)
    failures = house.rows(catalog.INGESTION_FAILURES)
    assert [(f["line"], f["reasonCode"]) for f in failures] == [
        (2, "invalid_json"),
        (3, "wrong_resource_type"),
    ]
    kept = house.settings.lakehouse / failures[0]["failedPath"]
    assert kept.read_bytes() == b'{nonsense\n{"resourceType":"Patient"}\n'


def test_bad_lines_at_the_end_of_a_large_file_fail_alone_too(house, monkeypatch):
    monkeypatch.setattr("dicom_assets.steps.ingest_fhir._BATCH_BYTES", 100)
    folder = house.settings.lakehouse / FHIR
    folder.mkdir(parents=True)
    good = '{"resourceType": "ImagingStudy", "id": "%d"}\n'
    (folder / "x.ndjson").write_text("".join(good % n for n in range(9)) + "{nonsense\n")
    ingest_fhir(house.run, catalog.BRONZE_IMAGING_STUDY)
    assert len(house.rows(catalog.BRONZE_IMAGING_STUDY)) == 9
    assert len(house.rows(catalog.INGESTION_FAILURES)) == 1


def test_a_lakehouse_can_be_moved(with_sample, tmp_path):
    copied, moved = tmp_path / "copied", tmp_path / "elsewhere"
    shutil.copytree(with_sample.settings.lakehouse, copied)
    shutil.move(copied, moved)
    for row in with_sample.__class__(moved).metastore():
        assert Path(moved / row["filePath"]).is_file()
