"""The same chain, drop folder to gold, by each engine: at which size does Spark pay?

The engines are the local one over two processes, Spark's `local[2]`, and a standalone cluster of
one master and two workers of one core each, on this machine. Each run is a fresh process on a fresh
lakehouse, `steps.chain.STEPS` without Dagster. The files have full headers, half of them of some 90
elements, half of some 260, and pixels of 16 x 16, so that 200,000 of them fit on a disk: it is
about the work for each file, not for each byte. They are links to files in the page cache; what is
made is counted after each run. What is said of the results: `benchmarks.engines_report`.

Spark's session, with a first job so that executors are there, is timed apart. The driver's memory
is the kernel's high-water mark of its Python process and of its JVM, whose heap is bounded, each
apart; in `local[2]` the JVM is the executor, too. What is in use of its heap in the end is told,
too.

The report is written after every run. One round, but for sizes that take seconds.

    python -m benchmarks.engines [--files N …] [--engines NAME …] [--quick] [--output FILE]
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks import spark_cluster
from benchmarks.chain import DAY, DROP, counted, drop, expected, in_fresh_process
from benchmarks.engines_report import (
    CLUSTER,
    CORES,
    HEAP_IN_USE,
    JVM,
    LABELS,
    LOCAL,
    METASTORE,
    NDJSON,
    PYTHON,
    SESSION,
    SPARK,
    report,
)
from benchmarks.memory import resident
from benchmarks.results import Results, Row, label

FILES = (2000, 20_000, 200_000)
QUICK_FILES = (100, 400)
HEAP = "1g"
_CONF = spark_cluster.CONF | {"spark.driver.memory": HEAP}
_SEVERAL_ROUNDS, _ROUNDS = 2000, 3
_OUTPUT = Path(__file__).with_name("SPARK.md")


def main() -> None:
    """Runs the sizes one after another, each engine in turn, and writes the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--files", nargs="+", type=int, help="sizes; 2000 20000 200000 unless told")
    parser.add_argument(
        "--engines", nargs="+", choices=list(LABELS), default=list(LABELS), help="all unless told"
    )
    parser.add_argument("--quick", action="store_true", help="few files, one round, to try it all")
    parser.add_argument("--output", type=Path, help="SPARK.md unless told; none with --quick")
    parser.add_argument("--folder", type=Path, help="where files are made, some 10 GB")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        master, lakehouse = arguments.inside
        print(json.dumps(_inside(master, Path(lakehouse))))
        return
    engines = [name for name in LABELS if name in arguments.engines]
    why = spark_cluster.missing()
    if engines != [LOCAL] and why:
        parser.error(f"{why}; `make bench-spark` gets what Spark needs, --engines {LOCAL} goes on")
    files = sorted(arguments.files or (QUICK_FILES if arguments.quick else FILES))
    output = arguments.output or (None if arguments.quick else _OUTPUT)
    # a benchmark that is ended leaves no cluster behind
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="dicom-assets-bench-") as place:
        failed = _measured(Path(place), files, engines, quick=arguments.quick, output=output)
    if failed:
        raise SystemExit(f"{failed} runs failed; see above")


def _measured(
    folder: Path, files: Sequence[int], engines: Sequence[str], *, quick: bool, output: Path | None
) -> int:
    """Runs all and writes the report as it grows; returns how many runs failed."""
    results, failed, begin, text = Results(), 0, time.monotonic(), ""
    with _masters(folder, engines) as masters:
        for count in files:
            dropped = _made(folder / f"{count}", count)
            rounds = _ROUNDS if count <= _SEVERAL_ROUNDS and not quick else 1
            for engine in [*engines] * rounds:
                before = time.monotonic()
                try:
                    results.add(_run(engine, masters[engine], dropped, count))
                    end = ""
                except SystemExit as error:  # the others are still worth knowing
                    failed, end = failed + 1, f", failed:\n{error}"
                took = time.monotonic() - before
                _tell(f"{label(count)}, {LABELS[engine]}: {took:.0f} s{end}")
                minutes = (time.monotonic() - begin) / 60
                text = report(results, files, engines, heap=HEAP, minutes=minutes)
                if output:
                    output.write_text(text)
            shutil.rmtree(folder / f"{count}")
    print(text)
    return failed


