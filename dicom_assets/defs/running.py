"""Runs whose process was killed: told apart from those that still run, and ended.

Decided here: how that is known. A killed process cannot say so, and Dagster would wait for its run
for ever; but the operating system's lock on a file ends with the process that holds it.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from dicom_assets.lakehouse.paths import path_of

RESUMES = "dicom_assets/resumes"
"""Tag of a run that takes up a killed one: it names that run, and is itself not taken up again."""

_UNFINISHED = {
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
}


@dataclass(frozen=True, slots=True)
class Killed:
    """A run whose process was killed.

    Attributes:
        run: The run.
        lakehouse: Root of the lakehouse that it worked on.
    """

    run: dg.DagsterRun
    lakehouse: Path


@contextmanager
def marked(instance: dg.DagsterInstance, run_id: str, *, lakehouse: Path) -> Iterator[None]:
    """Says that this process works on a run, for as long as it does and lives."""
    mark = _folder(instance) / run_id
    # locked before it has its name, so that nobody can find it and not see it locked
    new = mark.with_name(f".{run_id}")
    with new.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(str(lakehouse))
        held.flush()
        new.rename(mark)
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


def end_killed_runs(instance: dg.DagsterInstance) -> list[Killed]:
    """Reports runs as failed whose process is gone, so that nothing waits for them.

    Returns:
        Those runs, and those of which Dagster has noticed it by itself.
    """
    found = []
    for mark in sorted(_folder(instance).glob("[!.]*")):
        lakehouse = _left_by_a_killed_process(mark)
        if lakehouse is None:
            continue
        run = instance.get_run_by_id(mark.name)
        if run and run.status in _UNFINISHED:
            message = "the process of this run was killed; run its date again"
            instance.report_run_failed(run, message)
        if run and run.status in {*_UNFINISHED, dg.DagsterRunStatus.FAILURE}:
            found.append(Killed(run, lakehouse))
        mark.unlink(missing_ok=True)
    return found


def partition_of(run: dg.DagsterRun) -> str:
    """Returns the partition key of a run, empty when it has none."""
    return run.tags.get("dagster/partition", "")


def _folder(instance: dg.DagsterInstance) -> Path:
    folder = Path(instance.root_directory) / "running"
    folder.mkdir(exist_ok=True)
    return folder


def _left_by_a_killed_process(mark: Path) -> Path | None:
    """Returns the lakehouse that a mark names when nobody holds it any more."""
    try:
        with mark.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return path_of(held.read())
    except (FileNotFoundError, BlockingIOError):
        return None
