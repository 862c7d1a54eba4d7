"""Moving a file, also to another file system.

Decided here: that a file is under its new name whole or not at all, and that a copy is durable
before what it was made of goes.
"""

import errno
import shutil
from pathlib import Path

from dicom_assets.lakehouse.durable import sync
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.paths import lies, temporary_of


def move(source: Path, target: Path) -> None:
    """Gives a file another place, and removes it from where it was; makes the folder."""
    transfer(source, target)
    if lies(source):  # it was copied, to another file system
        sync([target.parent])
        source.unlink()


def transfer(source: Path, target: Path) -> None:
    """Gives a file another place; makes the folder.

    On one file system it is moved. On another it is copied, and the source stays: the caller
    removes it, once the copy is durable and nothing can go wrong any more. So it is to an object
    store, and within one.
    """
    if isinstance(source, FarPath):
        source.copy_to(target)
        return
    if isinstance(target, FarPath):
        target.upload(source)
        return
    try:
        _rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = temporary_of(target)
        shutil.copy2(source, copy, follow_symlinks=False)
        copy.replace(target)


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except FileNotFoundError:  # seldom: not asked beforehand for each of many files
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
