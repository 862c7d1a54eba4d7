"""Inventories: files that say what lies in a container, in place of a listing.

Decided here: which columns are looked for, by the names that Azure Blob inventory and S3 Inventory
give them, and which rows are objects as they stand now. Files are copied, one at a time, to an
unnamed file and read in batches, however many rows they hold. Not decided here: what is new among
them (`dicom_assets.steps.external`).
"""

import gzip
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_plus

import orjson
import pyarrow as pa
import pyarrow.compute

from dicom_assets.lakehouse.paths import scratch_of
from dicom_assets.lakehouse.schemas import TIMESTAMP
from dicom_assets.lakehouse.storage import LISTED, ObjectError, Storage, StoreError

pc: Any = pyarrow.compute  # its functions are made when it is imported

_ROWS_AT_A_TIME = 50_000
_FORMATS = re.compile(r"\.(parquet|csv|csv\.gz)$", re.I)
# column, as small letters and digits alone → what it is
_NAMES = {
    "name": "name",
    "key": "key",
    "lastmodified": "modified",
    "lastmodifieddate": "modified",
    "contentlength": "size",
    "size": "size",
    "etag": "etag",
}
_MUST_BE = {"hdiisfolder": False, "deleted": False, "isdeletemarker": False}
_MUST_BE |= {"iscurrentversion": True, "islatest": True}
_SNAPSHOT = "snapshot"
_WANTED = {*_NAMES, *_MUST_BE, _SNAPSHOT}
_ISO = r"^(?P<day>\d{4}-\d\d-\d\d)[T ](?P<time>\d\d:\d\d:\d\d)"


def listed_in(
    inventory: Sequence[str], storage: Storage, *, container: str, prefix: str
) -> Iterator[pa.RecordBatch]:
    """Yields the objects that an inventory names as LISTED.

    Args:
        inventory: Addresses of Parquet or CSV files, of an S3 Inventory's `manifest.json`, or of
            folders (with a slash at the end) in which all Parquet and CSV files are meant.
        storage: What they are read from.
        container: The container the inventory is about; Azure's names begin with it.
        prefix: Objects of other keys are left out.

    Raises:
        StoreError: A file cannot be read, or says too little.
    """
    folder = prefix.strip("/") and prefix.strip("/") + "/"
    for address, columns in chain.from_iterable(_files(each, storage) for each in inventory):
        with tempfile.TemporaryFile(dir=scratch_of(storage.root)) as file:
            _download(storage, address, file)
            file.seek(0)
            for batch in _sound(_batches(file, address, columns)):
                found = _objects(batch, container)
                yield found.filter(pc.starts_with(found["key"], folder))


def _sound(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yields what can be read of a file.

    Raises:
        StoreError: The rest cannot, or its columns are not clear.
    """
    while True:
        try:
            batch = next(batches, None)
        except StoreError:  # which is an OSError
            raise
        # OSError: pyarrow says so of damaged compression
        except (pa.ArrowException, zlib.error, OSError, EOFError, ValueError):
            raise StoreError(
                "a file of the inventory is neither Parquet nor CSV, or damaged"
            ) from None
        if batch is None:
            return
        yield batch


def _download(storage: Storage, address: str, to: BinaryIO) -> None:
    store, key = storage.find(address)
    try:
        store.download(key, to)
    except ObjectError as error:
        raise StoreError(f"a file of the inventory cannot be read: {error}") from None


def _files(address: str, storage: Storage) -> Iterator[tuple[str, list[str] | None]]:
    """Yields addresses of an inventory's files; with their columns where the manifest has those."""
    if address.endswith("manifest.json"):
        yield from _in_manifest(address, storage)
    elif address.endswith("/"):
        store, prefix = storage.find(address)
        root = address.removesuffix(prefix) if store.is_far else ""
        found = [key for batch in store.list(prefix) for key in batch["key"].to_pylist()]
        files = [key for key in found if _FORMATS.search(key)]
        if not files:
            raise StoreError("no Parquet or CSV file lies where the inventory is said to be")
        yield from ((f"{root}{key}", None) for key in files)
    else:
        yield address, None


def _in_manifest(address: str, storage: Storage) -> Iterator[tuple[str, list[str] | None]]:
    with tempfile.TemporaryFile(dir=scratch_of(storage.root)) as file:
        _download(storage, address, file)
        file.seek(0)
        try:
            said = orjson.loads(file.read())
            bucket = said["destinationBucket"].rpartition(":")[2]
            schema = said["fileSchema"] if said["fileFormat"] == "CSV" else ""
            keys = [each["key"] for each in said["files"]]
            columns = [name.strip() for name in schema.split(",")] if schema else None
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise StoreError("the inventory's manifest.json is none of S3 Inventory") from None
    yield from ((f"s3://{bucket}/{key}", columns) for key in keys)


def _batches(file: BinaryIO, address: str, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """Yields the columns that are wanted, by their plain names."""
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    if address.lower().endswith(".parquet"):
        parquet = pq.ParquetFile(file)
        wanted = _wanted(parquet.schema_arrow.names)
        for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=wanted):
            yield batch.rename_columns([_plain(name) for name in batch.schema.names])
        return
    is_zipped = address.lower().endswith(".gz")
    names = columns or _header(_unzipped(file) if is_zipped else file)
    file.seek(0)
    options = pacsv.ReadOptions(block_size=1 << 22, column_names=columns)
    convert = pacsv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        include_columns=_wanted(names),
        strings_can_be_null=True,
    )
    stream = _unzipped(file) if is_zipped else file
    for batch in pacsv.open_csv(stream, read_options=options, convert_options=convert):
        renamed = batch.rename_columns([_plain(name) for name in batch.schema.names])
        # S3 writes keys as in an address
        yield _decoded(renamed) if "key" in renamed.schema.names else renamed


