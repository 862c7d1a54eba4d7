"""Upserts: new keys are inserted, known ones replaced, others deleted, in one commit.

Decided here: how little of a table an upsert touches. Rows are partitioned by the month in which
they first came, and stay in it. Keys are looked up first, reading their column alone; when none is
known, the rows are appended; else they are merged with the months of the known ones, and no file of
another month is opened. Not decided here: which rows (`dicom_assets.steps`).

What is looked up must still hold when it is committed: no commit is tried again after another
writer's, since that one may have brought the same keys.
"""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake

from dicom_assets.lakehouse.query import columns_of, select
from dicom_assets.lakehouse.schemas import INGEST_MONTH
from dicom_assets.lakehouse.tables import Table

_GONE = "_gone"


def upsert(
    delta: DeltaTable,
    table: Table,
    rows: pa.Table,
    *,
    month: str,
    gone: Collection[int],
    transactions: list[Transaction],
    properties: WriterProperties,
) -> set[str]:
    """Upserts rows; `dicom_assets.lakehouse.engine.LocalEngine.upsert` says more.

    Args:
        delta: The table, opened at the newest version.
        table: What it is.
        rows: Rows with the table's columns but for the month, none of them twice by key.
        month: The month of rows that are new.
        gone: Keys of known rows to delete.
        transactions: What the commit says.
        properties: How files are written.

    Returns:
        The months written to.

    Raises:
        deltalake.exceptions.CommitFailedError: Another writer committed meanwhile.
    """
    (key,) = table.key
    keys = {*rows[key].to_pylist(), *gone}
    held = select(delta, columns_of(table, [key, INGEST_MONTH]), {key: keys})
    committed = CommitProperties(app_transactions=transactions, max_commit_retries=0)
    months = set(held[INGEST_MONTH].to_pylist())
    if not months:
        if rows.num_rows or transactions:
            write_deltalake(
                delta,
                _in_months(rows, table, key, held, month),
                mode="append",
                writer_properties=properties,
                commit_properties=committed,
            )
        return {month}
    source = _in_months(rows, table, key, held, month)
    source = source.append_column(_GONE, pa.array([False] * rows.num_rows, pa.bool_()))
    deleted = held.filter(pc.is_in(held[key], pa.array(sorted(gone), held[key].type)))
    if deleted.num_rows:  # of these only the key is known
        source = source.cast(pa.schema([f.with_nullable(True) for f in source.schema]))
        deleted = deleted.append_column(_GONE, pa.array([True] * len(deleted), pa.bool_()))
        source = pa.concat_tables([source, deleted], promote_options="default")
    literals = ", ".join(f"'{each}'" for each in sorted(months))
    (
        delta.merge(
            source,
            f'target."{INGEST_MONTH}" IN ({literals})'
            f' AND target."{INGEST_MONTH}" = source."{INGEST_MONTH}"'
            f' AND target."{key}" = source."{key}"',
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
    return {*months, month}


def _in_months(rows: pa.Table, table: Table, key: str, held: pa.Table, month: str) -> pa.Table:
    """Returns rows with the month in which each stands, or will stand."""
    known = dict(zip(held[key].to_pylist(), held[INGEST_MONTH].to_pylist(), strict=True))
    months = pa.array([known.get(each, month) for each in rows[key].to_pylist()], pa.string())
    return rows.append_column(table.schema.field(INGEST_MONTH), months)
