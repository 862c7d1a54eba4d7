"""Bring your own storage: files stay where they are, and are read there. Real servers."""

import json
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pydicom import dcmread
from pydicom.uid import JPEGBaseline8Bit

from dicom_assets.lakehouse.layout import Layout
from dicom_assets.steps import catalog, external
from dicom_assets.steps.external import external_files
from dicom_assets.steps.extract import extract
from dicom_assets.steps.findings import Kind
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.repair import verify_and_repair
from dicom_assets_tests.conftest import DAY, House, interrupting
from dicom_assets_tests.demo_options import flat
from dicom_assets_tests.steps.test_policies import ANOTHER

IN_S3 = pytest.mark.parametrize("place", ["s3"], indirect=True)
"""Where one store speaks for all."""


@pytest.fixture(scope="module")
def sample_files(sample) -> dict[str, bytes]:
    return flat(sample / "Imaging/DICOM")


def link(house: House, place, *, prefix: str = "", name: str = "PACS1/images", **more) -> None:
    """Makes a shortcut to a place."""
    path = Layout(house.settings.lakehouse).external_root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"address": place.address, "prefix": prefix, **more}))


@pytest.fixture
def with_place(make_house, place) -> House:
    """A lakehouse with a shortcut to an empty place."""
    house = make_house(storage=place.storage, source_systems=("PACS1",))
    link(house, place)
    return house


def layers(house: House) -> tuple[int, int, int]:
    return (
        len(house.metastore()),
        len(house.rows(catalog.silver_imaging_study())),
        len(house.rows(catalog.IMAGE_OCCURRENCE)),
    )


def states(house: House) -> dict[str, list[str]]:
    """Name → states in the order of finding."""
    rows = sorted(house.rows(catalog.EXTERNAL_FILES), key=lambda row: row["foundAt"])
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["filePath"].rpartition("/")[2], []).append(row["state"])
    return found


def content(tmp_path: Path, write_dicom, **elements) -> bytes:
    write_dicom(tmp_path / "made.dcm", **elements)
    return (tmp_path / "made.dcm").read_bytes()


def test_the_sample_gives_96_instances_9_studies_24_series_where_it_lies(
    with_place, place, sample_files
):
    for name, data in sample_files.items():
        place.put(name, data)
    with_place.chain()
    assert layers(with_place) == (96, 9, 24)
    assert with_place.failures() == {}
    assert place.keys() == set(sample_files)
    assert with_place.files("bronze/Files/Process/Imaging") == []
    rows = with_place.metastore()
    assert {row["filePath"] for row in rows} == {f"{place.address}/{n}" for n in sample_files}
    assert {row["sourceSystem"] for row in rows} == {"PACS1"}
    assert {row["contentHash"] for row in rows} == {None}
    sizes = {f"{place.address}/{name}": len(data) for name, data in sample_files.items()}
    assert all(row["fileSize"] == sizes[row["filePath"]] and row["version"] for row in rows)
    before = with_place.everything()
    with_place.chain()
    assert with_place.everything() == before


def test_rows_are_those_that_dropped_files_give(make_house, tmp_path, moto, sample_files):
    place = moto.place("same-rows")
    house = make_house(storage=place.storage)
    link(house, place)
    for name, data in sample_files.items():
        place.put(name, data)
        target = house.drop / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    house.chain(until="extract")
    same = ["sopInstanceUid", "metadata_string", "transferSyntaxUid", "decodeNotes", "fileSize"]
    same += [tag.column for tag in house.settings.promoted]
    by_system: dict[str, list] = {}
    for row in house.metastore():
        by_system.setdefault(row["sourceSystem"], []).append([row[name] for name in same])
    assert sorted(map(str, by_system["PACS1"])) == sorted(map(str, by_system["default"]))


