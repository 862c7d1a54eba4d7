"""What a step hands back and how it tells of its progress while it works.

Decided here: the shape of a step's report and the progress record. Not decided here: who shows them
(`dicom_assets.defs` in Dagster's UI, `dicom_assets.cli` on a terminal).
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dicom_assets.lakehouse.allocator import give_back_memory
from dicom_assets.lakehouse.lock import locked
from dicom_assets.lakehouse.storage_error import told_without_names

PROGRESS_LOG = logging.getLogger("dicom_assets.progress")
_INTERVAL_SECONDS = 1.0


@dataclass
class Report:
    """What one step did in one run.

    Attributes:
        step: The step's name.
        rows: Rows written.
        counts: Further counts, by name.
        size: Bytes read of DICOM files.
        seconds: How long it took.
    """

    step: str
    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    size: int = 0
    seconds: float = 0.0

    def count(self, more: Mapping[str, int]) -> None:
        """Adds to the further counts."""
        for name, number in more.items():
            self.counts[name] = self.counts.get(name, 0) + number


@contextmanager
def reporting(step: str, root: Path) -> Iterator[Report]:
    """Makes a report and takes the time, while no other step works on the lakehouse.

    Args:
        step: The step's name.
        root: Root of the lakehouse.

    Raises:
        StorageError: The storage failed; what is done goes on from there when it is run again.
    """
    report = Report(step)
    with told_without_names(), locked(root):
        begin = time.perf_counter()
        yield report
        if report.rows:  # or what each step has kept would add up
            give_back_memory()
        report.seconds = time.perf_counter() - begin


class Progress:
    """Tells how far a step is, at most once a second.

    Each record of `PROGRESS_LOG` carries `step`, `done` and `total`.
    """

    def __init__(self, step: str, total: int, unit: str) -> None:
        """Starts at zero of `total` things called `unit`."""
        self._step, self._total, self._unit = step, total, unit
        self._done, self._told = 0, time.monotonic()

    def expect(self, count: int) -> None:
        """Counts things that are to be done, beside those known from the beginning."""
        self._total += count

    def advance(self, count: int = 1) -> None:
        """Counts things done; tells when a second has gone by since the last word."""
        self._done += count
        now = time.monotonic()
        if now - self._told >= _INTERVAL_SECONDS:
            self._told = now
            self._tell()

    def _tell(self) -> None:
        PROGRESS_LOG.info(
            "%s: %s of %s %s",
            self._step,
            f"{self._done:,}",
            f"{self._total:,}",
            self._unit,
            extra={"step": self._step, "done": self._done, "total": self._total},
        )


def now() -> datetime:
    """Returns the instant, UTC, in the tables' microseconds."""
    return datetime.now(UTC)
