"""What is new in tables, told by Structured Streaming: the ingest dates that have new rows.

Decided here: that of a micro-batch only its dates are looked at, which are few; that they are
worked on one after another, and a micro-batch is done once all are; and how a query ends. It may
hand over a date twice, after a kill, or all of them, where its checkpoint was removed: who works on
a date finds in the data what is left to do. Compaction and filled columns bring no new rows, so
commits that change rows are passed over. Delta's limit of 1,000 files in a micro-batch stands: it
bounds what the driver plans at once. Not decided here: which tables, and what is done with a date
(`dicom_assets.steps.stream`).
"""

# pyright: reportMissingImports=false
# PySpark is an extra: `pip install 'dicom-assets[spark]'`

import re
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import reduce
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.keys import hex_key
from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.lakehouse.spark_engine import SparkEngine
from dicom_assets.lakehouse.tables import Table
from dicom_assets.lakehouse.told import told_plainly

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_CONDITION = re.compile(r"\[([A-Z][A-Z0-9_.]+)\]")
_LOOK_SECONDS = 0.1


class StreamError(PlainError):
    """The stream has ended before its time. The message says what to do."""


class _EndedError(PlainError):
    """A micro-batch was left to the next start, since the query is ending."""


class DatesWithNews:
    """A running query that hands over the ingest dates of new rows."""

    def __init__(
        self,
        engine: SparkEngine,
        tables: Sequence[Table],
        work: Callable[[date], None],
        every: float | None,
        stop: Event,
    ) -> None:
        """Starts the query.

        Args:
            engine: Where the tables lie.
            tables: Which ones; partitioned by ingest date. They are made where they are not there.
            work: Is called with each date, on a thread of Spark's.
            every: How often new rows are looked for, in seconds; None for once, until all that is
                there was worked on.
            stop: Asks for the end, after the date at hand.
        """
        self._engine, self._work, self._stop = engine, work, stop
        self._is_ending = False
        self._error: BaseException | None = None
        for table in tables:
            engine.prepare(table)
        frame = reduce(lambda a, b: a.union(b), map(self._dates_of, tables))
        trigger: dict[str, Any] = (
            {"availableNow": True}
            if every is None
            else {"processingTime": f"{round(every * 1000)} milliseconds"}
        )
        self._query = (
            frame.writeStream.queryName("dicom_assets")
            .option("checkpointLocation", str(self._checkpoint(tables)))
            .foreachBatch(self._take)
            .trigger(**trigger)
            .start()
        )

    @property
    def is_over(self) -> bool:
        """Whether all that was there has been worked on, or something broke."""
        return not self._query.isActive

    def end(self) -> None:
        """Ends the query, after the date at hand; the next start goes on from there.

        Raises:
            Exception: What broke while a date was worked on, as it was raised.
            StreamError: The query itself broke.
        """
        self._is_ending = True
        # `stop` alone would cancel the jobs of a step
        while self._query.isActive and self._query.status["isTriggerActive"]:
            time.sleep(_LOOK_SECONDS)
        self._query.stop()
        if isinstance(self._error, _EndedError):
            return
        if self._error is not None:
            raise self._error
        if (broken := self._query.exception()) is not None:
            raise StreamError(self._told(str(broken)))

    def _dates_of(self, table: Table) -> "DataFrame":
        folder = self._engine.layout.table(table.layer, table.name)
        reader = self._engine.spark.readStream.format("delta").option("skipChangeCommits", "true")
        return reader.load(str(folder)).select(INGEST_DATE)

    def _checkpoint(self, tables: Sequence[Table]) -> Path:
        """Returns the folder of these tables' checkpoint; one that was made anew has another."""
        root = self._engine.layout.checkpoint_root
        folder = root / hex_key(*map(self._engine.identity, tables))[:16]
        for other in root.iterdir():
            if other != folder:
                shutil.rmtree(other)
        return folder

    def _take(self, rows: "DataFrame", _batch: int) -> None:
        """Works on the dates of a micro-batch; what Spark is told of an error names no patient."""
        from pyspark.sql import functions as f

        try:
            with told_plainly():
                self._go_on()
                for day in sorted(rows.agg(f.collect_set(INGEST_DATE)).collect()[0][0]):
                    self._go_on()
                    self._work(day)
        except BaseException as error:
            self._error = error
            raise

    def _go_on(self) -> None:
        if self._is_ending or self._stop.is_set():
            raise _EndedError("ending; the next start takes this micro-batch")

    def _told(self, said: str) -> str:
        conditions = [each for each in _CONDITION.findall(said) if each != "STREAM_FAILED"]
        return (
            f"the streaming query broke: {', '.join(conditions) or 'it does not say why'}. Run the"
            " stream again: it goes on from where it was. When it breaks in the same way, remove"
            f" {self._engine.layout.checkpoint_root}: then it looks at every date once, and nothing"
            " is done twice"
        )
