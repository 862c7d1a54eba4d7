"""What verbs of the command line share: options, the settings, the engine."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.paths import path_of

if TYPE_CHECKING:
    from dicom_assets.lakehouse.engine import LocalEngine
    from dicom_assets.settings import Settings

LAKEHOUSE = click.option(
    "--lakehouse",
    type=click.Path(file_okay=False),
    callback=lambda _context, _option, value: path_of(value) if value else None,
    help="Root of the lakehouse: a folder, or an address such as s3://bucket/lake.  "
    "[default: the setting, else data/lakehouse]",
)
DAY = click.DateTime(["%Y-%m-%d"])
LIMIT = click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many to list."
)


def settings_of(lakehouse: Path | None) -> "Settings":
    """Returns the settings; a wrong one is a wrong option.

    Raises:
        click.UsageError: One is wrong.
    """
    from dicom_assets.settings import SettingsError, load_settings

    try:
        return load_settings(lakehouse=lakehouse)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error


def settings_of_existing(lakehouse: Path | None) -> "Settings":
    """Returns the settings, of a lakehouse that is there: a mistyped path must not look empty.

    Raises:
        click.UsageError: One is wrong, or there is none.
    """
    settings = settings_of(lakehouse)
    if not isinstance(settings.lakehouse, FarPath) and not settings.lakehouse.is_dir():
        raise click.UsageError(
            f"there is no lakehouse at {settings.lakehouse}; `dicom-assets run` makes one"
        )
    return settings


def engine_of(settings: "Settings") -> "LocalEngine":
    """Returns the engine on the lakehouse of the settings."""
    from dicom_assets.lakehouse.engine import LocalEngine
    from dicom_assets.lakehouse.layout import Layout

    return LocalEngine(Layout(settings.lakehouse))
