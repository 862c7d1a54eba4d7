"""Failures on the command line: what failed, and how it is tried again."""

from pathlib import Path
from typing import Any, get_args

import click

from dicom_assets.cli.options import DAY, LAKEHOUSE, LIMIT, engine_of, settings_of_existing
from dicom_assets.lakehouse.reasons import Reason, Step

_DATE = click.option("--date", "day", type=DAY, help="Only this ingest date.")
_REASON = click.option(
    "--reason",
    type=click.Choice([str(reason) for reason in Reason]),
    metavar="CODE",
    help="Only this reason code.",
)


@click.group(invoke_without_command=True)
@click.pass_context
@LAKEHOUSE
@_DATE
@_REASON
@LIMIT
def failures(
    context: click.Context, lakehouse: Path | None, day: Any, reason: str | None, limit: int
) -> None:
    """Shows what failed, why, and where its bytes lie now."""
    if context.invoked_subcommand:
        if lakehouse or day or reason:
            raise click.UsageError(f"options belong behind {context.invoked_subcommand}")
        return
    settings = settings_of_existing(lakehouse)
    from dicom_assets.console import print_table
    from dicom_assets.steps.retry import with_state
    from dicom_assets.steps.status import failed

    engine = engine_of(settings)
    found = failed(engine, ingest_date=day.date() if day else None, reason=reason)
    if found.empty:
        click.echo("no failures")
        return
    found = with_state(engine.layout, found)
    groups = found.groupby(["ingestDate", "step", "reasonCode", "state"])
    counts = groups.agg(count=("message", "size")).reset_index()
    print_table(list(counts.columns), counts.values.tolist())
    columns = ["reasonCode", "message", "sourcePath", "failedPath", "state"]
    print_table(columns, found[columns].head(limit).values.tolist())
    if len(found) > limit:
        click.echo(f"{len(found) - limit} more; see --date, --reason and --limit")


@failures.command()
@LAKEHOUSE
@_DATE
@_REASON
@click.option("--step", type=click.Choice(get_args(Step)), help="Only failures of this step.")
def retry(lakehouse: Path | None, day: Any, reason: str | None, step: Step | None) -> None:
    """Drops failed files again, under the names they came with; the next run takes them.

    Exit code 1 when one could not be.
    """
    settings = settings_of_existing(lakehouse)
    from dicom_assets.steps.retry import retry as drop_again

    done = drop_again(
        engine_of(settings),
        settings,
        ingest_date=day.date() if day else None,
        reason=reason,
        step=step,
    )
    click.echo(f"{done.files} files dropped again, {done.lines} files of FHIR lines")
    if done.without_file:
        click.echo(f"{done.without_file} failures have no file of their own in Failed: they stand")
    for why, count in done.stuck.items():
        click.echo(f"{count} files cannot be dropped again, and stay in Failed: {why}")
    if done.files or done.lines:
        click.echo("a running sensor takes what is dropped by itself; else: dicom-assets run")
    raise SystemExit(1 if done.stuck else 0)
