"""Faults of every kind, kills at every act, and at random: for hours if need be. `make torture`.

Decided here: which faults are tried, and the table of results that stands in docs/guarantees.md.
Not decided here: what is right (`scene`, `likeness`, `model`).
"""

import argparse
import errno
import logging
import random
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from dicom_assets_tests.faults.model import tried
from dicom_assets_tests.faults.nursery import Fault, Nursery
from dicom_assets_tests.faults.scene import DAYS, Scene
from dicom_assets_tests.faults.syscalls import Act
from dicom_assets_tests.faults.twins import differing

GUARANTEES = Path(__file__).parents[2] / "docs/guarantees.md"
_DROP, _FAILED = "bronze/Files/Ingest/Imaging/DICOM", "bronze/Files/Failed/Imaging/DICOM"
_ERRORS = {errno.ENOSPC: True, errno.EIO: False, errno.EACCES: False}
"""Error → whether it stays: a full disk does."""
_RESULTS = re.compile(r"(?<=<!-- torture -->\n).*?(?=<!-- /torture -->)", re.DOTALL)


@dataclass
class Tally:
    """What came of one kind of fault: tried, had an effect, and what was different after."""

    tried: int = 0
    struck: int = 0
    different: list[str] = field(default_factory=list)


_TOLD_EACH = 50

Trial = Callable[[], tuple[int, int, list[str]]]
"""Returns how many faults were tried, how many struck, and the differences."""


def kills(scene: Scene, power: str | None) -> Iterator[Trial]:
    """Yields a kill before each act and half-way through each write, one a run."""
    for point in scene.kill_points({}):
        yield lambda point=point: (1, *scene.killed_again_and_again([point], power=power))


def kills_in_a_row(scene: Scene, chance: random.Random, number: int) -> Iterator[Trial]:
    """Yields runs of which several in a row are killed at any acts, or at any instants."""
    acts = len(scene.undisturbed[0].acts)
    for _ in range(number):
        faults = [
            Fault("kill", at=chance.randrange(acts))
            if chance.random() < 0.5
            else Fault(seconds=chance.uniform(0.01, 0.6))
            for _ in range(chance.randint(2, 5))
        ]
        power = chance.choice([None, None, "data", "names"])
        if any(fault.seconds for fault in faults):
            power = None  # what was being done at that instant is not known
        yield lambda faults=faults, power=power: (
            len(faults),
            *scene.killed_again_and_again(faults, power=power),
        )


def errors(scene: Scene, code: int, *, lasts: bool) -> Iterator[Trial]:
    """Yields an error of the storage at every fifth act, once or from then on."""

    def trial(at: int) -> tuple[int, int, list[str]]:
        root = scene.fresh(f"error {next(scene.numbers)}")
        try:
            ended = scene.run(root, Fault(code, at=at, lasts=lasts))
            found = [f"{code} at {at}: {each}" for each in scene.run_again(root)]
        finally:
            scene.remove(root)
        if ended.status and ("the storage failed: " not in ended.error or "Doe" in ended.error):
            found.append(f"{code} at {at}: said otherwise: {ended.error[-300:]}")
        # a run that had fewer acts than the undisturbed one has not met the error
        return 1, int(len(ended.acts) > at), found

    for at, act in list(enumerate(scene.undisturbed[0].acts))[code % 5 :: 5]:
        # what may not be taken stays for the next run, which makes of it what a late part is made
        if code != errno.EACCES or not _is_about_the_drop_folder(act):
            yield lambda at=at: trial(at)


def conflicts(scene: Scene) -> Iterator[Trial]:
    """Yields another writer's commit just before each of ours; a table is made by one alone."""
    commits = [act for act in scene.undisturbed[0].acts if act.kind == "link"]

    def trial(at: int) -> tuple[int, int, list[str]]:
        ended, different = scene.disturbed(Fault("conflict", at=at, kinds=["link"]))
        return 1, int(ended.status != 0), [f"conflict {at}: {each}" for each in different]

    for at in (n for n, act in enumerate(commits) if not act.to.endswith(f"{0:020}.json")):
        yield lambda at=at: trial(at)


def workers(scene: Scene) -> Iterator[Trial]:
    """Yields kills of worker processes, and of the main process while they work."""
    for at in range(0, 24, 2):
        for do in ("kill", "main", "half"):
            kinds = ["write"] if do == "half" else ["open", "write", "rename"]
            fault = Fault(do, at=at, kinds=kinds, below=[".dcm.zip"])
            yield lambda fault=fault: (
                1,
                *scene.killed_again_and_again([fault], processes=True),
            )


def sequences(folder: Path, seed: int, number: int) -> Iterator[Trial]:
    """Yields random sequences of events; of three, runs are broken off in two, tables go in one."""
    for at in range(number):
        yield _played(folder, seed + at, partial(tried, kills=at % 3 > 0))


def twins(folder: Path, seed: int, number: int) -> Iterator[Trial]:
    """Yields random sequences with reports, undisturbed and disturbed."""
    for at in range(number):
        yield _played(folder, seed + at, lambda root, seed: (1, differing(root, seed)))


