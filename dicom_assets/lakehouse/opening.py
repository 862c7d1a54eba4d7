"""Opening what others can replace: only regular files, and through no link.

Decided here: how that holds also when a file, or a folder on the way to it, is exchanged for a link
or a pipe between being listed and being opened. Not decided here: what becomes of such a file; to
callers it has gone. How a file gets a name there: `placing`.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dicom_assets.lakehouse.far import FarPath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# without O_NONBLOCK a pipe that nobody writes to would hold up the run
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def open_regular(path: Path, *, within: Path | None = None) -> BinaryIO:
    """Opens a regular file for reading.

    Args:
        path: The file; its own name is never followed when it is a link.
        within: A folder above it, below which no folder may be a link either; where that lies is
            the site's own choice.

    Raises:
        FileNotFoundError: It is gone, or is no regular file, or lies behind a link.
        OSError: It cannot be opened.
    """
    if isinstance(path, FarPath):  # there are no links
        return path.open("rb", buffering=0)
    try:
        if within is not None:
            with opened_folder(path.parent, within=within) as folder:
                descriptor = os.open(path.name, _FILE, dir_fd=folder)
        else:
            descriptor = os.open(path, _FILE)
    except OSError as error:
        # a link: ELOOP, where a folder was expected ENOTDIR; a socket or a pipe's end: ENXIO
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise _gone(path) from None
        error.filename = str(path)  # by which the caller knows whose error it is
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _gone(path)
    return os.fdopen(descriptor, "rb", buffering=0)


@contextmanager
def opened_folder(folder: Path, *, within: Path, makes: bool = False) -> Iterator[int]:
    """Opens a folder until the block ends; yields its descriptor.

    Args:
        folder: The folder.
        within: A folder above it, or itself, below which none may be a link.
        makes: Whether folders below `within` that are missing are made; they stay when the power
            fails.

    Raises:
        OSError: It cannot be opened or made; ELOOP or ENOTDIR: one of them is no folder, but a
            link, say.
    """
    descriptor = os.open(within, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in folder.relative_to(within).parts:
            try:
                inner = os.open(name, _FOLDER, dir_fd=descriptor)
            except FileNotFoundError:
                if not makes:
                    raise
                with suppress(FileExistsError):  # somebody was quicker
                    os.mkdir(name, dir_fd=descriptor)
                os.fsync(descriptor)
                inner = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _gone(path: Path) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "what was a file is none any more", str(path))
