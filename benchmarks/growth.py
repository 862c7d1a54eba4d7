"""Measures what a day's run costs on a lakehouse that already holds much.

For each size, rows of a thousand earlier dates are made directly, in a temporary folder: one study
of a hundred instances in three series goes through the chain, and its rows in every table are
copied with other UIDs, dates and keys, a commit for each date, as files and log entries like those
that the engine writes; past months are compacted, as `dicom-assets maintain` leaves them. The
metastore's copies go without `metadata` and `metadata_string`, which no step reads of earlier
dates. Then days of 2,000 small CT files, one each round, are run with `steps.chain.STEPS` and all
rules, a fresh `Day` for each asset, as in Dagster: 90 % of the files are of new studies, the rest
late parts of known ones, most of them of the last weeks.

    python -m benchmarks.growth [--quick] [--rows 0 100000 1000000]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from benchmarks.results import Results, Row
from dicom_assets.defs.checks import RULES
from dicom_assets.fhir.imaging_study import silver_study_id
from dicom_assets.lakehouse.engine import Progress, Table
from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.places import Places
from dicom_assets.lakehouse.tables import Tables
from dicom_assets.settings import load_settings
from dicom_assets.steps import catalog, settle
from dicom_assets.steps.chain import STEPS
from dicom_assets.steps.current_files import keys_of
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.run import Run

DATES = 1000
FIRST_DAY = date(2026, 3, 14)
PART = "growth"
CASE, IDLE = "a day", "a run that finds nothing to do"
CHECKS = "the rules alone, of a day"
SIZES = (0, 100_000, 1_000_000, 10_000_000)
INSTANCES = 100
SERIES = 3
NEW_STUDIES, NEW_FILES = 100, 18
LATE_RECENT, LATE_OLD, LATE_FILES = 20, 5, 8
_TEMPLATE = 10_098_765  # its last five digits stand for the date
_TEMPLATE_DAY = date(2000, 1, 1)
_NEW = 50_000_000
_ROWS_PER_FILE = 20_000
_APART = 8
_ASSETS = {
    "organise": "bronze/process_files",
    "external": "bronze/external_files",
    "organise_fhir": "bronze/fhir_files",
    "extract": "bronze/dicomimagingmetastore",
    "settle": "silver/current_files",
    "convert": "bronze/ImagingStudy_ndjson",
    "ingest_fhir": "bronze/ImagingStudy",
    "flatten": "silver/ImagingStudy",
    "procedure_occurrence": "gold/procedure_occurrence",
    "person": "gold/person",
    "image_occurrence": "gold/Image_Occurrence",
    "ingest_DiagnosticReport": "bronze/DiagnosticReport",
    "flatten_DiagnosticReport": "silver/DiagnosticReport",
    "note": "gold/note",
}
"""Step → the asset whose rules are evaluated after it."""


def write_file(folder: Path, study: int, instance: int) -> None:
    """Writes one CT instance of ~90 elements and 16 x 16 pixels."""
    uid, series = f"1.2.826.0.1.{study}", instance % SERIES
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid, f"{uid}.{series}"
    dataset.SOPInstanceUID = f"{uid}.{series}.{instance}"
    dataset.PatientID, dataset.PatientName = f"P{study}", f"Doe^{study}"
    dataset.PatientSex, dataset.PatientBirthDate = "F", "19600101"
    dataset.StudyDate, dataset.StudyTime, dataset.Modality = "20260102", "0930", "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.BodyPartExamined, dataset.InstanceNumber = "CHEST", instance
    dataset.SeriesNumber, dataset.StudyDescription = series, "CT chest"
    dataset.Rows = dataset.Columns = 16
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    group = dataset.private_block(0x0029, "ACME CT", create=True)
    for element in range(60):
        group.add_new(element, "DS", [f"{element}.{instance}", "1.5", "2.5"])
    dataset.PixelData = bytes(2 * 16 * 16)
    dataset.save_as(folder / f"{study}_{instance:06}.dcm", enforce_file_format=True)


def write_day(folder: Path, number: int, studies: int) -> None:
    """Writes the files of one measured day."""
    folder.mkdir(parents=True, exist_ok=True)
    for study in range(NEW_STUDIES):
        for instance in range(NEW_FILES):
            write_file(folder, _NEW + number * NEW_STUDIES + study, instance)
    per_date = max(studies // DATES, 1)
    for late in range(LATE_RECENT + LATE_OLD):
        # most of the last three dates, some from all over history
        back = (
            1 + late % 3 if late < LATE_RECENT else 10 + (late * 191 + number * 97) % (DATES - 10)
        )
        study = number_of(DATES - back, (late + 31 * number) % per_date)
        for instance in range(LATE_FILES):
            write_file(folder, study, 1000 * (number + 1) + 100 * late + instance)


def template(root: Path) -> dict[Table, bytes]:
    """Runs the chain on one study and returns its rows in every table, as Arrow streams."""
    settings = load_settings(lakehouse=root, settle_seconds=0, workers=1)
    run = Run.of(settings, _TEMPLATE_DAY.isoformat())
    drop = run.engine.layout.drop_folder
    drop.mkdir(parents=True)
    for instance in range(INSTANCES):
        write_file(drop, _TEMPLATE, instance)
    for step in STEPS.values():
        step(run)
    found = {}
    for table in (catalog.PROCESS_FILES, run.metastore, *_UPSERTED, catalog.BRONZE_IMAGING_STUDY):
        rows = run.engine.read(table, table.schema.names)
        if table == run.metastore:
            for name, value in (("metadata", None), ("metadata_string", "{}")):
                place = rows.schema.get_field_index(name)
                kind = rows.schema.field(place)
                rows = rows.set_column(
                    place, kind, pa.repeat(pa.scalar(value, kind.type), len(rows))
                )
        found[table] = as_stream(rows)
    return found


_LEVELS = ("instance", "series", "study")
_UPSERTED = (
    catalog.CURRENT_FILES,
    catalog.silver_imaging_study(),
    catalog.PROCEDURE_OCCURRENCE,
    catalog.PERSON,
    catalog.IMAGE_OCCURRENCE,
)


def number_of(date_number: int, study: int) -> int:
    """Returns the number that stands in a study's UID: eight digits, the first not a zero.

    A date's studies are spread over all numbers, as those of several machines over all UIDs.
    """
    return 10_000_000 + 100_000 * study + date_number


def multiplied(stream: bytes, studies: int) -> bytes:
    """Returns the template's rows for several studies of its date."""
    old = b"%d" % _TEMPLATE
    streams = [stream.replace(old, b"%d" % (_TEMPLATE + 100_000 * n)) for n in range(studies)]
    return as_stream(pa.concat_tables([pa.ipc.open_stream(each).read_all() for each in streams]))