def _wanted(names: Sequence[str]) -> list[str]:
    """Returns the columns that are wanted.

    Raises:
        StoreError: Two of them mean the same.
    """
    wanted = [name for name in names if _plain(name) in _WANTED]
    if len({_plain(name) for name in wanted}) < len(wanted):
        raise StoreError(
            f"the inventory has two columns of the same name among {', '.join(wanted)}; leave one"
            " out"
        )
    return wanted


def _unzipped(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


def _header(stream: BinaryIO) -> list[str]:
    """Returns the columns that a CSV file's first line names."""
    line = stream.read(1 << 16).partition(b"\n")[0].decode("utf-8-sig", "replace").strip()
    return [name.strip().strip('"') for name in line.split(",")]


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    at = batch.schema.get_field_index("key")
    keys = [key and unquote_plus(key) for key in batch["key"].to_pylist()]
    return batch.set_column(at, "key", pa.array(keys, pa.string()))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _objects(batch: pa.RecordBatch, container: str) -> pa.RecordBatch:
    """Returns the rows that are objects as they stand now."""
    found = {_NAMES[name]: batch[name] for name in batch.schema.names if name in _NAMES}
    keys = found.get("key", found.get("name"))
    if "modified" not in found or keys is None:
        raise StoreError("the inventory must have columns Name (or Key) and Last-Modified")
    stays = pa.array([True] * len(batch), pa.bool_())
    for name, wanted in _MUST_BE.items():
        if name in batch.schema.names:
            stays = pc.and_(stays, pc.equal(_truth(batch[name], name, unknown=wanted), wanted))
    if _SNAPSHOT in batch.schema.names:
        of_snapshot = pc.fill_null(
            pc.not_equal(_as(pa.string(), batch[_SNAPSHOT], "Snapshot"), ""), False
        )
        stays = pc.and_(stays, pc.invert(of_snapshot))
    keys = _as(pa.string(), keys, "Key" if "key" in found else "Name")
    if "key" not in found:
        keys = pc.replace_substring_regex(keys, f"^{re.escape(container)}/", "")
    nothing = pa.nulls(len(batch), pa.string())
    arrays = [
        keys,
        _numbers(found.get("size", nothing)),
        _instants(found["modified"]),
        _cut(_as(pa.string(), found.get("etag", nothing), "Etag")),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=LISTED).filter(stays)


def _as(wanted: pa.DataType, column: pa.Array, name: str) -> pa.Array:
    """Returns a column as another type.

    Raises:
        StoreError: A value of it cannot be that.
    """
    try:
        return column.cast(wanted)
    except pa.ArrowException:
        raise StoreError(
            f"the inventory's column {name} has values that are no {wanted}; look who writes it"
        ) from None


def _truth(column: pa.Array, name: str, *, unknown: bool) -> pa.Array:
    if not pa.types.is_boolean(column.type):
        column = pc.equal(pc.utf8_lower(_as(pa.string(), column, name)), "true")
    return pc.fill_null(column, unknown)


def _numbers(column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    return _as(pa.int64(), column, "Size")


def _cut(etags: pa.Array) -> pa.Array:
    etags = pc.utf8_trim(etags, '"')
    return pc.if_else(pc.equal(etags, ""), pa.scalar(None, pa.string()), etags)


def _instants(column: pa.Array) -> pa.Array:
    """Returns instants of timestamps, of milliseconds since 1970, or of ISO 8601 texts in UTC."""
    name = "Last-Modified"
    if pa.types.is_timestamp(column.type):
        return _as(TIMESTAMP, _as(pa.timestamp("us"), column, name), name)
    if pa.types.is_integer(column.type):
        return _as(TIMESTAMP, _as(pa.timestamp("ms"), column, name), name)
    written = pc.extract_regex(_as(pa.string(), column, name), _ISO)
    if written.null_count > column.null_count:
        raise StoreError("the inventory's Last-Modified must be like 2026-11-28T18:00:00Z")
    texts = pc.binary_join_element_wise(
        pc.struct_field(written, "day"), pc.struct_field(written, "time"), " "
    )
    return _as(pa.timestamp("us"), texts, name).cast(TIMESTAMP)
