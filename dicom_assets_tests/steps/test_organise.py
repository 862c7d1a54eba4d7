import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_assets.dicom import archives
from dicom_assets.lakehouse import drop_folder, journal
from dicom_assets.lakehouse.journal import Journal
from dicom_assets.lakehouse.manifest import NAME as MANIFEST_NAME
from dicom_assets.steps import catalog
from dicom_assets.steps import organise as organising
from dicom_assets.steps.extract import extract
from dicom_assets.steps.organise import limits_of, organise
from dicom_assets.steps.reconcile import Day
from dicom_assets_tests.conftest import House, another_file_system, as_nobody, interrupting

PROCESS = "bronze/Files/Process/Imaging/DICOM"
FAILED = "bronze/Files/Failed/Imaging/DICOM"
INGEST = "bronze/Files/Ingest"


def zipped(path: Path, members: dict[str, bytes]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path.read_bytes()


def unzipped(file: Path) -> bytes:
    with zipfile.ZipFile(file) as archive:
        (name,) = archive.namelist()
        return archive.read(name)


@pytest.fixture
def content(tmp_path, write_dicom) -> bytes:
    write_dicom(tmp_path / "one.dcm")
    return (tmp_path / "one.dcm").read_bytes()


def test_a_loose_file_is_moved_into_its_date_folder_under_a_millisecond_prefix(house, write_dicom):
    write_dicom(house.drop / "a/b/case7_000.dcm")
    organise(house.run)
    (file,) = house.files(PROCESS)
    assert file.parent == house.settings.lakehouse / PROCESS / "2026/03/14"
    assert re.fullmatch(r"\d{13}_case7_000\.dcm", file.name)
    (row,) = house.rows(catalog.PROCESS_FILES)
    assert row["sourcePath"] == "a/b/case7_000.dcm"
    assert row["sourceSystem"] == "default"
    assert house.settings.lakehouse / row["filePath"] == file
    assert list(house.drop.iterdir()) == []


def test_a_moved_file_keeps_its_inode(house, write_dicom):
    write_dicom(house.drop / "x.dcm")
    before = (house.drop / "x.dcm").stat().st_ino
    organise(house.run)
    assert house.files(PROCESS)[0].stat().st_ino == before


def test_dicom_is_taken_whatever_it_is_called(house, content):
    for name in ("IM0001", "scan.img", "noise.txt", "weird.zip"):
        (house.drop / name).write_bytes(content)
    organise(house.run)
    assert len(house.files(PROCESS)) == 4


def test_a_bare_dataset_that_proves_itself_is_taken(house, content):
    (house.drop / "bare").write_bytes(content[132:])
    organise(house.run)
    assert len(house.files(PROCESS)) == 1


def test_by_default_what_is_large_but_honest_is_within_the_limits(house, content):
    (house.drop / "large.dcm").write_bytes(content)
    os.truncate(house.drop / "large.dcm", 4_500_000_000)
    organise(house.run)
    assert [file.stat().st_size for file in house.files(PROCESS)] == [4_500_000_000]
    limits = limits_of(house.settings)
    assert limits.max_file_bytes > 4_500_000_000, "as a member, too"
    archives.Budget(8_500_000_000, limits).spend(members=17, size=17_000_000_000)
    archives.Budget(100_000 * 150, limits).spend(members=100_000, size=100_000 * 5_000)


def test_members_of_zips_in_zips_become_files_and_the_archive_is_gone(house, content):
    inner = zipped(house.drop.parent / "inner.zip", {"deep/er/IM1": content})
    (house.drop.parent / "inner.zip").unlink()
    zipped(house.drop / "outer.zip", {"x/a.dcm": content, "y/a.dcm": content, "z/in.zip": inner})
    organise(house.run)
    assert sorted(row["sourcePath"] for row in house.rows(catalog.PROCESS_FILES)) == [
        "outer.zip!/x/a.dcm",
        "outer.zip!/y/a.dcm",
        "outer.zip!/z/in.zip!/deep/er/IM1",
    ]
    assert [unzipped(file) for file in house.files(PROCESS)] == [content] * 3
    assert house.files(INGEST) == house.files(FAILED) == []


def test_a_deflated_member_keeps_its_deflate_stream_in_a_zip_of_its_own(house, content):
    zipped(house.drop / "x.zip", {"a.dcm": content})
    with zipfile.ZipFile(house.drop / "x.zip") as archive:
        packed = archive.infolist()[0].compress_size
    organise(house.run)
    (row,) = house.rows(catalog.PROCESS_FILES)
    (file,) = house.files(PROCESS)
    assert row["filePath"].endswith(".dcm.zip")
    assert row["fileSize"] == len(content)
    assert row["contentHash"] == hashlib.sha256(content).hexdigest()
    with zipfile.ZipFile(file) as own:
        (member,) = own.infolist()
        assert member.compress_size == packed
        assert f"{member.filename}.zip" == file.name
        assert own.read(member) == content


def test_without_compression_members_are_written_as_they_are(make_house, content):
    house = make_house(compress=False)
    zipped(house.drop / "x.zip", {"a.dcm": content})
    organise(house.run)
    assert [file.read_bytes() for file in house.files(PROCESS)] == [content]
    assert house.rows(catalog.PROCESS_FILES)[0]["contentHash"] is None


def test_a_member_called_zip_that_is_dicom_is_one_file(house, content):
    zipped(house.drop / "x.zip", {"weird.zip": content})
    with zipfile.ZipFile(house.drop / "stored.zip", "w") as archive:
        archive.writestr("weird.zip", content)
    organise(house.run)
    assert len(house.rows(catalog.PROCESS_FILES)) == 2
    assert house.failures() == {}
    extract(house.run)
    assert len(house.metastore()) == 2
    assert [unzipped(file) for file in house.files(PROCESS)] == [content] * 2


def test_only_named_folders_are_namespaces(make_house, write_dicom):
    house = make_house(source_systems=("PACS1",))
    write_dicom(house.drop / "PACS1/x.dcm")
    write_dicom(house.drop / "other/x.dcm")
    organise(house.run)
    systems = sorted(row["sourceSystem"] for row in house.rows(catalog.PROCESS_FILES))
    assert systems == ["PACS1", "default"]
    assert (house.settings.lakehouse / PROCESS / "PACS1/2026/03/14").is_dir()
    assert (house.drop / "PACS1").is_dir(), "senders count on the folder of their namespace"
    assert not (house.drop / "other").exists()


def test_a_star_makes_every_first_folder_a_namespace(make_house, write_dicom):
    house = make_house(source_systems="*")
    write_dicom(house.drop / "VNA/deep/x.dcm")
    organise(house.run)
    assert house.rows(catalog.PROCESS_FILES)[0]["sourceSystem"] == "VNA"


def test_what_is_no_dicom_goes_to_failed_with_its_bytes_and_a_reason(house):
    (house.drop / "readme.txt").write_text("hello")
    (house.drop / "empty").touch()
    organise(house.run)
    assert house.failures() == {"readme.txt": "not_dicom", "empty": "not_dicom"}
    assert sorted(file.read_text() for file in house.files(FAILED)) == ["", "hello"]
    rows = house.rows(catalog.INGESTION_FAILURES)
    assert {row["runId"] for row in rows} == {"test-run"}
    assert all((house.settings.lakehouse / row["failedPath"]).is_file() for row in rows)


def test_a_damaged_archive_goes_to_failed_as_it_came(house, content):
    damaged = zipped(house.drop / "a.zip", {"x.dcm": content})[:-30]
    (house.drop / "a.zip").write_bytes(damaged)
    organise(house.run)
    assert house.failures() == {"a.zip": "archive_damaged"}
    (kept,) = house.files(FAILED)
    assert kept.read_bytes() == damaged
    assert kept.name.endswith("_a.zip")


def test_an_archive_with_an_unreadable_member_is_kept_and_its_good_members_taken(house, content):
    whole = zipped(house.drop / "a.zip", {"good.dcm": content, "bad.dcm": content[::-1]})
    at = whole.index(b"bad.dcm") + 40
    broken = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
    (house.drop / "a.zip").write_bytes(broken)
    organise(house.run)
    assert house.failures() == {"a.zip!/bad.dcm": "member_damaged"}
    assert len(house.files(PROCESS)) == 1
    assert [file.read_bytes() for file in house.files(FAILED)] == [broken]


def test_a_member_that_is_no_dicom_fails_alone(house, content):
    zipped(house.drop / "a.zip", {"x.dcm": content, "notes.txt": b"hi"})
    organise(house.run)
    assert house.failures() == {"a.zip!/notes.txt": "not_dicom"}
    assert [file.read_bytes() for file in house.files(FAILED)] == [b"hi"]


@pytest.mark.parametrize("name", ["../x.dcm", "a/../../x.dcm", "..\\x.dcm"])
def test_a_member_that_leaves_the_archive_is_not_written(house, content, name):
    zipped(house.drop / "a.zip", {name: content})
    organise(house.run)
    assert list(house.failures().values()) == ["archive_member_unsafe"]
    assert house.files(PROCESS) == []


def test_a_link_as_a_member_is_not_followed(house):
    info = zipfile.ZipInfo("link.dcm")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(house.drop / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/hostname")
    organise(house.run)
    assert house.failures() == {"a.zip!/link.dcm": "archive_member_unsafe"}


def test_an_archive_nested_too_deep_fails_with_its_bytes(make_house, content):
    house = make_house(archive_max_depth=2)
    level = zipped(house.drop / "0.zip", {"x.dcm": content})
    for _ in range(2):
        level = zipped(house.drop / "0.zip", {"in.zip": level})
    organise(house.run)
    assert house.failures() == {"0.zip!/in.zip!/in.zip": "nested_too_deep"}


def test_an_archive_that_expands_beyond_reason_is_a_bomb_and_nothing_of_it_is_written(
    house, monkeypatch
):
    monkeypatch.setattr(archives, "FREE_EXPANSION", 10 << 20)  # 1 GiB would take seconds to deflate
    nothing = bytes(1 << 20)
    zipped(house.drop / "a.zip", {f"{number}": nothing for number in range(11)})
    organise(house.run)
    assert house.failures() == {"a.zip": "archive_bomb"}
    assert house.files(PROCESS) == []


def test_of_many_small_archives_each_is_what_it_would_be_alone(make_house, content):
    house = make_house(workers=2)
    for number in range(0, 40, 2):
        zipped(house.drop / f"{number:02}.zip", {"a.dcm": content, "b/c.dcm": content})
    inner = zipped(house.drop / "09.zip", {"inner.dcm": content})
    zipped(house.drop / "09.zip", {"in.zip": inner, "notes.txt": b"hi"})
    zipped(house.drop / "11.zip", {})
    bomb = bytearray(zipped(house.drop / "13.zip", {"a.dcm": content}))
    size = bomb.index(b"PK\1\2") + 24  # as the directory declares it
    bomb[size : size + 4] = (3 << 29).to_bytes(4, "little")
    (house.drop / "13.zip").write_bytes(bomb)
    damaged = zipped(house.drop / "15.zip", {"a.dcm": content})[:-30]
    (house.drop / "15.zip").write_bytes(damaged)
    (house.drop / "17.zip").write_bytes(content)
    (house.drop / "19.dcm").write_bytes(content)
    organise(house.run)
    assert house.failures() == {
        "09.zip!/notes.txt": "not_dicom",
        "11.zip": "archive_empty",
        "13.zip": "archive_bomb",
        "15.zip": "archive_damaged",
    }
    taken = {row["sourcePath"]: row["filePath"] for row in house.rows(catalog.PROCESS_FILES)}
    assert set(taken) == {
        *(f"{n:02}.zip!/{name}" for n in range(0, 40, 2) for name in ("a.dcm", "b/c.dcm")),
        "09.zip!/in.zip!/inner.dcm",
        "17.zip",
        "19.dcm",
    }
    assert len(set(taken.values())) == len(house.files(PROCESS)) == 43
    assert {unzipped(f) for f in house.files(PROCESS) if f.suffix == ".zip"} == {content}
    assert list(house.drop.iterdir()) == []


def test_an_archive_of_archives_with_more_members_than_its_bytes_can_hold_is_a_bomb(
    house, monkeypatch
):
    monkeypatch.setattr(archives, "FREE_MEMBERS", 100)  # past 10,000 would take seconds
    inner = zipped(house.drop / "in.zip", {f"{number}": b"" for number in range(300)})
    (house.drop / "in.zip").unlink()
    zipped(house.drop / "a.zip", {f"{number}.zip": inner for number in range(20)})
    organise(house.run)
    assert house.failures() == {"a.zip": "archive_bomb"}


def test_links_and_pipes_in_the_drop_folder_are_never_followed(house, tmp_path, content):
    secret = tmp_path / "secret.dcm"
    secret.write_bytes(content)
    (house.drop / "link.dcm").symlink_to(secret)
    (house.drop / "folder").symlink_to(tmp_path)
    os.mkfifo(house.drop / "pipe.dcm")
    organise(house.run)
    assert set(house.failures().values()) == {"not_a_file"}
    assert len(house.failures()) == 3
    assert secret.exists()
    assert house.files(PROCESS) == []


def test_strange_names_become_names_that_every_file_system_takes(house, content):
    names = [b"new\nline.dcm", b"caf\xe9.dcm", b"x" * 251 + b".dcm", b"a|b?c*.dcm", b"%41.dcm"]
    for name in names:
        Path(os.fsdecode(os.fsencode(house.drop) + b"/" + name)).write_bytes(content)
    organise(house.run)
    found = [file.name for file in house.files(PROCESS)]
    assert len(found) == len(names)
    assert all(re.fullmatch(r"\d{13}_[^\x00-\x1f/\\:*?\"<>|]+\.dcm", name) for name in found)
    assert all(len(f"{name}.zip".encode()) <= 255 for name in found)
    assert house.files(INGEST) == []


@pytest.mark.parametrize(
    ("clock", "ahead"),
    [
        ("time.time_ns", 0.0),
        ("time.time_ns", 3600.0),
        ("time.time_ns", -3600.0),
        ("clock_of", -0.5),
    ],
    ids=["one clock", "a server's that is behind", "one that is ahead", "another file system's"],
)
def test_a_file_still_being_written_is_left_alone_whoever_s_clock_is_wrong(
    make_house, write_dicom, monkeypatch, clock, ahead
):
    asked = drop_folder.clock_of if clock == "clock_of" else time.time_ns
    monkeypatch.setattr(
        f"dicom_assets.lakehouse.drop_folder.{clock}",
        lambda *folder: asked(*folder) + int(ahead * 1e9),
    )
    house = make_house(settle_seconds=0.6)
    write_dicom(house.drop / "done.dcm")
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "with open(sys.argv[1], 'wb') as file:\n"
            "    for _ in range(60):\n"
            "        file.write(b'x'); file.flush(); time.sleep(0.05)\n",
            str(house.drop / "growing.dcm"),
        ]
    )
    try:
        while not (house.drop / "growing.dcm").exists():
            pass
        report = organise(house.run)
    finally:
        writer.kill()
        writer.wait()
    assert report.counts["still_changing"] == 1
    assert [file.name for file in house.files(INGEST)] == ["growing.dcm"]
    assert len(house.files(PROCESS)) == 1


