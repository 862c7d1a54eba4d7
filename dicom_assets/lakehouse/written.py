"""Rows that a worker has put into a file: who commits them handles names, not rows.

Decided here: how such a file is written: as delta-rs writes ours, with statistics of the key, so
that it becomes part of a table as it stands. Not decided here: who writes (`spark_worker`), or when
it is committed (`spark_engine`). A file that no commit names is of no table, like what any killed
writer of Delta leaves; `maintain` removes it.
"""

import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from dicom_assets.lakehouse.tables import Table


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


def write_rows(
    rows: pa.Table,
    table: Table,
    folder: Path,
    *,
    within: str,
    merged: frozenset[str] = frozenset(),
) -> Written:
    """Writes rows to a file of their own, durably.

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
    pq.write_table(
        rows,
        target,
        compression=table.compression,
        row_group_size=table.rows_per_group,
        write_statistics=statistics,  # pyright: ignore[reportArgumentType]
    )
    with target.open("rb") as file:
        os.fsync(file.fileno())
    size = target.stat().st_size
    return Written(path, rows.num_rows, size, _stats(rows, table), merged)


def _stats(rows: pa.Table, table: Table) -> str:
    found = {
        name: pc.call_function("min_max", [rows[name]]).as_py()
        for name in table.key
        if name in rows.column_names and rows.num_rows
    }
    return json.dumps(
        {
            "numRecords": rows.num_rows,
            "minValues": {name: each["min"] for name, each in found.items()},
            "maxValues": {name: each["max"] for name, each in found.items()},
            "nullCount": {name: rows[name].null_count for name in found},
        }
    )
