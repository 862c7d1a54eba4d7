"""Runs the chain in this process, on the same Dagster instance that the UI shows.

Decided here: where the instance lives and how one run is started, followed and summed up. Not
decided here: what is printed (`dicom_assets.cli`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DBAPIError

from dicom_assets.definitions import defs
from dicom_assets.defs.automation import JOB_NAME
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.defs.running import end_killed_runs, partition_of
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.lock import locked
from dicom_assets.lakehouse.modes import keep_private
from dicom_assets.settings import dagster_folder, home

_LEFT = ("still_changing", "not_taken")


@dataclass(frozen=True, slots=True)
class Step:
    """What one asset of a run did.

    Attributes:
        asset: `layer/name`.
        rows: Rows or files written; None when it did not run.
        seconds: How long it took.
        failed_checks: Checks that did not hold, each with its numbers.
        blocked: Whether one of those was blocking.
    """

    asset: str
    rows: int | None
    seconds: float
    failed_checks: tuple[str, ...]
    blocked: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the chain did.

    Attributes:
        succeeded: Whether every asset ran and no blocking check failed.
        run_id: The Dagster run.
        steps: One for each asset, in order.
        error: What broke, for a run that did not get through.
        killed: Other ingest dates whose runs were found killed, and not yet run again.
        not_taken: Files left in the drop folder: still changing, or not to be read or taken away.
    """

    succeeded: bool
    run_id: str
    steps: tuple[Step, ...]
    error: str | None
    killed: Sequence[str]
    not_taken: int


def dagster_home() -> Path:
    """Returns DAGSTER_HOME, made ready; by default `.dagster` in the repository.

    Where it has no dagster.yaml, the repository's is linked.
    """
    folder = dagster_folder()
    keep_private()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlainError(
            f"DAGSTER_HOME: {folder} cannot be a folder: {error.strerror}; choose another one"
        ) from error
    configuration, link = home() / "dagster.yaml", folder / "dagster.yaml"
    with _told_of(folder):
        if configuration.exists() and not link.exists():
            link.unlink(missing_ok=True)  # one that points to where the repository was before
            link.symlink_to(configuration)
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


@cache
def job() -> dg.JobDefinition:
    """Returns the job that runs the chain; loading it takes a moment, once."""
    return defs().resolve_job_def(JOB_NAME)


def run_chain(*, lakehouse: Path, partition_key: str) -> Outcome:
    """Runs drop folder → gold for one ingest date.

    Args:
        lakehouse: Root folder.
        partition_key: The ingest date, `yyyy-mm-dd`.
    """
    folder = dagster_home()
    with _told_of(folder), _instance(folder) as instance:
        killed = {
            partition_of(each.run)
            for each in end_killed_runs(instance)
            if each.lakehouse == lakehouse.absolute()
        }
        result = job().execute_in_process(
            instance=instance,
            partition_key=partition_key,
            resources={"lakehouse": Lakehouse(root=str(lakehouse))},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    return _outcome(result, killed - {partition_key})


def _instance(folder: Path) -> dg.DagsterInstance:
    """Opens the Dagster instance; two processes must not make its databases at the same time."""
    with locked(folder):
        return dg.DagsterInstance.get()


@contextmanager
def _told_of(folder: Path) -> Iterator[None]:
    """Tells of what Dagster keeps that it cannot be read or written; of a run its events tell.

    Raises:
        PlainError: It cannot.
    """
    try:
        yield
    except (OSError, DBAPIError) as error:
        said = error.orig if isinstance(error, DBAPIError) else error.strerror
        raise PlainError(
            f"DAGSTER_HOME: what Dagster keeps in {folder} cannot be read and written: {said};"
            " give this process the right and the space to, or choose another folder"
        ) from error


def _outcome(result: dg.ExecuteInProcessResult, killed: set[str]) -> Outcome:
    """Sums up a run from its events."""
    written: dict[str, int] = {}
    seconds: dict[str, float] = {}
    left = 0
    for event in result.get_asset_materialization_events():
        materialization = event.materialization
        name = materialization.asset_key.to_user_string()
        written[name] = int(_number(materialization.metadata, "rows_written"))
        seconds[name] = float(_number(materialization.metadata, "duration_seconds"))
        left += sum(int(_number(materialization.metadata, name)) for name in _LEFT)
    failed: dict[str, list[str]] = {}
    blocked: set[str] = set()
    for check in result.get_asset_check_evaluations():
        if not check.passed:
            name = check.asset_key.to_user_string()
            failed.setdefault(name, []).append(_told(check))
            if check.blocking:
                blocked.add(name)
    layer = result.job_def.asset_layer
    ordered = layer.asset_graph.toposorted_asset_keys
    names = [key.to_user_string() for key in ordered if key in layer.selected_asset_keys]
    steps = tuple(
        Step(
            name,
            written.get(name),
            seconds.get(name, 0.0),
            tuple(failed.get(name, ())),
            name in blocked,
        )
        for name in names
    )
    succeeded = result.success and not blocked
    return Outcome(succeeded, result.run_id, steps, _error(result, blocked), sorted(killed), left)


def _told(check: dg.AssetCheckEvaluation) -> str:
    """Returns `check (declared 97, actual 96), blocking` or `…, a warning`."""
    numbers = ", ".join(f"{name} {value.value}" for name, value in check.metadata.items())
    return f"{check.check_name} ({numbers}), {'blocking' if check.blocking else 'a warning'}"


def _error(result: dg.ExecuteInProcessResult, blocked: set[str]) -> str | None:
    """Returns what broke; a blocking check that does not hold is not a breakage."""
    # a failed step says more than the run that failed with it
    for event in [*result.get_step_failure_events(), *result.filter_events(_is_run_failure)]:
        error = getattr(event.event_specific_data, "error", None)
        error = error.cause if error and error.cause else error
        if error and error.cls_name == dg.DagsterExecutionInterruptedError.__name__:
            return "interrupted; run it again, it goes on from where it was"
        if error and not blocked:
            name, _, said = error.message.strip().partition(": ")
            # ours say what to do; what they are called says nothing more
            return said if name.startswith("dicom_assets.") else error.message.strip()
    return None


def _is_run_failure(event: dg.DagsterEvent) -> bool:
    return event.event_type is dg.DagsterEventType.RUN_FAILURE


def _number(metadata: Mapping[str, dg.MetadataValue], name: str) -> float:
    value = metadata[name].value if name in metadata else 0
    return float(value) if isinstance(value, (int, float)) else 0.0
