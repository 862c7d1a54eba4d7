"""How rows that workers hand over are gathered to commits.

Decided here: how large a commit is, in rows and in memory. Not decided here: what it says of
progress (`extract`, `read_external`).
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import pyarrow as pa

from dicom_assets.lakehouse.written import Written

T = TypeVar("T")

_BYTES_PER_COMMIT = 32 << 20  # of rows in memory


def commits(
    batches: Iterable[pa.RecordBatch | Written], *, rows_each: int
) -> Iterator[tuple[list[pa.RecordBatch | Written], bool]]:
    """Gathers rows to commits that fit into memory, and says which is the last one."""
    waiting: list[pa.RecordBatch | Written] = []
    rows = size = 0
    for batch in batches:
        if rows >= rows_each or size >= _BYTES_PER_COMMIT:
            yield waiting, False
            waiting, rows, size = [], 0, 0
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if waiting:
        yield waiting, True


def with_last(parts: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Yields each part, and whether it is the last one, which may say that all is done."""
    waiting: list[T] = []
    for part in parts:
        yield from ((each, False) for each in waiting)
        waiting = [part]
    yield from ((each, True) for each in waiting)