def ct(tmp_path: Path, write_dicom, *, encapsulated: bool = False) -> bytes:
    """Half a megabyte: 512 x 512 x 16 bit, or as many bytes in fragments."""
    from pydicom.encaps import encapsulate

    pixels = os.urandom(512 * 512 * 2)
    made = write_dicom(tmp_path / "ct.dcm", Rows=512, Columns=512, BitsAllocated=16)
    made.add_new(0x7FE00010, "OW", pixels)
    if encapsulated:
        made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        made["PixelData"].is_undefined_length = True
        made.PixelData = encapsulate([pixels[i : i + 8192] for i in range(0, len(pixels), 8192)])
    made.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    return (tmp_path / "ct.dcm").read_bytes()


@pytest.mark.parametrize("encapsulated", [False, True])
def test_reading_a_ct_of_half_a_megabyte_costs_less_than_a_tenth_of_its_bytes(
    make_house, moto, tmp_path, write_dicom, encapsulated
):
    place = moto.place(f"half-a-megabyte-{encapsulated}".lower())
    house = make_house(storage=place.storage)
    link(house, place)
    data = ct(tmp_path, write_dicom, encapsulated=encapsulated)
    place.put("ct.dcm", data)
    external_files(house.run)
    report = extract(house.run)
    assert report.rows == 1
    assert 0 < report.counts["bytes_fetched"] < len(data) / 10
    assert report.counts["requests"] == 1 + encapsulated


def test_what_lies_behind_encapsulated_pixels_is_found_in_a_store(
    make_house, moto, tmp_path, write_dicom
):
    place = moto.place("behind-pixels")
    house = make_house(storage=place.storage)
    link(house, place)
    ct(tmp_path, write_dicom, encapsulated=True)
    made = dcmread(tmp_path / "ct.dcm")
    made.add_new(0xFFFCFFFC, "OB", bytes(16))
    made.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    place.put("ct.dcm", (tmp_path / "ct.dcm").read_bytes())
    house.chain(until="extract")
    (row,) = house.metastore()
    assert "FFFCFFFC" in row["metadata_string"]


def test_a_changed_object_is_a_new_row_the_newest_counts_and_a_deleted_one_breaks_nothing(
    with_place, place, tmp_path, write_dicom
):
    same = {"SOPInstanceUID": "1.2.9"}
    place.put("a.dcm", content(tmp_path, write_dicom, StudyDescription="older", **same))
    deleted = content(tmp_path, write_dicom, **ANOTHER)
    place.put("b.dcm", deleted)
    with_place.chain()
    newer = content(tmp_path, write_dicom, StudyDescription="newer than that", **same)
    place.put("a.dcm", newer)
    place.delete("b.dcm")
    for _ in range(2):
        with_place.chain()
        assert states(with_place) == {"a.dcm": ["new", "changed"], "b.dcm": ["new", "gone"]}
        assert layers(with_place) == (3, 2, 2)
    rows = [row for row in with_place.metastore() if row["filePath"].endswith("a.dcm")]
    assert len({row["version"] for row in rows}) == 2
    described = {row["description"] for row in with_place.rows(catalog.silver_imaging_study())}
    assert described == {"newer than that", None}
    assert Day(with_place.run).resent() == {"resent": 0, "conflicting": 0}
    place.put("b.dcm", deleted)
    with_place.chain(until="external")
    assert states(with_place)["b.dcm"][:2] == ["new", "gone"]
    assert len(states(with_place)["b.dcm"]) == 3


@IN_S3
def test_what_is_no_dicom_file_is_skipped_and_is_no_failure(
    with_place, place, tmp_path, write_dicom
):
    place.put("a.dcm", content(tmp_path, write_dicom))
    service = "AHDS/ws/dicom/svc"
    place.put(f"{service}/part/0001.dcm", content(tmp_path, write_dicom))
    for name in ("healthCheck", "index.db", "index-wal", "part/healthCheck"):
        place.put(f"{service}/{name}", b"not DICOM")
    place.put("notes.txt", b"text")
    place.put("empty.dcm", b"")
    place.put("archive.zip", b"PK\3\4")
    report = external_files(with_place.run)
    assert (report.rows, report.counts["not_taken_by_name"]) == (3, 6)
    assert extract(with_place.run).counts["skipped"] == 1
    assert with_place.failures() == {}
    assert states(with_place) == {
        "a.dcm": ["new"],
        "0001.dcm": ["new"],
        "notes.txt": ["new", "skipped"],
    }
    assert Day(with_place.run).external_counts() == {"objects": 3, "rows_failures_and_skipped": 3}
    before = with_place.everything()
    with_place.chain(until="extract")
    assert with_place.everything() == before, "it is not looked into again"


