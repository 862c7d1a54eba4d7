"""Step settle: which file speaks for each instance, and what files contradict each other in.

Decided here: that new metastore rows, then new deletes, restores and changes of patient, are taken
into silver/current_files, each with its progress; conflicts are written first, so that none is lost
to a kill. A file whose UIDs FHIR cannot hold speaks for nothing: it fails when it is converted. Not
decided here: the rules (`current_files`, `corrections`), or what is written because
of them (`convert`).
"""

from collections import defaultdict
from collections.abc import Collection
from datetime import date
from itertools import chain
from operator import itemgetter

import pyarrow as pa

from dicom_assets.fhir.imaging_study import is_told
from dicom_assets.lakehouse.allocator import give_back_memory
from dicom_assets.lakehouse.engine import LocalEngine, Progress, Table
from dicom_assets.steps import catalog
from dicom_assets.steps.conflicts import all_conflicts, conflicts_about
from dicom_assets.steps.corrections import Corrections, new_operations, what_is_about
from dicom_assets.steps.current_files import (
    FILE,
    Row,
    Settling,
    StudyUid,
    first_seen,
    keys_of,
    known_studies,
    study_key_of,
)
from dicom_assets.steps.report import Report, now, reporting
from dicom_assets.steps.run import Run

STEP = "settle"
TABLE = catalog.CURRENT_FILES
_FILES_AT_ONCE = 10_000
"""Each takes some 5 KB while it is compared."""


def settle(run: Run) -> Report:
    """Takes the partition's new metastore rows and operations into silver/current_files.

    Where the table has just been made, all other dates come first.

    Returns:
        Rows = rows of silver/current_files that are new or changed; count `conflicts` met.
    """
    engine = run.engine
    with reporting(STEP, engine.layout.root) as report:
        report.count({"conflicts": 0})
        corrections = Corrections.read(engine)
        every_date = Progress(f"{STEP}/{engine.identity(run.metastore)}", 0)
        if engine.version(run.metastore) < 0:
            return report
        if engine.progress(catalog.CONFLICTS, every_date.app_id) is None:
            _refill_conflicts(run, corrections)
            engine.upsert(
                catalog.CONFLICTS,
                _rows(catalog.CONFLICTS, []),
                progress=every_date,
                ingest_date=run.ingest_date,
            )
        if engine.progress(TABLE, every_date.app_id) is None:
            for day in sorted(engine.rows_by_date(run.metastore)):
                _take_files(run, date.fromisoformat(day), corrections, report)
            for day in sorted(engine.rows_by_date(catalog.OPERATIONS)):
                _take_operations(run, date.fromisoformat(day), corrections, report)
            _write(engine, Settling([]), every_date, run.ingest_date, report)
        _take_files(run, run.ingest_date, corrections, report)
        _take_operations(run, run.ingest_date, corrections, report)
    return report


def _take_files(run: Run, day: date, corrections: Corrections, report: Report) -> None:
    engine, metastore = run.engine, run.metastore
    app_id = engine.app_id(STEP, metastore, day)
    parts = engine.new_parts(
        metastore,
        FILE,
        since=engine.progress(TABLE, app_id),
        until=engine.version(metastore),
        ingest_date=day,
        most=_FILES_AT_ONCE,
        in_order_of="ingestedAt",  # what is settled later must not have arrived earlier
    )
    for new, version in parts:
        if new.num_rows:
            settling = _settled(run, new.to_pylist(), corrections)
            _write(engine, settling, Progress(app_id, version), day, report)
            del settling
            give_back_memory()


def _refill_conflicts(run: Run, corrections: Corrections) -> None:
    """Finds conflicts again where their table was removed."""
    if run.engine.version(TABLE) < 0:
        return
    table = catalog.CONFLICTS
    for day, rows in all_conflicts(run, corrections):
        run.engine.upsert(table, _rows(table, rows), progress=None, ingest_date=day)


def meet_again(run: Run, asked: Collection[tuple[str, ...]], gone: Collection[int]) -> None:
    """Finds some conflicts again from the metastore, for `repair`.

    Args:
        run: The run.
        asked: Whom and in what (`conflicts.about`).
        gone: Keys of rows that are to go.
    """
    table = catalog.CONFLICTS
    nothing = _rows(table, [])
    run.engine.upsert(table, nothing, progress=None, ingest_date=run.ingest_date, gone=gone)
    for day, rows in conflicts_about(run, Corrections.read(run.engine), asked):
        run.engine.upsert(table, _rows(table, rows), progress=None, ingest_date=day)


