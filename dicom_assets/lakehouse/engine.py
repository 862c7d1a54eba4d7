"""The local engine: the few verbs in which every step reads, works and writes.

Decided here: how Delta tables are created, appended to, upserted and read incrementally. Progress
is an application transaction in the commit that holds the data; a second writer with the same
application id fails instead of writing twice. delta-rs syncs nothing, so each commit is made
durable before anything that depends on it is done. Not decided here: what is read or written
(`dicom_assets.steps`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from dicom_assets.lakehouse.buckets import Buckets
from dicom_assets.lakehouse.compaction import compact_small, writer_properties
from dicom_assets.lakehouse.durable import sync
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.log import appends, count_added, partition_transactions, span
from dicom_assets.lakehouse.maintenance import Upkeep, maintain
from dicom_assets.lakehouse.merge import upsert
from dicom_assets.lakehouse.places import Key, Places
from dicom_assets.lakehouse.pool import shared_out
from dicom_assets.lakehouse.query import Where, columns_of, conform, literal, quoted, select, stream
from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.lakehouse.tables import Table, Tables
from dicom_assets.lakehouse.written import Written

T = TypeVar("T")
R = TypeVar("R")

Rows = pa.Table | Sequence[pa.RecordBatch | pa.Table | Written]
"""Rows in memory, or in files that a worker on another machine has written (`SparkEngine`)."""


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


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step has read: an application transaction.

    Attributes:
        app_id: Step, source and partition (`LocalEngine.app_id`).
        version: Version of the source that has been read up to.
    """

    app_id: str
    version: int


