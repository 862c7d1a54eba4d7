"""What the command line prints: progress, tables, the outcome of a run.

On a terminal progress is a bar; elsewhere it is plain lines.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dicom_assets.demo import Count
from dicom_assets.runner import Outcome
from dicom_assets.steps.findings import MEANINGS, REMEDIES, Findings, Kind
from dicom_assets.steps.report import PROGRESS_LOG

_SHOWN_OF_A_KIND = 10
_WAITING_LOG = logging.getLogger("dicom_assets.lakehouse")


class _Bars(logging.Handler):
    """Shows each step that tells of its progress as a bar."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def emit(self, record: logging.LogRecord) -> None:
        step, done, total = (record.__dict__[name] for name in ("step", "done", "total"))
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=total)
        self._progress.update(self._tasks[step], completed=done)


@contextmanager
def shown_progress() -> Iterator[None]:
    """Shows the progress of steps, and what they wait for, while the block runs."""
    waiting = logging.StreamHandler(sys.stderr)
    with _handled(waiting, _WAITING_LOG):
        yield from _shown_progress()


def _shown_progress() -> Iterator[None]:
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        with progress, _handled(_Bars(progress), PROGRESS_LOG):
            yield
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        with _handled(handler, PROGRESS_LOG):
            yield


@contextmanager
def _handled(handler: logging.Handler, log: logging.Logger) -> Iterator[None]:
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table, in full where output is not a terminal."""
    console = Console(width=None if sys.stdout.isatty() else 240)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(shown(value)) for value in row))
    console.print(table)


def shown(value: Any) -> str:
    r"""Returns a value as text that a terminal only shows: what it would obey is escaped.

    Control characters and marks that turn text around become `\x1b`, `\u202e`, …
    """
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_outcome(outcome: Outcome) -> None:
    """Prints one line for each asset of a run, then what is wrong, if anything."""
    rows = [
        [
            step.asset,
            "not run" if step.rows is None else step.rows,
            f"{step.seconds:.2f}",
            ", ".join(step.failed_checks) or ("" if step.rows is None else "all hold"),
        ]
        for step in outcome.steps
    ]
    print_table(["asset", "written", "seconds", "checks"], rows)
    console = Console(stderr=True)
    if outcome.error:
        console.print(
            f"the run failed: {escape(shown(outcome.error))}", style="red", soft_wrap=True
        )
    elif not outcome.succeeded:
        console.print(
            "a blocking check does not hold, so what follows was not run; "
            f"see it in the UI (make dev), run {outcome.run_id}",
            style="red",
        )
    if outcome.not_taken:
        console.print(
            f"{outcome.not_taken} files are still in the drop folder: they are changing, or may "
            "not be read or taken away; the next run tries again"
        )
    for day in outcome.killed:
        console.print(f"a run of {day} was killed; take it up: dicom-assets run --date {day}")


def print_findings(found: Findings) -> None:
    """Prints what does not agree: counts by kind, and of each kind the first few."""
    if not found:
        click.echo("all agrees")
        return
    kinds = [kind for kind in Kind if found.counts[kind]]
    head = ["finding", "count", "what it is", "if it remains"]
    print_table(
        head,
        [[kind, found.counts[kind], MEANINGS[kind], REMEDIES.get(kind)] for kind in kinds],
    )
    rows = [
        [kind, each.day, each.what, each.note]
        for kind in kinds
        for each in islice(found.of(kind), _SHOWN_OF_A_KIND)
    ]
    print_table(["finding", "ingest date", "where", "more"], rows)


def print_demo(lakehouse: Path, dagster_home: Path, counts: Sequence[Count]) -> bool:
    """Prints what the demo made, and what to do next; returns whether all counts are right."""
    rows = [
        [count.what, count.expected, count.actual, "ok" if count.expected == count.actual else "NO"]
        for count in counts
    ]
    print_table(["what came out", "expected", "actual", ""], rows)
    shown = os.path.relpath(lakehouse)
    history = os.path.relpath(dagster_home)
    gold = f"{shown}/gold/Tables/Image_Occurrence"
    python = ".venv/bin/python -c"
    sql = "select modality_source_value, count(*) from t group by 1"
    lines = [
        "Next",
        "  see the assets, checks and contact sheet:",
        f"    DICOM_ASSETS_LAKEHOUSE={shown} DAGSTER_HOME={history} make dev",
        "    then open http://127.0.0.1:3000",
        "  query a table:",
        f"    {python} 'import polars; print(polars.read_delta(\"{gold}\"))'",
        f"    {python} 'import deltalake, duckdb; "
        f't = deltalake.DeltaTable("{gold}").to_pyarrow_table(); print(duckdb.sql("{sql}"))\'',
        "  ingest your own:",
        "    drop files under data/lakehouse/bronze/Files/Ingest/Imaging/DICOM, then",
        "    .venv/bin/dicom-assets run",
    ]
    click.echo("\n".join(lines))
    return all(count.expected == count.actual for count in counts)
