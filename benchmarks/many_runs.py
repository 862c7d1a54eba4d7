"""Measures what one more small run costs in a lakehouse that has seen many.

Drops one file, runs the steps and the checks without Dagster, and again, and prints for every
fiftieth run its seconds, those of its slowest step, and the first run's as a ratio.

    .venv/bin/python benchmarks/many_runs.py 300
"""

import argparse
import tempfile
import time
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_assets.defs.checks import RULES
from dicom_assets.settings import load_settings
from dicom_assets.steps.chain import STEPS
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.run import Run

DAY = "2026-03-14"
_EVERY = 50


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


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=int, help="how many runs, of one file each")
    runs = parser.parse_args().runs
    steps = {**STEPS, "checks": check}
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(lakehouse=folder, settle_seconds=0)
        run = Run.of(settings, DAY)
        first = 0.0
        for number in range(runs):
            write_file(run.engine.layout.drop_folder / f"{number}.dcm", number)
            seconds = {}
            for name, step in steps.items():
                begin = time.perf_counter()
                step(run)
                seconds[name] = time.perf_counter() - begin
            total = sum(seconds.values())
            first = first or total
            if number % _EVERY == 0 or number == runs - 1:
                slowest = max(seconds, key=lambda name: seconds[name])
                print(
                    f"run {number + 1:5}: {total:5.2f} s, {total / first:4.1f} times the first; "
                    f"{slowest} {seconds[slowest]:.2f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
