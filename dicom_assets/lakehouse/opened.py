"""An opened Delta table that remembers its files, and what its commits say of progress.

Decided here: that each application transaction is looked for in the log once. delta-rs reads all
commits behind the last checkpoint for each that it is asked for, which was most of what a run with
nothing to do took; here what was found holds until a later commit says something else, and only
those are read. Not decided here: which tables are opened (`tables`), what transactions say (`log`,
`engine`).
"""

import json
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from dicom_assets.lakehouse.paths import path_of

_FEW_FILES = 10_000
"""A list of so many is kept: steps ask for it one after another."""
_FEW_COMMITS = 10
"""Of so few all are read at once: there is no checkpoint yet, and none need be asked for again."""


class OpenedTable(DeltaTable):
    """A Delta table as of some version, which may be brought up to date."""

    def __init__(self, table_uri: str, storage_options: dict[str, str] | None) -> None:
        """Opens the newest version.

        Args:
            table_uri: Where it lies.
            storage_options: What delta-rs needs to get there.
        """
        super().__init__(table_uri, storage_options=storage_options)
        self._folder = path_of(table_uri)
        self._files: tuple[tuple[int, bool], Any] | None = None
        self._said: dict[str, int | None] = {}
        self._knows_all = self.version() < _FEW_COMMITS
        self._read_until = -1 if self._knows_all else self.version()

    def get_add_actions(self, flatten: bool = False) -> Any:
        """Returns the table's files, as delta-rs does, and remembers them if they are few."""
        asked = self.version(), flatten
        remembered = self._files  # which another thread may replace
        if remembered and remembered[0] == asked:
            return remembered[1]
        found = super().get_add_actions(flatten)
        if found.num_rows <= _FEW_FILES:
            self._files = asked, found
        return found

    def transaction_version(self, app_id: str) -> int | None:
        """Returns the version that the last commit under an application id has said."""
        self._catch_up()
        if app_id not in self._said and not self._knows_all:
            self._said[app_id] = super().transaction_version(app_id)
        return self._said.get(app_id)

    def _catch_up(self) -> None:
        """Reads the commits that have come since it was last asked."""
        newest = self.version()
        for version in range(self._read_until + 1, newest + 1):
            said = _said_by(commit_of(self._folder, version))
            if said is None:  # the log was cleaned
                self._said, self._knows_all = {}, False
                break
            self._said |= said
        self._read_until = newest


def commit_of(folder: Path, version: int) -> Path:
    """Returns where a table's commit of a version lies."""
    return folder / f"_delta_log/{version:020}.json"


def _said_by(commit: Path) -> dict[str, int] | None:
    """Returns application id → version of a commit (Delta protocol, action txn); None if gone."""
    try:
        lines = commit.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    actions = (json.loads(line) for line in lines if b'"txn"' in line)
    said = (action["txn"] for action in actions if "txn" in action)
    return {each["appId"]: each["version"] for each in said}
