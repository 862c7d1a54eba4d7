"""A process that works on a Dagster run until it is killed, for tests of what becomes of the run.

It is forked from the one that tests: another would have to load Dagster, which takes seconds. So it
does nothing but hold the run's mark: threads, and with them the instance's database, are not there.
"""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import dagster as dg

from dicom_assets.defs.running import marked

_FORK = multiprocessing.get_context("fork")


@contextmanager
def worked_on(instance: dg.DagsterInstance, run_id: str, *, lakehouse: str) -> Iterator[None]:
    """Lets a process work on a run of a Dagster instance until the block ends, then kills it."""
    begun = _FORK.Event()
    process = _FORK.Process(target=_work, args=(instance, run_id, lakehouse, begun))
    process.start()
    try:
        assert begun.wait(60)
        yield
    finally:
        process.kill()
        process.join()


def _work(instance: dg.DagsterInstance, run_id: str, lakehouse: str, begun: Event) -> None:
    with marked(instance, run_id, lakehouse=Path(lakehouse)):
        begun.set()
        time.sleep(60)
