"""Step 4, convert: new metastore rows become FHIR ImagingStudy, one NDJSON file for one run.

Decided here: which studies go into a file and what it is called. A study's new rows make a
statement about it, which is merged with what is known; a study to be written whole is made of all
its rows that count (`whole`). Corrections that a run takes make a second file. The name says which
versions of a table a file was made of (`<unix ms>_ImagingStudy_<mark>_v<from>-<to>.ndjson`), and by
the mark of which commit, so that after a kill the next run can tell what is there: a version that
is given out again, after a backup was brought back, is another commit. With several source systems
each has a file in its own folder. Not decided here: the mapping
(`dicom_assets.fhir.imaging_study`), or which file speaks for an instance (`current_files`).
"""

import hashlib
import re
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from dicom_assets.fhir.imaging_study import ConversionOptions, Study, convert_studies
from dicom_assets.fhir.instances import COLUMNS, INSTANCES, project
from dicom_assets.lakehouse.durable import put
from dicom_assets.lakehouse.engine import Progress, Table
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.lakehouse.opened import commit_of
from dicom_assets.lakehouse.paths import temporary_of
from dicom_assets.lakehouse.query import values_of
from dicom_assets.lakehouse.reader import New
from dicom_assets.steps import catalog
from dicom_assets.steps.corrections import Corrections, new_operations, what_is_about
from dicom_assets.steps.current_files import study_key, study_key_of
from dicom_assets.steps.report import Report, reporting
from dicom_assets.steps.run import Run
from dicom_assets.steps.whole import Part, split, studies_by_key, whole_parts

STEP = "convert"
RESOURCE_TYPE = "ImagingStudy"
_INSTANCES_AT_ONCE = 10_000
_NAME = re.compile(r"\d+_ImagingStudy_([0-9a-f]{8})_v(\d+)-(\d+)\.ndjson")
_MARK_DIGITS = 8


Statement = Study | Failure


def convert(run: Run) -> Report:
    """Writes the partition's studies that have new metastore rows or new corrections.

    Returns:
        Rows = studies written; counts `files` and `failures`.
    """
    with reporting(STEP, run.engine.layout.root) as report:
        report.count({"files": 0, "failures": 0})
        for source, news in ((run.metastore, _of_files), (catalog.OPERATIONS, _of_operations)):
            app_id = run.engine.app_id(STEP, source, run.ingest_date)
            since = run.engine.progress(catalog.INGESTION_FAILURES, app_id)
            while begun := _begun(run, source, since):
                done = Progress(app_id, max(begun.values()))
                statements = news(run, since, done.version)
                _convert(run, report, source, statements, done, since, set(begun))
                since = done.version
            done = Progress(app_id, run.engine.version(source))
            _convert(run, report, source, news(run, since, done.version), done, since, set())
    return report


def _convert(
    run: Run,
    report: Report,
    source: Table,
    statements: Iterator[Statement] | None,
    done: Progress,
    since: int | None,
    begun: Collection[str],
) -> None:
    """Writes what is new in a table's versions after `since`, up to those that are then done."""
    if statements is None:
        return
    versions = f"{_mark(run, source, done.version)}_v{_from(since)}-{done.version}"
    name = f"{time.time_ns() // 1_000_000}_{RESOURCE_TYPE}_{versions}.ndjson"
    failures = _write(run, statements, report, name=name, begun=begun)
    report.count({"failures": len(failures)})
    # this commit, even without failures, says that the versions are done
    run.record(failures, done, even_none=True)


def _of_files(run: Run, since: int | None, until: int) -> Iterator[Statement] | None:
    """Returns the studies of new metastore rows, and those that instances came from."""
    new = New(
        run.metastore,
        COLUMNS,
        since=since,
        until=until,
        ingest_date=run.ingest_date,
        by=("sourceSystem", "studyInstanceUid"),
        schema=INSTANCES,
        prepare=project,
    )
    parts = run.engine.parts(new, most=_INSTANCES_AT_ONCE, together=True)
    first = next(parts, None)
    if first is None:
        return None
    work = partial(statements_of, run)
    return chain.from_iterable(
        run.engine.do(work, part, ingest_date=run.ingest_date, order=_place)
        for part in chain([first], parts)
    )


def statements_of(run: Run, new: pa.Table) -> Iterator[Statement]:
    """Converts studies of new metastore rows, of each of which all are given."""
    corrections = Corrections.read(run.engine)
    new = corrections.with_patients(new)
    part, whole = split(run.engine, new)
    if not whole:
        return _converted(run, [Part(part, {})], None)
    paths = {f"{folder}/{name}" for folder, name in values_of(new, "folder", "fileName")}
    parts = chain([Part(part, {})], whole_parts(run, corrections, whole))
    return _converted(run, parts, paths)


