"""Status: what the lakehouse holds, by date and by table, and what failed.

Decided here: which numbers a person sees. Rows by date come from file statistics, so that a look
costs the same however large the tables are.
"""

from dataclasses import dataclass
from datetime import date

import pandas as pd

from dicom_assets.lakehouse.engine import LocalEngine, Table
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog
from dicom_assets.steps.reconcile import process_files


@dataclass(frozen=True, slots=True)
class DayStatus:
    """One ingest date.

    Attributes:
        day: The ingest date, yyyy-mm-dd.
        counts: Files and rows, by what the column is called.
    """

    day: str
    counts: dict[str, int]


def by_date(engine: LocalEngine, settings: Settings, *, days: int) -> list[DayStatus]:
    """Returns the last ingest dates that hold something, newest first."""
    tables = {
        "organised": catalog.PROCESS_FILES,
        "metastore rows": catalog.metastore(settings.promoted),
        "bronze ImagingStudy": catalog.BRONZE_IMAGING_STUDY,
        "failures": catalog.INGESTION_FAILURES,
    }
    rows = {name: engine.rows_by_date(table) for name, table in tables.items()}
    found = sorted({day for counts in rows.values() for day in counts}, reverse=True)[:days]
    return [
        DayStatus(
            day,
            {
                "files in Process": _files(engine, day),
                **{name: counts.get(day, 0) for name, counts in rows.items()},
            },
        )
        for day in found
    ]


def totals(engine: LocalEngine, settings: Settings) -> dict[str, int]:
    """Returns the rows of every table."""
    tables: tuple[Table, ...] = (
        catalog.PROCESS_FILES,
        catalog.metastore(settings.promoted),
        catalog.BRONZE_IMAGING_STUDY,
        catalog.silver_imaging_study(),
        catalog.IMAGE_OCCURRENCE,
        *([catalog.PERSON] if settings.omop_person else []),
        *([catalog.PROCEDURE_OCCURRENCE] if settings.omop_procedure_occurrence else []),
        catalog.INGESTION_FAILURES,
    )
    return {f"{table.layer}/{table.name}": engine.row_count(table) for table in tables}


def failed(
    engine: LocalEngine, *, ingest_date: date | None = None, reason: str | None = None
) -> pd.DataFrame:
    """Returns failure rows, newest first."""
    table = catalog.INGESTION_FAILURES
    where = {"reasonCode": [reason]} if reason else None
    rows = engine.read(table, table.schema.names, ingest_date=ingest_date, where=where)
    return rows.to_pandas().sort_values("failedAt", ascending=False)


def _files(engine: LocalEngine, day: str) -> int:
    return sum(1 for _ in process_files(engine.layout, date.fromisoformat(day)))
