"""The log of a table: in which commits a partition got its rows.

Decided here: how that is found without a walk through the whole log: application transactions of
each appending commit say before which version a partition's first rows came, and which one was the
last. Not decided here: how rows are read (`query`) and written (`engine`).
"""

import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable, Transaction

from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.opened import commit_of


def partition_transactions(delta: DeltaTable, day: date) -> list[Transaction]:
    """Returns what the next commit must say when it appends to a partition."""
    said = [Transaction(_last_id(day), delta.version() + 1)]
    if delta.transaction_version(_before_id(day)) is None:
        said.append(Transaction(_before_id(day), delta.version()))
    return said


def span(delta: DeltaTable, day: date) -> tuple[int, int] | None:
    """Returns the versions of a partition's first and last append; None where it has none."""
    before = delta.transaction_version(_before_id(day))
    last = delta.transaction_version(_last_id(day))
    return None if last is None else (0 if before is None else before + 1, last)


def appends(folder: Path, day: date, first: int, last: int) -> list[int] | None:
    """Returns the versions that added rows to a partition; None where one is no longer there.

    The log says it (Delta protocol, actions add and remove), so that nothing else need be read of
    other partitions' commits.
    """
    found = []
    for version in range(first, last + 1):
        files = _added(folder, day, version)
        if files is None or not all((folder / unquote(file["path"])).exists() for file in files):
            return None
        if files:
            found.append(version)
    return found


def count_added(folder: Path, day: date, versions: Iterable[int]) -> int:
    """Returns how many rows versions added to a partition, by the statistics of their files."""
    added = (file for version in versions for file in _added(folder, day, version) or ())
    return sum(json.loads(file.get("stats") or "{}").get("numRecords", 0) for file in added)


def inserted(folder: Path, day: date, version: int) -> list[str]:
    """Returns the files, within the table's folder, that a version added to a partition.

    Raises:
        PlainError: The version is no longer there.
    """
    files = _added(folder, day, version)
    if files is None:
        raise PlainError(f"the log of {folder} was cleaned while it was read. Run the date again")
    return [unquote(file["path"]) for file in files]


def _added(folder: Path, day: date, version: int) -> list[dict[str, Any]] | None:
    """Returns the files that a version added to a partition; None where it is no longer there."""
    try:
        text = commit_of(folder, version).read_bytes()
    except FileNotFoundError:
        return None
    actions = [json.loads(line) for line in text.splitlines()]
    if any(_changes(each["remove"]) for each in actions if "remove" in each):
        return []  # it wrote rows anew that were there: tables are appended to, or changed
    files = (each["add"] for each in actions if "add" in each)
    return [
        file
        for file in files
        if file["partitionValues"].get("ingestDate") == f"{day}" and _changes(file)
    ]


def _changes(action: dict[str, Any]) -> bool:
    return action.get("dataChange") is not False  # compaction changes nothing


def _before_id(day: date) -> str:
    return f"before/{day}"


def _last_id(day: date) -> str:
    return f"last/{day}"