@pytest.mark.parametrize("done", [0, 2, 4, 5, 6])
def test_a_lakehouse_that_was_copied_or_moved_while_files_were_moved_is_finished_where_it_is(
    make_house, write_dicom, content, tmp_path, monkeypatch, done
):
    root = make_house().settings.lakehouse
    house = House(root)
    for number in range(2):
        write_dicom(house.drop / f"{number}.dcm", SOPInstanceUID=f"1.2.{number}")
    for number in range(2, 4):
        write_dicom(tmp_path / f"{number}.dcm", SOPInstanceUID=f"1.2.{number}")
    members = {f"{n}.dcm": (tmp_path / f"{n}.dcm").read_bytes() for n in range(2, 4)}
    zipped(house.drop / "a.zip", members)
    interrupted = interrupting(done)
    with monkeypatch.context() as patch:
        for act in ("transfer", "_take"):
            patch.setattr(journal, act, interrupted(getattr(journal, act)))
        with pytest.raises(KeyboardInterrupt):
            organise(house.run)
    before = house.everything()
    shutil.copytree(root, tmp_path / "copy")
    finished(House(tmp_path / "copy"))
    assert house.everything() == before, "nothing is done to the one that was copied"
    root.rename(tmp_path / "moved")
    finished(House(tmp_path / "moved"))


