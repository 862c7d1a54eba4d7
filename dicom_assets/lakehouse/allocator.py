"""The process's memory: what is freed is kept for the next file, and given back between commits.

Decided here: how much is kept, and that glibc is asked for it; other allocators need not be. Not
decided here: how much work is in memory at once (`pool`, `dicom_assets.steps`).
"""

import ctypes
import sys

import pyarrow as pa

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)


def keep_memory() -> None:
    """Keeps freed memory for what is read next.

    Given back after each file and asked for again, it costs a page fault for every 4 KiB.
    """
    libc = _libc()
    if libc and hasattr(libc, "mallopt"):
        libc.mallopt(_TRIM_THRESHOLD, 64 << 20)
        libc.mallopt(_MMAP_THRESHOLD, 16 << 20)


def give_back_memory() -> None:
    """Gives freed memory back: each thread keeps some, and what a commit took is much."""
    pa.default_memory_pool().release_unused()
    libc = _libc()
    if libc and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
