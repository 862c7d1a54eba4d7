"""Entries of the drop folder come in parts: each once, and those that come first before others."""

import os
from pathlib import Path

import pytest

from dicom_assets.lakehouse.drop_folder import Dropped, dropped, stable_parts


def is_first(entry: Dropped) -> bool:
    return entry.address.endswith(".json")


@pytest.mark.parametrize("most", [1, 3, 8, 100])
def test_each_entry_comes_once_and_some_before_all_others(tmp_path, monkeypatch, most):
    names = [f"{folder}/{number}.dcm" for folder in "abc" for number in range(2)]
    folder = tmp_path / "drop"
    for name in [*names, "a/x.json", "z/y.json"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    monkeypatch.setattr("dicom_assets.lakehouse.drop_folder._ENTRIES_AT_ONCE", most)
    found_in = stable_parts(folder, settle_seconds=0, is_first=is_first, scratch=tmp_path)
    parts = [part for part, _ in found_in]
    assert all(len(part) <= max(most, 2) for part in parts)
    found = [str(entry.path.relative_to(folder)) for part in parts for entry in part]
    assert sorted(found[:2]) == ["a/x.json", "z/y.json"]
    assert found[2:] == names


@pytest.mark.parametrize("most", [2, 100], ids=["too many to hold", "few"])
def test_names_of_any_bytes_come_in_order_folders_among_them(tmp_path, monkeypatch, most):
    names = sorted([b"\xff", b"\x80a", "ä".encode(), b"a\nb", b"a", b"b'", b"B", b"10", b"9"])
    folders = sorted(name + b".d" for name in names)
    drop = tmp_path / "drop"
    for folder in folders:
        Path(drop, os.fsdecode(folder)).mkdir(parents=True)
        for name in names:
            Path(drop, os.fsdecode(folder), os.fsdecode(name)).touch()
    monkeypatch.setattr("dicom_assets.lakehouse.listing._AT_ONCE", most)
    monkeypatch.setattr("dicom_assets.lakehouse.listing._PIECE", 3)
    entries = dropped(drop, scratch=tmp_path)
    found = [os.fsencode(os.path.relpath(entry.address, drop)) for entry in entries]
    assert found == [b"%b/%b" % (folder, name) for folder in folders for name in names]


def test_where_names_cannot_wait_the_run_ends_instead_of_finding_nothing(tmp_path, monkeypatch):
    (tmp_path / "drop").mkdir()
    for name in "abc":
        (tmp_path / "drop" / name).touch()
    monkeypatch.setattr("dicom_assets.lakehouse.listing._AT_ONCE", 2)
    with pytest.raises(OSError, match="absent"):
        list(dropped(tmp_path / "drop", scratch=tmp_path / "absent"))
    assert list(dropped(tmp_path / "gone", scratch=tmp_path)) == []
