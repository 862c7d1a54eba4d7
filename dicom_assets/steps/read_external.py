"""Objects of External become metastore rows: their headers are read where they lie.

Decided here: that what is new in `external_files` is worked through some commits at a time, each
time with its progress, so that neither memory nor what a killed run has to do again grows with
them; and what becomes of an object that is no DICOM file: a row of state `skipped`. Nothing is
moved, compressed or written where objects lie. Not decided here: what is to be read (`external`),
what a header says (`dicom_assets.dicom`).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute

from dicom_assets.dicom import HeaderError, read_header
from dicom_assets.dicom.sniff import HEAD_BYTES, Kind, kind_of
from dicom_assets.lakehouse.engine import Progress
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.promoted import PromotedTag
from dicom_assets.lakehouse.ranges import FIRST_BYTES, ObjectStream
from dicom_assets.lakehouse.reasons import Reason
from dicom_assets.lakehouse.storage import ObjectError, Storage, Store, get_many
from dicom_assets.lakehouse.written import Written
from dicom_assets.steps import catalog, report
from dicom_assets.steps.commits import commits
from dicom_assets.steps.external import SKIPPED, STEP, TO_READ
from dicom_assets.steps.read_files import Read, metastore_rows
from dicom_assets.steps.report import Report
from dicom_assets.steps.run import Run

pc: Any = pyarrow.compute  # its functions are made when it is imported

_OBJECTS_PER_TASK = 64
SKIPPED_AFTER = timedelta(microseconds=1)
"""So long after a row of an object comes the one that says it was skipped."""
_TABLE = catalog.EXTERNAL_FILES
_NO_DICOM = (Reason.NOT_DICOM, Reason.DICOMDIR)


@dataclass(frozen=True, slots=True)
class Task:
    """Objects that one worker reads in one go.

    Attributes:
        objects: `external_files` rows.
        storage: Where they are read from.
        tags: Promoted tags.
        max_header_bytes: Longest header.
    """

    objects: pa.RecordBatch
    storage: Storage
    tags: tuple[PromotedTag, ...]
    max_header_bytes: int


@dataclass(slots=True)
class Done:
    """What came of a task.

    Attributes:
        rows: Metastore rows.
        failures: The objects that are none, though they are DICOM files or could not be fetched.
        skipped: Addresses of those that are no DICOM files.
        slow: Objects that the careful header reader had to read.
        requests: How often something was fetched.
        fetched: How many bytes.
    """

    rows: pa.RecordBatch
    failures: list[Failure]
    skipped: list[str]
    slow: int = 0
    requests: int = 0
    fetched: int = 0


def read_external(run: Run, done: Report) -> None:
    """Reads the partition's objects that have no row yet.

    Args:
        run: The run; its caller holds the lakehouse's lock.
        done: Where rows, failures and, where there are any objects, `external_rows`, `skipped`,
            `requests` and `bytes_fetched` are counted.
    """
    app_id = run.engine.app_id(STEP, _TABLE, run.ingest_date)
    said_in = [catalog.INGESTION_FAILURES, _TABLE]
    parts = run.new_parts(_TABLE, app_id, said_in=said_in)
    is_first = True
    for found, version in parts:
        objects = found.filter(pc.is_in(found["state"], pa.array(TO_READ)))
        if is_first:  # a killed run may have committed some of their rows
            objects = _without_known(run, objects)
        if objects.num_rows:
            _read_part(run, objects, Progress(app_id, version), done)
            is_first = False


def read_external_again(run: Run, addresses: Collection[str]) -> None:
    """Reads objects of the partition whatever has been read, for `repair`; says no progress.

    Args:
        run: The run.
        addresses: `filePath` of their `external_files` rows, which nothing came of.
    """
    engine, day, where = run.engine, run.ingest_date, {"filePath": addresses}
    found = engine.read(_TABLE, _TABLE.schema.names, ingest_date=day, where=where)
    listed = sorted(found.to_pylist(), key=lambda row: row["foundAt"])
    newest = {row["filePath"]: row for row in listed if row["state"] in TO_READ}
    for row in listed:
        whole = newest.get(row["filePath"])
        if whole and row["state"] == SKIPPED and row["foundAt"] - SKIPPED_AFTER == whole["foundAt"]:
            del newest[row["filePath"]]
    objects = pa.Table.from_pylist(list(newest.values()), schema=_TABLE.schema)
    failures: list[Failure] = []
    skipped: set[str] = set()
    batches = _read_all(run, objects, failures, skipped, Report(STEP))
    for rows, _ in commits(batches, rows_each=engine.rows_per_commit):
        engine.append(run.metastore, rows, progress=None, ingest_date=day)
    if failures:
        rows = run.failure_rows(failures)
        engine.append(catalog.INGESTION_FAILURES, rows, progress=None, ingest_date=day)
    if skipped:
        engine.append(_TABLE, _skipped(objects, skipped), progress=None, ingest_date=day)


def _without_known(run: Run, objects: pa.Table) -> pa.Table:
    columns, where = ["filePath", "ingestedAt"], {"filePath": set(objects["filePath"].to_pylist())}
    rows = run.engine.read(run.metastore, columns, ingest_date=run.ingest_date, where=where)
    known = {(row["filePath"], row["ingestedAt"]) for row in rows.to_pylist()}
    pairs = zip(objects["filePath"].to_pylist(), objects["foundAt"].to_pylist(), strict=True)
    return objects.filter(pa.array([pair not in known for pair in pairs], pa.bool_()))


def _read_part(run: Run, objects: pa.Table, progress: Progress, tally: Report) -> None:
    """Reads some of what is new, and says that it is done in the last commit of its rows."""
    failures: list[Failure] = []
    skipped: set[str] = set()
    batches = _read_all(run, objects, failures, skipped, tally)
    for rows, is_last in commits(batches, rows_each=run.engine.rows_per_commit):
        if is_last:
            run.record(failures, progress)
            _record_skipped(run, objects, skipped, progress)
        run.engine.append(
            run.metastore,
            rows,
            progress=progress if is_last else None,
            ingest_date=run.ingest_date,
        )
    tally.count({"failures": len(failures), "skipped": len(skipped)})


def _read_all(
    run: Run, objects: pa.Table, failures: list[Failure], skipped: set[str], tally: Report
) -> Iterator[pa.RecordBatch | Written]:
    settings = run.settings
    table = objects.sort_by("filePath").combine_chunks()  # files of a series are alike
    tasks = [
        Task(objects, settings.stores, settings.promoted, settings.max_header_bytes)
        for objects in _chunks(table)
    ]
    progress = report.Progress(STEP, len(table), "objects")
    for done in run.share_out(read_objects, tasks):
        failures += done.failures
        skipped |= set(done.skipped)
        rows = done.rows.num_rows
        tally.rows += rows
        tally.count(
            {
                "slow_path": done.slow,
                "external_rows": rows,
                "requests": done.requests,
                "bytes_fetched": done.fetched,
            }
        )
        progress.advance(rows + len(done.failures) + len(done.skipped))
        yield done.rows


def _chunks(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Cuts objects into tasks, copied: a slice would take the whole table to another process."""
    for at in range(0, len(table), _OBJECTS_PER_TASK):
        rows = range(at, min(at + _OBJECTS_PER_TASK, len(table)))
        yield table.take(pa.array(rows, pa.int64())).to_batches()[0]


