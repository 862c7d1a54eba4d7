"""Rows out of a table's data files: which columns, of which rows.

Decided here: that a file is read group by group, and of a group first the columns that a condition
is about, the others only where some row meets it. Not decided here: which files (`reader`,
`merge`).
"""

import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import lru_cache, reduce
from itertools import accumulate, chain, compress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.tables import Table

Where = Mapping[str, Collection[str | int | date]]
"""Column → values, of which a row must have one."""

_BYTES_AT_ONCE, _ROWS_AT_ONCE = 16 << 20, 4096
"""Of a file, of all columns; bytes as they are encoded, where what is repeated counts once."""
_SMALL_FILE = 256 << 10
"""Of most days' files. One thread reads them sooner than several do."""
_MOST_KEPT = 16
"""Of the widest, some 2 MB each."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[pq.ParquetFile, list[str]]]:
    """Opens a data file; gives it, and the names of its columns.

    Small ones are kept: of hundreds of columns, the footer takes longer to read than the rows, a
    file is read by one step after another, and no data file ever changes. Only in the main thread,
    in which steps run: two threads in one such file end the process.
    """
    if threading.current_thread() is threading.main_thread() and (kept := _small(path)):
        yield kept
        return
    with pq.ParquetFile(path.open("rb") if isinstance(path, FarPath) else path) as file:
        yield file, file.schema_arrow.names


@lru_cache(_MOST_KEPT)
def _small(path: Path) -> tuple[pq.ParquetFile, list[str]] | None:
    with path.open("rb") as stream:
        if stream.seek(0, os.SEEK_END) > _SMALL_FILE:
            return None
        stream.seek(0)
        file = pq.ParquetFile(pa.BufferReader(stream.read()))
    return file, file.schema_arrow.names


def rows_of(
    path: Path,
    wanted: pa.Schema,
    stands_in: Mapping[str, str],
    where: Mapping[str, pa.Array],
) -> Iterator[pa.RecordBatch]:
    """Yields rows of a data file.

    Args:
        path: The file.
        wanted: The columns.
        stands_in: The column that it does not hold → the text of its value, since it is partitioned
            by it.
        where: Column that it may hold → values, of which a row must have one.
    """
    with opened(path) as (file, held):
        if not all(name in held for name in where):
            return  # no row has a value there
        known = [name for name in wanted.names if name in held and name not in stands_in]
        for rows, meets in _chosen(file, known, where):
            for name, text in stands_in.items():
                if name in wanted.names:
                    rows = rows.append_column(name, pa.repeat(text, rows.num_rows))  # noqa: PLW2901
            # first, since the views of strings that delta-rs writes cannot be filtered
            found = conform(rows, wanted)
            yield from (found if meets is None else found.filter(meets)).to_batches()


def _chosen(
    file: pq.ParquetFile, columns: list[str], where: Mapping[str, pa.Array]
) -> Iterator[tuple[pa.Table, Any]]:
    """Yields columns of rows, and which of these meet all conditions; None where all do."""
    for groups in _together(file):
        if not where:
            yield from ((rows, None) for rows in _pieces(file, groups, columns))
            continue
        asked = pa.concat_tables(_pieces(file, groups, [*where]))
        each = (one_of(asked[name], values) for name, values in where.items())
        meets = reduce(lambda one, other: pc.call_function("and", [one, other]), each)
        if where.keys() >= set(columns):
            yield asked.select(columns), meets
            continue
        yield from _met(file, groups, columns, meets)


def _met(
    file: pq.ParquetFile, groups: list[int], columns: list[str], meets: pa.ChunkedArray
) -> Iterator[tuple[pa.Table, Any]]:
    """Yields columns of the groups in which a row meets the conditions, and which rows do."""
    counts = [file.metadata.row_group(group).num_rows for group in groups]
    begins = accumulate(counts, initial=0)
    of_groups = [meets.slice(begin, count) for begin, count in zip(begins, counts, strict=False)]
    some = [pc.call_function("any", [each]).as_py() for each in of_groups]
    if not any(some):
        return
    meets = pa.chunked_array(chain.from_iterable(e.chunks for e in compress(of_groups, some)))
    begin = 0
    for rows in _pieces(file, [*compress(groups, some)], columns):
        yield rows, meets.slice(begin, rows.num_rows)
        begin += rows.num_rows


def _together(file: pq.ParquetFile) -> Iterator[list[int]]:
    """Yields groups that are read together: one that is large alone."""
    groups, size, rows = list[int](), 0, 0
    for group in range(file.num_row_groups):
        its = file.metadata.row_group(group)
        size, rows = size + its.total_byte_size, rows + its.num_rows
        if groups and (size > _BYTES_AT_ONCE or rows > _ROWS_AT_ONCE):
            yield groups
            groups, size, rows = [], its.total_byte_size, its.num_rows
        groups.append(group)
    if groups:
        yield groups


def _pieces(file: pq.ParquetFile, groups: list[int], columns: list[str]) -> Iterator[pa.Table]:
    """Yields columns of all rows of some groups, not many at once."""
    held = [file.metadata.row_group(group) for group in groups]
    size, rows = sum(each.total_byte_size for each in held), sum(each.num_rows for each in held)
    if size <= _BYTES_AT_ONCE and rows <= _ROWS_AT_ONCE:
        yield file.read_row_groups(groups, columns, use_threads=size > _SMALL_FILE)
        return
    most = min(rows * _BYTES_AT_ONCE // max(size, 1), _ROWS_AT_ONCE)
    for batch in file.iter_batches(max(1, most), row_groups=groups, columns=columns):
        yield pa.Table.from_batches([batch])


def one_of(column: Any, values: pa.Array) -> Any:
    """Returns for each value of a column whether it is one of some."""
    return pc.call_function("is_in", [column.cast(values.type)], pc.SetLookupOptions(values))


def columns_of(table: Table, columns: Collection[str]) -> pa.Schema:
    """Returns the schema of some columns, in the table's order."""
    asked = set(columns)
    return pa.schema([f for f in table.schema if f.name in asked])


def values_of(rows: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    """Returns the values of some columns, row by row."""
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Casts to the schema; a column that older rows do not have yet is null."""
    held = dict(zip(rows.column_names, rows.columns, strict=True))
    columns = [_cast(held.get(f.name), f.type, len(rows)) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(column: pa.ChunkedArray | None, kind: pa.DataType, rows: int) -> Any:
    if column is None:
        return pa.nulls(rows, kind)
    return column if column.type == kind else column.cast(kind)  # one to the same is not free
