"""Reconciliation: what each layer holds for one ingest date, counted from the layers themselves.

Decided here: what is counted and how. Not decided here: how a date's rows are held meanwhile
(`reconcile_rows`), what must be equal (`dicom_assets.defs.checks`) or how it is shown
(`dicom_assets.cli`). Columns read are keys only, and only those of the date's partition or of its
studies.
"""

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dicom_assets.fhir.imaging_study import silver_study_id
from dicom_assets.fhir.ndjson import Line
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.layout import DEFAULT_SOURCE_SYSTEM, Layout
from dicom_assets.lakehouse.manifest import about, declared
from dicom_assets.lakehouse.paths import names_in
from dicom_assets.lakehouse.reasons import Reason
from dicom_assets.steps import catalog, reconcile_rows
from dicom_assets.steps.conflicts import open_conflicts
from dicom_assets.steps.current_files import study_key, study_key_of
from dicom_assets.steps.external import SKIPPED, TO_READ
from dicom_assets.steps.external import STEP as EXTERNAL
from dicom_assets.steps.fhir_lines import lines_in
from dicom_assets.steps.flatten import gone_studies
from dicom_assets.steps.reconcile_arrivals import instances_sent_again, studies_in_parts
from dicom_assets.steps.reconcile_fhir import Resources
from dicom_assets.steps.reconcile_rows import (
    PLACE,
    SERIES,
    UNKNOWN,
    KnownStudy,
    Silver,
    absent,
    file_key,
)
from dicom_assets.steps.run import Run
from dicom_assets.steps.whole import studies_by_key


