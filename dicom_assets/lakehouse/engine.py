"""The local engine: the few verbs in which every step reads, works and writes.

Decided here: how Delta tables are created, appended to, upserted and read incrementally. Progress
is an application transaction in the commit that holds the data; a second writer with the same
application id fails instead of writing twice. Not decided here: what is read or written
(`dicom_assets.steps`).
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import (
    CommitProperties,
    DeltaTable,
    QueryBuilder,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError

from dicom_assets.lakehouse.layout import Layout

_GONE = "_gone"
_SMALL_FILES = 8
_COMPACTED_BYTES = 4 << 20  # the metastore's rows are large in memory, and all of a file are read
_COMPACTED_UPSERTED_BYTES = 64 << 20


@dataclass(frozen=True)
class Table:
    """One Delta table.

    Attributes:
        layer: `bronze`, `silver` or `gold`.
        name: The folder's name.
        schema: Arrow schema with column descriptions.
        description: One sentence for the catalogue.
        key: Columns that identify a row.
        partitioned: Whether it is partitioned by `ingestDate`.
    """

    layer: str
    name: str
    schema: pa.Schema
    description: str
    key: tuple[str, ...] = ()
    partitioned: bool = False

    @property
    def full_name(self) -> str:
        """`layer.name`, as a catalogue shows it."""
        return f"{self.layer}.{self.name}"


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
    _properties: WriterProperties = field(
        default_factory=lambda: WriterProperties(compression="ZSTD", max_row_group_size=16_384)
    )

    def open(self, table: Table) -> DeltaTable | None:
        """Opens a table, or returns None where it does not exist yet."""
        path = str(self.layout.table(table.layer, table.name))
        return DeltaTable(path) if DeltaTable.is_deltatable(path) else None

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
        rows: pa.Table | pa.RecordBatchReader,
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
        delta = self._create(table)
        transactions = [Transaction(_last_id(ingest_date), delta.version() + 1)]
        if progress:
            done = delta.transaction_version(progress.app_id)
            if done is not None and done >= progress.version:
                raise CommitFailedError(f"{progress.app_id} has been committed by another writer")
            transactions.append(Transaction(progress.app_id, progress.version))
        if delta.transaction_version(_before_id(ingest_date)) is None:
            transactions.append(Transaction(_before_id(ingest_date), delta.version()))
        known = {f.name for f in delta.schema().fields}
        write_deltalake(
            delta,
            rows,
            mode="append",
            schema_mode="merge" if set(table.schema.names) != known else None,
            writer_properties=self._properties,
            # not tried again under another version: `last` would no longer be true
            commit_properties=CommitProperties(app_transactions=transactions, max_commit_retries=0),
        )
        self._compact(table, ingest_date)

    def upsert(
        self,
        table: Table,
        rows: pa.Table,
        *,
        progress: Progress | None,
        gone: Collection[int] = (),
    ) -> None:
        """Inserts new keys, replaces known ones and deletes others, with progress, in one commit.

        Args:
            table: Where to.
            rows: Rows with the table's schema, none of them twice by key.
            progress: How far the source has been read; None when that is not to be said yet.
            gone: Keys of known rows to delete; the table's key is one column then.
        """
        source = rows.append_column(_GONE, pa.array([False] * rows.num_rows, pa.bool_()))
        if gone:  # of these only the key is known
            source = source.cast(pa.schema([f.with_nullable(True) for f in source.schema]))
            deleted = pa.table({table.key[0]: pa.array(sorted(gone)), _GONE: [True] * len(gone)})
            source = pa.concat_tables([source, deleted], promote_options="default")
        transactions = [Transaction(progress.app_id, progress.version)] if progress else []
        committed = CommitProperties(app_transactions=transactions)
        if source.num_rows == 0:
            if progress:  # a merge of nothing would not be committed
                nothing = table.schema.empty_table()
                write_deltalake(
                    self._create(table), nothing, mode="append", commit_properties=committed
                )
            return
        on = " AND ".join(f'target."{name}" = source."{name}"' for name in table.key)
        (
            self._create(table)
            .merge(
                source,
                on,
                source_alias="source",
                target_alias="target",
                writer_properties=self._properties,
                commit_properties=committed,
            )
            .when_matched_delete(f"source.{_GONE}")
            .when_matched_update_all(except_cols=[_GONE])
            .when_not_matched_insert_all(f"NOT source.{_GONE}", except_cols=[_GONE])
            .execute()
        )
        self._compact(table)

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
        delta = self._create(table)
        known = {f.name for f in delta.schema().fields}
        new = [table.schema.field(name) for name in columns if name not in known]
        if new:
            delta.alter.add_columns(list(Schema.from_arrow(pa.schema(new)).fields))
        (
            DeltaTable(delta.table_uri)
            .merge(
                rows,
                f'target."ingestDate" = \'{ingest_date}\' AND target."{key}" = source."{key}"',
                source_alias="source",
                target_alias="target",
                writer_properties=self._properties,
            )
            .when_matched_update({f'"{name}"': f'source."{name}"' for name in columns})
            .execute()
        )

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

    def read(
        self,
        table: Table,
        columns: Sequence[str],
        *,
        ingest_date: date | None = None,
        where: Mapping[str, Collection[str | int]] | None = None,
    ) -> pa.Table:
        """Reads columns of a table as it stands; no rows where it does not exist yet.

        Args:
            table: The table.
            columns: The columns to read.
            ingest_date: Only this partition.
            where: Column → values, of which a row must have one.
        """
        delta = self.open(table)
        wanted = _columns(table, columns)
        conditions = [
            f'"{name}" IN ({_literals(values)})' for name, values in (where or {}).items()
        ]
        if ingest_date:
            conditions.append(f"\"ingestDate\" = DATE '{ingest_date}'")
        if delta is None or not all((where or {"": "some"}).values()):
            return wanted.empty_table()
        present = {f.name for f in delta.schema().fields}
        # delta-rs' pyarrow datasets cannot compare strings with file statistics, DataFusion can
        query = (
            f"SELECT {', '.join(_quoted(n) for n in wanted.names if n in present)} FROM source"  # noqa: S608
            f" WHERE {' AND '.join(conditions) or 'true'}"
        )
        found = QueryBuilder().register("source", delta).execute(query)
        return _conform(pa.table(found), wanted)

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
        delta = self.open(table)
        last = delta.transaction_version(_last_id(ingest_date)) if delta else None
        if delta is None or last is None:
            return
        if since is None:
            since = delta.transaction_version(_before_id(ingest_date))
        first = 0 if since is None else since + 1
        wanted = _columns(table, columns)
        versions = self._appends(table, ingest_date, first, min(last, until))
        if versions is None:
            yield from self.read(table, columns, ingest_date=ingest_date).to_batches()
            return
        present = {f.name for f in delta.schema().fields}
        # quoted, since DataFusion folds bare names to lower case
        quoted = [_quoted(name) for name in wanted.names if name in present]
        # one commit at a time: all files of a range are held at once, however many there are
        for version in versions:
            changes = delta.load_cdf(
                starting_version=version,
                ending_version=version,
                columns=[*quoted, '"_change_type"'],
                predicate=f"\"ingestDate\" = '{ingest_date}'",
            )
            for batch in pa.RecordBatchReader.from_stream(changes):
                rows = pa.Table.from_batches([batch])
                # filling a column in old rows makes none of them new
                kind = rows["_change_type"].cast(pa.string())
                inserted = pc.call_function("equal", [kind, pa.scalar("insert")])
                # cast first: the reader's string views cannot be filtered
                yield from _conform(rows, wanted).filter(inserted).to_batches()

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
        return pa.Table.from_batches(list(found), schema=_columns(table, columns))

    def _appends(self, table: Table, day: date, first: int, last: int) -> list[int] | None:
        """Returns the versions that added rows to a partition; None where one is no longer there.

        The log says it (Delta protocol, actions add and cdc), so that nothing else need be read of
        other partitions' commits.
        """
        folder = self.layout.table(table.layer, table.name)
        found = []
        for version in range(first, last + 1):
            try:
                text = (folder / f"_delta_log/{version:020}.json").read_bytes()
            except FileNotFoundError:
                return None
            actions = [json.loads(line) for line in text.splitlines()]
            files = [a[kind] for a in actions for kind in ("add", "cdc") if kind in a]
            added = [
                folder / unquote(file["path"])
                for file in files
                if file["partitionValues"].get("ingestDate") == f"{day}"
                and file.get("dataChange") is not False  # compaction changes none
            ]
            if not all(path.exists() for path in added):
                return None
            if added:
                found.append(version)
        return found

    def _compact(self, table: Table, ingest_date: date | None = None) -> None:
        """Joins small files once there are many: each costs every reader some milliseconds.

        Rows become neither new nor changed by it (`read_new`).
        """
        size = _COMPACTED_BYTES if ingest_date else _COMPACTED_UPSERTED_BYTES
        delta = DeltaTable(str(self.layout.table(table.layer, table.name)))
        files = pa.table(delta.get_add_actions(flatten=True))
        sizes = files["size_bytes"].to_pylist()
        if ingest_date:
            days = files["partition.ingestDate"].to_pylist()
            sizes = [each for each, day in zip(sizes, days, strict=True) if day == ingest_date]
        if sum(each < size // 2 for each in sizes) > _SMALL_FILES:
            delta.optimize.compact(
                partition_filters=[("ingestDate", "=", str(ingest_date))] if ingest_date else None,
                target_size=size,
                max_concurrent_tasks=1,
                writer_properties=self._properties,
            )

    def _create(self, table: Table) -> DeltaTable:
        path = self.layout.table(table.layer, table.name)
        if not DeltaTable.is_deltatable(str(path)):
            path.mkdir(parents=True, exist_ok=True)
            DeltaTable.create(
                str(path),
                schema=Schema.from_arrow(table.schema),
                mode="ignore",
                partition_by=["ingestDate"] if table.partitioned else None,
                name=table.name,
                description=table.description,
                configuration={
                    "delta.enableChangeDataFeed": "true",
                    "delta.logRetentionDuration": "interval 365 days",
                    # opening a table reads the log behind its last checkpoint
                    "delta.checkpointInterval": "10",
                    "delta.dataSkippingStatsColumns": ",".join(table.key),
                },
            )
        return DeltaTable(str(path))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literals(values: Collection[str | int]) -> str:
    """Returns values as SQL literals."""
    return ", ".join(
        str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
        for value in values
    )


def _before_id(day: date) -> str:
    return f"before/{day}"


def _last_id(day: date) -> str:
    return f"last/{day}"


def _columns(table: Table, columns: Collection[str]) -> pa.Schema:
    """Returns the schema of some columns, in the table's order."""
    return pa.schema([f for f in table.schema if f.name in set(columns)])


def _conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Casts to the schema; a column that older rows do not have yet is null."""
    columns = [
        rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(len(rows), f.type)
        for f in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
