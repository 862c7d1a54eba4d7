"""The lock: one run works on a lakehouse at a time, others wait.

Decided here: that it is the operating system's lock on the root folder, which ends with the
process, however that ends. A thread that holds it may take it again, so that a step locks for
itself and a run around all its steps. It holds between the processes of one machine; between
machines, and for what slips through, the application transactions do (`engine`). Of a root in an
object store the scratch folder of this machine is locked, and between machines there is a lease
(`lease`).
"""

import fcntl
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.modes import keep_private
from dicom_assets.lakehouse.paths import scratch_of

_LOG = logging.getLogger(__name__)
_THREADS: defaultdict[Path, threading.RLock] = defaultdict(threading.RLock)
_HELD: dict[Path, int] = {}
_NUMBERS = count(1)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Holds the lock of a folder, waiting for it if need be; who does so writes in private."""
    keep_private()
    root.mkdir(parents=True, exist_ok=True)
    root = root.resolve()
    with _THREADS[root]:
        if root in _HELD:
            yield
            return
        descriptor = os.open(scratch_of(root), os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _LOG.warning("another run is working on this lakehouse; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            with _between_machines(root):
                _HELD[root] = next(_NUMBERS)
                yield
        finally:
            _HELD.pop(root, None)
            os.close(descriptor)


@contextmanager
def _between_machines(root: Path) -> Iterator[None]:
    if not isinstance(root, FarPath):
        yield
        return
    from dicom_assets.lakehouse.lease import leased

    with leased(root):
        yield


def holding(root: Path) -> int | None:
    """Tells since when this process holds the lock of a folder; None where it does not.

    It is a number, another one each time the lock is taken.
    """
    # asked for each time a table is opened; to resolve a path takes longer than all the rest
    return _HELD.get(root) or (_HELD.get(root.resolve()) if _HELD else None)
