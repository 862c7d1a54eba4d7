"""Folders and object stores, listed and read alike; real servers."""

import contextlib
import io
import os
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from dicom_assets.lakehouse.ranges import FIRST_BYTES, ObjectStream
from dicom_assets.lakehouse.storage import (
    ObjectError,
    Piece,
    Storage,
    StoreError,
    check_address,
    get_many,
)
from dicom_assets.settings import SettingsError, load_settings
from dicom_assets_tests.object_stores import KEY

ODD = ["a b/ä+%41&#?.dcm", "a b/deep/er/x", "z"]


def storage_of(place, tmp_path: Path) -> Storage:
    return Storage(tmp_path, place.storage)


def listed(storage: Storage, address: str) -> dict[str, int]:
    """Key below the address → size."""
    store, prefix = storage.find(address)
    rows = [row for batch in store.list(prefix) for row in batch.to_pylist()]
    assert all(row["modified"].tzinfo for row in rows)
    below = f"{prefix}/" if prefix else ""
    return {row["key"].removeprefix(below): row["size"] for row in rows}


def test_all_stores_list_and_read_the_same(place, tmp_path):
    for number, key in enumerate(ODD, start=1):
        place.put(key, bytes([number]) * number)
    storage = storage_of(place, tmp_path)
    assert listed(storage, place.address) == {key: n for n, key in enumerate(ODD, start=1)}
    assert listed(storage, f"{place.address}/a b") == {"ä+%41&#?.dcm": 1, "deep/er/x": 2}
    for number, key in enumerate(ODD, start=1):
        store, found = storage.find(f"{place.address}/{key}")
        piece = store.get(found, 0, 100)
        assert (piece.data, piece.size) == (bytes([number]) * number, number)


def test_an_object_that_is_not_there_is_told_from_a_store_that_is_not(place, tmp_path):
    place.put("a", b"1")
    store, prefix = storage_of(place, tmp_path).find(f"{place.address}/nowhere")
    with pytest.raises(ObjectError, match="not there"):
        store.get(prefix, 0, 10)
    missing = f"{place.address}x"
    storage = Storage(tmp_path, {missing: place.section})
    store, prefix = storage.find(missing)
    with pytest.raises(StoreError, match=r"not there|no such"):
        list(store.list(prefix))


def test_an_empty_object_is_read_as_nothing(place, tmp_path):
    place.put("empty", b"")
    store, key = storage_of(place, tmp_path).find(f"{place.address}/empty")
    assert store.get(key, 0, 10).data == b""


def test_a_stream_reads_what_a_file_would_and_fetches_little(place, tmp_path):
    content = bytes(range(256)) * 4096
    place.put("x", content)
    store, key = storage_of(place, tmp_path).find(f"{place.address}/x")
    (first,) = get_many(store, [key], FIRST_BYTES)
    assert isinstance(first, Piece)
    stream = ObjectStream(store, key, first)
    with (tmp_path / "same").open("wb+") as same:
        same.write(content)
        for offset, size in [(0, 100), (16_000, 1000), (17_000, 50_000), (900_000, 10), (5, 7)]:
            same.seek(offset)
            stream.seek(offset)
            wanted, found = same.read(size), b""
            while len(found) < size and (some := stream.read(size - len(found))):
                found += some
            assert found == wanted
    assert stream.requests < 12
    assert stream.fetched < 250_000
    stream.seek(0, 2)
    assert stream.read(1) == b""


def test_an_object_that_changes_while_it_is_read_gives_no_mixture(place, tmp_path):
    place.put("x", bytes(100_000))
    store, key = storage_of(place, tmp_path).find(f"{place.address}/x")
    stream = ObjectStream(store, key, store.get(key, 0, 100))
    place.put("x", b"1" * 100_001)
    stream.seek(50_000)
    with pytest.raises(ObjectError, match="changed"):
        stream.read(100)


def test_a_store_that_does_not_answer_says_so_and_no_credential(tmp_path, monkeypatch):
    retries = {"max_retries": 0}
    monkeypatch.setattr("dicom_assets.lakehouse.storage._RETRIES", retries)
    section = {"aws_access_key_id": "id-secret", "aws_secret_access_key": "key-secret"}
    section |= {"aws_endpoint": "http://127.0.0.1:9", "aws_region": "us-east-1"}
    store, _ = Storage(tmp_path, {"s3://away": section}).find("s3://away/x")
    for act in (lambda: list(store.list("")), lambda: store.get("x", 0, 1)):
        with pytest.raises(StoreError, match="s3://away: it does not answer") as error:
            act()
        assert "secret" not in str(error.value)
        assert error.value.__cause__ is None


def test_a_wrong_credential_is_told_without_it(azurite, tmp_path):
    place = azurite.place("wrong-credential")
    sas = azurite.read_only(place)["azure_storage_sas_token"]
    section = azurite.read_only(place) | {"azure_storage_sas_token": sas[:-8] + "AAAA%3D"}
    store, _ = Storage(tmp_path, {place.address: section}).find(place.address)
    with pytest.raises(StoreError, match="credential is wrong, has expired") as error:
        list(store.list(""))
    assert "sig" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    ["az://c/x?sv=1&sig=abc", "s3://key:secret@bucket/x", "https://a.example/c?sig=abc"],
)
def test_an_address_with_a_credential_is_refused_and_not_repeated(address):
    with pytest.raises(StoreError) as error:
        check_address(address)
    assert "abc" not in str(error.value)
    assert "secret" not in str(error.value)


