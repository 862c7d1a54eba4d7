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
from operator import itemgetter

import pyarrow as pa

from dicom_assets.fhir.imaging_study import is_told
from dicom_assets.lakehouse.engine import LocalEngine, Progress
from dicom_assets.steps import catalog
from dicom_assets.steps.corrections import Corrections, new_operations, what_is_about
from dicom_assets.steps.current_files import (
    FILE,
    Row,
    Settling,
    instance_key,
    keys_of,
    known_studies,
    study_key_of,
)
from dicom_assets.steps.report import Report, reporting
from dicom_assets.steps.run import Run

STEP = "settle"
TABLE = catalog.CURRENT_FILES


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
    until = engine.version(metastore)
    new = engine.table_of_new(
        metastore, FILE, since=engine.progress(TABLE, app_id), until=until, ingest_date=day
    ).to_pylist()
    if new:
        settling = _settled(engine, new, corrections)
        _write(engine, settling, Progress(app_id, until), day, report)


def settle_again(run: Run, instances: Collection[tuple[str, str]]) -> None:
    """Settles some instances anew from all their metastore rows, for `repair`.

    Args:
        run: The run.
        instances: Source system and SOP Instance UID of each.
    """
    engine, corrections = run.engine, Corrections.read(run.engine)
    where = {
        "sourceSystem": {system for system, _ in instances},
        "sopInstanceUid": {uid for _, uid in instances},
    }
    files: defaultdict[int, list[Row]] = defaultdict(list)
    for file in engine.read(run.metastore, FILE, where=where).to_pylist():
        files[instance_key(file["sourceSystem"], file["sopInstanceUid"])].append(file)
    forgotten = {instance_key(*each) for each in instances}
    by_day: defaultdict[date, list[Row]] = defaultdict(list)
    for key in forgotten & set(files):
        by_day[min(file["ingestDate"] for file in files[key])] += files[key]
    for day, some in sorted(by_day.items()):
        settling = _settled(engine, some, corrections, forgotten)
        _write(engine, settling, None, day, Report(STEP))


def _settled(
    engine: LocalEngine, new: list[Row], corrections: Corrections, forgotten: Collection[int] = ()
) -> Settling:
    """Takes metastore rows into what is known of them, but for what is forgotten."""
    files = [row for row in new if is_told(row["seriesInstanceUid"], row["sopInstanceUid"])]
    known = _known(engine, {key for file in files for key in keys_of(file)})
    elsewhere = known_studies(known) - {row["id"] for row in known}
    known = [row for row in known if row["id"] not in forgotten]
    settling = Settling([*known, *_known(engine, elsewhere)])
    settling.take(files)
    _set_deleted(settling, corrections)
    return settling


def _take_operations(run: Run, day: date, corrections: Corrections, report: Report) -> None:
    engine = run.engine
    app_id = engine.app_id(STEP, catalog.OPERATIONS, day)
    since, until = engine.progress(TABLE, app_id), engine.version(catalog.OPERATIONS)
    operations = new_operations(engine, day, since=since, until=until)
    if not operations:
        return
    instances, studies = what_is_about(engine, run.metastore, corrections, operations)
    keys = {study_key_of(*study) for study in studies}
    known = _known(engine, keys)
    settling = Settling([*instances, *known])
    _set_deleted(settling, corrections)
    at = max(map(itemgetter("takenAt"), operations))
    for row in known:
        settling.whole(row["id"], at)
    _write(engine, settling, Progress(app_id, until), day, report)


def _known(engine: LocalEngine, keys: Collection[int]) -> list[Row]:
    columns = [name for name in TABLE.schema.names if name != TABLE.partition]
    return engine.read(TABLE, columns, where={"id": keys}).to_pylist()


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
        schema = pa.schema([f for f in table.schema if f.name != table.partition])
        found = pa.Table.from_pylist(rows, schema=schema)
        engine.upsert(table, found, progress=done, ingest_date=day)
    report.rows += len(changed)
    report.count({"conflicts": len(conflicts)})
