"""Random sequences of events in the life of a lakehouse, and how they are let happen.

Decided here: drops, corrections, runs that are broken off and tables that are removed, over few
UIDs, so that they meet. Not decided here: what the lakehouse must hold then (`model`, `twins`).
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.steps import run
from dicom_assets.steps.chain import STEPS
from dicom_assets.steps.maintain import maintain
from dicom_assets.steps.repair import verify_and_repair
from dicom_assets_tests.conftest import DAY, House, dicom

DAYS = [DAY + timedelta(days=number) for number in range(4)]
STUDIES = ("1.2.1", "1.2.2", "1.2.3")
SHARED_SERIES = "1.2.9"
"""A series that comes in several studies."""
INSTANCES = tuple(f"1.3.{number}" for number in range(5))
PATIENTS = ("P1", "P2", "P3", None, " P4 ", "P 5^é")
REMOVABLE = ("bronze/ImagingStudy", "silver/current_files", "silver/conflicts")
REMOVABLE += ("silver/ImagingStudy", "gold/person", "gold/procedure_occurrence")
REMOVABLE += ("gold/Image_Occurrence",)
SEXES = ("M", "F", None)
_WHEN = datetime(2026, 1, 1).timestamp()


class BrokenOff(BaseException):
    """Ends a run, as a kill would, before one of its commits."""


@dataclass(frozen=True)
class File:
    """A file that was dropped."""

    system: str
    study: str
    series: str
    instance: str
    patient: str | None
    description: str | None
    sex: str | None
    accession: str | None


@dataclass(frozen=True)
class Ask:
    """An operation that was dropped."""

    system: str
    kind: str
    what: dict[str, str]


@dataclass(frozen=True)
class Report:
    """A FHIR report was dropped."""

    system: str
    said: dict[str, Any]


@dataclass(frozen=True)
class Upkeep:
    """Tables are looked after, and all is verified, and repaired if need be."""


@dataclass(frozen=True)
class Chain:
    """A date is run; up to a step, or until so many commits are made."""

    day: date
    until: str | None = None
    commits: int | None = None


@dataclass(frozen=True)
class Remove:
    """A table is removed by hand."""

    table: str


Event = File | Ask | Report | Upkeep | Chain | Remove


def story(seed: int, *, rounds: int, kills: bool) -> list[Event]:
    """Returns a random sequence of events; runs break off or tables are removed, not both.

    Whoever removes a table after a run that was broken off has to have it verified and repaired.
    """
    chance = random.Random(seed)  # noqa: S311 no secret
    events: list[Event] = []
    for _ in range(chance.randint(2, rounds)):
        events += [_file(chance) for _ in range(chance.choice([0, 1, 1, 2, 4]))]
        if chance.random() < 0.6:
            events += [_ask(chance) for _ in range(chance.choice([1, 1, 2, 3]))]
        day = chance.choice(DAYS)
        which = chance.random() if kills else 1
        if which < 0.3:
            events.append(Chain(day, until=chance.choice(list(STEPS))))
        else:
            events.append(Chain(day, commits=chance.randint(0, 12) if which < 0.6 else None))
        if not kills and chance.random() < 0.3:
            events.append(Remove(chance.choice(REMOVABLE)))
    # every date gets through in the end, in whatever order
    days = sorted({event.day for event in events if isinstance(event, Chain)})
    return events + [Chain(day) for day in chance.sample(days, len(days))]


def report(chance: random.Random) -> Report:
    """Returns a random report, of few, about one study or two, named in each of the ways."""
    studies = chance.sample(STUDIES, chance.choice([1, 1, 2]))
    prefix = chance.choice(["", "urn:oid:"])
    said: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "id": chance.choice(["r1", "r2", "r3"]),
        "status": chance.choice(["final", "amended"]),
        "code": {"text": "CT"},
        "conclusion": chance.choice(["one", "other"]),
        "imagingStudy": [{"reference": f"ImagingStudy/{uid}"} for uid in studies]
        if chance.random() < 0.3
        else [
            {"identifier": {"system": "urn:dicom:uid", "value": f"{prefix}{uid}"}}
            for uid in studies
        ],
    }
    if chance.random() < 0.5:
        said["subject"] = {"identifier": {"value": chance.choice(["P1", "P2", "P9"])}}
    return Report(_system(chance), said)


def _system(chance: random.Random) -> str:
    return "pacs" if chance.random() < 0.1 else "default"


def _file(chance: random.Random) -> File:
    study = chance.choice(STUDIES)
    return File(
        _system(chance),
        study,
        chance.choice([f"{study}.1", f"{study}.2", f"{study}.2", SHARED_SERIES]),
        chance.choice(INSTANCES),
        chance.choice(PATIENTS),
        chance.choice(["one", "other", None]),
        chance.choice(SEXES),
        chance.choice(["A1", "A2", None]),
    )


def _ask(chance: random.Random) -> Ask:
    kind = chance.choice(["delete", "delete", "restore", "reread", "change_patient"])
    uids = {
        "studyInstanceUid": chance.choice(STUDIES),
        "seriesInstanceUid": f"{chance.choice(STUDIES)}.{chance.choice('12')}",
        "sopInstanceUid": chance.choice(INSTANCES),
    }
    if kind == "change_patient":
        wrong, right = chance.sample(["P1", "P2", "P3", "P4", "P 5^é", "P9"], 2)
        what = {"patientId": wrong, "newPatientId": right}
        if chance.random() < 0.3:
            what["studyInstanceUid"] = uids["studyInstanceUid"]
        return Ask(_system(chance), kind, what)
    about = chance.choice([*([name] for name in uids), ["studyInstanceUid", "sopInstanceUid"]])
    return Ask(_system(chance), kind, {name: uids[name] for name in about})


@dataclass
class Played:
    """What has happened to a lakehouse."""

    house: House
    files: dict[str, File] = field(default_factory=dict)
    asked: dict[str, Ask] = field(default_factory=dict)
    days: set[date] = field(default_factory=set)
    struck: int = 0
    """How often a run was broken off, or a table removed."""
    found: list[str] = field(default_factory=list)
    """What did not agree when all was verified."""
    dropped: int = 0

    def play(self, events: Sequence[Event]) -> None:
        """Lets events happen."""
        for event in events:
            self.dropped += isinstance(event, File | Ask | Report)
            name = f"{self.dropped:04}"
            if isinstance(event, File):
                self._drop(f"{name}.dcm", event)
            elif isinstance(event, Ask):
                self._ask(name, event)
            elif isinstance(event, Report):
                self._report(f"{name}.json", event)
            elif isinstance(event, Upkeep):
                self._look_after()
            elif isinstance(event, Chain):
                self._run(event)
            else:
                layer, table = event.table.split("/")
                shutil.rmtree(self.house.run.engine.layout.table(layer, table), ignore_errors=True)
                self.struck += 1
                self._forget()

    def _drop(self, name: str, file: File) -> None:
        path = _inside(self.house.drop, file.system) / name
        dicom(
            path,
            StudyInstanceUID=file.study,
            SeriesInstanceUID=file.series,
            SOPInstanceUID=file.instance,
            PatientID=file.patient,
            StudyDescription=file.description,
            PatientSex=file.sex,
            AccessionNumber=file.accession,
            InstanceNumber=str(int(name[:4])),
        )
        os.utime(path, (_WHEN + len(self.files), _WHEN + len(self.files)))
        self.files[name] = file

    def _ask(self, name: str, ask: Ask) -> None:
        said = {"operation": ask.kind, "id": name, "requestedBy": "me", "reason": "wrong"}
        path = _inside(self.house.drop, ask.system) / f"Operations/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(said | ask.what))
        self.asked[name] = ask

    def _report(self, name: str, report: Report) -> None:
        folder = _inside(self.house.run.engine.layout.fhir_drop_folder, report.system)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(report.said))

    def _run(self, event: Chain) -> None:
        self.days.add(event.day)
        try:
            with _broken_off_after(event.commits):
                self.house.chain(event.day, until=event.until)
        except BrokenOff:
            self.struck += 1
        self.struck += event.until is not None
        self._forget()

    def _look_after(self) -> None:
        maintain(self.house.run.engine, self.house.settings)
        for findings in verify_and_repair(self.house.settings):
            self.found += [f"{kind}: {count}" for kind, count in findings.counts.items()]
        self._forget()

    def _forget(self) -> None:
        """Opens the lakehouse anew, as another process would."""
        self.house = _opened(self.house.settings.lakehouse)


def played(root: Path, events: Sequence[Event]) -> Played:
    """Lets events happen to a new lakehouse."""
    found = Played(_opened(root))
    found.play(events)
    return found


def _opened(root: Path) -> House:
    run._engine.cache_clear()
    return House(root, source_systems=["pacs"], workers=1)


def _inside(drop_folder: Path, system: str) -> Path:
    return drop_folder / ("" if system == "default" else system)


@contextmanager
def _broken_off_after(commits: int | None) -> Iterator[None]:
    """Has whoever commits more often than this broken off."""
    left = commits

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def counted_write(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left is not None:
                if left == 0:
                    raise BrokenOff
                left -= 1
            return write(*args, **kwargs)

        return counted_write

    with (
        mock.patch.object(LocalEngine, "append", counted(LocalEngine.append)),
        mock.patch.object(LocalEngine, "upsert", counted(LocalEngine.upsert)),
    ):
        yield
