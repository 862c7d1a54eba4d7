"""What is told of an error: what broke, where and what to do, but nothing of a patient.

Decided here: whose words get into logs. The operating system names the file, pyarrow and Python the
value that they stumbled over, and who keeps a log keeps all of it, causes too. So an error that
does not speak in words of our own is told by its kind and the place in the code, one of the storage
as `storage_error` tells it; a stack shows lines of code, never values.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deltalake.exceptions import CommitFailedError

import dicom_assets
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.storage_error import StorageError, told_without_names

_PACKAGE = Path(dicom_assets.__file__).parent


class StepError(PlainError):
    """A step broke. Says how and where in the code, without a name or a value."""


@contextmanager
def told_plainly(*also: type[Exception]) -> Iterator[None]:
    """Lets through errors that hold no patient data; makes a StepError of every other one.

    Args:
        also: Kinds of errors that are let through beside our own.
    """
    try:
        with told_without_names():
            yield
    except also:
        raise
    except (PlainError, StorageError, CommitFailedError) as error:
        raise error from None
    except Exception as error:
        # not chained: causes and contexts are kept with all they say
        raise StepError(_told(error)).with_traceback(error.__traceback__) from None


def _told(error: Exception) -> str:
    return (
        f"{type(error).__name__} at {_place(error)}; its own words are left out, since they may"
        " hold patient data. Run the date again: it goes on from where it was; when it breaks"
        " again, report it"
    )


def _place(error: Exception) -> str:
    """Returns the innermost place in this package that the error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    frame = own[-1]
    file = Path(frame.filename).relative_to(_PACKAGE.parent).as_posix()
    return f"{file}, line {frame.lineno}, in {frame.name}"
