"""Status: what the lakehouse holds, by date and by table, and what failed.

Decided here: which numbers, failures and conflicts a person sees. Rows of a date come from file
statistics, what silver and gold hold of it from the keys of its studies.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from operator import itemgetter

import pandas as pd

from dicom_assets.fhir.silver import silver_ids
from dicom_assets.lakehouse.engine import LocalEngine, Table
from dicom_assets.omop.note import SOURCE_TABLE as REPORT
from dicom_assets.settings import Settings
from dicom_assets.steps import catalog
from dicom_assets.steps.conflicts import open_conflicts
from dicom_assets.steps.current_files import Row
from dicom_assets.steps.reconcile import Day, process_files
from dicom_assets.steps.run import Run


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
    """Returns the last ingest dates that hold something, newest first.

    A study, and each of its series, counts for every date on which a part of it came.
    """
    tables = {
        "organised": catalog.PROCESS_FILES,
        "metastore": catalog.metastore(settings.promoted),
        "ImagingStudy": catalog.BRONZE_IMAGING_STUDY,
        "failures": catalog.INGESTION_FAILURES,
    }
    tables |= {kind: catalog.bronze_fhir(kind) for kind in settings.fhir_resource_types}
    rows = {name: engine.rows_by_date(table) for name, table in tables.items()}
    found = sorted({day for counts in rows.values() for day in counts}, reverse=True)[:days]
    ids = {day: _studies(engine, date.fromisoformat(day)) for day in found}
    every_id = set().union(*ids.values())
    silver = _count_by(engine, catalog.silver_imaging_study(), "id", every_id)
    gold = _count_by(engine, catalog.IMAGE_OCCURRENCE, "sourceRecordId", every_id)
    return [
        DayStatus(
            day,
            {
                "in Process": _files(engine, day),
                "organised": rows["organised"].get(day, 0),
                "metastore": rows["metastore"].get(day, 0),
                "bronze studies": rows["ImagingStudy"].get(day, 0),
                "silver studies": sum(silver[study] for study in ids[day]),
                "gold series": sum(gold[study] for study in ids[day]),
                "other FHIR": sum(rows[each].get(day, 0) for each in settings.fhir_resource_types),
                "failures": rows["failures"].get(day, 0),
            },
        )
        for day in found
    ]


def _studies(engine: LocalEngine, day: date) -> set[str]:
    lines = engine.read(catalog.BRONZE_IMAGING_STUDY, ["sourceSystem", "id"], ingest_date=day)
    return set(silver_ids("ImagingStudy", lines))


def _count_by(engine: LocalEngine, table: Table, column: str, values: set[str]) -> Counter[str]:
    return Counter(engine.read(table, [column], where={column: values})[column].to_pylist())


def unusual(settings: Settings, days: Iterable[DayStatus]) -> list[DayStatus]:
    """Returns those of these dates on which files came again, late or otherwise odd."""
    found = []
    for each in days:
        day = Day(Run.of(settings, each.day))
        resent, in_parts = day.resent(), day.in_parts()
        counts = {
            "instances sent repeatedly": resent["resent"],
            "with other content": resent["conflicting"],
            "studies late": in_parts["late"],
            "studies out of order": in_parts["out_of_order"],
            "studies also in another namespace": day.in_other_namespaces(),
        }
        if any(counts.values()):
            found.append(DayStatus(each.day, counts))
    return found


def totals(engine: LocalEngine, settings: Settings) -> dict[str, int]:
    """Returns the rows of every table."""
    tables: tuple[Table, ...] = (
        catalog.PROCESS_FILES,
        catalog.EXTERNAL_FILES,
        catalog.metastore(settings.promoted),
        catalog.CURRENT_FILES,
        catalog.BRONZE_IMAGING_STUDY,
        catalog.silver_imaging_study(),
        catalog.IMAGE_OCCURRENCE,
        *([catalog.PERSON] if settings.omop_person else []),
        *([catalog.PROCEDURE_OCCURRENCE] if settings.omop_procedure_occurrence else []),
        *map(catalog.bronze_fhir, settings.fhir_resource_types),
        *map(catalog.silver_fhir, settings.fhir_resource_types),
        *([catalog.NOTE] if REPORT in settings.fhir_resource_types else []),
        catalog.INGESTION_FAILURES,
    )
    return {f"{table.layer}/{table.name}": engine.row_count(table) for table in tables}


def contradicting(engine: LocalEngine, settings: Settings) -> dict[str, int]:
    """Counts the open conflicts by level and attribute, the most frequent first."""
    rows = open_conflicts(engine, catalog.metastore(settings.promoted))
    counts = Counter(f"{row['level']} {row['attribute']}" for row in rows)
    return dict(counts.most_common())


def contradictions(
    engine: LocalEngine, settings: Settings, *, attribute: str | None = None
) -> list[Row]:
    """Returns the open conflicts, the newest first."""
    where = {"attribute": [attribute]} if attribute else None
    rows = open_conflicts(engine, catalog.metastore(settings.promoted), where=where)
    return sorted(rows, key=itemgetter("newerArrivedAt"), reverse=True)


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
