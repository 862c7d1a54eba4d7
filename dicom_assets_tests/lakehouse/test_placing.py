"""Files that get a name where others may put files, too."""

import ctypes
import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dicom_assets.lakehouse import placing
from dicom_assets.lakehouse.placing import NotPlacedError, place
from dicom_assets_tests.conftest import another_file_system


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "Doe.txt"
    path.write_bytes(b"ours")
    os.utime(path, ns=(5, 7_000_000_001))
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Any:
    """A drop folder that is a link of the site to another file system."""
    there = Path(tempfile.mkdtemp(dir=another_file_system(tmp_path)))
    (tmp_path / "elsewhere").symlink_to(there)
    yield tmp_path / "elsewhere"
    shutil.rmtree(there)


def test_a_file_is_moved_and_folders_are_made_where_the_site_has_put_the_drop_folder(
    tmp_path, drop, source
):
    (tmp_path / "site's link").symlink_to(drop)
    target = tmp_path / "site's link/a/b/Doe.txt"
    assert place(source, target, within=tmp_path / "site's link") == target
    assert (drop / "a/b/Doe.txt").read_bytes() == b"ours"
    assert not source.exists()


def test_no_link_on_the_way_is_followed_wherever_it_leads(tmp_path, drop, source):
    outside = tmp_path / "outside"
    outside.mkdir()
    (drop / "a").mkdir()
    for link, leads_to in (("a/b", outside), ("c", "../outside"), ("d", "nowhere")):
        (drop / link).symlink_to(leads_to)
        for name in ("Doe.txt", "new/Doe.txt"):
            with pytest.raises(NotPlacedError, match="a link or a file lies where a folder"):
                place(source, drop / link / name, within=drop)
    assert source.read_bytes() == b"ours"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "says"),
    [("file/Doe.txt", "where a folder has to be"), ("n" * 256, "does not take its name")],
)
def test_what_cannot_get_its_place_lies_where_it_was_and_no_error_names_it(
    drop, source, target, says
):
    (drop / "file").touch()
    with pytest.raises(NotPlacedError, match=says) as caught:
        place(source, drop / target, within=drop)
    assert source.exists()
    assert "Doe" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("lacking", [None, errno.EINVAL, errno.ENOSYS])
def test_no_file_is_replaced_nor_a_link_or_a_folder_also_where_renames_always_do(
    drop, source, monkeypatch, lacking
):
    (drop / "x.txt").write_bytes(b"theirs")
    (drop / "x~1.txt").symlink_to("nowhere")
    (drop / "x~2.txt").mkdir()
    if lacking:

        def refused(*_: object) -> int:
            ctypes.set_errno(lacking)
            return -1

        monkeypatch.setattr(placing, "_renameat2", refused)
    assert place(source, drop / "x.txt", within=drop) == drop / "x~3.txt"
    assert (drop / "x~3.txt").read_bytes() == b"ours"
    assert (drop / "x.txt").read_bytes() == b"theirs"
    assert (drop / "x~1.txt").is_symlink()


def test_where_there_is_no_such_call_a_file_is_renamed(drop, source, monkeypatch):
    monkeypatch.setattr(placing, "_renameat2", None)
    (drop / "x.txt").touch()
    assert place(source, drop / "x.txt", within=drop) == drop / "x~1.txt"


def test_on_another_file_system_it_is_copied_whole_and_as_private_as_it_was(elsewhere, source):
    (elsewhere / "a").mkdir()
    (elsewhere / "a/Doe.txt").write_bytes(b"theirs")
    before = os.umask(0o022)
    try:
        placed = place(source, elsewhere / "a/Doe.txt", within=elsewhere)
    finally:
        os.umask(before)
    assert [path.name for path in sorted((elsewhere / "a").iterdir())] == ["Doe.txt", "Doe~1.txt"]
    assert (placed.name, placed.read_bytes()) == ("Doe~1.txt", b"ours")
    assert placed.stat().st_mtime_ns == 7_000_000_001
    assert stat.S_IMODE(placed.stat().st_mode) == 0o640
    assert not source.exists()


def test_a_pipe_or_a_link_is_renamed_but_not_copied_to_another_file_system(
    elsewhere, drop, tmp_path
):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("Doe.txt")
    for name in ("pipe", "link"):
        with pytest.raises(NotPlacedError, match="is not copied to another file system"):
            place(tmp_path / name, elsewhere / name, within=elsewhere)
        place(tmp_path / name, drop / name, within=drop)
    assert list(elsewhere.iterdir()) == []
    assert stat.S_ISFIFO((drop / "pipe").stat().st_mode)
    assert os.readlink(drop / "link") == "Doe.txt"


def test_a_copy_that_breaks_off_leaves_nothing(elsewhere, source, monkeypatch):
    def is_full(original: Any, copy: Any) -> None:
        copy.write(original.read(1))
        raise OSError(errno.ENOSPC, "No space left on device", "Doe.txt")

    monkeypatch.setattr(shutil, "copyfileobj", is_full)
    with pytest.raises(OSError, match="No space left"):
        place(source, elsewhere / "Doe.txt", within=elsewhere)
    assert list(elsewhere.iterdir()) == []
    assert source.read_bytes() == b"ours"


def test_no_descriptor_is_left_open(drop, elsewhere, source):
    (drop / "link").symlink_to("nowhere")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NotPlacedError):
        place(source, drop / "link/x", within=drop)
    place(place(source, drop / "a/b/x", within=drop), elsewhere / "c/x", within=elsewhere)
    assert os.listdir("/proc/self/fd") == before