@dataclass
class LocalEngine:
    """Runs steps on this machine: pyarrow and delta-rs.

    Attributes:
        layout: Where the tables lie.
    """

    layout: Layout

    works_elsewhere: ClassVar[bool] = False
    """Whether workers are on other machines: what they leave to be done can only be done there."""
    rows_per_commit: ClassVar[int] = 1000

    @cached_property
    def _tables(self) -> Tables:
        return Tables(self.layout)

    @cached_property
    def _places_by_table(self) -> dict[str, Places]:
        return {}

    @cached_property
    def _last_look_ups(self) -> dict[str, tuple[tuple[Any, ...], pa.Table]]:
        return {}

    def _places(self, table: Table) -> Places:
        folder = self.layout.table(table.layer, table.name)
        return self._places_by_table.setdefault(table.full_name, Places(table, folder))

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

    def append(
        self,
        table: Table,
        rows: Rows | pa.RecordBatchReader,
        *,
        progress: Progress | None,
        ingest_date: date,
    ) -> None:
        """Appends rows of one partition, and progress, in one commit.

        With them it is remembered which versions hold the partition's rows, so that readers need
        not walk the log: `before/<date>` and `last/<date>`.

        Args:
            table: Where to; partitioned.
            rows: Rows with the table's schema.
            progress: How far the source has been read; None when that is not to be said yet.
            ingest_date: The partition the rows belong to.

        Raises:
            deltalake.exceptions.CommitFailedError: Another writer committed meanwhile.
        """
        delta = self._tables.create(table)
        transactions = partition_transactions(delta, ingest_date)
        if progress:
            done = delta.transaction_version(progress.app_id)
            if done is not None and done >= progress.version:
                raise CommitFailedError(f"{progress.app_id} has been committed by another writer")
            transactions.append(Transaction(progress.app_id, progress.version))
        # not tried again under another version: what is said of it would no longer be true
        said = CommitProperties(app_transactions=transactions, max_commit_retries=0)
        self._append(delta, table, rows, said, ingest_date)
        self._settle(table, [f"{ingest_date}"])

    def _append(
        self,
        delta: DeltaTable,
        table: Table,
        rows: Rows | pa.RecordBatchReader,
        said: CommitProperties,
        _ingest_date: date,
    ) -> None:
        known = {f.name for f in delta.schema().fields}
        data: Any = (
            rows if isinstance(rows, pa.RecordBatchReader) else in_memory(rows, table.schema)
        )
        write_deltalake(
            delta,
            data,
            mode="append",
            schema_mode="merge" if set(table.schema.names) != known else None,
            writer_properties=writer_properties(table),
            commit_properties=said,
        )

    def upsert(
        self,
        table: Table,
        rows: Rows,
        *,
        progress: Progress | None,
        ingest_date: date,
        gone: Collection[Key] = (),
    ) -> None:
        """Inserts new keys, replaces known ones and deletes others, with progress, in one commit.

        Args:
            table: Where to; its key is one column.
            rows: Rows with the table's columns but for its partition, none of them twice by key.
            progress: How far the source has been read; None when that is not to be said yet.
            ingest_date: When new rows came; known ones stay in the partition they first came in.
            gone: Keys of known rows to delete.

        Raises:
            deltalake.exceptions.CommitFailedError: Another writer committed meanwhile.
        """
        here = in_memory(rows, table.upserted)
        if not (here.num_rows or gone or progress):
            return
        delta = self._tables.create(table)
        keys = {*here[table.key[0]].to_pylist(), *gone}
        partitions = upsert(
            delta,
            table,
            here,
            places=self.places(table, keys),
            partition=table.partition_of(ingest_date),
            gone=gone,
            transactions=[Transaction(progress.app_id, progress.version)] if progress else [],
            properties=writer_properties(table),
        )
        self._settle(table, partitions)

    def _settle(self, table: Table, partitions: Iterable[str]) -> None:
        """Makes a commit durable, and joins small files of the partitions it wrote to."""
        folder = self.layout.table(table.layer, table.name)
        sync([folder])
        self._tables.written(table)
        for partition in partitions:
            if compact_small(self._tables.create(table), table, partition, folder=folder):
                sync([folder])

    def places(self, table: Table, keys: Collection[Key]) -> dict[Key, str]:
        """Returns known key → text of its partition's value."""
        delta = self.open(table)
        return self._places(table).of(delta, keys) if delta else {}

    def update(
        self,
        table: Table,
        rows: pa.Table,
        *,
        key: str,
        columns: Sequence[str],
        ingest_date: date,
    ) -> None:
        """Sets columns of known rows of one partition; columns not there yet are added."""
        delta = self._tables.create(table)
        known = {f.name for f in delta.schema().fields}
        new = [table.schema.field(name) for name in columns if name not in known]
        if new:
            delta.alter.add_columns(list(Schema.from_arrow(pa.schema(new)).fields))
        (
            self._tables.create(table)
            .merge(
                rows,
                f"target.{quoted(INGEST_DATE)} = {literal(ingest_date)}"
                f" AND target.{quoted(key)} = source.{quoted(key)}",
                source_alias="source",
                target_alias="target",
                writer_properties=writer_properties(table),
            )
            .when_matched_update({quoted(name): f"source.{quoted(name)}" for name in columns})
            .execute()
        )
        self._settle(table, [])

    def maintain(self, table: Table, *, keep_hours: int) -> Upkeep | None:
        """Looks after a table's files; None where it does not exist yet.

        Args:
            table: The table.
            keep_hours: How long files that are no longer of the table are kept.
        """
        delta = self.open(table)
        folder = self.layout.table(table.layer, table.name)
        return maintain(delta, table, folder=folder, keep_hours=keep_hours) if delta else None

    def rows_by_date(self, table: Table) -> dict[str, int]:
        """Returns ingest date (yyyy-mm-dd) → rows, from file statistics alone."""
        delta = self.open(table)
        found: dict[str, int] = {}
        if delta is not None:
            files = pa.table(delta.get_add_actions(flatten=True))
            days, counts = files["partition.ingestDate"], files["num_records"]
            for day, count in zip(days.to_pylist(), counts.to_pylist(), strict=True):
                found[str(day)] = found.get(str(day), 0) + count
        return found

    def partitions(self, table: Table) -> list[str | date]:
        """Returns the values of a table's partitions that hold files, in order."""
        delta = self.open(table)
        if delta is None:
            return []
        files = pa.table(delta.get_add_actions(flatten=True))
        return sorted(set(files[f"partition.{table.partition}"].to_pylist()))

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
        delta, wanted = self.open(table), columns_of(table, columns)
        if delta is None:
            return wanted.empty_table()
        conditions = dict(where or {})
        if ingest_date:
            conditions[INGEST_DATE] = [ingest_date]
        elif where and table.is_looked_up and table.key[0] in where:
            return self._look_up(delta, table, wanted, conditions)
        return select(delta, wanted, conditions)

    def stream(
        self, table: Table, columns: Sequence[str], *, where: Where
    ) -> Iterator[pa.RecordBatch]:
        """Yields what `read` returns, for tables that are larger than memory."""
        delta = self.open(table)
        if delta is not None:
            yield from stream(delta, columns_of(table, columns), where)

    def _look_up(
        self, delta: DeltaTable, table: Table, wanted: pa.Schema, conditions: dict[str, Any]
    ) -> pa.Table:
        """Reads rows by key, in the partitions that hold some; the last answer is remembered.

        What follows silver, and its checks, ask for the same studies one after another.
        """
        asked = {name: frozenset(values) for name, values in conditions.items()}
        question = (delta.metadata().id, delta.version(), wanted.names, asked)
        last = self._last_look_ups.get(table.full_name)
        if last and last[0] == question:
            return last[1]
        partitions = self._places(table).partitions(delta, conditions[table.key[0]])
        found = select(delta, wanted, conditions | {table.partition: table.values_of(partitions)})
        self._last_look_ups[table.full_name] = question, found
        return found

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
            yield from self.read(table, columns, ingest_date=ingest_date).to_batches()
            return
        if not versions:
            return
        delta = self._tables.create(table)
        present = {f.name for f in delta.schema().fields}
        names = [quoted(name) for name in wanted.names if name in present]
        # one commit at a time: all files of a range are held at once, however many there are
        for version in versions:
            changes = delta.load_cdf(
                starting_version=version,
                ending_version=version,
                columns=[*names, '"_change_type"'],
                predicate=f"{quoted(INGEST_DATE)} = {literal(ingest_date)}",
            )
            for batch in pa.RecordBatchReader.from_stream(changes):
                rows = pa.Table.from_batches([batch])
                # filling a column in old rows makes none of them new
                kind = rows["_change_type"].cast(pa.string())
                inserted = pc.call_function("equal", [kind, pa.scalar("insert")])
                # cast first: the reader's string views cannot be filtered
                yield from conform(rows, wanted).filter(inserted).to_batches()

    def new_parts(
        self,
        table: Table,
        columns: Sequence[str],
        *,
        since: int | None,
        until: int,
        ingest_date: date,
        most: int,
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

        Yields:
            Rows, and the version up to which they have been read then.
        """
        for version in self._ends_of_parts(table, since, until, ingest_date, most):
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
        folder = self.layout.table(table.layer, table.name)
        return appends(folder, ingest_date, first, min(last, until))

    def _count(self, new: New) -> int:
        """Returns how many new rows there are."""
        versions = self._versions(new.table, new.since, new.until, new.ingest_date)
        if versions is None:
            return self.rows_by_date(new.table)[f"{new.ingest_date}"]
        folder = self.layout.table(new.table.layer, new.table.name)
        return count_added(folder, new.ingest_date, versions)

    def _ends_of_parts(
        self, table: Table, since: int | None, until: int, ingest_date: date, most: int
    ) -> list[int]:
        versions = self._versions(table, since, until, ingest_date)
        if versions is None:
            return [until]
        folder = self.layout.table(table.layer, table.name)
        ends, rows = [], 0
        for before, version in pairwise(versions):
            rows += count_added(folder, ingest_date, [before])
            if rows + count_added(folder, ingest_date, [version]) > most:
                ends.append(before)
                rows = 0
        return [*ends, until] if versions else []

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

    def share_out(
        self,
        work: Callable[[T], R],
        tasks: Iterable[T],
        *,
        workers: int,
        count: int,
        into: Table,
        ingest_date: date,
    ) -> Iterator[R]:
        """Applies `work` to each task and yields the results as they come.

        Args:
            work: A function of a module. What it returns has `rows`: a `pa.RecordBatch` when they
                are worked on here; where workers are elsewhere, what `append` takes in their place.
            tasks: What it is applied to; the largest ones first.
            workers: How many work at once on this machine.
            count: How many tasks there are.
            into: The table that rows will be appended to.
            ingest_date: To which partition.
        """
        del into, ingest_date  # the caller appends
        yield from shared_out(work, tasks, workers=workers, count=count)

    def parts(
        self, new: New, *, most: int | None = None, together: bool = False, spread: bool = True
    ) -> Iterator[Any]:
        """Yields a table's new rows in parts, to be worked on one after another (`do`).

        Args:
            new: Which rows.
            most: About so many rows at a time are worked on; None for all.
            together: Whether rows of the same key must come in the same part.
            spread: Whether that may be done on several machines at once.

        Yields:
            What `do` takes. It has `num_rows`, at least one.
        """
        del spread
        batches = self.read_new(
            new.table, new.columns, since=new.since, until=new.until, ingest_date=new.ingest_date
        )
        batches = map(new.prepare, batches) if new.prepare else batches
        if most and together and (count := self._count(new)) > most:
            folder = self.layout.scratch
            shares = Buckets(new.schema, new.by, count=count // most + 1, folder=folder)
            for batch in batches:
                shares.add(pa.Table.from_batches([batch], new.schema))
            yield from (share for share in shares if share.num_rows)
            return
        waiting: list[pa.RecordBatch] = []
        most = None if together else most
        for batch in batches:
            for start in range(0, batch.num_rows, most or max(batch.num_rows, 1)):
                waiting.append(batch.slice(start, most))
                if most and sum(part.num_rows for part in waiting) >= most:
                    yield pa.Table.from_batches(waiting, new.schema)
                    waiting = []
        if waiting:
            yield pa.Table.from_batches(waiting, new.schema)

    def do(
        self,
        work: Callable[[pa.Table], Iterator[R]],
        part: Any,
        *,
        into: Table | None = None,
        ingest_date: date,
        order: Callable[[R], Any] | None = None,
    ) -> Iterator[R]:
        """Applies `work` to a part.

        Args:
            work: A function of a module, or a partial of one. Where rows are worked on beside each
                other it is applied to all that have the same values in the columns `New.by`.
            part: Of `parts`.
            into: The table that `rows` of what it yields will be upserted to; None where it has
                none.
            ingest_date: When rows came that are new there.
            order: By what `work` yields its results in order; where several do so, theirs are
                brought into that order, too.
        """
        del into, ingest_date, order
        yield from work(part)


def in_memory(rows: Rows, schema: pa.Schema) -> pa.Table:
    """Returns rows as one table; none of them may be in a file of a worker."""
    if isinstance(rows, pa.Table):
        return rows
    tables = [
        pa.Table.from_batches([each]) if isinstance(each, pa.RecordBatch) else each for each in rows
    ]
    return pa.concat_tables(tables) if tables else schema.empty_table()
