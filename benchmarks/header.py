"""Header → DICOM JSON text on one core, for each kind of file.

What is timed: a loop over the files of a kind, read from disk (they are in the page cache), each to
JSON text; not the start of the interpreter nor imports: each reads one file of a few elements
before the clock starts. Each contestant works in a fresh process bound to one core, so that caches
are all but empty at the first file. `ours, cold` is ours with empty
caches for every file: each is read in a fork of a process that has read none; page faults of the
fork count against it. DCMTK's tools and node's libraries are given copies that end before the pixel
data, so that they need not read those. `dcm2json` takes one file a process, so its start-up counts;
how much that is, is measured on a file of a few elements and told beside it. `dcmdump` takes many
files a process and writes text instead of JSON.

    python -m benchmarks.header [--quick]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import real_files
from benchmarks.readers import READERS, Reader, differences
from benchmarks.results import OURS, Results, Row

PART = "header"
UNIT = "µs/file"
COLD = "ours, cold"
CHECKED = "results equal to pydicom's"
OTHERS, SLOW = "files of others", "slow path"
_COLD_FILES = 40
_DCM2JSON_FILES = 20
_NODE = Path(__file__).parent / "node"
_CUT, _WHOLE = "cut", "whole"


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Runs each contestant once on each kind of file."""
    rows: list[Row] = []
    for kind, files in _made(folder, quick=quick).items():
        with _one_core():
            rows += [
                Row(PART, kind, name, _python(name, files / _WHOLE), UNIT)
                for name in READERS
                if name != "floor"
            ]
            rows.append(Row(PART, kind, COLD, _python(COLD, files / _WHOLE), UNIT))
            rows += _dcmtk(kind, files / _CUT)
            rows += [_node(kind, name, files / _CUT) for name in ("dcmjs", "dicom-parser")]
            note = "open, read 16 KiB, close"
            rows.append(Row(PART, kind, "floor", _python("floor", files / _WHOLE), UNIT, note))
        rows.append(_equal(kind, files / _WHOLE))
    return rows + _others(folder)


