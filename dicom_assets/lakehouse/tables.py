"""Delta tables: what one is, how it is made, and how it is opened.

Decided here: a table's properties, its partitioning, and that an opened table is kept and brought
up to date, since reading the log of thousands of files from its last checkpoint costs more than
most steps do. Who holds the lakehouse's lock mends it first, and looks only once for what others
have written, since nobody can meanwhile: in an object store each look is a request or two. Not
decided here: which tables there are (`dicom_assets.steps.catalog`) and how they are read and
written (`engine`).
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable, Schema

from dicom_assets.lakehouse.durable import sync
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.lock import holding
from dicom_assets.lakehouse.mend import make_durable, mend
from dicom_assets.lakehouse.opened import OpenedTable, commit_of
from dicom_assets.lakehouse.schemas import INGEST_MONTH

FILE_BYTES = 4 << 20
"""Of a data file, about: rows are large in memory, and all of a file are read."""
_PROPERTIES = {
    "delta.logRetentionDuration": "interval 365 days",
    # opening a table reads the log behind its last checkpoint
    "delta.checkpointInterval": "10",
}


_HIDING = {"columnMapping", "deletionVectors"}
"""Features (Delta protocol) by which a data file's rows, or names, are not those of its table."""
_OLD_FEATURES = {2: ("columnMapping",)}
"""What a reader version stood for before features had names."""


class TableError(PlainError):
    """A table cannot be used as it is. The message says what to do."""


@dataclass(frozen=True)
class Table:
    """One Delta table.

    Attributes:
        layer: `bronze`, `silver` or `gold`.
        name: The folder's name.
        schema: Arrow schema with column descriptions.
        description: One sentence for the catalogue.
        key: Columns that identify a row.
        partition: The column it is partitioned by.
        rows_per_group: Rows that are compressed, and read, together.
        compression: Of its files.
        is_looked_up: Whether rows are looked up by key, which is one column then.
    """

    layer: str
    name: str
    schema: pa.Schema
    description: str
    key: tuple[str, ...]
    partition: str
    rows_per_group: int = 16_384
    compression: Literal["ZSTD", "SNAPPY"] = "ZSTD"
    is_looked_up: bool = False

    @property
    def full_name(self) -> str:
        """`layer.name`, as a catalogue shows it."""
        return f"{self.layer}.{self.name}"

    def __getstate__(self) -> dict[str, Any]:
        """Leaves behind what is only remembered: delta-rs's schemas do not travel to workers."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @cached_property
    def delta_schema(self) -> Schema:
        """Its columns as Delta has them."""
        return Schema.from_arrow(self.schema)

    @cached_property
    def delta_types(self) -> dict[str, Any]:
        """Its columns' types as Delta has them."""
        return {each.name: each.type for each in self.delta_schema.fields}

    @property
    def upserted(self) -> pa.Schema:
        """Its columns but for its partition, which an upsert adds."""
        return pa.schema([each for each in self.schema if each.name != self.partition])

    def partition_of(self, ingest_date: date) -> str:
        """Returns the value, as text, of the partition of rows that first came on a date."""
        return f"{ingest_date:%Y-%m}" if self.partition == INGEST_MONTH else f"{ingest_date}"

    def values_of(self, partitions: Iterable[str]) -> list[str | date]:
        """Returns partitions' values from their texts."""
        texts = pa.array(sorted(set(partitions)), pa.string())
        return texts.cast(self.schema.field(self.partition).type).to_pylist()


class DataFile(NamedTuple):
    """A table's file: path within its folder, partition as text, bytes, and rows, where known."""

    path: str
    partition: str
    size: int
    rows: int | None


def files_of(
    delta: DeltaTable, table: Table, where: Mapping[str, Collection[Any]] | None = None
) -> list[DataFile]:
    """Returns an opened table's files, from its log alone.

    Args:
        delta: The table, opened.
        table: What it is.
        where: Column → values, of which a row must have one: only files that may hold such rows, by
            their partition and by the statistics of keys.
    """
    files, where = pa.table(delta.get_add_actions(flatten=True)), where or {}
    asked = {name: where[name] for name in (table.partition, *table.key) if name in where}
    for name, some in asked.items():
        if name == table.partition:
            extremes = [f"partition.{name}"] * 2
        else:
            extremes = [f"min.{name}", f"max.{name}"]
        if {*extremes} <= {*files.column_names}:
            values = sorted(some)
            spans = zip(*(files[each].to_pylist() for each in extremes), strict=True)
            files = files.filter(pa.array([_has_one(values, *span) for span in spans], pa.bool_()))
    names = "path", f"partition.{table.partition}", "size_bytes", "num_records"
    columns = (files[name].to_pylist() for name in names)
    return [
        DataFile(unquote(path), str(value), *rest)
        for path, value, *rest in zip(*columns, strict=True)
    ]


def _has_one(values: Sequence[Any], least: Any, most: Any) -> bool:
    """Says whether one of some sorted values may lie between two; extremes may be unknown."""
    if least is None or most is None:
        return True
    at = bisect_left(values, least)
    return at < len(values) and values[at] <= most


