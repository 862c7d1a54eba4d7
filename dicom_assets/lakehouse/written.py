"""Rows in files that become part of a table: who commits them handles names, not rows.

Decided here: how rows are written, appended or in place of others: with statistics of the key, and
no more of them in memory than a file holds, where delta-rs keeps several copies of up to 8192 rows,
which may be as many whole studies. Not decided here: which rows stay (`merge`), or who writes
(`engine`, `spark_worker`). A file that no commit names is of no table, like what any killed writer
of Delta leaves; `maintain` removes it.
"""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from dicom_assets.lakehouse.tables import DataFile, Table

_BYTES_PER_FILE = 32 << 20
"""In memory; on disk about a tenth."""
_MOST_OF_A_KEY = 1024  # characters


@dataclass(frozen=True, slots=True)
class Written:
    """Rows in a file.

    Attributes:
        path: The file, relative to the table's folder where it can be of the table as it stands,
            else to the staging area.
        num_rows: How many rows.
        size: Bytes of the file.
        stats: Statistics of the key, as the Delta protocol has them.
        merged: Partitions in which rows of the same keys stand already.
        nbytes: What it takes here in memory.
    """

    path: str
    num_rows: int
    size: int
    stats: str
    merged: frozenset[str] = frozenset()
    nbytes: ClassVar[int] = 0

    def added_to(self, table: Table, partition: str) -> AddAction:
        """Returns what a commit says to make the file one of a partition."""
        values = {table.partition: partition}
        return AddAction(
            self.path, self.size, values, time.time_ns() // 1_000_000, True, self.stats
        )


NOTHING = Written("", 0, 0, "{}")
"""No rows, in no file."""


def append(
    rows: pa.Table | pa.RecordBatchReader,
    delta: DeltaTable,
    table: Table,
    folder: Path,
    partition: str,
    said: CommitProperties,
) -> None:
    """Appends rows to a partition in one commit.

    Args:
        rows: Rows with the table's columns, or but for its partition.
        delta: The table, opened at the newest version.
        table: What it is.
        folder: Where it lies.
        partition: The text of the partition's value.
        said: What the commit says.

    Raises:
        deltalake.exceptions.CommitFailedError: Another writer committed meanwhile.
    """
    replace([], {partition: batches_of(rows)}, delta, table, folder, said)


def replace(
    gone: Sequence[DataFile],
    rows: Mapping[str, Iterable[pa.RecordBatch]],
    delta: DeltaTable,
    table: Table,
    folder: Path,
    said: CommitProperties,
) -> None:
    """Replaces files by such with other rows in one commit.

    Args:
        gone: The files.
        rows: The text of a partition's value → rows to write there, with the table's columns, or
            but for its partition.
        delta: The table, opened at the newest version.
        table: What it is.
        folder: Where it lies.
        said: What the commit says.

    Raises:
        deltalake.exceptions.CommitFailedError: Another writer committed meanwhile.
    """
    actions: list[AddAction | RemoveAction] = []
    try:
        for partition, batches in rows.items():
            for some in _files_of(batches, table):
                file = write_rows(some, table, folder, within=f"{table.partition}={partition}")
                actions.append(file.added_to(table, partition))
    except BaseException:
        for action in actions:
            (folder / action.path).unlink()
        raise
    commit([*actions, *(_removed(file, table) for file in gone)], delta, table, said)


def _removed(file: DataFile, table: Table) -> RemoveAction:
    values: dict[str, str | None] = {table.partition: file.partition}
    return RemoveAction(file.path, True, time.time_ns() // 1_000_000, file.size, values)


def batches_of(rows: pa.Table | pa.RecordBatchReader) -> Iterable[pa.RecordBatch]:
    """Returns rows in batches, none larger than a file."""
    if isinstance(rows, pa.RecordBatchReader):
        return rows
    most = rows.num_rows * _BYTES_PER_FILE // max(rows.nbytes, 1)
    return rows.to_batches(max_chunksize=max(1, most))


def _files_of(rows: Iterable[pa.RecordBatch], table: Table) -> Iterator[pa.Table]:
    """Yields rows for a file each, without their partition, which a commit tells."""
    waiting, size = list[pa.RecordBatch](), 0
    for batch in rows:
        columns = [name for name in batch.schema.names if name != table.partition]
        waiting.append(batch.select(columns))
        size += batch.nbytes
        if size >= _BYTES_PER_FILE:
            yield pa.Table.from_batches(waiting)
            waiting, size = [], 0
    if any(batch.num_rows for batch in waiting):
        yield pa.Table.from_batches(waiting)


def commit(
    actions: Sequence[AddAction | RemoveAction],
    delta: DeltaTable,
    table: Table,
    said: CommitProperties,
) -> None:
    """Commits which files become part of a table and which no longer are."""
    delta.create_write_transaction(
        [*actions],
        "append",
        delta.schema(),
        partition_by=[table.partition],
        commit_properties=said,
    )


def write_rows(
    rows: pa.Table,
    table: Table,
    folder: Path,
    *,
    within: str,
    merged: frozenset[str] = frozenset(),
) -> Written:
    """Writes rows to a file of their own; it is not made durable.

    Args:
        rows: Rows with the table's columns, or but for its partition.
        table: What they are of.
        folder: What `path` will be relative to.
        within: The folder below it.
        merged: Partitions in which rows of the same keys stand.
    """
    path = f"{within}/part-{uuid.uuid4()}.{table.compression.lower()}.parquet"
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    statistics = [name for name in table.key if name in rows.column_names]
    sink = pa.BufferOutputStream()  # a file of ours, Arrow would write in hundreds of pieces
    pq.write_table(
        rows,
        sink,
        compression=table.compression,
        row_group_size=table.rows_per_group,
        write_statistics=statistics,  # pyright: ignore[reportArgumentType]
    )
    content = sink.getvalue()
    try:
        target.write_bytes(content)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Written(path, rows.num_rows, content.size, _stats(rows, table), merged)


def _stats(rows: pa.Table, table: Table) -> str:
    keys = [name for name in table.key if name in rows.column_names]
    found = {name: pc.call_function("min_max", [rows[name]]).as_py() for name in keys}
    told = {name: each for name, each in found.items() if all(map(_is_told, each.values()))}
    return json.dumps(
        {
            "numRecords": rows.num_rows,
            "minValues": {name: each["min"] for name, each in told.items()},
            "maxValues": {name: each["max"] for name, each in told.items()},
            "nullCount": {name: rows[name].null_count for name in keys},
        }
    )


def _is_told(extreme: str | int | None) -> bool:
    """Says whether statistics have a key: ids that others chose may be of any length."""
    return extreme is not None and len(f"{extreme}") <= _MOST_OF_A_KEY
