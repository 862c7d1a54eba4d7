"""What is said of the engines side by side: seconds, memory, and from which size Spark pays.

Decided here: the straight line that is laid through an engine's sizes, what is reckoned from it for
more cores, and the text. Steps are of two kinds: those that an engine shares out, which more cores
make shorter, and those that one process does. What is reckoned for cores that were not there takes
it that the first kind is shared out without loss; no network, no shared file system is in it. Not
decided here: what is measured (`benchmarks.engines`).
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.results import Results, label, machine, markdown, short
from dicom_assets.steps.chain import STEPS

LOCAL, SPARK, CLUSTER = "local", "spark", "cluster"
CORES = 2
LABELS = {
    LOCAL: f"local engine, {CORES} processes",
    SPARK: f"Spark, local[{CORES}]",
    CLUSTER: f"Spark, 1 master, {CORES} workers",
}
SESSION = "start of the session"
PYTHON, JVM = "driver's Python", "driver's JVM"
HEAP_IN_USE = "driver's JVM, of its heap in use at the end"
NDJSON, METASTORE = "NDJSON, bytes an instance", "metastore on disk, bytes a row"
GROWS = 1.1
"""Memory of the larger size : of the smaller one; peaks of the same work differ by less."""
_BY_EXECUTORS = {"extract", "convert", "flatten", "procedure_occurrence", "image_occurrence"}
_SHARED_OUT = {LOCAL: {"extract"}, SPARK: _BY_EXECUTORS, CLUSTER: _BY_EXECUTORS}
_MACHINES = (CORES, 8, 32)
_HOW = """\
`make bench-spark`: the same chain, drop folder to gold, in steps without Dagster, by each engine in
a fresh process on a fresh lakehouse; {minutes:.0f} minutes in all. Up to 2,000 files three rounds
are run, of which medians are told, else one. Files are header-only (16 x 16 pixels) and in the page
cache. All of it runs on one machine, the cluster's master, workers and driver, too. Each JVM, a
driver's or an executor's, has a heap of {heap}. Less is better. Compare ratios within this run, not
numbers between machines."""

_HEAPS = """\
A JVM lets its heap fill up to its bound before it cleans it, so that its peak says how much has
passed through. What is in use is counted after it has been told to clean."""

_EXTRAPOLATED = """\
**Extrapolated, not measured:** steps that are shared out take half as long on twice as many cores.
However many there are, what one process does takes the local engine {local} s for 1,000 files, and
Spark {spark} s.

{table}"""


@dataclass(frozen=True, slots=True)
class Line:
    """How an engine's seconds go with the number of files.

    Attributes:
        fixed: Seconds whatever the number, the session's start with it.
        shared: Seconds for 1,000 files in steps that are shared out over `CORES` cores.
        alone: Seconds for 1,000 files in steps that one process does.
    """

    fixed: float
    shared: float
    alone: float

    def each(self, cores: float = CORES) -> float:
        """Returns the seconds for 1,000 files more on so many cores."""
        return self.alone + self.shared * CORES / cores

    def seconds(self, files: float, cores: float = CORES) -> float:
        """Returns the seconds for so many files on so many cores."""
        return self.fixed + self.each(cores) * files / 1000


def total(results: Results, files: int, engine: str) -> float | None:
    """Returns the seconds of all steps; None where that was not measured."""
    steps = [results.median(step, label(files), engine) for step in STEPS]
    return None if None in steps else sum(filter(None, steps))


def line(results: Results, files: Sequence[int], engine: str) -> Line | None:
    """Lays a line through the smallest and the largest size; None where there are no two."""
    sizes = [size for size in files if total(results, size, engine) is not None]
    if len(sizes) < 2:
        return None
    least, most = sizes[0], sizes[-1]

    def slope(step: str) -> float:
        low, high = (results.median(step, label(size), engine) or 0.0 for size in (least, most))
        return (high - low) / (most - least) * 1000

    shared = sum(slope(step) for step in STEPS if step in _SHARED_OUT[engine])
    alone = sum(slope(step) for step in STEPS if step not in _SHARED_OUT[engine])
    start = results.median(SESSION, label(least), engine) or 0.0
    steps = total(results, least, engine) or 0.0
    return Line(start + steps - (shared + alone) * least / 1000, shared, alone)


def cores_to_pass(spark: Line, local: Line, cores: int) -> int | None:
    """Returns with how many cores Spark is faster than the local engine on so many.

    Returns:
        The number from which on that is so for very many files, where what is fixed no longer
        counts; None where no number is enough, since the driver alone takes as long.
    """
    left = local.each(cores) - spark.alone
    return math.floor(spark.shared * CORES / left) + 1 if left > 0 else None


def files_to_pay(spark: Line, local: Line, *, spark_cores: int, cores: int) -> int | None:
    """Returns from how many files in a run on Spark is faster, what is fixed counted in."""
    gain = local.each(cores) - spark.each(spark_cores)
    if gain <= 0:
        return None
    return max(0, round((spark.fixed - local.fixed) / gain * 1000))


def report(
    results: Results, files: Sequence[int], engines: Sequence[str], *, heap: str, minutes: float
) -> str:
    """Returns the report, in Markdown, of what has been measured so far."""
    sizes = [size for size in files if any(_ran(results, size, each) for each in engines)]
    lines = {each: found for each in engines if (found := line(results, files, each))}
    how = _HOW.format(minutes=minutes, heap=heap)
    parts = [
        "# The engines side by side",
        how,
        f"## Machine\n\n{machine()}\n- load when it ended: {os.getloadavg()[0]:.1f}",
        "## Seconds",
        *(f"**{label(size)}**\n\n{_seconds(results, size, engines)}" for size in sizes),
        f"## Where Spark pays\n\n{_where(results, sizes, engines)}",
        _lines(lines),
        *([_more_cores(lines)] if LOCAL in lines and len(lines) > 1 else []),
        f"## The driver's memory\n\n{_memory(results, sizes, engines)}",
        f"## What grows with the instances\n\n{_bytes(results, sizes, engines)}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _ran(results: Results, files: int, engine: str) -> bool:
    return total(results, files, engine) is not None


def _whole(results: Results, files: int, engine: str) -> float | None:
    """Returns the seconds of all steps with the session's start."""
    steps = total(results, files, engine)
    start = results.median(SESSION, label(files), engine) or 0.0
    return None if steps is None else start + steps


