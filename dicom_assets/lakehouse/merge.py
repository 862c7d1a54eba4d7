"""Upserts: new keys are inserted, known ones replaced, others deleted, in one commit.

Decided here: how little of a table an upsert touches. Rows are partitioned by when they first came,
and stay there. Of known keys it is known in which files they stand: these are written anew, file by
file, without the rows that are replaced or gone, and no other is opened. What others have added to
a row, in columns of their own, stays with its key. Where keys stand must
still hold when it is committed: no commit is tried again after another writer's, since that one may
have brought the same keys. Not decided here: which rows (`dicom_assets.steps`), how keys are found
(`places`), and how files are written (`written`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError

from dicom_assets.lakehouse.places import Key, partition_of
from dicom_assets.lakehouse.query import conform, one_of, rows_of
from dicom_assets.lakehouse.tables import Table, files_of
from dicom_assets.lakehouse.written import batches_of, replace


def upsert(
    delta: DeltaTable,
    table: Table,
    rows: pa.Table,
    *,
    found: Collection[tuple[Key, str]],
    partition: str,
    transactions: list[Transaction],
    folder: Path,
) -> set[str]:
    """Upserts rows; `dicom_assets.lakehouse.engine.LocalEngine.upsert` says more.

    Args:
        delta: The table, opened at the newest version.
        table: What it is.
        rows: Rows with the table's columns but for its partition, none of them twice by key.
        found: Known keys, of the rows and of those that are gone, each with a file in which a row
            has it.
        partition: The partition of rows that are new.
        transactions: What the commit says.
        folder: Where it lies.

    Returns:
        The partitions written to.

    Raises:
        deltalake.exceptions.CommitFailedError: Another writer committed meanwhile.
    """
    (key,) = table.key
    stands = {each: partition_of(file) for each, file in found}
    changed: dict[str, list[Key]] = defaultdict(list)
    for each, file in found:
        changed[file].append(each)
    held = {file.path: file for file in files_of(delta, table)} if changed else {}
    if not held.keys() >= changed.keys():
        raise CommitFailedError("another writer has changed where keys stand")
    rows = _with_theirs(rows, delta, table, folder, changed)
    schema = rows.schema
    parts: dict[str, list[Iterable[pa.RecordBatch]]] = defaultdict(list)
    for file, keys in changed.items():
        kept = () if len(keys) == held[file].rows else _others(folder / file, schema, key, keys)
        parts[partition_of(file)].append(kept)
    standing = pa.array([stands.get(each, partition) for each in rows[key].to_pylist()])
    written = standing.unique()
    for each in written.to_pylist():
        its = rows if len(written) == 1 else rows.filter(one_of(standing, pa.array([each])))
        parts[each].append(batches_of(conform(its, schema)))
    replace(
        [held[file] for file in changed],
        {each: chain.from_iterable(some) for each, some in parts.items()},
        delta,
        table,
        folder,
        CommitProperties(app_transactions=transactions, max_commit_retries=0),
    )
    return set(parts)


def _with_theirs(
    rows: pa.Table,
    delta: DeltaTable,
    table: Table,
    folder: Path,
    changed: Mapping[str, Sequence[Key]],
) -> pa.Table:
    """Returns rows with the columns that others have added, as the rows they replace have them."""
    names = [f.name for f in delta.schema().fields if f.name not in table.schema.names]
    if not names:
        return rows
    (key,) = table.key
    held = pa.schema(delta.schema().to_arrow())
    schema = pa.schema([rows.schema.field(key), *map(held.field, names)])
    replaced = (
        batch
        for file, keys in changed.items()
        for batch in rows_of(folder / file, schema, {}, {key: pa.array(keys)})
    )
    theirs = pa.Table.from_batches(replaced, schema)
    known = theirs[key].combine_chunks()
    places = pc.call_function("index_in", [rows[key]], pc.SetLookupOptions(known))
    for name in names:
        rows = rows.append_column(held.field(name), theirs[name].take(places))
    return rows


def _others(
    path: Path, schema: pa.Schema, key: str, keys: Sequence[Key]
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file that have other keys."""
    values = pa.array(keys)
    for batch in rows_of(path, schema, {}, {}):
        yield batch.filter(pc.call_function("invert", [one_of(batch[key], values)]))
