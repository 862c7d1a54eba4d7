"""Operation reread: stored files are read again, and get new rows beside their old ones.

Decided here: which files an operation names: of the instances that have all the UIDs it gives, the
newest files of its source system that were taken in before it; and that each is read once, however
many operations and rows name it. An older file of an instance is not read again: it says nothing
that counts, and must not become the newest.
The new rows stand in the operation's partition, with the instant at which it was taken in. A file
that cannot be read any more gives a failure; its old rows stand. Not decided here: what a header
says (`dicom_assets.dicom`), or what becomes of new rows (the steps that follow).
"""

from dataclasses import replace
from typing import Any, Final

import pyarrow as pa

from dicom_assets.lakehouse.engine import Progress
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.schemas import REQUIRED_TAGS
from dicom_assets.steps import catalog
from dicom_assets.steps.corrections import new_operations
from dicom_assets.steps.current_files import arrival, first_seen
from dicom_assets.steps.read_external import Task as ObjectTask
from dicom_assets.steps.read_external import read_objects
from dicom_assets.steps.read_files import Task, read_again
from dicom_assets.steps.report import Report
from dicom_assets.steps.run import Run

STEP: Final = "reread"
_FILES_PER_COMMIT = 500
_KNOWN = [
    field
    for field in catalog.metastore().schema
    if field.name
    in ("ingestDate", "sourceSystem", "filePath", "sourcePath", "contentHash", "sourceModifiedAt")
]
_FILE = pa.schema([*_KNOWN, catalog.PROCESS_FILES.schema.field("organisedAt")])
_OBJECT = pa.schema([*_KNOWN, catalog.EXTERNAL_FILES.schema.field("foundAt")])


def reread(run: Run, report: Report) -> None:
    """Reads again what the partition's new operations name.

    Args:
        run: The run; its caller holds the lakehouse's lock.
        report: Where rows, failures and, where there are any, `read_again` are counted.
    """
    engine = run.engine
    app_id = engine.app_id(STEP, catalog.OPERATIONS, run.ingest_date)
    until = engine.version(catalog.OPERATIONS)
    since = engine.progress(run.metastore, app_id)
    new = new_operations(engine, run.ingest_date, since=since, until=until)
    operations = [row for row in new if row["operation"] == STEP]
    if not operations:
        return
    files = _files(run, operations)
    done = Progress(app_id, until)
    failures: list[Failure] = []
    # none at all is a commit, too: it says that the operations are done
    for start in range(0, max(len(files), 1), _FILES_PER_COMMIT):
        chunk = files[start : start + _FILES_PER_COMMIT]
        rows, bad = _read(run, chunk)
        failures += bad
        is_last = start + _FILES_PER_COMMIT >= len(files)
        if is_last:
            run.record(failures, done)
        engine.append(
            run.metastore,
            pa.Table.from_batches(rows, schema=run.metastore.schema),
            progress=done if is_last else None,
            ingest_date=run.ingest_date,
        )
        count = sum(map(len, rows))
        report.rows += count
        report.count({"read_again": count})
    report.count({"failures": len(failures)})


def _read(run: Run, files: list[dict[str, Any]]) -> tuple[list[pa.RecordBatch], list[Failure]]:
    """Reads stored files, and objects of External where they lie."""
    settings = run.settings
    stored = [row for row in files if row["version"] is None]
    task = Task(
        run.engine.layout.root,
        run.ingest_date,
        pa.RecordBatch.from_pylist(stored, schema=_FILE),
        settings.promoted,
        level=0,
        max_header_bytes=settings.max_header_bytes,
    )
    rows, failures = read_again(task, step=STEP)
    lying = [row | {"foundAt": row["organisedAt"]} for row in files if row["version"] is not None]
    done = read_objects(
        ObjectTask(
            pa.RecordBatch.from_pylist(lying, schema=_OBJECT),
            settings.stores,
            settings.promoted,
            settings.max_header_bytes,
        )
    )
    failures += [replace(failure, step=STEP) for failure in done.failures]
    return [rows, done.rows], failures


def _files(run: Run, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the files that operations name and that have no row of theirs yet."""
    found: dict[str, dict[str, Any]] = {}
    columns = [*(field.name for field in _KNOWN), *REQUIRED_TAGS, "ingestedAt", "version"]
    for operation in sorted(operations, key=lambda each: each["takenAt"]):
        uids = {name: uid for name in REQUIRED_TAGS if (uid := operation[name])}
        system = {"sourceSystem": [operation["sourceSystem"]]}
        about = system | {name: [uid] for name, uid in uids.items()}
        rows = run.engine.read(run.metastore, ["sopInstanceUid"], where=about)
        # what other series or studies say of them may be newer
        where = system | {"sopInstanceUid": set(rows["sopInstanceUid"].to_pylist())}
        every = run.engine.read(run.metastore, columns, where=where).to_pylist()
        before = [row for row in every if row["ingestedAt"] < operation["takenAt"]]
        arrived = first_seen(before)
        for row in before:
            row["arrivedAt"] = arrived[row["filePath"], row["version"]]
        newest = {row["sopInstanceUid"]: row for row in sorted(before, key=arrival)}
        for row in newest.values():
            if all(row[name] == uid for name, uid in uids.items()):
                row |= {"ingestDate": run.ingest_date, "organisedAt": operation["takenAt"]}
                found[row["filePath"]] = row
    # of a run that was killed between two commits
    made = run.engine.read(
        run.metastore, ["filePath", "ingestedAt"], ingest_date=run.ingest_date
    ).to_pylist()
    known = {(row["filePath"], row["ingestedAt"]) for row in made}
    files = [row for path, row in found.items() if (path, row["organisedAt"]) not in known]
    return sorted(files, key=lambda row: row["filePath"])
