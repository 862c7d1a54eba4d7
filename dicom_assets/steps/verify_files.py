"""The trees of files as `verify` sees them: date folders, strays, and tables' data files.

Decided here: what is a date folder, and what is a leftover or nobody's. Tables' files that the log
does not name are left to maintenance; those it names must be there, as long as it says. Nothing
here reads a row.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

from dicom_assets.lakehouse.engine import LocalEngine, Table
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.layout import DEFAULT_SOURCE_SYSTEM, Layout
from dicom_assets.lakehouse.paths import What, entries_of
from dicom_assets.lakehouse.tables import files_of
from dicom_assets.steps.findings import Findings, Kind

_DATED = re.compile(r"(?:(?P<system>.+)/)?(?P<year>\d{4})/(?P<month>\d\d)/(?P<day>\d\d)")


class Trees:
    """Where the dates' files lie; found by one walk, which lists no date folder.

    Attributes:
        process: Ingest date → source system → folder of organised files.
        failed: The same of DICOM files that failed.
        operations: The same of files of operations that were taken in.
        fhir_failed: The same of FHIR files and lines that failed; it holds one of each type.
    """

    def __init__(self, layout: Layout, found: Findings) -> None:
        """Walks the trees; adds what lies outside of date folders to the findings."""
        self._layout = layout
        self.process = _by_date(layout, layout.process_root, found)
        self.failed = _by_date(layout, layout.failed_root, found)
        self.operations = _by_date(layout, layout.operations_root, found)
        self.fhir_failed = _by_date(layout, layout.fhir_failed_root, found)
        for folders in _by_date(layout, layout.fhir_root, found).values():
            for folder in folders.values():
                _temporaries(layout, folder, found)
        _leftovers(layout, found)

    def days(self) -> set[date]:
        """Returns the dates that have a folder."""
        return {*self.process, *self.failed, *self.operations, *self.fhir_failed}


def _by_date(layout: Layout, root: Path, found: Findings) -> dict[date, dict[str, Path]]:
    dated: defaultdict[date, dict[str, Path]] = defaultdict(dict)
    waiting = [root] if root.is_dir() else []
    while waiting:
        folder = waiting.pop()
        match = _DATED.fullmatch(folder.relative_to(root).as_posix())
        if match and (day := _day(match)):
            dated[day][match["system"] or DEFAULT_SOURCE_SYSTEM] = folder
            continue
        for path, what in entries_of(folder):
            if what is What.FOLDER:
                waiting += [path] if path not in _work_areas(layout) else []
            else:
                add_stray(layout, path, found)
    return dict(dated)


def _work_areas(layout: Layout) -> tuple[Path, Path]:
    return layout.organise_folder, layout.fhir_organise_folder


def _day(match: re.Match[str]) -> date | None:
    try:
        return date(int(match["year"]), int(match["month"]), int(match["day"]))
    except ValueError:
        return None


def add_stray(layout: Layout, path: Path, found: Findings) -> None:
    """Adds a file that no row can name: a leftover of ours, or an orphan."""
    ours = path.name.startswith(".") and path.name.endswith(".tmp")
    kind = Kind.LEFTOVER if ours else Kind.ORPHAN
    found.add(kind, layout.relative(path), key=path)


def _temporaries(layout: Layout, folder: Path, found: Findings) -> None:
    for path in folder.rglob(".*.tmp"):
        add_stray(layout, path, found)


def _leftovers(layout: Layout, found: Findings) -> None:
    """Adds what a killed run has left outside of the date folders."""
    for folder in (each for each in _work_areas(layout) if each.exists()):
        found.add(Kind.LEFTOVER, layout.relative(folder))
    if isinstance(layout.root, FarPath):  # nothing else lies there half written
        return
    for path in layout.root.glob("*/Tables/*/_places/*.tmp"):
        found.add(Kind.LEFTOVER, layout.relative(path), key=path)


def names_in(
    layout: Layout,
    folder: Path,
    found: Findings,
    *,
    counts: Callable[[os.DirEntry], bool] = os.DirEntry.is_file,
) -> Iterator[str]:
    """Yields the names of a date folder's files; adds what else lies there to the findings.

    Args:
        layout: Where things lie.
        folder: The folder.
        found: What else lies there is added to these.
        counts: Says of what is no folder whether it is one of the files.
    """
    if isinstance(folder, FarPath):
        for path, _ in folder.below():
            if path.parent == folder and not path.name.startswith("."):
                yield path.name
            else:
                add_stray(layout, path, found)
        return
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            for path in Path(entry.path).rglob("*"):
                if not path.is_dir():
                    add_stray(layout, path, found)
        elif entry.name.startswith(".") or not counts(entry):
            add_stray(layout, Path(entry.path), found)
        else:
            yield entry.name


def check_table_files(engine: LocalEngine, table: Table, found: Findings) -> None:
    """Adds data files that a table's log names and that are missing or of another size."""
    delta = engine.open(table)
    if delta is None:
        return
    folder = engine.layout.table(table.layer, table.name)
    for file in files_of(delta, table):
        path = folder / file.path
        if not path.exists() or path.stat().st_size != file.size:
            found.add(Kind.DATA_FILE, engine.layout.relative(path))