def test_the_section_that_says_most_of_an_address_counts(tmp_path):
    sections = {"s3://b": {"aws_region": "a"}, "s3://b/x/": {"aws_region": "b"}}
    storage = Storage(tmp_path, sections)
    assert storage.options("s3://b/y")["aws_region"] == "a"
    assert storage.options("s3://b/x/y")["aws_region"] == "b"
    assert storage.options("s3://bx/y") == {}


def test_credentials_may_come_from_the_environment(moto, tmp_path, monkeypatch):
    place = moto.place("from-environment")
    place.put("a", b"1")
    for name, value in place.section.items():
        monkeypatch.setenv(name.upper(), value)
    assert listed(Storage(tmp_path), place.address) == {"a": 1}


def test_tables_take_the_same_options(azurite, tmp_path):
    place = azurite.place("tables")
    storage = Storage(tmp_path, {place.address: place.section | {"allow_http": "true"}})
    address = f"{place.address}/Tables/x"
    options = storage.options(address)
    write_deltalake(address, pa.table({"a": [1, 2]}), storage_options=options)
    assert DeltaTable(address, storage_options=options).count() == 2
    assert any(key.startswith("Tables/x/_delta_log/") for key in listed(storage, place.address))


def test_what_vanishes_while_it_is_listed_breaks_nothing(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).touch()
    whole = os.scandir

    @contextlib.contextmanager
    def vanishing(folder):
        with whole(folder) as entries:
            found = list(entries)
        (tmp_path / "a").unlink()
        yield found

    monkeypatch.setattr(os, "scandir", vanishing)
    assert listed(Storage(tmp_path), str(tmp_path)) == {"b": 0}


@pytest.mark.parametrize(
    ("address", "section", "said"),
    [
        ("ftp://host/x", {}, "begins with"),
        ("s3://bucket", {"no_such_option": "secret"}, "no_such_option"),
    ],
)
def test_what_cannot_be_a_store_is_told(tmp_path, address, section, said):
    with pytest.raises(StoreError, match=said) as error:
        Storage(tmp_path, {address: section}).find(address)
    assert "secret" not in str(error.value)


def test_settings_hold_credentials_and_show_none(monkeypatch, tmp_path):
    config = tmp_path / "settings.toml"
    config.write_text(f'[storage."az://images"]\nazure_storage_account_key = "{KEY}"\n')
    monkeypatch.setenv("DICOM_ASSETS_CONFIG", str(config))
    settings = load_settings(lakehouse=tmp_path)
    assert settings.stores.options("az://images/x") == {"azure_storage_account_key": KEY}
    assert KEY not in repr(settings) + repr(settings.stores) + settings.model_dump_json()


def test_a_wrong_storage_setting_is_told_without_what_it_holds(monkeypatch, tmp_path):
    for wrong in (
        '{"az://c?sig=hidden": {}}',
        '{"az://c": "hidden"}',
        '{"az://c": {"k": 1}} hidden',
    ):
        monkeypatch.setenv("DICOM_ASSETS_STORAGE", wrong)
        with pytest.raises(SettingsError, match="storage") as error:
            load_settings(lakehouse=tmp_path)
        assert "hidden" not in str(error.value)


@pytest.mark.parametrize("key", ["a//b", "a/../b", "a\nb", "\x7f"])
def test_a_key_that_no_path_can_have_is_told_of_that_object_alone(tmp_path, key):
    section = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    section |= {"aws_endpoint": "http://127.0.0.1:9", "aws_region": "us-east-1"}
    store, _ = Storage(tmp_path, {"s3://odd": section}).find("s3://odd")
    for act in (lambda: store.get(key, 0, 1), lambda: store.download(key, io.BytesIO())):
        with pytest.raises(ObjectError, match="no path can have its name"):
            act()
    with pytest.raises(StoreError, match="can be no path"):
        list(store.list(key))


def test_a_bucket_with_a_key_that_is_no_path_is_told_as_that(moto, tmp_path):
    place = moto.place("with-an-odd-key")
    address = f"{place.section['aws_endpoint']}/with-an-odd-key/a//b"
    httpx.put(address, content=b"1").raise_for_status()
    store, _ = Storage(tmp_path, place.storage).find(place.address)
    with pytest.raises(StoreError, match="can be no path"):
        list(store.list(""))


@pytest.mark.parametrize("endpoint", ["minio:9000", "http://", "ftp://x", "http://h:99999", ""])
def test_an_endpoint_that_is_no_address_is_told_by_its_name(tmp_path, monkeypatch, endpoint):
    with pytest.raises(StoreError, match="s3://b1: aws_endpoint must be an address"):
        Storage(tmp_path, {"s3://b1": {"aws_endpoint": endpoint}}).find("s3://b1/x")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
    with pytest.raises(StoreError, match="AZURE_STORAGE_ENDPOINT"):
        Storage(tmp_path, {"az://c1": {"azure_use_fabric_endpoint": "true"}}).find("az://c1/x")