def as_stream(rows: pa.Table) -> bytes:
    """Returns rows as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows.combine_chunks())
    return sink.getvalue().to_pybytes()


def copies(stream: bytes, studies: int, date_number: int, day: date) -> pa.Table:
    """Returns the template's rows for another date: all texts that differ are equally long."""
    dated = stream.replace(f"{_TEMPLATE_DAY:%Y/%m/%d}".encode(), f"{day:%Y/%m/%d}".encode())
    old, new = (b"%05d" % (number % 100_000) for number in (_TEMPLATE, date_number))
    rows = pa.ipc.open_stream(dated.replace(old, new)).read_all()
    length = len(rows) // studies
    numbers = [number_of(date_number, n) for n in range(studies) for _ in range(length)]
    uids = [f"1.2.826.0.1.{number}" for number in numbers]
    ids = [silver_study_id("default", uid) for uid in uids]
    values: dict[str, list[Any]] = {}
    names = set(rows.schema.names)
    if "ingestMonth" in names:
        values["ingestMonth"] = [f"{day:%Y-%m}"] * len(rows)
    if "ingestDate" in names:
        values["ingestDate"] = [day] * len(rows)
    if "idOrig" in names:
        values["id"] = ids
    if "sourceRecordId" in names and "person_source_value" not in names:
        values["sourceRecordId"] = ids
    if "person_id" in names:
        values["person_id"] = [int_key("default", f"P{number}") for number in numbers]
    if "procedure_occurrence_id" in names:
        values["procedure_occurrence_id"] = [int_key("default", uid) for uid in uids]
    if "image_occurrence_id" in names:
        series = rows["image_series_uid"].to_pylist()
        pairs = zip(uids, series, strict=True)
        values["image_occurrence_id"] = [int_key("default", uid, each) for uid, each in pairs]
    if "level" in names:
        found = rows.to_pylist()
        values["id"] = [
            keys_of({name: each or "" for name, each in row.items()})[_LEVELS.index(row["level"])]
            for row in found
        ]
        values["ingestDates"] = [[day] if row["level"] == "study" else None for row in found]
    for name, column in values.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(
            place, rows.schema.field(place), pa.array(column, rows.schema.field(place).type)
        )
    return rows


