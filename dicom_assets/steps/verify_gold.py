"""Silver against gold: every series and study has its row, and every row its series or study.

Decided here: what of gold belongs to what of silver, and which keys must be there. Of both only the
keys are held, eight bytes each. Not decided here: what a gold row says (`dicom_assets.omop`).
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa

from dicom_assets.fhir.flatten import silver_id
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.query import Where
from dicom_assets.omop.person import person_id
from dicom_assets.omop.studies import Study, procedure_occurrence_id, series_of
from dicom_assets.steps import catalog
from dicom_assets.steps.findings import Findings, Kind
from dicom_assets.steps.run import Run
from dicom_assets.steps.verify_silver import STUDY, parts

_POINTERS = {catalog.PERSON: "person_id", catalog.PROCEDURE_OCCURRENCE: "procedure_occurrence_id"}
_MOST_NAMED = 1000


class GoldCheck:
    """Compares gold with silver; each part adds what it finds."""

    def __init__(self, run: Run, found: Findings, silver: Iterable[Study]) -> None:
        """Takes the keys of studies and series.

        Args:
            run: The lakehouse and the settings.
            found: What is found is added here.
            silver: Silver's studies.
        """
        self._run, self._engine, self._found = run, run.engine, found
        self._ids: list[str] = []
        studies: list[tuple[str, str]] = []
        series: list[np.ndarray] = []
        procedures: list[int] = []
        people: list[int] = []
        for study in silver:
            system = study.source_system
            studies.append((system, study.row["idOrig"]))
            self._ids.append(study.row["id"])
            procedures.append(procedure_occurrence_id(system, study.uid))
            people.append(person_id(system, study.patient_id, study.uid, run.crosswalks))
            keys = [int_key(system, study.uid, each.uid or "") for each in series_of(study)]
            series.append(np.array(keys, np.int64))
        self.studies = pd.DataFrame(studies, columns=pd.Index(STUDY), dtype=object)
        self._series = np.concatenate([np.empty(0, np.int64), *series])
        self._study_of_series = np.repeat(np.arange(len(series)), [len(keys) for keys in series])
        self._procedures = np.array(procedures, np.int64)
        self._people = np.array(people, np.int64)

    def compare(self, absent: Iterable[tuple[str, str]], *, is_whole: bool) -> None:
        """Compares series, studies and people.

        Args:
            absent: STUDY of what silver should hold and does not: gold is not asked about it.
            is_whole: Whether all of silver's studies were given, else gold is looked up by them.
        """
        self._absent = {silver_id(system, "ImagingStudy", study) for system, study in absent}
        self._only: Where | None = None if is_whole else {"sourceRecordId": self._ids}
        settings = self._run.settings
        tables = [(catalog.IMAGE_OCCURRENCE, self._series, self._study_of_series)]
        if settings.omop_procedure_occurrence:
            every = np.arange(len(self._procedures))
            tables.append((catalog.PROCEDURE_OCCURRENCE, self._procedures, every))
        pointers: dict[Table, list[np.ndarray]] = {}
        if settings.omop_person:
            pointers[catalog.PERSON] = []
        if settings.omop_procedure_occurrence:
            pointers[catalog.PROCEDURE_OCCURRENCE] = []
        for table, expected, study_of in tables:
            self._compare(table, expected, study_of, pointers)
        for table, keys in pointers.items():
            wanted = np.unique(np.concatenate([np.empty(0, np.int64), *keys]))
            held = self._keys(table, wanted, is_whole=is_whole)
            dangling = np.setdiff1d(wanted, held)
            if is_whole and table is catalog.PERSON:
                for number in np.setdiff1d(held, wanted).tolist():
                    what = f"{table.full_name}: {number}"
                    self._found.add(Kind.GOLD_WITHOUT_SILVER, what, key=(table, number))
            for each, _, _ in tables:
                self._name_dangling(each, table, dangling)

    def _compare(
        self,
        table: Table,
        expected: np.ndarray,
        study_of: np.ndarray,
        pointers: dict[Table, list[np.ndarray]],
    ) -> None:
        (key,) = table.key
        names = {t: name for t in pointers if (name := _POINTERS[t]) != key}
        held = [np.empty(0, np.int64)]
        columns = [key, "sourceRecordId", *names.values()]
        for rows in parts(self._engine, table, columns, self._only):
            keys = rows[key].to_numpy()
            held.append(keys)
            for target, name in names.items():
                pointers[target].append(np.unique(rows[name].to_numpy()))
            if catalog.PERSON in pointers:
                self._compare_people(table, rows, expected, study_of)
            extra = rows.filter(pa.array(~np.isin(keys, expected)))
            for number, source in zip(
                extra[key].to_pylist(), extra["sourceRecordId"].to_pylist(), strict=True
            ):
                if source not in self._absent:
                    what = f"{table.full_name}: {number}"
                    self._found.add(Kind.GOLD_WITHOUT_SILVER, what, key=(table, number))
        known = np.concatenate(held)
        for place in np.flatnonzero(~np.isin(expected, known)):
            what = f"{table.full_name}: {expected[place]}"
            self._found.add(Kind.NOT_IN_GOLD, what, key=self._ids[study_of[place]])
        self._find_twice(table, known)

    def _compare_people(
        self, table: Table, rows: pa.Table, expected: np.ndarray, study_of: np.ndarray
    ) -> None:
        """Looks for rows that point to another person than their study's patient."""
        (key,) = table.key
        known = rows.filter(pa.array(np.isin(rows[key].to_numpy(), expected)))
        keys, order = known[key].to_numpy(), np.argsort(expected)
        studies = study_of[order[np.searchsorted(expected, keys, sorter=order)]]
        wrong = known["person_id"].to_numpy() != self._people[studies]
        for number, study in zip(keys[wrong].tolist(), studies[wrong].tolist(), strict=True):
            what = f"{table.full_name}: {number}"
            self._found.add(Kind.OTHER_PERSON, what, key=self._ids[study])

    def _keys(self, table: Table, wanted: np.ndarray, *, is_whole: bool) -> np.ndarray:
        (key,) = table.key
        only = None if is_whole else {key: wanted.tolist()}
        found = [rows[key].to_numpy() for rows in parts(self._engine, table, [key], only)]
        keys = np.concatenate([np.empty(0, np.int64), *found])
        if table is catalog.PERSON:
            self._find_twice(table, keys)
        return keys

    def _find_twice(self, table: Table, keys: np.ndarray) -> None:
        values, counts = np.unique(keys, return_counts=True)
        for value in values[counts > 1].tolist():
            self._found.add(Kind.DUPLICATE, f"{table.full_name}: {value}", key=(table, value))

    def _name_dangling(self, table: Table, target: Table, dangling: np.ndarray) -> None:
        (key,), name = table.key, _POINTERS[target]
        if not len(dangling) or name == key:
            return
        where = {name: dangling[:_MOST_NAMED].tolist()}
        rows = self._engine.read(table, [key, "sourceRecordId"], where=where)
        for number, source in zip(
            rows[key].to_pylist(), rows["sourceRecordId"].to_pylist(), strict=True
        ):
            if source not in self._absent:
                what = f"{table.full_name}: {number} → {target.full_name}"
                self._found.add(Kind.DANGLING, what, key=source)
