"""Paths that lie in an object store: a lakehouse's root, and all below it, as steps use paths.

Decided here: what a path's verbs cost and mean there. There are no folders, only keys, so none is
made or removed. An object appears at once and whole: it is written to a local file first, then put,
in one request or, when it is large, in parts that become an object when the last has come; what
the store has acknowledged is durable. Moving is copying, then removing. Reading fetches ranges.
Whatever would hand such a path to the operating system fails at once, instead of looking there.

Not decided here: how stores are reached and what they say (`storage`), in which order things are
done (`journal`, `dicom_assets.steps`), where files are that are on their way (`paths`).
"""

import errno
import fnmatch
import hashlib
import io
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, Self

from dicom_assets.lakehouse.errors import PlainError

if TYPE_CHECKING:
    from dicom_assets.lakehouse.storage import ObjectStore

_OPTIONS: dict[str, dict[str, str]] = {}
"""Container or bucket → the options that the site has set for the lakehouse in it."""

LOST: set["FarPath"] = set()
"""Roots whose lease this process has lost (`lease`): nothing more is done there."""
TAKEN_OVER = (
    "the lease of the lakehouse was lost: its store did not answer for too long, and another run"
    " may have taken over. Run the date again: it goes on from there"
)

_PART = 8 << 20
_NOTE = "dicom_assets_note"
_MOST_PARTS = 5000
_COPIED_BY_STORE = 4 << 30  # S3 copies up to 5 GB in one request
_AT_ONCE = 4


