"""The C-STORE receiver on the command line."""

import signal
import threading
from pathlib import Path

import click

from dicom_assets.cli.options import LAKEHOUSE, engine_of, settings_of


@click.command()
@click.option("--aet", required=True, metavar="TITLE", help="AE title that it answers as.")
@click.option("--port", required=True, type=click.IntRange(0, 65535), help="Port; 0 takes any.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 for every one of this machine.",
)
@click.option("--namespace", help="Source system that instances come under.  [default: none]")
@LAKEHOUSE
def listen(aet: str, port: int, host: str, namespace: str | None, lakehouse: Path | None) -> None:
    """Receives instances by C-STORE into the drop folder, until it is stopped.

    Every storage SOP class and transfer syntax is taken as it comes, and C-ECHO answered. Success
    is said of an instance once its file is durable: a kill, or the power, loses none of those.
    """
    settings = settings_of(lakehouse)
    if namespace is not None and not settings.is_namespace(namespace):
        raise click.BadParameter("no such namespace; see source_systems", param_hint="--namespace")
    import logging

    from dicom_assets.lakehouse.errors import PlainError
    from dicom_assets.steps.listen import listening

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    layout = engine_of(settings).layout
    drop_folder = layout.drop_folder
    beside = layout.scratch if layout.scratch != layout.root else drop_folder.parent
    folder = drop_folder / namespace if namespace else drop_folder
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    try:
        with listening(
            folder, within=drop_folder, beside=beside, aet=aet, host=host, port=port
        ) as (receiver, server):
            bound = server.server_address[1]
            click.echo(f"listening as {aet} on {host}, port {bound}; instances go to {folder}")
            stop.wait()
    except PlainError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"stopped; {receiver.received} instances received")
