"""The whole chain, drop folder to gold, on 2 cores: 2,000 loose CT files, and the same in 20 ZIPs.

Each contestant works in a fresh process on a fresh folder. What is timed: from the dropped files to
gold, the start of worker processes with it; not the making of data, the start of the interpreter,
imports, Spark's session, or the making of Dagster's databases; the notes tell the whole process.
The dropped files are links to files in the page cache; nobody syncs unless the contestant does.
`ours` is `steps.chain.STEPS`, as the others are: steps without an orchestrator; `ours, under
Dagster` is what `dicom-assets run` does, with its events, checks and their queries. Half of the
studies have headers of some 90 elements, half of some 260. After the clock has stopped, rows,
studies and series are counted: all must agree; and ours runs once more, to find nothing to do.
On a machine that others use, too, the CPU time of the process and of all that it started says more
than the clock.

    python -m benchmarks.chain [--quick] [--files N] [--rounds N] [--only NAME …]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks.results import OURS, Results, Row

PART = "chain"
UNIT = "s"
DAY = "2026-03-14"
DROP = "bronze/Files/Ingest/Imaging/DICOM"
LOOSE, ZIPS, IDLE = "loose files", "ZIPs of 100 files", "a run that finds nothing to do"
CPU = "CPU time of all processes"
UNDER_DAGSTER = f"{OURS}, under Dagster"
STRAIGHTFORWARD, POOLED = "straightforward", "straightforward, 2 processes"
SPARK = "PySpark, local[2]"
FLOOR, HASHED_FLOOR = "floor, 2 processes", "floor, and SHA-256"
FILES, MEMBERS = 2000, 100
_FLOORS = (FLOOR, HASHED_FLOOR)
_ONCE = (POOLED, SPARK)


def measure(
    folder: Path, *, quick: bool, files: int | None = None, only: Sequence[str] = ()
) -> list[Row]:
    """Runs each contestant once on loose files and once on ZIPs."""
    from benchmarks import data

    count = files or (40 if quick else FILES)
    rows = []
    for case, dropped in _made(folder / f"{PART}-{count}", count).items():
        # Spark's start alone would make a quick run slow: there it runs on ZIPs only
        left_out = SPARK if quick and case == LOOSE else None
        chosen = only or [name for name in CONTESTANTS if name != left_out]
        for name in chosen:
            told = dropped.parent / f"{case}, {name}"
            # those that take minutes run in the first round only
            if name not in _ONCE or data.once(told):
                rows += _run(name, case, dropped, count)
                data.done(told)
    return rows


def _made(folder: Path, count: int) -> dict[str, Path]:
    from benchmarks import data

    cases = {LOOSE: folder / "loose", ZIPS: folder / "zips"}
    if data.once(folder):
        for instance in data.ct_files(count):
            instance.write(cases[LOOSE])
        data.write_zips(cases[ZIPS], data.ct_files(count), MEMBERS)
        data.done(folder)
    return cases


def _run(name: str, case: str, dropped: Path, count: int) -> list[Row]:
    """Drops the files and runs a contestant on them, in a process of its own."""
    if name == SPARK:
        from benchmarks.spark_cluster import missing

        if why := missing():
            return [Row(PART, case, name, None, UNIT, why)]
    with tempfile.TemporaryDirectory(dir=dropped.parent) as folder:
        drop(dropped, Path(folder) / DROP)
        begin = time.perf_counter()
        told = in_fresh_process("benchmarks.chain", name, Path(folder))
        whole = time.perf_counter() - begin
    written = {key: told[key] for key in ("rows", "studies", "series")}
    wanted = {"rows": count} if name in _FLOORS else expected(count)
    if {key: written[key] for key in wanted} != wanted:
        raise SystemExit(f"{name} wrote {written} instead of {wanted}")
    stages = told["stages"]
    session = stages.pop("session", 0.0)
    notes = [f"{stage} {seconds:.2f}" for stage, seconds in stages.items()]
    notes.append(f"whole process {whole:.1f}")
    rows = [
        Row(PART, case, name, told["seconds"] - session, UNIT, ", ".join(notes)),
        Row(PART, f"{case}: {CPU}", name, told["cpu"], UNIT),
    ]
    if case == LOOSE and "idle" in told:
        rows.append(
            Row(PART, IDLE, name, told["idle"], UNIT, f"with the tables of {count:,} files")
        )
    return rows


def expected(count: int) -> dict[str, int]:
    """Returns what `counted` finds after the chain has taken so many files of `data.ct_files`."""
    return {"rows": count, "studies": -(-count // 400), "series": -(-count // 100)}


def drop(source: Path, target: Path) -> None:
    """Links files into a drop folder, brings them into the page cache, and settles the disk."""
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, place)
            path.read_bytes()
    os.sync()


def in_fresh_process(module: str, *arguments: object) -> dict:
    """Runs `python -m module --inside …` and returns the JSON of its last line."""
    lakehouse = Path(str(arguments[-1]))
    environment = os.environ | {
        "DAGSTER_HOME": str(lakehouse / "dagster"),
        "DICOM_ASSETS_SETTLE_SECONDS": "0",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", module, "--inside", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def ours(lakehouse: Path) -> Callable[[], dict[str, float]]:
    """Returns the product's steps, ready to run."""
    import pandas as _pandas  # noqa: F401 -- pyarrow imports it when it makes its first table

    from dicom_assets.settings import load_settings
    from dicom_assets.steps import catalog
    from dicom_assets.steps.chain import STEPS
    from dicom_assets.steps.run import Run

    catalog.tables()  # imports the FHIR model
    run = Run.of(load_settings(lakehouse=lakehouse), DAY)

    def steps() -> dict[str, float]:
        return {name: step(run).seconds for name, step in STEPS.items()}

    return steps


