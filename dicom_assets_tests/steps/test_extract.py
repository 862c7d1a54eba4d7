import hashlib
import json
import os
import pickle
import zipfile

import pyarrow as pa
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS
from dicom_assets.steps import catalog
from dicom_assets.steps import run as run_module
from dicom_assets.steps.extract import _chunks, extract
from dicom_assets.steps.organise import organise
from dicom_assets.steps.promote import fill
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.run import Run

PROCESS = "bronze/Files/Process/Imaging/DICOM"
FAILED = "bronze/Files/Failed/Imaging/DICOM"


def ingest(house):
    organise(house.run)
    return extract(house.run)


def test_a_row_says_what_the_file_says(house, write_dicom):
    dataset = write_dicom(house.drop / "PACS/x.dcm", SeriesNumber=7, KVP="120", StudyTime="0930")
    content = (house.drop / "PACS/x.dcm").read_bytes()
    ingest(house)
    (row,) = house.metastore()
    assert row["sopInstanceUid"] == dataset.SOPInstanceUID
    assert (row["patientName"], row["studyTime"], row["seriesNumber"]) == ("Doe^Jane", "0930", "7")
    assert row["contentHash"] == hashlib.sha256(content).hexdigest()
    assert row["fileSize"] == len(content)
    assert row["sourcePath"] == "PACS/x.dcm"
    assert row["transferSyntaxUid"] == "1.2.840.10008.1.2.1"
    assert json.loads(row["metadata_string"]) == dataset.to_json_dict()
    metadata = dict(row["metadata"])
    assert metadata["00180060"] == {"vr": "DS", "Value": ["120.0"]}
    assert metadata["00100010"] == {"vr": "PN", "Value": ['{"Alphabetic":"Doe^Jane"}']}


def test_there_are_29_promoted_columns_and_the_three_uids_are_required():
    schema = catalog.metastore().schema
    assert len(PROMOTED_TAGS) == 29
    required = {field.name for field in schema if not field.nullable}
    assert {"studyInstanceUid", "seriesInstanceUid", "sopInstanceUid"} <= required


def test_each_file_gets_a_zip_of_its_own_with_the_same_bytes(house, write_dicom):
    write_dicom(house.drop / "x.dcm")
    write_dicom(house.drop / "IM1")
    contents = {(house.drop / name).read_bytes() for name in ("x.dcm", "IM1")}
    ingest(house)
    zips = house.files(PROCESS)
    assert [path.name.split("_")[1] for path in zips] == ["IM1.dcm.zip", "x.dcm.zip"]
    inside = set()
    for path in zips:
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == [path.name.removesuffix(".zip")]
            inside.add(archive.read(archive.namelist()[0]))
    assert inside == contents
    assert {row["filePath"] for row in house.metastore()} == {
        path.relative_to(house.settings.lakehouse).as_posix() for path in zips
    }


def test_a_carried_over_member_is_read_where_it_lies(house, write_dicom, tmp_path):
    write_dicom(tmp_path / "x.dcm", SOPInstanceUID="1.2.3.9")
    write_dicom(tmp_path / "bad.dcm", StudyInstanceUID=None)
    with zipfile.ZipFile(house.drop / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "x.dcm", "x.dcm")
        archive.write(tmp_path / "bad.dcm", "bad.dcm")
    organise(house.run)
    before = {file.name: file.read_bytes() for file in house.files(PROCESS)}
    extract(house.run)
    (row,) = house.metastore()
    content = (tmp_path / "x.dcm").read_bytes()
    assert row["contentHash"] == hashlib.sha256(content).hexdigest()
    assert (row["fileSize"], row["sopInstanceUid"]) == (len(content), "1.2.3.9")
    (file,) = house.files(PROCESS)
    assert file.read_bytes() == before[file.name]
    assert house.failures() == {"x.zip!/bad.dcm": "no_study_uid"}
    (failed,) = house.files(FAILED)
    assert failed.read_bytes() == before[failed.name]


def test_compressed_pixels_are_stored_and_not_deflated_in_vain(house, write_dicom):
    noise = os.urandom(100_000)
    for name, syntax in (("native", ExplicitVRLittleEndian), ("jpeg", JPEG2000)):
        dataset = write_dicom(house.drop / name)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = noise if name == "native" else encapsulate([noise])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = name == "jpeg"
        dataset.save_as(house.drop / name, enforce_file_format=True)
    organise(house.run)
    extract(house.run)
    methods = {}
    for file in house.files(PROCESS):
        with zipfile.ZipFile(file) as own:
            methods[file.name.split("_")[1]] = own.infolist()[0].compress_type
    assert methods == {
        "native.dcm.zip": zipfile.ZIP_DEFLATED,
        "jpeg.dcm.zip": zipfile.ZIP_STORED,
    }