def settle_again(run: Run, studies: Collection[StudyUid]) -> None:
    """Settles some studies anew, and all their instances, from the metastore, for `repair`.

    Args:
        run: The run.
        studies: Source system and Study Instance UID of each.
    """
    engine, corrections = run.engine, Corrections.read(run.engine)
    where = {
        "sourceSystem": {system for system, _ in studies},
        "studyInstanceUid": {uid for _, uid in studies},
    }
    rows = engine.read(run.metastore, ["sopInstanceUid"], where=where)
    where = {
        "sourceSystem": where["sourceSystem"],
        "sopInstanceUid": set(rows["sopInstanceUid"].to_pylist()),
    }
    by_day: defaultdict[date, list[Row]] = defaultdict(list)
    for file in engine.read(run.metastore, FILE, where=where).to_pylist():
        by_day[file["ingestDate"]].append(file)
    forgotten: set[int] = {study_key_of(*study) for study in studies}
    for file in chain.from_iterable(by_day.values()):
        if (file["sourceSystem"], file["studyInstanceUid"]) in studies:
            forgotten |= {*keys_of(file)}
    for day, files in sorted(by_day.items()):
        settling = _settled(run, files, corrections, forgotten)
        for study in {study_key_of(*study) for study in studies} & settling.keys:
            settling.whole(study, now())
        _write(engine, settling, None, day, Report(STEP))
        forgotten -= settling.keys


def _settled(
    run: Run, new: list[Row], corrections: Corrections, forgotten: Collection[int] = ()
) -> Settling:
    """Takes metastore rows into what is known of them, but for what is forgotten."""
    engine = run.engine
    files = [row for row in new if is_told(row["seriesInstanceUid"], row["sopInstanceUid"])]
    _set_arrival(run, files, corrections)
    for file in files:
        told = (file["sourceSystem"], file["studyInstanceUid"], file["patientId"])
        file["patientId"] = corrections.patient_id(*told)
    known = _known(engine, {key for file in files for key in keys_of(file)})
    elsewhere = known_studies(known) - {row["id"] for row in known}
    known = [row for row in known if row["id"] not in forgotten]
    settling = Settling([*known, *_known(engine, elsewhere)])
    settling.take(files)
    _set_deleted(settling, corrections)
    return settling


def _set_arrival(run: Run, files: list[Row], corrections: Corrections) -> None:
    """Says of rows of files that were read again when these were taken in."""
    again = {file["filePath"] for file in files if file["ingestedAt"] in corrections.reread_at}
    columns = ["filePath", "version", "ingestedAt"]
    rows = run.engine.read(run.metastore, columns, where={"filePath": again})
    arrived = first_seen(rows.to_pylist())
    for file in files:
        if file["filePath"] in again:
            file["arrivedAt"] = arrived[file["filePath"], file["version"]]


def _take_operations(run: Run, day: date, corrections: Corrections, report: Report) -> None:
    engine = run.engine
    app_id = engine.app_id(STEP, catalog.OPERATIONS, day)
    since, until = engine.progress(TABLE, app_id), engine.version(catalog.OPERATIONS)
    operations = new_operations(engine, day, since=since, until=until)
    if not operations:
        return
    instances, studies = what_is_about(engine, corrections, operations)
    keys = {study_key_of(*study) for study in studies}
    known = _known(engine, keys)
    settling = Settling([*instances, *known])
    _set_deleted(settling, corrections)
    at = max(map(itemgetter("takenAt"), operations))
    for row in known:
        settling.whole(row["id"], at)
    _write(engine, settling, Progress(app_id, until), day, report)


def _rows(table: Table, rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=table.upserted)


def _known(engine: LocalEngine, keys: Collection[int]) -> list[Row]:
    return engine.read(TABLE, TABLE.upserted.names, where={"id": keys}).to_pylist()


def _set_deleted(settling: Settling, corrections: Corrections) -> None:
    for row in settling.instances():
        row["deletedAt"] = corrections.deleted_at(row)


def _write(
    engine: LocalEngine,
    settling: Settling,
    progress: Progress | None,
    day: date,
    report: Report,
) -> None:
    """Writes what changed; conflicts first: they cannot be told again once rows are written."""
    changed, conflicts = settling.changed, settling.conflicts
    for table, rows, done in ((catalog.CONFLICTS, conflicts, None), (TABLE, changed, progress)):
        if rows or done:
            engine.upsert(table, _rows(table, rows), progress=done, ingest_date=day)
    report.rows += len(changed)
    report.count({"conflicts": len(conflicts)})
