"""Dagster's runs and events in SQLite, with the databases kept open.

Decided here: that a process connects to each database once. Dagster's own classes make an engine
and a connection for each statement, so that every statement is compiled anew, and every close
writes the log back and waits for the disk. Not decided here: what is stored, and where: the files
are those of Dagster's own classes, and either goes on with what the other has written. dagster.yaml
names the class.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine

from dicom_assets.settings import dagster_folder

_MOST_OPEN = 8
"""Databases of events kept open; each run has one."""


def _engine(address: str) -> Engine:
    return create_engine(address, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})


class OpenRunStorage(SqliteRunStorage):
    """Dagster's runs."""

    @cached_property
    def _engine(self) -> Engine:
        return _engine(self._conn_string)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Yields a connection in a transaction."""
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Closes the database."""
        self._engine.dispose()


class OpenEventLogStorage(SqliteEventLogStorage):
    """Dagster's events: a database for each run, and an index of all."""

    @cached_property
    def _engines(self) -> OrderedDict[str, Engine]:
        return OrderedDict()

    @cached_property
    def _tables(self) -> set[str]:
        return set()

    def has_table(self, table_name: str) -> bool:
        """Says whether the index has a table; each check asks, and one that is there stays."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        if shard not in self._initialized_dbs:
            with super()._connect(shard):  # makes the database, or brings it up to date
                pass
        with self._db_lock, self._opened(shard).begin() as connection:
            yield connection

    def _opened(self, shard: str) -> Engine:
        if shard not in self._engines:
            self._engines[shard] = _engine(self.conn_string_for_shard(shard))
        self._engines.move_to_end(shard)
        if len(self._engines) > _MOST_OPEN:
            self._engines.popitem(last=False)[1].dispose()
        return self._engines[shard]

    def wipe(self) -> None:
        """Removes all events, with their files."""
        self._close()
        super().wipe()

    def dispose(self) -> None:
        """Closes the databases."""
        super().dispose()
        self._close()

    def _close(self) -> None:
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


class OpenSqliteStorage(DagsterSqliteStorage):
    """Dagster's storage on one machine, below DAGSTER_HOME."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        """Opens the storage in an instance's folder; makes its databases where they are missing."""
        self.base_dir, self._inst_data = base_dir, inst_data
        self._run_storage = OpenRunStorage.from_local(f"{base_dir}/history/")
        self._event_log_storage = OpenEventLogStorage(f"{base_dir}/history/runs/")
        self._schedule_storage = SqliteScheduleStorage.from_local(f"{base_dir}/schedules")
        super(DagsterSqliteStorage, self).__init__()

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Returns what dagster.yaml may say of it: nothing."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: object
    ) -> "OpenSqliteStorage":
        """Opens the storage that dagster.yaml names."""
        return cls.from_local(str(dagster_folder()), inst_data)
