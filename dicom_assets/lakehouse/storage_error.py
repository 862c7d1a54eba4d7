"""What the storage says, in words that tell what to do and name no file.

Decided here: what becomes of an error of the operating system, be it Python's or told by delta-rs
in its text. File names may be those of persons, so none is kept. Not decided here: who may go on
after which error (`journal`, `dicom_assets.steps`).
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from deltalake.exceptions import DeltaError

from dicom_assets.lakehouse.errors import PlainError

_GOES_ON = "then run the date again, or what you asked for: a run goes on from where it was"
_WHAT_TO_DO = {
    errno.ENOENT: "ask `dicom-assets verify` which file of a table is missing, and restore it",
    errno.ENOSPC: "free space on the lakehouse's file system",
    errno.EDQUOT: "raise the quota on the lakehouse's file system, or free space",
    errno.EIO: "look into the system's log for what is wrong with the disk, mend or replace it",
    errno.EROFS: "mount the lakehouse's file system for writing; look into the system's log for why"
    " it is not",
    errno.EACCES: "give this process the right to read and write all of the lakehouse",
    errno.EPERM: "give this process the right to read and write all of the lakehouse",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
_CODE = re.compile(r"os error (\d+)")
_OF_A_STORE = re.compile(r"Generic (S3|MicrosoftAzure|GCS) error")
_STORE = "the object store does not answer, or refuses what it is asked"
_ITS_ACT = "check the network, and that the credential may read, list, write and delete"


class StorageError(OSError):
    """The storage failed. The message says what to do, and names no file."""

    def __init__(self, code: int | None, *, is_of_a_store: bool = False) -> None:
        """Tells of an errno; None for what is not known."""
        said = os.strerror(code) if code else "it does not say what"
        act = _WHAT_TO_DO.get(code or 0, "look into the system's log for what is wrong")
        if is_of_a_store:
            said, act = _STORE, _ITS_ACT
        super().__init__(f"the storage failed: {said}. First {act}, {_GOES_ON}")
        self.errno = code


@contextmanager
def told_without_names() -> Iterator[None]:
    """Turns errors of the storage into ones that can be shown to anybody.

    Raises:
        StorageError: The storage failed.
    """
    try:
        yield
    except (StorageError, PlainError):  # in words of our own
        raise
    except (OSError, DeltaError) as error:
        if _OF_A_STORE.search(str(error)):
            raise StorageError(None, is_of_a_store=True) from None
        code = (isinstance(error, OSError) and error.errno) or _code(error)
        if isinstance(error, OSError) or code:
            raise StorageError(code).with_traceback(error.__traceback__) from None
        raise


def _code(error: BaseException) -> int | None:
    """Returns the errno that an error's text tells of."""
    found = _CODE.search(str(error))
    return int(found[1]) if found else None
