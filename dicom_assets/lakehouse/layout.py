"""Where everything lies under the lakehouse root, and what organised files are called.

Decided here: every path, the file-name prefix and which characters a name may keep. Paths in tables
are relative to the root, with `/`, so that a lakehouse can be moved. Not decided here: who writes
what (`dicom_assets.steps`) or what is in the tables (`schemas`).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.paths import What, entries_of, scratch_of

DEFAULT_SOURCE_SYSTEM = "default"
OPERATIONS_FOLDER = "Operations"
"""The folder of the drop folder, or of a namespace's, whose `*.json` are operations."""

_MAX_NAME_BYTES = 255
_MAX_FOLDERS = 1000
_RESERVED = len("1700000000000_") + len(".dcm.zip") + len(".") + len(".tmp")
_YEAR = re.compile(r"\d{4}")
_FHIR_FILE = re.compile(r"[^.].*\.(?:ndjson|jsonl|json)(?:\.gz)?", re.IGNORECASE | re.DOTALL)
_NOT_UTF8 = re.compile(r"[\ud800-\udfff]")
# control characters, also those of terminals (C1), marks that turn or hide text, wildcards
_UNSAFE = re.compile(
    r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|%\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]'
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one lakehouse.

    Attributes:
        root: Absolute folder that holds `bronze`, `silver` and `gold`.
    """

    root: Path

    @property
    def scratch(self) -> Path:
        """Where rows and bytes wait on this machine; the root itself, where that is local."""
        return scratch_of(self.root)

    @property
    def staging(self) -> Path:
        """Where Spark's executors leave rows for the driver; gone but while a run is at work."""
        return self.root / ".spark"

    @property
    def checkpoint_root(self) -> Path:
        """Where Spark notes what `stream` has seen of tables; may be deleted while none runs."""
        return self.root / ".stream"

    @property
    def drop_folder(self) -> Path:
        """Where people and systems drop DICOM files and ZIPs."""
        return self.root / "bronze/Files/Ingest/Imaging/DICOM"

    @property
    def process_root(self) -> Path:
        """The tree of organised DICOM files."""
        return self.root / "bronze/Files/Process/Imaging/DICOM"

    @property
    def organise_folder(self) -> Path:
        """Work area of `organise`, on the file system of the organised files; empty at rest."""
        return self.process_root / ".organise"

    @property
    def external_root(self) -> Path:
        """Where files lie that stay where they are: by namespace, then by shortcut."""
        return self.root / "bronze/Files/External/Imaging/DICOM"

    @property
    def failed_root(self) -> Path:
        """The tree of DICOM files that could not be moved or read."""
        return self.root / "bronze/Files/Failed/Imaging/DICOM"

    @property
    def fhir_failed_root(self) -> Path:
        """The tree of FHIR lines that could not be read."""
        return self.root / "bronze/Files/Failed/Clinical/FHIR NDJSON"

    @property
    def fhir_root(self) -> Path:
        """The tree of FHIR NDJSON files."""
        return self.root / "bronze/Files/Process/Clinical/FHIR NDJSON"

    @property
    def fhir_drop_folder(self) -> Path:
        """Where people and systems drop FHIR files of any resource type."""
        return self.root / "bronze/Files/Ingest/Clinical/FHIR NDJSON"

    @property
    def fhir_organise_folder(self) -> Path:
        """Work area of `organise_fhir`, on the file system of the FHIR files; empty at rest."""
        return self.fhir_root / ".organise"

    @property
    def operations_root(self) -> Path:
        """The tree of files of operations that were taken in."""
        return self.root / "bronze/Files/Process/Operations"

    def process_folder(self, source_system: str, day: date) -> Path:
        """Returns the date folder of organised DICOM files."""
        return _dated(self.process_root, source_system, day)

    def failed_folder(self, source_system: str, day: date) -> Path:
        """Returns the date folder of DICOM files that could not be moved or read."""
        return _dated(self.failed_root, source_system, day)

    def operations_drop(self, source_system: str) -> Path:
        """Returns where operations about a source system are dropped."""
        is_default = source_system == DEFAULT_SOURCE_SYSTEM
        folder = self.drop_folder if is_default else self.drop_folder / source_system
        return folder / OPERATIONS_FOLDER

    def dropped_as(self, source_path: str) -> Path:
        """Returns where a file is dropped again that came under a source path.

        Member names of archives may be anything; what is made of them lies in the drop folder.
        """
        return _below(self.drop_folder, source_path)

    def fhir_dropped_as(self, source_path: str) -> Path:
        """Returns where a FHIR file is dropped again that came under a source path."""
        return _below(self.fhir_drop_folder, source_path)

    def manifest_folder(self, day: date) -> Path:
        """Returns the date folder of delivery manifests."""
        return _dated(self.root / "bronze/Files/Process/Manifests", DEFAULT_SOURCE_SYSTEM, day)

    def operations_folder(self, source_system: str, day: date) -> Path:
        """Returns the date folder of files of operations that were taken in."""
        return _dated(self.operations_root, source_system, day)

    def fhir_folder(self, source_system: str, day: date, resource_type: str) -> Path:
        """Returns the date folder of one FHIR resource type."""
        return _dated(self.fhir_root, source_system, day) / resource_type

    def fhir_failed_folder(self, source_system: str, day: date, resource_type: str) -> Path:
        """Returns the date folder of FHIR lines that could not be read."""
        return _dated(self.fhir_failed_root, source_system, day) / resource_type

    def fhir_files(self, day: date, resource_type: str) -> list[tuple[str, Path]]:
        """Returns (source system, file) of every FHIR file of a day, sorted.

        Those are files called `.ndjson`, `.jsonl` or `.json`, and `.gz` behind it.
        """
        entries = self._fhir_entries(day, resource_type)
        return sorted((system, path) for system, path, what in entries if what is What.FILE)

    def fhir_strays(self, day: date, resource_type: str) -> list[tuple[str, Path]]:
        """Returns (source system, path) of what is called like a FHIR file and is none.

        Links and pipes for example; a link in the place of a folder is one, too, also where
        namespaces lie.
        """
        if isinstance(self.root, FarPath):
            return []  # there are only files, and to list them costs requests
        links = {
            (source_system, path)
            for source_system, folder in self._fhir_folders()
            for path, what in entries_of(folder)
            if what is What.OTHER and path.name[0] != "."
        }
        entries = self._fhir_entries(day, resource_type)
        strays = {(system, path) for system, path, what in entries if what is not What.FILE}
        return sorted(links | strays)

    def _fhir_entries(self, day: date, resource_type: str) -> Iterator[tuple[str, Path, What]]:
        for source_system, folder in self._fhir_folders():
            dated = folder / f"{day:%Y/%m/%d}" / resource_type
            if link := _link_above(dated, below=folder):
                yield source_system, link, What.OTHER
                continue
            for path, what in entries_of(dated):
                if _FHIR_FILE.fullmatch(path.name):
                    yield source_system, path, what

    def fhir_counts(self, day: date) -> list[tuple[str, str, int]]:
        """Returns (source system, resource type, number of FHIR files) of a day."""
        found = []
        for source_system, folder in self._fhir_folders():
            dated = folder / f"{day:%Y/%m/%d}"
            for path, what in [] if _link_above(dated, below=folder) else entries_of(dated):
                if what is What.FOLDER:
                    files = [file for file, kind in entries_of(path) if kind is What.FILE]
                    count = sum(_FHIR_FILE.fullmatch(file.name) is not None for file in files)
                    found.append((source_system, path.name, count))
        return sorted(found)

    def source_systems(self) -> set[str]:
        """Returns every namespace that DICOM files came from, and `default`."""
        found = {DEFAULT_SOURCE_SYSTEM}
        for root in (self.process_root, self.external_root):
            found |= {
                path.name
                for path, what in entries_of(root)
                if what is What.FOLDER or (what is What.OTHER and path.is_dir())
            }
        return {name for name in found if not _YEAR.fullmatch(name) and name[0] != "."}

    def fhir_source_systems(self) -> list[str]:
        """Returns every namespace that FHIR files came from, and `default`."""
        return sorted({DEFAULT_SOURCE_SYSTEM, *(name for name, _ in self._fhir_folders())})

    def _fhir_folders(self) -> Iterator[tuple[str, Path]]:
        """Yields each source system and its folder; what stands before the year is its name."""
        waiting = [self.fhir_root]
        while waiting:
            folder = waiting.pop()
            is_root = folder == self.fhir_root
            name = folder.relative_to(self.fhir_root).as_posix()
            yield (DEFAULT_SOURCE_SYSTEM if is_root else name), folder
            # below a year lie dates, not namespaces, and ever more of them
            waiting += [
                path
                for path, what in entries_of(folder)
                if what is What.FOLDER and not _YEAR.fullmatch(path.name) and path.name[0] != "."
            ]

    def table(self, layer: str, name: str) -> Path:
        """Returns the folder of a Delta table."""
        return _folder_of(self.root, layer, name)

    def relative(self, path: Path) -> str:
        """Returns the path as tables hold it: relative to the root, with `/`, printable."""
        text, root = str(path), f"{self.root}/"
        inside = text.startswith(root)  # else a link of the site leads elsewhere
        return printable(text[len(root) :] if inside else os.path.relpath(path, self.root))

    def absolute(self, path: str) -> Path:
        """Returns where a path from a table lies."""
        return self.root / path


