"""What every step is given: the engine, the settings, the ingest date and the run.

Decided here: how a step records failures: once, under the progress of the commit that says its work
is done, and before that commit. Not decided here: what failed.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from dicom_assets.lakehouse.engine import LocalEngine, Progress, Table
from dicom_assets.lakehouse.failures import Failure, failure_rows
from dicom_assets.lakehouse.keys import hex_key
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.places import Key
from dicom_assets.lakehouse.spark_session import Spark, Start, check, start
from dicom_assets.lakehouse.spill import Spill
from dicom_assets.omop.crosswalk import Crosswalks
from dicom_assets.omop.vocabulary import Vocabulary
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog
from dicom_assets.steps.promote import check_columns
from dicom_assets.steps.report import now

T = TypeVar("T")
R = TypeVar("R")

_FILES_AT_ONCE = 10_000
"""What is to be read of them is held at once. The same for every engine and run: what a killed run
has committed of a part is looked for in that part alone."""


class Made(Protocol):
    """What a worker makes for a table that is upserted."""

    @property
    def rows(self) -> pa.Table:
        """The rows to upsert."""
        ...

    @property
    def gone(self) -> Collection[Key]:
        """Keys of the rows to delete."""
        ...


@dataclass(frozen=True)
class Run:
    """One run of the chain, or of a part of it, for one ingest date.

    Attributes:
        engine: Where the lakehouse lies and who works on it.
        settings: What the site chose.
        ingest_date: The partition.
        id: The Dagster run, for failure rows.
    """

    engine: LocalEngine
    settings: Settings
    ingest_date: date
    id: str = ""

    @classmethod
    def of(
        cls,
        settings: Settings,
        partition_key: str,
        run_id: str = "",
        *,
        start_spark: Start = start,
    ) -> "Run":
        """Returns the run for a partition key, yyyy-mm-dd, on the lakehouse of the settings."""
        root, spark = settings.lakehouse, settings.spark
        engine = _on_spark(root, spark, start_spark) if spark else _engine(root)
        return cls(engine, settings, date.fromisoformat(partition_key), run_id)

    @classmethod
    def on_worker(cls, settings: Settings, ingest_date: date, run_id: str) -> "Run":
        """Returns the run where a part of its work is done: tables are read there, not written."""
        return cls(_engine(settings.lakehouse), settings, ingest_date, run_id)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to a worker."""
        return Run.on_worker, (self.settings, self.ingest_date, self.id)

    @cached_property
    def metastore(self) -> Table:
        """bronze/dicomimagingmetastore, with the site's promoted columns."""
        return catalog.metastore(self.settings.promoted)

    @cached_property
    def crosswalks(self) -> Crosswalks:
        """The site's person and visit ids."""
        settings = self.settings
        return _crosswalks(settings.person_crosswalk, settings.visit_crosswalk, self.choices)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Code → concept id."""
        return _vocabulary(self.settings.athena_vocabulary, self.choices)

    @cached_property
    def choices(self) -> str:
        """Stands for all choices that gold rows depend on: another text when one changes."""
        settings = self.settings
        athena = settings.athena_vocabulary and settings.athena_vocabulary / "CONCEPT.csv"
        files = (settings.person_crosswalk, settings.visit_crosswalk, athena)
        stats = [(path.stat().st_size, path.stat().st_mtime_ns) if path else None for path in files]
        return hex_key(str(stats), str(settings.dicomweb_base_address))[:8]

    def check_choices(self) -> None:
        """Checks what settings name, so that a fault in it stops the first step.

        Raises:
            ValueError: A crosswalk or the vocabulary cannot be read, a promoted column holds
                something else already, or Spark cannot start so; says which, and where.
        """
        if self.settings.spark:
            check(self.settings.spark)
        _ = self.crosswalks, self.vocabulary
        check_columns(self.engine, self.metastore)

    def new_parts(
        self, source: Table, app_id: str, *, said_in: Sequence[Table]
    ) -> Iterator[tuple[pa.Table, int]]:
        """Reads a source's rows that have no metastore rows yet in parts (`Reader.new_parts`).

        A part of which a killed run has said something already comes again as it was, under the
        same version, so that nothing is said of it twice.

        Args:
            source: Where the rows are.
            app_id: Under which the metastore says how far they have been read.
            said_in: Tables to which something is said of a part before its last rows are appended.
        """
        engine = self.engine
        since, until = engine.progress(self.metastore, app_id), engine.version(source)
        said = (engine.progress(table, app_id) for table in said_in)
        for end in sorted({until, *(each for each in said if each is not None)}):
            if end > (-1 if since is None else since):
                for rows, version in engine.new_parts(
                    source,
                    source.schema.names,
                    since=since,
                    until=end,
                    ingest_date=self.ingest_date,
                    most=_FILES_AT_ONCE,
                ):
                    yield rows, version
                    since = version

    def share_out(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        """Applies `work` to tasks, whose rows go to the metastore (`LocalEngine.share_out`)."""
        return self.engine.share_out(
            work,
            tasks,
            workers=self.settings.workers,
            count=len(tasks),
            into=self.metastore,
            ingest_date=self.ingest_date,
        )

    def upsert(self, table: Table, found: Sequence[Made], *, progress: Progress | None) -> None:
        """Upserts the rows that workers made, and deletes what they say is gone."""
        self.engine.upsert(
            table,
            [each.rows for each in found],
            progress=progress,
            ingest_date=self.ingest_date,
            gone={key for each in found for key in each.gone},
        )

    def record(
        self, failures: Sequence[Failure] | Spill, progress: Progress, *, even_none: bool = False
    ) -> None:
        """Appends failure rows, unless that was done under this progress before.

        Args:
            failures: What did not make it; or its rows, where they may be many (`failure_rows`).
            progress: The step's progress once this work is done.
            even_none: Commit the progress also when nothing failed.
        """
        table = catalog.INGESTION_FAILURES
        done = self.engine.progress(table, progress.app_id)
        is_spilled = isinstance(failures, Spill)
        count = failures.rows if is_spilled else len(failures)
        if (count or even_none) and (done is None or done < progress.version):
            rows = failures.read() if is_spilled else self.failure_rows(failures)
            self.engine.append(table, rows, progress=progress, ingest_date=self.ingest_date)

    def failure_rows(self, failures: Sequence[Failure]) -> pa.Table:
        """Returns the rows of what has failed now, in this run."""
        return failure_rows(failures, ingest_date=self.ingest_date, failed_at=now(), run_id=self.id)


# each asset has a Run of its own, but a table's log is read once
@lru_cache(maxsize=1)
def _engine(root: Path) -> LocalEngine:
    return LocalEngine(Layout(root))


@lru_cache(maxsize=1)
def _on_spark(root: Path, spark: Spark, start_spark: Start) -> LocalEngine:
    from dicom_assets.lakehouse.spark_engine import SparkEngine

    return SparkEngine(Layout(root), spark, start_spark)


# nor are large files of a site's read again; `choices` tells when one has changed
@lru_cache(maxsize=1)
def _crosswalks(person: Path | None, visit: Path | None, _choices: str) -> Crosswalks:
    return Crosswalks.read(person=person, visit=visit)


@lru_cache(maxsize=1)
def _vocabulary(athena: Path | None, _choices: str) -> Vocabulary:
    return Vocabulary.from_athena(athena) if athena else Vocabulary.default()