def finished(house: House) -> None:
    """Lets another run finish what was begun, and looks whether all is there, once."""
    house.chain(until="extract")
    uids = [row["sopInstanceUid"] for row in house.metastore()]
    assert sorted(uids) == [f"1.2.{number}" for number in range(4)]
    assert house.files(INGEST) == []
    assert all(house.run.engine.layout.absolute(r["filePath"]).is_file() for r in house.metastore())
    assert len(house.files(PROCESS)) == 4


def test_two_organisers_at_once_take_each_file_once(house, write_dicom):
    for number in range(60):
        write_dicom(house.drop / f"{number % 3}/same_name_{number // 3}.dcm")
    command = (
        "import sys; from dicom_assets.settings import load_settings\n"
        "from dicom_assets.steps.organise import organise; from dicom_assets.steps.run import Run\n"
        "organise(Run.of(load_settings(lakehouse=sys.argv[1], settle_seconds=0), '2026-03-14'))"
    )
    root = str(house.settings.lakehouse)
    both = [subprocess.Popen([sys.executable, "-c", command, root]) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    rows = house.rows(catalog.PROCESS_FILES)
    assert len({row["filePath"] for row in rows}) == len({r["sourcePath"] for r in rows}) == 60
    assert len(house.files(PROCESS)) == len(rows) == 60


def test_prefixes_never_repeat_even_when_the_clock_stands_still(house, write_dicom, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    for folder in "abc":
        write_dicom(house.drop / folder / "IM1")
    organise(house.run)
    write_dicom(house.drop / "d" / "IM1")
    organise(house.run)
    prefixes = [file.name.split("_")[0] for file in house.files(PROCESS)]
    assert prefixes == [f"17000000000{number:02}" for number in range(4)]


def test_a_manifest_is_put_aside_for_the_checks(house):
    (house.drop / MANIFEST_NAME).write_text('{"expected": {"process_files": 0}}')
    organise(house.run)
    (file,) = house.files("bronze/Files/Process/Manifests/2026/03/14")
    assert file.name.endswith(MANIFEST_NAME)
    assert house.failures() == {}


def test_a_dicom_file_is_taken_for_one_also_under_a_manifest_s_name(house, write_dicom):
    write_dicom(house.drop / MANIFEST_NAME)
    organise(house.run)
    assert len(house.files(PROCESS)) == 1
    assert house.failures() == {}


def test_organising_twice_changes_nothing(house, write_dicom):
    write_dicom(house.drop / "x.dcm")
    organise(house.run)
    before = house.everything()
    assert organise(house.run).rows == 0
    assert house.everything() == before


def test_a_new_file_under_the_name_of_a_removed_archive_is_not_lost(house, content):
    """Between a kill and the next run somebody drops another archive of the same name."""
    archive = house.drop / "z.zip"
    zipped(archive, {"1.dcm": content})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "_act", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            organise(house.run)
    archive.unlink()
    zipped(archive, {"2.dcm": content, "3.dcm": content})
    organise(house.run)
    sources = {row["sourcePath"] for row in house.rows(catalog.PROCESS_FILES)}
    assert sources == {"z.zip!/1.dcm", "z.zip!/2.dcm", "z.zip!/3.dcm"}


def test_failures_alone_are_committed_batch_after_batch(house):
    for name in ("1.txt", "2.txt"):
        (house.drop / name).write_text("no")
        organise(house.run)
    assert set(house.failures()) == {"1.txt", "2.txt"}


def test_a_run_with_nothing_to_do_leaves_no_trace(house):
    organise(house.run)
    assert house.files("bronze") == []


def test_dicom_called_zip_is_read_like_any_other(house, write_dicom):
    for name in ("image.zip", "b.dcm.zip"):
        write_dicom(house.drop / name)
    house.chain()
    assert len(house.metastore()) == 2
    assert house.failures() == {}


def test_a_file_that_goes_while_listed_stops_no_other(house, write_dicom, monkeypatch):
    from dicom_assets.steps import organise as module

    for name in ("a.dcm", "b.dcm"):
        write_dicom(house.drop / name)
    original = module.stable_parts

    def and_then_one_goes(*args, **kwargs):
        for part in original(*args, **kwargs):
            (house.drop / "a.dcm").unlink()
            yield part

    monkeypatch.setattr(module, "stable_parts", and_then_one_goes)
    report = organise(house.run)
    assert (report.rows, report.counts["not_taken"]) == (1, 1)


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=another_file_system(tmp_path)))
    yield folder
    shutil.rmtree(folder)


