"""Rows out of a Delta table: which columns, of which rows.

Decided here: how a condition becomes SQL and that rows come back in the table's own types. Not
decided here: which version is read (`engine`).
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

from dicom_assets.lakehouse.tables import Table

Where = Mapping[str, Collection[str | int | date]]
"""Column → values, of which a row must have one."""

_SESSION = {
    # wide columns are decoded of the rows only that the condition leaves
    "datafusion.execution.parquet.pushdown_filters": "true",
}


def select(delta: DeltaTable, schema: pa.Schema, where: Where) -> pa.Table:
    """Returns the columns of a schema of the rows that meet a condition."""
    return pa.Table.from_batches(stream(delta, schema, where), schema=schema)


def stream(delta: DeltaTable, schema: pa.Schema, where: Where) -> Iterator[pa.RecordBatch]:
    """Yields the same, not all of it at once."""
    if not all(where.values()) and where:
        return
    present = {f.name for f in delta.schema().fields}
    conditions = [f"{quoted(name)} IN ({_in(values)})" for name, values in where.items()]
    # delta-rs' pyarrow datasets cannot compare strings with file statistics, DataFusion can
    query = (
        f"SELECT {', '.join(quoted(n) for n in schema.names if n in present)} FROM source"  # noqa: S608
        f" WHERE {' AND '.join(conditions) or 'true'}"
    )
    found = QueryBuilder(_SESSION).register("source", delta).execute(query)
    for batch in pa.RecordBatchReader.from_stream(found):
        yield from conform(pa.Table.from_batches([batch]), schema).to_batches()


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


def _in(values: Collection[str | int | date]) -> str:
    return ", ".join(map(literal, values))


def literal(value: str | int | date) -> str:
    """Returns a value as SQL."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, date):
        return f"DATE '{value}'"
    return "'" + value.replace("'", "''") + "'"
