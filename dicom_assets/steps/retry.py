"""Retry: failed files are dropped again, so that the next run takes them like any others.

Decided here: which files those are (all that a failure names and that lie in Failed), and where
they go: under the names they came with, so that lineage reads well. That they were is recorded
first, then each is moved: killed in between, it still lies in Failed, which counts for more than
the record. Failure rows stay, they are history. FHIR lines of a known type that failed become an
NDJSON file of today; what was dropped is dropped again. What cannot get its place stays in Failed,
and holds up no other file. Not decided here: how a file gets its place (`lakehouse.placing`).
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout, one_name, organised_name
from dicom_assets.lakehouse.lock import locked
from dicom_assets.lakehouse.paths import lies
from dicom_assets.lakehouse.placing import NotPlacedError, place
from dicom_assets.lakehouse.reasons import Step
from dicom_assets.lakehouse.storage_error import told_without_names
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog, organise_fhir
from dicom_assets.steps.report import now

OPEN, RETRIED, GONE = "open", "retried", "file gone"
_FAILED_FILES = "bronze/Files/Failed/Imaging/DICOM/"
_FAILED_LINES = "bronze/Files/Failed/Clinical/FHIR NDJSON/"


@dataclass
class Retried:
    """What was done.

    Attributes:
        files: DICOM files, archives, FHIR files and others, dropped again.
        lines: Files of FHIR lines, given to today.
        without_file: Failures of which no file lies in Failed, and that were not retried before.
        stuck: Why files could not be dropped again, and of how many that is so; they lie in Failed.
    """

    files: int = 0
    lines: int = 0
    without_file: int = 0
    stuck: Counter[str] = field(default_factory=Counter)


def with_state(layout: Layout, failures: pd.DataFrame) -> pd.DataFrame:
    """Returns failure rows with a column `state`: open, retried, or `file gone` from Failed."""
    pairs = zip(failures["failedPath"], failures["retriedAt"].notna(), strict=True)
    states = [_state(layout, path, is_retried=bool(retried)) for path, retried in pairs]
    return failures.assign(state=states)


def _state(layout: Layout, failed_path: str | None, *, is_retried: bool) -> str:
    if not failed_path or not failed_path.startswith((_FAILED_FILES, _FAILED_LINES)):
        return OPEN
    if lies(layout.absolute(failed_path)):
        return OPEN
    return RETRIED if is_retried else GONE


def retry(
    engine: LocalEngine,
    settings: Settings,
    *,
    ingest_date: date | None = None,
    reason: str | None = None,
    step: Step | None = None,
) -> Retried:
    """Drops failed files again.

    Args:
        engine: The lakehouse.
        settings: Today depends on the site's time zone.
        ingest_date: Only what failed on this date.
        reason: Only what failed for this reason.
        step: Only what failed in this step.

    Raises:
        StorageError: The storage failed; what was not dropped by then lies in Failed.
    """
    done = Retried()
    wanted = {"reasonCode": reason, "step": step}
    where = {column: [value] for column, value in wanted.items() if value}
    columns = ["ingestDate", "sourceSystem", "step", "sourcePath", "failedPath", "retriedAt"]
    with told_without_names(), locked(engine.layout.root):
        rows = engine.read(
            catalog.INGESTION_FAILURES, columns, ingest_date=ingest_date, where=where
        ).to_pylist()
        lying: dict[date, dict[str, dict]] = {}
        for row in rows:
            path = row["failedPath"] or ""
            is_failed = path.startswith((_FAILED_FILES, _FAILED_LINES))
            if is_failed and lies(engine.layout.absolute(path)):
                lying.setdefault(row["ingestDate"], {})[path] = row
            elif row["retriedAt"] is None:
                done.without_file += 1
        for day, by_path in sorted(lying.items()):
            _record(engine, day, list(by_path), now())
            stuck = []
            for path, row in sorted(by_path.items()):
                try:
                    _drop(engine.layout, path, row, done, today=_today(settings))
                except NotPlacedError as error:
                    done.stuck[str(error)] += 1
                    stuck.append(path)
            if stuck:
                _record(engine, day, stuck, None)
    return done


def _drop(layout: Layout, path: str, row: dict, done: Retried, *, today: date) -> None:
    """Drops what lies under a path in Failed again, and counts it."""
    failed = layout.absolute(path)
    if path.startswith(_FAILED_FILES):
        came_as = _came_as(row["sourcePath"], path)
        place(failed, layout.dropped_as(came_as), within=layout.drop_folder)
        done.files += 1
    elif row["step"] == organise_fhir.STEP:
        place(failed, layout.fhir_dropped_as(row["sourcePath"]), within=layout.fhir_drop_folder)
        done.files += 1
    else:
        folder = layout.fhir_folder(row["sourceSystem"], today, Path(path).parent.name)
        # a name that no conversion gives to its files
        name = f"{time.time_ns() // 1_000_000}_retried.ndjson"
        place(failed, folder / name, within=layout.fhir_root)
        done.lines += 1


def _record(engine: LocalEngine, day: date, paths: list[str], when: datetime | None) -> None:
    """Records when files were dropped again; None: they were not."""
    column = catalog.INGESTION_FAILURES.schema.field("retriedAt")
    schema = pa.schema([("failedPath", pa.string()), column])
    engine.update(
        catalog.INGESTION_FAILURES,
        pa.Table.from_pylist([{"failedPath": p, "retriedAt": when} for p in paths], schema=schema),
        key="failedPath",
        columns=["retriedAt"],
        ingest_date=day,
    )


def _came_as(source_path: str, failed_path: str) -> str:
    """Returns what of a source path lies in Failed: a member itself, or an archive around it."""
    kept = one_name(failed_path).partition("_")[2]
    parts = source_path.split("!/")
    whole = ["!/".join(parts[:end]) for end in range(len(parts), 0, -1)]
    named = (each for each in whole if one_name(organised_name(0, each)).partition("_")[2] == kept)
    return next(named, whole[-1])


def _today(settings: Settings) -> date:
    zone = ZoneInfo(settings.site_timezone) if settings.site_timezone else UTC
    return datetime.now(zone).date()
