"""Segments: the keys of some data files, sorted, so that a look-up costs what it asks for.

Decided here: what a segment looks like (an Arrow file that is mapped, not read), how keys are found
in it, and how several become one. A text counts by its digest: texts may be long, and digests are
all of a length. Not decided here: which segments there are, and which data files are still of the
table (`places`).
"""

import hashlib
import json
import os
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SUFFIX, UNFINISHED = ".arrow", ".tmp"
_DIGEST_BYTES = 16
_DIGEST = np.dtype(f"S{_DIGEST_BYTES}")
_NUMBER = np.dtype(np.int64)
_HEADER = b"dicom_assets.places"


def sortable(keys: Iterable[str | int], *, is_text: bool) -> npt.NDArray[Any]:
    """Returns keys as segments hold them, in the order given.

    Args:
        keys: Keys of one table, none of them null.
        is_text: Whether they are texts.
    """
    if not is_text:
        return np.fromiter(keys, _NUMBER)  # pyright: ignore[reportArgumentType,reportCallIssue]
    digests = (hashlib.blake2b(str(k).encode(), digest_size=_DIGEST_BYTES).digest() for k in keys)
    return np.frombuffer(b"".join(digests), _DIGEST)


@dataclass
class Segment:
    """Keys and, for each, which of some data files holds it.

    Attributes:
        keys: Sorted; a key is there once for each row that has it.
        numbers: For each key the number of its file.
        files: Paths of the data files, by number.
        path: Where it is kept; None while it is in memory only.
    """

    keys: npt.NDArray[Any]
    numbers: npt.NDArray[np.int32]
    files: list[str]
    path: Path | None = None
    _is_living: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        """All files count as files of the table until it is said which ones do."""
        self._is_living = np.ones(len(self.files), np.bool_)

    def __len__(self) -> int:
        """Returns how many keys it holds, also of files that are no longer of the table."""
        return len(self.keys)

    @classmethod
    def of_files(cls, keys: Sequence[npt.NDArray[Any]], files: list[str]) -> Self:
        """Makes a segment of each file's keys, in any order."""
        numbers = np.repeat(np.arange(len(files), dtype=np.int32), [len(each) for each in keys])
        return cls._sorted(np.concatenate(keys), numbers, files)

    @classmethod
    def joined(cls, segments: Sequence[Self]) -> Self:
        """Makes one segment of several, without files that are no longer of the table."""
        keys, numbers, files = [], [], []
        for each in segments:
            renumbered = np.cumsum(each._is_living, dtype=np.int32) - 1 + len(files)
            stays = each._is_living[each.numbers]
            keys.append(each.keys[stays])
            numbers.append(renumbered[each.numbers[stays]])
            files += each.living
        return cls._sorted(np.concatenate(keys), np.concatenate(numbers), files)

    @classmethod
    def _sorted(
        cls, keys: npt.NDArray[Any], numbers: npt.NDArray[np.int32], files: list[str]
    ) -> Self:
        order = np.argsort(keys, kind="stable")  # fast where there are sorted runs
        return cls(keys[order], numbers[order], files)

    @property
    def living(self) -> list[str]:
        """Its files that are of the table."""
        return [f for f, lives in zip(self.files, self._is_living, strict=True) if lives]

    def live(self, files: Collection[str]) -> None:
        """Says which files are of the table; those of a segment may be more, and fewer."""
        self._is_living = np.fromiter((file in files for file in self.files), np.bool_)

    def living_keys(self) -> int:
        """Counts the keys of files that are of the table."""
        return int(np.count_nonzero(self._is_living[self.numbers]))

    def find(self, asked: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
        """Finds keys in files that are of the table.

        Args:
            asked: Keys as `sortable` returns them, sorted: neighbours lie in the same pages.

        Returns:
            For each place found which of the asked keys lies there, and the number of its file.
        """
        begin = np.searchsorted(self.keys, asked, "left")
        some = np.flatnonzero(begin < len(self))
        some = some[self.keys[begin[some]] == asked[some]]
        begin = begin[some]
        counts = np.searchsorted(self.keys, asked[some], "right") - begin
        which = np.repeat(some, counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers = self.numbers[np.repeat(begin, counts) + within]
        lives = self._is_living[numbers]
        return which[lives], numbers[lives]

    def keep(self, folder: Path) -> Self:
        """Writes it into a folder, whole or not at all, and returns it as it lies there."""
        about = {"keys": len(self), "files": self.files}
        schema = _schema(self.keys.dtype).with_metadata({_HEADER: json.dumps(about)})
        keys = pa.Array.from_buffers(schema.field(0).type, len(self), [None, _buffer(self.keys)])
        numbers = pa.array(self.numbers)
        path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
        temporary = path.with_suffix(UNFINISHED)
        with temporary.open("wb") as sink:
            with pa.ipc.new_file(sink, schema) as file:
                file.write_batch(pa.RecordBatch.from_arrays([keys, numbers], schema=schema))
            sink.flush()
            os.fsync(sink.fileno())  # what is there of it is taken for true
        temporary.replace(path)
        return self.at(path, is_text=self.keys.dtype == _DIGEST)

    @classmethod
    def at(cls, path: Path, *, is_text: bool) -> Self:
        """Maps a segment that is kept.

        Raises:
            ValueError: It is damaged, or holds another kind of keys.
            OSError: It is not there, or cannot be read.
        """
        with pa.memory_map(str(path)) as source:
            file = pa.ipc.open_file(source)
            about = json.loads((file.schema.metadata or {}).get(_HEADER, b"{}"))
            kind = _DIGEST if is_text else _NUMBER
            if file.schema != _schema(kind) or file.num_record_batches != 1:
                raise ValueError("not as it is kept")
            batch = file.get_batch(0)
        if batch.num_rows != about.get("keys"):
            raise ValueError("not all keys are there")
        keys = np.frombuffer(batch.column(0).buffers()[1] or b"", kind, len(batch))
        numbers = batch.column(1).to_numpy(zero_copy_only=True)
        return cls(keys, numbers, about["files"], path)


def _schema(keys: np.dtype) -> pa.Schema:
    kind = pa.int64() if keys == _NUMBER else pa.binary(_DIGEST_BYTES)
    return pa.schema([("key", kind), ("file", pa.int32())])


def _buffer(array: npt.NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(array).view(np.uint8))