def drop_on(house, folder: Path) -> None:
    house.drop.rmdir()
    house.drop.symlink_to(folder, target_is_directory=True)
    assert folder.stat().st_dev != house.settings.lakehouse.stat().st_dev


def test_a_drop_folder_on_another_file_system_is_emptied_like_any_other(
    house, content, other_file_system
):
    drop_on(house, other_file_system)
    (house.drop / "x.dcm").write_bytes(content)
    zipped(house.drop / "good.zip", {"y.dcm": content})
    (house.drop / "damaged.zip").write_bytes(zipped(house.drop / "z.zip", {"z": content})[:-30])
    (house.drop / "z.zip").unlink()
    (house.drop / "link").symlink_to("/etc/hostname")
    (house.drop / MANIFEST_NAME).write_text('{"expected": {"process_files": 2}}')
    organise(house.run)
    assert len(house.rows(catalog.PROCESS_FILES)) == 2
    assert house.failures() == {"damaged.zip": "archive_damaged", "link": "not_a_file"}
    assert list(other_file_system.iterdir()) == []


def test_a_copy_from_another_file_system_that_was_killed_is_finished_and_not_taken_twice(
    house, content, other_file_system
):
    drop_on(house, other_file_system)
    (house.drop / "x.dcm").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            organise(house.run)
    assert len(house.files(PROCESS)) >= 1
    assert (house.drop / "x.dcm").exists()
    organise(house.run)
    assert len(house.files(PROCESS)) == len(house.rows(catalog.PROCESS_FILES)) == 1
    assert list(other_file_system.iterdir()) == []


