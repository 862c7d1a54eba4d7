"""Inventories of Azure and S3, as Parquet and CSV, in place of a listing."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dicom_assets.lakehouse.inventory import listed_in
from dicom_assets.lakehouse.storage import Storage, StoreError

AZURE = """Name,Creation-Time,Last-Modified,Content-Length,Etag,hdi_isfolder,Deleted,Snapshot
"images/a b/1,1.dcm",,2026-11-28T18:00:00.0000000Z,7,0x8D1,false,,
images/a b,,2026-11-28T18:00:01Z,,0x8D2,true,,
images/gone.dcm,,2026-11-28T18:00:01Z,5,0x8D3,false,true,
images/old.dcm,,2026-11-28T18:00:01Z,5,0x8D3,false,false,2026-01-01T00:00:00Z
images/2.dcm,,2026-11-28 18:00:02,,,,,
"""
NOW = datetime(2026, 11, 28, 18, tzinfo=UTC)


def entries(
    tmp_path: Path, *inventory: str, prefix: str = "", storage: Storage | None = None
) -> list[tuple]:
    batches = listed_in(inventory, storage or Storage(tmp_path), container="images", prefix=prefix)
    rows = [row for batch in batches for row in batch.to_pylist()]
    return [(row["key"], row["size"], row["modified"].second, row["etag"]) for row in rows]


WANTED = [("a b/1,1.dcm", 7, 0, "0x8D1"), ("2.dcm", None, 2, None)]


def test_azures_csv_names_objects_as_they_stand_now(tmp_path):
    (tmp_path / "i.csv").write_text(AZURE)
    assert entries(tmp_path, f"{tmp_path}/i.csv") == WANTED
    (tmp_path / "i.csv.gz").write_bytes(gzip.compress(AZURE.encode()))
    assert entries(tmp_path, f"{tmp_path}/i.csv.gz") == WANTED
    assert entries(tmp_path, f"{tmp_path}/i.csv", prefix="a b") == WANTED[:1]


@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.int64()])
def test_azures_parquet_may_say_the_least(tmp_path, kind):
    milliseconds = int(NOW.timestamp() * 1000)
    table = pa.table(
        {
            "Name": ["images/1.dcm", "images/folder"],
            "Last-Modified": pa.array([milliseconds, milliseconds]).cast(kind),
            "hdi_isfolder": ["false", "true"],
        }
    )
    pq.write_table(table, tmp_path / "i.parquet")
    assert entries(tmp_path, f"{tmp_path}/") == [("1.dcm", None, 0, None)]


def test_s3_inventory_is_read_by_its_manifest(moto, tmp_path):
    place = moto.place("inventory-of-s3")
    rows = [
        '"images","a+b/1%2C1.dcm","v1","true","false","7","2026-11-28T18:00:00.000Z","e1"',
        '"images","a+b/1%2C1.dcm","v0","false","false","6","2026-11-27T18:00:00.000Z","e0"',
        '"images","gone.dcm","v1","true","true","","2026-11-28T18:00:00.000Z",""',
    ]
    place.put("x/data/1.csv.gz", gzip.compress("\n".join(rows).encode()))
    manifest = {
        "sourceBucket": "images",
        "destinationBucket": "arn:aws:s3:::inventory-of-s3",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, "
        "Size, LastModifiedDate, ETag",
        "files": [{"key": "x/data/1.csv.gz", "size": 1}],
    }
    place.put("x/2026-11-28T01-00Z/manifest.json", json.dumps(manifest).encode())
    storage = Storage(tmp_path, place.storage)
    address = f"{place.address}/x/2026-11-28T01-00Z/manifest.json"
    assert entries(tmp_path, address, storage=storage) == [("a b/1,1.dcm", 7, 0, "e1")]


def test_s3s_parquet_is_read_as_it_is(tmp_path):
    table = pa.table(
        {
            "bucket": ["images"],
            "key": ["a+b.dcm"],
            "size": [7],
            "last_modified_date": pa.array([NOW.replace(tzinfo=None)], pa.timestamp("ms")),
            "e_tag": ["e1"],
        }
    )
    pq.write_table(table, tmp_path / "i.parquet")
    assert entries(tmp_path, f"{tmp_path}/i.parquet") == [("a+b.dcm", 7, 0, "e1")]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("i.csv", "Name,Size\nimages/a,1\n", "Last-Modified"),
        ("i.csv", "Name,Last-Modified\nimages/a,yesterday\n", "must be like"),
        ("i.csv", "Name,Last-Modified,Size\na,2026-11-28T18:00:00Z,many\n", "column Size"),
        ("i.csv", "Name,Last-Modified\na,2026-19-28T18:00:00Z\n", "column Last-Modified"),
        ("i.csv", "Key,Last-Modified,key\na,2026-11-28T18:00:00Z,b\n", "two columns"),
        ("i.csv", "Key,Last-Modified,Key\na,2026-11-28T18:00:00Z,b\n", "two columns"),
        ("i.csv.gz", "no gzip", "damaged"),
        ("i.parquet", "no Parquet", "neither Parquet nor CSV"),
        ("manifest.json", "{}", "manifest"),
        ("manifest.json", '{"destinationBucket": 5, "files": []}', "manifest"),
    ],
)
def test_what_is_no_inventory_is_told(tmp_path, name, content, why):
    (tmp_path / name).write_text(content)
    with pytest.raises(StoreError, match=why):
        entries(tmp_path, f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("size", "why"), [(pa.array([{"a": 1}]), "column Size"), (pa.array([[1]]), "column Size")]
)
def test_a_column_of_another_kind_is_told_by_its_name(tmp_path, size, why):
    table = pa.table({"Key": ["a"], "Last-Modified": [NOW], "Size": size})
    pq.write_table(table, tmp_path / "i.parquet")
    with pytest.raises(StoreError, match=why):
        entries(tmp_path, f"{tmp_path}/i.parquet")


@pytest.mark.parametrize("name", ["i.csv.gz", "i.parquet"])
def test_a_file_that_is_damaged_anywhere_is_told(tmp_path, name):
    path = tmp_path / name
    if name.endswith("gz"):
        rows = "".join(f"images/{n * 7919},2026-11-28T18:00:00Z\n" for n in range(2000))
        path.write_bytes(gzip.compress(f"Name,Last-Modified\n{rows}".encode()))
    else:
        keys = [f"{n * 7919}" for n in range(2000)]
        pq.write_table(pa.table({"Key": keys, "Last-Modified": [NOW] * 2000}), path)
    whole = path.read_bytes()
    told = set()
    for at in range(0, len(whole), len(whole) // 50):
        damaged = [whole[:at], whole[:at] + b"\xff" * 9 + whole[at + 9 :]]
        for content in damaged:
            path.write_bytes(content)
            try:
                entries(tmp_path, f"{path}")
            except StoreError as error:
                told.add(str(error).partition(";")[0])
    assert "a file of the inventory is neither Parquet nor CSV, or damaged" in told


def test_an_inventory_that_is_not_there_is_told(tmp_path):
    for missing in (f"{tmp_path}/i.csv", f"{tmp_path}/nowhere/"):
        with pytest.raises(StoreError):
            entries(tmp_path, missing)