@IN_S3
def test_what_is_bad_or_could_not_be_fetched_is_a_failure_and_the_others_go_on_and_are_reread(
    with_place, place, tmp_path, write_dicom
):
    house = with_place
    place.put("a.dcm", content(tmp_path, write_dicom))
    place.put("b.dcm", content(tmp_path, write_dicom, SeriesInstanceUID=None))
    place.put("c.dcm", content(tmp_path, write_dicom))
    house.chain()
    bad = {f"{place.address}/b.dcm": "no_series_uid"}
    assert house.failures() == bad
    assert layers(house) == (2, 1, 1)
    assert place.keys() == {"a.dcm", "b.dcm", "c.dcm"}
    assert Day(house.run).external_counts() == {"objects": 3, "rows_failures_and_skipped": 3}
    run, late = house.on(DAY + timedelta(days=1)), content(tmp_path, write_dicom)
    place.put("late.dcm", late)
    external_files(run)
    place.delete("late.dcm")
    extract(run)
    assert house.failures() == bad | {f"{place.address}/late.dcm": "not_fetched"}
    failures = house.rows(catalog.INGESTION_FAILURES)
    assert {(row["step"], row["failedPath"]) for row in failures} == {("external", None)}
    folder = house.drop / "PACS1/Operations"
    folder.mkdir(parents=True)
    asked = {"operation": "reread", "studyInstanceUid": "1.2.3.4", "requestedBy": "x"}
    (folder / "again.json").write_text(json.dumps([asked | {"reason": "decoded wrongly"}]))
    place.put("late.dcm", late)
    place.delete("c.dcm")
    house.chain(DAY + timedelta(days=2))
    names = sorted(row["filePath"].rpartition("/")[2] for row in house.metastore())
    assert names == ["a.dcm", "a.dcm", "c.dcm", "late.dcm"], "a is read again, late for once"
    again = [row for row in house.rows(catalog.INGESTION_FAILURES) if row["step"] == "reread"]
    assert [row["reasonCode"] for row in again] == ["not_fetched"]


@pytest.mark.parametrize("is_gone_on", [[], [1], [0], [0, 1]])
def test_what_could_not_be_fetched_is_read_on_a_later_date_though_it_did_not_change(
    house, tmp_path, write_dicom, is_gone_on
):
    path = house.run.engine.layout.external_root / "PACS1/a.dcm"
    write_dicom(path)
    external_files(house.run)
    path.rename(tmp_path / "a.dcm")
    extract(house.run)
    assert set(house.failures().values()) == {"not_fetched"}
    for day in range(2):
        if day in is_gone_on:
            external_files(house.on(DAY + timedelta(days=day)))
        (tmp_path / "a.dcm").rename(path)
        house.chain(DAY + timedelta(days=day), until="extract")
        assert len(house.metastore()) == day, "not again on the date on which it failed"
        path.rename(tmp_path / "a.dcm")
    external_files(house.on(DAY + timedelta(days=2)))
    (tmp_path / "a.dcm").rename(path)
    house.chain(DAY + timedelta(days=2), until="extract")
    assert len(house.metastore()) == 1, "once it was read, it is not read again"
    assert states(house)["a.dcm"][-1] == "back"


NOT_FETCHED_AND = {
    ("new 1",): "again",
    ("new 1", "gone 3"): "again",
    ("new 1", "gone 3", "back 4"): "again",
    ("new 1", "again 3"): "",
    ("new 1", "again 3", "gone 4"): "back",
    ("new 1", "gone 3", "again 4", "gone 5", "back 6"): "",
    ("new 1", "gone 3", "skipped 4", "gone 5"): "back",
    ("new 3",): "",
    ("new 3", "gone 4"): "back",
}
"""States that are known of an object and when they were found → the next one, when it could not be
fetched at 2 and is listed unchanged."""


