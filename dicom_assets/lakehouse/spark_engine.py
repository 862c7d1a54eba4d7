"""The Spark engine: the same verbs, with the work and the rows on a cluster.

Decided here: what is asked of Spark. Files are read, compressed and converted by executors, which
run the same functions as the local pool; rows are written where they are made, and shuffled by key
where they must meet. Rows to be appended are files that an executor has written, committed here by
name; rows to be upserted are merged by delta-spark, with the partitions in which their keys stand,
or by the driver where those are small. So of the rows that executors make, no more than
`merged_here` pass through the driver. What is of the size of a log (versions, progress, statistics)
and what a step has in memory anyway is read and written as the local engine does it: both write the
same tables, and one goes on where the other stopped. Not decided here: how Spark is started
(`spark_session`), what an executor does (`spark_worker`).
"""

# pyright: reportMissingImports=false
# PySpark is an extra: `pip install 'dicom-assets[spark]'`

import heapq
import pickle
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction

from dicom_assets.lakehouse.engine import (
    LocalEngine,
    Progress,
    R,
    Rows,
    T,
    in_memory,
    new_transaction,
)
from dicom_assets.lakehouse.places import Key
from dicom_assets.lakehouse.query import columns_of
from dicom_assets.lakehouse.reader import New
from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.lakehouse.spark_session import Spark, Start, session, start
from dicom_assets.lakehouse.spark_worker import (
    Target,
    over_rows,
    over_tasks,
    prepared,
    results_of,
    stage,
)
from dicom_assets.lakehouse.sql import listed
from dicom_assets.lakehouse.tables import Table, files_of
from dicom_assets.lakehouse.written import Written, commit

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_GONE = "_gone"
_TASKS_PER_CORE = 256
"""Of one job: its tasks, and what comes of them, are in the driver's memory."""
_GROUPS_PER_CORE = 4
_ROWS_PER_PARTITION = 50_000
_CODEC = "spark.sql.parquet.compression.codec"
_APP_ID = "spark.databricks.delta.write.txnAppId"
_VERSION = "spark.databricks.delta.write.txnVersion"


@dataclass(frozen=True)
class _Spread:
    """New rows that lie where Spark has them.

    Attributes:
        new: Which.
        frame: The rows.
        num_rows: How many.
        most: So many are worked on at a time.
    """

    new: New
    frame: "DataFrame"
    num_rows: int
    most: int | None


