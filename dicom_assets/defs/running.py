"""Runs whose process was killed: told apart from those that still run, and ended.

Decided here: how that is known. A killed process cannot say so, and Dagster would wait for its run
for ever; but the operating system's lock on a file ends with the process that holds it.
"""

import fcntl
from pathlib import Path
from typing import TextIO

import dagster as dg

RESUMES = "dicom_assets/resumes"
"""Tag of a run that takes up a killed one: it names that run, and is itself not taken up again."""

_UNFINISHED = {
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
}
_HELD: dict[Path, TextIO] = {}


def mark(instance: dg.DagsterInstance, run_id: str) -> None:
    """Says, for as long as this process lives, that it works on a run."""
    mark = _folder(instance) / run_id
    if mark not in _HELD:
        # locked before it has its name, so that nobody can find it and not see it locked
        new = mark.with_name(f".{run_id}")
        _HELD[mark] = new.open("w")
        fcntl.flock(_HELD[mark], fcntl.LOCK_EX)
        new.rename(mark)


def end_killed_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Reports runs as failed whose process is gone, so that nothing waits for them.

    Returns:
        Those runs.
    """
    ended = []
    for mark in sorted(_folder(instance).glob("[!.]*")):
        if _is_held(mark):
            continue
        run = instance.get_run_by_id(mark.name)
        if run and run.status in _UNFINISHED:
            message = "the process of this run was killed; run its date again"
            instance.report_run_failed(run, message)
            ended.append(run)
        mark.unlink(missing_ok=True)
    return ended


def partition_of(run: dg.DagsterRun) -> str:
    """Returns the partition key of a run, empty when it has none."""
    return run.tags.get("dagster/partition", "")


def _folder(instance: dg.DagsterInstance) -> Path:
    folder = Path(instance.root_directory) / "running"
    folder.mkdir(exist_ok=True)
    return folder


def _is_held(mark: Path) -> bool:
    try:
        with mark.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
