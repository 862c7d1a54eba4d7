"""Corrections on the command line: an operation is asked for; the next run takes it in.

And the conflicts that a person may want to correct.
"""

import getpass
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dicom_assets.cli.options import LAKEHOUSE, LIMIT, engine_of, settings_of_existing

_STUDY = click.option("--study", metavar="UID", help="Study Instance UID.")
_COMMON = (
    click.option(
        "--namespace", default="default", show_default=True, help="Namespace of the source."
    ),
    click.option("--reason", required=True, help="Why; it is kept."),
    click.option("--by", help="Who asks for it; it is kept.  [default: the login name]"),
    LAKEHOUSE,
)


def _with(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_ABOUT_UIDS = _with(
    _STUDY,
    click.option("--series", metavar="UID", help="Series Instance UID."),
    click.option("--instance", metavar="UID", help="SOP Instance UID."),
    *_COMMON,
)


@click.command()
@_ABOUT_UIDS
def delete(**options: Any) -> None:
    """Takes a study, series or instance out of silver and gold. It can be restored."""
    _ask("delete", **options)


@click.command()
@_ABOUT_UIDS
def restore(**options: Any) -> None:
    """Brings back what was deleted."""
    _ask("restore", **options)


@click.command()
@_ABOUT_UIDS
def reread(**options: Any) -> None:
    """Has the stored files of a study, series or instance read again."""
    _ask("reread", **options)


@click.command("change-patient")
@_with(
    click.option("--from", "wrong", metavar="ID", required=True, help="Patient ID that is wrong."),
    click.option("--to", "right", metavar="ID", required=True, help="Patient ID that holds."),
    _STUDY,
    *_COMMON,
)
def change_patient(wrong: str, right: str, **options: Any) -> None:
    """Gives the studies of one Patient ID, or one of them, to another; later files, too."""
    _ask("change_patient", patientId=wrong, newPatientId=right, **options)


@click.command()
@LAKEHOUSE
@LIMIT
def operations(lakehouse: Path | None, limit: int) -> None:
    """Shows which corrections were asked for, when, by whom and why, and of how many instances.

    One of no instances was about nothing that the lakehouse holds: a mistyped UID, perhaps.
    """
    settings = settings_of_existing(lakehouse)
    from dicom_assets.console import print_table
    from dicom_assets.lakehouse.operations import WHAT, of_row
    from dicom_assets.steps import ask, catalog

    engine, metastore = engine_of(settings), catalog.metastore(settings.promoted)
    rows = ask.asked(engine)
    if not rows:
        click.echo("no operations")
        return
    print_table(
        ["taken in", "namespace", "operation", "about", "instances", "by", "reason", "id"],
        [
            [
                f"{row['takenAt']:%Y-%m-%d %H:%M:%S}",
                row["sourceSystem"],
                row["operation"],
                ", ".join(f"{name} {row[name]}" for name in WHAT[1:] if row[name]),
                ask.held(engine, metastore, of_row(row), taken=row)[row["sourceSystem"]],
                *(row[name] for name in ("requestedBy", "reason", "operationId")),
            ]
            for row in rows[:limit]
        ],
    )
    if len(rows) > limit:
        click.echo(f"{len(rows) - limit} more; see --limit")


@click.command()
@click.option(
    "--attribute", metavar="NAME", help="Only where files differ in this, such as patientId."
)
@LAKEHOUSE
@LIMIT
def conflicts(attribute: str | None, lakehouse: Path | None, limit: int) -> None:
    """Shows in what files contradict each other; the newest by arrival counts.

    Decided ones are not shown: of which one side was deleted, has come elsewhere, or was given to
    the same patient. silver/conflicts keeps them.
    """
    settings = settings_of_existing(lakehouse)
    from dicom_assets.console import print_table
    from dicom_assets.steps.conflicts import UID_OF_LEVEL
    from dicom_assets.steps.current_files import COMPARED
    from dicom_assets.steps.status import contradictions

    if attribute not in (None, *COMPARED):
        raise click.BadParameter(
            f"nothing that files are compared in; they are in {', '.join(COMPARED)}",
            param_hint="--attribute",
        )
    rows = contradictions(engine_of(settings), settings, attribute=attribute)
    if not rows:
        click.echo("no open conflicts")
        return
    print_table(
        [
            "namespace",
            "about",
            "attribute",
            "the newer file says",
            "newer file",
            "the older file says",
            "older file",
        ],
        [
            [
                row["sourceSystem"],
                f"{row['level']} {row[UID_OF_LEVEL[row['level']]]}",
                row["attribute"],
                *(
                    row[f"{side}{what}"]
                    for side in ("newer", "older")
                    for what in ("Value", "Path")
                ),
            ]
            for row in rows[:limit]
        ],
    )
    if len(rows) > limit:
        click.echo(f"{len(rows) - limit} more; see --limit")


def _ask(
    kind: str,
    *,
    lakehouse: Path | None,
    namespace: str,
    reason: str,
    by: str | None,
    study: str | None,
    series: str | None = None,
    instance: str | None = None,
    **patients: str,
) -> None:
    """Asks for an operation, unless the lakehouse holds nothing of what it names."""
    settings = settings_of_existing(lakehouse)
    engine = engine_of(settings)
    known = engine.layout.source_systems()
    if not (namespace in known or settings.is_namespace(namespace)):
        raise click.BadParameter(
            f"no such namespace; the lakehouse has {', '.join(sorted(known))}",
            param_hint="--namespace",
        )
    from dicom_assets.lakehouse.operations import OperationError, operation
    from dicom_assets.steps import ask, catalog

    uids = {"studyInstanceUid": study, "seriesInstanceUid": series, "sopInstanceUid": instance}
    try:
        asked = operation(
            operation=kind,
            requestedBy=by or getpass.getuser(),
            reason=reason,
            id=uuid.uuid4().hex,
            **{name: uid for name, uid in uids.items() if uid},
            **patients,
        )
    except OperationError as error:
        raise click.UsageError(str(error)) from error
    held = ask.held(engine, catalog.metastore(settings.promoted), asked)
    if not held[namespace]:
        others = "".join(
            f"; {system} holds {count} instances: --namespace {system}"
            for system, count in held.items()
        )
        raise click.UsageError(f"the lakehouse holds nothing of it in {namespace}{others}")
    path = ask.ask(engine, asked, source_system=namespace)
    click.echo(f"the lakehouse holds {held[namespace]} instances of it; asked for: {path}")
    click.echo("a running sensor takes what is dropped by itself; else: dicom-assets run")