@dataclass
class SparkEngine(LocalEngine):
    """Runs steps on Spark. Executors must see the lakehouse under the same path.

    Attributes:
        layout: Where the tables lie.
        choices: Where Spark is.
        start: What starts a session there.
    """

    choices: Spark = field(default_factory=Spark)
    start: Start = start

    works_elsewhere: ClassVar[bool] = True
    rows_per_commit: ClassVar[int] = 20_000
    merged_here: ClassVar[int] = 4 << 20
    """Bytes on disk, of rows and of the partitions they are merged with, up to which the driver
    merges them: Spark would plan longer than that takes."""

    @cached_property
    def spark(self) -> "SparkSession":
        """The session; it is started when something is first asked of it."""
        if self.layout.staging.exists():  # of a run that was killed
            shutil.rmtree(self.layout.staging)
        return session(self.choices, self.start)

    @property
    def _cores(self) -> int:
        """How many there are now: executors may come after the session."""
        if hasattr(self.spark, "sparkContext"):
            return max(1, int(self.spark.sparkContext.defaultParallelism))
        return self._cores_of_server

    @cached_property
    def _cores_of_server(self) -> int:
        # a Spark Connect session has no context that could be asked
        from pyspark.sql import functions as f

        return self.spark.range(1 << 20).select(f.spark_partition_id()).distinct().count()

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
        """Applies `work` to each task on executors, which write the rows; yields the results."""
        del workers
        waiting = iter(tasks)
        if count:
            self.prepare(into)
        while some := list(islice(waiting, _TASKS_PER_CORE * self._cores)):
            parts = min(len(some), _GROUPS_PER_CORE * self._cores)
            # the largest come first: each group gets some of them
            groups = [pickle.dumps(some[start::parts]) for start in range(parts)]
            rows = pa.table({"part": range(parts), "tasks": pa.array(groups, pa.binary())})
            with _Staging(self, into, ingest_date) as target:
                frame = self.spark.createDataFrame(rows).repartitionByRange(parts, "part")  # pyright: ignore[reportArgumentType]
                run = partial(over_tasks, work=work, target=target)
                names = frame.mapInArrow(run, "name string").collect()
                for name in names:
                    yield from results_of(target.staging / name["name"])

    def parts(
        self, new: New, *, most: int | None = None, together: bool = False, spread: bool = True
    ) -> Iterator[Any]:
        """Yields new rows as one part, which lies where Spark has it."""
        if not spread:
            yield from super().parts(new, most=most, together=together)
            return
        frame, count = self._new(new)
        if frame is not None and count:
            if new.prepare:
                from pyspark.sql.pandas.types import from_arrow_schema

                columns = columns_of(new.table, new.columns)
                run = partial(prepared, prepare=new.prepare, columns=columns)
                frame = frame.mapInArrow(run, from_arrow_schema(_nullable(new.schema)))  # pyright: ignore[reportArgumentType]
            yield _Spread(new, frame, count, most)

    def do(
        self,
        work: Callable[[pa.Table], Iterator[R]],
        part: Any,
        *,
        into: Table | None = None,
        ingest_date: date,
        order: Callable[[R], Any] | None = None,
    ) -> Iterator[R]:
        """Applies `work` to the rows of each key on the executor that has them all."""
        if not isinstance(part, _Spread):
            yield from super().do(work, part, ingest_date=ingest_date)
            return
        if into is not None:
            self.prepare(into)
            self.places(into, [])  # or each executor would look into every file
        count = max(1, min(part.num_rows // _ROWS_PER_PARTITION, 512), self._cores)
        count = min(count, part.num_rows)
        with _Staging(self, into, ingest_date) as target:
            run = partial(over_rows, work=work, target=target, new=part.new, most=part.most)
            frame = part.frame.repartition(count, *part.new.by)
            names = [row["name"] for row in frame.mapInArrow(run, "name string").collect()]
            found = [results_of(target.staging / name) for name in names]
            yield from heapq.merge(*found, key=order) if order else chain.from_iterable(found)

    def _append(
        self,
        delta: DeltaTable,
        table: Table,
        rows: Rows | pa.RecordBatchReader,
        said: CommitProperties,
        partition: str,
    ) -> None:
        files, rest = _by_kind(rows)
        if not files:
            kept = rows if isinstance(rows, pa.RecordBatchReader) else rest
            super()._append(delta, table, kept, said, partition)
            return
        if any(each.num_rows for each in rest):
            raise TypeError("rows in memory and rows of executors in one commit")
        commit([each.added_to(table, partition) for each in files], delta, table, said)

    def upsert(
        self,
        table: Table,
        rows: Rows,
        *,
        progress: Progress | None,
        ingest_date: date,
        gone: Collection[Key] = (),
    ) -> None:
        """Upserts rows: where it is worth starting jobs for, by Spark."""
        files, rest = _by_kind(rows)
        here = in_memory(rest, table.upserted)
        known = self.places(table, {*here[table.key[0]].to_pylist(), *gone})
        merged = {*known.values(), *chain.from_iterable(each.merged for each in files)}
        if not (merged or files):
            super().upsert(table, here, progress=progress, ingest_date=ingest_date)
            return
        if merged and self._is_merged_here(table, files, merged):
            with self._removed(table, files):
                every = [here] if here.num_rows else []
                every += map(partial(_upserted, table), chain(*self._paths(table, files)))
                super().upsert(table, every, progress=progress, ingest_date=ingest_date, gone=gone)
            return
        self.prepare(table)
        if here.num_rows:
            with _Staging(self, table, ingest_date) as target:
                files = [*files, stage(here, target, self)]
        partition = table.partition_of(ingest_date)
        if merged:
            with self._removed(table, files):
                said = self._said(table, progress)
                deleted = {key: known[key] for key in gone if key in known}
                source = self._source(table, files, partition, deleted)
                self._merge(table, source, merged, said)
        else:
            said = CommitProperties(
                app_transactions=self._said(table, progress), max_commit_retries=0
            )
            added = [each.added_to(table, partition) for each in files]
            commit(added, self._tables.create(table), table, said)
        self._settle(table, {partition, *merged})

    def _said(self, table: Table, progress: Progress | None) -> list[Transaction]:
        return [new_transaction(self._tables.create(table), progress)] if progress else []

    def _is_merged_here(
        self, table: Table, files: Sequence[Written], partitions: Collection[str]
    ) -> bool:
        """Says whether Spark would plan longer than all of it takes here."""
        size = sum(each.size for each in files)
        delta = self.open(table)
        if delta is not None:
            there = files_of(delta, table)
            size += sum(file.size for file in there if file.partition in partitions)
        return size <= self.merged_here

    def _source(
        self, table: Table, files: Sequence[Written], partition: str, deleted: dict[Key, str]
    ) -> "DataFrame":
        """Returns what is to be merged: rows in files, and keys of rows to delete."""
        from pyspark.sql import functions as f
        from pyspark.sql.pandas.types import from_arrow_schema

        schema = _nullable(table.schema)
        column, key = schema.field(table.partition), schema.field(table.key[0])
        (new,) = table.values_of([partition])
        standing = pa.array(list(deleted.values()), pa.string()).cast(column.type)
        gone = pa.table({key.name: pa.array(list(deleted), key.type), column.name: standing})
        frame = self.spark.createDataFrame([], from_arrow_schema(schema))
        for paths in self._paths(table, files):
            if paths:
                read = self.spark.read.schema(from_arrow_schema(schema)).parquet(*paths)
                # a file that could be of the table as it stands does not say its partition
                stands = f.coalesce(f.col(_ticked(column.name)), f.lit(new))
                frame = frame.unionByName(read.withColumn(column.name, stands))
        frame = frame.withColumn(_GONE, f.lit(False))
        if not deleted:
            return frame
        rest = self.spark.createDataFrame(gone).withColumn(_GONE, f.lit(True))  # pyright: ignore[reportArgumentType]
        return frame.unionByName(rest, allowMissingColumns=True)

    def _paths(self, table: Table, files: Sequence[Written]) -> tuple[list[str], list[str]]:
        """Returns the files that are staged, and those that lie with the table already."""
        folder = self._folder(table)
        staged = [str(self.layout.staging / each.path) for each in files if each.merged]
        return staged, [str(folder / each.path) for each in files if not each.merged]

    @contextmanager
    def _removed(self, table: Table, files: Sequence[Written]) -> Iterator[None]:
        """Removes files whose rows are merged, also where that fails: they are made again."""
        try:
            yield
        finally:
            staged, ready = self._paths(table, files)
            for path in ready:
                Path(path).unlink()
            for folder in {Path(path).parent for path in staged}:
                _clear(folder)

    def _merge(
        self, table: Table, source: "DataFrame", merged: set[str], said: Sequence[Transaction]
    ) -> None:
        """Merges with the partitions in which rows of the same keys stand."""
        name = f"arriving_{uuid.uuid4().hex}"
        source.createOrReplaceTempView(name)
        (key,) = table.key
        part = _ticked(table.partition)
        columns = [_ticked(each) for each in table.schema.names]
        literals = listed(table.values_of(merged))
        path = self._folder(table)
        codec = str(self.spark.conf.get(_CODEC))
        try:
            self.spark.conf.set(_CODEC, table.compression.lower())
            for each in said:
                self.spark.conf.set(_APP_ID, each.app_id)
                self.spark.conf.set(_VERSION, str(each.version))
            self.spark.sql(
                f"MERGE INTO delta.{_ticked(str(path))} AS t USING {name} AS s"  # noqa: S608
                f" ON t.{part} IN ({literals}) AND t.{part} = s.{part}"
                f" AND t.{_ticked(key)} = s.{_ticked(key)}"
                f" WHEN MATCHED AND s.{_GONE} THEN DELETE"
                f" WHEN MATCHED THEN UPDATE SET {', '.join(f'{c} = s.{c}' for c in columns)}"
                f" WHEN NOT MATCHED AND NOT s.{_GONE} THEN INSERT ({', '.join(columns)})"
                f" VALUES ({', '.join(f's.{c}' for c in columns)})"
            )
        finally:
            self.spark.conf.unset(_APP_ID)
            self.spark.conf.unset(_VERSION)
            self.spark.conf.set(_CODEC, codec)
            self.spark.catalog.dropTempView(name)

    def _new(self, new: New) -> tuple["DataFrame | None", int]:
        """Returns the rows that `read_new` yields, by Delta's change feed, and how many."""
        versions = self._versions(new.table, new.since, new.until, new.ingest_date)
        if versions is not None and not versions:
            return None, 0
        folder = self._folder(new.table)
        from pyspark.sql import functions as f

        reader = self.spark.read.format("delta")
        is_ours = f.col(INGEST_DATE) == f.lit(new.ingest_date)
        if versions is not None:
            reader = reader.option("readChangeFeed", "true")
            reader = reader.option("startingVersion", versions[0])
            reader = reader.option("endingVersion", versions[-1])
            is_ours &= f.col("_change_type") == "insert"
        frame = reader.load(str(folder)).where(is_ours)
        wanted = columns_of(new.table, new.columns)
        from pyspark.sql.pandas.types import from_arrow_type

        present = set(frame.columns)
        return frame.select(
            *(
                f.col(_ticked(each.name))
                if each.name in present
                else f.lit(None).cast(from_arrow_type(each.type)).alias(each.name)
                for each in wanted
            )
        ), self._count(new)

    def prepare(self, table: Table) -> None:
        """Makes a table, and its columns, before executors write to it or a stream reads it."""
        self._with_columns(table, table.schema.names)


class _Staging:
    """A folder for what executors hand over, gone once that was taken."""

    def __init__(self, engine: SparkEngine, table: Table | None, ingest_date: date) -> None:
        _ = engine.spark  # clears what a killed run has left there
        root = engine.layout.root
        self._folder = engine.layout.staging / uuid.uuid4().hex
        self._target = Target(root, table, ingest_date, self._folder, engine._tables.seen())

    def __enter__(self) -> Target:
        self._folder.mkdir(parents=True)
        return self._target

    def __exit__(self, *_: object) -> None:
        _clear(self._folder)


def _clear(folder: Path) -> None:
    """Removes a folder of the staging area, and that once it is empty."""
    shutil.rmtree(folder)
    with suppress(OSError):  # there are others
        folder.parent.rmdir()


def _by_kind(rows: Any) -> tuple[list[Written], list[Any]]:
    """Returns files of executors, and what is in memory."""
    if isinstance(rows, pa.RecordBatchReader):
        return [], []
    every = [rows] if isinstance(rows, pa.Table) else list(rows)
    return (
        [each for each in every if isinstance(each, Written) and each.num_rows],
        [each for each in every if not isinstance(each, Written)],
    )


def _upserted(table: Table, path: str) -> pa.Table:
    """Reads rows that a worker has written to be upserted."""
    return pq.ParquetFile(path).read(table.upserted.names)


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(each.name, each.type) for each in schema])


def _ticked(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
