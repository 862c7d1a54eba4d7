"""Silver against gold: every series and study has its row, every row its own, and says the same.

Decided here: what of gold belongs to what of silver, which keys must be there, and that rows say
what would be made of silver now, but for when they were made. Of both only keys are held, and 64
bits for what a row says. Not compared is what files, not silver, say of a person: sex and year of
birth. Not decided here: what a gold row says (`dicom_assets.omop`).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from dicom_assets.fhir.flatten import silver_id
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.query import Where
from dicom_assets.omop.person import person_id
from dicom_assets.omop.studies import patients
from dicom_assets.steps import catalog
from dicom_assets.steps.findings import Findings, Kind
from dicom_assets.steps.run import Run
from dicom_assets.steps.to_omop import procedure_rows, series_rows
from dicom_assets.steps.verify_silver import STUDY, parts

_POINTERS = {catalog.PERSON: "person_id", catalog.PROCEDURE_OCCURRENCE: "procedure_occurrence_id"}
_STUDY_ID = "sourceRecordId"
_WHEN = ("sourceModifiedAt", "modifiedAt")
_OF_PERSON = ("person_id", "sourceSystem", "person_source_value")
_MOST_NAMED = 1000


class _Said(NamedTuple):
    """Rows of a gold table, as far as they are held.

    Attributes:
        keys: Their keys.
        contents: 64 bits for what each says.
        studies: Of which study each is: its place in `GoldCheck`'s list.
    """

    keys: np.ndarray
    contents: np.ndarray
    studies: np.ndarray


def _compared(table: Table) -> list[str]:
    """Returns the columns of a table that are compared, its key first."""
    if table is catalog.PERSON:
        return list(_OF_PERSON)
    (key,) = table.key
    return [key, *(name for name in table.upserted.names if name not in (key, *_WHEN))]


def _contents(table: Table, rows: pa.Table) -> np.ndarray:
    """Returns 64 bits for what each row says; the same for equal rows of this process."""
    columns = (rows[name].to_pylist() for name in _compared(table))
    return np.fromiter(map(hash, zip(*columns, strict=True)), np.int64, rows.num_rows)


def _person_rows(run: Run, silver: pa.Table) -> pa.Table:
    """Returns whom studies are about: _OF_PERSON and the study's silver id."""
    people = [
        (person_id(system, patient_id, uid, run.crosswalks), system, patient_id)
        for system, patient_id, uid in patients(silver)
    ]
    columns = list(zip(*people, strict=True)) or [()] * len(_OF_PERSON)
    types = (pa.int64(), pa.string(), pa.string())
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    return pa.table([*arrays, silver["id"]], names=[*_OF_PERSON, _STUDY_ID])


