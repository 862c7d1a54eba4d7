"""How delta-rs writes a table's files anew, and how small ones are joined.

Decided here: compression, row groups, statistics and file sizes. Not decided here: how rows that
are appended are written (`written`), or when files that were replaced are removed from disk
(`maintenance`).
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from deltalake import ColumnProperties, DeltaTable, WriterProperties

from dicom_assets.lakehouse.tables import FILE_BYTES, Table

_SMALL_FILES = 8


def writer_properties(table: Table) -> WriterProperties:
    """Returns how a table's files are written.

    Only keys have statistics, by which files are found; those of hundreds of columns would make
    every file dear to write and to open.
    """
    return WriterProperties(
        compression=table.compression,
        max_row_group_size=table.rows_per_group,
        default_column_properties=ColumnProperties(statistics_enabled="NONE"),
        column_properties=dict.fromkeys(table.key, ColumnProperties(statistics_enabled="CHUNK")),
    )


def compact_small(delta: DeltaTable, table: Table, partition: str, *, folder: Path) -> bool:
    """Joins small files of a partition once there are many: each costs every reader milliseconds.

    Rows become neither new nor changed by it (`LocalEngine.read_new`).

    Returns:
        Whether it did, in a commit of its own.
    """
    # removed files lie there, too, until they are vacuumed
    there = (folder / f"{table.partition}={partition}").glob("*.parquet")
    if sum(1 for _ in there) <= _SMALL_FILES:
        return False
    sizes = file_sizes(delta, table)
    small = sum(value == partition and size < FILE_BYTES // 2 for value, size in sizes)
    if small > _SMALL_FILES:
        compact(delta, table, partition)
    return small > _SMALL_FILES


def file_sizes(delta: DeltaTable, table: Table) -> Iterator[tuple[str, int]]:
    """Yields the text of its partition's value, and its bytes, of each of a table's files."""
    files = pa.table(delta.get_add_actions(flatten=True))
    values = map(str, files[f"partition.{table.partition}"].to_pylist())
    yield from zip(values, files["size_bytes"].to_pylist(), strict=True)


def compact(delta: DeltaTable, table: Table, partition: str | None = None) -> None:
    """Joins small files of a partition, or of every partition."""
    delta.optimize.compact(
        partition_filters=[(table.partition, "=", partition)] if partition else None,
        target_size=FILE_BYTES,
        max_concurrent_tasks=1,
        writer_properties=writer_properties(table),
    )
