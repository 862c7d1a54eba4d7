"""Rows out of a Delta table: which columns, of which rows.

Decided here: how a condition becomes SQL and that rows come back in the table's own types. Not
decided here: which version is read (`reader`).
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, QueryBuilder

from dicom_assets.lakehouse.tables import Table

Where = Mapping[str, Collection[str | int | date]]
"""Column → values, of which a row must have one."""

_MOST_LITERALS = 4096
"""Values in SQL text: each takes DataFusion some 5 KB of memory to read."""

_SESSION = {
    # wide columns are decoded of the rows only that the condition leaves
    "datafusion.execution.parquet.pushdown_filters": "true",
}


def stream(delta: DeltaTable, schema: pa.Schema, where: Where) -> Iterator[pa.RecordBatch]:
    """Yields the columns of a schema of the rows that meet a condition, not all of it at once."""
    if not all(where.values()) and where:
        return
    present = {f.name for f in delta.schema().fields}
    many = {name: pa.array(v) for name, v in where.items() if len(v) > _MOST_LITERALS}
    conditions = [f"{quoted(n)} IN ({listed(v)})" for n, v in where.items() if n not in many]
    more = [pa.field(name, v.type) for name, v in many.items() if name not in schema.names]
    wider = pa.schema([*schema, *more])
    names = [name for name in wider.names if name in present]
    # delta-rs' pyarrow datasets cannot compare strings with file statistics, DataFusion can
    query = (
        f"SELECT {', '.join(map(quoted, names))} FROM source"  # noqa: S608
        f" WHERE {' AND '.join(conditions) or 'true'}"
    )
    found = QueryBuilder(_SESSION).register("source", delta).execute(query)
    for batch in pa.RecordBatchReader.from_stream(found):
        rows = conform(pa.Table.from_batches([batch]), wider)
        for name, values in many.items():
            rows = rows.filter(pc.call_function("is_in", [rows[name]], pc.SetLookupOptions(values)))
        yield from rows.select(schema.names).to_batches()


def quoted(name: str) -> str:
    """Returns a column as SQL: quoted, since DataFusion folds bare names to lower case."""
    return '"' + name.replace('"', '""') + '"'


def columns_of(table: Table, columns: Collection[str]) -> pa.Schema:
    """Returns the schema of some columns, in the table's order."""
    return pa.schema([f for f in table.schema if f.name in set(columns)])


def values_of(rows: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    """Returns the values of some columns, row by row."""
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Casts to the schema; a column that older rows do not have yet is null."""
    columns = [
        rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(len(rows), f.type)
        for f in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def listed(values: Collection[str | int | date]) -> str:
    """Returns values as SQL lists them behind IN."""
    return ", ".join(map(literal, values))


def literal(value: str | int | date) -> str:
    """Returns a value as SQL."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, date):
        return f"DATE '{value}'"
    return "'" + value.replace("'", "''") + "'"