def test_what_may_not_be_taken_away_stays_and_nothing_is_written_of_it(house, content):
    organise(house.run)  # loads what is loaded when first used
    locked = house.drop / "theirs"
    locked.mkdir()
    (locked / "x.dcm").write_bytes(content)
    zipped(locked / "a.zip", {"y.dcm": content})
    (locked / "damaged.zip").write_bytes(b"PK\x03\x04 damaged")
    (house.drop / "mine.dcm").write_bytes(content)
    with as_nobody(house.settings.lakehouse):
        os.chmod(locked, 0o555)  # noqa: S103
        counts = [organise(house.run).counts["not_taken"] for _ in range(2)]
    assert counts == [3, 3]
    rows = house.rows(catalog.PROCESS_FILES)
    assert [row["sourcePath"] for row in rows] == ["mine.dcm"]
    assert len(house.files(PROCESS)) == 1
    assert house.failures() == {}
    assert len(list(locked.iterdir())) == 3


def test_two_names_of_one_archive_are_both_taken(house, content):
    zipped(house.drop / "a.zip", {"x.dcm": content})
    os.link(house.drop / "a.zip", house.drop / "b.zip")
    organise(house.run)
    assert house.files(INGEST) == []
    assert organise(house.run).rows == 0


def test_folders_may_nest_deeper_than_python_recurses(house, content):
    here = Path.cwd()
    os.chdir(house.drop)
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Path("x.dcm").write_bytes(content)
    finally:
        os.chdir(here)
    organise(house.run)
    assert len(house.rows(catalog.PROCESS_FILES)) == 1
    assert list(house.drop.iterdir()) == []