def test_large_files_are_tasks_of_their_own_and_come_first():
    sizes = [1 << 10] * 20 + [8 << 20, 1 << 30] + [1 << 10] * 20
    rows = [{"filePath": f"{n:03}", "fileSize": size} for n, size in enumerate(sizes)]
    schema = pa.schema([("filePath", pa.string()), ("fileSize", pa.int64())])
    table = pa.Table.from_pylist(rows, schema=schema)
    chunks = [batch["filePath"].to_pylist() for batch in _chunks(table)]
    assert chunks[:2] == [["021"], ["020"]]
    assert sorted(name for chunk in chunks for name in chunk) == [row["filePath"] for row in rows]
    assert max(map(len, chunks)) == 16


def test_a_task_travels_with_its_own_files_alone():
    schema = pa.schema([("filePath", pa.string()), ("fileSize", pa.int64())])
    sizes = []
    for count in (32, 3200):
        rows = [{"filePath": f"{n:06}", "fileSize": 1} for n in range(count)]
        table = pa.Table.from_pylist(rows, schema=schema)
        sizes.append(len(pickle.dumps(next(iter(_chunks(table))))))
    assert sizes[0] == sizes[1]


def test_compression_can_be_turned_off(make_house, write_dicom):
    house = make_house(compress=False)
    write_dicom(house.drop / "x.dcm")
    ingest(house)
    (file,) = house.files(PROCESS)
    assert house.metastore()[0]["filePath"].endswith("_x.dcm")
    dcmread(file)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (b"\x20\x00\x0d\x00", "no_study_uid"),
        (b"\x20\x00\x0e\x00", "no_series_uid"),
        (b"\x08\x00\x18\x00", "no_sop_uid"),
    ],
)
def test_a_file_without_one_of_the_three_uids_fails_and_the_others_do_not(
    house, write_dicom, missing, reason
):
    write_dicom(house.drop / "good.dcm")
    content = (house.drop / "good.dcm").read_bytes()
    (house.drop / "bad.dcm").write_bytes(content.replace(missing, missing[:2] + b"\x1a\x00"))
    report = ingest(house)
    assert (report.rows, report.counts["failures"]) == (1, 1)
    assert house.failures() == {"bad.dcm": reason}
    (kept,) = house.files(FAILED)
    (failure,) = house.rows(catalog.INGESTION_FAILURES)
    assert house.settings.lakehouse / failure["failedPath"] == kept
    assert len(house.files(PROCESS)) == 1


def test_only_files_without_a_row_are_read(house, write_dicom):
    write_dicom(house.drop / "1.dcm")
    ingest(house)
    before = house.everything()
    assert ingest(house).rows == 0
    assert house.everything() == before
    write_dicom(house.drop / "2.dcm")
    assert ingest(house).rows == 1
    assert len(house.metastore()) == 2


def test_many_files_are_read_in_several_processes_and_commits(house, write_dicom):
    for number in range(120):
        write_dicom(house.drop / f"{number}.dcm", InstanceNumber=number)
    assert ingest(house).rows == 120
    assert {row["instanceNumber"] for row in house.metastore()} == {str(n) for n in range(120)}


def test_large_headers_are_committed_a_few_at_a_time_and_once(house, write_dicom, monkeypatch):
    monkeypatch.setattr("dicom_assets.steps.commits._BYTES_PER_COMMIT", 1)
    for number in range(40):
        uid = None if number == 20 else f"1.2.3.{number}"
        write_dicom(house.drop / f"{number}.dcm", SeriesInstanceUID=uid)
    organise(house.run)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extract(house.run)
    assert 0 < len(house.metastore()) < 39, "killed before the last commit"
    extract(house.run)
    extract(house.run)
    paths = [row["sourcePath"] for row in house.metastore()]
    assert len(paths) == len(set(paths)) == 39
    assert house.failures() == {"20.dcm": "no_series_uid"}


def test_a_run_killed_before_its_commit_makes_the_same_rows_from_the_zips(
    house, write_dicom, monkeypatch
):
    write_dicom(house.drop / "x.dcm")
    write_dicom(house.drop / "bad.dcm", StudyInstanceUID=None)
    organise(house.run)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            extract(house.run)
    assert house.files(PROCESS)[0].name.endswith(".dcm.zip")
    extract(house.run)
    assert [row["sourcePath"] for row in house.metastore()] == ["x.dcm"]
    assert house.failures() == {"bad.dcm": "no_study_uid"}