def _record_skipped(run: Run, objects: pa.Table, skipped: set[str], progress: Progress) -> None:
    """Appends rows of what is no DICOM file, unless that was done under this progress before."""
    known = run.engine.progress(_TABLE, progress.app_id)
    rows = _skipped(objects, skipped)
    if rows.num_rows and (known is None or known < progress.version):
        run.engine.append(_TABLE, rows, progress=progress, ingest_date=run.ingest_date)


def _skipped(objects: pa.Table, skipped: Collection[str]) -> pa.Table:
    rows = objects.filter(pc.is_in(objects["filePath"], pa.array(sorted(skipped), pa.string())))
    at = rows.schema.get_field_index("state")
    state = pa.array([SKIPPED] * rows.num_rows, pa.string())
    rows = rows.set_column(at, _TABLE.schema.field("state"), state)
    # it comes after the row that it was found by, also in a run that does this again
    at, found = rows.schema.get_field_index("foundAt"), _TABLE.schema.field("foundAt")
    later = pc.add(rows["foundAt"], pa.scalar(SKIPPED_AFTER, pa.duration("us")))
    return rows.set_column(at, found, later.cast(found.type))


def read_objects(task: Task) -> Done:
    """Reads headers: the work of one worker."""
    done = Done(metastore_rows([], task.tags), [], [])
    good: list[Read] = []
    by_store: dict[Store, list[tuple[dict[str, Any], str]]] = {}
    for row in task.objects.to_pylist():
        store, key = task.storage.find(row["filePath"])
        by_store.setdefault(store, []).append((row, key))
    for store, objects in by_store.items():
        firsts = get_many(store, [key for _, key in objects], FIRST_BYTES)
        for (row, key), first in zip(objects, firsts, strict=True):
            try:
                if isinstance(first, ObjectError):
                    done.requests += 1
                    raise first
                stream = ObjectStream(store, key, first)
                try:
                    good += _read(row, stream, task, done)
                finally:
                    done.requests += stream.requests
                    done.fetched += stream.fetched
            except ObjectError as error:
                done.failures.append(_failure(row, Reason.NOT_FETCHED, str(error)))
            except HeaderError as error:
                done.slow += 1  # the careful reader is who says that a header is bad
                if error.reason in _NO_DICOM:
                    done.skipped.append(row["filePath"])
                else:
                    done.failures.append(_failure(row, error.reason, error.message))
    done.slow += sum(each.header.slow for each in good)
    done.rows = metastore_rows(good, task.tags)
    return done


def _read(row: dict[str, Any], stream: ObjectStream, task: Task, done: Done) -> list[Read]:
    """Returns the header with what its row says; nothing for what is no DICOM file."""
    if kind_of(stream.first.data[:HEAD_BYTES]) not in (Kind.DICOM, Kind.BARE):
        done.skipped.append(row["filePath"])
        return []
    header = read_header(stream, tags=task.tags, most=task.max_header_bytes, is_far=stream.is_far)
    first = stream.first
    about = {
        "ingestDate": row["ingestDate"],
        "sourceSystem": row["sourceSystem"],
        "sourcePath": row["filePath"],
        "sourceModifiedAt": first.modified,
        "organisedAt": row["foundAt"],
    }
    return [Read(about, header, row["filePath"], first.size, None, first.version)]


def _failure(row: dict[str, Any], reason: Reason, message: str) -> Failure:
    return Failure(STEP, reason, message, row["sourceSystem"], row["filePath"])
