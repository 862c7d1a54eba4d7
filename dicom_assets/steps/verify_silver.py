"""Bronze against silver: studies, and in which study and series each instance is.

Decided here: where silver must hold each instance (`belonging`). An instance's files may come on
any date and in any study, so instances are shared out by source system and UID into buckets on
disk, of which one is in memory at a time; of studies only keys and patients are held. Tables are
read a partition at a time, and no more columns than are compared. Not decided here: what
silver/current_files should say (`verify_current`), or how what is found is mended (`repair`).
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import cached_property
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa

from dicom_assets.fhir.flatten import silver_id
from dicom_assets.fhir.imaging_study import is_told, resource_id
from dicom_assets.lakehouse.buckets import Buckets
from dicom_assets.lakehouse.engine import LocalEngine, Table
from dicom_assets.lakehouse.query import Where
from dicom_assets.lakehouse.uris import is_written_here
from dicom_assets.omop.studies import STUDY_COLUMNS, studies
from dicom_assets.steps import catalog, convert, flatten
from dicom_assets.steps.corrections import Corrections
from dicom_assets.steps.current_files import ARRIVAL
from dicom_assets.steps.findings import Findings, Kind
from dicom_assets.steps.report import Progress
from dicom_assets.steps.run import Run
from dicom_assets.steps.verify_conflicts import ConflictCheck
from dicom_assets.steps.verify_current import CURRENT, CurrentCheck
from dicom_assets.steps.verify_patients import Patients

STUDY = ("sourceSystem", "study")
"""What identifies a study: its source system and its resource's own id."""

_INSTANCE = ("sourceSystem", "sopInstanceUid")
_PLACE = (*_INSTANCE, "study", "seriesInstanceUid")
_NEWEST = ("ingestedAt", *ARRIVAL[1:])
_HELD = pa.schema([(name, pa.string()) for name in _PLACE])
_STATED = pa.schema(
    [
        *_HELD,
        ("studyInstanceUid", pa.string()),
        *((name, pa.timestamp("us", tz="UTC")) for name in _NEWEST[:2]),
        *((name, pa.string()) for name in _NEWEST[2:]),
        ("ingestDate", pa.date32()),
        ("patientId", pa.string()),
        ("version", pa.string()),
        ("hasFailed", pa.bool_()),
    ]
)
_UIDS = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
_MOST_SHARES = 128
"""Each is an open file for each of six tables, of 1,024 that a process may have."""


def newest_of_files(stated: pd.DataFrame) -> pd.DataFrame:
    """Returns the newest row of each file, in order of arrival, and when it arrived: arrivedAt.

    Args:
        stated: Metastore rows (_STATED), and of each instance among them all that there are.
    """
    file = [*_INSTANCE, "filePath", "version"]  # which only objects have
    grouped = stated.groupby(file, dropna=False)
    stated = stated.assign(arrivedAt=grouped["ingestedAt"].transform("min"))
    ordered = stated.sort_values([*ARRIVAL, "ingestedAt"], na_position="first")
    return ordered.drop_duplicates(file, keep="last")


def belonging(files: pd.DataFrame, corrections: Corrections) -> pd.DataFrame:
    """Returns where silver must hold instances: the one rule of what silver should hold.

    The newest file by arrival says in which study and series an instance is; of one that was
    deleted, `isDeleted` says so.

    Args:
        files: The newest row of each file (`newest_of_files`).
        corrections: What was deleted.
    """
    newest = files.drop_duplicates(list(_INSTANCE), keep="last")
    deleted = [corrections.is_deleted(row) for row in newest.to_dict("records")]
    return newest.assign(isDeleted=pd.Series(deleted, index=newest.index, dtype=bool))


def parts(
    engine: LocalEngine, table: Table, columns: Sequence[str], only: Where | None
) -> Iterator[pa.Table]:
    """Yields a table's rows a partition at a time, or at once those that meet a condition."""
    if only is not None:
        yield engine.read(table, columns, where=only)
        return
    for value in engine.partitions(table):
        yield engine.read(table, columns, where={table.partition: [value]})