def test_a_folder_that_somebody_has_just_made_is_left_to_be_filled(make_house, content):
    house = make_house(settle_seconds=0.2)
    (house.drop / "full").mkdir()
    (house.drop / "full/x.dcm").write_bytes(content)
    (house.drop / "old").mkdir()
    os.utime(house.drop / "old", (0, 0))
    (house.drop / "new").mkdir()
    os.utime(house.drop / "new", (time.time(), time.time() + 60))
    organise(house.run)
    assert [path.name for path in house.drop.iterdir()] == ["new"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"expected": {"metastore": 1}}',
        '{"expected": {"process_files": -1}}',
    ],
)
def test_a_manifest_that_declares_nothing_known_fails_and_says_what_it_could(house, text):
    (house.drop / MANIFEST_NAME).write_text(text)
    organise(house.run)
    (row,) = house.rows(catalog.INGESTION_FAILURES)
    assert row["reasonCode"] == "invalid_json"
    assert "manifest" in row["message"]


def test_a_manifest_may_lie_in_a_folder_whose_name_no_file_system_takes(house, content):
    folder = "x" * 300
    declares = b'{"expected": {"process_files": 1}}'
    zipped(
        house.drop / "a.zip", {f"{folder}/x.dcm": content, f"{folder}/{MANIFEST_NAME}": declares}
    )
    organise(house.run)
    assert Day(house.run).manifests == {f"a.zip!/{folder}": [{"process_files": 1}]}
    assert Day(house.run).counted("process_files", f"a.zip!/{folder}") == 1


