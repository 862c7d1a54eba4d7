"""Measures what a day's run costs on a lakehouse that already holds much.

For each size, rows of a thousand earlier dates are made directly, in a temporary folder: one study
of a hundred instances in three series goes through the chain, and its rows in every table are
copied with other UIDs, dates and keys, a commit for each date, as files and log entries like those
that the engine writes; past months are compacted, as `dicom-assets maintain` leaves them. The
metastore's copies go without `metadata` and `metadata_string`, which no step reads of earlier
dates. Then three days of 2,000 small CT files each are run with `steps.chain.STEPS` and all rules,
a fresh `Day` for each asset, as in Dagster: 90 % of the files are of new studies, the rest late
parts of known ones, most of them of the last weeks. Prints the median seconds of each step, and the
whole as a ratio to the first size.

    .venv/bin/python benchmarks/growth.py 0 100000 1000000 10000000
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
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

from dicom_assets.defs.checks import RULES
from dicom_assets.fhir.imaging_study import silver_study_id
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.tables import Tables
from dicom_assets.settings import load_settings
from dicom_assets.steps import catalog
from dicom_assets.steps.chain import STEPS
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.run import Run

DATES = 1000
FIRST_DAY = date(2026, 3, 14)
ROUNDS = 3
INSTANCES = 100
SERIES = 3
NEW_STUDIES, NEW_FILES = 100, 18
LATE_RECENT, LATE_OLD, LATE_FILES = 20, 5, 8
_FIRST = 10_000_000  # a part of a UID must not begin with a zero
_TEMPLATE = 99_000_001
_TEMPLATE_DAY = date(2000, 1, 1)
_NEW = 50_000_000
_ROWS_PER_FILE = 4_000
_APART = 8
_ASSETS = {
    "organise": "bronze/process_files",
    "extract": "bronze/dicomimagingmetastore",
    "convert": "bronze/ImagingStudy_ndjson",
    "ingest_fhir": "bronze/ImagingStudy",
    "flatten": "silver/ImagingStudy",
    "procedure_occurrence": "gold/procedure_occurrence",
    "person": "gold/person",
    "image_occurrence": "gold/Image_Occurrence",
}


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
    studies = max(studies, DATES)
    for late in range(LATE_RECENT + LATE_OLD):
        # of the last weeks, or from all over history
        back = (3 * late + 7 * number) % (studies // 30)
        study = studies - 1 - back
        if late >= LATE_RECENT:
            study = (late * 7919 + number * 104_729) % studies
        for instance in range(LATE_FILES):
            write_file(folder, _FIRST + study, 1000 * (number + 1) + instance)


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
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows.combine_chunks())
        found[table] = sink.getvalue().to_pybytes()
    return found


_UPSERTED = (
    catalog.silver_imaging_study(),
    catalog.PROCEDURE_OCCURRENCE,
    catalog.PERSON,
    catalog.IMAGE_OCCURRENCE,
)


def copies(stream: bytes, studies: range, day: date) -> pa.Table:
    """Returns the template's rows for other studies: all texts that differ are equally long."""
    old_day, new_day = (f"{each:%Y/%m/%d}".encode() for each in (_TEMPLATE_DAY, day))
    dated = stream.replace(old_day, new_day)
    old = b"%d" % _TEMPLATE
    tables = [pa.ipc.open_stream(dated.replace(old, b"%d" % n)).read_all() for n in studies]
    rows = pa.concat_tables(tables)
    length = len(rows) // len(studies)
    uids = [f"1.2.826.0.1.{study}" for study in studies for _ in range(length)]
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
        keys = [int_key("default", f"P{study}") for study in studies for _ in range(length)]
        values["person_id"] = keys
    if "procedure_occurrence_id" in names:
        values["procedure_occurrence_id"] = [int_key("default", uid) for uid in uids]
    if "image_occurrence_id" in names:
        series = rows["image_series_uid"].to_pylist()
        pairs = zip(uids, series, strict=True)
        values["image_occurrence_id"] = [int_key("default", uid, each) for uid, each in pairs]
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
        self._path, self._id = (
            Path(self.run.engine.layout.table(self.table.layer, self.table.name)),
            delta.metadata().id,
        )
        waiting: list[pa.Table] = []
        days = [FIRST_DAY - timedelta(days=DATES - n) for n in range(DATES)]
        for version, day in enumerate(days, start=1):
            first, last = ((version - 1) * studies // DATES, version * studies // DATES)
            rows = copies(self.stream, range(_FIRST + first, _FIRST + last), day)
            files: list[dict[str, Any]] = []
            if self.table.partition == "ingestDate":
                files = list(self._files(rows, f"{day}"))
            else:
                waiting.append(rows)
                month, next_day = f"{day:%Y-%m}", day + timedelta(days=1)
                if (
                    version > DATES - _APART
                    or next_day.month != day.month
                    or version == DATES - _APART
                ):
                    files = list(self._files(pa.concat_tables(waiting), month))
                    waiting = []
            self._commit(version, day, files)
        delta = DeltaTable(str(self._path))
        delta.create_checkpoint()

    def _files(self, rows: pa.Table, value: str) -> Iterator[dict[str, Any]]:
        partition, folder = self.table.partition, f"{self.table.partition}={value}"
        (self._path / folder).mkdir(exist_ok=True)
        rows = rows.sort_by([(name, "ascending") for name in self.table.key])
        for start in range(0, len(rows), _ROWS_PER_FILE):
            part = rows.slice(start, _ROWS_PER_FILE).drop_columns([partition])
            name = f"{folder}/part-00000-{uuid.uuid4()}-c000.zstd.parquet"
            pq.write_table(
                part,
                self._path / name,
                compression="zstd",
                row_group_size=self.table.rows_per_group,
            )
            extremes = {key: pc.min_max(part[key]).as_py() for key in self.table.key}
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
        check(Run.of(settings, day.isoformat()), _ASSETS[name])
        checks += time.perf_counter() - begin
    seconds["rules"] = checks
    begin = time.perf_counter()
    for name, step in STEPS.items():
        step(Run.of(settings, day.isoformat()))
        check(Run.of(settings, day.isoformat()), _ASSETS[name])
    return seconds | {"idle": time.perf_counter() - begin}


def check(run: Run, asset: str) -> None:
    """Evaluates an asset's rules."""
    day = Day(run)
    for rule in RULES:
        if rule.asset == asset and not rule.evaluate(day)[0] and rule.blocking:
            raise SystemExit(f"{rule.name} does not hold")


def inside(root: Path, studies: int) -> None:
    """Runs the days, after one elsewhere that loads what is loaded once, and prints the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        write_file_in(Path(folder))
        run_day(Path(folder), 0)
    rounds = []
    for number in range(ROUNDS):
        drop = Run.of(load_settings(lakehouse=root), f"{FIRST_DAY}").engine.layout.drop_folder
        write_day(drop, number, studies)
        rounds.append(run_day(root, number))
    print(json.dumps(rounds))


def write_file_in(root: Path) -> None:
    """Drops one file."""
    drop = root / "bronze/Files/Ingest/Imaging/DICOM"
    drop.mkdir(parents=True)
    write_file(drop, _TEMPLATE, 1)


def measure(rows: int, keep: Path | None) -> dict[str, float]:
    """Makes a lakehouse with so many metastore rows and runs days on it."""
    studies = rows // INSTANCES
    with tempfile.TemporaryDirectory() as folder:
        root = keep / f"{rows}" if keep else Path(folder) / "lakehouse"
        if studies and not root.exists():
            fill(root, studies)
        done = subprocess.run(  # noqa: S603
            [sys.executable, __file__, "--inside", str(root), str(studies)],
            env=os.environ,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    rounds = json.loads(done.stdout.splitlines()[-1])
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def main() -> None:
    """Measures each size in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", type=int, default=[0, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="folder to make the lakehouses in, and keep them")
    arguments = parser.parse_args()
    if arguments.inside:
        inside(Path(arguments.inside[0]), int(arguments.inside[1]))
        return
    columns = [*STEPS, "rules", "all", "idle"]
    print(f"{'rows':>10} " + " ".join(f"{name[:11]:>11}" for name in columns) + "  ratio")
    first = 0.0
    for rows in arguments.rows:
        took = measure(rows, arguments.keep)
        idle = took.pop("idle")
        took |= {"all": sum(took.values()), "idle": idle}
        first = first or took["all"]
        cells = " ".join(f"{took[name]:>11.2f}" for name in columns)
        print(f"{rows:>10} {cells} {took['all'] / first:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
