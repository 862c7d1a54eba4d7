"""Measures upserts into a table that holds some of the keys, against delta-rs's own MERGE.

Rows of silver ImagingStudy and of silver current_files, some of which are upserted again, into one
copy of the table by our engine and into another by MERGE. CPU time of the commit alone, with the
table's newest files in the page cache.

    python -m benchmarks upserts [--quick]
"""

import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from benchmarks.results import OURS, Row
from dicom_assets.lakehouse.compaction import writer_properties
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

_Way = Callable[[LocalEngine, Table, pa.Table], None]


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Upserts so many keys into tables of so many rows, in each way."""
    turns = 1 if quick else _TURNS
    found = []
    for table in (catalog.silver_imaging_study(), catalog.CURRENT_FILES):
        for rows in _ROWS[:1] if quick else _ROWS:
            engines = {way: LocalEngine(Layout(folder / way)) for way in _WAYS}
            for engine in engines.values():
                _ours(engine, table, _rows(table, range(rows), "first"))
            for keys in _KEYS:
                if keys <= rows:
                    found += _each_way(engines, table, rows, keys, turns)
            for way in _WAYS:
                shutil.rmtree(folder / way)
    return found


def _each_way(
    engines: dict[str, LocalEngine], table: Table, rows: int, keys: int, turns: int
) -> list[Row]:
    """Upserts some of a table's rows by turns in the one way and the other."""
    took: dict[str, list[float]] = {way: [] for way in _WAYS}
    for turn in range(turns):
        for way, seconds in took.items():
            new = _rows(table, range(0, rows, rows // keys)[:keys], f"{turn} {way}")
            begin = time.process_time()
            _WAYS[way](engines[way], table, new)
            seconds.append(time.process_time() - begin)
    case = f"{keys:,} of {rows:,} rows of {table.full_name}"
    return [Row(PART, case, way, median(seconds), "s of CPU") for way, seconds in took.items()]


def _ours(engine: LocalEngine, table: Table, rows: pa.Table) -> None:
    engine.upsert(table, rows, progress=None, ingest_date=_DAY)


def _merge(engine: LocalEngine, table: Table, rows: pa.Table) -> None:
    (key,) = table.key
    day = pa.array([_DAY] * rows.num_rows, table.schema.field(table.partition).type)
    (
        DeltaTable(str(engine.layout.table(table.layer, table.name)))
        .merge(
            rows.append_column(table.partition, day),
            f't."{table.partition}" = DATE \'{_DAY}\' AND t."{key}" = s."{key}"',
            source_alias="s",
            target_alias="t",
            writer_properties=writer_properties(table),
            streamed_exec=False,
        )
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .execute()
    )


_WAYS: dict[str, _Way] = {OURS: _ours, "MERGE of delta-rs": _merge}


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
