"""What Spark's workers do: the same functions as the local pool, and the writing of their rows.

Decided here: how rows and results leave a worker: rows as a Parquet file, results pickled into a
file beside, and only the files' names go back. A task that Spark does again, since a worker was
lost, makes files of other names; those of the first try are of no table. Not decided here: what is
done (`dicom_assets.steps`), or committed (`spark_engine`).
"""

import os
import pickle
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from dicom_assets.lakehouse.allocator import keep_memory
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.garbage import keep_what_is_loaded
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.modes import keep_private
from dicom_assets.lakehouse.opened import commit_of
from dicom_assets.lakehouse.reader import New
from dicom_assets.lakehouse.tables import Table
from dicom_assets.lakehouse.told import told_plainly
from dicom_assets.lakehouse.written import NOTHING, Written, write_rows

NAMES = pa.schema([pa.field("name", pa.string())])
_BYTES_PER_FILE = 64 << 20
_SEEN_WITHIN_SECONDS = 90.0
"""Longer than a file system's client keeps names by default: NFS up to 60 s."""
_LOOK_SECONDS = 0.1
_ENGINES: dict[Path, LocalEngine] = {}


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go.

    Attributes:
        root: The lakehouse's root, as the worker sees it.
        table: The table that rows are for; None where there are none.
        ingest_date: When they came.
        staging: Folder of what the driver reads.
        seen: Folders of tables, with the versions that the driver knows.
    """

    root: Path
    table: Table | None
    ingest_date: date
    staging: Path
    seen: Mapping[Path, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the table lies."""
        assert self.table is not None  # noqa: S101 only asked where there are rows
        return Layout(self.root).table(self.table.layer, self.table.name)


def over_tasks(
    batches: Iterable[pa.RecordBatch], work: Callable[[Any], Any], target: Target
) -> Iterator[pa.RecordBatch]:
    """Applies `work` to pickled lists of tasks; rows become files of their table (mapInArrow)."""
    _begin(target)
    with told_plainly():
        for batch in batches:
            for tasks in batch["tasks"].to_pylist():
                results = map(work, pickle.loads(tasks))  # noqa: S301 the driver's own
                yield _handed_over(_appended(results, target), target)


def over_rows(
    batches: Iterable[pa.RecordBatch],
    work: Callable[[pa.Table], Iterator[Any]],
    target: Target,
    new: New,
    most: int | None,
) -> Iterator[pa.RecordBatch]:
    """Applies `work` to all rows of a Spark partition, some at a time (mapInArrow)."""
    _begin(target)
    with told_plainly():
        rows = list(_cast(batches, new.schema))
        if rows:
            table = pa.Table.from_batches(rows, new.schema)
            results = (each for part in _apart(table, new.by, most) for each in work(part))
            yield _handed_over(_upserted(results, target), target)


