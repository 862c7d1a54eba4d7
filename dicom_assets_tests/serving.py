"""Real servers for tests, benchmarks and `make demo-options`: on free ports, ended by their pid.

Decided here: how one is started, waited for and ended. Not decided here: which (`orthanc`,
`object_stores`).
"""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_SECONDS = 60


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def listens(port: int) -> bool:
    """Whether a server takes connections."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def served(command: Sequence[str], *, answers: Callable[[], bool], log: Path) -> Iterator[None]:
    """Runs a server until the block ends; begins once it answers.

    It is killed, not asked to end: some take seconds, and nothing of it is kept.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + _SECONDS
        while not answers():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, f"{command[0]} does not answer"
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()
