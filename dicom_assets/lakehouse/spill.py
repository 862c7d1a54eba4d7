"""Rows that wait on disk until all of them are there.

Decided here: that they lie, as an Arrow stream, in an unnamed file of the lakehouse's file system,
which is gone when it is closed or the process ends. What must be committed before the rows, and is
known when the last of them is, is written while they wait here, and not as many rows as there are
need be in memory.
"""

import tempfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import IO

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
    return Spill(batches, schema=schema, folder=folder).read()


class Spill:
    """Rows that wait on disk, and can be read more than once.

    Attributes:
        rows: How many there are.
    """

    def __init__(
        self, batches: Iterable[pa.RecordBatch] = (), *, schema: pa.Schema, folder: Path
    ) -> None:
        """Takes all batches; see `spilled`."""
        self.rows, self._is_open = 0, True
        self._schema, self._folder = schema, folder
        for batch in batches:
            self.add(batch)

    @cached_property
    def _file(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._folder)

    @cached_property
    def _writer(self) -> pa.RecordBatchStreamWriter:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        return pa.ipc.new_stream(self._file, self._schema, options=options)

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Takes more rows; none after the first of them was read."""
        self._writer.write(rows)
        self.rows += rows.num_rows

    def read(self) -> pa.RecordBatchReader:
        """Reads them from the first one; one reader at a time."""
        if self._is_open:  # to close it again would write another end where the file stands
            self._writer.close()
            self._is_open = False
        self._file.seek(0)
        return pa.ipc.open_stream(self._file)