@dataclass
class Tables:
    """The tables of one lakehouse, each opened once.

    Attributes:
        layout: Where they lie.
    """

    layout: Layout
    _opened: dict[Path, tuple[int | None, DeltaTable]] = field(default_factory=dict)
    _mended: set[Path] = field(default_factory=set)
    _looked: dict[Path, int | None] = field(default_factory=dict)

    def open(self, table: Table) -> DeltaTable | None:
        """Opens a table at its newest version, or returns None where it does not exist yet.

        Raises:
            TableError: It is partitioned otherwise than it should be, or holds something else.
        """
        path, held = self.layout.table(table.layer, table.name), holding(self.layout.root)
        if held is None or self._looked.get(path) != held:
            self._look(table, path, is_held=held is not None)
            self._looked[path] = held
        known = self._opened.get(path)
        return known and known[1]

    def seen(self) -> dict[Path, int]:
        """Returns the folders of opened tables with the versions they are opened at."""
        versions = {path: delta.version() for path, (_, delta) in self._opened.items()}
        # one that has been removed since it was opened is seen by nobody
        return {path: n for path, n in versions.items() if commit_of(path, n).is_file()}

    def written(self, table: Table) -> None:
        """Says that a table has been written to: it is looked at again when it is next opened."""
        self._looked.pop(self.layout.table(table.layer, table.name), None)

    def make_durable(self, table: Table) -> DeltaTable:
        """Makes durable what has been committed to a table, and returns it at that version."""
        delta = self.create(table)
        make_durable(self.layout.table(table.layer, table.name), delta.version())
        return delta

    def _look(self, table: Table, path: Path, *, is_held: bool) -> None:
        """Opens a table, or brings it up to date."""
        if is_held and path not in self._mended:
            if not self._mended:  # what a killed run has left must be durable before it counts
                sync([self.layout.root])
            if not isinstance(path, FarPath):
                mend(path)
                self._opened.pop(path, None)  # it may have known a commit that was taken back
            self._mended.add(path)
        made = _made(path)
        known = self._opened.get(path)
        if known and known[0] == made and (made is not None or (path / "_delta_log").exists()):
            if commit_of(path, known[1].version() + 1).is_file():
                known[1].update_incremental()
                _check(table, known[1], path)
            return
        self._opened.pop(path, None)
        if not isinstance(path, FarPath) and not (path / "_delta_log").exists():
            return  # seen much sooner than by delta-rs
        options = storage_options(path)
        if DeltaTable.is_deltatable(str(path), options):
            self._keep(table, path, OpenedTable(str(path), options))

    def _keep(self, table: Table, path: Path, delta: DeltaTable) -> None:
        _check(table, delta, path)
        self._opened[path] = _made(path), delta

    def create(self, table: Table) -> DeltaTable:
        """Opens a table at its newest version, to be written to; makes it where there is none."""
        self.written(table)
        delta = self.open(table)
        if delta is not None:
            return delta
        path = self.layout.table(table.layer, table.name)
        path.mkdir(parents=True, exist_ok=True)
        delta = OpenedTable.create(
            str(path),
            schema=table.delta_schema,
            mode="ignore",
            storage_options=storage_options(path),
            partition_by=[table.partition],
            name=table.name,
            description=table.description,
            configuration=_PROPERTIES
            | {
                # of a file with a row that changes, all rows are written anew
                "delta.targetFileSize": str(FILE_BYTES),
                "delta.dataSkippingStatsColumns": ",".join(table.key),
                # bronze is read by what is new in it; elsewhere, files are written anew without one
                "delta.enableChangeDataFeed": str(table.layer == "bronze").lower(),
            },
        )
        make_durable(path, delta.version())
        self._keep(table, path, delta)
        return delta


def storage_options(path: Path) -> dict[str, str] | None:
    """Returns what delta-rs needs to reach a table, beside the environment."""
    return path.options if isinstance(path, FarPath) else None


def _made(path: Path) -> int | None:
    """Tells a table from one made anew in its place; None where its first commit is cleaned up."""
    try:
        return commit_of(path, 0).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _check(table: Table, delta: DeltaTable, path: Path) -> None:
    """Checks that a table is what rows are written for; it may lack columns."""
    protocol = delta.protocol()
    features = {
        *(protocol.reader_features or ()),
        *_OLD_FEATURES.get(protocol.min_reader_version, ()),
    }
    if hidden := sorted(features & _HIDING):
        raise TableError(
            f"{path} has the feature {hidden[0]}: another engine turned it on, and its data files"
            " no longer say what it holds. Drop the feature there (ALTER TABLE … DROP FEATURE …),"
            " then run the date again"
        )
    partition, wrong = delta.metadata().partition_columns, ""
    types = table.delta_types
    others = [e.name for e in delta.schema().fields if e.type != types.get(e.name, e.type)]
    if partition != [table.partition]:
        wrong = f"is partitioned by {', '.join(partition) or 'nothing'}, not by {table.partition}"
    elif others:
        wrong = f"holds something else in column {others[0]}"
    if wrong:
        raise TableError(
            f"{path} {wrong}: another version made it. Move the folder"
            f" {table.layer}/Tables/{table.name} away and run every ingest date again; the table is"
            " made anew from the layer before it"
        )
