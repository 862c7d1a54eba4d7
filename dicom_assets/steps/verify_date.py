"""One ingest date: its files in Process and Failed, its rows and its NDJSON lines.

Decided here: which of them belong together. A file counts by its one name, be it plain or in its
ZIP. Not decided here: what lies between dates and layers (`verify_silver`,
`verify_gold`).
"""

import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from dicom_assets.fhir.ndjson import Line
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.layout import one_name
from dicom_assets.lakehouse.paths import What, entries_of, lies
from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.steps import catalog, external, extract
from dicom_assets.steps.check_files import Stored
from dicom_assets.steps.fhir_lines import lines_in
from dicom_assets.steps.findings import Findings, Kind
from dicom_assets.steps.read_external import SKIPPED_AFTER
from dicom_assets.steps.run import Run
from dicom_assets.steps.verify_files import Trees, add_stray, names_in

Name = tuple[str, str]
"""Source system and one name."""

ROW = ("filePath", "sourceSystem", "sourcePath", "fileSize", "contentHash")
EXTERNAL = "external"
"""The key of what is found of an object of External."""

METASTORE_ROW = (*ROW, "sourceModifiedAt", "ingestedAt", "version")


class DateCheck:
    """Compares one ingest date; each part adds what it finds."""

    def __init__(self, run: Run, trees: Trees, found: Findings, *, hashes: bool) -> None:
        """Reads when asked; with `hashes` the text of lines, too."""
        self._run, self._trees, self._found, self._hashes = run, trees, found, hashes
        self._layout, self._day = run.engine.layout, run.ingest_date

    def compare(self) -> None:
        """Compares files, rows and lines."""
        self._check_process()
        self._check_external()
        self._check_failed()
        self._check_lines()
        self._find_duplicates()

    def stored(self) -> Iterator[Stored]:
        """Yields the files that rows name and that are there, with what their newest row says."""
        for row in self._metastore.values():
            path = self._layout.absolute(row["filePath"])
            if self._lies(row["filePath"], path):
                yield Stored(str(path), row["fileSize"], row["contentHash"])

    def _read(self, table: Table, columns: Sequence[str]) -> list[dict[str, Any]]:
        return self._run.engine.read(table, columns, ingest_date=self._day).to_pylist()

    @cached_property
    def _lying(self) -> dict[Name, list[Path]]:
        """Files in Process; two of a name are the plain one and its ZIP."""
        lying: defaultdict[Name, list[Path]] = defaultdict(list)
        for system, folder in self._trees.process.get(self._day, {}).items():
            for name in names_in(self._layout, folder, self._found):
                lying[system, one_name(name)].append(folder / name)
        return dict(lying)

    @cached_property
    def _addresses(self) -> set[str]:
        return {self._layout.relative(path) for paths in self._lying.values() for path in paths}

    @cached_property
    def _organised_rows(self) -> list[dict[str, Any]]:
        return self._read(catalog.PROCESS_FILES, ROW)

    @cached_property
    def _organised(self) -> dict[Name, dict[str, Any]]:
        return {_name(row): row for row in self._organised_rows}

    @cached_property
    def _lines(self) -> dict[Table, list[tuple[str, int]]]:
        """File and line number of each bronze row, of each type that has a table."""
        types = self._run.settings.fhir_resource_types
        tables = (catalog.BRONZE_IMAGING_STUDY, *map(catalog.bronze_fhir, types))
        return {
            table: [
                (row["filePath"], row["lineNumber"])
                for row in self._read(table, ["filePath", "lineNumber"])
            ]
            for table in tables
        }

    @cached_property
    def _metastore_rows(self) -> list[dict[str, Any]]:
        rows = self._read(self._run.metastore, METASTORE_ROW)
        return sorted(rows, key=lambda row: row["ingestedAt"])

    @cached_property
    def _metastore(self) -> dict[Name, dict[str, Any]]:
        """The newest row of each file that came on the date and is kept here.

        Others were read again on it, or lie in External.
        """
        folder = f"/{self._day:%Y/%m/%d}/"
        return {
            _name(row): row
            for row in self._metastore_rows
            if row["version"] is None and folder in row["filePath"]
        }

    @cached_property
    def _failures(self) -> list[dict[str, Any]]:
        columns = ["sourceSystem", "step", "sourcePath", "failedPath", "line", "retriedAt"]
        return self._read(catalog.INGESTION_FAILURES, columns)

    def _texts(self, table: Table) -> dict[tuple[str, int], int]:
        """File and line number of each bronze row → a hash of its text."""
        columns = ["filePath", "lineNumber", "resource"]
        where = {INGEST_DATE: [self._day]}
        return {
            (row["filePath"], row["lineNumber"]): int_key(row["resource"])
            for batch in self._run.engine.stream(table, columns, where=where)
            for row in batch.to_pylist()
        }

    def _lies(self, address: str, path: Path) -> bool:
        return address in self._addresses or path.exists()

    def _add(self, kind: Kind, address: str, *, key: Any = None, note: str = "") -> None:
        self._found.add(kind, address, day=self._day, key=key, note=note)

    def _check_process(self) -> None:
        for name, paths in self._lying.items():
            row = self._metastore.get(name)
            if row is None and name not in self._organised:
                for path in paths:
                    self._add(Kind.FILE_WITHOUT_ROW, self._layout.relative(path), key=(name, path))
            elif row is not None and self._layout.absolute(row["filePath"]) in paths:
                for path in paths:
                    if self._layout.relative(path) != row["filePath"]:
                        self._add(Kind.TWIN, self._layout.relative(path), key=(path, row))
        for name, row in self._metastore.items():
            if name not in self._organised:
                self._add(Kind.ROW_NOT_ORGANISED, row["filePath"], key=row)
            if not self._lies(row["filePath"], self._layout.absolute(row["filePath"])):
                self._add(Kind.FILE_MISSING, row["filePath"], key=row["contentHash"])
        self._check_organised()

    def _check_organised(self) -> None:
        """Looks for organised files that were neither read nor failed."""
        failures = [row for row in self._failures if row["step"] == extract.STEP]
        failed = {(f["sourceSystem"], one_name(f["failedPath"] or "")) for f in failures}
        missed = {f["sourcePath"] for f in failures if f["failedPath"] is None}
        for name, row in self._organised.items():
            if name in self._metastore or name in failed or row["sourcePath"] in missed:
                continue
            moved = self._layout.failed_folder(name[0], self._day) / Path(row["filePath"]).name
            is_there = name in self._lying or moved.exists()
            kind = Kind.NOT_READ if is_there else Kind.FILE_MISSING
            self._add(kind, row["filePath"], key=row["contentHash"])

    def _check_external(self) -> None:
        """Looks for objects that were to be read, are still what they were, and came to nothing."""
        table, columns = catalog.EXTERNAL_FILES, ["filePath", "state", "foundAt"]
        rows = self._read(table, columns)
        done = {(row["filePath"], row["ingestedAt"]) for row in self._metastore_rows}
        done |= {
            (row["filePath"], row["foundAt"] - SKIPPED_AFTER)
            for row in rows
            if row["state"] == external.SKIPPED
        }
        failed = {row["sourcePath"] for row in self._failures if row["step"] == external.STEP}
        lacking = {
            (row["filePath"], row["foundAt"])
            for row in rows
            if row["state"] in external.TO_READ
            and (row["filePath"], row["foundAt"]) not in done
            and row["filePath"] not in failed
        }
        where = {"filePath": {path for path, _ in lacking}}
        rows = self._run.engine.read(table, columns, where=where).to_pylist() if lacking else []
        newest = {row["filePath"]: row for row in sorted(rows, key=lambda row: row["foundAt"])}
        for path, found_at in sorted(lacking):
            if newest[path]["foundAt"] == found_at or newest[path]["state"] == external.BACK:
                self._add(Kind.NOT_READ, path, key=EXTERNAL)

    def _check_failed(self) -> None:
        layout = self._layout
        recorded = {row["failedPath"] for row in self._failures if row["failedPath"]}
        # a failed move leaves the plan's name; a killed extraction, a file that it will record
        unread = set(self._organised) - set(self._metastore)

        def counts(entry: os.DirEntry) -> bool:  # a link, a pipe or a socket may have failed, too
            regular = entry.is_file(follow_symlinks=False)
            return regular or layout.relative(Path(entry.path)) in recorded

        lying = set()
        for system, folder in self._trees.failed.get(self._day, {}).items():
            for name in names_in(layout, folder, self._found, counts=counts):
                address = layout.relative(folder / name)
                lying.add(address)
                if address not in recorded and (system, one_name(name)) not in unread:
                    key = (system, folder / name)
                    self._add(Kind.FAILED_WITHOUT_ROW, address, key=key)
        for system, folder in self._trees.fhir_failed.get(self._day, {}).items():
            for path, what in entries_of(folder):
                if what is not What.FOLDER:
                    add_stray(layout, path, self._found)
                    continue
                for name in names_in(layout, path, self._found, counts=counts):
                    if (address := layout.relative(path / name)) not in recorded:
                        self._add(Kind.FAILED_WITHOUT_ROW, address, key=(system, path / name))
        process = {row["filePath"] for row in self._metastore_rows}
        retried = {row["failedPath"] for row in self._failures if row["retriedAt"]}
        for address in recorded - lying - process - retried:
            if not lies(layout.absolute(address)):
                self._add(Kind.FAILED_MISSING, address)

    def _check_lines(self) -> None:
        """Compares FHIR files with the bronze rows of the date."""
        for table, lines in self._lines.items():
            self._check_lines_of(table, lines)

    def _check_lines_of(self, table: Table, known_lines: Iterable[tuple[str, int]]) -> None:
        layout = self._layout
        rows: defaultdict[str, set[int]] = defaultdict(set)
        texts = self._texts(table) if self._hashes else {}
        for file, line in known_lines:
            rows[file].add(line)
        for system, path in layout.fhir_files(self._day, table.name):
            address = layout.relative(path)
            lines: set[int] = set()
            for line in lines_in(self._run, path, table.name):
                if not isinstance(line, Line):
                    continue
                lines.add(line.number)
                text = texts.get((address, line.number))
                if text is not None and text != int_key(line.text):
                    self._add(Kind.CONTENT, f"{address}, line {line.number}")
            known = rows.pop(address, set())
            for number in sorted(lines - known):
                self._add(Kind.LINE_WITHOUT_ROW, f"{address}, line {number}", key=(system, path))
            for number in sorted(known - lines):
                self._add(Kind.ROW_WITHOUT_LINE, f"{address}, line {number}")
        for address, numbers in rows.items():
            note = f"the file is not there; {len(numbers)} rows"
            self._add(Kind.ROW_WITHOUT_LINE, address, key=address, note=note)

    def _find_duplicates(self) -> None:
        failures = (tuple(row.values()) for row in self._failures)
        for table, rows in (
            (catalog.PROCESS_FILES, (row["filePath"] for row in self._organised_rows)),
            # reading a file again makes a row of another instant
            (self._run.metastore, ((r["filePath"], r["ingestedAt"]) for r in self._metastore_rows)),
            *self._lines.items(),
            (catalog.INGESTION_FAILURES, failures),
        ):
            for row in repeated(rows):
                self._add(Kind.DUPLICATE, f"{table.full_name}: {row}")


def repeated(values: Iterable[Hashable]) -> list[str]:
    """Returns what occurs more than once, as text."""
    counts = Counter(values)
    return [
        ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for value, count in counts.items()
        if count > 1
    ]


def _name(row: dict[str, Any]) -> Name:
    return row["sourceSystem"], one_name(row["filePath"])