@contextmanager
def _masters(folder: Path, engines: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yields engine → Spark's master URL, nothing for the local engine; starts what it needs."""
    found = {LOCAL: "", SPARK: f"local[{CORES}]"}
    if CLUSTER not in engines:
        yield found
        return
    place = folder / "cluster"
    place.mkdir()
    with spark_cluster.running(place) as cluster:
        yield found | {CLUSTER: cluster.address}


def _made(folder: Path, count: int) -> Path:
    """Makes the files that are dropped."""
    from benchmarks import data

    begin, place = time.monotonic(), folder / "files"
    for instance in data.ct_files(count, small=True):
        instance.write(place)
    _tell(f"{label(count)} made in {time.monotonic() - begin:.0f} s")
    return place


def _run(engine: str, master: str, dropped: Path, count: int) -> list[Row]:
    """Drops the files and runs the chain on them, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=dropped.parent) as lakehouse:
        drop(dropped, Path(lakehouse) / DROP)
        told = in_fresh_process("benchmarks.engines", master, lakehouse)
    if told["counted"] != expected(count):
        raise SystemExit(f"it wrote {told['counted']} instead of {expected(count)}")
    return [
        Row(what, label(count), engine, value, unit)
        for unit in ("s", "MiB", "bytes")
        for what, value in told[unit].items()
    ]


def _inside(master: str, lakehouse: Path) -> dict[str, Any]:
    """Runs the chain in this process; says what it took and what it wrote."""
    import pandas as _pandas  # noqa: F401 -- pyarrow imports it when it makes its first table

    from dicom_assets.settings import load_settings
    from dicom_assets.steps import catalog
    from dicom_assets.steps.chain import STEPS
    from dicom_assets.steps.run import Run

    catalog.tables()  # imports the FHIR model
    spark = {
        "engine": "spark",
        "spark_master": master,
        "spark_jars": spark_cluster.JARS,
        "spark_conf": _CONF,
    }
    choices = spark if master else {}
    run = Run.of(load_settings(lakehouse=lakehouse, workers=CORES, **choices), DAY)
    seconds, memory = {}, {}
    begin = time.perf_counter()
    session = None
    if master:
        session = run.engine.spark  # pyright: ignore[reportAttributeAccessIssue] # it is Spark's
        session.range(CORES).count()
        seconds[SESSION] = time.perf_counter() - begin
    for name, step in STEPS.items():
        begin = time.perf_counter()
        step(run)
        seconds[name] = time.perf_counter() - begin
    memory[PYTHON] = resident(os.getpid())[1]
    for child in psutil.Process().children():
        if child.name() == "java":
            memory[JVM] = resident(child.pid)[1]
    if master:
        memory[HEAP_IN_USE] = _in_use(session)
    written = counted(lakehouse)
    return {"s": seconds, "MiB": memory, "bytes": _sizes(lakehouse, written), "counted": written}


def _in_use(session: Any) -> float:
    """Returns the MiB of the heap that are still in use when it has been cleaned."""
    java = session._jvm.java.lang
    java.System.gc()
    runtime = java.Runtime.getRuntime()
    return (runtime.totalMemory() - runtime.freeMemory()) / (1 << 20)


def _sizes(lakehouse: Path, written: dict[str, int]) -> dict[str, float]:
    """Returns how large what is made of an instance is, where it grows with the instances."""
    import pyarrow as pa
    from deltalake import DeltaTable

    lines = (lakehouse / "bronze/Files").rglob("*.ndjson")
    metastore = DeltaTable(lakehouse / "bronze/Tables/dicomimagingmetastore")
    files = pa.table(metastore.get_add_actions(flatten=True))["size_bytes"].to_pylist()
    return {
        NDJSON: sum(path.stat().st_size for path in lines) / written["rows"],
        METASTORE: sum(files) / written["rows"],
    }


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
