"""The drop folder: what lies in it, and what is complete enough to be taken.

Decided here: when a dropped file is stable, by the clock of the file system it lies on, which may
be another machine's; and that links are never followed. Not decided here: what becomes of a file
(`dicom_assets.steps.organise`), when to look (`dicom_assets.defs.sensors`).
"""

import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, filterfalse, islice
from pathlib import Path

from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.listing import listing
from dicom_assets.lakehouse.paths import is_far, path_of
from dicom_assets.lakehouse.pool import over_threads

_LOG = logging.getLogger(__name__)
_AT_ONCE = 16
_ENTRIES_AT_ONCE = 10_000
"""Each takes some 350 bytes."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """One entry of the drop folder, as it was when looked at.

    Attributes:
        address: Where it lies; a text, since there may be very many of them.
        size: Bytes.
        modified_ns: Modification time, nanoseconds since 1970.
        changed_ns: Time of the last change that the file system itself recorded (POSIX ctime).
            Unlike the modification time a copying program cannot set it.
        inode: The file's number on its file system.
        regular: Whether it is a regular file; links, pipes, sockets and devices are not.
    """

    address: str
    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    regular: bool

    @property
    def path(self) -> Path:
        """Where it lies."""
        return _path(self.address)

    @property
    def folder(self) -> str:
        """The folder it lies in."""
        return os.path.dirname(self.address)


@lru_cache(maxsize=2048)  # it is asked for often, of the entries of one commit
def _path(address: str) -> Path:
    return path_of(address)


def dropped(folder: Path, *, scratch: Path | None = None) -> Iterator[Dropped]:
    """Lists every entry but folders, at any depth, in a fixed order; follows no link.

    What may not be looked at is left out, with a warning.

    Args:
        folder: The folder.
        scratch: Where names wait that are too many to be held; None holds them all.
    """
    if isinstance(folder, FarPath):
        for path, status in folder.below():
            # some programs make an empty object for a folder, with a slash that is lost here
            if status.st_size or path.is_file():
                yield _dropped(str(path), status)
        return
    open_folders = [(str(folder), _listed(str(folder), scratch))]
    while open_folders:
        address, inside = open_folders[-1]
        name, is_folder = next(inside, ("", False))
        if not name:
            open_folders.pop()
            continue
        address = os.path.join(address, name)
        if is_folder:
            open_folders.append((address, _listed(address, scratch)))
        elif found := look(address):
            yield found


def _listed(folder: str, scratch: Path | None = None) -> Iterator[tuple[str, bool]]:
    """Returns what `listing` does; nothing of what cannot be listed."""
    try:
        return listing(folder, scratch)
    except OSError as error:
        if not f"{error.filename}".startswith(folder):  # it is the names that cannot be kept
            raise
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            # its name, maybe a person's, must not get into the log
            _LOG.warning("a folder in the drop folder cannot be listed: %s", error.strerror)
        return iter(())


def look(address: str) -> Dropped | None:
    """Looks at one entry; None when it is gone, or may not be looked at."""
    try:
        status = path_of(address).stat() if is_far(address) else os.lstat(address)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        _LOG.warning("a dropped file cannot be looked at: %s", error.strerror)
        return None
    return _dropped(address, status)


def _dropped(address: str, status: os.stat_result) -> Dropped:
    return Dropped(
        address,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        stat.S_ISREG(status.st_mode),
    )


def is_same(entry: Dropped) -> bool:
    """Says whether the entry still lies there with the content it had when it was looked at.

    Its ctime is not compared: that changes with a link count, when another name of it goes.
    """
    now = look(entry.address)
    return now is not None and (
        (now.inode, now.size, now.modified_ns) == (entry.inode, entry.size, entry.modified_ns)
    )


def is_settled(entry: Dropped, *, now_ns: int, settle_seconds: float) -> bool:
    """Says whether the entry has not changed for long enough to be complete."""
    return now_ns - entry.changed_ns >= settle_seconds * 1e9


def clock_of(folder: Path) -> int:
    """Returns what time it is on the file system of a folder, nanoseconds since 1970.

    That writes down when files change, and of a share it is the server's clock: next to this
    machine's, a file that is being written would look old, or as if it came out of the future.
    """
    if isinstance(folder, FarPath):
        return time.time_ns()
    try:
        os.utime(folder)
        return folder.stat().st_ctime_ns
    except PermissionError:  # of a folder that is to be read only this machine's must do
        return time.time_ns()


def stable_parts(
    folder: Path,
    *,
    settle_seconds: float,
    scratch: Path,
    is_first: Callable[[Dropped], bool] | None = None,
) -> Iterator[tuple[list[Dropped], int]]:
    """Lists the entries that are complete, in parts, since there may be any number of them.

    Args:
        folder: The folder.
        settle_seconds: How long an entry must not have changed.
        scratch: Where names wait that are too many to be held.
        is_first: Says which entries come before all others, wherever they lie.

    Yields:
        As `without_changing` returns; no part where there is nothing.
    """
    entries = dropped(folder, scratch=scratch)
    part = list(islice(entries, _ENTRIES_AT_ONCE))
    if is_first and len(part) < _ENTRIES_AT_ONCE:
        part.sort(key=lambda entry: not is_first(entry))
    elif is_first:
        first = [e for e in dropped(folder, scratch=scratch) if is_first(e)]
        yield without_changing(first, folder, settle_seconds=settle_seconds)
        entries = filterfalse(is_first, chain(part, entries))
        part = list(islice(entries, _ENTRIES_AT_ONCE))
    while part:
        yield without_changing(part, folder, settle_seconds=settle_seconds)
        part = list(islice(entries, _ENTRIES_AT_ONCE))


def without_changing(
    entries: list[Dropped], folder: Path, *, settle_seconds: float
) -> tuple[list[Dropped], int]:
    """Tells entries below a folder that are complete, waiting once for those that may not be.

    Returns:
        The complete ones, and how many were still changing and are left alone.
    """
    if not entries:
        return entries, 0
    now_ns = clock_of(folder)
    # those of the future, too: the clock was set back, or they lie on another file system
    young = [e for e in entries if not is_settled(e, now_ns=now_ns, settle_seconds=settle_seconds)]
    if not young:
        return entries, 0
    time.sleep(settle_seconds)
    at_home = not isinstance(young[0].path, FarPath)
    looks = over_threads(_is_as_before, young, workers=_AT_ONCE, count=0 if at_home else len(young))
    changing = {e.address for e, same in zip(young, looks, strict=True) if not same}
    return [entry for entry in entries if entry.address not in changing], len(changing)


def _is_as_before(entry: Dropped) -> bool:
    return look(entry.address) == entry


def remove_empty_folders(
    folder: Path, *, emptied: Collection[Path], kept: Collection[Path], settle_seconds: float
) -> None:
    """Removes empty folders below the drop folder, when nobody is about to fill them.

    Args:
        folder: The drop folder.
        emptied: Folders that held what has been taken.
        kept: Folders that stay, even empty.
        settle_seconds: A folder that came empty goes once it has not changed for so long.
    """
    if isinstance(folder, FarPath):  # there are none
        return
    done = set(emptied).union(*(each.parents for each in emptied))
    found, waiting = list[Path](), [folder]
    while waiting:
        inner = waiting.pop()
        below = [inner / name for name, is_folder in _listed(str(inner)) if is_folder]
        found += below
        waiting += below
    for path in reversed(found):
        with contextlib.suppress(OSError):  # not empty: something is left, or has come
            if path not in kept and (path in done or _age(path) > settle_seconds):
                path.rmdir()


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime
