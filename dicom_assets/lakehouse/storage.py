"""Storage: one way to list and read what lies in a folder or in an object store.

Decided here: which addresses there are (`abfss://`, `az://`, `s3://`, `gs://`, folders), where the
credentials of each come from, and what is said when a store does not answer. Object stores are read
by ranges. Whatever obstore says itself is left out of errors: it names objects, and may hold parts
of credentials. The options are those that deltalake takes, too (`Storage.options`), so that tables
can lie where objects do. Nothing here writes. Not decided here: what is read (`shortcuts`,
`dicom_assets.steps`).
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

import pyarrow as pa

from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.layout import printable
from dicom_assets.lakehouse.paths import is_far
from dicom_assets.lakehouse.pool import over_threads
from dicom_assets.lakehouse.schemas import TIMESTAMP

if TYPE_CHECKING:
    from obstore.store import ObjectStore as AnyStore

LISTED = pa.schema(
    [("key", pa.string()), ("size", pa.int64()), ("modified", TIMESTAMP), ("etag", pa.string())]
)
"""One row per object or file: where below the root of its store it lies, and its version."""

_OBJECT_STORES = {"az": "az", "abfs": "az", "abfss": "az", "s3": "s3", "s3a": "s3", "gs": "gs"}
_IN_ENVIRONMENT = {"az": "AZURE", "s3": "AWS", "gs": "GOOGLE"}
_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<place>[^/]*)(?:/(?P<key>.*))?", re.S)
_ACCOUNT = re.compile(r"(?P<container>[^@]+)@(?P<account>[^.]+)\.(?P<rest>.+)")
_ENDPOINT = re.compile(r"(?!.*_use_).*endpoint(_url)?(_s3)?", re.I)  # those are true or false
_STATUS = re.compile(r"status code: (\d{3})")
_AT_ONCE = 32
_LISTED_AT_ONCE = 5000
_RETRIES: Any = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
}


class StoreError(PlainError, OSError):
    """A store cannot be used. The message says which, why and what to do; no credential."""


class ObjectError(OSError):
    """One object cannot be read, others may. The message says why and names nothing."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of an object, and which version of it they are of.

    Attributes:
        data: The bytes.
        size: Of the whole object.
        etag: As the store says it, without quotes; None for files.
        modified: When it was last written.
    """

    data: bytes
    size: int
    etag: str | None
    modified: datetime

    @property
    def version(self) -> str:
        """The etag; else modification time and size."""
        return self.etag or f"{self.modified:%Y-%m-%dT%H:%M:%S.%fZ} {self.size}"


class Store(Protocol):
    """What lies below one root."""

    is_far: bool
    """Whether each read costs a request."""

    def list(self, prefix: str) -> Iterator[pa.RecordBatch]:
        """Yields what lies below a prefix as LISTED, in the order of keys.

        Raises:
            StoreError: Not all of it can be listed; what can be has been.
        """
        ...

    def get(self, key: str, start: int, size: int, *, etag: str | None = None) -> Piece:
        """Reads a range of an object, of the version with the etag if one is given.

        Raises:
            ObjectError: This object cannot be read.
            StoreError: The store does not answer.
        """
        ...

    def download(self, key: str, to: BinaryIO) -> None:
        """Copies an object into a file; raises as `get`."""
        ...


@dataclass(frozen=True)
class Storage:
    """All stores a site has credentials for.

    Attributes:
        root: The lakehouse's root; local addresses in tables are relative to it.
        sections: Address → options, as the setting `storage` has them.
    """

    root: Path
    sections: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    def find(self, address: str) -> tuple[Store, str]:
        """Returns the store of an address, and the key of what lies there.

        Raises:
            StoreError: There are no such stores, or its options are wrong.
        """
        if not is_far(address):
            if isinstance(self.root, FarPath):
                return Below(self.root.store, self.root.key), address
            return LocalFolder(self.root), address
        match = _ADDRESS.fullmatch(address)
        if not match or match["scheme"] not in _OBJECT_STORES or not match["place"]:
            kinds = ", ".join(f"{each}://" for each in _OBJECT_STORES)
            raise StoreError(f"no address of a folder, nor one that begins with {kinds}")
        root = f"{match['scheme']}://{match['place']}"
        options = tuple(sorted(self.options(address).items()))
        return object_store(root, options), match["key"] or ""

    def options(self, address: str) -> dict[str, str]:
        """Returns what the site has set for an address: the section that says most of it."""
        fitting = [
            section
            for section in self.sections
            if address == section.rstrip("/") or address.startswith(section.rstrip("/") + "/")
        ]
        return dict(self.sections[max(fitting, key=len)]) if fitting else {}


def check_address(address: str) -> str:
    """Returns an address that somebody wrote down, without a slash at its end.

    Raises:
        StoreError: It is none, or holds a credential.
    """
    if "?" in address or re.match(r"[^/]*//[^/@]*:[^/]*@", address):
        raise StoreError(
            "an address must not hold a key or token: put that into the environment or into the"
            " setting `storage`, and renew it, since it may have been read"
        )
    if address.startswith("file://"):
        address = address.removeprefix("file://")
    if re.fullmatch(r"[^/]*:/*|[^/]*:///.*", address, re.S):
        raise StoreError(
            "an address must name a container or bucket after ://, such as s3://bucket"
        )
    if not is_far(address) and not address.startswith("/"):
        raise StoreError("a folder's address must begin with /")
    return address.rstrip("/")


def lakehouse_address(address: str) -> str:
    """Returns the address of a lakehouse's root in an object store.

    Raises:
        StoreError: It is none, or holds a credential.
    """
    match = _ADDRESS.fullmatch(check_address(address))
    if not match or match["scheme"] not in _OBJECT_STORES or not match["place"]:
        kinds = ", ".join(f"{each}://" for each in _OBJECT_STORES)
        raise StoreError(f"must be a folder, or an address that begins with {kinds}")
    return check_address(address)


class ObjectStore:
    """A container or bucket."""

    is_far = True

    def __init__(self, root: str, options: Mapping[str, str]) -> None:
        """Connects when asked for something."""
        self._root = root
        self._store = _connected(root, dict(options))

    @property
    def client(self) -> "AnyStore":
        """What obstore's own functions take."""
        return self._store

    def list(self, prefix: str) -> Iterator[pa.RecordBatch]:
        """Yields what lies below a prefix as LISTED, in the order of keys."""
        import obstore

        try:
            for found in obstore.list(
                self._store,
                prefix=prefix.strip("/") or None,
                chunk_size=_LISTED_AT_ONCE,
                return_arrow=True,
            ):
                batch = pa.record_batch(found)
                columns = [
                    batch["path"].cast(pa.string()),
                    batch["size"].cast(pa.int64()),
                    batch["last_modified"].cast(TIMESTAMP),
                    _unquoted(batch["e_tag"].cast(pa.string())),
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=LISTED)
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise self._store_error(error) from None

    def get(self, key: str, start: int, size: int, *, etag: str | None = None) -> Piece:
        """Reads a range of an object, of the version with the etag if one is given."""
        import obstore

        options: Any = {"range": (start, start + size)}
        if etag:
            options["if_match"] = f'"{etag}"'
        try:
            found = obstore.get(self._store, key, options=options)
            data, meta = found.bytes().to_bytes(), found.meta
        except (obstore.exceptions.BaseError, FileNotFoundError, ValueError) as error:
            if _status(error) == 416:  # nothing lies there: the object is empty
                return Piece(b"", 0, None, datetime.fromtimestamp(0, UTC))
            raise self._object_error(error) from None
        return Piece(data, meta["size"], (meta["e_tag"] or "").strip('"'), meta["last_modified"])

    def download(self, key: str, to: BinaryIO) -> None:
        """Copies an object into a file."""
        import obstore

        try:
            for some in obstore.get(self._store, key):
                to.write(some)
        except (obstore.exceptions.BaseError, FileNotFoundError, ValueError) as error:
            raise self._object_error(error) from None

    def _object_error(self, error: Exception) -> Exception:
        from obstore import exceptions

        status = _status(error)
        if _is_no_path(error):
            return ObjectError("no path can have its name; give that object another one")
        if self.is_missing(error):
            return ObjectError("it is not there any more")
        if isinstance(error, exceptions.PermissionDeniedError):
            return ObjectError("the credential may not read it")
        if isinstance(error, exceptions.PreconditionError):
            return ObjectError("it changed while it was being read")
        if status and 400 <= status < 500 and status not in (401, 408, 429):
            return ObjectError(f"the store refuses it (HTTP {status})")
        return self._store_error(error)

    def is_missing(self, error: Exception) -> bool:
        """Says whether an error of obstore's says that there is no such object."""
        return isinstance(error, FileNotFoundError) or _status(error) == 404

    def fault(self, error: Exception) -> StoreError:
        """Returns what is said when the store could not do what a lakehouse needs."""
        if _status(error) == 403:
            return StoreError(
                f"{self._root}: the credential is wrong, has expired, or may not do that; a"
                " lakehouse needs read, list, write and delete"
            )
        return self._store_error(error)

    def _store_error(self, error: Exception) -> StoreError:
        status = _status(error)
        if _is_no_path(error):
            return StoreError(
                f"{self._root}: a key in it, or the prefix, can be no path, since it has control"
                " characters, `.` or `..` for a folder, or slashes with nothing between; give that"
                " object another name"
            )
        why = {
            401: "it knows no such credential; check it, and whether it has expired",
            403: "the credential is wrong, has expired, or may not list; it needs read and list",
            404: "there is no such container or bucket",
            429: "it asks to be left alone for a while; run again later",
        }.get(status or 0)
        if why is None:
            why = f"it fails (HTTP {status})" if status else "it does not answer; check the network"
        return StoreError(f"{self._root}: {why}")


