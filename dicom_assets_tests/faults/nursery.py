"""A warm process that forks children to run the chain, watches them, and ends some.

Decided here: how a child is made that is ready in milliseconds (everything is imported, nothing of
delta-rs has run: its threads do not survive a fork), and which act of it goes wrong. It reads one
request a line, JSON, and answers each with one. Not decided here: what is dropped before and what
must be there after (`faults.test_…`).
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicom_assets.lakehouse.garbage import collect_seldom
from dicom_assets_tests.faults.syscalls import Act, Decision, Watch, watched

_CHANCE = re.compile(
    r"\b1[5-9]\d{11}(?=_)|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|(?<=_ImagingStudy_)[0-9a-f]{8}_v\d+-\d+|#\d+"
)


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes:
        do: `kill`, `half` (kill when half is written), `main` (kill the main process, whoever
            acts), `conflict` (another writer commits first), an errno, or None.
        act: The act, as `named` names it, and how often it comes before; instead of `at`.
        at: Number of the act, from 0.
        kinds: Only acts of these kinds are counted by `at`; none means all.
        below: Only acts on paths with one of these parts are.
        lasts: Whether all that come after go wrong, too: a disk that stays full.
        seconds: Instead of at an act, the main process is killed so long after it began.
    """

    do: str | int | None = None
    act: tuple[str, int] | None = None
    at: int = 0
    kinds: Sequence[str] = ()
    below: Sequence[str] = ()
    lasts: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        acts: What it did to files; the last one, of a child that was killed, not any more.
        status: Its exit status; negative the signal that ended it.
        error: The exception that ended it, as text.
        times: When each act was done, seconds since 1970.
    """

    acts: Sequence[Act]
    status: int
    error: str = ""
    times: Sequence[float] = field(default=(), repr=False)

    @property
    def killed(self) -> bool:
        """Whether it was killed."""
        return self.status == -signal.SIGKILL


class Nursery:
    """The warm process, as tests see it."""

    def __init__(self) -> None:
        """Starts it."""
        # of this checkout, whichever is installed
        path = os.pathsep.join(p for p in (str(Path(__file__).parents[2]), *sys.path) if p)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def run(self, work: Mapping[str, Any], fault: Fault | None = None) -> Ended:
        """Has a child do the work, and something go wrong.

        Args:
            work: `root`, `days`, and what else `_Child` knows.
            fault: What goes wrong; nothing by default.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([work, vars(fault or Fault())]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        acts = [Act(*act) for act in answer.pop("acts")]
        return Ended(acts, **answer)

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def _chain(work: Mapping[str, Any]) -> None:
    """Runs the chain, or upkeep, as the command line does but for Dagster."""
    from dicom_assets.lakehouse import pool
    from dicom_assets.settings import load_settings
    from dicom_assets.steps import extract
    from dicom_assets.steps.chain import STEPS
    from dicom_assets.steps.maintain import maintain
    from dicom_assets.steps.run import Run

    choices = {"settle_seconds": 0, "workers": 1, **work.get("choices", {})}
    if work.get("processes"):
        pool.MANY_TASKS = pool._FEW_TASKS = 1
        extract._FILES_PER_TASK = 2
    settings = load_settings(lakehouse=Path(work["root"]), **choices)
    if work.get("maintain"):
        run = Run.of(settings, work["days"][0])
        maintain(run.engine, settings)
        return
    for day in work["days"]:
        for step in STEPS.values():
            step(Run.of(settings, day, "test-run"))


def _warm_up() -> None:
    """Imports and makes what every child needs."""
    import pandas  # noqa: F401
    import pyarrow.acero
    import pyarrow.dataset  # noqa: F401

    from dicom_assets.fhir import model
    from dicom_assets.fhir.imaging_study import convert_studies  # noqa: F401
    from dicom_assets.omop.vocabulary import Vocabulary
    from dicom_assets.settings import load_settings
    from dicom_assets.steps import catalog, chain, maintain  # noqa: F401
    from dicom_assets.steps.reconcile import Day  # noqa: F401

    Vocabulary.default()
    settings = load_settings()
    for table in catalog.tables(settings.promoted, settings.fhir_resource_types):
        _ = table.delta_schema, table.delta_types
    for resource_type in ("Attachment", "DiagnosticReport", "Patient"):
        model.is_resource_type(resource_type)


def _clock(shifts: Sequence[float]) -> None:
    """Shifts the clock, each time it is asked by the next of these seconds, then by the last."""
    import datetime as module

    left = list(shifts)
    real_ns = time.time_ns

    def shifted_ns() -> int:
        shift = left.pop(0) if len(left) > 1 else left[0]
        return real_ns() + int(shift * 1e9)

    class Shifted(module.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(shifted_ns() / 1e9, tz)

    time.time_ns = shifted_ns
    time.time = lambda: shifted_ns() / 1e9
    for name, loaded in list(sys.modules.items()):
        if name.startswith("dicom_assets.") and vars(loaded).get("datetime") is module.datetime:
            vars(loaded)["datetime"] = Shifted


def _child(work: Mapping[str, Any], to_parent: socket.socket) -> None:
    """Does the work in this process, which nobody else's eyes see."""
    os.setsid()
    with open(os.devnull, "r+") as nothing:
        for descriptor in (0, 1, 2):
            os.dup2(nothing.fileno(), descriptor)
    random.seed()
    if work.get("clock"):
        _clock(work["clock"])
    listener = watched()
    socket.send_fds(to_parent, [b"x"], [listener])
    os.close(listener)
    try:
        _chain(work)
    except BaseException:
        to_parent.sendall(traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def named(act: Act, root: str) -> str:
    """Returns what an act is called in every run: without instants, versions and random ids."""
    paths = (_CHANCE.sub("*", path.removeprefix(root)) for path in act[1:])
    return f"{act.kind} {' '.join(paths)}"


def _decide(fault: Fault, root: str, main: int, times: list[float]) -> Any:
    counted = -1
    struck = False

    def decide(_: int, act: Act) -> Decision:
        nonlocal counted, struck
        times.append(time.time())
        if struck and fault.lasts:
            return fault.do
        if fault.act:
            name, at = fault.act
            is_one = named(act, root) == name
        else:
            at = fault.at
            is_one = (not fault.kinds or act.kind in fault.kinds) and (
                not fault.below or any(part in path for part in fault.below for path in act[1:])
            )
        counted += is_one
        if not is_one or counted != at:
            return None
        struck = True
        if fault.do == "main":
            os.kill(main, signal.SIGKILL)
            return "kill"
        if fault.do == "conflict":
            Path(act.to).write_text('{"commitInfo":{"timestamp":0,"operation":"ANOTHER WRITER"}}\n')
            return None
        return fault.do

    return decide


def _run(work: Mapping[str, Any], fault: Fault) -> dict[str, Any]:
    mine, its = socket.socketpair()
    child = os.fork()
    if not child:
        mine.close()
        _child(work, its)
    its.close()
    _, (listener, *_), _, _ = socket.recv_fds(mine, 1, 1)
    timer = threading.Timer(fault.seconds or 0, os.kill, (child, signal.SIGKILL))
    if fault.seconds is not None:
        timer.start()
    times: list[float] = []
    roots = (work["root"], *work.get("roots", ()))
    acts = Watch(listener, roots, _decide(fault, work["root"], child, times)).run()
    error = b""
    while piece := mine.recv(1 << 16):
        error += piece
    mine.close()
    timer.cancel()
    if timer.is_alive():
        timer.join()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"acts": acts, "status": code, "error": error.decode(), "times": times}


def main() -> None:
    """Answers requests until there are none."""
    collect_seldom()
    _warm_up()
    for line in sys.stdin:
        work, fault = json.loads(line)
        answer = _run(work, Fault(**fault))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