def _others(folder: Path) -> list[Row]:
    """Runs ours, pydicom and the floor on the files of others."""
    if not real_files.FOLDER.is_dir():
        return [Row(PART, OTHERS, OURS, None, UNIT, "these files are not at hand")]
    paths = folder / PART / "others.txt"
    command = [sys.executable, "-m", "benchmarks.real_files", str(paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    headers, slow, files = map(int, done.stdout.splitlines()[-1].split())
    note = f"{len(paths.read_text().splitlines())} files that ours and pydicom can read"
    with _one_core():
        rows = [
            Row(PART, OTHERS, name, _python(name, paths), UNIT, note)
            for name in (OURS, "pydicom", "floor")
        ]
    note = f"slow path {slow} of {headers}; of {files} files"
    return [*rows, Row(PART, OTHERS, SLOW, slow / headers * 100, "% of files", note)]


def _made(folder: Path, *, quick: bool) -> dict[str, Path]:
    """Returns the folder of each kind's files, made if they are not there yet."""
    from benchmarks import data

    root = folder / PART
    kinds = {kind: root / kind.replace(" ", "") for kind in data.KINDS}
    for kind, files in kinds.items():
        if data.once(files):
            count = data.KINDS[kind] // (20 if quick else 1)
            for number, instance in enumerate(data.files_of(kind, max(count, 2))):
                for form, tail in ((_CUT, b""), (_WHOLE, instance.pixels.element)):
                    path = files / form / f"{number:06}.dcm"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(instance.header + tail)
            data.done(files)
    return kinds


@contextmanager
def _one_core() -> Iterator[None]:
    """Binds this process, and those it starts, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _python(name: str, files: Path) -> float:
    """Returns µs a file of a reader in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.header", "--inside", name, str(files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout.splitlines()[-1])


def _inside(name: str, place: Path) -> float:
    """Times a reader on a folder's files, or on those that a text file lists; not its imports."""
    import pydicom.charset
    import pydicom.datadict  # noqa: F401 -- whose tables ours reads, too, when it meets a need

    listed = place.read_text().splitlines() if place.is_file() else place.iterdir()
    files = sorted(map(str, listed))
    read = READERS[OURS if name == COLD else name]()
    read(str(_few_elements(place)))
    if name == COLD:
        return statistics.median(_forked(read, path) for path in files[:_COLD_FILES])
    begin = time.perf_counter()
    for path in files:
        read(path)
    return (time.perf_counter() - begin) / len(files) * 1e6


def _forked(read: Reader, path: str) -> float:
    """Returns the µs of reading one file in a fork of this process."""
    source, sink = os.pipe()
    if not os.fork():
        begin = time.perf_counter()
        read(path)
        os.write(sink, f"{(time.perf_counter() - begin) * 1e6}".encode())
        os._exit(0)
    os.close(sink)
    told = os.read(source, 64)
    os.close(source)
    os.wait()
    return float(told)


def _dcmtk(kind: str, folder: Path) -> list[Row]:
    files = sorted(str(path) for path in folder.iterdir())
    if not (shutil.which("dcm2json") and shutil.which("dcmdump")):
        why = "dcmtk is not installed"
        return [Row(PART, kind, name, None, UNIT, why) for name in ("dcm2json", "dcmdump")]
    some = files[:_DCM2JSON_FILES]
    start_up = _timed([["dcm2json", "-fc", str(_few_elements(folder))]] * len(some))
    single = _timed([["dcm2json", "-fc", path] for path in some])
    many = _timed([["dcmdump", "-q", *files]]) / len(files)
    note = f"one process a file, of which start-up {start_up:,.0f}"
    return [
        Row(PART, kind, "dcm2json", single, UNIT, note),
        Row(PART, kind, "dcmdump", many, UNIT, "all files in one process, text instead of JSON"),
    ]


def _few_elements(place: Path) -> Path:
    """Returns a file beside the place with one element of each kind that loads something."""
    path = place.parent / "few_elements.dcm"
    if not path.exists():
        from pydicom.dataset import Dataset

        from benchmarks.data import Series

        header = Dataset()
        header.SpecificCharacterSet, header.SOPClassUID = "ISO_IR 100", "1.2.840.10008.5.1.4.1.1.2"
        header.SOPInstanceUID, header.PatientName = "1.2.3", "Bär"
        header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.3.4", "1.2.3.5"
        header.ProcedureCodeSequence = [Dataset()]
        block = header.private_block(0x0009, "GEMS_IDEN_01", create=True)
        block.add_new(0x01, "LO", "X")
        path.write_bytes(Series(header).header_bytes({"SOPInstanceUID": "1.2.3"}))
    return path


def _timed(commands: Sequence[Sequence[str]]) -> float:
    """Returns the mean µs of the commands."""
    begin = time.perf_counter()
    for command in commands:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)  # noqa: S603
    return (time.perf_counter() - begin) / len(commands) * 1e6


def _node(kind: str, name: str, folder: Path) -> Row:
    if not (shutil.which("node") and (_NODE / "node_modules" / name).exists()):
        return Row(PART, kind, name, None, UNIT, "node or the library is not installed")
    command = ["node", str(_NODE / "readers.mjs"), name, str(_few_elements(folder)), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    told = json.loads(done.stdout.splitlines()[-1])
    return Row(PART, kind, name, told["seconds"] / told["files"] * 1e6, UNIT)


def _equal(kind: str, folder: Path) -> Row:
    """Compares ours with pydicom's, file by file."""
    ours, theirs = READERS[OURS](), READERS["pydicom"]()
    paths = [str(path) for path in sorted(folder.iterdir())][:60]
    wrong = [differences(json.loads(ours(path)), json.loads(theirs(path))) for path in paths]
    unequal = [tags for tags in wrong if tags]
    note = f"equal: {len(paths) - len(unequal)} of {len(paths)}"
    if unequal:
        note += f"; the first differs at {', '.join(unequal[0][:5])}"
    return Row(PART, kind, CHECKED, float(len(unequal)), "files differ", note)


def main() -> None:
    """Runs one round and prints it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few files")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(_inside(arguments.inside[0], Path(arguments.inside[1])))
        return
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        results.add(measure(Path(folder), quick=arguments.quick))
    print(results.table(PART))


if __name__ == "__main__":
    main()