class SilverCheck:
    """Compares bronze with silver; each part adds what it finds."""

    def __init__(self, run: Run, found: Findings, *, days: Sequence[date], is_whole: bool) -> None:
        """Takes the dates to compare; with `is_whole` they are all that there are."""
        self._run, self._engine, self._found = run, run.engine, found
        self._days, self.is_whole = days, is_whole
        rows = run.engine.row_count(run.metastore) if is_whole else 0
        self._bucket_count = min(Buckets.enough_for(rows), _MOST_SHARES)
        self._held = self._buckets(_HELD)
        self._corrections = Corrections.read(run.engine)
        self._current = CurrentCheck(run.engine, found)
        self._patients: dict[tuple[str, str], str | None] = {}

    def _buckets(self, schema: pa.Schema) -> Buckets:
        folder = self._engine.layout.scratch
        return Buckets(schema, _INSTANCE, count=self._bucket_count, folder=folder)

    def studies(self) -> Iterator[pa.Table]:
        """Yields silver's studies (STUDY_COLUMNS), of single dates those that lines are about."""
        ids = {silver_id(system, "ImagingStudy", study) for system, study in self._bronze_keys()}
        only = None if self.is_whole else {"id": ids}
        for rows in parts(self._engine, catalog.silver_imaging_study(), STUDY_COLUMNS, only):
            found: list[tuple[Any, ...]] = []
            for study in studies(rows):
                system, own_id = study.source_system, study.row["idOrig"]
                self._patients[system, own_id] = study.patient_id
                found += [
                    (system, instance.get("uid"), own_id, series.get("uid"))
                    for series in orjson.loads(study.row["series_string"] or "[]")
                    for instance in series.get("instance") or ()
                ]
            columns = list(zip(*found, strict=True)) or [()] * len(_HELD)
            arrays = [pa.array(values, pa.string()) for values in columns]
            self._held.add(pa.Table.from_arrays(arrays, schema=_HELD))
            yield rows

    def compare(self, silver: pd.DataFrame) -> set[tuple[str, str]]:
        """Compares what bronze and the metastore say with silver.

        Args:
            silver: STUDY of all that `studies` yielded.

        Returns:
            The studies that silver should hold and does not.
        """
        absent = self._compare_studies(silver)
        self._compare_instances(absent)
        return absent

    @cached_property
    def _bronze(self) -> pd.DataFrame:
        """STUDY of the lines; `valid` when one is, `theirs` when another wrote one."""
        known = _united([])
        progress = Progress("verify studies", len(self._days), "dates")
        for day in self._days:
            columns = ["sourceSystem", "id", "filePath", "lineNumber"]
            lines = self._engine.read(catalog.BRONZE_IMAGING_STUDY, columns, ingest_date=day)
            rows = lines.to_pandas().rename(columns={"id": "study"}).dropna(subset=["study"])
            bad = set(self._failed(day, flatten.STEP, "sourcePath", "line"))
            places = zip(rows["filePath"], rows["lineNumber"], strict=True)
            rows["valid"] = [place not in bad for place in places]
            rows["theirs"] = [not is_written_here(path) for path in rows["filePath"]]
            known = _united([known, rows[[*STUDY, "valid", "theirs"]]])
            progress.advance()
        return known

    def _bronze_keys(self, which: str | None = None) -> set[tuple[str, str]]:
        rows = self._bronze if which is None else self._bronze.loc[self._bronze[which]]
        return set(zip(rows["sourceSystem"], rows["study"], strict=True))

    def _failed(self, day: date, step: str, *columns: str) -> Iterator[tuple[Any, ...]]:
        rows = self._engine.read(
            catalog.INGESTION_FAILURES, columns, ingest_date=day, where={"step": [step]}
        )
        return zip(*(rows[name].to_pylist() for name in columns), strict=True)

    def _compare_studies(self, silver: pd.DataFrame) -> set[tuple[str, str]]:
        both = self._bronze.merge(silver, on=list(STUDY), how="outer", indicator=True)
        valid = both["valid"].map(bool) & (both["_merge"] == "left_only")
        missing = both.loc[valid]
        absent = set(zip(missing["sourceSystem"], missing["study"], strict=True))
        absent -= flatten.gone_studies(self._engine, absent)
        for key in sorted(absent):
            self._found.add(Kind.STUDY_NOT_IN_SILVER, " ".join(key), key=key)
        extra = both.loc[both["_merge"] == "right_only"]
        for key in zip(extra["sourceSystem"], extra["study"], strict=True):
            self._found.add(Kind.SILVER_WITHOUT_BRONZE, " ".join(key))
        twice = silver.loc[silver.duplicated(list(STUDY))]
        for key in zip(twice["sourceSystem"], twice["study"], strict=True):
            table = catalog.silver_imaging_study().full_name
            self._found.add(Kind.DUPLICATE, f"{table}: {' '.join(key)}", key=key)
        return absent

    def _compare_instances(self, absent: set[tuple[str, str]]) -> None:
        stated = self._buckets(_STATED)
        progress = Progress("verify instances", len(self._days), "dates")
        for day in self._days:
            stated.add(self._stated([day], ingest_date=day))
            progress.advance()
        exempt = absent | (self._bronze_keys() - self._bronze_keys("valid"))
        theirs = self._bronze_keys("theirs")
        patients = Patients(self._corrections)
        currents = self._buckets(CURRENT)
        if self.is_whole:
            self._current.share_out(currents)
        conflicts = ConflictCheck(
            self._run, self._found, self._corrections.systems, self._bucket_count
        )
        if self.is_whole:
            conflicts.share_out()
        shares = zip(stated, self._held, currents, conflicts.of_instances(), strict=True)
        for said, held, current, met in shares:
            all_said, in_silver = said.to_pandas(date_as_object=True), held.to_pandas()
            files = newest_of_files(all_said.loc[~all_said["hasFailed"]])
            every = belonging(files, self._corrections)
            if self.is_whole:
                patients.take(files, every)
                conflicts.compare_instances(all_said, newest_of_files(all_said), met)
                self._current.known_series(all_said)
                self._current.compare(every, current.to_pandas(), known=(all_said, in_silver))
            should = every.loc[~every["isDeleted"]]
            both = should.merge(in_silver, on=list(_PLACE), how="outer", indicator=True)
            missing = both.loc[both["_merge"] == "left_only"]
            if not self.is_whole:
                missing = self._as_of_all_dates(missing)
            for row in missing.to_dict("records"):
                if (key := (row["sourceSystem"], row["study"])) not in exempt:
                    self._found.add(
                        Kind.INSTANCE_NOT_IN_SILVER, row["filePath"], day=row["ingestDate"], key=key
                    )
            unknown = both.loc[(both["_merge"] == "right_only") & self.is_whole]
            for row in unknown.to_dict("records"):
                if (key := (row["sourceSystem"], row["study"])) not in theirs:
                    what = f"{' '.join(key)}, instance {row['sopInstanceUid']}"
                    self._found.add(Kind.INSTANCE_UNKNOWN, what, key=key)
        if self.is_whole:
            self._current.compare_others()
            conflicts.compare_series(self._current.series)
            conflicts.compare_studies(self._days)
            ours = (self._bronze_keys() - exempt - theirs) & self._patients.keys()
            patients.compare({key: self._patients[key] for key in ours}, self._found)

    def _stated(self, days: Iterable[date], **which: Any) -> pa.Table:
        """Reads what metastore rows say of where instances are, and which of them failed later."""
        columns = ["ingestDate", "sourceSystem", *_UIDS, *_NEWEST, "patientId", "version"]
        rows = self._engine.read(self._run.metastore, columns, **which)
        uids = (rows[name].to_pylist() for name in _UIDS[1:])
        rows = rows.filter(pa.array(list(map(is_told, *uids)), pa.bool_()))
        failed = {path for day in days for (path,) in self._failed(day, convert.STEP, "failedPath")}
        has_failed = [path in failed for path in rows["filePath"].to_pylist()]
        rows = rows.append_column("hasFailed", pa.array(has_failed, pa.bool_()))
        ids = [resource_id(uid) for uid in rows["studyInstanceUid"].to_pylist()]
        rows = rows.append_column("study", pa.array(ids, pa.string()))
        return rows.select(_STATED.names).cast(_STATED)

    def _as_of_all_dates(self, missing: pd.DataFrame) -> pd.DataFrame:
        """Leaves out instances that a newer statement of another date puts elsewhere."""
        if missing.empty:
            return missing
        where = {"sopInstanceUid": set(missing["sopInstanceUid"])}
        stated = self._stated(self._days, where=where).to_pandas(date_as_object=True)
        stated = stated.loc[~stated["hasFailed"]]
        every = belonging(newest_of_files(stated), self._corrections)
        should = every.loc[~every["isDeleted"]]
        return missing.merge(should[["sourceSystem", "filePath"]])


def _united(rows: list[pd.DataFrame]) -> pd.DataFrame:
    """Returns one row a study."""
    columns = [*STUDY, "valid", "theirs"]
    if not rows:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in columns})
    together = pd.concat([each for each in rows if len(each)] or rows)
    found = together.groupby(list(STUDY)).any().reset_index()
    return found.astype({"valid": bool, "theirs": bool})
