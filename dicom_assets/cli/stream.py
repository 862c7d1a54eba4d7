"""The continuous mode of the Spark engine on the command line."""

import signal
import threading
from pathlib import Path
from typing import Any

import click

from dicom_assets.cli.options import LAKEHOUSE, settings_of


@click.command()
@click.option("--once", is_flag=True, help="End once all that is there has been worked on.")
@click.option(
    "--every",
    type=click.FloatRange(min=1),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How often to look for what has arrived.",
)
@LAKEHOUSE
def stream(once: bool, every: float, lakehouse: Path | None) -> None:
    """Runs the chain on Spark as files arrive, without Dagster, until it is stopped.

    Structured Streaming finds the dates that have news; what each step has done is in the tables,
    so it may be killed at any time, and `run`, or Dagster, may go on. SIGTERM, or Ctrl-C, ends it
    after the date at hand, a second one at once. Checks are not evaluated: see `verify`. Exit code
    1 when something broke; started again, it goes on from there. Needs engine = spark.
    """
    settings = settings_of(lakehouse)
    import logging

    from deltalake.exceptions import CommitFailedError

    from dicom_assets.lakehouse.storage_error import StorageError
    from dicom_assets.lakehouse.told import StepError
    from dicom_assets.settings import SettingsError
    from dicom_assets.steps.stream import streaming

    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    ours = logging.getLogger("dicom_assets")
    ours.addHandler(shown)
    ours.setLevel(logging.INFO)
    stop = threading.Event()

    def end(number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    try:
        with streaming(settings) as started:
            # Spark has handlers of its own by now, which would cancel what is at hand
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, end)
            look = "once" if once else f"every {every:g} s"
            click.echo(f"lakehouse {settings.lakehouse}, looking {look}")
            started.run(every=None if once else every, stop=stop)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except (StepError, StorageError, CommitFailedError) as error:
        again = "Start the stream again: it goes on from where it was"
        raise click.ClickException(f"{error}. {again}") from error
    click.echo("stopped" if stop.is_set() else "all that was there has been worked on")
