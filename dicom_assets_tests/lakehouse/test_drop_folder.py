"""Entries of the drop folder come in parts: each once, and those that come first before others."""

import pytest

from dicom_assets.lakehouse.drop_folder import Dropped, stable_parts


def is_first(entry: Dropped) -> bool:
    return entry.address.endswith(".json")


@pytest.mark.parametrize("most", [1, 3, 8, 100])
def test_each_entry_comes_once_and_some_before_all_others(tmp_path, monkeypatch, most):
    names = [f"{folder}/{number}.dcm" for folder in "abc" for number in range(2)]
    for name in [*names, "a/x.json", "z/y.json"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr("dicom_assets.lakehouse.drop_folder._ENTRIES_AT_ONCE", most)
    parts = [part for part, _ in stable_parts(tmp_path, settle_seconds=0, is_first=is_first)]
    assert all(len(part) <= max(most, 2) for part in parts)
    found = [str(entry.path.relative_to(tmp_path)) for part in parts for entry in part]
    assert sorted(found[:2]) == ["a/x.json", "z/y.json"]
    assert found[2:] == names
