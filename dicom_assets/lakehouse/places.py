"""Where keys stand: in which partitions of a table each key has rows.

Decided here: that this is remembered in a file beside the table, since nothing about a hashed key
says when its row came, and a silver table's files, of hundreds of columns, are dear to open. What
is remembered is which keys each data file holds; files never change, so it is never wrong, only
behind: keys of files not seen yet, or of which not all rows are there, are read, those of files no
longer in the table dropped. It may be deleted at any time. Not decided here: what a lookup is for
(`engine`, `merge`).
"""

from collections.abc import Collection, Mapping
from datetime import date
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from dicom_assets.lakehouse.tables import Table

_NAME = "_places.arrow"  # what begins with _ is not of the table, by the Delta protocol
_KEPT_AFTER_FILES = 8

Key = str | int | date


class Places:
    """The keys of one table, by data file."""

    def __init__(self, table: Table, folder: Path) -> None:
        """Is read when first asked.

        Args:
            table: The table; its key is one column.
            folder: Where it lies.
        """
        (self._key,) = table.key
        self._folder = folder
        key_type = table.schema.field(self._key).type
        self._schema = pa.schema(
            [("key", key_type), ("file", pa.dictionary(pa.int32(), pa.string()))]
        )
        self._held: pa.Table | None = None
        self._files: set[str] = set()
        self._unkept = 0

    def of(self, delta: DeltaTable, keys: Collection[Key]) -> dict[Key, str]:
        """Returns known key → text of its partition's value, as of the opened version."""
        found = self._rows(delta, keys)
        pairs = zip(found["key"].to_pylist(), found["file"].to_pylist(), strict=True)
        return {key: _partition_of(file) for key, file in pairs}

    def partitions(self, delta: DeltaTable, keys: Collection[Key]) -> set[str]:
        """Returns the texts of the partitions' values in which rows have one of the keys."""
        return set(map(_partition_of, self._rows(delta, keys)["file"].unique().to_pylist()))

    def _rows(self, delta: DeltaTable, keys: Collection[Key]) -> pa.Table:
        held = self._as_of(delta)
        return held.filter(_is_one_of(held["key"], pa.array(list(keys), held["key"].type)))

    def _as_of(self, delta: DeltaTable) -> pa.Table:
        actions = pa.table(delta.get_add_actions())
        paths = map(unquote, actions["path"].to_pylist())
        counts = dict(zip(paths, actions["num_records"].to_pylist(), strict=True))
        files = set(counts)
        held = self._load(counts) if self._held is None else self._held
        new, gone = sorted(files - self._files), self._files - files
        if gone:
            place = held["file"].combine_chunks()
            is_kept = pa.array([file in files for file in place.dictionary.to_pylist()], pa.bool_())
            held = held.filter(is_kept.take(place.indices))
        if new or gone:
            held = pa.concat_tables([held, *map(self._keys_of, new)])
            held = held.unify_dictionaries().combine_chunks()
            self._unkept += len(new)
            self._held, self._files = held, files
            if self._unkept > _KEPT_AFTER_FILES:
                self._keep(held)
        return held

    def _keys_of(self, file: str) -> pa.Table:
        read = pq.ParquetFile(self._folder / file).read([self._key], use_threads=False)
        keys = read[self._key].cast(self._schema.field(0).type)
        files = pa.DictionaryArray.from_arrays(
            pa.repeat(pa.scalar(0, pa.int32()), len(keys)), [file]
        )
        return pa.table([keys, files], schema=self._schema)

    def _load(self, counts: Mapping[str, int]) -> pa.Table:
        """Returns what was kept of the files that have so many rows; nothing if it is damaged."""
        held = self._schema.empty_table()
        try:
            with pa.memory_map(str(self._folder / _NAME)) as source:
                kept = pa.ipc.open_file(source).read_all()
        except (pa.ArrowInvalid, OSError):  # not there, or cut short: it is made again
            kept = held
        if kept.schema == self._schema:
            known = kept.group_by("file").aggregate([("key", "count")])
            pairs = zip(known["file"].to_pylist(), known["key_count"].to_pylist(), strict=True)
            whole = pa.array([file for file, count in pairs if counts.get(file) == count])
            held = kept.filter(_is_one_of(kept["file"].cast(pa.string()), whole.cast(pa.string())))
        self._files = set(held["file"].unique().to_pylist())
        return held

    def _keep(self, held: pa.Table) -> None:
        temporary = self._folder / f"{_NAME}.tmp"
        with pa.ipc.new_file(str(temporary), self._schema) as sink:
            sink.write_table(held)
        temporary.replace(self._folder / _NAME)
        self._unkept = 0


def _partition_of(file: str) -> str:
    """Returns the value that the folder's name says: <column>=<value>."""
    return file.partition("/")[0].partition("=")[2]


def _is_one_of(column: pa.ChunkedArray, values: pa.Array) -> pa.ChunkedArray:
    return pc.call_function("is_in", [column], pc.SetLookupOptions(values))
