"""Runs of the command line that were killed: told apart from those that still run, and ended.

Decided here: how that is known. A killed process cannot say so, and Dagster would wait for its run
for ever; but the operating system's lock on a file ends with the process that holds it.
"""

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

TAG = "dicom_assets/process"
_FOLDER = "running"


@contextmanager
def marked(instance: dg.DagsterInstance) -> Iterator[dict[str, str]]:
    """Yields the tags that mark a run as one of this process, for as long as the block lasts."""
    folder = Path(instance.root_directory) / _FOLDER
    folder.mkdir(exist_ok=True)
    mark = folder / uuid.uuid4().hex
    with mark.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield {TAG: mark.name}
        finally:
            mark.unlink()


def end_killed_runs(instance: dg.DagsterInstance) -> None:
    """Reports runs as failed whose process is gone, so that nothing waits for them."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        mark = run.tags.get(TAG)
        if mark and _is_gone(Path(instance.root_directory) / _FOLDER / mark):
            message = "the process of this run was killed; run the date again"
            instance.report_run_failed(run, message)


def _is_gone(mark: Path) -> bool:
    try:
        with mark.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mark.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
