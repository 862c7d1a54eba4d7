"""The lock: one step works on a lakehouse at a time, others wait.

Decided here: that it is the operating system's lock on the root folder, which ends with the
process, however that ends. It holds between the processes of one machine; between machines, and
for what slips through, the application transactions do (`engine`).
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOG = logging.getLogger(__name__)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Holds the lock of a lakehouse, waiting for it if need be."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.warning("another run is working on this lakehouse; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
