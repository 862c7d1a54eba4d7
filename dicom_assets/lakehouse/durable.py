"""What is written stays written, also when the power fails.

Decided here: how. One `syncfs` makes all durable that a file system still holds in memory, data and
names, whoever wrote them, so that a thousand files cost as little as one; one file alone is synced
by itself. Where there is no `syncfs` (macOS), everything is written out instead. Not decided here:
when; the rule is that a thing is durable before a row names it, or before what it replaces is
removed (`journal`, `engine`, `dicom_assets.steps`).
"""

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.paths import appear


def sync(folders: Iterable[Path]) -> None:
    """Makes all durable that has been written to the file systems of some folders.

    Raises:
        OSError: The storage could not take all of it.
    """
    done: set[int] = set()
    for folder in folders:
        if isinstance(folder, FarPath):  # what a store has acknowledged stays
            continue
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            device = os.fstat(descriptor).st_dev
            if device not in done:
                _sync_file_system(descriptor)
                done.add(device)
        finally:
            os.close(descriptor)


def put(temporary: Path, target: Path) -> None:
    """Gives a file its name, under which it is there whole or not at all, and stays.

    Raises:
        OSError: The storage could not take it.
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    appear(temporary, target)
    sync([target.parent])  # with the names of folders that are new, too


def make_folder(folder: Path) -> None:
    """Makes a folder, and all above it, that stay when the power fails."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file_system(descriptor: int) -> None:
    if sys.platform != "linux":
        os.sync()
        os.fsync(descriptor)
    elif _libc.syncfs(descriptor):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


_libc = ctypes.CDLL(None, use_errno=True)
