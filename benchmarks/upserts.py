"""Measures the two ways of an upsert: keys that are named, and keys that are joined with.

Rows of silver ImagingStudy and of silver current_files, some of which are upserted again, by turns
in the one way and the other. CPU time of the commit alone, with the table's newest files in the
page cache.

    python -m benchmarks upserts [--quick]
"""

import shutil
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from benchmarks.results import OURS, Row
from dicom_assets.lakehouse import merge
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.tables import Table
from dicom_assets.steps import catalog

PART = "upserts"
_DAY = date(2026, 3, 14)
_NOW = datetime(2026, 3, 14, tzinfo=UTC)
_ROWS = (1_000, 20_000)
_KEYS = (1, 100, 500, 2_000)
_TURNS = 5


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Runs each way on each table with so many keys."""
    turns = 1 if quick else _TURNS
    found = []
    for table in (catalog.silver_imaging_study(), catalog.CURRENT_FILES):
        for rows in _ROWS[:1] if quick else _ROWS:
            engine = LocalEngine(Layout(folder / table.name))
            _upsert(engine, table, _rows(table, range(rows), "first"))
            for keys in _KEYS:
                if keys <= rows:
                    found += _each_way(engine, table, rows, keys, turns)
            shutil.rmtree(folder / table.name)
    return found


def _each_way(engine: LocalEngine, table: Table, rows: int, keys: int, turns: int) -> list[Row]:
    """Upserts some of a table's rows by turns in the one way and the other."""
    took: dict[str, list[float]] = {"named": [], "joined": []}
    for turn in range(turns):
        for way, seconds in took.items():
            new = _rows(table, range(0, rows, rows // keys)[:keys], f"{turn} {way}")
            with patch.object(merge, "_MOST_NAMED", keys if way == "named" else 0):
                begin = time.process_time()
                _upsert(engine, table, new)
                seconds.append(time.process_time() - begin)
    ours = "named" if keys <= merge._MOST_NAMED else "joined"
    case = f"{keys:,} of {rows:,} rows of {table.full_name}"
    return [
        Row(PART, case, OURS if way == ours else f"keys are {way}", median(seconds), "s of CPU")
        for way, seconds in took.items()
    ]


def _upsert(engine: LocalEngine, table: Table, rows: pa.Table) -> None:
    engine.upsert(table, rows, progress=None, ingest_date=_DAY)


def _rows(table: Table, keys: Sequence[int], said: str) -> pa.Table:
    columns = [
        pa.array([_value(each, key, said, table) for key in keys], each.type)
        for each in table.upserted
    ]
    schema = pa.schema([each.with_nullable(True) for each in table.upserted])
    return pa.Table.from_arrays(columns, schema=schema)


def _value(field: pa.Field, key: int, said: str, table: Table) -> Any:
    if pa.types.is_string(field.type):
        return f"{key:064x}" if field.name == table.key[0] else f"{said} {key}"
    if pa.types.is_timestamp(field.type):
        return _NOW
    if pa.types.is_date(field.type):
        return _DAY
    return key if pa.types.is_integer(field.type) else None
