"""The drop folder: what lies in it, and what is complete enough to be taken.

Decided here: when a dropped file is stable, and that links are never followed. Not decided here:
what becomes of a file (`dicom_assets.steps.organise`), when to look (`dicom_assets.defs.sensors`).
"""

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Dropped:
    """One entry of the drop folder, as it was when looked at.

    Attributes:
        path: Where it lies.
        size: Bytes.
        modified_ns: Modification time, nanoseconds since 1970.
        changed_ns: Time of the last change that the file system itself recorded (POSIX ctime).
            Unlike the modification time a copying program cannot set it.
        regular: Whether it is a regular file; links, pipes, sockets and devices are not.
    """

    path: Path
    size: int
    modified_ns: int
    changed_ns: int
    regular: bool


def dropped(folder: Path) -> Iterator[Dropped]:
    """Lists every entry but folders, at any depth, in a fixed order; follows no link."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in ordered:
        if entry.is_dir(follow_symlinks=False):
            yield from dropped(Path(entry.path))
        elif found := look(Path(entry.path)):
            yield found


def look(path: Path) -> Dropped | None:
    """Looks at one entry; None when it is gone."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return Dropped(
        path,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        stat.S_ISREG(status.st_mode),
    )


def is_settled(entry: Dropped, *, now_ns: int, settle_seconds: float) -> bool:
    """Says whether the entry has not changed for long enough to be complete."""
    # a change in the future is a clock set back, of which no age can be told: taken for old
    return not 0 <= now_ns - entry.changed_ns < settle_seconds * 1e9


def stable(folder: Path, *, settle_seconds: float) -> tuple[list[Dropped], int]:
    """Lists the entries that are complete, waiting once for those that may not be.

    Returns:
        The stable entries, and how many were still changing and are left alone.
    """
    entries = list(dropped(folder))
    now_ns = time.time_ns()
    young = [e for e in entries if not is_settled(e, now_ns=now_ns, settle_seconds=settle_seconds)]
    if not young:
        return entries, 0
    time.sleep(settle_seconds)
    changing = {entry.path for entry in young if look(entry.path) != entry}
    return [entry for entry in entries if entry.path not in changing], len(changing)