class GoldCheck:
    """Compares gold with silver; each part adds what it finds."""

    def __init__(self, run: Run, found: Findings, silver: Iterable[pa.Table]) -> None:
        """Takes what gold should say.

        Args:
            run: The lakehouse and the settings.
            found: What is found is added here.
            silver: Silver's studies (`studies.STUDY_COLUMNS`).
        """
        self._engine, self._found = run.engine, found
        made: dict[Table, Callable[[Run, pa.Table], pa.Table]] = {
            catalog.IMAGE_OCCURRENCE: series_rows
        }
        if run.settings.omop_procedure_occurrence:
            made[catalog.PROCEDURE_OCCURRENCE] = procedure_rows
        if run.settings.omop_person:
            made[catalog.PERSON] = _person_rows
        nothing = _Said(*(np.empty(0, np.int64) for _ in _Said._fields))
        said: dict[Table, list[_Said]] = {table: [nothing] for table in made}
        self._ids: list[str] = []
        studies: list[tuple[str, str]] = []
        for rows in silver:
            ids = rows["id"].to_pylist()
            places = {own_id: place for place, own_id in enumerate(ids, start=len(self._ids))}
            self._ids += ids
            names = (rows[name].to_pylist() for name in ("sourceSystem", "idOrig"))
            studies += zip(*names, strict=True)
            for table, rows_of in made.items():
                gold = rows_of(run, rows)
                of = [places[own_id] for own_id in gold[_STUDY_ID].to_pylist()]
                keys = gold[table.key[0]].to_numpy()
                said[table].append(_Said(keys, _contents(table, gold), np.array(of, np.int64)))
        self.studies = pd.DataFrame(studies, columns=pd.Index(STUDY), dtype=object)
        self._expected = {
            table: _Said(*map(np.concatenate, zip(*several, strict=True)))
            for table, several in said.items()
        }

    def compare(self, absent: Iterable[tuple[str, str]], *, is_whole: bool) -> None:
        """Compares series, studies and people.

        Args:
            absent: STUDY of what silver should hold and does not: gold is not asked about it.
            is_whole: Whether all of silver's studies were given, else gold is looked up by them.
        """
        self._absent = {silver_id(system, "ImagingStudy", study) for system, study in absent}
        only: Where | None = None if is_whole else {_STUDY_ID: self._ids}
        of_studies = [table for table in self._expected if table is not catalog.PERSON]
        pointers: dict[Table, list[np.ndarray]] = {
            table: [np.empty(0, np.int64)] for table in self._expected if table in _POINTERS
        }
        for table in of_studies:
            self._compare(table, only, pointers)
        for table, keys in pointers.items():
            wanted = np.unique(np.concatenate(keys))
            held = self._held(table, wanted, is_whole=is_whole)
            if is_whole and table is catalog.PERSON:
                known = np.union1d(wanted, self._expected[table].keys)
                self._add_extra(table, np.setdiff1d(held, known).tolist())
            dangling = np.setdiff1d(wanted, held)
            for each in of_studies:
                self._name_dangling(each, table, dangling)

    def _compare(
        self, table: Table, only: Where | None, pointers: dict[Table, list[np.ndarray]]
    ) -> None:
        (key,), expected = table.key, self._expected[table]
        names = {t: name for t in pointers if (name := _POINTERS[t]) != key}
        held = [np.empty(0, np.int64)]
        for rows in parts(self._engine, table, _compared(table), only):
            keys = rows[key].to_numpy()
            held.append(keys)
            for target, name in names.items():
                pointers[target].append(np.unique(rows[name].to_numpy()))
            self._compare_contents(table, rows)
            extra = rows.filter(pa.array(~np.isin(keys, expected.keys)))
            sources = zip(extra[key].to_pylist(), extra[_STUDY_ID].to_pylist(), strict=True)
            self._add_extra(table, [n for n, source in sources if source not in self._absent])
        known = np.concatenate(held)
        for place in np.flatnonzero(~np.isin(expected.keys, known)):
            what = f"{table.full_name}: {expected.keys[place]}"
            self._found.add(Kind.NOT_IN_GOLD, what, key=self._ids[expected.studies[place]])
        self._find_twice(table, known)

    def _compare_contents(self, table: Table, rows: pa.Table) -> None:
        """Looks for rows of which none that is expected under their key says the same."""
        expected, keys = self._expected[table], rows[table.key[0]].to_numpy()
        says_otherwise = ~np.isin(_contents(table, rows), expected.contents)
        wrong = np.unique(keys[says_otherwise & np.isin(keys, expected.keys)])
        for place in np.flatnonzero(np.isin(expected.keys, wrong)):
            what = f"{table.full_name}: {expected.keys[place]}"
            self._found.add(Kind.GOLD_DIFFERS, what, key=self._ids[expected.studies[place]])

    def _add_extra(self, table: Table, keys: Collection[int]) -> None:
        for key in keys:
            what = f"{table.full_name}: {key}"
            self._found.add(Kind.GOLD_WITHOUT_SILVER, what, key=(table, key))

    def _held(self, table: Table, wanted: np.ndarray, *, is_whole: bool) -> np.ndarray:
        """Returns which keys there are; of people also looks at whom they are."""
        (key,) = table.key
        is_person = table is catalog.PERSON
        only = None if is_whole else {key: wanted.tolist()}
        found = [np.empty(0, np.int64)]
        columns: Sequence[str] = _OF_PERSON if is_person else [key]
        for rows in parts(self._engine, table, columns, only):
            found.append(rows[key].to_numpy())
            if is_person and is_whole:  # a crosswalk may give several patients one key
                self._compare_contents(table, rows)
        keys = np.concatenate(found)
        if is_person:
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
        rows = self._engine.read(table, [key, _STUDY_ID], where=where)
        for number, source in zip(rows[key].to_pylist(), rows[_STUDY_ID].to_pylist(), strict=True):
            if source not in self._absent:
                what = f"{table.full_name}: {number} → {target.full_name}"
                self._found.add(Kind.DANGLING, what, key=source)