def failed_lines_name(name: str) -> str:
    """Returns the name under which bad lines of a FHIR file are kept: another one for each file."""
    stem = name.removesuffix(".ndjson")
    is_its_own = stem != name and not _FHIR_FILE.fullmatch(stem)
    return name if is_its_own else f"{name}.ndjson"


def _below(drop_folder: Path, source_path: str) -> Path:
    *folders, name = map(_safe_name, source_path.split("/"))
    if sum(map(len, folders)) > _MAX_FOLDERS:
        folders = []
    return drop_folder.joinpath(*folders, name)


def _link_above(path: Path, *, below: Path) -> Path | None:
    """Returns the first link on the way from a folder to a path, which may be one itself."""
    parts = path.relative_to(below).parts
    ways = (below.joinpath(*parts[:end]) for end in range(1, len(parts) + 1))
    return next((way for way in ways if way.is_symlink()), None)


def _dated(root: Path, source_system: str, day: date) -> Path:
    base = root if source_system == DEFAULT_SOURCE_SYSTEM else root / source_system
    return base / f"{day:%Y/%m/%d}"


def printable(text: str) -> str:
    """Returns text that any table can hold: bytes that are not UTF-8 as `%XX`."""
    known = os.fsencode(text).decode("utf-8", "surrogateescape")
    return _NOT_UTF8.sub(_escaped, known)