def test_a_failed_folder_on_another_file_system_takes_members_and_files(
    house, content, write_dicom, other_file_system
):
    failed = house.settings.lakehouse / FAILED
    failed.parent.mkdir(parents=True)
    failed.symlink_to(other_file_system, target_is_directory=True)
    zipped(house.drop / "a.zip", {"x.dcm": content, "notes.txt": b"hi"})
    write_dicom(house.drop / "bad.dcm", StudyInstanceUID=None)
    house.chain()
    assert house.failures() == {"a.zip!/notes.txt": "not_dicom", "bad.dcm": "no_study_uid"}
    rows = house.rows(catalog.INGESTION_FAILURES)
    assert all((house.settings.lakehouse / row["failedPath"]).is_file() for row in rows)
    assert len(house.files(PROCESS)) == 1


def test_a_manifest_in_an_archive_is_about_that_archive(house, content):
    zipped(
        house.drop / "d/a.zip",
        {"x.dcm": content, MANIFEST_NAME: b'{"expected": {"process_files": 2}}'},
    )
    (house.drop / "d/not_in_it.dcm").write_bytes(content)
    organise(house.run)
    assert Day(house.run).manifests == {"d/a.zip!": [{"process_files": 2}]}
    assert Day(house.run).counted("process_files", "d/a.zip!") == 1
    assert house.failures() == {}


