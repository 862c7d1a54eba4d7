"""Opening files that others can replace."""

import os

import pytest

from dicom_assets.lakehouse.opening import open_regular


def test_a_regular_file_is_opened(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x").write_bytes(b"x")
    with open_regular(tmp_path / "a/b/x", within=tmp_path) as file:
        assert file.read() == b"x"


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "link").symlink_to("secret")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "link")


def test_no_folder_on_the_way_may_be_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x").write_bytes(b"x")
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "drop/a/x", within=tmp_path / "drop")
    with open_regular(tmp_path / "drop/a/x") as file:
        assert file.read() == b"x", "where the site put its folders is the site's choice"


def test_a_pipe_or_a_folder_is_no_file_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FileNotFoundError):
            open_regular(tmp_path / name, within=tmp_path)


def test_no_descriptor_is_left_open(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    before = os.listdir("/proc/self/fd")
    for path in ("link", "folder", "missing", "folder/missing"):
        with pytest.raises(FileNotFoundError):
            open_regular(tmp_path / path, within=tmp_path)
    assert os.listdir("/proc/self/fd") == before
