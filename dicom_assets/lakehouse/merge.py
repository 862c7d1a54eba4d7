"""Upserts: new keys are inserted, known ones replaced, others deleted, in one commit.

Decided here: how little of a table an upsert touches. Rows are partitioned by when they first came,
and stay there. When no key is known, the rows are appended. Else no file is opened but those of the
partitions in which known ones stand: where a few keys all belong there, they are named, and what
stands under them is overwritten; others are joined with what stands there (MERGE). The first takes
less, of up to some hundred keys; the second grows less with their number (`benchmarks/upserts.py`).

Where keys stand must still hold when it is committed: no commit is tried again after another
writer's, since that one may have brought the same keys. Not decided here: which rows
(`dicom_assets.steps`), and how keys are found (`places`).
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from dicom_assets.lakehouse.compaction import writer_properties
from dicom_assets.lakehouse.places import Key
from dicom_assets.lakehouse.query import listed, quoted
from dicom_assets.lakehouse.tables import Table
from dicom_assets.lakehouse.written import append

_GONE = "_gone"
_MOST_NAMED = 200


def upsert(
    delta: DeltaTable,
    table: Table,
    rows: pa.Table,
    *,
    places: Mapping[Key, str],
    partition: str,
    gone: Collection[Key],
    transactions: list[Transaction],
    folder: Path,
) -> set[str]:
    """Upserts rows; `dicom_assets.lakehouse.engine.LocalEngine.upsert` says more.

    Args:
        delta: The table, opened at the newest version.
        table: What it is.
        rows: Rows with the table's columns but for its partition, none of them twice by key.
        places: Known keys, of the rows and of those that are gone → their partitions.
        partition: The partition of rows that are new.
        gone: Keys of known rows to delete.
        transactions: What the commit says.
        folder: Where it lies.

    Returns:
        The partitions written to.

    Raises:
        deltalake.exceptions.CommitFailedError: Another writer committed meanwhile.
    """
    (key,) = table.key
    column = table.schema.field(table.partition)
    committed = CommitProperties(app_transactions=transactions, max_commit_retries=0)
    if not places:
        append(rows, delta, table, folder, partition, committed)
        return {partition} if rows.num_rows else set()
    properties = writer_properties(table)
    standing = [places.get(each, partition) for each in rows[key].to_pylist()]
    source = rows.append_column(column, pa.array(standing, pa.string()).cast(column.type))
    deleted = sorted(each for each in gone if each in places)
    merged = set(places.values())
    if rows.num_rows + len(deleted) <= _MOST_NAMED and merged.issuperset(standing):
        named = listed([*rows[key].to_pylist(), *deleted])
        write_deltalake(
            delta,
            source,
            mode="overwrite",
            predicate=f"{_stands_in(table, merged)} AND {quoted(key)} IN ({named})",
            writer_properties=properties,
            commit_properties=committed,
        )
        return merged
    source = source.append_column(_GONE, pa.array([False] * rows.num_rows, pa.bool_()))
    if deleted:  # of these only the key is known
        source = source.cast(pa.schema([f.with_nullable(True) for f in source.schema]))
        stood = pa.array([places[each] for each in deleted], pa.string()).cast(column.type)
        rest = pa.table({key: deleted, column.name: stood, _GONE: [True] * len(deleted)})
        source = pa.concat_tables([source, rest], promote_options="default")
    (
        delta.merge(
            source,
            f"target.{_stands_in(table, merged)}"
            f" AND target.{quoted(column.name)} = source.{quoted(column.name)}"
            f" AND target.{quoted(key)} = source.{quoted(key)}",
            source_alias="source",
            target_alias="target",
            writer_properties=properties,
            commit_properties=committed,
            # the source's own extremes narrow down the files further
            streamed_exec=False,
        )
        .when_matched_delete(f"source.{_GONE}")
        .when_matched_update_all(except_cols=[_GONE])
        .when_not_matched_insert_all(f"NOT source.{_GONE}", except_cols=[_GONE])
        .execute()
    )
    return {*standing, *merged}


def _stands_in(table: Table, partitions: Collection[str]) -> str:
    return f"{quoted(table.partition)} IN ({listed(table.values_of(partitions))})"
