"""Shows that an inventory of 10 million objects is worked through in bounded memory.

Ten Parquet files name objects of a store, as Azure Blob inventory does. The step that looks for
what is new runs on them three times, each in a fresh process: when it knows none, when it knows
all, and when a thousand more have come. Told are seconds, the peak of memory, and how many objects
are to be read. No object is read, so there need be none. Needs some 10 GB of disk and ten minutes,
so it is not part of `make bench`.

    python -m benchmarks.inventory [--entries N] [--folder FOLDER]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FILES = 10
MORE = 1000
_ROWS_AT_A_TIME = 100_000
_MODIFIED_MS = 1_750_000_000_000
_NAMED = "dicom/{study:08}/{series:04}/1.2.826.0.1.3680043.8.498.{number:012}.dcm"
_SCHEMA = pa.schema(
    [
        ("Name", pa.string()),
        ("Last-Modified", pa.timestamp("ms")),
        ("Content-Length", pa.int64()),
        ("Etag", pa.string()),
        ("hdi_isfolder", pa.bool_()),
    ]
)


def entries(start: int, end: int) -> Iterator[pa.RecordBatch]:
    """Yields rows of an inventory of the container `images`: 500 objects a study."""
    for first in range(start, end, _ROWS_AT_A_TIME):
        numbers = range(first, min(first + _ROWS_AT_A_TIME, end))
        names = [
            "images/" + _NAMED.format(study=n // 500, series=n % 500 // 100, number=n)
            for n in numbers
        ]
        times = pa.array([_MODIFIED_MS + 1000 * n for n in numbers], pa.timestamp("ms"))
        sizes, folders = pa.array([526_000] * len(names)), pa.nulls(len(names), pa.bool_())
        etags = pa.array([f"0x8DC{n:012X}" for n in numbers])
        columns = [pa.array(names), times, sizes, etags, folders]
        yield pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def make(root: Path, count: int) -> None:
    """Writes an inventory, and a shortcut that names it."""
    folder = root / "inventory"
    folder.mkdir()
    each = -(-count // FILES)
    for start in range(0, count, each):
        write(folder / f"{start:09}.parquet", start, min(start + each, count))
    namespace = root / "lakehouse/bronze/Files/External/Imaging/DICOM/PACS1"
    namespace.mkdir(parents=True)
    shortcut = {"address": "az://images", "inventory": f"{folder}/"}
    (namespace / "images.json").write_text(json.dumps(shortcut))


def write(path: Path, start: int, end: int) -> None:
    """Writes one file of an inventory."""
    with pq.ParquetWriter(path, _SCHEMA) as sink:
        for batch in entries(start, end):
            sink.write_batch(batch)


def look(lakehouse: Path, day: str) -> None:
    """Looks for what is new, in this process, and tells what came of it."""
    from dicom_assets.settings import load_settings
    from dicom_assets.steps.external import external_files
    from dicom_assets.steps.run import Run

    section = {"az://images": {"azure_storage_account_name": "nobody"}}
    run = Run.of(load_settings(lakehouse=lakehouse, storage=section), day)
    report = external_files(run)
    if report.counts["unusable"]:
        raise SystemExit("the inventory could not be read")
    print(f"{report.counts['listed']:,} listed, {report.rows:,} to be read, {peak()} MiB")


def peak() -> int:
    """Returns this program's high-water mark; `getrusage` counts what ran in its process before."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def measure(root: Path, count: int) -> Iterator[str]:
    """Yields a line for each case."""
    make(root, count)
    for day, case in enumerate(("all are new", "all are known", f"{MORE:,} are new"), start=1):
        if day == 3:
            write(root / "inventory/more.parquet", count, count + MORE)
        # another process, since what one has freed it may keep
        command = [sys.executable, "-m", "benchmarks.inventory", "--look", root / "lakehouse"]
        begin = time.perf_counter()
        done = subprocess.run(  # noqa: S603
            [*command, "--date", f"2026-03-{day:02}"], check=True, capture_output=True, text=True
        )
        yield f"{case}: {time.perf_counter() - begin:.0f} s, {done.stdout.strip()}"


def main() -> None:
    """Runs the cases, or one of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inventory", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--entries", type=int, default=10_000_000, help="10 million unless told")
    parser.add_argument("--folder", type=Path, help="where data are made")
    parser.add_argument("--look", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--date", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look:
        look(arguments.look, arguments.date)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as root:
        for line in measure(Path(root), arguments.entries):
            print(line, flush=True)


if __name__ == "__main__":
    main()
