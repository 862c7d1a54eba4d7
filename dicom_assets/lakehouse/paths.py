"""What is asked of a path wherever it lies, on this machine or in an object store.

Decided here: where a file is written before it appears under its name, and where the scratch folder
of a lakehouse in an object store is. For paths of this machine each costs what the call of the
operating system does. Not decided here: what a path in an object store is (`far`).
"""

import hashlib
import os
import stat
from enum import Enum
from pathlib import Path

from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.far import FarPath

_FOLDER_MODE = 0o700


def path_of(text: str) -> Path:
    """Returns the path that a text says, an address or a path of this machine."""
    return FarPath(text) if is_far(text) else Path(text)


def is_far(text: str) -> bool:
    """Says whether a text is an address in an object store; making a path of it costs more."""
    return "://" in text


def lies(path: Path) -> bool:
    """Says whether something lies there, be it a link that leads nowhere."""
    return path.is_file() if isinstance(path, FarPath) else os.path.lexists(path)


def names_in(folder: Path) -> list[str]:
    """Returns the names of what lies in a folder; none where there is no such folder."""
    if isinstance(folder, FarPath):
        return [path.name for path in folder.iterdir()]
    return os.listdir(folder) if folder.is_dir() else []


class What(Enum):
    """What lies under a name, no link being followed."""

    FOLDER = 1
    FILE = 2
    OTHER = 3


def entries_of(folder: Path) -> list[tuple[Path, What]]:
    """Returns what lies in a folder; nothing where there is no such folder."""
    if isinstance(folder, FarPath):
        folders, objects = folder.listed()
        return [
            *((path, What.FOLDER) for path in folders),
            *((path, What.FILE) for path in objects),
        ]
    if not folder.is_dir():
        return []
    return [(Path(entry), _what(entry)) for entry in os.scandir(folder)]


def _what(entry: os.DirEntry) -> What:
    if entry.is_dir(follow_symlinks=False):
        return What.FOLDER
    return What.FILE if entry.is_file(follow_symlinks=False) else What.OTHER


def temporary_of(target: Path) -> Path:
    """Returns where a file is written before it gets its name (`appear`)."""
    if isinstance(target, FarPath):
        folder = _temporaries(target)
        folder.mkdir(exist_ok=True)
        return folder / f"{hashlib.sha256(str(target).encode()).hexdigest()[:32]}-{os.getpid()}"
    return target.with_name(f".{target.name}.tmp")


def appear(temporary: Path, target: Path) -> None:
    """Gives a file that has been written its name, under which it is whole or not at all."""
    if isinstance(target, FarPath):
        target.upload(temporary)
        temporary.unlink()
    else:
        temporary.replace(target)


def clear_temporaries(root: FarPath) -> None:
    """Removes what processes that were killed have left of files on their way to a container."""
    folder = _temporaries(root)
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            os.kill(int(path.name.partition("-")[2]), 0)
        except (ValueError, ProcessLookupError):
            path.unlink(missing_ok=True)
        except PermissionError:  # it lives
            continue


def _temporaries(path: FarPath) -> Path:
    return scratch_of(FarPath(path.container)) / "temporary"


def scratch_of(root: Path) -> Path:
    """Returns where this machine keeps what is needed meanwhile: the root, where it is local.

    For an object store it is a folder below TMPDIR, or else /var/tmp; one for each root, of the
    user's own.

    Raises:
        PlainError: It is not the user's own.
    """
    if not isinstance(root, FarPath):
        return root
    mine = Path(os.environ.get("TMPDIR") or "/var/tmp") / f"dicom_assets-{os.getuid()}"  # noqa: S108
    folder = mine / hashlib.sha256(str(root).encode()).hexdigest()[:16]
    if not folder.is_dir():
        mine.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    known = mine.lstat()
    if not stat.S_ISDIR(known.st_mode) or known.st_uid != os.getuid():
        raise PlainError(f"{mine} is not yours alone; set TMPDIR to a folder that is")
    return folder
