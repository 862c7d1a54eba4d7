"""Pulling from DICOM services on the command line."""

from pathlib import Path

import click

from dicom_assets.cli.options import LAKEHOUSE, settings_of


@click.command()
@click.argument("service", required=False)
@click.option("--failed", is_flag=True, help="Only what could not be retrieved before.")
@LAKEHOUSE
def pull(service: str | None, failed: bool, lakehouse: Path | None) -> None:
    """Retrieves what is new in DICOM services into External; of one SERVICE, or of all.

    It goes on from where the last time ended, or was killed. Exit code 1 when something was not
    handed out; `dicom-assets failures` lists it.
    """
    settings = settings_of(lakehouse)
    from dicom_assets.console import print_table, shown_progress
    from dicom_assets.defs.partitions import ingest_date
    from dicom_assets.lakehouse.errors import PlainError
    from dicom_assets.steps.pull import pull as retrieve
    from dicom_assets.steps.pull import retry
    from dicom_assets.steps.run import Run
    from dicom_assets.steps.store import chosen

    run = Run.of(settings, ingest_date.get_last_partition_key() or "")
    rows = []
    try:
        names = [chosen(settings, service)] if service else sorted(settings.dicom_services)
        for name in names or [chosen(settings, None)]:
            with shown_progress():
                report = retry(run, name) if failed else retrieve(run, name)
            counts = [report.counts[each] for each in ("deleted", "gone", "failures")]
            rate = report.rows / report.seconds
            rows.append([name, report.rows, f"{report.size / 1e6:.1f}", f"{rate:.0f}", *counts])
    except PlainError as error:
        raise click.ClickException(str(error)) from error
    print_table(
        ["service", "files", "MB", "files/s", "deletions", "gone meanwhile", "failures"], rows
    )
    raise SystemExit(1 if any(row[-1] for row in rows) else 0)
