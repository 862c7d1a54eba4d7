"""FHIR resources of further types: files, bronze, silver, links to studies, and notes.

Decided here: what must be there of each resource, as a date's lines say. Walked date by date; of
what lies between dates only keys are held, eight bytes each. Not decided here: whether lines have
their rows (`verify_date`), what a note says (`dicom_assets.omop.note`), or how what is found is
mended (`repair`).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from dicom_assets.fhir.flatten import silver_id
from dicom_assets.fhir.links import LINKED, STUDY_IDS
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.keys import int_key
from dicom_assets.omop.note import SOURCE_TABLE as REPORT
from dicom_assets.omop.note import note_id
from dicom_assets.steps import catalog
from dicom_assets.steps.findings import Findings, Kind
from dicom_assets.steps.link import studies_meant
from dicom_assets.steps.reconcile_fhir import Resources, organised_files
from dicom_assets.steps.run import Run
from dicom_assets.steps.verify_date import repeated
from dicom_assets.steps.verify_silver import parts


class FhirCheck:
    """Compares the layers of each type of the setting; each part adds what it finds."""

    def __init__(self, run: Run, found: Findings, *, days: Sequence[date], is_whole: bool) -> None:
        """Takes the dates to compare; with `is_whole` they are all that there are."""
        self._run, self._engine, self._found = run, run.engine, found
        self._days, self._is_whole = days, is_whole

    def compare(self) -> None:
        """Compares files with their rows, then type by type."""
        layout = self._engine.layout
        for day in self._days:
            addresses = organised_files(self._on(day))["filePath"]
            for address in addresses:
                if not layout.absolute(address).exists():
                    self._found.add(Kind.FILE_MISSING, address, day=day)
            for address in repeated(addresses):
                what = f"{catalog.FHIR_FILES.full_name}: {address}"
                self._found.add(Kind.DUPLICATE, what, day=day)
        for resource_type in self._run.settings.fhir_resource_types:
            known = [np.empty(0, np.int64)]
            for day in self._days:
                resources = Resources(self._on(day), resource_type)
                known.append(_keys(resources.ids))
                self._compare_silver(resources)
                if resource_type == REPORT:
                    self._compare_notes(resources, self._compare_links(resources))
            if self._is_whole:
                self._find_extra(resource_type, np.unique(np.concatenate(known)))

    def _on(self, day: date) -> Run:
        return replace(self._run, ingest_date=day)

    def _compare_silver(self, resources: Resources) -> None:
        kind, bronze = resources.resource_type, resources.bronze
        missing = set(resources.ids) - {row["id"] for row in resources.silver}
        names = zip(bronze["sourceSystem"], bronze["id"], strict=True)
        for system, own_id in names if missing else ():
            if own_id and silver_id(system, kind, own_id) in missing:
                what = f"{kind} {system} {own_id}"
                key = (kind, system, own_id)
                day = resources.run.ingest_date
                self._found.add(Kind.RESOURCE_NOT_IN_SILVER, what, day=day, key=key)

    def _compare_links(self, resources: Resources) -> set[str]:
        """Returns the silver ids of those that point to other studies than they speak of."""
        kind = resources.resource_type
        columns = ["id", "sourceSystem", f"{LINKED[kind]}_string", STUDY_IDS]
        where = {"id": resources.ids}
        rows = self._engine.read(catalog.silver_fhir(kind), columns, where=where)
        held, meant = rows[STUDY_IDS].to_pylist(), studies_meant(self._engine, kind, rows)
        own_ids = rows["id"].to_pylist()
        wrong = {own_id for own_id, a, b in zip(own_ids, held, meant, strict=True) if a != b}
        for own_id in sorted(wrong):
            self._found.add(Kind.LINK, f"silver/{kind}: {own_id}", key=(kind, own_id))
        return wrong

    def _compare_notes(self, resources: Resources, unlinked: set[str]) -> None:
        """Compares reports with their notes, but for those that are to be linked anew first."""
        expected = {
            note_id(own_id, study): own_id
            for own_id, text, studies in resources.told
            for study in studies
            if text and own_id not in unlinked
        }
        notes = resources.notes
        held = dict(zip(notes["note_id"], notes["sourceRecordId"], strict=True))
        for number in expected.keys() - held.keys():
            self._lacking(resources, number, expected[number])
        for number in held.keys() - expected.keys():
            if held[number] not in unlinked:
                self._too_much(catalog.NOTE, number)
        for number in resources.notes_that_dangle():
            self._lacking(resources, number, held[number])

    def _lacking(self, resources: Resources, number: int, report: str) -> None:
        what = f"{catalog.NOTE.full_name}: {number}"
        self._found.add(Kind.NOTE, what, day=resources.run.ingest_date, key=report)

    def _too_much(self, table: Table, number: int) -> None:
        what = f"{table.full_name}: {number}"
        self._found.add(Kind.GOLD_WITHOUT_SILVER, what, key=(table, number))

    def _find_extra(self, resource_type: str, known: np.ndarray) -> None:
        """Looks for rows that no line is about, and for those that are there twice."""
        silver = catalog.silver_fhir(resource_type)
        for own_id in self._unknown(silver, "id", known):
            self._found.add(Kind.SILVER_WITHOUT_BRONZE, f"{silver.full_name}: {own_id}")
        self._find_twice(silver)
        if resource_type == REPORT:
            for number in self._unknown(catalog.NOTE, "sourceRecordId", known):
                self._too_much(catalog.NOTE, number)
            self._find_twice(catalog.NOTE)

    def _unknown(self, table: Table, source: str, known: np.ndarray) -> list[Any]:
        """Returns the keys of rows whose source is none of those that are known."""
        (key,), found = table.key, []
        for rows in parts(self._engine, table, list({key, source}), None):
            is_known = np.isin(_keys(rows[source].to_pylist()), known)
            found += rows.filter(pa.array(~is_known))[key].to_pylist()
        return found

    def _find_twice(self, table: Table) -> None:
        (key,), seen = table.key, [np.empty(0, np.int64)]
        seen += [_keys(rows[key].to_pylist()) for rows in parts(self._engine, table, [key], None)]
        values, counts = np.unique(np.concatenate(seen), return_counts=True)
        twice = values[counts > 1]
        for rows in parts(self._engine, table, [key], None) if len(twice) else ():
            is_twice = np.isin(_keys(rows[key].to_pylist()), twice)
            for each in rows.filter(pa.array(is_twice))[key].to_pylist():
                what = f"{table.full_name}: {each}"
                self._found.add(Kind.DUPLICATE, what, key=(table, each))


def _keys(values: Sequence[Any]) -> np.ndarray:
    return np.array([int_key(f"{value}") for value in values], np.int64)
