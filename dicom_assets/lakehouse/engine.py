"""The local engine: the few verbs in which every step works and writes, and reads (`reader`).

Decided here: how Delta tables are appended to, upserted and looked after. Progress is an
application transaction in the commit that holds the data; a second writer with the same
application id fails instead of writing twice. delta-rs syncs nothing, so each commit is made
durable before anything that depends on it is done. Not decided here: what is read or written
(`dicom_assets.steps`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError

from dicom_assets.lakehouse.buckets import Buckets
from dicom_assets.lakehouse.compaction import compact_small, writer_properties
from dicom_assets.lakehouse.log import partition_transactions
from dicom_assets.lakehouse.maintenance import Upkeep, maintain
from dicom_assets.lakehouse.merge import upsert
from dicom_assets.lakehouse.places import Key
from dicom_assets.lakehouse.pool import shared_out
from dicom_assets.lakehouse.reader import New, Reader
from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.lakehouse.sql import literal, quoted
from dicom_assets.lakehouse.tables import Table
from dicom_assets.lakehouse.written import Written, append

T = TypeVar("T")
R = TypeVar("R")

_BYTES_PER_PART = 4 << 20
"""At most, of rows that are worked on at a time: what is made of them is many times that."""
_MOST_SHARES = 200
"""So many files are open at once."""

Rows = pa.Table | Sequence[pa.RecordBatch | pa.Table | Written]
"""Rows in memory, or in files that a worker on another machine has written (`SparkEngine`)."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step has read: an application transaction.

    Attributes:
        app_id: Step, source and partition (`Reader.app_id`).
        version: Version of the source that has been read up to.
    """

    app_id: str
    version: int


@dataclass
class LocalEngine(Reader):
    """Runs steps on this machine: pyarrow and delta-rs."""

    works_elsewhere: ClassVar[bool] = False
    """Whether workers are on other machines: what they leave to be done can only be done there."""
    rows_per_commit: ClassVar[int] = 1000

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
        delta = self._with_columns(table, table.schema.names)
        transactions = partition_transactions(delta, ingest_date)
        if progress:
            transactions.append(new_transaction(delta, progress))
        # not tried again under another version: what is said of it would no longer be true
        said = CommitProperties(app_transactions=transactions, max_commit_retries=0)
        self._append(delta, table, rows, said, f"{ingest_date}")
        self._settle(table, [f"{ingest_date}"])

    def _append(
        self,
        delta: DeltaTable,
        table: Table,
        rows: Rows | pa.RecordBatchReader,
        said: CommitProperties,
        partition: str,
    ) -> None:
        if not isinstance(rows, pa.RecordBatchReader):
            rows = in_memory(rows, table.schema)
        append(rows, delta, table, self._folder(table), partition, said)

    def _with_columns(self, table: Table, names: Sequence[str]) -> DeltaTable:
        """Opens a table to be written to, with columns that it may not have yet."""
        delta = self._tables.create(table)
        known = {f.name for f in delta.schema().fields}
        if new := [table.schema.field(name) for name in names if name not in known]:
            delta.alter.add_columns(list(Schema.from_arrow(pa.schema(new)).fields))
            # or a power cut could tear it, and not what is built on it
            delta = self._tables.make_durable(table)
        return delta

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
        delta = self._with_columns(table, table.schema.names)
        keys = {*here[table.key[0]].to_pylist(), *gone}
        partitions = upsert(
            delta,
            table,
            here,
            found=self.found(table, keys),
            partition=table.partition_of(ingest_date),
            transactions=[new_transaction(delta, progress)] if progress else [],
            folder=self._folder(table),
        )
        self._settle(table, partitions)

    def _settle(self, table: Table, partitions: Iterable[str]) -> None:
        """Makes a commit durable, and joins small files of the partitions it wrote to."""
        folder = self._folder(table)
        delta = self._tables.make_durable(table)
        for partition in partitions:
            if compact_small(delta, table, partition, folder=folder):
                delta = self._tables.make_durable(table)

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
        (
            self._with_columns(table, columns)
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
        folder = self._folder(table)
        return maintain(delta, table, folder=folder, keep_hours=keep_hours) if delta else None

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
            most: About so many rows at a time are worked on, or fewer that are large; None for all.
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
            shares = Buckets(
                new.schema, new.by, count=min(count // most + 1, _MOST_SHARES), folder=folder
            )
            for batch in batches:
                shares.add(pa.Table.from_batches([batch], new.schema))
            yield from (share for share in shares if share.num_rows)
            return
        waiting: list[pa.RecordBatch] = []
        rows = size = 0
        most = None if together else most
        for batch in batches:
            step = _rows_at_a_time(batch, most)
            for start in range(0, batch.num_rows, step):
                waiting.append(batch.slice(start, step))
                rows, size = rows + waiting[-1].num_rows, size + waiting[-1].nbytes
                if most and (rows >= most or size >= _BYTES_PER_PART // 2):
                    yield pa.Table.from_batches(waiting, new.schema)
                    waiting, rows, size = [], 0, 0
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


def _rows_at_a_time(batch: pa.RecordBatch, most: int | None) -> int:
    rows = max(batch.num_rows, 1)
    if most is None:
        return rows
    return max(1, min(most, rows * (_BYTES_PER_PART // 2) // max(batch.nbytes, 1)))


def new_transaction(delta: DeltaTable, progress: Progress) -> Transaction:
    """Returns what a commit says of progress.

    Raises:
        deltalake.exceptions.CommitFailedError: Another writer has said so already.
    """
    done = delta.transaction_version(progress.app_id)
    if done is not None and done >= progress.version:
        raise CommitFailedError(f"{progress.app_id} has been committed by another writer")
    return Transaction(progress.app_id, progress.version)


def in_memory(rows: Rows, schema: pa.Schema) -> pa.Table:
    """Returns rows as one table; none of them may be in a file of a worker."""
    if isinstance(rows, pa.Table):
        return rows
    tables = [
        pa.Table.from_batches([each]) if isinstance(each, pa.RecordBatch) else each for each in rows
    ]
    return pa.concat_tables(tables) if tables else schema.empty_table()
