"""How delta-rs writes a table's files anew, and how small ones are joined.

Decided here: compression, row groups, statistics and file sizes. Not decided here: how rows that
are appended or upserted are written (`written`), or when files that were replaced are removed from
disk (`maintenance`).
"""

from collections.abc import Sequence
from pathlib import Path

from deltalake import ColumnProperties, DeltaTable, WriterProperties

from dicom_assets.lakehouse.tables import FILE_BYTES, DataFile, Table, files_of

_SMALL_FILES = 8
_MOST_GROUPS = 8
"""Of a joined file, which delta-rs holds uncompressed: like rows take little room on disk."""


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
    files = [file for file in files_of(delta, table) if file.partition == partition]
    file_bytes = _file_bytes(table, files)
    small = sum(file.size < file_bytes // 2 for file in files)
    if small > _SMALL_FILES:
        _compact(delta, table, partition, file_bytes)
    return small > _SMALL_FILES


def compact(delta: DeltaTable, table: Table) -> None:
    """Joins the small files of every partition."""
    partitions: dict[str, list[DataFile]] = {}
    for file in files_of(delta, table):
        partitions.setdefault(file.partition, []).append(file)
    for partition, files in partitions.items():
        if len(files) > 1:
            _compact(delta, table, partition, _file_bytes(table, files))


def _compact(delta: DeltaTable, table: Table, partition: str, file_bytes: int) -> None:
    delta.optimize.compact(
        partition_filters=[(table.partition, "=", partition)],
        target_size=file_bytes,
        max_concurrent_tasks=1,
        writer_properties=writer_properties(table),
    )


def _file_bytes(table: Table, files: Sequence[DataFile]) -> int:
    """Returns how large a joined file is to be, of rows like those of some files."""
    counted = [(file.size, file.rows) for file in files if file.rows]
    if not counted:
        return FILE_BYTES
    size, rows = map(sum, zip(*counted, strict=True))
    return min(FILE_BYTES, size * _MOST_GROUPS * table.rows_per_group // rows)
