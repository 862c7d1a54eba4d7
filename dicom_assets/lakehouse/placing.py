"""Placing: a file gets a name where others may put files, too, in the drop folder for one.

Decided here: that no link which others have made there is followed, no file of theirs replaced, and
that a file appears whole; why one cannot get its place, in words that name no file. Not decided
here: what becomes of a file that cannot.
"""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

from dicom_assets.lakehouse.durable import make_folder
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.modes import FILE
from dicom_assets.lakehouse.move import move
from dicom_assets.lakehouse.opening import open_regular, opened_folder
from dicom_assets.lakehouse.paths import lies

_NO_FOLDER = "a link or a file lies where a folder has to be; take it away"
_NO_RIGHT = "this process may not put it there; give it the right to"
_NO_NAME = "the file system does not take its name; rename it"
_GONE = "it, or the folder for it, was taken away meanwhile; try again"
_WHY = {
    errno.EEXIST: _NO_FOLDER,
    errno.ELOOP: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.ENAMETOOLONG: _NO_NAME,
    errno.EILSEQ: _NO_NAME,
    errno.EINVAL: _NO_NAME,
    errno.ENOENT: _GONE,
}
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_NO_REPLACE = 1  # RENAME_NOREPLACE of renameat2(2)
_FROM_HERE = -100  # AT_FDCWD
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


class NotPlacedError(PlainError):
    """A file cannot get its place. Says why and what to do, and names no file."""


def place(source: Path, target: Path, *, within: Path) -> Path:
    """Moves a file to where others may put files; makes the folders.

    On another file system it is copied, and goes once the copy is durable.

    Args:
        source: The file, where nobody else puts any.
        target: Its new name. Where that is taken it gets another one: `a~1.txt`, `a~2.txt`, …
        within: A folder above, below which no link is followed.

    Returns:
        Where it lies now.

    Raises:
        NotPlacedError: It cannot get a place there, and lies where it was.
        OSError: The storage failed.
    """
    if isinstance(target, FarPath):  # there are no links
        name = next(each for each in _names(target.name) if not lies(target.with_name(each)))
        move(source, target.with_name(name))
        return target.with_name(name)
    with opened_place(target.parent, within=within) as folder:
        try:
            name = _named(source, target.name, folder)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            name = _copied(source, target.name, folder)
    return target.with_name(name)


@contextmanager
def opened_place(folder: Path, *, within: Path) -> Iterator[int]:
    """Opens a folder in which others may put files, and makes it; yields its descriptor.

    Args:
        folder: The folder.
        within: A folder above it, or itself, below which no link is followed.

    Raises:
        NotPlacedError: It cannot be opened or made, or the block could not put a file there.
        OSError: The storage failed.
    """
    try:
        make_folder(within)
        with opened_folder(folder, within=within, makes=True) as descriptor:
            yield descriptor
    except OSError as error:
        if why := _WHY.get(error.errno or 0):
            raise NotPlacedError(why) from None
        raise


def give_name(
    source: Path | str, name: str, folder: int, *, source_folder: int | None = None
) -> None:
    """Gives a file a name in an open folder of the same file system; replaces none.

    Args:
        source: The file.
        name: Its new name.
        folder: The open folder.
        source_folder: The open folder that the file lies in; None where `source` is a path.

    Raises:
        FileExistsError: The name is taken.
        OSError: It cannot be given.
    """
    if _renameat2:
        old = _FROM_HERE if source_folder is None else source_folder
        if not _renameat2(old, os.fsencode(source), folder, os.fsencode(name), _NO_REPLACE):
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code))
    # a kernel or file system that cannot do it at once: what comes in between is replaced
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, name, src_dir_fd=source_folder, dst_dir_fd=folder)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _names(name: str) -> Iterator[str]:
    """Yields a name, then others like it."""
    yield name
    path = Path(name)
    for number in count(1):
        yield f"{path.stem}~{number}{path.suffix}"


def _named(source: Path | str, name: str, folder: int, *, source_folder: int | None = None) -> str:
    """Gives a file the first name that is free, and returns it."""
    names = _names(name)
    while True:
        with suppress(FileExistsError):
            free = next(names)
            give_name(source, free, folder, source_folder=source_folder)
            return free


def _copied(source: Path, name: str, folder: int) -> str:
    """Does the same on another file system, to which a file is copied."""
    try:
        original = open_regular(source)
    except FileNotFoundError:
        raise NotPlacedError(
            "a link, a pipe or the like is not copied to another file system; move it yourself"
        ) from None
    temporary = f".{uuid4().hex}.tmp"
    with original, os.fdopen(os.open(temporary, _NEW, FILE, dir_fd=folder), "wb") as copy:
        try:
            shutil.copyfileobj(original, copy)
            copy.flush()
            times = os.fstat(original.fileno())
            os.utime(copy.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))
            os.fsync(copy.fileno())
            free = _named(temporary, name, folder, source_folder=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            raise
    os.fsync(folder)
    source.unlink()
    return free