@dataclass
class Day:
    """Counts of one ingest date; each is read when first asked for.

    Attributes:
        run: The lakehouse, the settings and the date.
    """

    run: Run

    @cached_property
    def files(self) -> Counter[str]:
        """Files in Process: `total` and `zips`."""
        return self._lying[1]

    @cached_property
    def _lying(self) -> tuple[NDArray[np.int64], Counter[str]]:
        """Keys of the files in Process, and how many there are."""
        keys, zips = array("q"), 0
        for system, name in process_files(self.run.engine.layout, self.run.ingest_date):
            keys.append(file_key(system, name))
            zips += name.endswith(".dcm.zip")
        return np.unique(np.frombuffer(keys, np.int64)), Counter(total=len(keys), zips=zips)

    @cached_property
    def organised(self) -> pd.DataFrame:
        """Rows of bronze/process_files (`reconcile_rows.organised`)."""
        return reconcile_rows.organised(self.run)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """Failure rows: sourceSystem, step, reasonCode, paths, line."""
        columns = ["sourceSystem", "step", "reasonCode", "sourcePath", "failedPath", "line"]
        return self._read(catalog.INGESTION_FAILURES, columns)

    def _read(self, table: Table, columns: list[str]) -> pd.DataFrame:
        """Reads the date's partition."""
        return self.run.engine.read(table, columns, ingest_date=self.run.ingest_date).to_pandas()

    def failures_of(self, step: str) -> pd.DataFrame:
        """Returns the failure rows of a step."""
        return self.failures.loc[self.failures["step"] == step]

    @cached_property
    def _unread(self) -> set[int]:
        """Keys of the organised files that were moved to Failed."""
        moved = self.failures_of("extract").dropna(subset="failedPath")
        return set(map(file_key, moved["sourceSystem"], moved["failedPath"]))

    @cached_property
    def external(self) -> pd.DataFrame:
        """Rows of bronze/external_files (`reconcile_rows.external`)."""
        return reconcile_rows.external(self.run)

    def external_counts(self) -> dict[str, int]:
        """Counts objects that were to be read, and what came of them."""
        file, states = ["path", "ingestedAt"], self.external["state"]
        to_read = self.external.loc[states.isin(TO_READ), file]
        failed = self.failures_of(EXTERNAL)
        return {
            "objects": len(to_read),
            "rows_failures_and_skipped": len(to_read.merge(self.instances[file]).drop_duplicates())
            + int((failed["reasonCode"] != Reason.SHORTCUT_UNUSABLE).sum())
            + int((states == SKIPPED).sum()),
        }

    def unaccounted(self) -> dict[str, int]:
        """Counts rows without a file, and files without a row.

        A file counts once, be it plain, in its ZIP, both (a killed run), or moved to Failed. One
        that is a failure already is accounted for, wherever somebody has put it since.
        """
        layout, day = self.run.engine.layout, self.run.ingest_date
        (lying, _), known = self._lying, self.organised["file"].to_numpy()
        failed = self.failures_of("extract")
        missed = set(failed.loc[failed["failedPath"].isna(), "sourcePath"])
        gone: set[int] = set()
        if not np.isin(known, lying).all():
            for row in reconcile_rows.organised_elsewhere(self.run, lying):
                system, name = row["sourceSystem"], Path(row["filePath"]).name
                is_failed = (layout.failed_folder(system, day) / name).exists()
                if row["sourcePath"] not in missed and not is_failed:
                    gone.add(file_key(system, name))
        return {
            "rows_without_file": len(gone - self._unread),
            "files_without_row": len(np.setdiff1d(lying, known)),
        }

    def failed(self, step: str) -> int:
        """Returns how many failures a step has."""
        return len(self.failures_of(step))

    def failed_lines(self, resource_type: str) -> int:
        """Returns how many lines of a FHIR resource type's files are no such resource."""
        lines = self.failures_of("ingest_fhir").dropna(subset=["line"])
        return sum(Path(path).parent.name == resource_type for path in lines["sourcePath"])

    def resources(self, resource_type: str) -> Resources:
        """Returns what there is of a FHIR resource type."""
        return self._resources.setdefault(resource_type, Resources(self.run, resource_type))

    @cached_property
    def _resources(self) -> dict[str, Resources]:
        return {}

    @cached_property
    def instances(self) -> pd.DataFrame:
        """Rows of the metastore (`reconcile_rows.instances`)."""
        return reconcile_rows.instances(self.run, places=set(self.organised["place"].unique()))

    @cached_property
    def received(self) -> pd.DataFrame:
        """Those of the instances that came on the date, a row for each file.

        A file that was read again has several rows; it may have come on another date.
        """
        return self.instances.loc[self.instances["isReceived"]].drop_duplicates("path", keep="last")

    @cached_property
    def settled(self) -> NDArray[np.int64]:
        """Keys of the instances that FHIR can hold: those that silver/current_files must know."""
        return self.instances.loc[self.instances["isTold"], "instance"].unique()

    @cached_property
    def current(self) -> pd.DataFrame:
        """Where they stand (`reconcile_rows.current`)."""
        return reconcile_rows.current(self.run, self.settled)

    @cached_property
    def _converted(self) -> pd.DataFrame:
        """Keys of study and instance of those that could be converted to FHIR."""
        failed = [*map(int_key, self.failures_of("convert")["failedPath"].dropna())]
        is_converted = ~self.instances["path"].isin(failed)
        return self.instances.loc[is_converted, ["study", "instance"]].drop_duplicates()

    @cached_property
    def belonging(self) -> pd.DataFrame:
        """The converted instances that stand in their study: study, series, instance.

        One whose newest file says another study does not, nor does one that was deleted, or that is
        not settled.
        """
        return self._converted.merge(self.current.loc[~self.current["isDeleted"], PLACE])

    @cached_property
    def not_belonging(self) -> pd.DataFrame:
        """Those that do not: study, instance."""
        return absent(self._converted, self.belonging, on=["study", "instance"])

    @cached_property
    def _known_studies(self) -> list[KnownStudy]:
        return reconcile_rows.known_studies(self.run, self.instances["study"].unique().tolist())

    @cached_property
    def written_whole(self) -> set[int]:
        """Keys of those of the date's studies that are written whole, on whatever date."""
        return {study_key_of(*study.uid) for study in self._known_studies if study.whole_at}

    @cached_property
    def waiting(self) -> set[int]:
        """Keys of those of these that silver does not yet hold as they were last settled."""
        whole = {
            silver_study_id(*study.uid): study for study in self._known_studies if study.whole_at
        }
        columns, silver = ["id", "meta_lastUpdated"], catalog.silver_imaging_study()
        rows = self.run.engine.read(silver, columns, where={"id": list(whole)}).to_pylist()
        held = ((whole[row["id"]], row["meta_lastUpdated"]) for row in rows)
        return {study_key_of(*study.uid) for study, at in held if at < study.whole_at}

    @cached_property
    def conflicts(self) -> pd.DataFrame:
        """Open conflicts that the date brought: id, level, attribute."""
        run, columns = self.run, ["id", "level", "attribute"]
        rows = open_conflicts(run.engine, run.metastore, ingest_date=run.ingest_date)
        return pd.DataFrame(rows, columns=pd.Index(columns))

    @cached_property
    def lines(self) -> NDArray[np.int64]:
        """Key of the study of each line of the date's NDJSON files; `UNKNOWN` for a bad one."""
        layout, day = self.run.engine.layout, self.run.ingest_date
        found = array("q")
        for system, path in layout.fhir_files(day, "ImagingStudy"):
            for line in lines_in(self.run, path, "ImagingStudy"):
                known = line.id if isinstance(line, Line) else None
                found.append(study_key(system, known) if known else UNKNOWN)
        return np.frombuffer(found, np.int64)

    @cached_property
    def bronze(self) -> pd.DataFrame:
        """Rows of bronze/ImagingStudy (`reconcile_rows.lines`)."""
        return self._bronze[0]

    @cached_property
    def _bronze(self) -> tuple[pd.DataFrame, list[str]]:
        failed = self.failures_of("flatten")[["sourcePath", "line"]]
        bad = set(failed.itertuples(index=False, name=None))
        return reconcile_rows.lines(self.run, bad)

    @cached_property
    def studies(self) -> set[int]:
        """Keys of the date's studies: those of its lines."""
        return set(self.bronze["resource"].unique()) - {UNKNOWN}

    @cached_property
    def gone(self) -> set[int]:
        """Keys of those of them of which lines say that nothing is left."""
        missing = self.studies - set(self.silver.studies["resource"])
        if not missing:
            return set()
        pairs = reconcile_rows.resources(self.run, missing)
        return {study_key(*study) for study in gone_studies(self.run.engine, pairs)}

    @cached_property
    def silver(self) -> Silver:
        """Rows of silver/ImagingStudy of the date's studies."""
        return reconcile_rows.silver(self.run, self._bronze[1])

    @cached_property
    def gold(self) -> pd.DataFrame:
        """Rows of gold/Image_Occurrence of the date's studies (`reconcile_rows.gold`)."""
        return self._gold[0]

    @cached_property
    def _gold(self) -> tuple[pd.DataFrame, Counter[str]]:
        return reconcile_rows.gold(self.run, self._bronze[1])

    @cached_property
    def person_ids(self) -> set[int]:
        """Ids of the patients of the date's studies."""
        return set(self.silver.studies["person_id"])

    @cached_property
    def procedure_ids(self) -> set[int]:
        """Ids of the date's studies in OMOP."""
        return set(self.silver.studies["procedure_occurrence_id"])

    @cached_property
    def people(self) -> pd.DataFrame:
        """gold/person rows of those patients."""
        columns, where = ["person_id", "gender_concept_id"], {"person_id": self.person_ids}
        return self.run.engine.read(catalog.PERSON, columns, where=where).to_pandas()

    @cached_property
    def procedures(self) -> pd.DataFrame:
        """gold/procedure_occurrence rows of those studies."""
        key = "procedure_occurrence_id"
        columns = [key, "procedure_type_concept_id", "person_id"]
        where = {key: self.procedure_ids}
        return self.run.engine.read(catalog.PROCEDURE_OCCURRENCE, columns, where=where).to_pandas()

    def dangling(self) -> dict[str, int]:
        """Counts keys that gold points to and that the tables written here do not hold."""
        found = {}
        if self.run.settings.omop_person:
            known = set(self.people["person_id"])
            found["people"] = len(set(self.gold["person_id"]) - known)
        if self.run.settings.omop_procedure_occurrence:
            known = set(self.procedures["procedure_occurrence_id"])
            found["procedures"] = len(set(self.gold["procedure_occurrence_id"]) - known)
        return found

    def unmapped(self) -> dict[str, int]:
        """Counts the gold rows by code without a concept, as `modality XX`, `anatomic_site XX`."""
        return dict(self._gold[1])

    def by_modality(self) -> pd.DataFrame:
        """Counts the date's instances, series and studies by modality."""
        return (
            self.instances.groupby("modality", observed=True)
            .agg(
                studies=("study", "nunique"),
                series=("series", "nunique"),
                instances=("instance", "nunique"),
            )
            .reset_index()
        )

    def study_sizes(self) -> pd.DataFrame:
        """Counts the date's studies in silver by their number of series."""
        sizes = Counter(self.silver.series.groupby("study").size())
        return pd.DataFrame(sorted(sizes.items()), columns=pd.Index(["series", "studies"]))

    @cached_property
    def manifests(self) -> dict[str, list[dict[str, int]]]:
        """What manifests declare, by the folder or archive they are about, the newest last."""
        folder = self.run.engine.layout.manifest_folder(self.run.ingest_date)
        paths = sorted(folder.glob("*.json"), key=lambda path: int(path.name.split("_")[0]))
        found: dict[str, list[dict[str, int]]] = {}
        for content in (path.read_bytes() for path in paths):
            found.setdefault(about(content), []).append(declared(content))
        return found

    def counted(self, table: str, folder: str) -> int:
        """Counts a table's rows (`manifest.COUNTED`) of what was dropped in and below a folder.

        An organised file that could not be read lies in Failed, and may have been sent again.
        """
        if table == "process_files":
            files = _below(folder, self.organised)["file"]
            return int((~files.isin(list(self._unread))).sum())
        instances = _below(folder, self.received)
        # what was deleted since, or has come elsewhere, was delivered all the same
        there = instances.loc[instances["instance"].isin(self._in_place)]
        if table == "ImagingStudy":
            wanted = set(there["study"]) - set(self.silver.studies["resource"])
            return instances["study"].nunique() - len(wanted)
        if table == "Image_Occurrence":
            missing = absent(there, self.gold, on=SERIES)
            return len(instances[SERIES].drop_duplicates()) - len(missing)
        return len(instances)

    @cached_property
    def _in_place(self) -> pd.Series:
        """Keys of the instances that stand where the date's files say."""
        current = self.current.loc[~self.current["isDeleted"], PLACE]
        return current.merge(self.instances[PLACE].drop_duplicates())["instance"]

    def resent(self) -> Counter[str]:
        """Counts the date's instances with several files: `resent`, and `conflicting` ones."""
        return instances_sent_again(self.instances, self._of_other_dates)

    def in_parts(self) -> dict[str, int]:
        """Counts the date's studies of which files of other dates were there before."""
        return studies_in_parts(self.run.engine, self.instances, self._of_other_dates)

    def in_other_namespaces(self) -> int:
        """Counts the date's studies of which another namespace has files, too."""
        engine = self.run.engine
        systems = engine.layout.source_systems()
        if len(systems) == 1:
            return 0
        elsewhere = [
            {study_key_of(other, uid) for other in systems - {system}}
            for system, uid in studies_by_key(engine, self.instances["study"].unique().tolist())
        ]
        known = engine.places(catalog.CURRENT_FILES, set().union(*elsewhere)).keys()
        return sum(not known.isdisjoint(keys) for keys in elsewhere)

    @cached_property
    def _of_other_dates(self) -> pd.DataFrame:
        """Rows of the metastore of the date's studies that came on other dates."""
        studies = {s.uid: s.other_dates for s in self._known_studies if s.other_dates}
        return reconcile_rows.instances_of_others(self.run, studies)


def _below(folder: str, rows: pd.DataFrame) -> pd.DataFrame:
    if not folder:
        return rows
    folders = rows["folder"].cat.categories
    inside = [each for each in folders if f"{each}/".startswith(f"{folder}/")]
    return rows.loc[rows["folder"].isin(inside)]


def process_files(layout: Layout, day: date) -> Iterator[tuple[str, str]]:
    """Yields source system and name of a date's organised files."""
    tail = f"{day:%Y/%m/%d}"
    folders = {DEFAULT_SOURCE_SYSTEM: layout.process_root / tail}
    folders |= {path.parents[2].name: path for path in layout.process_root.glob(f"*/{tail}")}
    for system, folder in sorted(folders.items()):
        if isinstance(folder, FarPath):
            yield from ((system, n) for n in names_in(folder) if not n.startswith("."))
        elif folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_file() and not entry.name.startswith("."):
                        yield system, entry.name
