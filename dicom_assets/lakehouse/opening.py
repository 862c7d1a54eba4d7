"""Opening what others can replace: only regular files, and through no link.

Decided here: how that holds also when a file, or a folder on the way to it, is exchanged for a link
or a pipe between being listed and being opened. Not decided here: what becomes of such a file; to
callers it has gone.
"""

import errno
import os
import stat
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
    folder = None
    try:
        if within is not None:
            *folders, name = path.relative_to(within).parts
            folder = os.open(within, os.O_RDONLY | os.O_DIRECTORY)
            for each in folders:
                above, folder = folder, os.open(each, _FOLDER, dir_fd=folder)
                os.close(above)
            descriptor = os.open(name, _FILE, dir_fd=folder)
        else:
            descriptor = os.open(path, _FILE)
    except OSError as error:
        # a link: ELOOP, where a folder was expected ENOTDIR; a socket or a pipe's end: ENXIO
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise _gone(path) from None
        error.filename = str(path)  # by which the caller knows whose error it is
        raise
    finally:
        if folder is not None:
            os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _gone(path)
    return os.fdopen(descriptor, "rb", buffering=0)


def _gone(path: Path) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "what was a file is none any more", str(path))
