"""Measures the whole chain, drop folder to gold, as `dicom-assets run` does it.

Makes CT-like files of 0.5 MB (512 x 512 x 16 bit, noise in the low bits), drops them, runs the
chain in a process of its own, and prints for each number of files: seconds, files per second, the
seconds of a second run that finds nothing to do (an upper bound of Dagster's own overhead, in
process, imports aside), and the peak memory of the process and of its largest worker. Compare
ratios within one run, not numbers between machines.

    .venv/bin/python benchmarks/chain.py 1000 2000
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SLICES_PER_SERIES = 100
DAY = "2026-03-14"


def write_files(folder: Path, count: int) -> None:
    """Writes CT-like instances: a hundred a series, four series a study."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True)
    noise = np.random.default_rng(7)
    rows, columns = np.mgrid[-1:1:512j, -1:1:512j]
    body = np.where(rows**2 + (columns * 1.2) ** 2 < 0.8, 1000, 0)
    for number in range(count):
        series, study = number // SLICES_PER_SERIES, number // (4 * SLICES_PER_SERIES)
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.SOPInstanceUID = f"1.2.3.{study}.{series}.{number}"
        dataset.StudyInstanceUID = f"1.2.3.{study}"
        dataset.SeriesInstanceUID = f"1.2.3.{study}.{series}"
        dataset.PatientID, dataset.PatientName = f"P{study}", f"Doe^{study}"
        dataset.StudyDate, dataset.StudyTime, dataset.Modality = "20260314", "0930", "CT"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.BodyPartExamined, dataset.InstanceNumber = "CHEST", number % SLICES_PER_SERIES
        dataset.SeriesNumber, dataset.StudyDescription = series, "CT chest"
        dataset.Rows = dataset.Columns = 512
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        group = dataset.private_block(0x0029, "ACME CT", create=True)
        for element in range(60):
            group.add_new(element, "DS", [f"{element}.{number}", "1.5", "2.5"])
        pixels = body + noise.integers(0, 48, (512, 512))
        dataset.PixelData = pixels.astype("<u2").tobytes()
        dataset.save_as(folder / f"IM{number:06}.dcm", enforce_file_format=True)


def run_once(lakehouse: Path) -> dict[str, float]:
    """Runs the chain in this process and says what it took."""
    from dicom_assets.runner import run_chain

    begin = time.perf_counter()
    outcome = run_chain(lakehouse=lakehouse, partition_key=DAY)
    seconds = time.perf_counter() - begin
    if not outcome.succeeded:
        raise SystemExit(f"the run failed: {outcome.error}")
    begin = time.perf_counter()
    run_chain(lakehouse=lakehouse, partition_key=DAY)
    idle = time.perf_counter() - begin
    own, workers = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {
        "seconds": seconds,
        "idle": idle,
        "own_mib": own,
        "worker_mib": workers,
    }


def measure(count: int) -> dict[str, float]:
    """Makes so many files in a fresh lakehouse and runs the chain on them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root / "lakehouse/bronze/Files/Ingest/Imaging/DICOM", count)
        environment = os.environ | {"DAGSTER_HOME": str(root / "dagster")}
        done = subprocess.run(  # noqa: S603
            [sys.executable, __file__, "--inside", str(root / "lakehouse")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures each number of files in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=int, default=[1000, 2000])
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(run_once(arguments.inside)))
        return
    print(
        f"{'files':>7} {'seconds':>8} {'files/s':>8} {'idle run s':>10} "
        f"{'peak MiB':>9} {'worker MiB':>11}"
    )
    for count in arguments.files:
        took = measure(count)
        print(
            f"{count:>7} {took['seconds']:>8.1f} {count / took['seconds']:>8.0f} "
            f"{took['idle']:>10.2f} {took['own_mib']:>9.0f} {took['worker_mib']:>11.0f}"
        )


if __name__ == "__main__":
    main()
