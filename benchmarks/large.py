"""Shows that what is large gets through: one file of 4 GB, one ZIP of 8 GB, one of 100,000 members.

Each goes through all steps in a fresh process on a fresh lakehouse, with the default limits. Told
are seconds, the peak of memory of the main process and its workers, and what came of it. Needs some
40 GB of disk and some minutes, so it is not part of `make bench`.

    python -m benchmarks.large [--folder FOLDER]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

GIB = 1 << 30
CASES = ("a DICOM file of 4 GB", "a ZIP of 8 GB", "a ZIP of 100,000 members")
_BLOCK = 64 << 20


def header(number: int, pixels: int) -> bytes:
    """Returns an instance up to its pixels, which are to follow."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.SOPInstanceUID = f"1.2.3.1.{number}"
    dataset.PatientID, dataset.StudyDate, dataset.Modality = "P1", "20260102", "CT"
    with tempfile.SpooledTemporaryFile() as stream:
        dataset.save_as(stream, enforce_file_format=True)
        stream.seek(0)
        head = stream.read()
    return head + b"\xe0\x7f\x10\x00OW\0\0" + pixels.to_bytes(4, "little")


def make(case: str, drop: Path) -> None:
    """Drops what a case is about."""
    drop.mkdir(parents=True)
    block = os.urandom(_BLOCK)
    if case == CASES[0]:
        pixels = 0xFFFFFFFE  # the longest that a length field can say
        with (drop / "large.dcm").open("wb") as sink:
            sink.write(header(1, pixels))
            for start in range(0, pixels, _BLOCK):
                sink.write(block[: pixels - start])
        return
    with zipfile.ZipFile(drop / "large.zip", "w", zipfile.ZIP_STORED) as archive:
        if case == CASES[1]:
            for number in range(17):
                with archive.open(f"{number}.dcm", "w", force_zip64=True) as sink:
                    sink.write(header(number, GIB // 2))
                    for _ in range(GIB // 2 // _BLOCK):
                        sink.write(block)
        else:
            for number in range(100_000):
                archive.writestr(f"{number}.txt", b"no DICOM")
            archive.writestr("one.dcm", header(1, 0))


def run(lakehouse: Path) -> None:
    """Runs all steps on a lakehouse and tells what it then holds."""
    from dicom_assets.settings import load_settings
    from dicom_assets.steps import catalog
    from dicom_assets.steps.chain import STEPS
    from dicom_assets.steps.run import Run

    settings = load_settings(lakehouse=lakehouse, settle_seconds=0)
    day = Run.of(settings, "2026-03-14")
    for step in STEPS.values():
        step(day)
    tables = (day.metastore, catalog.INGESTION_FAILURES, catalog.IMAGE_OCCURRENCE)
    print(json.dumps({table.full_name: day.engine.row_count(table) for table in tables}))


def measure(case: str, folder: Path) -> str:
    """Runs a case and returns a line about it."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        make(case, Path(root) / "bronze/Files/Ingest/Imaging/DICOM")
        command = [sys.executable, "-m", "benchmarks.large", "--run", root]
        begin = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        seconds = time.perf_counter() - begin
        peak = Path(root, "peak").read_text()
        return f"{case}: {seconds:.0f} s, {peak} MiB, {done.stdout.strip()}"


def main() -> None:
    """Runs the cases, or one part of one."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--folder", type=Path, help="where data are made, some 40 GB")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        import resource

        run(arguments.run)
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        peaks = [resource.getrusage(kind).ru_maxrss // 1024 for kind in kinds]
        (arguments.run / "peak").write_text(" + ".join(map(str, peaks)))
        return
    for case in CASES:
        print(measure(case, arguments.folder), flush=True)


if __name__ == "__main__":
    main()