@pytest.mark.parametrize("known", NOT_FETCHED_AND, ids=" ".join)
def test_what_could_not_be_fetched_is_to_be_read_until_it_was(known):
    def time(second: int) -> datetime:
        return datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)

    entry = {"filePath": "a", "size": 1, "etag": "e", "modified": time(0), "ordinal": 0}
    rows = [
        {"filePath": "a", "state": state, "fileSize": 1, "etag": "e"}
        | {"sourceModifiedAt": time(0), "foundAt": time(int(at))}
        for state, at in (each.split() for each in known)
    ]
    states = np.zeros(1, np.uint8)
    share = pa.Table.from_pylist([entry], schema=external._ENTRY)
    before = pa.Table.from_pylist(rows, schema=external._KNOWN_SCHEMA)
    lost = external._compare(share, before, states, {"a": time(2)}, by_second=False)
    assert (external._STATES[states[0]], len(lost)) == (NOT_FETCHED_AND[known], 0)
    changed = pa.Table.from_pylist([entry | {"etag": "f"}], schema=external._ENTRY)
    external._compare(changed, before, states, {"a": time(2)}, by_second=False)
    assert external._STATES[states[0]] == "changed"


@pytest.mark.parametrize("done", range(7))
def test_killed_anywhere_and_run_again_is_the_same(make_house, write_dicom, monkeypatch, done):
    house = make_house(workers=1)  # what comes in another order comes in fewer commits
    folder = house.run.engine.layout.external_root / "PACS1"
    for number in range(3):
        write_dicom(folder / f"{number}.dcm")
    (folder / "x.txt").write_bytes(b"text")
    write_dicom(folder / "bad.dcm", StudyInstanceUID=None)
    monkeypatch.setattr("dicom_assets.steps.external._ROWS_PER_COMMIT", 2)
    monkeypatch.setattr("dicom_assets.lakehouse.engine.LocalEngine.rows_per_commit", 1)
    monkeypatch.setattr("dicom_assets.steps.read_external._OBJECTS_PER_TASK", 1)
    from dicom_assets.lakehouse.engine import LocalEngine

    with monkeypatch.context() as patched:
        patched.setattr(LocalEngine, "append", interrupting(done)(LocalEngine.append))
        with pytest.raises(KeyboardInterrupt):
            house.chain(until="extract")
    house.chain(until="extract")
    assert sorted(row["filePath"] for row in house.metastore()) == [
        f"bronze/Files/External/Imaging/DICOM/PACS1/{number}.dcm" for number in range(3)
    ]
    assert len(house.rows(catalog.INGESTION_FAILURES)) == 1
    assert states(house)["x.txt"] == ["new", "skipped"]
    assert Day(house.run).external_counts() == {"objects": 5, "rows_failures_and_skipped": 5}


@IN_S3
def test_a_run_may_be_cut_to_a_budget_and_the_next_goes_on(
    make_house, place, tmp_path, write_dicom
):
    house = make_house(storage=place.storage, external_max_files=2)
    link(house, place)
    for number in range(5):
        place.put(f"{number}.dcm", content(tmp_path, write_dicom))
    more = []
    for day in range(4):
        run = house.on(DAY + timedelta(days=day))
        more.append(external_files(run).counts["more_to_come"])
        extract(run)
    assert more == [1, 1, 0, 0]
    days = sorted(row["ingestDate"] for row in house.metastore())
    assert days == [DAY + timedelta(days=day) for day in (0, 0, 1, 1, 2)]
    names = [row["filePath"].rpartition("/")[2] for row in house.rows(catalog.EXTERNAL_FILES)]
    assert sorted(names) == [f"{number}.dcm" for number in range(5)]


