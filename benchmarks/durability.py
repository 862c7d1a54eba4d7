"""Measures what it costs that files and commits are durable before what depends on them is done.

Two cases. The steps on loose CT files, synced as they are and with nothing synced, in turn, so that
the ratio is of one run. And how: one `syncfs` for many new files, beside an `fsync` of each, over
threads as well. Other work on the same file system is synced, too, and counts.

    python -m benchmarks durability [--quick]
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from benchmarks.data import ct_files
from benchmarks.results import OURS, Row
from dicom_assets.lakehouse.durable import sync
from dicom_assets.settings import load_settings
from dicom_assets.steps.chain import STEPS
from dicom_assets.steps.run import Run

DAY = "2026-03-14"
PART = "durability"
_THREADS = 8
_SYNCING = (
    "dicom_assets.lakehouse.engine",
    "dicom_assets.lakehouse.journal",
    "dicom_assets.lakehouse.tables",
    "dicom_assets.lakehouse.durable",
    "dicom_assets.steps.extract",
)


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Runs each contestant once."""
    count = 100 if quick else 1000
    _steps(folder / "warm", 10)
    case = f"steps, {count:,} loose CT files of 0.5 MB"
    rows = [Row(PART, case, OURS, _steps(folder / "synced", count), "s")]
    with _unsynced():
        took = _steps(folder / "unsynced", count)
    rows.append(Row(PART, case, "nothing synced", took, "s"))
    case = f"{count:,} new files of 100 KB"
    for name, act in {
        OURS: lambda files: sync({file.parent for file in files}),
        "fsync of each": lambda files: _fsync_each(files, map),
        f"fsync of each, {_THREADS} threads": _fsync_over_threads,
    }.items():
        rows.append(Row(PART, case, name, _files(folder / "files", count, act), "s"))
    return rows


def _steps(folder: Path, count: int) -> float:
    """Returns what the steps take on so many files."""
    settings = load_settings(lakehouse=folder, settle_seconds=0)
    run = Run.of(settings, DAY)
    for file in ct_files(count):
        file.write(run.engine.layout.drop_folder)
    sync([folder])  # what others have written is not to be counted
    begin = time.perf_counter()
    for step in STEPS.values():
        step(run)
    took = time.perf_counter() - begin
    shutil.rmtree(folder)
    return took


def _unsynced() -> ExitStack:
    """Returns a context in which nothing is synced."""
    stack = ExitStack()
    for module in _SYNCING:
        stack.enter_context(patch(f"{module}.sync", lambda _: None))
    stack.enter_context(patch("os.fsync", lambda _: None))
    return stack


def _files(folder: Path, count: int, act: Callable[[list[Path]], None]) -> float:
    """Returns how long new files take to become durable."""
    folder.mkdir()
    sync([folder])
    files = [folder / f"{number}" for number in range(count)]
    for file in files:
        file.write_bytes(os.urandom(100_000))
    begin = time.perf_counter()
    act(files)
    took = time.perf_counter() - begin
    shutil.rmtree(folder)
    return took


def _fsync_over_threads(files: list[Path]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        _fsync_each(files, pool.map)


def _fsync_each(files: list[Path], over: Callable[..., Iterable[None]]) -> None:
    list(over(_fsync, [*files, files[0].parent]))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
