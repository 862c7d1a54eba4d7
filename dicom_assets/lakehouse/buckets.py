"""Rows shared out by key over files on disk, to be looked at one share at a time.

Decided here: that rows of one key are in one share, and that the files are unnamed: they are gone
when closed or when the process ends. Not decided here: what is looked for (`steps.verify`).
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa

_ROWS_AT_A_TIME = 250_000


class Buckets:
    """Rows of one schema, shared out by a key; rows of two with the same count belong together."""

    def __init__(self, schema: pa.Schema, key: Sequence[str], *, count: int, folder: Path) -> None:
        """Opens a file for each share.

        Args:
            schema: The rows' schema.
            key: Columns, text, whose values decide where a row goes.
            count: How many shares.
            folder: On whose file system the files are.
        """
        self._schema, self._key = schema, list(key)
        self._files = [tempfile.TemporaryFile(dir=folder) for _ in range(count)]  # noqa: SIM115
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._sinks = [pa.ipc.new_stream(file, schema, options=options) for file in self._files]

    @staticmethod
    def enough_for(rows: int) -> int:
        """Returns how many shares keep each small."""
        return rows // _ROWS_AT_A_TIME + 1

    def add(self, rows: pa.Table) -> None:
        """Shares rows out."""
        count = len(self._sinks)
        if count == 1:
            self._sinks[0].write_table(rows)
            return
        keys = zip(*(rows[name].to_pylist() for name in self._key), strict=True)
        share = np.array([crc32("|".join(map(str, key)).encode()) % count for key in keys])
        order = np.argsort(share, kind="stable")
        bounds = np.searchsorted(share[order], np.arange(count + 1))
        for number, sink in enumerate(self._sinks):
            chosen = order[bounds[number] : bounds[number + 1]]
            if len(chosen):
                sink.write_table(rows.take(pa.array(chosen)))

    def __iter__(self) -> Iterator[pa.Table]:
        """Yields share after share; each is gone once the next one is asked for."""
        for sink, file in zip(self._sinks, self._files, strict=True):
            sink.close()
            file.seek(0)
            with pa.ipc.open_stream(file) as stream:
                yield stream.read_all()
            file.close()
