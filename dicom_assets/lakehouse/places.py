"""Where keys stand: in which data files of a table each key has rows.

Decided here: that this is remembered in files beside the table, since nothing about a hashed key
says when its row came, and a silver table's files, of hundreds of columns, are dear to open. What
is remembered is which keys each data file holds; data files never change, so it is never wrong,
only behind: keys of files not seen yet are read, those of files no longer in the table count no
more. It may be deleted at any time. What is new is kept beside what is old, and joined with what is
not much larger: neither a look-up nor a new file costs what the whole table holds. Not decided
here: how keys are held and found (`segments`), what a look-up is for (`engine`, `merge`).
"""

import time
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.paths import scratch_of
from dicom_assets.lakehouse.query import opened
from dicom_assets.lakehouse.segments import SUFFIX, UNFINISHED, Segment, sortable
from dicom_assets.lakehouse.tables import Table, files_of

_NAME = "_places"  # what begins with _ is not of the table, by the Delta protocol
_KEPT_AFTER_FILES = 8
_JOINED_BELOW = 4
"""A segment is joined with smaller ones once it is less than so many times as long as they are."""
_MOST_KEYS = 1 << 22
"""Of a joined segment: joining takes memory, some 50 bytes for each."""
_FORGOTTEN_SECONDS = 86_400

Key = str | int


class Places:
    """The keys of one table, by data file."""

    def __init__(self, table: Table, folder: Path) -> None:
        """Is read when first asked.

        Args:
            table: The table; its key is one column.
            folder: Where it lies.
        """
        self._table = table
        (self._key,) = table.key
        self._is_text = pa.types.is_string(table.schema.field(self._key).type)
        self._folder = folder
        self._kept_in = folder / _NAME
        if isinstance(folder, FarPath):  # this machine's own
            self._kept_in = scratch_of(folder) / _NAME
        self._segments: list[Segment] | None = None
        self._seen: tuple[str, int] | None = None

    def of(self, delta: DeltaTable, keys: Collection[Key]) -> list[tuple[Key, str]]:
        """Returns known keys with the data files in which they stand, as of the opened version.

        A key comes as often as there are rows that have it.
        """
        segments = self._as_of(delta)
        listed = list(keys)
        asked = sortable(listed, is_text=self._is_text)
        order = np.argsort(asked)
        found = []
        for segment in segments:
            which, numbers = segment.find(asked[order])
            for place, number in zip(order[which].tolist(), numbers.tolist(), strict=True):
                found.append((listed[place], segment.files[number]))
        return found

    def _as_of(self, delta: DeltaTable) -> list[Segment]:
        version = str(delta.metadata().id), delta.version()
        if self._segments is not None and self._seen == version:
            return self._segments
        files = {file.path for file in files_of(delta, self._table)}
        known = self._loaded() if self._segments is None else self._segments
        told: set[str] = set()
        for segment in known:
            segment.live(files - told)  # two processes may have kept the same file's keys
            told.update(segment.living)
        held = [*known]
        for segment in self._of_new(sorted(files - told)):
            held = self._kept([*held, segment])
        self._segments, self._seen = held, version
        return held

    def _of_new(self, files: list[str]) -> Iterator[Segment]:
        """Yields the keys of data files that are not known yet, some files at a time."""
        keys, count = [], 0
        for end, file in enumerate(files, start=1):
            keys.append(self._keys_of(file))
            count += len(keys[-1])
            if end == len(files) or count >= _MOST_KEYS // 4:
                yield Segment.of_files(keys, files[end - len(keys) : end])
                keys, count = [], 0

    def _keys_of(self, file: str) -> np.ndarray:
        with opened(self._folder / file) as (data, _):
            keys = data.read([self._key], use_threads=False)[self._key].drop_null()
        if self._is_text:
            return sortable(keys.to_pylist(), is_text=True)
        return keys.cast(pa.int64()).to_numpy()

    def _loaded(self) -> list[Segment]:
        """Returns what was kept, the longest first; what is damaged is made again."""
        found = []
        for path in self._kept_in.glob(f"*{SUFFIX}"):
            try:
                found.append(Segment.at(path, is_text=self._is_text))
            except (ValueError, KeyError, OSError):
                path.unlink(missing_ok=True)
        return sorted(found, key=len, reverse=True)

    def _kept(self, held: list[Segment]) -> list[Segment]:
        """Keeps what is in memory only, once it is of many files."""
        new = [segment for segment in held if segment.path is None]
        if sum(len(segment.files) for segment in new) <= _KEPT_AFTER_FILES:
            return held
        joined, rows, rest = new, sum(map(len, new)), []
        for segment in sorted((s for s in held if s.path), key=len):
            lives = segment.living_keys()
            is_small = len(segment) < _JOINED_BELOW * rows or lives < len(segment) / 2
            if is_small and rows + lives <= _MOST_KEYS:
                joined, rows = [*joined, segment], rows + lives
            else:
                rest.append(segment)
        folder = self._kept_in
        folder.mkdir(exist_ok=True)
        for remains in folder.glob(f"*{UNFINISHED}"):
            if time.time() - remains.stat().st_mtime > _FORGOTTEN_SECONDS:
                remains.unlink(missing_ok=True)  # of a writer that was killed
        kept = Segment.joined(joined).keep(folder)
        for segment in joined:
            if segment.path:
                segment.path.unlink(missing_ok=True)
        return [*rest, kept]


def partition_of(file: str) -> str:
    """Returns the value that the folder's name says: <column>=<value>."""
    return file.partition("/")[0].partition("=")[2]