def _played(folder: Path, seed: int, play: Callable[[Path, int], tuple[int, list[str]]]) -> Trial:
    """Returns the trial of a sequence, played in a folder of its own."""

    def trial() -> tuple[int, int, list[str]]:
        root = folder / f"sequence {seed}"
        try:
            struck, different = play(root, seed)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        return 1, min(struck, 1), [f"sequence {seed}: {each}" for each in different]

    return trial


def _is_about_the_drop_folder(act: Act) -> bool:
    return "/Ingest/" in act.path


def trials(nursery: Nursery, folder: Path, seed: int, rows: int) -> Iterator[tuple[str, Trial]]:
    """Yields all that is tried, by kind."""
    chance = random.Random(seed)  # noqa: S311 no secret
    for day in DAYS:
        scene = Scene(nursery, folder / day, day)
        for name, power in (
            ("killed (SIGKILL) before an act, or half-way through a write", None),
            ("the same with a power cut: data not synced are lost", "data"),
            ("the same with a power cut: names not synced are lost", "names"),
        ):
            yield from ((name, trial) for trial in kills(scene, power))
        name = "killed 2 to 5 times in a row, at random acts and instants, some with a power cut"
        yield from ((name, trial) for trial in kills_in_a_row(scene, chance, rows // 2))
        for code, lasts in _ERRORS.items():
            name = f"{errno.errorcode[code]}, {'from an act on' if lasts else 'once'}"
            yield from ((name, trial) for trial in errors(scene, code, lasts=lasts))
        name = "another writer commits to the same table first"
        yield from ((name, trial) for trial in conflicts(scene))
    apart = Scene(nursery, folder / "apart", DAYS[0], elsewhere=[_DROP, _FAILED])
    name = "killed, with drop folder and Failed on another file system (EXDEV)"
    yield from ((name, trial) for trial in kills(apart, None))
    name = "random sequences of drops, corrections and kills, or removed tables, against a model"
    yield from ((name, trial) for trial in sequences(folder, seed, rows))
    name = "random sequences with reports, runs broken off or upkeep between, against undisturbed"
    yield from ((name, trial) for trial in twins(folder, seed, rows // 2))
    scene = Scene(nursery, folder / "workers", DAYS[0], workers=2)
    name = "a worker process killed, or the main process while workers work"
    yield from ((name, trial) for trial in workers(scene))


def tortured(share: int, shares: int, seed: int, rows: int) -> dict[str, Tally]:
    """Tries one share of everything; shows what differs as it is found."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    nursery = Nursery()
    found: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, trial) in enumerate(trials(nursery, Path(folder), seed, rows)):
            tally = found.setdefault(name, Tally())
            if number % shares != share:
                continue
            if number // shares % _TOLD_EACH == 0:
                sys.stderr.write(f"process {share}: {number:,} faults on, at: {name}\n")
            try:
                tried, struck, different = trial()
            except Exception as error:  # a run that does not get through is a difference as well
                tried, struck, different = 1, 1, [f"{type(error).__name__}: {error}"]
            tally.tried += tried
            tally.struck += struck
            tally.different += different
            for each in different[:3]:
                sys.stderr.write(f"{name}: {each[:1000]}\n")
    nursery.close()
    return found


def table(tallies: dict[str, Tally], seed: int, minutes: float) -> str:
    """Returns the results as they stand in docs/guarantees.md."""
    rows = [
        f"| {name} | {tally.tried:,} | {tally.struck:,} | {len(tally.different)} |"
        for name, tally in tallies.items()
    ]
    tried = sum(tally.tried for tally in tallies.values())
    struck = sum(tally.struck for tally in tallies.values())
    different = sum(len(tally.different) for tally in tallies.values())
    head = "| fault | tried | struck | differences |\n|---|---|---|---|"
    total = f"| **all** | **{tried:,}** | **{struck:,}** | **{different}** |"
    return "\n".join(
        [f"\n`make torture`, seed {seed}, {minutes:.0f} minutes.\n", head, *rows, total, "\n"]
    )


def main() -> None:
    """Tries everything, prints the table, and writes it into the page of guarantees."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311
    parser.add_argument(
        "--rows", type=int, default=80, help="random rows of kills, and random sequences"
    )
    parser.add_argument("--shares", type=int, default=2, help="processes")
    parser.add_argument("--write", action="store_true", help="into docs/guarantees.md")
    chosen = parser.parse_args()
    sys.stderr.write(f"seed {chosen.seed}\n")
    begin = time.monotonic()
    tallies: dict[str, Tally] = {}
    with ProcessPoolExecutor(chosen.shares, mp_context=get_context("spawn")) as pool:
        parts = [
            pool.submit(tortured, share, chosen.shares, chosen.seed, chosen.rows)
            for share in range(chosen.shares)
        ]
        for part in parts:
            for name, tally in part.result().items():
                all_of_it = tallies.setdefault(name, Tally())
                all_of_it.tried += tally.tried
                all_of_it.struck += tally.struck
                all_of_it.different += tally.different
    results = table(tallies, chosen.seed, (time.monotonic() - begin) / 60)
    sys.stdout.write(results)
    if chosen.write:
        GUARANTEES.write_text(_RESULTS.sub(lambda _: results, GUARANTEES.read_text()))
    raise SystemExit(1 if any(tally.different for tally in tallies.values()) else 0)


if __name__ == "__main__":
    main()
