"""Runs all benchmarks, interleaved, and writes `RESULTS.md`.

Round by round: each benchmark once, each contestant in it once, in turn; so for at least three
rounds, and medians are told. A benchmark that needs fewer rounds says so itself (`ROUNDS`).

    python -m benchmarks [PART …] [--rounds N] [--quick] [--output FILE]
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks.results import Results, machine
from benchmarks.targets import report

_PARTS = (
    "header",
    "packing",
    "chain",
    "growth",
    "look_up",
    "fhir_speed",
    "many_runs",
    "memory",
    "durability",
    "upserts",
    "pull",
)
_HERE = Path(__file__).parent
_HOW = """\
One run of `make bench`: {rounds} rounds, each of which runs every contestant once, in turn, but
for what takes minutes (PySpark, the straightforward pipeline over 2 processes, memory, many runs),
which runs in the first; {minutes:.0f} minutes in all. Medians of the rounds; less is better.
Compare ratios within this run, not numbers between machines. Files are in the page cache, folders
are fresh, the making of data is not timed, nothing is synced unless a contestant does it, and
dropped files count as complete at once (`settle_seconds` 0). What each benchmark does, its module
says."""


def main() -> None:
    """Runs the benchmarks."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0]
    )
    present = [part for part in _PARTS if find_spec(f"benchmarks.{part}")]
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(present))
    parser.add_argument("--rounds", type=int, help="3 unless told; 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, to try it all")
    parser.add_argument("--output", type=Path, help="RESULTS.md unless told; none with --quick")
    parser.add_argument("--folder", type=Path, help="where data are made, some 10 GB")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(present):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="dicom-assets-bench-"))
    try:
        results = _measured(folder, arguments.parts or present, rounds, quick=arguments.quick)
    finally:
        shutil.rmtree(folder)
    text = _text(results, rounds, (time.monotonic() - begin) / 60)
    print(text)
    output = arguments.output or (None if arguments.quick else _HERE / "RESULTS.md")
    if output:
        output.write_text(text)


def _measured(folder: Path, parts: list[str], rounds: int, *, quick: bool) -> Results:
    """Runs the parts round by round."""
    results = Results()
    for number in range(rounds):
        for part in parts:
            module = import_module(f"benchmarks.{part}")
            if number < getattr(module, "ROUNDS", rounds):
                begin = time.monotonic()
                results.add(module.measure(folder, quick=quick))
                took = time.monotonic() - begin
                print(f"round {number + 1}, {part}: {took:.0f} s", file=sys.stderr, flush=True)
    return results


def _text(results: Results, rounds: int, minutes: float) -> str:
    parts = [
        "# Benchmarks",
        _HOW.format(rounds=rounds, minutes=minutes),
        f"## Machine\n\n{machine()}\n- load when it ended: {os.getloadavg()[0]:.1f}",
        f"## Targets\n\n{report(results)}",
        *(f"## {part}\n\n{results.table(part)}" for part in results.parts()),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