class FarPath(PosixPath):
    """A path whose text is an address, `s3://bucket/key` for example."""

    __slots__ = ()

    def __str__(self) -> str:
        """Returns the address; of what is relative, its parts."""
        scheme, *rest = self.parts or ("",)
        return f"{scheme}//{'/'.join(rest)}" if scheme.endswith(":") else "/".join(self.parts)

    def __fspath__(self) -> str:
        """Raises: no system call reaches there."""
        raise TypeError(f"{self.container} is an object store; no path of this machine leads there")

    def __reduce__(self) -> Any:
        """Travels to worker processes with its container's options."""
        return _restored, (str(self), _OPTIONS.get(self.container, {}))

    @property
    def container(self) -> str:
        """The address of the container or bucket."""
        return f"{self.parts[0]}//{self.parts[1]}"

    @property
    def key(self) -> str:
        """Where it lies in there."""
        return "/".join(self.parts[2:])

    @property
    def options(self) -> dict[str, str]:
        """What delta-rs needs to reach it, beside the environment."""
        from dicom_assets.lakehouse.storage import with_plain_http

        return with_plain_http(self.container, _OPTIONS.get(self.container, {}))

    def connect(self, options: dict[str, str]) -> Self:
        """Says with which options its container is reached, from here on in this process."""
        _OPTIONS[self.container] = options
        return self

    def absolute(self) -> Self:
        """Returns itself."""
        return self

    def resolve(self, strict: bool = False) -> Self:
        """Returns itself: there are no links."""
        return self

    def expanduser(self) -> Self:
        """Returns itself."""
        return self

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: there are no folders."""

    def is_symlink(self) -> bool:
        """There are no links."""
        return False

    def is_file(self) -> bool:
        """Says whether an object lies there."""
        return self._head() is not None

    def is_dir(self) -> bool:
        """Says whether objects lie below."""
        return next(self.below(), None) is not None

    def exists(self) -> bool:
        """Says whether an object lies there, or below."""
        return self.is_file() or self.is_dir()

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Returns size and time of an object; a number made of its etag as inode.

        Raises:
            FileNotFoundError: None lies there.
        """
        head = self._head()
        if head is None:
            raise self._gone()
        return _stat_of(head["size"], head["last_modified"], head["e_tag"])

    def iterdir(self) -> Generator[Self, None, None]:
        """Yields what lies directly below."""
        folders, objects = self.listed()
        yield from (path for path in (*folders, *objects))

    def listed(self) -> tuple[list[Self], list[Self]]:
        """Returns what lies directly below: what has objects below it, and objects."""
        import obstore

        with self._told(is_of_one=False):
            found = obstore.list_with_delimiter(self._client, self.key)
        paths = found["common_prefixes"], [meta["path"] for meta in found["objects"]]
        folders, objects = ([self / path.rpartition("/")[2] for path in each] for each in paths)
        return folders, objects

    def below(self) -> Iterator[tuple[Self, os.stat_result]]:
        """Yields every object below, in the order of keys, with what `stat` says of it."""
        import obstore

        with self._told(is_of_one=False):
            for chunk in obstore.list(self._client, prefix=self.key):
                for meta in chunk:
                    path = type(self)(f"{self.container}/{meta['path']}")
                    yield path, _stat_of(meta["size"], meta["last_modified"], meta["e_tag"])

    def glob(self, pattern: str) -> Generator[Self, None, None]:
        """Yields what lies below and matches; of folders between, as many as the pattern has."""
        *folders, name = pattern.split("/")
        if not folders:
            yield from (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, name))
            return
        is_plain = not any(c in folders[0] for c in "*?[")
        for folder in [self / folders[0]] if is_plain else self.glob(folders[0]):
            yield from folder.glob("/".join([*folders[1:], name]))

    def rglob(self, pattern: str) -> Generator[Self, None, None]:
        """Yields every object below whose name matches."""
        for path, _ in self.below():
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path

    def open(self, mode: str = "r", buffering: int = -1, *_: Any, **__: Any) -> Any:
        """Opens an object, `rb` or `wb`; what is written appears when it is closed."""
        from dicom_assets.lakehouse.far_streams import Reader, Writer

        if mode == "wb":
            return Writer(self)
        if mode != "rb":
            raise ValueError(f"{mode} is not for objects")
        raw = Reader(self)
        return raw if buffering == 0 else io.BufferedReader(raw, 1 << 16)

    def read_bytes(self) -> bytes:
        """Returns all of an object."""
        with self.open("rb", buffering=0) as stream:
            return stream.readall()

    def read_text(self, *_: Any, **__: Any) -> str:
        """Returns all of an object, UTF-8."""
        return self.read_bytes().decode()

    def write_bytes(self, data: Any) -> int:
        """Puts an object."""
        import obstore

        with self._told(is_of_one=False):
            obstore.put(self._client, self.key, bytes(data), use_multipart=False)
        return len(data)

    def write_text(self, data: str, *_: Any, **__: Any) -> int:
        """Puts an object, UTF-8."""
        return self.write_bytes(data.encode())

    def version(self) -> Any:
        """Returns what `put_if` takes for the object that lies there.

        Raises:
            FileNotFoundError: None does.
        """
        head = self._head()
        if head is None:
            raise self._gone()
        return _version_of(head)

    def put_if(self, data: bytes, mode: Any) -> Any:
        """Puts an object if nobody has meanwhile.

        Args:
            data: Its content.
            mode: `create`, or the version to be replaced.

        Returns:
            The new version; None where another was there.
        """
        import obstore
        from obstore import exceptions

        with self._told(is_of_one=False):
            try:
                said = obstore.put(self._client, self.key, data, mode=mode, use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return None
            except FileNotFoundError as error:
                if mode != "create":  # what was to be replaced has gone
                    return None
                raise self.store.fault(error) from None
        return _version_of(said)

    def upload(self, source: Path, *, note: str | None = None) -> None:
        """Puts a local file; it is there whole, and durable, or not at all.

        Args:
            source: The file.
            note: What is kept with the object, beside its bytes.
        """
        import obstore

        part = max(_PART, source.stat().st_size // _MOST_PARTS)
        with self._told(is_of_one=False):
            obstore.put(
                self._client,
                self.key,
                source,
                attributes={} if note is None else {_NOTE: note},
                chunk_size=part,
                max_concurrency=_AT_ONCE,
            )

    def note(self) -> str | None:
        """Returns what was kept with an object.

        Raises:
            FileNotFoundError: It is not there.
        """
        import obstore

        with self._told():
            return obstore.get(self._client, self.key, options={"range": (0, 1)}).attributes.get(
                _NOTE
            )

    def download(self, target: Path) -> Path:
        """Fetches an object into a local file, in parts, several at once; returns the file.

        Raises:
            FileNotFoundError: It is not there, or was changed meanwhile.
        """
        from dicom_assets.lakehouse.pool import over_threads

        first = self.piece(0, _PART)
        starts = range(_PART, first.size, _PART)
        with target.open("wb") as sink:
            sink.write(first.data)

            def fetch(start: int) -> None:
                data = self.piece(start, _PART, etag=first.etag).data
                os.pwrite(sink.fileno(), data, start)

            sink.flush()
            for _ in over_threads(fetch, starts, workers=_AT_ONCE, count=len(starts)):
                pass
        return target

    def piece(self, start: int, size: int, *, etag: str | None = None) -> Any:
        """Returns a range (`storage.Piece`)."""
        from dicom_assets.lakehouse.storage import ObjectError

        try:
            return self.store.get(self.key, start, size, etag=etag)
        except ObjectError as error:
            raise FileNotFoundError(errno.ENOENT, str(error), str(self)) from None

    def rename(self, target: Any) -> Self:
        """Copies an object, then removes it."""
        self.copy_to(target)
        self.unlink()
        return target

    def replace(self, target: Any) -> Self:
        """Does the same."""
        return self.rename(target)

    def copy_to(self, target: Path) -> None:
        """Copies an object to another key of its container.

        Raises:
            FileNotFoundError: It is not there.
        """
        import obstore

        from dicom_assets.lakehouse.paths import temporary_of

        assert isinstance(target, FarPath)  # noqa: S101 all of a lakehouse lies in one container
        size = self.stat().st_size
        if size < _COPIED_BY_STORE:
            with self._told():
                obstore.copy(self._client, self.key, target.key)
            return
        temporary = temporary_of(target)
        try:
            target.upload(self.download(temporary))
        finally:
            temporary.unlink(missing_ok=True)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes an object; one that is not there is none to most stores, too."""
        import obstore

        try:
            with self._told():
                obstore.delete(self._client, self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    @property
    def store(self) -> "ObjectStore":
        """The store it lies in."""
        from dicom_assets.lakehouse.storage import object_store

        return object_store(self.container, tuple(sorted(_OPTIONS.get(self.container, {}).items())))

    @property
    def _client(self) -> Any:
        if any(self.is_relative_to(root) for root in LOST):
            raise PlainError(TAKEN_OVER)
        return self.store.client

    def _head(self) -> Any:
        import obstore

        try:
            with self._told():
                return obstore.head(self._client, self.key)
        except FileNotFoundError:
            return None

    @contextmanager
    def _told(self, *, is_of_one: bool = True) -> Iterator[None]:
        """Turns what obstore says into errors of the system, or of the store.

        Args:
            is_of_one: Whether what is not there is an object; else it is the container.
        """
        from obstore import exceptions

        try:
            yield
        except PlainError:
            raise
        except (exceptions.BaseError, FileNotFoundError, ValueError) as error:
            if is_of_one and self.store.is_missing(error):
                raise self._gone() from None
            raise self.store.fault(error) from None

    def _gone(self) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, "it is not there", str(self))


def _restored(address: str, options: dict[str, str]) -> FarPath:
    return FarPath(address).connect(options)


def _version_of(said: Any) -> dict[str, str]:
    return {name: said[name] for name in ("e_tag", "version") if said[name] is not None}


def _stat_of(size: int, modified: Any, etag: str | None) -> os.stat_result:
    # listings and answers about one object quote its etag and round its time in different ways
    seconds = int(modified.timestamp())
    inode = int.from_bytes(hashlib.sha256((etag or "").strip('"').encode()).digest()[:7])
    told = (stat.S_IFREG | 0o640, inode, 0, 1, 0, 0, size, seconds, seconds, seconds)
    times = {"st_mtime_ns": seconds * 10**9, "st_ctime_ns": seconds * 10**9}
    return os.stat_result(told, times)
