"""What benchmarks return, and how it is told: medians of rounds, ratios, and the machine.

Decided here: the row, the tables and the description of the machine. Not decided here: what is
measured, or what is to be reached (`benchmarks.targets`).
"""

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OURS = "ours"
_LIBRARIES = (
    "pydicom",
    "deltalake",
    "pyarrow",
    "pandas",
    "fhir.resources",
    "dagster",
    "isal",
    "orjson",
    "msgspec",
    "python-gdcm",
    "pyspark",
    "delta-spark",
    "httpx",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one round.

    Attributes:
        part: The benchmark.
        case: What was worked on: one table of the report.
        contestant: Who did it; `ours` is what others are compared with.
        value: The number; None where it was not run, with the reason in `note`.
        unit: What the number counts. Less is better.
        note: What is to be known about it.
    """

    part: str
    case: str
    contestant: str
    value: float | None
    unit: str
    note: str = ""


@dataclass(slots=True)
class Line:
    """The rounds of one contestant in one case."""

    row: Row
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        """The median of the rounds; None where it was not run."""
        return statistics.median(self.values) if self.values else None


class Results:
    """All rows of all rounds."""

    def __init__(self) -> None:
        """Starts empty."""
        self._lines: dict[tuple[str, str, str], Line] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Adds the rows of a round."""
        for row in rows:
            line = self._lines.setdefault((row.part, row.case, row.contestant), Line(row))
            if row.value is not None:
                line.values.append(row.value)

    def median(self, part: str, case: str, contestant: str) -> float | None:
        """Returns a contestant's median; None where there is none."""
        line = self._lines.get((part, case, contestant))
        return line.median if line else None

    def ratio(self, part: str, case: str, contestant: str, other: str = OURS) -> float | None:
        """Returns how many times the other's median a contestant's is."""
        upper, lower = (self.median(part, case, name) for name in (contestant, other))
        return upper / lower if upper is not None and lower else None

    def parts(self) -> list[str]:
        """Returns the benchmarks, in the order they first came."""
        return list(dict.fromkeys(part for part, _, _ in self._lines))

    def table(self, part: str) -> str:
        """Returns a benchmark's tables in Markdown, one for each case."""
        cases = dict.fromkeys(case for own, case, _ in self._lines if own == part)
        return "\n\n".join(f"**{case}**\n\n{self._case(part, case)}" for case in cases)

    def _case(self, part: str, case: str) -> str:
        lines = [line for key, line in self._lines.items() if key[:2] == (part, case)]
        table = [("", "median", "rounds: least to most", f"times {OURS}", "")]
        for line in lines:
            ratio = self.ratio(part, case, line.row.contestant)
            comparable = line.row.contestant != OURS and ratio is not None
            comparable = comparable and line.row.unit == self._unit(part, case)
            table.append(
                (
                    line.row.contestant,
                    f"{short(line.median)} {line.row.unit}" if line.values else "not run",
                    f"{short(min(line.values))} to {short(max(line.values))}"
                    if line.values
                    else "",
                    f"{ratio:.2f}" if comparable else "",
                    line.row.note,
                )
            )
        return markdown(table)

    def _unit(self, part: str, case: str) -> str | None:
        line = self._lines.get((part, case, OURS))
        return line.row.unit if line else None


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Returns rows of cells, the first being the head, as a Markdown table."""
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    rule = "| " + " | ".join("-" * max(width, 3) for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def label(files: int) -> str:
    """Returns what a number of files is called."""
    return f"{files:,} files"


def short(value: float | None) -> str:
    """Returns a number with three digits that count; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> str:
    """Describes the machine and what runs on it, in Markdown."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    release = platform.freedesktop_os_release()["PRETTY_NAME"]
    libraries = ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
    commands = (("node", "--version"), ("dcm2json", "--version"), ("java", "--version"))
    tools = ", ".join(f"{command[0]} {_first_line(*command)}" for command in commands)
    return "\n".join(
        [
            f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            f"- {cpu}, {os.cpu_count()} cores, {memory:.0f} GiB of memory",
            f"- {release}, Linux {platform.release()}, Python {platform.python_version()}",
            f"- {libraries}",
            f"- {tools}",
        ]
    )


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "is not here"


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return "is not here"
    return done.stdout.partition("\n")[0].strip("$ ").removeprefix(f"{command[0]}: ")
