"""Packing: one ZIP for each DICOM file, members out of dropped ZIPs, and processes or threads.

CT files of 0.5 MB. `one ZIP a file` and `out of a ZIP` are told in CPU time, each contestant in a
process of its own: how a file is packed at several levels, and by Python's `zipfile`; how members
of a dropped ZIP become files in ZIPs of their own, their deflate streams carried over or inflated
and deflated again. `read and pack` is what extract's two workers do, told in seconds: threads, as
for small runs, or processes, with their start; with 400 files of usual size, and with 2,000 of
small pixels, where reading headers is most of it. Workers' own start is told in the first round
only: the process they are forked from stays.

    python -m benchmarks.packing [--quick]
"""

import argparse
import io
import multiprocessing
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import data
from benchmarks.results import OURS, Results, Row
from dicom_assets.dicom.archives import Budget, Limits, members
from dicom_assets.dicom.own_zip import write_zip
from dicom_assets.lakehouse import pool
from dicom_assets.lakehouse.allocator import keep_memory
from dicom_assets.settings import load_settings
from dicom_assets.steps import catalog
from dicom_assets.steps.extract import _chunks
from dicom_assets.steps.organise import organise
from dicom_assets.steps.read_files import Task, read_files
from dicom_assets.steps.run import Run

PART = "packing"
UNIT = "µs CPU a file"
FILES, SMALL = 400, 2000
DAY = "2026-03-14"
_LIMITS = Limits(
    max_file_bytes=1 << 30, max_bytes=1 << 40, max_ratio=250, max_depth=5, max_members=1_000_000
)


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Runs each contestant once."""
    count = 20 if quick else FILES
    place = folder / f"{PART}-{count}"
    if data.once(place):
        for instance in data.ct_files(count):
            instance.write(place / "loose")
        data.write_zips(place / "zips", data.ct_files(count), 100)
        for instance in data.ct_files(40 if quick else SMALL, small=True, long=True):
            instance.write(place / "small")
        data.done(place)
    rows = []
    for case, contestants in (("one ZIP a file", PACKERS), ("out of a ZIP", UNPACKERS)):
        for name, work in contestants.items():
            with tempfile.TemporaryDirectory(dir=folder) as target:
                spent = _cpu_seconds(work, place, Path(target))
            rows.append(Row(PART, case, name, spent / count * 1e6, UNIT))
    for kind in ("loose", "small"):
        case = f"read and pack, {'files of 0.5 MB' if kind == 'loose' else 'small pixels'}"
        for name, many in (("over threads", FILES + SMALL), ("over processes", 0)):
            rows.append(Row(PART, case, name, _pooled(folder, place / kind, many), "s"))
    return rows


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _packs(level: int, *, keeps: bool = True) -> Callable[[Path, Path], None]:
    def work(place: Path, target: Path) -> None:
        if keeps:
            keep_memory()
        for number, path in enumerate(_files(place / "loose")):
            content = io.BytesIO(path.read_bytes())
            write_zip(content, target / f"{number}.zip", member=path.name, level=level)

    return work


def _zipfile(level: int) -> Callable[[Path, Path], None]:
    def work(place: Path, target: Path) -> None:
        for number, path in enumerate(_files(place / "loose")):
            with zipfile.ZipFile(target / f"{number}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(path, path.name, compresslevel=level)

    return work


def _unpacks(*, carry: bool) -> Callable[[Path, Path], None]:
    def work(place: Path, target: Path) -> None:
        keep_memory()
        for number, archive in enumerate(_files(place / "zips")):
            into = target / f"{number}"
            into.mkdir()
            for member in members(
                archive,
                into=into,
                budget=Budget(archive.stat().st_size, _LIMITS),
                organised=lambda name: name.replace("/", "_"),
                own_name=(lambda name: f"{name}.dcm") if carry else None,
            ):
                if not carry and member.file:
                    with member.file.open("rb") as stream:
                        own = member.file.with_suffix(".zip")
                        write_zip(stream, own, member=member.organised, level=1)
                    member.file.unlink()

    return work


def _extracts(place: Path, target: Path) -> None:
    for number, archive in enumerate(_files(place / "zips")):
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(target / f"{number}")


PACKERS = {
    OURS: _packs(1),
    "ours, level 2": _packs(2),
    "ours, level 3": _packs(3),
    "ours, level 6, zlib": _packs(6),
    "ours, memory given back": _packs(1, keeps=False),
    "zipfile, level 1": _zipfile(1),
    "zipfile, level 6": _zipfile(6),
}
UNPACKERS = {
    OURS: _unpacks(carry=True),
    "inflated, deflated again": _unpacks(carry=False),
    "zipfile.extractall, not packed": _extracts,
}


def _cpu_seconds(work: Callable[[Path, Path], None], place: Path, target: Path) -> float:
    """Runs work in a process of its own; returns the CPU time it took there."""
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)

    def run() -> None:
        begin = time.process_time()
        work(place, target)
        tell.send(time.process_time() - begin)

    process = context.Process(target=run)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("a contestant failed")
    return told.recv()


def _pooled(folder: Path, source: Path, many_tasks: int) -> float:
    """Returns the seconds in which two workers read and pack files; processes if so many tasks."""
    usual, pool.MANY_TASKS = pool.MANY_TASKS, many_tasks
    with tempfile.TemporaryDirectory(dir=folder) as root:
        run = Run.of(load_settings(lakehouse=root, settle_seconds=0, workers=1), DAY)
        shutil.copytree(source, run.engine.layout.drop_folder)
        organise(run)
        files = run.engine.read(catalog.PROCESS_FILES, catalog.PROCESS_FILES.schema.names)
        tags = run.settings.promoted
        chunks = _chunks(files.sort_by("filePath"))
        tasks = [Task(Path(root), run.ingest_date, chunk, tags, 1, 1 << 27) for chunk in chunks]
        os.sync()
        begin = time.perf_counter()
        done = pool.shared_out(read_files, tasks, workers=2, count=len(tasks))
        read = sum(each.rows.num_rows for each in done)
        pool.MANY_TASKS = usual
        spent = time.perf_counter() - begin
        if read != files.num_rows:
            raise SystemExit(f"{read} of {files.num_rows} files were read")
        return spent


def main() -> None:
    """Runs one round and prints it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few files")
    arguments = parser.parse_args()
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        results.add(measure(Path(folder), quick=arguments.quick))
    print(results.table(PART))


if __name__ == "__main__":
    main()