@dataclass(frozen=True)
class Below:
    """What lies below a key, the root of a lakehouse, with keys relative to that.

    Attributes:
        store: The container or bucket.
        top: The key.
    """

    store: ObjectStore
    top: str
    is_far = True

    def list(self, prefix: str) -> Iterator[pa.RecordBatch]:
        """Yields what lies below a prefix as LISTED; hidden objects are left out, as of folders."""
        for batch in self.store.list(self._key(prefix)):
            keys = [key[len(self._key("")) :] for key in batch["key"].to_pylist()]
            shown = pa.array(["/." not in key[len(prefix) :] for key in keys], pa.bool_())
            yield batch.set_column(0, LISTED.field(0), pa.array(keys, pa.string())).filter(shown)

    def get(self, key: str, start: int, size: int, *, etag: str | None = None) -> Piece:
        """Reads a range of an object, of the version with the etag if one is given."""
        return self.store.get(self._key(key), start, size, etag=etag)

    def download(self, key: str, to: BinaryIO) -> None:
        """Copies an object into a file."""
        self.store.download(self._key(key), to)

    def _key(self, key: str) -> str:
        return f"{self.top}/{key}" if self.top else key


@dataclass(frozen=True)
class LocalFolder:
    """Folders and files of this machine.

    Attributes:
        root: What keys are relative to; keys may be absolute, too.
    """

    root: Path
    is_far = False

    def list(self, prefix: str) -> Iterator[pa.RecordBatch]:
        """Yields what lies below a folder as LISTED, sorted; hidden files and links are left out.

        The folder itself may be a link.
        """
        prefix = prefix.rstrip("/")
        top = self.root / prefix
        waiting, rows, failed = [top], [], 0
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    found = sorted(entries, key=lambda entry: entry.name, reverse=True)
            except OSError as error:
                if folder == top:
                    raise StoreError(_no_folder(error)) from None
                failed += 1
                continue
            for entry in reversed(found):
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    try:
                        known = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:  # since the folder was listed
                        continue
                    key = printable(prefix + entry.path[len(str(top)) :])
                    rows.append((key, known.st_size, known.st_mtime_ns // 1000, None))
            waiting += [
                Path(entry.path)
                for entry in found
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
            while len(rows) >= _LISTED_AT_ONCE:
                yield _listed(rows[:_LISTED_AT_ONCE])
                rows = rows[_LISTED_AT_ONCE:]
        if rows:
            yield _listed(rows)
        if failed:
            raise StoreError(f"{failed} folders in it may not be listed; give the right to")

    def get(self, key: str, start: int, size: int, *, etag: str | None = None) -> Piece:
        """Reads a range of a file; files have no etag."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectError("it is not there any more") from None
        except PermissionError:
            raise ObjectError("this process may not read it") from None
        try:
            known = os.fstat(descriptor)
            if not stat.S_ISREG(known.st_mode):
                raise ObjectError("it is no file any more")
            data = os.pread(descriptor, size, start)
        finally:
            os.close(descriptor)
        modified = datetime.fromtimestamp(known.st_mtime_ns // 1000 / 1e6, UTC)
        return Piece(data, known.st_size, None, modified)

    def download(self, key: str, to: BinaryIO) -> None:
        """Copies a file into another."""
        at = 0
        while some := self.get(key, at, 1 << 20).data:
            to.write(some)
            at += len(some)

    def _path(self, key: str) -> str | Path:
        path = self.root / key
        if "%" in key and not os.path.lexists(path):  # a name that is not UTF-8
            return os.fsdecode(unquote_to_bytes(os.fspath(path)))
        return path


def get_many(store: Store, keys: Sequence[str], size: int) -> list[Piece | ObjectError]:
    """Reads the first bytes of many objects, many at once where each costs a request.

    Raises:
        StoreError: The store does not answer.
    """

    def get(key: str) -> Piece | ObjectError:
        try:
            return store.get(key, 0, size)
        except ObjectError as error:
            return error

    workers = _AT_ONCE if store.is_far else 1
    return list(over_threads(get, keys, workers=workers, count=len(keys)))


@lru_cache(maxsize=64)
def object_store(root: str, options: tuple[tuple[str, str], ...]) -> ObjectStore:
    """Returns the store of a container or bucket, connected once."""
    return ObjectStore(root, dict(options))


def _connected(root: str, options: dict[str, str]) -> "AnyStore":
    """Makes a client; what options do not say, the environment may."""
    from obstore import exceptions
    from obstore.store import AzureStore, GCSStore, S3Store

    scheme, place = root.split("://")
    kind = _OBJECT_STORES[scheme]
    _check_endpoints(root, options)
    client: Any = {"connect_timeout": "10s", "timeout": "60s"}
    options = with_plain_http(root, options)
    if options.pop("allow_http", ""):
        client["allow_http"] = True
    if kind == "az" and (match := _ACCOUNT.fullmatch(place)):
        place = match["container"]
        options = {"azure_storage_account_name": match["account"]} | options
    made: Any = {"az": AzureStore, "s3": S3Store, "gs": GCSStore}[kind]
    try:
        return made(place, config=options, client_options=client, retry_config=_RETRIES)
    except (exceptions.BaseError, ValueError):
        known = ", ".join(sorted(options)) or "none"
        raise StoreError(
            f"{root}: its options are wrong or not enough. Set: {known}; others may come from the"
            " environment. docs/bring_your_own_storage.md shows what is needed"
        ) from None


def _check_endpoints(root: str, options: Mapping[str, str]) -> None:
    """Checks addresses of servers, set or in the environment: obstore panics at what is none.

    Raises:
        StoreError: One is no address.
    """
    begin = f"{_IN_ENVIRONMENT[_OBJECT_STORES[root.partition('://')[0]]]}_"
    around = {name: value for name, value in os.environ.items() if name.startswith(begin)}
    for name, value in (around | dict(options)).items():
        if _ENDPOINT.fullmatch(name) and not _is_endpoint(value):
            raise StoreError(
                f"{root}: {name} must be an address such as https://minio.hospital.example:9000"
            )


def _is_endpoint(value: str) -> bool:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 raises where it is none
    except ValueError:
        return False
    is_plain = re.search(r"[\s\x00-\x1f\x7f]", value) is None
    return parts.scheme in ("http", "https") and bool(parts.hostname) and is_plain


def with_plain_http(root: str, options: Mapping[str, str]) -> dict[str, str]:
    """Returns options that allow an endpoint without encryption where one is named."""
    kind = _OBJECT_STORES[root.partition("://")[0]]
    said = [value for name, value in options.items() if name.lower().endswith("endpoint")]
    endpoint = next(iter(said), os.environ.get(f"{_IN_ENVIRONMENT[kind]}_ENDPOINT", ""))
    return {**options} | ({"allow_http": "true"} if endpoint.startswith("http://") else {})


def _is_no_path(error: Exception) -> bool:
    """Says whether it is about a key that obstore takes for no path; of a listing it is wrapped."""
    said = str(error)
    return isinstance(error, ValueError) or "parsing Path" in said or "empty path segment" in said


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _unquoted(etags: pa.Array) -> pa.Array:
    return pa.array([each and each.strip('"') for each in etags.to_pylist()], pa.string())


def _listed(rows: list[tuple[str, int, int, None]]) -> pa.RecordBatch:
    keys, sizes, times, etags = zip(*rows, strict=True)
    arrays = [pa.array(keys), pa.array(sizes), pa.array(times, pa.int64()).cast(TIMESTAMP)]
    return pa.RecordBatch.from_arrays([*arrays, pa.array(etags, pa.string())], schema=LISTED)


def _no_folder(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "this process may not list the folder; give it the right to"
    return "the folder is not there, or cannot be listed; is its file system mounted?"
