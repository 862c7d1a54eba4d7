"""A disturbed run beside an undisturbed one: set up, disturb, run again, compare.

Decided here: what a scene starts from, and that what counts is what the lakehouse is like after one
more run without faults. Not decided here: what goes wrong (`faults.test_…`, `faults.torture`).
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dicom_assets_tests.conftest import House, another_file_system
from dicom_assets_tests.faults.drops import DELIVERIES, drop
from dicom_assets_tests.faults.likeness import differences, likeness
from dicom_assets_tests.faults.nursery import Ended, Fault, Nursery, named
from dicom_assets_tests.faults.power import Volatile
from dicom_assets_tests.faults.syscalls import Act

DAYS = tuple(DELIVERIES)
QUICK = {
    "mkdir": 12,
    "open": 14,
    "write": 7,
    "syncfs": 8,
    "chmod": 6,
    "rename": 3,
    "unlink": 3,
    "rmdir": 3,
}
"""Of these acts, of which one is like the next, the suite tries every n-th; `torture` tries all."""
KILLS = 16
"""So many runs in a row are killed, each further on, before one gets through."""
SHARES = 4
"""Tests into which the suite cuts a scene's kill points."""


class Scene:
    """A day's run, on the lakehouse that the days before have left."""

    def __init__(
        self,
        nursery: Nursery,
        folder: Path,
        day: str,
        *,
        elsewhere: Sequence[str] = (),
        **choices: Any,
    ) -> None:
        """Makes the lakehouse as it is before the day's run.

        Args:
            nursery: Who runs it.
            folder: An empty folder.
            day: The ingest date.
            elsewhere: Folders of the lakehouse that lie on another file system.
            choices: Settings.
        """
        self.nursery, self.folder, self.day, self.choices = nursery, folder, day, choices
        self.elsewhere = elsewhere
        self._before = folder / "before"
        self.shares = self.killed = 0
        self.numbers = count()  # a lakehouse of its own each: an opened one is remembered
        for earlier in DAYS[: DAYS.index(day)]:
            drop(self._before, earlier, folder / "drops")
            self.run(self._before, day=earlier)
        drop(self._before, day, folder / "drops")

    @cached_property
    def undisturbed(self) -> tuple[Ended, dict[str, Any]]:
        """How the day's run goes by itself, and what it leaves."""
        root = self.fresh("undisturbed")
        ended = self.run(root)
        assert ended.status == 0, ended.error
        return ended, likeness(root)

    def fresh(self, name: str) -> Path:
        """Returns a lakehouse as it is before the day's run."""
        root = self.folder / name
        shutil.copytree(self._before, root, symlinks=True)
        for inside in self.elsewhere:
            there = Path(tempfile.mkdtemp(dir=another_file_system(self.folder)))
            if (root / inside).exists():
                shutil.copytree(root / inside, there, dirs_exist_ok=True)
                shutil.rmtree(root / inside)
            (root / inside).parent.mkdir(parents=True, exist_ok=True)
            (root / inside).symlink_to(there, target_is_directory=True)
        return root

    def remove(self, root: Path) -> None:
        """Removes a lakehouse, and what lies elsewhere of it."""
        for inside in self.elsewhere:
            shutil.rmtree((root / inside).resolve())
        shutil.rmtree(root)

    def run(self, root: Path, fault: Fault | None = None, **more: Any) -> Ended:
        """Runs the day's chain in a process of its own, which something may happen to."""
        work = {"root": str(root), "days": [more.pop("day", self.day)], "choices": self.choices}
        return self.nursery.run({**work, **more}, fault)

    def run_again(self, root: Path, **choices: Any) -> list[str]:
        """Runs the day once more without faults; returns how it differs from the undisturbed."""
        from datetime import date

        choices = {"workers": 1, **self.choices, **choices}
        House(root, **choices).chain(date.fromisoformat(self.day))
        return differences(likeness(root), self.undisturbed[1])

    def disturbed(self, fault: Fault, **more: Any) -> tuple[Ended, list[str]]:
        """Has something happen, runs again; returns how it ended, and the differences."""
        root = self.fresh(f"disturbed {next(self.numbers)}")
        try:
            ended = self.run(root, fault, **more)
            return ended, self.run_again(root)
        finally:
            self.remove(root)

    def kill_points(self, every: Mapping[str, int]) -> list[Fault]:
        """Returns a kill before acts of the undisturbed run, and half-way through writes.

        Args:
            every: Kind of act → which of them: every one, every other one, …; 1 for other kinds.
        """
        kinds: Counter[str] = Counter()
        points = []
        for act, nth in self.acts():
            if kinds[act.kind] % every.get(act.kind, 1) == 0:
                points.append(Fault("half" if act.kind == "write" else "kill", nth))
            kinds[act.kind] += 1
        return points

    def acts(self) -> list[tuple[Act, tuple[str, int]]]:
        """Returns the undisturbed run's acts, each with its name and how often that came before."""
        names: Counter[str] = Counter()
        found = []
        for act in self.undisturbed[0].acts:
            name = named(act, str(self.folder / "undisturbed"))
            found.append((act, (name, names[name])))
            names[name] += 1
        return found

    def killed_in_rows(self, share: int, *, points: Sequence[Fault]) -> None:
        """Tries one of SHARES of the points, KILLS of them in a row, some with a power cut."""
        rows = -(-len(points) // KILLS)
        tried = killed = 0
        for row in range(share, rows, SHARES):
            power = (None, "data", "names")[row % 3]
            left = list(points[row::rows])
            tried += len(left)
            while left:
                number, different = self.killed_again_and_again(
                    left, power=power, until_missed=True
                )
                assert different == []
                killed += number
                # a run that got through has done all: what is left is tried on a new lakehouse
                left = left[number or 1 :]
        self.shares, self.killed = self.shares + 1, self.killed + killed
        assert killed > 0.9 * tried, "a kill on a new lakehouse strikes"

    def has_struck(self, least: int) -> None:
        """Asserts, once all shares were tried, that so many kills have struck."""
        if self.shares < SHARES:
            pytest.skip("counts the kills of all shares, and not all were run")
        assert self.killed >= least, f"{self.killed} struck"

    def killed_again_and_again(
        self,
        faults: Sequence[Fault],
        *,
        power: str | None = None,
        until_missed: bool = False,
        **more: Any,
    ) -> tuple[int, list[str]]:
        """Kills a run, the next run, …, then lets one get through.

        Args:
            faults: What kills them.
            power: `data` or `names`: what the disk loses each time, of all that is not durable.
            until_missed: Whether a run that gets through is the last.
            more: What else the runs are told.

        Returns:
            How many were killed, and the differences.
        """
        root = self.fresh(f"disturbed {next(self.numbers)}")
        killed = 0
        try:
            for fault in faults:
                ended = self.run(root, fault, **more)
                killed += ended.killed
                if until_missed and not ended.killed:
                    break
                if power and ended.killed:
                    volatile = Volatile.after(ended.acts[:-1])
                    volatile.lose_data() if power == "data" else volatile.lose_names()
            return killed, [f"{power} {faults}: {each}" for each in self.run_again(root)]
        finally:
            self.remove(root)
