"""The command line, `dicom-assets`: write the sample, run the chain, see what is there.

Decided here: verbs, options, what is printed and the exit code (1: a run failed or a blocking check
does not hold; 2: a wrong option or setting). Work is done elsewhere, and imported only when a verb
needs it, so that `--help` stays quick. Verbs about failures and corrections have modules of their
own.
"""

import os
from pathlib import Path
from typing import Any

import click

from dicom_assets.cli import corrections
from dicom_assets.cli.dicomweb import dicomweb
from dicom_assets.cli.failures import failures
from dicom_assets.cli.listen import listen
from dicom_assets.cli.options import (
    DAY,
    LAKEHOUSE,
    engine_of,
    settings_of,
    settings_of_existing,
)
from dicom_assets.cli.pull import pull
from dicom_assets.cli.stream import stream
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.garbage import collect_nothing_at_the_end, collect_seldom
from dicom_assets.lakehouse.modes import keep_private


class _Plain(click.Group):
    """What an error says that is in words of ours is all that is shown of it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # who reads has seen enough
            raise
        except PlainError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            from dicom_assets.lakehouse.storage_error import StorageError, told_without_names

            try:
                with told_without_names():
                    raise error
            except StorageError as told:
                raise click.ClickException(str(told)) from error


@click.group(
    cls=_Plain,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="dicom-assets")
def main() -> None:
    """Turns dropped DICOM files into bronze, silver and gold tables.

    Drop files under <lakehouse>/bronze/Files/Ingest/Imaging/DICOM, then `dicom-assets run`.
    Settings come from DICOM_ASSETS_… variables and dicom_assets.toml; the README lists them.
    """


@main.command()
@click.option(
    "--to",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to; made when missing.",
)
def sample(to: Path) -> None:
    """Writes the sample: 96 DICOM instances, 6 FHIR reports and their manifest."""
    from dicom_assets.sample import write_sample

    _make(to, "--to")
    expected = write_sample(to)["expected"]
    click.echo(
        f"{expected['process_files']} DICOM instances written to {to / 'Imaging/DICOM'}, "
        f"{expected['DiagnosticReport']} reports to {to / 'Clinical'}"
    )


@main.command()
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the demo lakehouse, made anew.  [default: data/demo]",
)
def demo(to: Path | None) -> None:
    """Makes a fresh demo lakehouse from the sample and shows what came out."""
    if ":/" in str(to):
        raise click.BadParameter(
            "the demo needs a local folder. To try an object store: docs/object_store.md",
            param_hint="--to",
        )
    settings = settings_of((to or _home() / "data/demo").absolute())
    from dicom_assets.console import print_demo, print_outcome, shown_progress
    from dicom_assets.demo import DAGSTER_FOLDER, counted, fresh
    from dicom_assets.runner import run_chain

    # a history of its own, so that the user's shows the user's runs alone
    os.environ.setdefault("DAGSTER_HOME", str(settings.lakehouse / DAGSTER_FOLDER))
    try:
        day = fresh(settings)
    except FileExistsError as error:
        raise click.UsageError(str(error)) from error
    with shown_progress():
        outcome = run_chain(lakehouse=settings.lakehouse, partition_key=day)
    print_outcome(outcome)
    holds = print_demo(settings.lakehouse, Path(os.environ["DAGSTER_HOME"]), counted(settings, day))
    raise SystemExit(0 if outcome.succeeded and holds else 1)


@main.command()
@click.option("--date", "day", type=DAY, help="Ingest date, yyyy-mm-dd.  [default: today]")
@LAKEHOUSE
def run(day: Any, lakehouse: Path | None) -> None:
    """Runs the chain, drop folder to gold, for one ingest date."""
    settings = settings_of(lakehouse)
    from dicom_assets.console import print_outcome, shown_progress
    from dicom_assets.defs.partitions import ingest_date
    from dicom_assets.runner import run_chain

    today = ingest_date.get_last_partition_key() or ""
    key = f"{day:%Y-%m-%d}" if day else today
    if not ingest_date.has_partition_key(key):
        first = ingest_date.get_first_partition_key()
        raise click.BadParameter(f"choose a day from {first} to {today}", param_hint="--date")
    click.echo(f"lakehouse {settings.lakehouse}, ingest date {key}")
    if not settings.lakehouse.exists():
        click.echo(f"it is new: drop files under {engine_of(settings).layout.drop_folder}")
        keep_private()
        _make(settings.lakehouse, "--lakehouse")
    with shown_progress():
        outcome = run_chain(lakehouse=settings.lakehouse, partition_key=key)
    print_outcome(outcome)
    raise SystemExit(0 if outcome.succeeded else 1)


@main.command()
@LAKEHOUSE
@click.option(
    "--days",
    type=click.IntRange(min=1),
    default=14,
    show_default=True,
    help="How many ingest dates to show.",
)
def status(lakehouse: Path | None, days: int) -> None:
    """Shows files, rows and failures by layer and date; what came again or late; conflicts."""
    settings = settings_of(lakehouse)
    from dicom_assets.console import print_table
    from dicom_assets.steps.status import by_date, contradicting, totals, unusual

    engine = engine_of(settings)
    rows = by_date(engine, settings, days=days)
    if not rows:
        click.echo(
            f"nothing has been ingested in {settings.lakehouse} yet. "
            f"Drop files under {engine.layout.drop_folder}, then: dicom-assets run"
        )
        return
    print_table(["ingest date", *rows[0].counts], [[row.day, *row.counts.values()] for row in rows])
    if again := unusual(settings, rows):
        print_table(
            ["ingest date", *again[0].counts], [[each.day, *each.counts.values()] for each in again]
        )
    print_table(["table", "rows"], list(totals(engine, settings).items()))
    if kinds := contradicting(engine, settings):
        print_table(["open conflicts (dicom-assets conflicts)", "how many"], list(kinds.items()))


@main.command("fill-promoted")
@LAKEHOUSE
def fill_promoted(lakehouse: Path | None) -> None:
    """Fills columns of newly configured promoted tags in old rows; reads no file again."""
    settings = settings_of_existing(lakehouse)
    from dicom_assets.steps.promote import fill

    try:
        report = fill(engine_of(settings), settings)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{report.rows} rows filled in {report.seconds:.1f} s")


@main.command()
@LAKEHOUSE
def maintain(lakehouse: Path | None) -> None:
    """Joins small files of all tables and removes files that are of no table any more."""
    settings = settings_of_existing(lakehouse)
    from dicom_assets.console import print_table
    from dicom_assets.steps.maintain import maintain as look_after

    done = look_after(engine_of(settings), settings)
    head = ["table", "files before", "after", "old files removed", "MB freed"]
    print_table(
        head,
        [
            [each.table, each.files_before, each.files_after, each.files_removed, mb]
            for each in done
            for mb in [round(each.bytes_freed / 1e6, 1)]
        ],
    )


@main.command()
@click.option("--date", "day", type=DAY, help="Only this ingest date.")
@click.option(
    "--hashes",
    is_flag=True,
    help="Read every byte in Process, and compare FHIR lines with their rows.",
)
@click.option("--repair", is_flag=True, help="Mend what can be mended from what is there.")
@LAKEHOUSE
def verify(day: Any, hashes: bool, repair: bool, lakehouse: Path | None) -> None:
    """Compares files, hashes, rows and layers, and says what does not agree.

    No run works on the lakehouse meanwhile.
    """
    settings = settings_of_existing(lakehouse)
    from dicom_assets.console import print_findings, shown_progress
    from dicom_assets.steps.repair import verify_and_repair
    from dicom_assets.steps.verify import verify as compare

    only = day.date() if day else None
    with shown_progress():
        if repair:
            found, remaining = verify_and_repair(settings, day=only, hashes=hashes)
        else:
            found = remaining = compare(settings, day=only, hashes=hashes)
    print_findings(found)
    if repair and found:
        click.echo("after the repair:")
        print_findings(remaining)
    raise SystemExit(1 if remaining else 0)


def _make(folder: Path, option: str) -> None:
    """Makes a folder.

    Raises:
        click.BadParameter: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(
            f"{folder} cannot be made: {error.strerror}", param_hint=option
        ) from error


def _home() -> Path:
    from dicom_assets.settings import home

    return home()


for verb in (
    failures,
    corrections.delete,
    corrections.restore,
    corrections.reread,
    corrections.change_patient,
    corrections.operations,
    corrections.conflicts,
    dicomweb,
    listen,
    pull,
    stream,
):
    main.add_command(verb)


def command() -> None:
    """Runs a verb in a process that is there for it: what `dicom-assets` calls."""
    collect_seldom()
    collect_nothing_at_the_end()
    main(prog_name="dicom-assets")
