"""Reading tables: as they stand, and what has come since a version.

Decided here: which files are read: of new rows those of the commits that appended to a partition;
of rows that are looked up by key those that hold such keys. Not decided here: how files are read
(`query`), how rows are written (`engine`), what is read (`dicom_assets.steps`).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.log import appends, count_added, inserted, span
from dicom_assets.lakehouse.places import Key, Places, partition_of
from dicom_assets.lakehouse.query import Where, columns_of, rows_of
from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.lakehouse.tables import Table, Tables, files_of

_MOST_ASKED = 10_000
"""Keys of a question that is remembered with its answer."""
_MOST_REMEMBERED = 16 << 20
"""Bytes of an answer that is kept for whoever asks the same."""


@dataclass(frozen=True)
class New:
    """New rows of a table, to be worked on.

    Attributes:
        table: The source; partitioned.
        columns: The columns to read.
        since: Version already read; None for the beginning.
        until: Last version to read.
        ingest_date: The partition.
        by: Columns whose values rows must share for one to be worked on beside the other.
        schema: Of the rows as they are worked on.
        prepare: Makes such rows of those that are read, batch by batch.
    """

    table: Table
    columns: Sequence[str]
    since: int | None
    until: int
    ingest_date: date
    by: Sequence[str]
    schema: pa.Schema
    prepare: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None


@dataclass
class Reader:
    """Reads the tables of a lakehouse.

    Attributes:
        layout: Where the tables lie.
    """

    layout: Layout

    @cached_property
    def _tables(self) -> Tables:
        return Tables(self.layout)

    @cached_property
    def _places_by_table(self) -> dict[str, Places]:
        return {}

    @cached_property
    def _last_look_ups(self) -> dict[str, tuple[tuple[Any, ...], list[pa.RecordBatch]]]:
        return {}

    def _folder(self, table: Table) -> Path:
        return self.layout.table(table.layer, table.name)

    def _places(self, table: Table) -> Places:
        found = Places(table, self._folder(table))
        return self._places_by_table.setdefault(table.full_name, found)

    def open(self, table: Table) -> DeltaTable | None:
        """Opens a table, or returns None where it does not exist yet."""
        return self._tables.open(table)

    def version(self, table: Table) -> int:
        """Returns the table's version; -1 where it does not exist yet."""
        delta = self.open(table)
        return -1 if delta is None else delta.version()

    def row_count(self, table: Table) -> int:
        """Returns the table's rows, from file statistics alone."""
        delta = self.open(table)
        return 0 if delta is None else delta.count()

    def app_id(self, step: str, source: Table, ingest_date: date) -> str:
        """Returns the application id under which a step says how far it has read a source.

        A source that is made anew counts its versions from the beginning: it has another id.
        """
        return f"{step}/{self.identity(source)}/{ingest_date}"

    def identity(self, table: Table) -> str:
        """Returns the id a table was given when it was made; its name where it does not exist."""
        delta = self.open(table)
        return str(delta.metadata().id) if delta else table.full_name

    def progress(self, table: Table, app_id: str) -> int | None:
        """Returns the version committed to `table` under an application id."""
        delta = self.open(table)
        return None if delta is None else delta.transaction_version(app_id)

    def places(self, table: Table, keys: Collection[Key]) -> dict[Key, str]:
        """Returns known key → text of its partition's value."""
        return {key: partition_of(file) for key, file in self.found(table, keys)}

    def found(self, table: Table, keys: Collection[Key]) -> list[tuple[Key, str]]:
        """Returns known keys, each with the data file in which it stands."""
        delta = self.open(table)
        return self._places(table).of(delta, keys) if delta else []

    def rows_by_date(self, table: Table) -> dict[str, int]:
        """Returns ingest date (yyyy-mm-dd) → rows, from file statistics alone."""
        delta = self.open(table)
        found: dict[str, int] = {}
        if delta is not None:
            for file in files_of(delta, table):
                # where a count is not known, none is made up
                rows: Any = file.rows
                found[file.partition] = found.get(file.partition, 0) + rows
        return found

    def partitions(self, table: Table) -> list[str | date]:
        """Returns the values of a table's partitions that hold files, in order."""
        delta = self.open(table)
        if delta is None:
            return []
        return table.values_of(file.partition for file in files_of(delta, table))

    def read(
        self,
        table: Table,
        columns: Sequence[str],
        *,
        ingest_date: date | None = None,
        where: Where | None = None,
    ) -> pa.Table:
        """Reads columns of a table as it stands; no rows where it does not exist yet.

        Args:
            table: The table.
            columns: The columns to read.
            ingest_date: Only this partition.
            where: Column → values, of which a row must have one.
        """
        conditions = dict(where or {})
        if ingest_date:
            conditions[INGEST_DATE] = [ingest_date]
        batches = self.stream(table, columns, where=conditions)
        return pa.Table.from_batches(batches, columns_of(table, columns))

    def stream(
        self, table: Table, columns: Sequence[str], *, where: Where
    ) -> Iterator[pa.RecordBatch]:
        """Yields what `read` returns, for what is larger than memory."""
        delta, wanted = self.open(table), columns_of(table, columns)
        if delta is None or not all(where.values()):
            return
        if table.is_looked_up and table.key[0] in where and table.partition not in where:
            yield from self._look_up(delta, table, wanted, where)
            return
        asked = _arrays(table, where)
        for file in files_of(delta, table, where):
            yield from self._of_file(table, file.path, wanted, asked)

    def _look_up(
        self, delta: DeltaTable, table: Table, wanted: pa.Schema, where: Where
    ) -> Iterator[pa.RecordBatch]:
        """Reads rows by key, in the files that hold some; the last answer is remembered.

        What follows silver, and its checks, ask for the same studies one after another.
        """
        keys: Collection[Any] = where[table.key[0]]
        question = None
        if len(keys) <= _MOST_ASKED:
            asked = {name: frozenset(values) for name, values in where.items()}
            question = (delta.metadata().id, delta.version(), wanted.names, asked)
        last = self._last_look_ups.get(table.full_name)
        if last and last[0] == question:
            yield from last[1]
            return
        by_file: dict[str, list[Key]] = defaultdict(list)
        for key, file in self._places(table).of(delta, keys):
            by_file[file].append(key)
        asked = _arrays(table, where)
        batches = (
            batch
            for file, its in by_file.items()
            for batch in self._of_file(
                table, file, wanted, asked | _arrays(table, {table.key[0]: its})
            )
        )
        kept, size = list[pa.RecordBatch](), 0
        for batch in batches:
            size += batch.nbytes
            if question and size <= _MOST_REMEMBERED:
                kept.append(batch)
            yield batch
        self._last_look_ups.pop(table.full_name, None)
        if question and size <= _MOST_REMEMBERED:
            self._last_look_ups[table.full_name] = question, kept

    def _of_file(
        self, table: Table, file: str, wanted: pa.Schema, asked: Mapping[str, pa.Array]
    ) -> Iterator[pa.RecordBatch]:
        """Yields rows of a data file that meet a condition."""
        stands_in = {table.partition: partition_of(file)}
        yield from rows_of(self._folder(table) / file, wanted, stands_in, asked)

    def read_new(
        self,
        table: Table,
        columns: Sequence[str],
        *,
        since: int | None,
        until: int,
        ingest_date: date,
    ) -> Iterator[pa.RecordBatch]:
        """Reads a partition's rows appended after a version.

        Where that can no longer be told, since the log was cleaned or files were vacuumed, all rows
        of the partition count as new.

        Args:
            table: The source; partitioned.
            columns: The columns to read.
            since: Version already read; None for the beginning.
            until: Last version to read.
            ingest_date: The partition.

        Yields:
            Batches of the columns, in no particular order.
        """
        wanted = columns_of(table, columns)
        versions = self._versions(table, since, until, ingest_date)
        if versions is None:
            yield from self.stream(table, columns, where={INGEST_DATE: [ingest_date]})
            return
        folder = self._folder(table)
        for version in versions:
            for file in inserted(folder, ingest_date, version):
                yield from self._of_file(table, file, wanted, {})

    def new_parts(
        self,
        table: Table,
        columns: Sequence[str],
        *,
        since: int | None,
        until: int,
        ingest_date: date,
        most: int,
        in_order_of: str | None = None,
    ) -> Iterator[tuple[pa.Table, int]]:
        """Reads what `read_new` reads in parts, each of which is said to be done on its own.

        Args:
            table: The source; partitioned.
            columns: The columns to read.
            since: Version already read; None for the beginning.
            until: Last version to read.
            ingest_date: The partition.
            most: So many rows at a time, but never less than those of one commit, or, where commits
                can no longer be told apart, than all.
            in_order_of: A column that no part has a smaller value of than one before it; parts are
                larger where commits do not follow each other so.

        Yields:
            Rows, and the version up to which they have been read then.
        """
        versions = self._versions(table, since, until, ingest_date)
        ends = [until] if versions is None else []
        if versions:
            inner = self._ends_of_parts(table, versions, ingest_date, most, in_order_of)
            ends = [*inner, until]
        for version in ends:
            yield (
                self.table_of_new(
                    table, columns, since=since, until=version, ingest_date=ingest_date
                ),
                version,
            )
            since = version

    def _versions(
        self, table: Table, since: int | None, until: int, ingest_date: date
    ) -> list[int] | None:
        """Returns the versions with new rows of a partition; None where none can tell them."""
        delta = self.open(table)
        versions_held = span(delta, ingest_date) if delta else None
        if versions_held is None:
            return []
        first, last = versions_held
        first = first if since is None else since + 1
        folder = self._folder(table)
        return appends(folder, ingest_date, first, min(last, until))

    def _count(self, new: New) -> int:
        """Returns how many new rows there are."""
        versions = self._versions(new.table, new.since, new.until, new.ingest_date)
        if versions is None:
            return self.rows_by_date(new.table).get(f"{new.ingest_date}", 0)
        folder = self._folder(new.table)
        return count_added(folder, new.ingest_date, versions)

    def _ends_of_parts(
        self, table: Table, versions: Sequence[int], day: date, most: int, in_order_of: str | None
    ) -> Iterator[int]:
        """Yields the versions, but for the last, with which parts of so many rows end."""
        folder = self._folder(table)
        counts = [count_added(folder, day, [version]) for version in versions]
        if sum(counts) <= most:
            return
        follows = self._follows(table, versions, day, in_order_of) if in_order_of else None
        rows = 0
        for place, version in enumerate(versions[:-1]):
            rows += counts[place]
            if rows + counts[place + 1] > most and (follows is None or follows[place]):
                yield version
                rows = 0

    def _follows(
        self, table: Table, versions: Sequence[int], day: date, column: str
    ) -> Sequence[bool]:
        """Says of each version whether nothing after it has a smaller value than it, or before."""
        least, most = [], []
        for version in versions:
            found = self.table_of_new(
                table, [column], since=version - 1, until=version, ingest_date=day
            )
            extremes = pc.call_function("min_max", [found[column]]).as_py()
            least.append(extremes["min"])
            most.append(extremes["max"])
        so_far = list(accumulate(most, _larger))
        to_come = list(accumulate(reversed(least), _smaller))[::-1]
        return [
            before is None or after is None or before <= after
            for before, after in zip(so_far[:-1], to_come[1:], strict=True)
        ]

    def table_of_new(
        self,
        table: Table,
        columns: Sequence[str],
        *,
        since: int | None,
        until: int,
        ingest_date: date,
    ) -> pa.Table:
        """Reads the same as `read_new`, as one table."""
        found = self.read_new(table, columns, since=since, until=until, ingest_date=ingest_date)
        return pa.Table.from_batches(list(found), schema=columns_of(table, columns))


def _arrays(table: Table, where: Where) -> dict[str, pa.Array]:
    """Returns column that files hold → values, of the column's type."""
    return {
        name: pa.array(list(values), table.schema.field(name).type)
        for name, values in where.items()
        if name != table.partition
    }


def _larger(one: Any, other: Any) -> Any:
    return max((each for each in (one, other) if each is not None), default=None)


def _smaller(one: Any, other: Any) -> Any:
    return min((each for each in (one, other) if each is not None), default=None)
