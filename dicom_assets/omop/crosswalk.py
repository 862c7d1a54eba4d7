"""Crosswalks: a site's own OMOP ids for patients and visits.

Decided here: the form of the two CSV files, and that a patient or visit that is not in them has a
hashed key or none. Not decided here: where the ids go.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.layout import DEFAULT_SOURCE_SYSTEM

_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Crosswalks:
    """A site's ids; empty where the site gives none.

    Attributes:
        persons: Source system and Patient ID → person_id.
        visits_by_study: Source system and Study Instance UID → visit_occurrence_id.
        visits_by_accession: Source system and accession number → visit_occurrence_id.
    """

    persons: Mapping[tuple[str, str], int] = field(default_factory=dict)
    visits_by_study: Mapping[tuple[str, str], int] = field(default_factory=dict)
    visits_by_accession: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def read(cls, *, person: Path | None = None, visit: Path | None = None) -> "Crosswalks":
        """Reads the CSV files: UTF-8, comma separated, first line the column names.

        Args:
            person: Columns source_system, person_source_value, person_id.
            visit: Columns source_system, visit_occurrence_id, and accession_number or study_uid
                or both; a row counts for each that it fills in.

        Raises:
            PlainError: A column is missing, an id is no whole number, or two lines contradict each
                other. Names file and line.
        """
        by_study: dict[tuple[str, str], int] = {}
        by_accession: dict[tuple[str, str], int] = {}
        by_patient: dict[tuple[str, str], int] = {}
        if person:
            for row in _rows(person, "person_crosswalk", "person_source_value", "person_id"):
                row.put("person_source_value", "person_id", into=by_patient)
        if visit:
            for row in _rows(visit, "visit_crosswalk", "visit_occurrence_id"):
                if not row.values.keys() & {"accession_number", "study_uid"}:
                    raise PlainError(row.missing("accession_number or study_uid"))
                for column, into in (("study_uid", by_study), ("accession_number", by_accession)):
                    if row.values.get(column):
                        row.put(column, "visit_occurrence_id", into=into)
        return cls(by_patient, by_study, by_accession)

    def visit(self, source_system: str, study_uid: str, accession_number: str | None) -> int | None:
        """Returns the visit of a study, by its UID, else by its accession number."""
        visit = self.visits_by_study.get((source_system, study_uid))
        if visit is None and accession_number:
            visit = self.visits_by_accession.get((source_system, accession_number))
        return visit


@dataclass(frozen=True, slots=True)
class _Row:
    file: str
    line: int
    values: dict[str, str]

    def key(self, column: str) -> tuple[str, str]:
        return self.values["source_system"] or DEFAULT_SOURCE_SYSTEM, self.values[column]

    def put(self, column: str, ident: str, *, into: dict[tuple[str, str], int]) -> None:
        number = self.number(ident)
        if into.setdefault(self.key(column), number) != number:
            message = f"{self.file}, line {self.line}: another {ident} than in a line before"
            raise PlainError(message)

    def number(self, column: str) -> int:
        text = self.values[column]
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
        if not 0 <= number <= _LARGEST:
            message = f"{self.file}, line {self.line}: {column} is no whole number from 0 to 2^63-1"
            raise PlainError(message)
        return number

    def missing(self, column: str) -> str:
        return f"{self.file} has no column {column}"


def _lines(stream: TextIO, file: str) -> Iterator[str]:
    try:
        yield from stream
    except UnicodeDecodeError:  # its own words would show what is in the file
        raise PlainError(f"{file} is not UTF-8; save it as UTF-8") from None


def _rows(path: Path, setting: str, *columns: str) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(_lines(stream, f"{setting}: {path}"))
        names = {(name or "").strip().lower() for name in reader.fieldnames or ()}
        for column in ("source_system", *columns):
            if column not in names:
                raise PlainError(f"{setting}: {path} has no column {column}")
        for row in reader:
            values = {
                name.strip().lower(): (value or "").strip()
                for name, value in row.items()
                if isinstance(name, str) and isinstance(value, str | None)
            }
            if any(values.values()):
                yield _Row(f"{setting}: {path}", reader.line_num, values)
