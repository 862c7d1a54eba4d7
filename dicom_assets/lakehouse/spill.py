"""Rows that wait on disk until all of them are there.

Decided here: that they lie, as an Arrow stream, in an unnamed file of the lakehouse's file system,
which is gone when it is closed or the process ends. A table's writer pulls rows from a thread of
its own, in which no other table may be written; so whatever must be committed before the rows is
written while they wait here, and not as many rows as there are need be in memory.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa


def spilled(
    batches: Iterable[pa.RecordBatch], *, schema: pa.Schema, folder: Path
) -> pa.RecordBatchReader:
    """Takes all batches and returns a reader of them.

    Args:
        batches: Rows.
        schema: Their schema.
        folder: Where the file lies.
    """
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 it lives as long as the reader
    with pa.ipc.new_stream(file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as to:
        for batch in batches:
            to.write_batch(batch)
    file.seek(0)
    return pa.ipc.open_stream(file)