@pytest.fixture
def staged(house, monkeypatch) -> list[int]:
    """Bytes in staging after each dropped file was looked at, and after each commit."""
    found: list[int] = []
    folder = house.run.engine.layout.organise_folder / "staging"

    def and_then_measured(original):
        def measured(*args, **kwargs):
            result = original(*args, **kwargs)
            paths = folder.rglob("*") if folder.exists() else ()
            found.append(sum(path.stat().st_size for path in paths if path.is_file()))
            return result

        return measured

    monkeypatch.setattr(organising._Turn, "take", and_then_measured(organising._Turn.take))
    monkeypatch.setattr(Journal, "carry_out", and_then_measured(Journal.carry_out))
    return found


ZEROS = bytes(1 << 20)


def test_what_was_unpacked_of_a_bomb_goes_before_the_next_one_is_looked_at(
    house, content, staged, monkeypatch
):
    monkeypatch.setattr(archives, "FREE_EXPANSION", 6 << 20)
    inner = zipped(house.drop / "in.zip", dict.fromkeys("abcdef", ZEROS))
    (house.drop / "in.zip").unlink()
    bomb = {
        "a": ZEROS,
        "b": ZEROS,
        MANIFEST_NAME: b'{"expected": {"process_files": 2}}',
        "c.zip": inner,
    }
    for number in range(8):
        zipped(house.drop / f"{number}.zip", bomb)
    zipped(house.drop / "good.zip", {"a.dcm": content})
    organise(house.run)
    assert set(house.failures().values()) == {"archive_bomb"}
    assert len(house.failures()) == 8
    assert len(house.files(PROCESS)) == 1
    assert len(staged) == 10
    ahead = 2 * house.settings.workers  # these are unpacked before it is their turn
    assert max(staged) < (ahead + 1) * len(ZEROS) * 3


@pytest.mark.parametrize("kept", [False, True], ids=["all read", "one member damaged"])
def test_an_archive_in_an_archive_goes_once_its_members_lie_there(house, content, staged, kept):
    noise = os.urandom(1 << 20)
    inner = zipped(house.drop / "in.zip", {"a.dcm": content, "b.dcm": content + noise})
    (house.drop / "in.zip").unlink()
    if kept:
        inner = inner[: 1 << 19] + bytes(100) + inner[(1 << 19) + 100 :]
    for number in range(4):
        zipped(house.drop / f"{number}", {"in.zip": inner})
    organise(house.run)
    assert len(house.files(PROCESS)) == (4 if kept else 8)
    assert len(house.failures()) == (4 if kept else 0)
    before, after = staged[:-1], staged[-1]
    assert before[-1] < 4 * 1.1 * len(noise)  # as members, or as the archive
    assert after == 0


def test_after_so_many_unpacked_bytes_what_was_decided_is_carried_out(
    house, content, staged, monkeypatch
):
    monkeypatch.setattr("dicom_assets.steps.organise.STAGED_PER_COMMIT", 3 << 20)
    for number in range(12):
        zipped(house.drop / f"{number}", {"a.dcm": content + os.urandom(1 << 20)})
    organise(house.run)
    assert len(house.files(PROCESS)) == 12
    assert max(staged) < 4 << 20
    assert staged[-1] == 0


def test_what_is_called_zip_and_is_none_leaves_nothing_unpacked(house, content, staged):
    """A ZIP is read from its end, so it may begin with what makes it another kind of file."""
    for number in range(8):
        data = zipped(house.drop / f"{number}.zip", {"a.dcm": content + os.urandom(1 << 20)})
        (house.drop / f"{number}.zip").write_bytes(b"no" + data)
    organise(house.run)
    assert set(house.failures().values()) == {"not_dicom"}
    ahead = 2 * house.settings.workers
    assert max(staged) < (ahead + 1) * (1.1 * (1 << 20))
    assert staged[-1] == 0