@dataclass
class Filling:
    """One table on its way to many rows."""

    run: Run
    table: Table
    stream: bytes

    def fill(self, studies: int) -> None:
        """Writes data files, a commit for each date, and a checkpoint."""
        delta = Tables(self.run.engine.layout).create(self.table)
        self._path = self.run.engine.layout.table(self.table.layer, self.table.name)
        self._id = delta.metadata().id
        per_date = studies // DATES
        stream = multiplied(self.stream, per_date)
        waiting: list[pa.Table] = []
        for number in range(DATES):
            day = FIRST_DAY - timedelta(days=DATES - number)
            waiting.append(copies(stream, per_date, number, day))
            left, next_day = DATES - 1 - number, day + timedelta(days=1)
            files: list[dict[str, Any]] = []
            if (
                self.table.partition == "ingestDate"
                or left <= _APART
                or day.month != next_day.month
            ):
                files = list(self._files(pa.concat_tables(waiting), self.table.partition_of(day)))
                waiting = []
            self._commit(number + 1, day, files)
        delta = DeltaTable(str(self._path))
        delta.create_checkpoint()
        if self.table.is_looked_up:
            Places(self.table, self._path).of(delta, [])

    def _files(self, rows: pa.Table, value: str) -> Iterator[dict[str, Any]]:
        partition, folder = self.table.partition, f"{self.table.partition}={value}"
        (self._path / folder).mkdir(exist_ok=True)
        for start in range(0, len(rows), _ROWS_PER_FILE):
            part = rows.slice(start, _ROWS_PER_FILE).drop_columns([partition])
            name = f"{folder}/part-00000-{uuid.uuid4()}-c000.zstd.parquet"
            pq.write_table(
                part,
                self._path / name,
                compression=self.table.compression,
                write_statistics=False,
                row_group_size=self.table.rows_per_group,
            )
            extremes = {
                key: pc.call_function("min_max", [part[key]]).as_py() for key in self.table.key
            }
            stats = {
                "numRecords": len(part),
                "minValues": {key: each["min"] for key, each in extremes.items()},
                "maxValues": {key: each["max"] for key, each in extremes.items()},
                "nullCount": dict.fromkeys(extremes, 0),
            }
            yield {
                "add": {
                    "path": name,
                    "partitionValues": {partition: value},
                    "size": (self._path / name).stat().st_size,
                    "modificationTime": time.time_ns() // 1_000_000,
                    "dataChange": True,
                    "stats": json.dumps(stats),
                }
            }

    def _commit(self, version: int, day: date, files: list[dict[str, Any]]) -> None:
        told = {f"{self.table.name}/{self._id}/{day}": version}
        if self.table == catalog.CURRENT_FILES:
            told[_every_date_is_settled(self.run).app_id] = 0
        if self.table.partition == "ingestDate":
            told |= {f"before/{day}": version - 1, f"last/{day}": version}
        at = time.time_ns() // 1_000_000
        actions = [
            {"commitInfo": {"timestamp": at, "operation": "WRITE"}},
            *({"txn": {"appId": app, "version": told[app], "lastUpdated": at}} for app in told),
            *files,
        ]
        text = "".join(json.dumps(action) + "\n" for action in actions)
        (self._path / f"_delta_log/{version:020}.json").write_text(text)