def _seconds(results: Results, files: int, engines: Sequence[str]) -> str:
    def row(name: str, values: Sequence[float | None], *, none: str = "") -> tuple[str, ...]:
        return (name, *(none if each is None else short(each) for each in values))

    sums = [total(results, files, each) for each in engines]
    wholes = [_whole(results, files, each) for each in engines]
    here = _whole(results, files, LOCAL)
    times = [each / here if each and here else None for each in wholes]
    names = (SESSION, *STEPS)
    return markdown(
        [
            ("s", *(LABELS[each] for each in engines)),
            *(row(n, [results.median(n, label(files), e) for e in engines]) for n in names),
            row("**all steps**", sums, none="not measured"),
            row("**with the session's start**", wholes),
            row("times the local engine", times),
        ]
    )


def _where(results: Results, sizes: Sequence[int], engines: Sequence[str]) -> str:
    """Says in words where Spark has been faster."""
    told = []
    for engine in engines:
        pairs = [[_whole(results, size, each) for each in (engine, LOCAL)] for size in sizes]
        ratios = {size: p[0] / p[1] for size, p in zip(sizes, pairs, strict=True) if p[0] and p[1]}
        if engine == LOCAL or not ratios:
            continue
        at = f"{short(ratios[max(ratios)])} times the local engine's time at {label(max(ratios))}"
        paid = [size for size, ratio in ratios.items() if ratio < 1]
        says = f"pays from {label(paid[0])}" if paid else "does not pay at any size measured"
        told.append(f"- {LABELS[engine]}: on this machine it {says}; {at}.")
    return "\n".join(told)


def _lines(lines: dict[str, Line]) -> str:
    if not lines:
        return ""
    fixed, more = "fixed, session's start with it", "for 1,000 files more"
    head = ("s", fixed, more, "of which shared out", "of which one process")
    rows = [
        (LABELS[engine], *map(short, (each.fixed, each.each(), each.shared, each.alone)))
        for engine, each in lines.items()
    ]
    table = markdown([head, *rows])
    return f"A line through the smallest and the largest size:\n\n{table}"


def _more_cores(lines: dict[str, Line]) -> str:
    """Reckons for cores that are not there."""
    spark, local = lines.get(CLUSTER) or lines[SPARK], lines[LOCAL]
    rows = []
    for cores in _MACHINES:
        needed = cores_to_pass(spark, local, cores)
        if needed is None:
            rows.append((f"{cores}", short(local.each(cores)), "no number", ""))
            continue
        pays = files_to_pay(spark, local, spark_cores=2 * needed, cores=cores)
        from_files = "" if pays is None else f"{pays:,} in a run"
        rows.append((f"{cores}", short(local.each(cores)), f"{needed}", from_files))
    head = (
        "cores of the local engine",
        "its s for 1,000 files",
        "Spark's cores to pass it",
        "files from which twice those pay",
    )
    return _EXTRAPOLATED.format(
        local=short(local.alone), spark=short(spark.alone), table=markdown([head, *rows])
    )


def _memory(results: Results, sizes: Sequence[int], engines: Sequence[str]) -> str:
    """Tells the peaks, and whether they grow between the two largest sizes."""
    last = sizes[-2:]
    ratio_of = f"{label(last[-1])} : {label(last[0])}" if len(last) == 2 else "ratio"
    rows = []
    for engine in engines:
        for what in (PYTHON,) if engine == LOCAL else (PYTHON, JVM, HEAP_IN_USE):
            peaks = [results.median(what, label(size), engine) for size in sizes]
            low, high = peaks[-2:] if len(peaks) > 1 else (None, None)
            ratio = high / low if low and high else None
            verdict = "" if ratio is None else "ok" if ratio < GROWS else "**grows**"
            of = what.replace("driver's ", "main process, ") if engine == LOCAL else what
            rows.append((f"{LABELS[engine]}: {of}", *map(short, peaks), short(ratio), verdict))
    head = ("MiB, peaks but for what is in use", *map(label, sizes), ratio_of, f"under {GROWS:g}")
    table = markdown([head, *rows])
    return f"{table}\n\n{_HEAPS}" if {SPARK, CLUSTER} & {*engines} else table


def _bytes(results: Results, sizes: Sequence[int], engines: Sequence[str]) -> str:
    head = ("", *map(label, sizes))
    rows = []
    for what in (NDJSON, METASTORE):
        found = [
            [results.median(what, label(size), engine) for engine in engines] for size in sizes
        ]
        rows.append((what, *(short(next(filter(None, each), None)) for each in found)))
    return markdown([head, *rows])
