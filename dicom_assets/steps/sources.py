"""Where a dropped file came from, as rows say it.

Decided here: which of a drop folder's folders is a source system, and what a failure to take a
dropped file in says. Not decided here: what fails (`organise`, `organise_fhir`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from dicom_assets.lakehouse.drop_folder import Dropped
from dicom_assets.lakehouse.journal import microseconds
from dicom_assets.lakehouse.layout import DEFAULT_SOURCE_SYSTEM, printable
from dicom_assets.lakehouse.reasons import Reason, Step
from dicom_assets.steps.report import now


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file came from: what its row says of it."""

    path: str
    system: str
    modified_ns: int

    @classmethod
    def of(cls, entry: Dropped, drop_folder: Path, is_namespace: Callable[[str], bool]) -> "Source":
        """Returns where an entry of a drop folder came from.

        Args:
            entry: The entry.
            drop_folder: The drop folder.
            is_namespace: Says whether a first-level folder names a source system.
        """
        inside = printable(entry.address[len(str(drop_folder)) + 1 :])
        first, _, rest = inside.partition("/")
        named = rest and is_namespace(first)
        return cls(inside, first if named else DEFAULT_SOURCE_SYSTEM, entry.modified_ns)

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The folder it was dropped in."""
        return self.path.rpartition("/")[0]

    def inside(self, member: str) -> "Source":
        """Returns where a member of this archive came from."""
        return Source(f"{self.path}!/{printable(member)}", self.system, self.modified_ns)

    def failure(
        self,
        step: Step,
        reason: Reason,
        message: str,
        *,
        failed_path: str,
        day: date,
        run_id: str,
        line: int | None = None,
    ) -> dict[str, Any]:
        """Returns a failure's row as the journal takes it."""
        return {
            "ingestDate": day.isoformat(),
            "sourceSystem": self.system,
            "step": step,
            "reasonCode": str(reason),
            "message": message,
            "sourcePath": self.path,
            "failedPath": failed_path,
            "line": line,
            "failedAt": microseconds(now()),
            "runId": run_id,
        }
