"""Reconciliation of FHIR resources: what each layer holds of one type for one ingest date.

Decided here: what is counted and how, as in `reconcile` for what was made of DICOM. Not decided
here: what must be equal (`dicom_assets.defs.fhir_rules`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa

from dicom_assets.fhir.flatten import ERRORS, silver_id
from dicom_assets.fhir.links import STUDY_IDS
from dicom_assets.fhir.model import is_resource_type
from dicom_assets.omop.note import REPORT_COLUMNS, is_told, text_of
from dicom_assets.steps import catalog
from dicom_assets.steps.fhir_lines import lines_in
from dicom_assets.steps.organise_fhir import MIXED
from dicom_assets.steps.run import Run


@dataclass
class Resources:
    """Counts of one resource type on one ingest date; each is read when first asked for.

    Attributes:
        run: The lakehouse, the settings and the date.
        resource_type: The type.
    """

    run: Run
    resource_type: str

    def lines(self) -> int:
        """Counts the resources, good or bad, in the date's files."""
        found = 0
        for _, path in self.run.engine.layout.fhir_files(self.run.ingest_date, self.resource_type):
            found += sum(1 for _ in lines_in(self.run, path, self.resource_type))
        return found

    @cached_property
    def bronze(self) -> pd.DataFrame:
        """Bronze rows: sourceSystem, id, filePath, lineNumber."""
        columns = ["sourceSystem", "id", "filePath", "lineNumber"]
        table = catalog.bronze_fhir(self.resource_type)
        return self.run.engine.read(table, columns, ingest_date=self.run.ingest_date).to_pandas()

    @cached_property
    def ids(self) -> list[str]:
        """Silver ids of the date's resources, but for lines of which silver could make nothing.

        What was refused once (`fhir_validation`) may be there since silver was made anew.
        """
        failed = self.run.engine.read(
            catalog.INGESTION_FAILURES,
            ["sourcePath", "line"],
            ingest_date=self.run.ingest_date,
            where={"step": ["flatten"]},
        ).to_pylist()
        bad = {(row["sourcePath"], row["line"]) for row in failed}
        rows = self.bronze[["sourceSystem", "id", "filePath", "lineNumber"]]
        good, refused = set[str](), set[str]()
        for system, own_id, *line in rows.itertuples(index=False, name=None):
            if own_id:
                which = refused if tuple(line) in bad else good
                which.add(silver_id(system, self.resource_type, own_id))
        table, where = catalog.silver_fhir(self.resource_type), {"id": refused - good}
        held = self.run.engine.read(table, ["id"], where=where)["id"].to_pylist()
        return sorted(good.union(held))

    @cached_property
    def silver(self) -> list[dict[str, Any]]:
        """Silver rows of those resources: id, validationErrors and the studies they point to."""
        columns = ["id", ERRORS, STUDY_IDS]
        return self._silver(columns).to_pylist()

    def unknown_studies(self) -> int:
        """Counts references to studies that silver does not know."""
        return sum((row.get(STUDY_IDS) or []).count(None) for row in self.silver)

    def invalid(self) -> int:
        """Counts resources that are invalid, and were kept."""
        return sum(bool(row[ERRORS]) for row in self.silver)

    @cached_property
    def told(self) -> list[tuple[str, str | None, set[str]]]:
        """Id, text and studies of the reports that still say something."""
        return [
            (row["id"], text_of(row), set(filter(None, row[STUDY_IDS] or ())))
            for row in self._silver(REPORT_COLUMNS).to_pylist()
            if is_told(row)
        ]

    @cached_property
    def notes(self) -> pd.DataFrame:
        """gold/note rows of the date's reports: keys alone."""
        columns = ["note_id", "person_id", "note_event_id", "sourceRecordId"]
        where = {"sourceRecordId": self.ids}
        return self.run.engine.read(catalog.NOTE, columns, where=where).to_pandas()

    def dangling_notes(self) -> dict[str, int]:
        """Counts keys that notes point to and that the tables written here do not hold."""
        names = {catalog.PERSON: "people", catalog.PROCEDURE_OCCURRENCE: "procedures"}
        return {names[table]: len(keys) for table, (_, keys) in self._missing().items()}

    def notes_that_dangle(self) -> list[int]:
        """Returns the keys of notes that point to a person or procedure that is not there."""
        found: set[int] = set()
        for column, keys in self._missing().values():
            found |= set(self.notes.loc[self.notes[column].isin(list(keys)), "note_id"])
        return sorted(found)

    def _missing(self) -> dict[catalog.Table, tuple[str, set[int]]]:
        """Returns table → column of note that points there, and the keys that it does not hold."""
        settings, pointed_to = self.run.settings, {}
        if settings.omop_person:
            pointed_to[catalog.PERSON] = "person_id"
        if settings.omop_procedure_occurrence:
            pointed_to[catalog.PROCEDURE_OCCURRENCE] = "note_event_id"
        found = {}
        for table, column in pointed_to.items():
            (key,), wanted = table.key, {int(each) for each in self.notes[column]}
            rows = self.run.engine.read(table, [key], where={key: sorted(wanted)})
            found[table] = column, wanted - set(rows[key].to_pylist())
        return found

    def _silver(self, columns: list[str] | tuple[str, ...]) -> pa.Table:
        table = catalog.silver_fhir(self.resource_type)
        return self.run.engine.read(table, columns, where={"id": self.ids})


def organised_files(run: Run) -> pd.DataFrame:
    """Returns the date's rows of bronze/fhir_files: sourceSystem, resourceType, filePath."""
    columns = ["sourceSystem", "resourceType", "filePath"]
    table = catalog.FHIR_FILES
    return run.engine.read(table, columns, ingest_date=run.ingest_date).to_pandas()


def rows_without_file(run: Run) -> int:
    """Counts organised FHIR files that lie nowhere any more."""
    layout = run.engine.layout
    return sum(not layout.absolute(path).exists() for path in organised_files(run)["filePath"])


def files_by_type(run: Run) -> dict[str, int]:
    """Counts the date's FHIR files by resource type, whoever put them there.

    A folder that names no type, which may be called anything, counts as `other`.
    """
    found: dict[str, int] = {}
    for _, resource_type, count in run.engine.layout.fhir_counts(run.ingest_date):
        if resource_type != MIXED:
            shown = resource_type if is_resource_type(resource_type) else "other"
            found[shown] = found.get(shown, 0) + count
    return found
