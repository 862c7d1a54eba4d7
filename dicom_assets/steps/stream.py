"""The chain as a stream, on Spark: takes in what arrives, and works on the dates that have news.

Decided here: what is taken in, for the day's date and from time to time: dropped files, operations
and FHIR files, what is new behind shortcuts, and their metastore rows; and that a date gets all
other steps once one of the tables into which things arrive has new rows of it, whoever wrote them.
What each step has done is in the data, so a date may come twice, and Dagster or the local engine
may go on at any time. A step that breaks ends the stream; its date comes again. Checks are not
evaluated. Not decided here: how new rows are found (`lakehouse.spark_stream`), what asks for an end
(`dicom_assets.cli`).
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from zoneinfo import ZoneInfo

from dicom_assets.lakehouse.lock import locked
from dicom_assets.lakehouse.spark_engine import SparkEngine
from dicom_assets.lakehouse.spark_stream import DatesWithNews
from dicom_assets.lakehouse.tables import Table
from dicom_assets.lakehouse.told import told_plainly
from dicom_assets.settings import Settings, SettingsError
from dicom_assets.steps import catalog
from dicom_assets.steps.chain import steps_of
from dicom_assets.steps.report import Report, now
from dicom_assets.steps.run import Run
from dicom_assets.steps.watch_external import fingerprint

_LOG = logging.getLogger(__name__)
_RUN_ID = "stream"
_LOOK_SECONDS = 0.2
_LISTED_FOR_SECONDS = 20.0
"""What takes longer to list than this is listed once an hour."""
_OUTSIDE_OF_TABLES = ("organise", "external", "organise_fhir")
"""Steps that look at what no table tells of; all others belong to a date that has news."""


@contextmanager
def streaming(settings: Settings) -> Iterator["Stream"]:
    """Gives the lakehouse's one stream; a second one waits until the first has ended.

    Raises:
        SettingsError: The engine is not Spark.
        SparkError: Spark cannot be used as it is set up.
    """
    engine = Run.of(settings, f"{today(settings)}").engine
    if not isinstance(engine, SparkEngine):
        raise SettingsError(
            "engine: stream needs Spark. Set engine = spark (DICOM_ASSETS_ENGINE=spark) and, where"
            " nothing else says it, spark_master (docs/spark.md). Without Spark Dagster's sensors"
            " run what arrives: make dev"
        )
    if settings.spark and settings.spark.is_remote:
        raise SettingsError("spark_master: stream needs a driver of its own, not Spark Connect")
    with locked(engine.layout.checkpoint_root):
        with locked(engine.layout.root):
            _ = engine.spark  # which clears what a killed run has left
        yield Stream(settings, engine)


def today(settings: Settings) -> date:
    """Returns the ingest date of what arrives now: the day where the site is, else UTC's."""
    return now().astimezone(ZoneInfo(settings.site_timezone or "UTC")).date()


class Stream:
    """The stream of one lakehouse (`streaming`)."""

    def __init__(self, settings: Settings, engine: SparkEngine) -> None:
        """Takes a lakehouse and the engine on it."""
        self._settings, self._engine = settings, engine
        self._steps = steps_of(settings)
        self._seen: tuple[date, str] | None = None

    def run(self, *, every: float | None, stop: threading.Event) -> None:
        """Takes in and works until it is stopped.

        Args:
            every: How often it looks for what has arrived, in seconds; None for once, until all
                that is there has been worked on.
            stop: Asks for the end; what is at hand is finished.

        Raises:
            PlainError: Something broke. It names no patient, and says what to do.
            StorageError: The storage failed; likewise.
            CommitFailedError: Another writer was at work; run it again.
        """
        while not stop.is_set():
            self._take_in()
            if every is not None or self._seen is not None:
                break
        if stop.is_set():
            return
        with locked(self._engine.layout.root):
            query = DatesWithNews(self._engine, self._tables(), self._work_on, every, stop)
        due = time.monotonic() + (every or 0)
        try:
            while not query.is_over and not stop.wait(_LOOK_SECONDS):
                if every is not None and time.monotonic() >= due:
                    self._take_in()
                    due = time.monotonic() + every
        finally:
            query.end()

    def _tables(self) -> list[Table]:
        """Returns the tables into which things arrive."""
        return [
            catalog.metastore(self._settings.promoted),
            catalog.PROCESS_FILES,
            catalog.EXTERNAL_FILES,
            catalog.OPERATIONS,
            catalog.FHIR_FILES,
        ]

    def _take_in(self) -> None:
        """Takes what has arrived into today's date, up to metastore rows.

        These steps have had their turn before the query looks, so that it sees all at once.
        """
        day = today(self._settings)
        with told_plainly():
            seen = day, self._fingerprint()
            names = [name for name in self._steps if name in (*_OUTSIDE_OF_TABLES, "extract")]
            if seen == self._seen:
                names.remove("external")
            done = self._do(day, names)
        has_more = "external" in done and done["external"].counts["more_to_come"]
        self._seen = None if has_more else seen
        if any(each.rows or any(each.counts.values()) for each in done.values()):
            _LOG.info("taken in for %s: %s", day, _told(done))

    def _fingerprint(self) -> str:
        layout = self._engine.layout
        return fingerprint(layout, self._settings, seconds=_LISTED_FOR_SECONDS)

    def _work_on(self, day: date) -> None:
        """Does what is left to do of a date.

        `extract` is among it: a kill may have come before it, and midnight after.
        """
        begin = time.perf_counter()
        done = self._do(day, [name for name in self._steps if name not in _OUTSIDE_OF_TABLES])
        seconds = time.perf_counter() - begin
        _LOG.info("worked on %s in %.1f s: %s", day, seconds, _told(done) or "nothing was left")

    def _do(self, day: date, names: Sequence[str]) -> dict[str, Report]:
        """Does some steps for a date while nobody else works on the lakehouse."""
        with locked(self._engine.layout.root):
            run = Run(self._engine, self._settings, day, _RUN_ID)
            return {name: self._steps[name](run) for name in names}


def _told(done: Mapping[str, Report]) -> str:
    """Returns the numbers of steps that did something."""
    return ", ".join(
        f"{name} {report.rows:,}" + (f" ({', '.join(counts)})" if counts else "")
        for name, report in done.items()
        for counts in [[f"{n:,} {what}" for what, n in report.counts.items() if n]]
        if report.rows or counts
    )