def organised_name(prefix_ms: int, original: str) -> str:
    """Returns `<unix ms>_<original name>`, safe on every file system.

    Path separators, control, direction and wildcard characters and bytes that are not UTF-8
    become `%XX`;
    a name too long for the later `.dcm.zip` is cut in the middle of its stem.
    """
    base = re.split(r"[/\\]", original)[-1]
    safe = _UNSAFE.sub(_escaped, base).strip(" ") or "unnamed"
    room = _MAX_NAME_BYTES - _RESERVED
    if len(safe.encode()) > room:
        stem, dot, extension = safe.rpartition(".")
        if not dot or len(extension) > 16:
            stem, dot, extension = safe, "", ""
        keep = room - len(f"{dot}{extension}".encode())
        safe = stem.encode()[:keep].decode("utf-8", "ignore") + dot + extension
    return f"{prefix_ms}_{safe}"


def _safe_name(name: str) -> str:
    """Returns a name that is that of one file or folder, here and nowhere else."""
    if not name.strip(" ."):
        return "".join(f"%{ord(character):02X}" for character in name) or "unnamed"
    return organised_name(0, name).partition("_")[2]


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def is_safe_name(name: str) -> bool:
    """Says whether a folder may have the name on every file system, and reads as what it is."""
    return not _UNSAFE.search(name) and name == name.strip(" .") != "" and len(name.encode()) < 128


def fhir_name(name: str, *, is_gzip: bool) -> str:
    """Returns a FHIR file's name, with an extension by which it is known where it has none."""
    stem = name[:-3] if name.lower().endswith(".gz") else name
    known = stem if _FHIR_FILE.fullmatch(stem) else f"{stem}.ndjson"
    return f"{known}.gz" if is_gzip else known


def zip_name(name: str) -> str:
    """Returns the name of the ZIP that will hold an organised file: `<name>.dcm.zip`."""
    return f"{dicom_name(name)}.zip"


@lru_cache(maxsize=256)  # it is asked for each time a table is opened
def _folder_of(root: Path, layer: str, table: str) -> Path:
    return root / layer / "Tables" / table


def one_name(path: str) -> str:
    """Returns the one name that a source system's organised file has, plain or in its ZIP."""
    name = path.rpartition("/")[2]
    return name if name.endswith(".dcm.zip") else zip_name(name)


def dicom_name(name: str) -> str:
    """Returns an organised file's name with the extension `.dcm`, added where it is missing."""
    return name[:-4] + ".dcm" if name.lower().endswith(".dcm") else f"{name}.dcm"
