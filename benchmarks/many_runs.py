"""Measures what one more small run costs in a lakehouse that has seen many.

Drops one file, runs the steps and the checks without Dagster, and again; told are the seconds of
the first run and of the last ten, and what the slowest step was.

    python -m benchmarks.many_runs [--quick] [--runs N]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from benchmarks.results import Results, Row
from dicom_assets.defs.checks import RULES
from dicom_assets.settings import load_settings
from dicom_assets.steps.chain import STEPS
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.run import Run

DAY = "2026-03-14"
PART = "many_runs"
RUNS = 60
ROUNDS = 1  # its runs are rounds enough
_LAST = 10


def write_file(path: Path, number: int) -> None:
    """Writes one small instance of a study of its own."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.StudyInstanceUID = f"1.2.3.{number}"
    dataset.SeriesInstanceUID = f"1.2.3.{number}.1"
    dataset.SOPInstanceUID = f"1.2.3.{number}.1.1"
    dataset.PatientID, dataset.StudyDate, dataset.Modality = f"P{number}", "20260314", "CT"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def check(run: Run) -> None:
    """Evaluates every rule."""
    day = Day(run)
    wrong = [rule.name for rule in RULES if not rule.evaluate(day)[0]]
    if wrong:
        raise SystemExit(f"these do not hold: {', '.join(wrong)}")


def measure(folder: Path, *, quick: bool, runs: int = RUNS) -> list[Row]:
    """Runs the chain so many times, on one file each."""
    count = 3 if quick else runs
    took = list(_took(folder, count))
    last = took[-_LAST:]
    slowest = max(last[-1], key=lambda name: last[-1][name])
    note = f"slowest step: {slowest}, {last[-1][slowest]:.2f} s"
    first, later = (statistics.median(sum(s.values()) for s in some) for some in (took[:1], last))
    case = f"{count} runs of one file each"
    return [
        Row(PART, case, "the first", first, "s"),
        Row(PART, case, f"the last {len(last)}", later, "s", note),
    ]


def _took(folder: Path, runs: int) -> Iterator[dict[str, float]]:
    """Yields the seconds of each step, run by run."""
    steps = {**STEPS, "checks": check}
    with tempfile.TemporaryDirectory(dir=folder) as lakehouse:
        run = Run.of(load_settings(lakehouse=lakehouse, settle_seconds=0), DAY)
        for number in range(runs):
            write_file(run.engine.layout.drop_folder / f"{number}.dcm", number)
            seconds = {}
            for name, step in steps.items():
                begin = time.perf_counter()
                step(run)
                seconds[name] = time.perf_counter() - begin
            yield seconds


def main() -> None:
    """Runs the benchmark and prints it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few runs")
    parser.add_argument("--runs", type=int, default=RUNS, help="how many runs")
    arguments = parser.parse_args()
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        results.add(measure(Path(folder), quick=arguments.quick, runs=arguments.runs))
    print(results.table(PART))


if __name__ == "__main__":
    main()
