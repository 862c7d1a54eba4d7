"""Whether a stored file is what its row says: the work of one worker of `verify`.

Decided here: what is looked at. By default what stands around the data of a ZIP, or a plain file's
size; with hashes every byte, against the ZIP's checksum and the row's SHA-256. Not decided here:
which files (`verify_date`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

from dicom_assets.dicom.own_zip import Digest, digest, open_organised, stated
from dicom_assets.lakehouse.paths import path_of


@dataclass(frozen=True, slots=True)
class Stored:
    """A file and what its row says of it.

    Attributes:
        path: Where it lies.
        size: Bytes of the DICOM file; None where nobody said.
        sha256: Its hash; None where nobody said.
    """

    path: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Task:
    """Files that one worker looks at in one go; `hashes` says whether every byte is read."""

    files: Sequence[Stored]
    hashes: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a task: how many files, and which of them are wrong, and why."""

    count: int
    wrong: list[tuple[Stored, str]]


def check_files(task: Task) -> Checked:
    """Looks at files."""
    found = ((file, _problem(file, hashes=task.hashes)) for file in task.files)
    return Checked(len(task.files), [(file, why) for file, why in found if why])


def digest_of(path: Path) -> Digest:
    """Returns size and SHA-256 of an organised file, be it plain or in its ZIP."""
    with open_organised(path) as stream:
        return digest(stream)


def size_of(path: Path) -> int:
    """Returns the bytes of an organised file, of one in its ZIP as the ZIP states them.

    Raises:
        BadZipFile: What stands around the ZIP's data is damaged.
    """
    return stated(path).size if path.suffix == ".zip" else path.stat().st_size


def _problem(file: Stored, *, hashes: bool) -> str | None:
    path = path_of(file.path)
    try:
        size = size_of(path)
        if file.size is not None and size != file.size:
            return "another size"
        if hashes and file.sha256 and digest_of(path).sha256 != file.sha256:
            return "another hash"
    except BadZipFile as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None
