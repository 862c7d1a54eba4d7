"""What is to be reached, beside what was.

Decided here: the targets, as ratios of medians within one run. A target whose benchmark did not run
says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import chain, growth, header, memory
from benchmarks.results import OURS, Results, label, markdown

_LARGEST = label(memory.FILES[-1])


@dataclass(frozen=True, slots=True)
class Target:
    """One target.

    Attributes:
        what: What is compared.
        at_least: The value to reach.
        unit: What stands behind the value.
        value: The value reached, from the results; None when it was not measured.
        less: Whether less is better.
    """

    what: str
    at_least: float
    unit: str
    value: Callable[[Results], float | None]
    less: bool = False

    def row(self, results: Results) -> tuple[str, ...]:
        """Returns the target's row of the report."""
        value = self.value(results)
        wanted = f"{'under ' if self.less else ''}{self.at_least:g}{self.unit}"
        if value is None:
            return (self.what, wanted, "", "not measured")
        reached = value < self.at_least if self.less else value >= self.at_least
        return (
            self.what,
            wanted,
            f"{value:.3g}{self.unit}",
            "ok" if reached else "**not reached**",
        )


def _chain(case: str, contestant: str, ours: str) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(chain.PART, case, contestant, ours)


def _floor(ours: str) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(chain.PART, chain.LOOSE, ours, chain.FLOOR)


def _header(kind: str) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(header.PART, kind, "pydicom")


def _unequal(results: Results) -> float | None:
    from benchmarks.data import KINDS

    found = [results.median(header.PART, kind, header.CHECKED) for kind in KINDS]
    return None if None in found else sum(value for value in found if value is not None)


def _slow(results: Results) -> float | None:
    return results.median(header.PART, header.OTHERS, header.SLOW)


def _growth(results: Results) -> float | None:
    smallest, largest = growth.label(growth.SIZES[0]), growth.label(growth.SIZES[-1])
    return results.ratio(growth.PART, growth.CASE, largest, smallest)


def _memory(results: Results) -> float | None:
    smallest = label(memory.FILES[0])
    return results.ratio(memory.PART, memory.TREE, _LARGEST, smallest)


_DAGSTER = chain.UNDER_DAGSTER
TARGETS = (
    Target(
        "header → JSON, CT of ~260 elements: pydicom : ours", 20, "x", _header("CT, ~260 elements")
    ),
    Target("header → JSON, enhanced multi-frame: pydicom : ours", 10, "x", _header("enhanced")),
    Target("headers that differ from pydicom's, all kinds", 1, " files", _unequal, less=True),
    Target("slow path share on shared/data/dicom", 2, " %", _slow, less=True),
    Target(
        "loose files: straightforward : ours",
        10,
        "x",
        _chain(chain.LOOSE, chain.STRAIGHTFORWARD, OURS),
    ),
    Target("loose files: ours : floor", 1.5, "x", _floor(OURS), less=True),
    Target(
        "ZIPs: straightforward : ours", 15, "x", _chain(chain.ZIPS, chain.STRAIGHTFORWARD, OURS)
    ),
    Target(
        "loose files: straightforward : ours under Dagster",
        10,
        "x",
        _chain(chain.LOOSE, chain.STRAIGHTFORWARD, _DAGSTER),
    ),
    Target("loose files: ours under Dagster : floor", 1.5, "x", _floor(_DAGSTER), less=True),
    Target(
        "ZIPs: straightforward : ours under Dagster",
        15,
        "x",
        _chain(chain.ZIPS, chain.STRAIGHTFORWARD, _DAGSTER),
    ),
    Target(
        "a run under Dagster that finds nothing to do",
        2,
        " s",
        lambda results: results.median(chain.PART, chain.IDLE, _DAGSTER),
        less=True,
    ),
    Target("a day at 10 million rows : at 0", 1.3, "x", _growth, less=True),
    Target("peak memory, 50,000 files : 1,000 files", 1.2, "x", _memory, less=True),
    Target(
        "peak memory, 50,000 files, all processes",
        1024,
        " MiB",
        lambda results: results.median(memory.PART, memory.TREE, _LARGEST),
        less=True,
    ),
)


def report(results: Results) -> str:
    """Returns the table of targets in Markdown."""
    head = ("what", "target", "reached", "")
    return markdown([head, *(target.row(results) for target in TARGETS)])
