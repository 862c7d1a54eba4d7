"""Reconciliation: what each layer holds for one ingest date, counted from the layers themselves.

Decided here: what is counted and how. Not decided here: what must be equal
(`dicom_assets.defs.checks`) or how it is shown (`dicom_assets.cli`). Columns read are keys only,
and only those of the date's partition or of its studies.
"""

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dicom_assets.fhir.flatten import silver_id
from dicom_assets.fhir.imaging_study import is_told, silver_study_id
from dicom_assets.fhir.ndjson import Line, read_lines, unpacked
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.layout import DEFAULT_SOURCE_SYSTEM, Layout, one_name
from dicom_assets.lakehouse.manifest import about, declared
from dicom_assets.lakehouse.paths import names_in
from dicom_assets.lakehouse.reasons import Reason
from dicom_assets.omop.image_occurrence import unmapped
from dicom_assets.omop.person import person_id
from dicom_assets.omop.studies import STUDY_COLUMNS, Study, procedure_occurrence_id, studies
from dicom_assets.steps import catalog
from dicom_assets.steps.conflicts import open_conflicts
from dicom_assets.steps.current_files import instance_key, study_key_of
from dicom_assets.steps.external import SKIPPED, TO_READ
from dicom_assets.steps.external import STEP as EXTERNAL
from dicom_assets.steps.flatten import gone_studies
from dicom_assets.steps.reconcile_arrivals import instances_sent_again, studies_in_parts
from dicom_assets.steps.reconcile_fhir import Resources
from dicom_assets.steps.run import Run
from dicom_assets.steps.whole import studies_by_key
from dicom_assets.terminology import body_parts, modality_concepts

