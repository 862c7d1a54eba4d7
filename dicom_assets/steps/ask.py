"""Asking for a correction: an operation is written into the drop folder, like anybody's.

Decided here: what the lakehouse holds of what an operation names, and that its file is there whole
or not at all. Not decided here: what an operation may say (`lakehouse.operations`), or how it is
taken in (`organise`).
"""

import time
from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Any

from dicom_assets.lakehouse.durable import sync
from dicom_assets.lakehouse.engine import LocalEngine, Table
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.modes import keep_private
from dicom_assets.lakehouse.operations import Operation
from dicom_assets.lakehouse.placing import NotPlacedError, place
from dicom_assets.lakehouse.query import values_of
from dicom_assets.steps import catalog
from dicom_assets.steps.corrections import Corrections
from dicom_assets.steps.current_files import Row


def held(
    engine: LocalEngine, metastore: Table, operation: Operation, *, taken: Row | None = None
) -> Counter[str]:
    """Returns source system → instances in the metastore that an operation is about.

    A change of patient is about those that have the wrong Patient ID once all changes before it
    are applied.

    Args:
        engine: The lakehouse.
        metastore: The metastore.
        operation: The operation.
        taken: Its row in bronze/operations; None for one that comes after all that are there.
    """
    where = {name: [uid] for name, uid in operation.uids.items()}
    if operation.operation != "change_patient":
        columns = ["sourceSystem", "sopInstanceUid"]
        rows = set(values_of(engine.read(metastore, columns, where=where), *columns))
        return Counter(system for system, _ in rows)
    wrong, corrections = str(operation.patientId), Corrections.read(engine, before=taken)
    said = (corrections.said_by(system, wrong) for system in corrections.systems)
    where["patientId"] = [*{wrong}.union(*said)]
    columns = ["sourceSystem", "studyInstanceUid", "patientId", "sopInstanceUid"]
    rows = set(values_of(engine.read(metastore, columns, where=where), *columns))
    about = {(each[0], each[-1]) for each in rows if corrections.patient_id(*each[:-1]) == wrong}
    return Counter(system for system, _ in about)


def ask(engine: LocalEngine, operation: Operation, *, source_system: str) -> Path:
    """Writes an operation into the drop folder and returns its file.

    Args:
        engine: The lakehouse.
        operation: With an id of its own.
        source_system: The namespace it is about, or `default`.

    Raises:
        PlainError: It cannot be put there.
    """
    keep_private()
    layout = engine.layout
    name = f"{time.time_ns() // 1_000_000}_{operation.operation}_{operation.id}.json"
    target = layout.operations_drop(source_system) / name
    if isinstance(target, FarPath):
        target.write_bytes(operation.text)
        return target
    # beside the drop folder: what lies in it may be taken at any time
    temporary = layout.drop_folder.parent / f".{name}.tmp"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.write_bytes(operation.text)
        return put_operations(layout, temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def put_operations(layout: Layout, written: Path, target: Path) -> Path:
    """Gives a file of operations its place in the drop folder, durably, and returns that.

    Raises:
        PlainError: It cannot be put there.
    """
    sync([written.parent])
    try:
        placed = place(written, target, within=layout.drop_folder)
    except NotPlacedError as error:
        # the name of a folder that we choose, or the site
        raise PlainError(f"no operation can be put into {target.parent}: {error}") from None
    sync([written.parent])  # the same file system; to another one it is copied durably
    return placed


def asked(engine: LocalEngine) -> list[dict[str, Any]]:
    """Returns the operations that were taken in, newest first."""
    rows = engine.read(catalog.OPERATIONS, catalog.OPERATIONS.schema.names).to_pylist()
    return sorted(rows, key=itemgetter("takenAt"), reverse=True)
