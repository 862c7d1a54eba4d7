"""Operations: the rows of bronze/operations against the files that they were read from.

Decided here: that each operation of a file has a row, of whichever date, for a file may come again;
and that a row's file lies in the folder of its date. One is told from another by its id, or, where
the file says none, by what it says. Nothing is mended: an operation that is taken in anew is about
everything that has come since. Not decided here: what an operation may say
(`lakehouse.operations`).
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import date
from typing import Any

from msgspec import UNSET

from dicom_assets.lakehouse.operations import WHAT, Operation, OperationError, parse, rows
from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.steps import catalog
from dicom_assets.steps.findings import Findings, Kind
from dicom_assets.steps.run import Run
from dicom_assets.steps.verify_date import repeated
from dicom_assets.steps.verify_files import Trees, names_in

_TABLE = catalog.OPERATIONS
_SAID = (*WHAT, "requestedBy", "reason")
Told = tuple[str | None, ...]
"""Source system, and an id or all that is said."""


def compare_operations(run: Run, trees: Trees, found: Findings, days: Collection[date]) -> None:
    """Compares the operations of some dates with their files; adds what it finds."""
    columns = [INGEST_DATE, "sourceSystem", "operationId", *_SAID]
    known = run.engine.read(_TABLE, columns).to_pylist()  # they are few
    ids, said = {_by_id(row) for row in known}, {_by_text(row) for row in known}
    of_days = (row for row in known if row[INGEST_DATE] in days)
    for each in repeated((row[INGEST_DATE], *_by_id(row)) for row in of_days):
        found.add(Kind.DUPLICATE, f"{_TABLE.full_name}: {each}")
    lying: set[tuple[date, Told]] = set()
    for day, address, of_file in _files(run, trees, found, days):
        for number, row in enumerate(of_file, start=1):
            if _by_id(row) not in ids and _by_text(row) not in said:
                what = f"{address}, operation {number}"
                found.add(Kind.OPERATION, what, day=day, note="without a row")
            lying |= {(day, _by_id(row)), (day, _by_text(row))}
    for row in known:
        day = row[INGEST_DATE]
        if day in days and not lying & {(day, _by_id(row)), (day, _by_text(row))}:
            what = f"{_TABLE.full_name}: {row['operationId']}"
            found.add(Kind.OPERATION, what, day=day, note="the file is not there")


def _files(
    run: Run, trees: Trees, found: Findings, days: Collection[date]
) -> Iterator[tuple[date, str, list[dict[str, Any]]]]:
    """Yields date, address and operations of each file."""
    layout = run.engine.layout
    for day in days:
        for system, folder in trees.operations.get(day, {}).items():
            for name in names_in(layout, folder, found):
                address = layout.relative(folder / name)
                try:
                    asked = parse((folder / name).read_bytes())
                except OperationError as error:
                    found.add(Kind.CONTENT, address, day=day, note=f"{error}")
                    continue
                yield day, address, [row | {"sourceSystem": system} for row in _said(asked)]


def _said(asked: Sequence[Operation]) -> Iterator[dict[str, Any]]:
    """Yields what rows would say; where a file says no id, none."""
    for each, row in zip(asked, rows(asked, source_path="", modified_us=0), strict=True):
        yield row | {"operationId": each.id if each.id is not UNSET else None}


def _by_id(row: dict[str, Any]) -> Told:
    return row["sourceSystem"], row["operationId"]


def _by_text(row: dict[str, Any]) -> Told:
    return row["sourceSystem"], *(row[name] for name in _SAID)