def test_a_sas_that_may_only_read_and_list_is_enough(make_house, azurite, tmp_path, write_dicom):
    import obstore

    place = azurite.place("read-only")
    for number in range(3):
        place.put(f"{number}.dcm", content(tmp_path, write_dicom))
    section = azurite.read_only(place)
    with pytest.raises(obstore.exceptions.PermissionDeniedError):
        obstore.put(azurite.client("read-only", section), "x", b"1")
    house = make_house(storage={place.address: section})
    link(house, place)
    house.chain()
    assert layers(house) == (3, 1, 1)
    sas = section["azure_storage_sas_token"].encode()
    signature = sas.partition(b"sig=")[2]
    for path in house.settings.lakehouse.rglob("*"):
        assert not path.is_file() or signature not in path.read_bytes()


def test_a_dicom_service_s_storage_is_read_by_its_abfss_address(
    make_house, azurite, tmp_path, write_dicom
):
    place = azurite.place("of-a-service")
    data = content(tmp_path, write_dicom)
    for name in ("partition/0001.dcm", "healthCheck", "index.db"):
        place.put(f"AHDS/ws/dicom/svc/{name}", data)
    place.put("AHDS/ws/dicom/another/0001.dcm", data)
    name = place.address.removeprefix("az://")
    address = f"abfss://{name}@devstoreaccount1.dfs.core.windows.net"
    house = make_house(storage={address: azurite.read_only(place)})
    shortcut = Layout(house.settings.lakehouse).external_root / "ahds/svc.json"
    shortcut.parent.mkdir(parents=True)
    shortcut.write_text(json.dumps({"address": address, "prefix": "AHDS/ws/dicom/svc"}))
    house.chain(until="extract")
    (row,) = house.metastore()
    assert row["filePath"] == f"{address}/AHDS/ws/dicom/svc/partition/0001.dcm"
    assert row["sourceSystem"] == "ahds"
    assert house.failures() == {}


