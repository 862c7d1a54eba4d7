"""What Dagster is told of an error: what broke, where and what to do, but nothing of a patient.

Decided here: whose words get into the event log. The operating system names the file, pyarrow and
Python the value that they stumbled over, and Dagster keeps all of it, causes too. So an error that
does not speak in words of our own is told by its kind, the operating system's text for its number
and the place in the code; Dagster's stack shows lines of code, never values.
"""

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from deltalake.exceptions import CommitFailedError

import dicom_assets
from dicom_assets.lakehouse.errors import PlainError

_PACKAGE = Path(dicom_assets.__file__).parent
_AGAIN = "run the date again: it goes on from where it was"
_WHAT_TO_DO = {
    errno.ENOSPC: f"make room on the lakehouse's disk, then {_AGAIN}",
    errno.EDQUOT: f"raise the quota on the lakehouse's disk, then {_AGAIN}",
    errno.EACCES: f"let the user who runs this read and write the lakehouse, then {_AGAIN}",
    errno.EPERM: f"let the user who runs this read and write the lakehouse, then {_AGAIN}",
    errno.EROFS: f"mount the lakehouse so that it can be written, then {_AGAIN}",
    errno.EIO: f"look at the disk's health, then {_AGAIN}",
}


class StepError(Exception):
    """A step broke. Says how and where in the code, without a name or a value."""


@contextmanager
def told_plainly() -> Iterator[None]:
    """Lets through errors that hold no patient data; makes a StepError of every other one."""
    try:
        yield
    except (StepError, dg.DagsterError):
        raise
    except (PlainError, CommitFailedError) as error:
        raise error from None
    except Exception as error:
        # not chained: causes and contexts are kept by Dagster with all they say
        raise StepError(_told(error)).with_traceback(error.__traceback__) from None


def _told(error: Exception) -> str:
    if not isinstance(error, OSError):
        return (
            f"{type(error).__name__} at {_place(error)}; its own words are left out, since they"
            f" may hold patient data. Please {_AGAIN}; when it breaks again, report it"
        )
    number = error.errno or 0
    name = errno.errorcode.get(number, type(error).__name__)
    what = f"{os.strerror(number)} ({name})" if number else f"the file system failed ({name})"
    advice = _WHAT_TO_DO.get(number, f"mend it, then {_AGAIN}")
    return f"{what} at {_place(error)}; {advice}"


def _place(error: Exception) -> str:
    """Returns the innermost place in this package that the error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    frame = own[-1]
    file = Path(frame.filename).relative_to(_PACKAGE.parent).as_posix()
    return f"{file}, line {frame.lineno}, in {frame.name}"
