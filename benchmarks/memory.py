"""Peak memory of a whole chain run, as users run it, at 1,000, 10,000 and 50,000 files.

Each size in a fresh process on a fresh folder. The files have full headers of some 260 elements and
pixels of 16 x 16, so that 50,000 of them fit on a disk; they are removed afterwards. The process
tree is looked at twenty times a second: the peak of the main process and of the largest worker are
the kernel's own high-water marks, the sum is the largest seen at one look. Pages that processes
share count in each of them.

    python -m benchmarks.memory [--quick] [--files N …]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.chain import DROP, under_dagster
from benchmarks.results import Results, Row, label

PART = "memory"
UNIT = "MiB"
FILES = (1000, 10_000, 50_000)
MAIN, WORKER, TREE = "main process", "largest worker", "sum over the process tree"
ROUNDS = 1  # peaks are alike from run to run, and 50,000 files take minutes
_EVERY_SECONDS = 0.05


def measure(folder: Path, *, quick: bool, files: Sequence[int] = FILES) -> list[Row]:
    """Runs the chain once at each size."""
    rows = []
    for count in (20, 40) if quick else files:
        begin = time.perf_counter()
        peaks = _peaks(folder, count)
        note = f"{time.perf_counter() - begin:.0f} s with start-up and the making of files"
        rows += [Row(PART, what, label(count), mib, UNIT, note) for what, mib in peaks.items()]
    return rows


def _peaks(folder: Path, count: int) -> dict[str, float]:
    """Returns the peaks of one run, by what they are of."""
    from benchmarks import data

    with tempfile.TemporaryDirectory(dir=folder) as root:
        lakehouse = Path(root)
        for instance in data.ct_files(count, small=True, long=True):
            instance.write(lakehouse / DROP)
        environment = os.environ | {
            "DAGSTER_HOME": str(lakehouse / "dagster"),
            "DICOM_ASSETS_SETTLE_SECONDS": "0",
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        command = [sys.executable, "-m", "benchmarks.memory", "--inside", root]
        with (lakehouse / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: S603
            peaks = _watch(process)
        if process.returncode:
            raise SystemExit((lakehouse / "log").read_text()[-4000:])
        return peaks


def _watch(process: subprocess.Popen) -> dict[str, float]:
    highest: dict[int, float] = {}
    most = 0.0
    main = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0.0
        try:
            for each in (main, *main.children(recursive=True)):
                now, high = resident(each.pid)
                total += now
                highest[each.pid] = max(high, highest.get(each.pid, 0.0))
        except psutil.NoSuchProcess:
            break
        most = max(most, total)
        time.sleep(_EVERY_SECONDS)
    process.wait()
    workers = [high for pid, high in highest.items() if pid != process.pid]
    return {MAIN: highest[process.pid], WORKER: max(workers, default=0.0), TREE: most}


def resident(pid: int) -> tuple[float, float]:
    """Returns a process's resident memory now, and its highest so far, in MiB; 0 when it is gone.

    The high-water mark of `/proc` is the program's own; that of `getrusage` begins with what the
    process held before it became this program.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return int(sizes.get("VmRSS", 0)) / 1024, int(sizes.get("VmHWM", 0)) / 1024


def main() -> None:
    """Runs each size once and prints it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few files")
    parser.add_argument("--files", nargs="*", type=int, default=FILES)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        under_dagster(arguments.inside)()
        return
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        results.add(measure(Path(folder), quick=arguments.quick, files=arguments.files))
    print(results.table(PART))


if __name__ == "__main__":
    main()