def test_a_read_only_file_system_is_enough(make_house, write_dicom, tmp_path):
    source, mounted = tmp_path / "source", tmp_path / "mounted"
    mounted.mkdir()
    for number in range(3):
        write_dicom(source / f"deep/{number}.dcm")
    done = subprocess.run(["mount", "--bind", source, mounted], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("this user may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (mounted / "x").touch()
        house = make_house()
        shortcut = Layout(house.settings.lakehouse).external_root / "PACS1/archive"
        shortcut.parent.mkdir(parents=True)
        shortcut.symlink_to(mounted)
        house.chain()
        assert layers(house) == (3, 1, 1)
        path = house.metastore()[0]["filePath"]
        assert path.startswith("bronze/Files/External/Imaging/DICOM/PACS1/archive/")
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_files_of_a_namespace_may_lie_in_it_as_they_like(house, write_dicom):
    namespace = house.run.engine.layout.external_root / "Orthanc"
    write_dicom(namespace / "a.dcm")
    write_dicom(namespace / "study/series/b.dcm")
    write_dicom(namespace / "study/.c.dcm.tmp")
    (namespace / "study/link.dcm").symlink_to("series/b.dcm")
    house.chain(until="extract")
    rows = house.rows(catalog.EXTERNAL_FILES)
    assert {row["filePath"].rpartition("Orthanc/")[2] for row in rows} == {
        "a.dcm",
        "study/series/b.dcm",
    }
    assert {(row["sourceSystem"], row["shortcut"]) for row in rows} == {("Orthanc", "Orthanc")}
    assert len(house.metastore()) == 2
    shutil.rmtree(namespace / "study")
    house.chain(until="extract")
    assert states(house) == {"a.dcm": ["new"], "b.dcm": ["new", "gone"]}


def test_names_that_are_no_text_are_read_too(house, write_dicom, tmp_path):
    namespace = house.run.engine.layout.external_root / "PACS1"
    namespace.mkdir(parents=True)
    write_dicom(tmp_path / "a.dcm")
    os.rename(tmp_path / "a.dcm", os.fsencode(namespace) + b"/\xff\xe9.dcm")
    house.chain(until="extract")
    (row,) = house.metastore()
    assert row["filePath"].endswith("PACS1/%FF%E9.dcm")


def test_a_file_that_is_still_being_written_is_left_for_the_next_run(make_house, write_dicom):
    house = make_house(settle_seconds=60)
    path = house.run.engine.layout.external_root / "PACS1/a.dcm"
    write_dicom(path)
    assert external_files(house.run).counts["being_written"] == 1
    old = path.stat().st_mtime - 100
    os.utime(path, (old, old))
    assert external_files(house.run).rows == 1


@pytest.mark.parametrize(("ahead", "taken"), [(3600, 0), (30 * 365 * 86400, 1)])
def test_a_file_of_the_near_future_waits_and_one_that_a_wrong_clock_dated_does_not(
    house, write_dicom, ahead, taken
):
    path = house.run.engine.layout.external_root / "PACS1/a.dcm"
    write_dicom(path)
    os.utime(path, (time.time() + ahead, time.time() + ahead))
    report = external_files(house.run)
    assert (report.rows, report.counts["being_written"]) == (taken, 1 - taken)


BAD_SHORTCUTS = {
    "{": "no JSON",
    "[]": "JSON object",
    '{"address": "az://c", "perfix": ""}': "other keys",
    '{"address": "relative"}': "begin with /",
    '{"address": "/not/there"}': "not there",
    '{"address": "https://x.example/c?sig=abc"}': "must not hold",
    '{"address": "ftp://x"}': "begins with",
    '{"address": "s3://"}': "must name a container or bucket",
    '{"address": "s3:///x"}': "must name a container or bucket",
}


def test_each_bad_shortcut_is_a_failure_and_the_others_go_on(house, write_dicom):
    namespace = house.run.engine.layout.external_root / "PACS1"
    write_dicom(namespace / "a.dcm")
    for number, said in enumerate(BAD_SHORTCUTS):
        (namespace / f"bad{number}.json").write_text(said)
    for _ in range(2):
        house.chain(until="extract")
    failures = sorted(house.rows(catalog.INGESTION_FAILURES), key=lambda row: row["sourcePath"])
    assert {row["reasonCode"] for row in failures} == {"shortcut_unusable"}
    for number, (row, why) in enumerate(zip(failures, BAD_SHORTCUTS.values(), strict=True)):
        assert row["sourcePath"] == f"bronze/Files/External/Imaging/DICOM/PACS1/bad{number}.json"
        assert why in row["message"]
    assert len(house.metastore()) == 1


def test_a_listing_that_breaks_off_says_of_nothing_that_it_is_gone(house, write_dicom, monkeypatch):
    from dicom_assets.lakehouse.storage import LocalFolder, StoreError

    namespace = house.run.engine.layout.external_root / "PACS1"
    for number in range(3):
        write_dicom(namespace / f"{number}.dcm")
    house.chain(until="extract")
    write_dicom(namespace / "0a.dcm")
    whole = LocalFolder.list

    def broken(self, prefix):
        for batch in whole(self, prefix):
            yield batch.slice(0, 2)
        raise StoreError("broken")

    monkeypatch.setattr(LocalFolder, "list", broken)
    house.chain(until="extract")
    assert states(house) == {f"{name}.dcm": ["new"] for name in ("0", "0a", "1", "2")}


def test_an_inventory_stands_for_a_listing(make_house, azurite, tmp_path, write_dicom):
    place = azurite.place("inventoried")
    house = make_house(storage=place.storage)
    link(house, place, prefix="img", inventory=f"{place.address}/inventory/")
    for number in range(3):
        place.put(f"img/{number}.dcm", content(tmp_path, write_dicom))
    names = ["img", "img/0.dcm", "img/1.dcm", "other/x.dcm"]
    inventory = pa.table(
        {
            "Name": [f"inventoried/{name}" for name in names],
            "Last-Modified": pa.array([1_700_000_000_000] * 4, pa.timestamp("ms")),
            "hdi_isfolder": [True, None, False, None],
        }
    )
    pq.write_table(inventory, tmp_path / "i.parquet")
    place.put("inventory/i.parquet", (tmp_path / "i.parquet").read_bytes())
    house.chain(until="extract")
    assert states(house) == {"0.dcm": ["new"], "1.dcm": ["new"]}
    rows = house.metastore()
    assert all(row["fileSize"] and row["version"].startswith("0x") for row in rows)
    pq.write_table(inventory.slice(2), tmp_path / "i.parquet")
    place.put("inventory/i.parquet", (tmp_path / "i.parquet").read_bytes())
    house.chain(until="extract")
    assert states(house) == {"0.dcm": ["new", "gone"], "1.dcm": ["new"]}
    assert len(house.metastore()) == 2


@IN_S3
def test_verify_finds_nothing_wrong_where_objects_were_replaced_and_their_conflicts_are_kept(
    with_place, place, tmp_path, write_dicom
):
    house = with_place
    place.put("a.dcm", content(tmp_path, write_dicom, StudyDescription="a"))
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    deleted = dict(zip(uids, ("1.2.3.5", "1.2.3.5.1", "1.2.3.5.1.1"), strict=True))
    place.put("deleted.dcm", content(tmp_path, write_dicom, **deleted))
    write_dicom(house.drop / "dropped.dcm", **ANOTHER)
    house.chain()
    asked = {"operation": "delete", "studyInstanceUid": "1.2.3.5", "requestedBy": "x"}
    folder = house.drop / "PACS1/Operations"
    folder.mkdir(parents=True)
    (folder / "x.json").write_text(json.dumps(asked | {"reason": "wrong"}))
    place.put("b.dcm", content(tmp_path, write_dicom, SeriesInstanceUID="1.2.3.4.9"))
    house.chain(DAY + timedelta(days=1))
    place.put("a.dcm", content(tmp_path, write_dicom, StudyDescription="of b"))
    place.put("deleted.dcm", content(tmp_path, write_dicom, InstanceNumber="3333", **deleted))
    house.chain(DAY + timedelta(days=2))
    assert len(house.metastore()) == 6
    first, after = verify_and_repair(house.settings)
    assert (list(first.of(*Kind)), list(after.of(*Kind))) == ([], [])
    before = {row["id"]: row for row in house.rows(catalog.CONFLICTS)}
    assert len(before) == len(house.rows(catalog.CONFLICTS)) > 0
    shutil.rmtree(house.run.engine.layout.table("silver", "conflicts"))
    place.put("z.dcm", content(tmp_path, write_dicom, **ANOTHER))
    house.chain(DAY + timedelta(days=4), until="settle")
    again = house.rows(catalog.CONFLICTS)
    assert len(again) == len(before)
    assert {row["id"]: row for row in again} == before, "found again, they are of the same dates"


@IN_S3
def test_a_lost_row_of_an_object_is_found_and_read_again_where_it_lies(
    with_place, place, tmp_path, write_dicom
):
    house = with_place
    for name in ("a.dcm", "b.dcm"):
        place.put(name, content(tmp_path, write_dicom))
    place.put("c.dcm", b"no image")
    house.chain()
    write_dicom(house.drop / "d.dcm", **ANOTHER)
    place.delete("c.dcm")
    house.chain(DAY + timedelta(days=1))
    place.put("c.dcm", b"no image")  # as after a run in which nothing was there
    house.chain(DAY + timedelta(days=2))
    before = sorted(map(str, house.metastore())), layers(house)
    table = house.run.engine.layout.table("bronze", catalog.metastore().name)
    rows = DeltaTable(str(table)).to_pyarrow_table()
    kept = [not row["filePath"].endswith("/a.dcm") for row in rows.to_pylist()]
    write_deltalake(str(table), rows.filter(pa.array(kept)), mode="overwrite")
    first, after = verify_and_repair(house.settings)
    assert dict(first.counts) == {Kind.NOT_READ: 1, Kind.INSTANCE_UNKNOWN: 1}
    assert not after
    assert (sorted(map(str, house.metastore())), layers(house)) == before


def test_one_key_that_is_no_path_holds_up_none_of_an_inventory(
    make_house, moto, tmp_path, write_dicom
):
    place = moto.place("odd-inventory")
    house = make_house(storage=place.storage)
    link(house, place, inventory=f"{tmp_path}/i.csv")
    place.put("good.dcm", content(tmp_path, write_dicom))
    rows = "".join(f"{key},2026-11-28T18:00:00Z\n" for key in ("a//b", '""', "good.dcm", "x%0A/b"))
    (tmp_path / "i.csv").write_text(f"Key,Last-Modified\n{rows}")
    house.chain(until="extract")
    assert len(house.metastore()) == 1
    failed = {f"{place.address}/{key}": "not_fetched" for key in ("a//b", "x\n/b")}
    assert house.failures() == failed
    assert Day(house.run).external_counts() == {"objects": 3, "rows_failures_and_skipped": 3}


def test_an_inventory_that_says_no_times_changes_nothing_each_run(make_house, moto, tmp_path):
    place = moto.place("no-times")
    house = make_house(storage=place.storage)
    link(house, place, inventory=f"{tmp_path}/i.csv")
    (tmp_path / "i.csv").write_text("Key,Last-Modified,ETag\na,,e1\nb,2026-11-28T18:00:00Z,e2\n")
    for _ in range(2):
        external_files(house.run)
        assert states(house) == {"a": ["new"], "b": ["new"]}
    (tmp_path / "i.csv").write_text("Key,Last-Modified,ETag\na,,e3\nb,2026-11-28T18:00:00Z,e2\n")
    external_files(house.run)
    assert states(house) == {"a": ["new", "changed"], "b": ["new"]}


@pytest.mark.parametrize("target", [".", "bronze", "..", "bronze/Files/External/Imaging/DICOM"])
def test_a_shortcut_into_the_lakehouse_itself_is_bad(house, write_dicom, target):
    root = house.settings.lakehouse
    namespace = Layout(root).external_root / "PACS1"
    write_dicom(namespace / "a.dcm")
    (root.parent / "way").symlink_to(root / target)
    (namespace / "link").symlink_to(root.parent / "way")
    (namespace / "said.json").write_text(json.dumps({"address": f"{root / target}"}))
    (namespace.parent / "PACS2").symlink_to(root / target)
    report = external_files(house.run)
    assert (report.rows, report.counts["unusable"]) == (1, 3)
    rows = house.rows(catalog.INGESTION_FAILURES)
    assert all("leads into the lakehouse itself" in row["message"] for row in rows)
    below = "bronze/Files/External/Imaging/DICOM"
    named = {f"{below}/{name}" for name in ("PACS1/link", "PACS1/said.json", "PACS2")}
    assert {row["sourcePath"] for row in rows} == named


def test_a_shortcut_that_is_empty_of_a_sudden_is_told_once(make_house, tmp_path, write_dicom):
    house, archive = make_house(), tmp_path / "archive"
    write_dicom(archive / "a.dcm")
    namespace = Layout(house.settings.lakehouse).external_root / "PACS1"
    namespace.mkdir(parents=True)
    (namespace / "archive").symlink_to(archive)
    external_files(house.run)
    (archive / "a.dcm").rename(tmp_path / "a.dcm")
    assert external_files(house.run).counts["unusable"] == 1
    assert external_files(house.run).counts["unusable"] == 0
    (row,) = house.rows(catalog.INGESTION_FAILURES)
    assert row["reasonCode"] == "shortcut_unusable"
    assert "nothing at all is listed" in row["message"]
    (tmp_path / "a.dcm").rename(archive / "a.dcm")
    external_files(house.run)
    assert states(house) == {"a.dcm": ["new", "gone", "back"]}


def test_names_that_begin_with_a_dot_are_left_out_wherever_they_lie(with_place, place):
    for name in (".hidden", "x/.hidden/a", "x/a", "x/.b", "a.b"):
        place.put(name, b"1")
    external_files(with_place.run)
    assert states(with_place).keys() == {"a", "a.b"}


def test_a_shortcut_may_begin_with_a_byte_order_mark(house, tmp_path, write_dicom):
    write_dicom(tmp_path / "archive/a.dcm")
    path = Layout(house.settings.lakehouse).external_root / "PACS1/x.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"address": f"{tmp_path}/archive"}), encoding="utf-8-sig")
    assert external_files(house.run).rows == 1
