"""A DICOM service on the command line: files are stored there, and compared with what it holds."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dicom_assets.cli.options import settings_of

if TYPE_CHECKING:
    from dicom_assets.settings import Settings
    from dicom_assets.steps.store import Outcome

_SHOWN = 50
SERVICE = click.option(
    "--service", metavar="NAME", help="Which of dicom_services.  [default: the only one]"
)
_PATHS = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)


@click.group()
def dicomweb() -> None:
    """Stores files in a DICOM service, and compares them with what it holds.

    Services are configured as [dicom_services.NAME] in dicom_assets.toml.
    """


@dicomweb.command()
@_PATHS
@SERVICE
def store(paths: tuple[Path, ...], service: str | None) -> None:
    """Stores DICOM files, folders of such, and what ZIPs hold (STOW-RS).

    What is no DICOM is passed over. Exit code 1 when one was not stored. Running it again is safe.
    """
    from dicom_assets.steps.store import store as send

    _end(_with_client(service, lambda client, settings: send(client, paths, settings)))


@dicomweb.command()
@_PATHS
@SERVICE
def verify(paths: tuple[Path, ...], service: str | None) -> None:
    """Retrieves what files hold (WADO-RS), and compares dataset with dataset by SHA-256.

    Exit code 1 when one is not there, or another one.
    """
    from dicom_assets.steps.store import compare

    _end(_with_client(service, lambda client, settings: compare(client, paths, settings)))


def _with_client(name: str | None, act: Callable[[Any, "Settings"], "Outcome"]) -> "Outcome":
    settings = settings_of(None)
    from dicom_assets.console import shown_progress
    from dicom_assets.dicomweb.client import Client
    from dicom_assets.lakehouse.errors import PlainError
    from dicom_assets.steps.store import chosen

    try:
        name = chosen(settings, name)
    except PlainError as error:
        raise click.UsageError(str(error)) from error
    with shown_progress(), Client.of(name, settings.dicom_services[name]) as client:
        return act(client, settings)


def _end(outcome: "Outcome") -> None:
    """Says what came of it, and ends with the exit code."""
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(outcome.counts.items()))
    click.echo(f"{counts or 'no files'}; {outcome.size / 1e6:.1f} MB")
    for source, problem in outcome.problems[:_SHOWN]:
        click.echo(f"{source}: {problem}", err=True)
    if len(outcome.problems) > _SHOWN:
        click.echo(f"{len(outcome.problems) - _SHOWN} more", err=True)
    raise SystemExit(1 if outcome.problems else 0)
