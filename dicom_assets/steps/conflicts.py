"""Conflicts between files: which of those that were met are open, and all of them found again.

Decided here: a conflict is open while files count on both sides. It is decided once one side was
deleted or has come elsewhere, or a change of patient made both the same; a restore opens it again.
So silver/conflicts keeps all that were met, and what is open is worked out when somebody asks. Not
decided here: in what two files contradict each other (`current_files`), or which files count
(`whole`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import date
from itertools import islice

import pyarrow as pa

from dicom_assets.fhir.imaging_study import is_told
from dicom_assets.lakehouse.buckets import Buckets
from dicom_assets.lakehouse.engine import LocalEngine, Table
from dicom_assets.lakehouse.query import Where
from dicom_assets.steps import catalog
from dicom_assets.steps.corrections import Corrections
from dicom_assets.steps.current_files import (
    FILE,
    Row,
    Settling,
    StudyUid,
    first_seen,
    study_key_of,
)
from dicom_assets.steps.run import Run
from dicom_assets.steps.whole import counting, studies_by_key

UID_OF_LEVEL = {
    "study": "studyInstanceUid",
    "series": "seriesInstanceUid",
    "instance": "sopInstanceUid",
}
"""Level of a conflict → the column that says whom it is about."""

_UIDS_AT_A_TIME = 500
_OLDER_AND_NEWER = ("olderValue", "newerValue")


def open_conflicts(
    engine: LocalEngine,
    metastore: Table,
    *,
    ingest_date: date | None = None,
    where: Where | None = None,
) -> list[Row]:
    """Returns those conflicts that nobody has decided yet.

    Files are asked only where a study was written anew: of the others everything counts.

    Args:
        engine: The lakehouse.
        metastore: What files say.
        ingest_date: Only those that this date brought.
        where: Column of silver/conflicts → values, of which a row must have one.
    """
    table = catalog.CONFLICTS
    met = engine.read(table, table.schema.names, ingest_date=ingest_date, where=where).to_pylist()
    keys = {study_key_of(*study) for row in met for study in _studies(row)}
    written_anew = {study for study, row in studies_by_key(engine, keys).items() if row["wholeAt"]}
    found, doubtful = {}, {}
    for row in met:
        if written_anew.isdisjoint(_studies(row)):
            found[row["id"]] = row
        else:
            doubtful[row["id"]] = row
    if doubtful:
        asked = {about(row) for row in doubtful.values()}
        for row in _between_files_that_count(engine, metastore, asked):
            # the same values were met, or other files are in conflict now than were
            day = doubtful.get(row["id"], row)["ingestDate"]
            if ingest_date in (None, day):
                found[row["id"]] = row | {"ingestDate": day}
    return list(found.values())


def all_conflicts(run: Run, corrections: Corrections) -> Iterator[tuple[date, list[Row]]]:
    """Yields every conflict that files were ever in, by the newer one's date, for a new table."""
    engine, schema = run.engine, pa.schema([run.metastore.schema.field(name) for name in FILE])
    days = sorted(engine.rows_by_date(run.metastore))
    count = Buckets.enough_for(engine.row_count(run.metastore))
    for level, uid in UID_OF_LEVEL.items():
        key = ("sourceSystem", uid)
        shares = Buckets(schema, key, count=count, folder=engine.layout.scratch)
        for day in days:
            rows = engine.read(run.metastore, FILE, ingest_date=date.fromisoformat(day))
            shares.add(corrections.with_patients(rows).select(schema.names).cast(schema))
        for share in shares:
            yield from _by_day(_ever_between(share.to_pylist(), level))


def conflicts_about(
    run: Run, corrections: Corrections, asked: Collection[tuple[str, ...]]
) -> Iterator[tuple[date, list[Row]]]:
    """Yields every conflict, among those asked for (`about`), that files were ever in, by date."""
    for level, uid in UID_OF_LEVEL.items():
        left = iter(sorted({each[2] for each in asked if each[0] == level}))
        while some := list(islice(left, _UIDS_AT_A_TIME)):
            rows = run.engine.read(run.metastore, FILE, where={uid: some})
            found = _ever_between(corrections.with_patients(rows).to_pylist(), level)
            yield from _by_day(row for row in found if about(row) in asked)


def _ever_between(rows: list[Row], level: str) -> Iterator[Row]:
    """Yields the conflicts of one level between the files of metastore rows (FILE)."""
    arrived, came = first_seen(rows), _first_dates(rows)
    files = [
        row | {"arrivedAt": arrived[file], "ingestDate": came[file]}
        for row in rows
        if is_told(row["seriesInstanceUid"], row["sopInstanceUid"])
        for file in [_file(row)]
    ]
    yield from _between(files, level)


def _by_day(conflicts: Iterable[Row]) -> list[tuple[date, list[Row]]]:
    found: defaultdict[date, list[Row]] = defaultdict(list)
    for conflict in conflicts:
        found[conflict["ingestDate"]].append(conflict)
    return sorted(found.items())


def _between_files_that_count(
    engine: LocalEngine, metastore: Table, asked: Collection[tuple[str, ...]]
) -> Iterator[Row]:
    """Yields the conflicts, among those asked for, that files have which count."""
    corrections = Corrections.read(engine)
    for level, uid in UID_OF_LEVEL.items():
        left = iter(sorted({each[2] for each in asked if each[0] == level}))
        while some := list(islice(left, _UIDS_AT_A_TIME)):
            rows = engine.read(metastore, FILE, where={uid: some})
            # an instance may contradict itself in where it stands
            came = _first_dates(rows.to_pylist())
            rows = counting(engine, corrections, rows, wherever=level == "instance")
            files = [
                row | {"ingestDate": came[_file(row)]}
                for row in corrections.with_patients(rows).to_pylist()
            ]
            for conflict in _between(files, level):
                if about(conflict) in asked:
                    yield conflict


def _between(files: list[Row], level: str) -> Iterator[Row]:
    """Yields the conflicts of one level between files (FILE), with the newer one's date."""
    settling = Settling([])
    settling.take(files)
    # an object that was replaced has come twice under one path
    came = {
        (file["filePath"], file.get("arrivedAt") or file["ingestedAt"]): file["ingestDate"]
        for file in files
    }
    for row in settling.conflicts:
        if row["level"] == level:
            yield {"ingestDate": came[row["newerPath"], row["newerArrivedAt"]]} | row


def _first_dates(rows: list[Row]) -> dict[tuple[str, str | None], date]:
    """Returns files → the date that brought them; a date that read them again did not."""
    found: dict[tuple[str, str | None], date] = {}
    for row in rows:
        found[_file(row)] = min(row["ingestDate"], found.get(_file(row), row["ingestDate"]))
    return found


def _file(row: Row) -> tuple[str, str | None]:
    return row["filePath"], row["version"]


def about(conflict: Row) -> tuple[str, str, str, str]:
    """Returns whom and what a conflict is about: level, source system, UID and attribute."""
    level = conflict["level"]
    return level, conflict["sourceSystem"], conflict[UID_OF_LEVEL[level]], conflict["attribute"]


def _studies(conflict: Row) -> set[StudyUid]:
    uids = {conflict["studyInstanceUid"]}
    if conflict["attribute"] == "studyInstanceUid":
        uids |= {conflict[side] for side in _OLDER_AND_NEWER}
    return {(conflict["sourceSystem"], uid) for uid in uids}
