"""Work side by side, over threads or over processes, a bounded number of tasks ahead.

Decided here: which of the two, how workers are started and ended, and how many tasks wait. Reading,
inflating, deflating, hashing and writing go on beside each other in threads, which start at once;
what is Python itself does so only in processes. Not decided here: how work is cut into tasks.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from itertools import islice
from multiprocessing import spawn
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from dicom_assets.lakehouse.allocator import keep_memory

T = TypeVar("T")
R = TypeVar("R")

_STARTING = threading.Lock()
_WITH_PROGRAM = spawn.get_preparation_data

MANY_TASKS = 64
"""So many are worth starting processes for, which takes half a second: they share no lock."""
_FEW_TASKS = 4
"""Fewer than that are not worth starting threads or processes for."""


def over_threads(
    work: Callable[[T], R], tasks: Iterable[T], *, workers: int, count: int
) -> Iterator[R]:
    """Applies `work` to each task and yields the results in the order of the tasks.

    A task that takes long holds up no other: tasks and results must be small, for all may wait.

    Args:
        work: What is done; most of it outside of Python's lock.
        tasks: What it is applied to.
        workers: Threads; 1 works in this one.
        count: How many tasks there are; a few are not worth starting threads for.
    """
    if workers == 1 or count < _FEW_TASKS:
        yield from map(work, tasks)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, tasks)


def shared_out(
    work: Callable[[T], R], tasks: Iterable[T], *, workers: int, count: int
) -> Iterator[R]:
    """Applies `work` to each task and yields the results as they come.

    A task that takes long holds up no other.

    Args:
        work: A function of a module, since it may travel to other processes.
        tasks: What it is applied to; the largest ones first, or they end last and alone.
        workers: How many work at once; 1 works in this thread.
        count: How many tasks there are; a few are not worth starting workers for.
    """
    if workers == 1 or count < _FEW_TASKS:
        yield from map(work, tasks)
        return
    waiting = iter(tasks)
    with _workers(work, workers, count) as pool, _ahead(pool, work, waiting, 2 * workers) as ahead:
        while ahead:
            done, rest = wait(ahead, return_when=FIRST_COMPLETED)
            ahead[:] = rest
            # before the results are looked at: that takes time, in which workers must have work
            ahead += [pool.submit(work, task) for task in islice(waiting, len(done))]
            yield from (future.result() for future in done)


def get_ready(work: Callable[[Any], Any]) -> None:
    """Starts what worker processes are forked from, while this process does something else.

    It loads what `work` needs, and ends with this process.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, work.__module__])
    multiprocessing.forkserver.ensure_running()


def _workers(work: Callable[[Any], Any], workers: int, count: int) -> Executor:
    if count < MANY_TASKS:
        return ThreadPoolExecutor(workers)
    get_ready(work)
    # a worker process ends when this one does, however that ends
    return ProcessPoolExecutor(
        workers, mp_context=_Context(), initializer=_begin, initargs=(os.getpid(),)
    )


class _Process(ForkServerProcess):
    """A process that does not load the program that was started, though Python would have it do so.

    It needs nothing of it; and a script that runs the chain without asking whether it is the main
    program would run it again in each, which waits for ever for the one that waits for its workers.
    """

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        with _STARTING:
            spawn.get_preparation_data = _without_program
            try:
                return ForkServerProcess._Popen(process_obj)
            finally:
                spawn.get_preparation_data = _WITH_PROGRAM


def _without_program(name: str) -> dict[str, Any]:
    """Returns what a process is told when it starts, but for the program."""
    told = _WITH_PROGRAM(name)
    return {key: value for key, value in told.items() if not key.startswith("init_main")}


class _Context(ForkServerContext):
    Process = _Process  # pyright: ignore[reportAssignmentType]


@contextmanager
def _ahead(
    pool: Executor, work: Callable[[T], R], waiting: Iterator[T], count: int
) -> Iterator[list[Future[R]]]:
    """Submits the first tasks; at the end cancels those of the list that have not begun."""
    ahead = [pool.submit(work, task) for task in islice(waiting, count)]
    try:
        yield ahead
    finally:
        for future in ahead:
            future.cancel()


def _begin(main_process: int) -> None:
    """Readies a worker; it ends when the main process is killed, or would wait for ever."""
    keep_memory()
    sys.meta_path.insert(0, _NoPandas)
    if sys.platform == "linux":
        ended = os.pidfd_open(main_process)
        threading.Thread(target=_exit_when, args=(ended,), daemon=True).start()


class _NoPandas:
    """Has it that there is no pandas in workers, which do not need it.

    pyarrow looks for it when it is first given a list, and each would load it.
    """

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        """Finds everything else where it always is."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def _exit_when(ended: int) -> None:
    select.select([ended], [], [])
    os._exit(1)
