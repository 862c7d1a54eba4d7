"""Profiles the chain on CT files: a flame graph for the docs, and a table of where time goes.

py-spy looks at the main process and its workers some hundred times a second and counts what is on
a core; a process that waits is not counted. In the table a sample belongs to the step it is in, and
to the deepest function of the product on its stack; so what pyarrow or ISA-L do counts for the
function that called them. Workers say which step they work for by the functions they run. Tracing a
process needs root, or a kernel that lets users trace their own processes.

    python -m benchmarks.flame_graph [--files N] [--zips] [--dagster] [--output docs/profile]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks import chain, data
from benchmarks.flame_svg import IMPORTS, draw, stacks
from benchmarks.results import markdown

_RATE = 250
_PACKAGE = "dicom_assets/"
_STEP = re.compile(r"dicom_assets/(?:steps|lakehouse|dicom)/(?!chain)(\w+)\.py")
_OTHER = "imports, start of processes, Python"
_LEAST_PERCENT = 0.5


def _recorded(root: Path, files: int, *, zips: bool, contestant: str) -> str:
    """Runs the chain under py-spy; returns the stacks it saw."""
    lakehouse, dropped, output = root / "lakehouse", root / "dropped", root / "stacks.txt"
    if zips:
        data.write_zips(dropped, data.ct_files(files), chain.MEMBERS)
    else:
        for instance in data.ct_files(files):
            instance.write(dropped)
    chain.drop(dropped, lakehouse / chain.DROP)
    command = ["py-spy", "record", "--subprocesses", "--nolineno", "--rate", str(_RATE)]
    command += ["--format", "raw", "--output", str(output), "--", sys.executable, "-m"]
    command += ["benchmarks.chain", "--inside", contestant, str(lakehouse)]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DAGSTER_HOME": str(lakehouse / "dagster"),
        "DICOM_ASSETS_SETTLE_SECONDS": "0",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode or not output.exists():
        raise SystemExit(done.stderr[-4000:])
    return output.read_text()


def _shares(stacks: list[tuple[tuple[str, ...], int]]) -> Counter[tuple[str, str, str]]:
    """Counts samples by process, step, and deepest function of the product."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for (process, *frames), samples in stacks:
        own = [frame for frame in frames if _PACKAGE in frame]
        steps = (found[1] for frame in own if (found := _STEP.search(frame)))
        step = _OTHER if IMPORTS in frames else next(steps, _OTHER)
        inner = own[-1] if own and step != _OTHER else ""
        counted[process, step, inner.replace(_PACKAGE, "")] += samples
    return counted


def _table(counted: Counter[tuple[str, str, str]], files: int) -> str:
    """Returns the shares as Markdown: what is least is summed up."""
    whole = sum(counted.values())
    table = [("process", "step", "function", "share", "µs/file")]
    rest = 0
    for (process, step, function), samples in counted.most_common():
        share = samples / whole * 100
        if share < _LEAST_PERCENT:
            rest += samples
            continue
        micros = samples / _RATE / files * 1e6
        table.append((process, step, function, f"{share:.1f} %", f"{micros:,.0f}"))
    micros = rest / _RATE / files * 1e6
    table.append(("", "", "all else", f"{rest / whole * 100:.1f} %", f"{micros:,.0f}"))
    return markdown(table)


def _render(picture: Path) -> str:
    """Renders the SVG as a PNG as well, which Markdown viewers show; says what was written."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        return f"{picture}; no Chromium here to render a PNG"
    size = re.search(r'<svg[^>]* width="(\d+)"[^>]* height="(\d+)"', picture.read_text())
    width, height = (int(size[1]), int(size[2])) if size else (1200, 1000)
    png = picture.with_suffix(".png")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--screenshot={png}", f"--window-size={width},{height}", picture.as_uri()]
    subprocess.run(command, capture_output=True, check=True)  # noqa: S603
    return f"{picture} and {png}"


def main() -> None:
    """Runs the profiler, writes the picture, prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=chain.FILES)
    parser.add_argument("--zips", action="store_true", help="drop the files in ZIPs")
    parser.add_argument("--dagster", action="store_true", help="run under Dagster, with all checks")
    parser.add_argument("--output", type=Path, default=Path("docs/profile"))
    arguments = parser.parse_args()
    contestant = chain.UNDER_DAGSTER if arguments.dagster else chain.OURS
    with tempfile.TemporaryDirectory() as folder:
        raw = _recorded(Path(folder), arguments.files, zips=arguments.zips, contestant=contestant)
    seen = list(stacks(raw))
    form = "in ZIPs" if arguments.zips else "loose"
    picture = arguments.output.absolute().with_suffix(".svg")
    picture.write_text(draw(seen, f"{arguments.files:,} CT files, {form}: {contestant}"))
    print(_table(_shares(seen), arguments.files))
    print(f"\nwritten: {_render(picture)}")


if __name__ == "__main__":
    main()