def under_dagster(lakehouse: Path) -> Callable[[], dict[str, float]]:
    """Returns the product's chain as users run it."""
    import dagster as dg

    from dicom_assets.runner import dagster_home, job, run_chain

    job()
    dagster_home()
    with dg.DagsterInstance.get():
        pass  # its databases are made, once for many runs

    def chain() -> dict[str, float]:
        outcome = run_chain(lakehouse=lakehouse, partition_key=DAY)
        if not outcome.succeeded:
            raise SystemExit(f"the run failed: {outcome.error}")
        return {step.asset: step.seconds for step in outcome.steps}

    return chain


def _straightforward(lakehouse: Path, processes: int) -> Callable[[], dict[str, float]]:
    from benchmarks import straightforward

    return lambda: straightforward.run(lakehouse / DROP, lakehouse, processes=processes)


def _spark(lakehouse: Path) -> Callable[[], dict[str, float]]:
    from benchmarks import spark

    return lambda: spark.run(lakehouse / DROP, lakehouse)


def _floor(lakehouse: Path, hashed: bool) -> Callable[[], dict[str, float]]:
    from benchmarks import floor

    return lambda: floor.run(lakehouse / DROP, lakehouse / "floor", hashed=hashed)


CONTESTANTS: dict[str, Callable[[Path], Callable[[], dict[str, float]]]] = {
    OURS: ours,
    UNDER_DAGSTER: under_dagster,
    STRAIGHTFORWARD: lambda lakehouse: _straightforward(lakehouse, 1),
    POOLED: lambda lakehouse: _straightforward(lakehouse, 2),
    SPARK: _spark,
    FLOOR: lambda lakehouse: _floor(lakehouse, False),
    HASHED_FLOOR: lambda lakehouse: _floor(lakehouse, True),
}


def _inside(name: str, lakehouse: Path) -> dict:
    """Runs a contestant in this process; says what it took and what it wrote."""
    run = CONTESTANTS[name](lakehouse)
    begin, used = time.perf_counter(), _cpu_seconds()
    stages = run()
    seconds = time.perf_counter() - begin
    told = {"seconds": seconds, "stages": stages, "cpu": _cpu_seconds() - used}
    if name in _FLOORS:
        packed = len(list((lakehouse / "floor").glob("*.zip")))
        return told | {"rows": packed, "studies": 0, "series": 0}
    told |= counted(lakehouse)
    if name in (OURS, UNDER_DAGSTER):
        begin = time.perf_counter()
        run()
        told["idle"] = time.perf_counter() - begin
    return told


def _cpu_seconds() -> float:
    """Returns what this process, those it started and those they started have used so far."""
    ended = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    alive = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(each.ru_utime + each.ru_stime for each in ended) + sum(
        each.user + each.system + each.children_user + each.children_system for each in alive
    )


def counted(lakehouse: Path) -> dict[str, int]:
    """Returns how many rows, studies and series the tables hold."""
    from deltalake import DeltaTable

    tables = {"rows": "bronze/Tables/dicomimagingmetastore"} | {
        "studies": "silver/Tables/ImagingStudy",
        "series": "gold/Tables/Image_Occurrence",
    }
    return {
        what: DeltaTable(lakehouse / table).to_pyarrow_dataset().count_rows()
        for what, table in tables.items()
    }


def main() -> None:
    """Runs some rounds and prints them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few files")
    parser.add_argument("--files", type=int, help="how many files")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=list(CONTESTANTS), default=[])
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(_inside(arguments.inside[0], Path(arguments.inside[1]))))
        return
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        place, files = Path(folder), arguments.files
        for _ in range(arguments.rounds):
            results.add(measure(place, quick=arguments.quick, files=files, only=arguments.only))
    print(results.table(PART))


if __name__ == "__main__":
    main()
