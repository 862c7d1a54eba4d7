"""What it costs to know where keys stand, in a table of few and of 10 million.

The table has nothing but hashed keys and the dates they came on, 20,000 to a file. Each number is
of a fresh process: CPU time of the first look-up (2,000 keys that are there, 2,000 that are not,
what is loaded with it), of a second one, of one after 2,000 keys were appended, of writing down
what is remembered anew; and how much the process's memory has grown by the first two.

    python -m benchmarks.look_up [--quick] [--rounds N] [--keys N …]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as _pandas  # noqa: F401 -- pyarrow imports it when it makes its first table
import psutil
import pyarrow as pa
from deltalake import write_deltalake

from benchmarks.results import Results, Row
from dicom_assets.lakehouse.layout import Layout
from dicom_assets.lakehouse.places import Places, partition_of
from dicom_assets.lakehouse.schemas import INGEST_DATE, field
from dicom_assets.lakehouse.tables import Table, Tables

PART = "look_up"
KEYS = (200_000, 10_000_000)
_ASKED = 2000
_ROWS_PER_FILE = 20_000
_FILES_PER_COMMIT = 50
_FIRST_DAY = date(2020, 1, 1)
_TABLE = Table(
    "silver",
    "keys",
    pa.schema(
        [
            field("key", pa.int64(), "A hashed key", required=True),
            field(INGEST_DATE, pa.date32(), "Partition", required=True),
        ]
    ),
    "Keys alone",
    key=("key",),
    partition=INGEST_DATE,
    is_looked_up=True,
)


def _keys(begin: int, end: int) -> np.ndarray:
    """Returns keys that are spread over all numbers, always the same ones."""
    multiplied = np.arange(begin, end, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (multiplied >> np.uint64(1)).astype(np.int64)


def _batches(begin: int, end: int) -> Iterator[pa.Table]:
    step = _ROWS_PER_FILE * _FILES_PER_COMMIT
    for start in range(begin, end, step):
        numbers = np.arange(start, min(start + step, end))
        days = [_FIRST_DAY + timedelta(int(n)) for n in np.unique(numbers // _ROWS_PER_FILE)]
        column = pa.array(days, pa.date32()).take(
            numbers // _ROWS_PER_FILE - start // _ROWS_PER_FILE
        )
        yield pa.table([pa.array(_keys(start, start + len(numbers))), column], schema=_TABLE.schema)


def _append(root: Path, begin: int, end: int) -> None:
    tables = Tables(Layout(root))
    for rows in _batches(begin, end):
        write_deltalake(tables.create(_TABLE), rows, mode="append")


def _inside(root: Path, keys: int) -> dict[str, float]:
    """Looks up, in this process; returns seconds and MiB."""
    tables, own = Tables(Layout(root)), psutil.Process()
    tables.create(_TABLE)
    resident = own.memory_info().rss
    folder = Layout(root).table(_TABLE.layer, _TABLE.name)
    places = Places(_TABLE, folder)
    chance = np.random.default_rng(keys)

    def look_up() -> float:
        asked = chance.choice(keys, _ASKED, replace=False)
        wanted = [int(_keys(n, n + 1)[0]) for n in asked.tolist()]
        others = _keys(1 << 40, (1 << 40) + _ASKED).tolist()
        begin = time.process_time()
        found = dict(places.of(tables.create(_TABLE), [*wanted, *others]))
        took = time.process_time() - begin
        expected = {
            k: f"{_FIRST_DAY + timedelta(n // _ROWS_PER_FILE)}"
            for k, n in zip(wanted, asked.tolist(), strict=True)
        }
        if {key: partition_of(file) for key, file in found.items()} != expected:
            raise SystemExit("keys were found elsewhere than they stand")
        return took

    def written_anew() -> float:
        shutil.rmtree(folder / "_places", ignore_errors=True)
        begin = time.process_time()
        Places(_TABLE, folder).of(tables.create(_TABLE), [])
        return time.process_time() - begin

    first, second = look_up(), look_up()
    grown = (own.memory_info().rss - resident) / 1024**2
    _append(root, keys, keys + _ASKED)
    return {
        "first look-up": first,
        "second look-up": second,
        "look-up after an append": look_up(),
        "memory": grown,
        "written anew": written_anew(),
    }


def measure(folder: Path, *, quick: bool, keys: Sequence[int] = KEYS) -> list[Row]:
    """Looks keys up in a table of each size."""
    rows = []
    for count in (20_000,) if quick else keys:
        root = folder / f"{PART}-{count}"
        if not root.exists():
            _append(root, 0, count)
            delta = Tables(Layout(root)).create(_TABLE)
            Places(_TABLE, Layout(root).table(_TABLE.layer, _TABLE.name)).of(delta, [])
        with tempfile.TemporaryDirectory(dir=folder) as copy:
            shutil.copytree(root, copy, dirs_exist_ok=True)
            command = [sys.executable, "-m", "benchmarks.look_up", "--inside", copy, f"{count}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
        for what, value in json.loads(done.stdout).items():
            unit = "MiB" if what == "memory" else "s CPU"
            rows.append(Row(PART, f"{count:,} keys", what, value, unit))
    return rows


def main() -> None:
    """Measures some rounds and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few keys")
    parser.add_argument("--keys", nargs="*", type=int, default=KEYS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(_inside(Path(arguments.inside[0]), int(arguments.inside[1]))))
        return
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            results.add(measure(Path(folder), quick=arguments.quick, keys=arguments.keys))
    print(results.table(PART))


if __name__ == "__main__":
    main()