def _place(statement: Statement) -> tuple[str, str]:
    return statement.source_system, "" if isinstance(statement, Failure) else statement.id


def _of_operations(run: Run, since: int | None, until: int) -> Iterator[Statement] | None:
    """Returns the studies that new corrections are about."""
    operations = new_operations(run.engine, run.ingest_date, since=since, until=until)
    if not operations:
        return None
    corrections = Corrections.read(run.engine)
    _, studies = what_is_about(run.engine, corrections, operations)
    found = studies_by_key(run.engine, {study_key_of(*study) for study in studies})
    return _converted(run, whole_parts(run, corrections, found), set())


def _from(since: int | None) -> int:
    return 0 if since is None else since + 1


def _mark(run: Run, source: Table, version: int) -> str:
    """Returns what tells a table's version from the same one of another table, or given out again.

    Of a commit that was cleaned away it is the table's id: no run that was killed is that long ago.
    """
    layout = run.engine.layout
    try:
        commit = commit_of(layout.table(source.layer, source.name), version).read_bytes()
    except FileNotFoundError:
        return run.engine.identity(source)[:_MARK_DIGITS]
    return hashlib.sha256(commit).hexdigest()[:_MARK_DIGITS]


def _begun(run: Run, source: Table, since: int | None) -> dict[str, int]:
    """Returns source system → last version, of files that a killed run has left complete."""
    found = {}
    for system, path in run.engine.layout.fhir_files(run.ingest_date, RESOURCE_TYPE):
        match = _NAME.fullmatch(path.name)
        if match and int(match[2]) == _from(since):
            until = int(match[3])
            if match[1] == _mark(run, source, until):
                found[system] = until
    return found


def _converted(
    run: Run, parts: Iterable[Part], paths: Collection[str] | None
) -> Iterator[Statement]:
    """Converts rows, some studies at a time.

    Args:
        run: The run.
        parts: The rows.
        paths: Files of which a failure is new; None for all.
    """
    settings = run.settings
    options = ConversionOptions(
        site_timezone=settings.site_timezone,
        patient_id_system=settings.patient_id_system,
        accession_number_system=settings.accession_number_system,
        dicomweb_base_address=settings.dicomweb_base_address,
    )
    for part in parts:
        for study in convert_studies(part.instances, options=options, whole=part.whole):
            if not isinstance(study, Failure) or paths is None or study.failed_path in paths:
                yield study


def _write(
    run: Run,
    statements: Iterator[Statement],
    report: Report,
    *,
    name: str,
    begun: Collection[str],
) -> list[Failure]:
    """Writes one file for each source system, but for those that have theirs."""
    failures: list[Failure] = []
    targets: dict[str, Path] = {}
    written: set[tuple[str, str]] = set()
    with ExitStack() as stack:
        sinks: dict[str, BinaryIO] = {}
        for study in statements:
            if isinstance(study, Failure):
                failures.append(study)
                continue
            system = study.source_system
            # where workers have parts of the rows, several may write a study whole: all the same
            if system in begun or (system, study.id) in written:
                continue
            written.add((system, study.id))
            if system not in sinks:
                folder = run.engine.layout.fhir_folder(system, run.ingest_date, RESOURCE_TYPE)
                folder.mkdir(parents=True, exist_ok=True)
                for remains in folder.glob(f".*_{RESOURCE_TYPE}_*.ndjson.tmp"):
                    remains.unlink()
                targets[system] = folder / name
                sinks[system] = stack.enter_context(temporary_of(targets[system]).open("wb"))
            sinks[system].write(study.line + b"\n")
            report.rows += 1
    for target in targets.values():
        put(temporary_of(target), target)
    report.count({"files": len(targets)})
    return failures


def convert_again(run: Run, studies: Collection[tuple[str, str]]) -> None:
    """Writes all that counts of some studies into files of their own, for `repair`.

    Args:
        run: The run; the files are its date's.
        studies: Source system and resource id of each.
    """
    engine = run.engine
    keys = {study_key(*study) for study in studies}
    name = f"{time.time_ns() // 1_000_000}_{RESOURCE_TYPE}_again.ndjson"
    parts = (
        Part(part.instances, {})  # to be merged: what other lines say is not wrong
        for part in whole_parts(run, Corrections.read(engine), studies_by_key(engine, keys))
    )
    # their failures have rows already
    _write(run, _converted(run, parts, set()), Report(STEP), name=name, begun=set())
