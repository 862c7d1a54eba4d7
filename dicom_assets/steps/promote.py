"""Filling newly promoted tags: old metastore rows get the new columns from `metadata_string`.

Decided here: which rows are filled and how; no DICOM file is read again. Rows are updated, not
inserted, so that later steps do not take them for new ones.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date

import orjson
import pyarrow as pa

from dicom_assets.lakehouse.engine import LocalEngine, Table
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.promoted import PROMOTED_TAGS, PromotedTag
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog
from dicom_assets.steps.report import Progress, Report, reporting

STEP = "fill promoted tags"


def fill(engine: LocalEngine, settings: Settings) -> Report:
    """Fills every configured promoted column, one ingest date at a time.

    Returns:
        Rows = metastore rows that got a value.

    Raises:
        PlainError: As `check_columns`.
    """
    table = catalog.metastore(settings.promoted)
    tags = settings.promoted[len(PROMOTED_TAGS) :]
    check_columns(engine, table)
    with reporting(STEP, engine.layout.root) as report:
        days = sorted(engine.rows_by_date(table)) if tags else []
        progress = Progress(STEP, len(days), "ingest dates")
        for day in days:
            report.rows += _fill_day(engine, settings, tags, day)
            progress.advance()
    return report


def check_columns(engine: LocalEngine, metastore: Table) -> None:
    """Checks that the metastore's columns hold what the settings want to find there.

    Raises:
        PlainError: A promoted column holds another tag, or differs in upper and lower case alone.
    """
    delta = engine.open(metastore)
    held = {column.name.lower(): column for column in delta.schema().fields} if delta else {}
    for column in metastore.schema:
        known = held.get(column.name.lower())
        comment = (column.metadata or {}).get(b"comment", b"").decode()
        if known and (known.name, known.metadata.get("comment")) != (column.name, comment):
            holds = known.metadata.get("comment") or "what others have added"
            raise PlainError(
                f"promoted_tags: the metastore has a column {known.name} already, which holds "
                f"{holds}; choose another name than {column.name}"
            )


def _fill_day(
    engine: LocalEngine, settings: Settings, tags: Sequence[PromotedTag], day: str
) -> int:
    """Fills one ingest date; returns how many rows got a value."""
    table = catalog.metastore(settings.promoted)
    names = [tag.column for tag in tags]
    rows = engine.read(
        table, ["filePath", "metadata_string", *names], ingest_date=date.fromisoformat(day)
    )
    files: defaultdict[str, list[dict]] = defaultdict(list)
    for row in rows.to_pylist():
        files[row["filePath"]].append(row)  # several, where it was read again: they get the same
    found = []
    filled = 0
    for path, same in files.items():
        values = _values(same, tags)
        changed = sum({name: row[name] for name in names} != values for row in same)
        if changed:
            found.append({"filePath": path, **values})
            filled += changed
    if found:
        schema = pa.schema([("filePath", pa.string()), *((name, pa.string()) for name in names)])
        engine.update(
            table,
            pa.Table.from_pylist(found, schema=schema),
            key="filePath",
            columns=names,
            ingest_date=date.fromisoformat(day),
        )
    return filled


def _values(rows: Sequence[dict], tags: Sequence[PromotedTag]) -> dict[str, str | None]:
    """Returns the values of one file: what one of its rows has, else what its JSON says."""
    elements = orjson.loads(rows[-1]["metadata_string"])
    known = {tag.column: next((v for row in rows if (v := row[tag.column])), None) for tag in tags}
    return {tag.column: known[tag.column] or _text(elements.get(tag.tag, {})) for tag in tags}


def _text(element: dict) -> str | None:
    """Returns an element of the DICOM JSON Model as promoted text."""
    values = [
        value.get("Alphabetic", "") if isinstance(value, dict) else value
        for value in element.get("Value", [])
    ]
    return "\\".join("" if value is None else str(value) for value in values) or None
