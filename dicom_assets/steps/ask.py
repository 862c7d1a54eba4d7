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
from dicom_assets.steps import catalog
from dicom_assets.steps.corrections import Corrections


def held(engine: LocalEngine, metastore: Table, operation: Operation) -> Counter[str]:
    """Returns source system → instances in the metastore that an operation names, if it is there.

    A change of patient names those whose files say the wrong Patient ID, or one that was changed to
    it.
    """
    where = {name: [uid] for name, uid in operation.uids.items()}
    if operation.operation == "change_patient":
        wrong, corrections = str(operation.patientId), Corrections.read(engine)
        said = (corrections.said_by(system, wrong) for system in corrections.systems)
        where["patientId"] = [*{wrong}.union(*said)]
    columns = ["sourceSystem", "sopInstanceUid"]
    rows = engine.read(metastore, columns, where=where).to_pylist()
    return Counter(system for system, _ in {(row[columns[0]], row[columns[1]]) for row in rows})


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