def fill(root: Path, studies: int) -> None:
    """Makes a lakehouse of so many studies."""
    run = Run.of(load_settings(lakehouse=root, settle_seconds=0), FIRST_DAY.isoformat())
    with tempfile.TemporaryDirectory() as folder:
        streams = template(Path(folder) / "template")
    for table, stream in streams.items():
        begin = time.perf_counter()
        Filling(run, table, stream).fill(studies)
        took = time.perf_counter() - begin
        print(
            f"  {table.full_name}: {run.engine.row_count(table):,} rows in {took:.0f} s",
            file=sys.stderr,
        )
    conflicts = catalog.CONFLICTS
    run.engine.upsert(
        conflicts,
        conflicts.upserted.empty_table(),
        progress=_every_date_is_settled(run),
        ingest_date=FIRST_DAY,
    )


def _every_date_is_settled(run: Run) -> Progress:
    return Progress(f"{settle.STEP}/{run.engine.identity(run.metastore)}", 0)


def run_day(root: Path, number: int) -> dict[str, float]:
    """Runs the steps and rules of one day; returns the seconds of each."""
    settings = load_settings(lakehouse=root, settle_seconds=0)
    day = FIRST_DAY + timedelta(days=number)
    seconds: dict[str, float] = {}
    checks = 0.0
    for name, step in STEPS.items():
        begin = time.perf_counter()
        step(Run.of(settings, day.isoformat()))
        seconds[name] = time.perf_counter() - begin
        begin = time.perf_counter()
        check(Run.of(settings, day.isoformat()), name)
        checks += time.perf_counter() - begin
    seconds["rules"] = checks
    begin = time.perf_counter()
    for name, step in STEPS.items():
        step(Run.of(settings, day.isoformat()))
        check(Run.of(settings, day.isoformat()), name)
    return seconds | {"idle": time.perf_counter() - begin}


def check(run: Run, step: str) -> None:
    """Evaluates the rules of the asset that a step makes, if it makes one alone."""
    day = Day(run)
    for rule in RULES:
        if rule.asset == _ASSETS.get(step) and not rule.evaluate(day)[0] and rule.blocking:
            raise SystemExit(f"{rule.name} does not hold")


def inside(root: Path, studies: int) -> None:
    """Runs the next day, after one elsewhere that loads what is loaded once; prints the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        write_file_in(Path(folder))
        run_day(Path(folder), 0)
    counter = root / "days"
    number = int(counter.read_text()) if counter.exists() else 0
    drop = Run.of(load_settings(lakehouse=root), f"{FIRST_DAY}").engine.layout.drop_folder
    write_day(drop, number, studies)
    print(json.dumps(run_day(root, number)))
    counter.write_text(f"{number + 1}")


def write_file_in(root: Path) -> None:
    """Drops one file."""
    drop = root / "bronze/Files/Ingest/Imaging/DICOM"
    drop.mkdir(parents=True)
    write_file(drop, _TEMPLATE, 1)


def measure(folder: Path, *, quick: bool, sizes: Sequence[int] = SIZES) -> list[Row]:
    """Runs one more day on a lakehouse of each size."""
    rows = []
    for size in (0, 100_000) if quick else sizes:
        root = folder / f"{PART}-{size}"
        if size and not root.exists():
            print(f"making {size:,} rows", file=sys.stderr)
            fill(root, size // INSTANCES)
        took = _in_a_fresh_process(root, size)
        idle, rules = took.pop("idle"), took["rules"]
        note = ", ".join(f"{name} {seconds:.2f}" for name, seconds in took.items())
        rows.append(Row(PART, CASE, label(size), sum(took.values()), "s", note))
        rows.append(Row(PART, IDLE, label(size), idle, "s"))
        rows.append(Row(PART, CHECKS, label(size), rules, "s"))
    return rows


def label(rows: int) -> str:
    """Returns how a lakehouse with so many metastore rows is called."""
    return f"{rows:,} rows"


def _in_a_fresh_process(root: Path, size: int) -> dict[str, float]:
    studies = size // INSTANCES
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "benchmarks.growth", "--inside", str(root), f"{studies}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures all sizes, some rounds, and prints tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--rows", nargs="*", type=int, default=SIZES, help="the sizes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(Path(arguments.inside[0]), int(arguments.inside[1]))
        return
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            results.add(measure(Path(folder), quick=arguments.quick, sizes=arguments.rows))
    print(results.table(PART))


if __name__ == "__main__":
    main()
