"""Step 4, convert: new metastore rows become FHIR ImagingStudy, one NDJSON file for one run.

Decided here: which rows go into a file and what it is called. The name says which metastore and
which of its versions it was made of (`<unix ms>_ImagingStudy_<table>_v<from>-<to>.ndjson`), so that
after a kill the next run can tell what is there. With several source systems each has a file in its
own folder. Not decided here: the mapping (`dicom_assets.fhir.imaging_study`).
"""

import re
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from dicom_assets.fhir.imaging_study import ConversionOptions, convert_studies, resource_id
from dicom_assets.fhir.instances import COLUMNS, INSTANCES, project
from dicom_assets.lakehouse.durable import put
from dicom_assets.lakehouse.engine import Progress
from dicom_assets.lakehouse.failures import Failure
from dicom_assets.steps import catalog
from dicom_assets.steps.report import Report, reporting
from dicom_assets.steps.run import Run

STEP = "convert"
RESOURCE_TYPE = "ImagingStudy"
_NAME = re.compile(r"\d+_ImagingStudy_([0-9a-f]{8})_v(\d+)-(\d+)\.ndjson")
_OURS = re.compile(r".*/\d+_ImagingStudy_[0-9a-f]{8}_(?:v\d+-\d+|again)\.ndjson")


def convert(run: Run) -> Report:
    """Writes the partition's studies that have new metastore rows.

    Returns:
        Rows = studies written; counts `files` and `failures`.
    """
    with reporting(STEP, run.engine.layout.root) as report:
        app_id = run.engine.app_id(STEP, run.metastore, run.ingest_date)
        report.count({"files": 0, "failures": 0})
        since = run.engine.progress(catalog.INGESTION_FAILURES, app_id)
        while begun := _begun(run, app_id, since):
            until = max(begun.values())
            _convert(run, report, Progress(app_id, until), since=since, begun=set(begun))
            since = until
        until = run.engine.version(run.metastore)
        _convert(run, report, Progress(app_id, until), since=since, begun=set())
    return report


def _convert(
    run: Run, report: Report, done: Progress, *, since: int | None, begun: set[str]
) -> None:
    """Converts the metastore versions after `since`, up to those that are then done."""
    batches = run.engine.read_new(
        run.metastore,
        COLUMNS,
        since=since,
        until=done.version,
        ingest_date=run.ingest_date,
    )
    instances = pa.Table.from_batches([project(b) for b in batches], schema=INSTANCES)
    if instances.num_rows:
        versions = f"{_table_of(done.app_id)}_v{_from(since)}-{done.version}"
        name = f"{time.time_ns() // 1_000_000}_{RESOURCE_TYPE}_{versions}.ndjson"
        failures = _write(run, instances, report, name=name, begun=begun)
        report.count({"failures": len(failures)})
        # this commit, even without failures, says that the versions are done
        run.record(failures, done, even_none=True)


def _from(since: int | None) -> int:
    return 0 if since is None else since + 1


def _table_of(app_id: str) -> str:
    """Returns the first digits of the metastore's id: one made anew has other versions."""
    return app_id.split("/")[-2][:8]


def _begun(run: Run, app_id: str, since: int | None) -> dict[str, int]:
    """Returns source system → last version, of files that a killed run has left complete."""
    found = {}
    for system, path in run.engine.layout.fhir_files(run.ingest_date, RESOURCE_TYPE):
        match = _NAME.fullmatch(path.name)
        if match and match[1] == _table_of(app_id) and int(match[2]) == _from(since):
            found[system] = int(match[3])
    return found


def _write(
    run: Run, instances: pa.Table, report: Report, *, name: str, begun: set[str]
) -> list[Failure]:
    """Writes one file for each source system, but for those that have theirs."""
    settings = run.settings
    options = ConversionOptions(
        site_timezone=settings.site_timezone,
        patient_id_system=settings.patient_id_system,
        accession_number_system=settings.accession_number_system,
        dicomweb_base_address=settings.dicomweb_base_address,
    )
    failures: list[Failure] = []
    targets: dict[str, Path] = {}
    with ExitStack() as stack:
        sinks: dict[str, BinaryIO] = {}
        for study in convert_studies(instances, options=options):
            if isinstance(study, Failure):
                failures.append(study)
                continue
            system = study.source_system
            if system in begun:
                continue
            if system not in sinks:
                folder = run.engine.layout.fhir_folder(system, run.ingest_date, RESOURCE_TYPE)
                folder.mkdir(parents=True, exist_ok=True)
                for remains in folder.glob(f".*_{RESOURCE_TYPE}_*.ndjson.tmp"):
                    remains.unlink()
                targets[system] = folder / name
                sinks[system] = stack.enter_context((folder / f".{name}.tmp").open("wb"))
            sinks[system].write(study.line + b"\n")
            report.rows += 1
    for target in targets.values():
        put(target.with_name(f".{target.name}.tmp"), target)
    report.count({"files": len(targets)})
    return failures


def is_ours(address: str) -> bool:
    """Says whether an NDJSON file is one that this step wrote, by its name."""
    return _OURS.fullmatch(address) is not None


def convert_again(run: Run, studies: Collection[tuple[str, str]]) -> None:
    """Writes all of the date's rows of some studies into files of their own, for `repair`.

    Args:
        run: The run.
        studies: Source system and resource id of each.
    """
    systems = {system for system, _ in studies}
    uids = run.engine.read(run.metastore, ["studyInstanceUid"], ingest_date=run.ingest_date)
    ids = {uid: resource_id(uid) for uid in uids["studyInstanceUid"].unique().to_pylist()}
    for system in sorted(systems):
        wanted = [uid for uid, own_id in ids.items() if (system, own_id) in studies]
        where = {"sourceSystem": [system], "studyInstanceUid": wanted}
        rows = run.engine.read(run.metastore, COLUMNS, ingest_date=run.ingest_date, where=where)
        instances = pa.Table.from_batches(map(project, rows.to_batches()), schema=INSTANCES)
        table = _table_of(run.engine.app_id(STEP, run.metastore, run.ingest_date))
        name = f"{time.time_ns() // 1_000_000}_{RESOURCE_TYPE}_{table}_again.ndjson"
        # their failures have rows already
        _write(run, instances, Report(STEP), name=name, begun=set())
