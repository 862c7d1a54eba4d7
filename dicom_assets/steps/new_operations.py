"""Which operations of a dropped file are new.

Decided here: that one is told from another by its id, within its source system, and that an id
never stands for two things. Not decided here: what an operation may say, or what its id is where it
does not say one (`lakehouse.operations`).
"""

from collections.abc import Sequence
from typing import Any

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.operations import WHAT, Operation, OperationError, rows, what
from dicom_assets.steps import catalog


class NewOperations:
    """Tells new operations from those that were taken in, or are planned to be."""

    def __init__(self, engine: LocalEngine) -> None:
        """Knows what the table holds, and nothing that is planned."""
        self._engine = engine
        self._planned: dict[tuple[str, str], dict[str, str | None]] = {}
        self._known = 0

    def of(
        self,
        asked: Sequence[Operation],
        *,
        source_system: str,
        source_path: str,
        modified_us: int,
    ) -> list[dict[str, Any]]:
        """Returns rows, without date and instant, of the operations that are new, each once.

        Raises:
            OperationError: An id stands for something else already.
        """
        found = list(rows(asked, source_path=source_path, modified_us=modified_us))
        ids = {row["operationId"] for row in found}
        taken = self._engine.read(
            catalog.OPERATIONS,
            ["operationId", *WHAT],
            where={"operationId": ids, "sourceSystem": [source_system]},
        )
        known = {(source_system, row["operationId"]): what(row) for row in taken.to_pylist()}
        known |= self._planned
        new = []
        for number, row in enumerate(found, start=1):
            key, said = (source_system, row["operationId"]), what(row)
            if key not in known:
                known[key] = said
                new.append(row | {"sourceSystem": source_system})
            elif known[key] != said:
                raise OperationError(f"operation {number}: its id is that of another operation")
        self._planned = known
        self._known += len(found) - len(new)
        return new

    def known(self) -> int:
        """Returns how many were not new, and forgets what was planned: it has been carried out."""
        number, self._known, self._planned = self._known, 0, {}
        return number
