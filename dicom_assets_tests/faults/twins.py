"""Twins: the same events, undisturbed, and with what must not show in the end.

Decided here: what may happen beside a random sequence of drops, corrections, reports and dates:
that runs break off, once or twice, before they get through, and that tables are looked after and
all is verified, which must find nothing, between them. Not decided here: what a lakehouse holds
after the undisturbed sequence (`model`), and what may differ (`likeness`).
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from dicom_assets_tests.faults.likeness import differences, likeness
from dicom_assets_tests.faults.story import Chain, Event, Remove, Upkeep, played, report, story

_MOST_COMMITS = 16


def differing(folder: Path, seed: int, *, rounds: int = 6) -> list[str]:
    """Returns in what disturbed lakehouses differ from the one that was not."""
    chance = random.Random(seed)  # noqa: S311 no secret
    events = [*_with_reports(story(seed, rounds=rounds, kills=False), chance)]
    found = played(folder / "undisturbed", [*events, Upkeep()]).found
    expected = likeness(folder / "undisturbed")
    for disturb in (_broken_off, _looked_after):
        name = disturb.__name__
        after = played(folder / name, [*disturb(events, chance), Upkeep()])
        other = differences(likeness(folder / name), expected)
        found += [f"{name}: {each}" for each in (*after.found, *other)]
    return found


def _with_reports(events: Sequence[Event], chance: random.Random) -> Iterator[Event]:
    for event in events:
        if isinstance(event, Chain):
            yield from (report(chance) for _ in range(chance.choice([0, 0, 1, 2])))
        if not isinstance(event, Remove):
            yield event


def _broken_off(events: Sequence[Event], chance: random.Random) -> Iterator[Event]:
    for event in events:
        if isinstance(event, Chain):
            for _ in range(chance.choice([1, 1, 2])):
                yield Chain(event.day, commits=chance.randint(0, _MOST_COMMITS))
        yield event


def _looked_after(events: Sequence[Event], chance: random.Random) -> Iterator[Event]:
    for event in events:
        yield event
        if isinstance(event, Chain) and chance.random() < 0.5:
            yield Upkeep()