def test_a_run_killed_between_its_two_commits_records_a_failure_once(
    house, write_dicom, monkeypatch
):
    write_dicom(house.drop / "x.dcm")
    write_dicom(house.drop / "bad.dcm", StudyInstanceUID=None)
    organise(house.run)
    original = LocalEngine.append

    def killed(engine, table, *args, **kwargs):
        if table.name == "dicomimagingmetastore":
            raise KeyboardInterrupt
        original(engine, table, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            extract(house.run)
    extract(house.run)
    assert len(house.rows(catalog.INGESTION_FAILURES)) == 1
    assert len(house.metastore()) == 1


def test_two_source_systems_may_have_files_of_the_same_name(make_house, write_dicom, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    house = make_house(source_systems="*")
    for system in "AB":
        write_dicom(house.drop / system / "IM1")
        organise(house.run)
    extract(house.run)
    assert len({row["filePath"] for row in house.metastore()}) == 2
    assert Day(house.run).unaccounted() == {"rows_without_file": 0, "files_without_row": 0}


def test_a_file_that_vanished_is_a_failure(house, write_dicom):
    write_dicom(house.drop / "x.dcm")
    organise(house.run)
    house.files(PROCESS)[0].unlink()
    extract(house.run)
    assert house.failures() == {"x.dcm": "unreadable"}


def test_what_comes_after_a_table_has_lost_a_file_is_read_all_the_same(house, write_dicom):
    write_dicom(house.drop / "a.dcm", SOPInstanceUID="1.2.1")
    house.chain(until="extract")
    (lost,) = house.run.engine.layout.table("bronze", "process_files").rglob("*.parquet")
    lost.unlink()
    write_dicom(house.drop / "c.dcm", SOPInstanceUID="1.2.3")
    run_module._engine.cache_clear()  # another process works now
    house.chain(until="extract")
    uids = sorted(row["sopInstanceUid"] for row in house.rows(catalog.metastore()))
    assert uids == ["1.2.1", "1.2.3"]


def test_a_bad_value_is_kept_and_noted_and_the_row_is_written(house, write_dicom):
    write_dicom(house.drop / "x.dcm", SliceThickness="1.5")
    raw = (house.drop / "x.dcm").read_bytes()
    (house.drop / "x.dcm").write_bytes(raw.replace(b"DS\x04\x001.5 ", b"DS\x04\x00abc "))
    ingest(house)
    (row,) = house.metastore()
    assert json.loads(row["metadata_string"])["00180050"]["Value"] == ["abc"]
    assert row["decodeNotes"][0].startswith("00180050 ")
    assert "abc" not in row["decodeNotes"][0]


def test_a_configured_tag_is_promoted_in_new_rows_and_filled_in_old_ones(make_house, write_dicom):
    house = make_house()
    write_dicom(house.drop / "old.dcm", KVP="120", ImageType=["ORIGINAL", "PRIMARY"])
    ingest(house)
    house = make_house(promoted_tags={"KVP": "kvp", "0008,0008": "imageType"})
    write_dicom(house.drop / "new.dcm", KVP="80")
    ingest(house)
    assert {row["sourcePath"]: row["kvp"] for row in house.metastore()} == {
        "old.dcm": None,
        "new.dcm": "80",
    }
    for path in house.files(PROCESS):
        path.unlink()  # no file is read again
    assert fill(house.run.engine, house.settings).rows == 1
    old = next(row for row in house.metastore() if row["sourcePath"] == "old.dcm")
    assert (old["kvp"], old["imageType"]) == ("120.0", "ORIGINAL\\PRIMARY")
    assert fill(house.run.engine, house.settings).rows == 0
    assert extract(house.run).rows == 0


def test_a_promoted_tag_can_be_taken_back(make_house, write_dicom):
    house = make_house(promoted_tags={"KVP": "kvp"})
    write_dicom(house.drop / "1.dcm", KVP="120")
    ingest(house)
    house = make_house()
    write_dicom(house.drop / "2.dcm")
    assert ingest(house).rows == 1


@pytest.mark.parametrize("tags", [{"KVP": "KVP"}, {"ExposureTime": "kvp"}])
def test_a_promoted_column_that_holds_something_else_is_refused_before_any_file_moves(
    make_house, write_dicom, tags
):
    house = make_house(promoted_tags={"KVP": "kvp"})
    write_dicom(house.drop / "1.dcm")
    ingest(house)
    house = make_house(promoted_tags=tags)
    write_dicom(house.drop / "2.dcm")
    for act in (lambda: organise(house.run), lambda: fill(house.run.engine, house.settings)):
        with pytest.raises(ValueError, match="has a column kvp already"):
            act()
    assert (house.drop / "2.dcm").exists()


def test_no_promoted_column_hides_another_column():
    from dicom_assets.lakehouse.promoted import _OTHER_COLUMNS

    promoted = {tag.column for tag in PROMOTED_TAGS}
    others = {name.lower() for name in catalog.metastore().schema.names if name not in promoted}
    assert others == set(_OTHER_COLUMNS)