def prepared(
    batches: Iterable[pa.RecordBatch],
    prepare: Callable[[pa.RecordBatch], pa.RecordBatch],
    columns: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    """Makes rows smaller before they are sent to the worker of their key (mapInArrow)."""
    with told_plainly():
        for batch in _cast(batches, columns):
            yield prepare(batch)


def stage(rows: pa.Table, target: Target, engine: LocalEngine) -> Written:
    """Writes rows to be upserted.

    Where no key is known the file can be of the table as it stands. Else each row says in which
    partition it stands or comes to stand, and the file is staged, to be merged.
    """
    table = target.table
    assert table is not None  # noqa: S101 where there are rows there is a table
    (key,) = table.key
    keys = rows[key].to_pylist()
    places = engine.places(table, keys)
    new = table.partition_of(target.ingest_date)
    if not places:
        return _durable(rows, table, target.folder, within=f"{table.partition}={new}")
    column = table.schema.field(table.partition)
    standing = pa.array([places.get(each, new) for each in keys], pa.string()).cast(column.type)
    return _durable(
        rows.append_column(column, standing),
        table,
        target.staging.parent,
        within=f"{target.staging.name}-rows",  # it is there until it is merged
        merged=frozenset(places.values()),
    )


def _durable(rows: pa.Table, table: Table, folder: Path, **choices: Any) -> Written:
    """Writes rows as `write_rows` does, so that they stay: the driver cannot see to that."""
    written = write_rows(rows, table, folder, **choices)
    with (folder / written.path).open("rb") as file:
        os.fsync(file.fileno())
    return written


def results_of(path: Path) -> Iterator[Any]:
    """Yields the results that a worker has left in a file."""
    with path.open("rb") as file:
        while True:
            try:
                yield pickle.load(file)  # noqa: S301 our own worker's
            except EOFError:
                return


def _begin(target: Target) -> None:
    """Waits until this worker sees what the driver sees: a network file system may lag behind."""
    keep_private()
    keep_memory()
    keep_what_is_loaded()
    until = time.monotonic() + _SEEN_WITHIN_SECONDS
    for folder, version in target.seen.items():
        while not commit_of(folder, version).is_file():
            if time.monotonic() > until:
                raise PlainError(
                    f"a worker does not see version {version} of {folder}, which the driver does."
                    " Mount the lakehouse under the same path on all machines, with names kept no"
                    f" longer than {_SEEN_WITHIN_SECONDS:.0f} s, then run the date again"
                )
            time.sleep(_LOOK_SECONDS)


def _handed_over(results: Iterable[Any], target: Target) -> pa.RecordBatch:
    path = target.staging / f"{uuid.uuid4()}.results"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for each in results:
            pickle.dump(each, file)
    return pa.RecordBatch.from_pydict({"name": [path.name]}, schema=NAMES)


def _appended(results: Iterable[Any], target: Target) -> Iterator[Any]:
    """Yields results with their rows in files, those of many in one."""
    table, waiting, size = target.table, [], 0
    assert table is not None  # noqa: S101 tasks make rows
    within = f"{table.partition}={target.ingest_date}"

    def written() -> Iterator[Any]:
        rows = pa.Table.from_batches([each.rows for each in waiting])
        file = NOTHING
        if rows.num_rows:
            file = _durable(
                rows.drop_columns([table.partition]), table, target.folder, within=within
            )
        *others, last = waiting
        for each in others:
            yield _with_rows(each, NOTHING)
        yield _with_rows(last, file)

    for result in results:
        waiting.append(result)
        size += result.rows.nbytes
        if size >= _BYTES_PER_FILE:
            yield from written()
            waiting, size = [], 0
    if waiting:
        yield from written()


def _upserted(results: Iterable[Any], target: Target) -> Iterator[Any]:
    """Yields results with their rows in files, where they have some."""
    if target.table is None:
        yield from results
        return
    engine = _ENGINES.setdefault(target.root, LocalEngine(Layout(target.root)))
    for each in results:
        has_rows = each.rows.num_rows
        yield _with_rows(each, stage(each.rows, target, engine) if has_rows else NOTHING)


def _with_rows(result: Any, rows: Written) -> Any:
    if isinstance(result, tuple):  # a named one
        return result._replace(rows=rows)  # pyright: ignore[reportAttributeAccessIssue]
    return replace(result, rows=rows)


def _apart(rows: pa.Table, by: Sequence[str], most: int | None) -> Iterator[pa.Table]:
    """Cuts rows where the key changes, once there are enough."""
    if most is None or rows.num_rows <= most:
        yield rows
        return
    ordered = rows.sort_by([(name, "ascending") for name in by])
    keys = list(zip(*(ordered[name].to_pylist() for name in by), strict=True))
    start = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or (end - start >= most and keys[end] != keys[end - 1]):
            yield ordered.slice(start, end - start)
            start = end


def _cast(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Gives Spark's batches the types that ours have (time zones, nullability)."""
    for batch in batches:
        columns = [batch[each.name].cast(each.type) for each in schema]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