_KEYS = ("sourceSystem", "studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
_SERIES_KEYS = _KEYS[:3]
_SERIES = ("sourceSystem", "image_study_uid", "image_series_uid")
_ROWS_AT_A_TIME = 10_000


@dataclass
class Day:
    """Counts of one ingest date; each is read when first asked for.

    Attributes:
        run: The lakehouse, the settings and the date.
    """

    run: Run

    def _read(self, table: Table, columns: list[str]) -> pd.DataFrame:
        """Reads the date's partition."""
        return self.run.engine.read(table, columns, ingest_date=self.run.ingest_date).to_pandas()

    @cached_property
    def files(self) -> Counter[str]:
        """Files in Process: `total` and `zips`."""
        return self._lying[1]

    @cached_property
    def _lying(self) -> tuple[NDArray[np.int64], Counter[str]]:
        """Keys (`_file_key`) of the files in Process, and how many there are."""
        keys, zips = array("q"), 0
        for system, name in process_files(self.run.engine.layout, self.run.ingest_date):
            keys.append(_file_key(system, name))
            zips += name.endswith(".dcm.zip")
        return np.unique(np.frombuffer(keys, np.int64)), Counter(total=len(keys), zips=zips)

    @cached_property
    def organised(self) -> pa.Table:
        """Rows of bronze/process_files: filePath, sourceSystem, sourcePath."""
        columns = ["filePath", "sourceSystem", "sourcePath"]
        return self.run.engine.read(
            catalog.PROCESS_FILES, columns, ingest_date=self.run.ingest_date
        )

    @cached_property
    def failures(self) -> pd.DataFrame:
        """Failure rows: sourceSystem, step, reasonCode, paths, line."""
        columns = ["sourceSystem", "step", "reasonCode", "sourcePath", "failedPath", "line"]
        return self._read(catalog.INGESTION_FAILURES, columns)

    def failures_of(self, step: str) -> pd.DataFrame:
        """Returns the failure rows of a step."""
        return self.failures.loc[self.failures["step"] == step]

    @cached_property
    def unread(self) -> set[tuple[str, str]]:
        """Source system and one name of each organised file that was moved to Failed."""
        moved = self.failures_of("extract").dropna(subset="failedPath")
        pairs = zip(moved["sourceSystem"], moved["failedPath"], strict=True)
        return {(system, one_name(path)) for system, path in pairs}

    @cached_property
    def external(self) -> pd.DataFrame:
        """Rows of bronze/external_files: sourceSystem, filePath, state, foundAt."""
        columns = ["sourceSystem", "filePath", "state", "foundAt"]
        return self._read(catalog.EXTERNAL_FILES, columns)

    def external_counts(self) -> dict[str, int]:
        """Counts objects that were to be read, and what came of them."""
        states = self.external["state"]
        found = self.external.rename(columns={"foundAt": "ingestedAt"})
        rows = found.loc[states.isin(TO_READ)].merge(
            self.instances, on=["filePath", "ingestedAt"], how="inner"
        )
        failed = self.failures_of(EXTERNAL)
        return {
            "objects": int(states.isin(TO_READ).sum()),
            "rows_failures_and_skipped": len(rows.drop_duplicates(["filePath", "ingestedAt"]))
            + int((failed["reasonCode"] != Reason.SHORTCUT_UNUSABLE).sum())
            + int((states == SKIPPED).sum()),
        }

    def unaccounted(self) -> dict[str, int]:
        """Counts rows without a file, and files without a row.

        A file counts once, be it plain, in its ZIP, both (a killed run), or moved to Failed. One
        that is a failure already is accounted for, wherever somebody has put it since.
        """
        layout, day = self.run.engine.layout, self.run.ingest_date
        lying, _ = self._lying
        keys = array("q")
        for batch in self.organised.to_batches(max_chunksize=_ROWS_AT_A_TIME):
            files = zip(
                batch["sourceSystem"].to_pylist(), batch["filePath"].to_pylist(), strict=True
            )
            keys.extend(_file_key(system, path) for system, path in files)
        known = np.frombuffer(keys, np.int64)
        failed = self.failures_of("extract")
        missed = set(failed.loc[failed["failedPath"].isna(), "sourcePath"])
        elsewhere = self.organised.filter(pa.array(~np.isin(known, lying)))
        gone = {
            (row["sourceSystem"], one_name(row["filePath"]))
            for row in elsewhere.to_pylist()
            if row["sourcePath"] not in missed
            and not (
                layout.failed_folder(row["sourceSystem"], day) / Path(row["filePath"]).name
            ).exists()
        }
        return {
            "rows_without_file": len(gone - self.unread),
            "files_without_row": len(np.setdiff1d(lying, known)),
        }

    def failed(self, step: str) -> int:
        """Returns how many failures a step has."""
        return len(self.failures_of(step))

    def failed_lines(self, resource_type: str) -> int:
        """Returns how many lines of a FHIR resource type's files are no such resource."""
        paths = self.failures_of("ingest_fhir")["sourcePath"]
        return sum(Path(path).parent.name == resource_type for path in paths)

    def resources(self, resource_type: str) -> Resources:
        """Returns what there is of a FHIR resource type."""
        return self._resources.setdefault(resource_type, Resources(self.run, resource_type))

    @cached_property
    def _resources(self) -> dict[str, Resources]:
        return {}

    @cached_property
    def instances(self) -> pd.DataFrame:
        """Metastore rows: keys, modality, paths, contentHash, and the silver id of the study."""
        columns = [*_KEYS, "modality", "filePath", "sourcePath", "contentHash", "ingestedAt"]
        rows = self._read(self.run.metastore, columns)
        pairs = zip(rows["sourceSystem"], rows["studyInstanceUid"], strict=True)
        rows["study"] = [silver_study_id(system, uid) for system, uid in pairs]
        return rows

    @cached_property
    def received(self) -> pd.DataFrame:
        """Those of the instances that came on the date, a row for each file.

        A file that was read again has several rows; it may have come on another date.
        """
        known = {path.rpartition("/")[0] for path in self.organised["filePath"].to_pylist()}
        is_known = [path.rpartition("/")[0] in known for path in self.instances["filePath"]]
        return self.instances.loc[is_known].drop_duplicates("filePath", keep="last")

    @cached_property
    def converted(self) -> pd.DataFrame:
        """Those of the instances that could be converted to FHIR."""
        failed = self.failures_of("convert")["failedPath"]
        return self.instances.loc[~self.instances["filePath"].isin(failed)]

    @cached_property
    def telling(self) -> set[tuple[str, str]]:
        """Source system and SOP Instance UID of the instances that FHIR can hold."""
        columns = ["sourceSystem", "seriesInstanceUid", "sopInstanceUid"]
        rows = self.instances[columns].itertuples(index=False, name=None)
        return {(system, sop) for system, series, sop in rows if is_told(series, sop)}

    @cached_property
    def current(self) -> pd.DataFrame:
        """silver/current_files rows of the date's instances: keys, whether they are deleted."""
        columns = [*_KEYS, "arrivedAt", "deletedAt"]
        where = {"id": {instance_key(*each) for each in self.telling}}
        rows = self.run.engine.read(catalog.CURRENT_FILES, columns, where=where).to_pandas()
        return rows[list(_KEYS)].assign(isDeleted=rows["arrivedAt"] < rows["deletedAt"])

    @cached_property
    def belonging(self) -> pd.DataFrame:
        """The converted instances: keys, silver id of their study, whether they belong there.

        One whose newest file says another study does not, nor does one that was deleted.
        """
        columns = ["sourceSystem", "studyInstanceUid", "sopInstanceUid", "study"]
        rows = self.converted[columns].drop_duplicates()
        current = self.current.rename(columns={"studyInstanceUid": "newest"})
        rows = rows.merge(current, on=["sourceSystem", "sopInstanceUid"], how="left")
        is_there = rows["isDeleted"].eq(False)  # one that is not settled is not there
        rows["belongs"] = (rows["newest"] == rows["studyInstanceUid"]) & is_there
        return rows

    @cached_property
    def _whole(self) -> dict[str, datetime]:
        """Silver id → as of when, of those of the date's studies that are written whole."""
        columns = ["sourceSystem", "studyInstanceUid"]
        studies = self.instances[columns].drop_duplicates().itertuples(index=False, name=None)
        found = studies_by_key(self.run.engine, {study_key_of(*study) for study in studies})
        return {
            silver_study_id(*study): row["wholeAt"]
            for study, row in found.items()
            if row["wholeAt"]
        }

    @cached_property
    def written_whole(self) -> set[str]:
        """Silver ids of those of the date's studies that are written whole, on whatever date."""
        return set(self._whole)

    @cached_property
    def waiting(self) -> set[str]:
        """Silver ids of those of these that silver does not yet hold as they were last settled."""
        columns = ["id", "meta_lastUpdated"]
        where = {"id": set(self._whole)}
        rows = self.run.engine.read(
            catalog.silver_imaging_study(), columns, where=where
        ).to_pylist()
        held = {row["id"]: row["meta_lastUpdated"] for row in rows}
        return {key for key, at in self._whole.items() if key in held and held[key] < at}

    @cached_property
    def conflicts(self) -> pd.DataFrame:
        """Open conflicts that the date brought: id, level, attribute."""
        run, columns = self.run, ["id", "level", "attribute"]
        rows = open_conflicts(run.engine, run.metastore, ingest_date=run.ingest_date)
        return pd.DataFrame(rows, columns=pd.Index(columns))

    @cached_property
    def lines(self) -> list[str | None]:
        """Silver id of each line of the date's NDJSON files; None for a bad one."""
        layout, day = self.run.engine.layout, self.run.ingest_date
        found: list[str | None] = []
        for system, path in layout.fhir_files(day, "ImagingStudy"):
            with path.open("rb", buffering=0) as stream:
                for line in read_lines(unpacked(stream), resource_type="ImagingStudy"):
                    known = line.id if isinstance(line, Line) else None
                    found.append(silver_id(system, "ImagingStudy", known) if known else None)
        return found

    @cached_property
    def bronze(self) -> pd.DataFrame:
        """bronze/ImagingStudy rows: sourceSystem, id, filePath, lineNumber."""
        columns = ["sourceSystem", "id", "filePath", "lineNumber"]
        return self._read(catalog.BRONZE_IMAGING_STUDY, columns)

    @cached_property
    def _study_lines(self) -> dict[str, tuple[str, str]]:
        """Silver id → source system and id, but for lines that are no valid ImagingStudy."""
        failed = self.failures_of("flatten")[["sourcePath", "line"]]
        bad = set(failed.itertuples(index=False, name=None))
        columns = self.bronze[["sourceSystem", "id", "filePath", "lineNumber"]]
        return {
            silver_id(system, "ImagingStudy", study): (system, study)
            for system, study, *line in columns.itertuples(index=False, name=None)
            if study and tuple(line) not in bad
        }

    @cached_property
    def study_ids(self) -> list[str]:
        """Silver ids of the date's studies."""
        return sorted(self._study_lines)

    @cached_property
    def silver(self) -> pa.Table:
        """silver/ImagingStudy rows of the date's studies, with what gold is made of."""
        silver = catalog.silver_imaging_study()
        return self.run.engine.read(silver, STUDY_COLUMNS, where={"id": self.study_ids})

    @cached_property
    def gone(self) -> set[str]:
        """Silver ids of those of the date's studies of which lines say that nothing is left."""
        held = set(self.silver["id"].to_pylist())
        missing = {study for key, study in self._study_lines.items() if key not in held}
        gone = gone_studies(self.run.engine, missing) if missing else set()
        return {silver_id(system, "ImagingStudy", study) for system, study in gone}

    @cached_property
    def studies(self) -> list[Study]:
        """Those rows as studies."""
        return list(studies(self.silver))

    @cached_property
    def silver_series(self) -> dict[tuple[str, str, str], set[str]]:
        """(source system, study UID, series UID) of those studies → SOP Instance UIDs."""
        return {
            (study.source_system, study.uid, series["uid"]): {
                instance["uid"] for instance in series.get("instance", [])
            }
            for study in self.studies
            for series in orjson.loads(study.row["series_string"] or "[]")
        }

    @cached_property
    def gold(self) -> pd.DataFrame:
        """gold/Image_Occurrence rows of the date's studies."""
        table = catalog.IMAGE_OCCURRENCE
        columns = [name for name in table.schema.names if name != "local_path"]
        where = {"sourceRecordId": self.study_ids}
        return self.run.engine.read(table, columns, where=where).to_pandas()

    @cached_property
    def gold_series(self) -> list[tuple[str, str, str]]:
        """(source system, study UID, series UID) of the gold rows, one a row."""
        return list(self.gold[list(_SERIES)].itertuples(index=False, name=None))

    @cached_property
    def person_ids(self) -> set[int]:
        """Ids of the patients of the date's studies."""
        walks = self.run.crosswalks
        return {person_id(s.source_system, s.patient_id, s.uid, walks) for s in self.studies}

    @cached_property
    def procedure_ids(self) -> set[int]:
        """Ids of the date's studies in OMOP."""
        return {procedure_occurrence_id(study.source_system, study.uid) for study in self.studies}

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
        rows = pa.Table.from_pandas(self.gold, preserve_index=False)
        found: Counter[str] = Counter()
        for kind, codes in unmapped(rows).items():
            for code, count in codes.items():
                found[f"{kind} {shown_code(code)}"] += count
        return dict(found)

    def by_modality(self) -> pd.DataFrame:
        """Counts the date's instances, series and studies by modality."""
        rows = self.instances.assign(modality=self.instances["modality"].map(shown_code))
        return (
            rows.groupby("modality")
            .agg(
                studies=("studyInstanceUid", "nunique"),
                series=("seriesInstanceUid", "nunique"),
                instances=("sopInstanceUid", "nunique"),
            )
            .reset_index()
        )

    def study_sizes(self) -> pd.DataFrame:
        """Counts the date's studies in silver by their number of series."""
        studies = Counter(key[:2] for key in self.silver_series)
        sizes = Counter(studies.values())
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
            files = _below(folder, self.organised.to_pandas())
            pairs = zip(files["sourceSystem"], files["filePath"], strict=True)
            return sum((system, one_name(path)) not in self.unread for system, path in pairs)
        instances = _below(folder, self.received)
        # what was deleted since, or has come elsewhere, was delivered all the same
        there = instances["sopInstanceUid"].isin(self._belonging_uids)
        if table == "ImagingStudy":
            wanted = set(instances.loc[there, "study"]) - set(self.silver["id"].to_pylist())
            return instances["study"].nunique() - len(wanted)
        if table == "Image_Occurrence":
            columns = list(_SERIES_KEYS)
            series = set(instances.loc[there, columns].itertuples(index=False, name=None))
            held = series - set(self.gold_series)
            return len(instances[columns].drop_duplicates()) - len(held)
        return len(instances)

    @cached_property
    def _belonging_uids(self) -> list[str]:
        """SOP Instance UIDs of the instances that stand where the date's files say."""
        here = ["sourceSystem", "studyInstanceUid", "seriesInstanceUid", "sopInstanceUid"]
        current = self.current.loc[~self.current["isDeleted"], here]
        return current.merge(self.instances[here].drop_duplicates())["sopInstanceUid"].tolist()

    def resent(self) -> Counter[str]:
        """Counts the date's instances with several files: `resent`, and `conflicting` ones."""
        return instances_sent_again(self.run, self.instances)

    def in_parts(self) -> dict[str, int]:
        """Counts the date's studies of which files of other dates were there before."""
        return studies_in_parts(self.run, self.instances)


def _below(folder: str, rows: pd.DataFrame) -> pd.DataFrame:
    return rows if not folder else rows.loc[rows["sourcePath"].str.startswith(f"{folder}/")]


def _file_key(source_system: str, path: str) -> int:
    """Returns a number for a file, plain or in its ZIP: of a date there may be millions."""
    return int_key(source_system, one_name(path))


def shown_code(value: str | None) -> str:
    """Returns a code of the terminology; else `other`, since people type names into any field."""
    if not value:
        return "none"
    return value if value in modality_concepts() or value in body_parts() else "other"


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
                names = [e.name for e in entries if e.is_file() and not e.name.startswith(".")]
            yield from ((system, name) for name in names)
