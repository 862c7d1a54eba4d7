"""What lies in a folder, in order, however much it is.

Decided here: that names are sorted some at a time, and where they are more than that, wait in an
unnamed file of the lakehouse's scratch folder, which is gone when it is closed or the process ends.
Not decided here: what is looked for (`drop_folder`).
"""

import heapq
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_AT_ONCE = 20_000
"""Names; each takes some 100 bytes."""
_PIECE = 8192
_RECORD = re.compile(rb"[^\0]+\0[fd]", re.DOTALL)
"""A name and whether it is a folder's, in the order of names: none of them has a zero."""


def listing(folder: str, scratch: Path | None) -> Iterator[tuple[str, bool]]:
    """Lists a folder; returns names by their bytes, and whether it is a folder.

    Links to folders count as none.

    Args:
        folder: The folder.
        scratch: Where names wait; None holds them all.

    Raises:
        OSError: It cannot be listed, or what waits not be written.
    """
    waiting, runs = list[bytes](), list[Iterator[bytes]]()
    file: IO[bytes] | None = None
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            waiting.append(os.fsencode(entry.name) + (b"\0d" if is_folder else b"\0f"))
            if scratch and len(waiting) >= _AT_ONCE:
                file = file or tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 as long as runs
                begin = file.tell()
                file.writelines(sorted(waiting))
                runs.append(_run(file, begin, file.tell()))
                waiting = []
    if file:
        file.flush()
    records = heapq.merge(sorted(waiting), *runs)
    return ((os.fsdecode(record[:-2]), record[-1:] == b"d") for record in records)


def _run(file: IO[bytes], begin: int, end: int) -> Iterator[bytes]:
    """Yields the records that lie between two places of a file."""
    left = b""
    while begin < end:
        piece = os.pread(file.fileno(), min(_PIECE, end - begin), begin)
        begin, left, done = begin + len(piece), left + piece, 0
        for found in _RECORD.finditer(left):
            yield found[0]
            done = found.end()
        left = left[done:]
