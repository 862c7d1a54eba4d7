"""Reconciliation: what each layer holds for one ingest date, counted from the layers themselves.

Decided here: what is counted and how. Not decided here: what must be equal
(`dicom_assets.defs.checks`) or how it is shown (`dicom_assets.cli`). Columns read are keys only,
and only those of the date's partition or of its studies.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import orjson
import pandas as pd
import pyarrow as pa

from dicom_assets.fhir.flatten import silver_id
from dicom_assets.fhir.imaging_study import resource_id
from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.layout import Layout, zip_name
from dicom_assets.omop.image_occurrence import SILVER_COLUMNS, unmapped
from dicom_assets.omop.person import person_id
from dicom_assets.omop.studies import procedure_occurrence_id, studies
from dicom_assets.steps import catalog
from dicom_assets.steps.run import Run

_KEYS = ("sourceSystem", "studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
_SERIES = ("sourceSystem", "image_study_uid", "image_series_uid")


@dataclass
class Day:
    """Counts of one ingest date; each is read when first asked for.

    Attributes:
        run: The lakehouse, the settings and the date.
    """

    run: Run

    @property
    def _tables(self) -> LocalEngine:
        return self.run.engine

    @cached_property
    def files(self) -> Counter[str]:
        """Files in Process: `total` and `zips`."""
        return Counter(
            total=len(self.names), zips=sum(name.endswith(".dcm.zip") for name in self.names)
        )

    @cached_property
    def names(self) -> list[str]:
        """Names of the files in Process."""
        return list(process_files(self.run.engine.layout, self.run.ingest_date))

    @cached_property
    def organised(self) -> int:
        """Rows of bronze/process_files."""
        table = catalog.PROCESS_FILES
        return self._tables.read(table, ["filePath"], ingest_date=self.run.ingest_date).num_rows

    @cached_property
    def failures(self) -> pd.DataFrame:
        """Failure rows: step, reasonCode, line."""
        table, columns = catalog.INGESTION_FAILURES, ["step", "reasonCode", "line"]
        return self._tables.read(table, columns, ingest_date=self.run.ingest_date).to_pandas()

    def unaccounted(self) -> dict[str, int]:
        """Counts rows without a file, and files without a row.

        A file counts once, be it plain, in its ZIP, both (a killed run), or moved to Failed.
        """
        layout, day = self.run.engine.layout, self.run.ingest_date
        rows = self._tables.read(
            catalog.PROCESS_FILES, ["filePath", "sourceSystem"], ingest_date=day
        ).to_pylist()
        known = {zip_name(Path(row["filePath"]).name): row for row in rows}
        lying = {name if name.endswith(".dcm.zip") else zip_name(name) for name in self.names}
        gone = [
            row
            for name, row in known.items()
            if name not in lying
            and not (
                layout.failed_folder(row["sourceSystem"], day) / Path(row["filePath"]).name
            ).exists()
        ]
        return {"rows_without_file": len(gone), "files_without_row": len(lying - set(known))}

    def failed(self, step: str) -> int:
        """Returns how many failures a step has."""
        return int((self.failures["step"] == step).sum())

    @cached_property
    def instances(self) -> pd.DataFrame:
        """Metastore rows: keys, modality, filePath, contentHash."""
        table = catalog.metastore(self.run.settings.promoted)
        columns = [*_KEYS, "modality", "filePath", "contentHash"]
        return self._tables.read(table, columns, ingest_date=self.run.ingest_date).to_pandas()

    @cached_property
    def study_ids(self) -> list[str]:
        """Silver id of the study of each metastore row."""
        pairs = self.instances[["sourceSystem", "studyInstanceUid"]].itertuples(index=False)
        return [silver_id(system, "ImagingStudy", resource_id(uid)) for system, uid in pairs]

    @cached_property
    def lines(self) -> list[str]:
        """Silver ids of the date's NDJSON lines, one a line."""
        found = []
        for system, path in self.run.engine.layout.fhir_files(self.run.ingest_date, "ImagingStudy"):
            with path.open("rb") as stream:
                for line in stream:
                    resource_id = _id(line)
                    if resource_id:
                        found.append(silver_id(system, "ImagingStudy", resource_id))
        return found

    @cached_property
    def bronze(self) -> pd.DataFrame:
        """bronze/ImagingStudy rows: silver id, filePath, lineNumber."""
        columns = ["sourceSystem", "id", "filePath", "lineNumber"]
        rows = self._tables.read(
            catalog.BRONZE_IMAGING_STUDY, columns, ingest_date=self.run.ingest_date
        ).to_pandas()
        pairs = zip(rows["sourceSystem"], rows["id"], strict=True)
        rows["id"] = [silver_id(system, "ImagingStudy", each) for system, each in pairs]
        return rows

    @cached_property
    def silver(self) -> pa.Table:
        """silver/ImagingStudy rows of the date's studies, with what gold is made of."""
        known = self.bronze["id"].unique().tolist()
        silver = catalog.silver_imaging_study()
        return self._tables.read(silver, SILVER_COLUMNS, where={"id": known})

    @cached_property
    def silver_series(self) -> dict[tuple[str, str, str], set[str]]:
        """(source system, study UID, series UID) of those studies → SOP Instance UIDs."""
        return {
            (study.source_system, study.uid, series["uid"]): {
                instance["uid"] for instance in series.get("instance", [])
            }
            for study in studies(self.silver)
            for series in orjson.loads(study.row["series_string"] or "[]")
        }

    @cached_property
    def gold(self) -> pd.DataFrame:
        """gold/Image_Occurrence rows of the date's studies."""
        uids = sorted({study for _, study, _ in self.silver_series})
        table = catalog.IMAGE_OCCURRENCE
        columns = [name for name in table.schema.names if name != "local_path"]
        found = self._tables.read(table, columns, where={"image_study_uid": uids}).to_pandas()
        studies = {key[:2] for key in self.silver_series}
        pairs = zip(found["sourceSystem"], found["image_study_uid"], strict=True)
        return found[pd.Series([pair in studies for pair in pairs], found.index, dtype=bool)]

    @cached_property
    def gold_series(self) -> list[tuple[str, str, str]]:
        """(source system, study UID, series UID) of the gold rows, one a row."""
        return list(self.gold[list(_SERIES)].itertuples(index=False, name=None))

    @cached_property
    def person_ids(self) -> set[int]:
        """Ids of the patients of the date's metastore rows."""
        table = catalog.metastore(self.run.settings.promoted)
        columns = ["sourceSystem", "patientId", "studyInstanceUid"]
        rows = self._tables.read(table, columns, ingest_date=self.run.ingest_date).to_pandas()
        crosswalks = self.run.crosswalks
        return {
            person_id(system, patient or None, study, crosswalks)
            for system, study, patient in rows[["sourceSystem", "studyInstanceUid", "patientId"]]
            .drop_duplicates()
            .itertuples(index=False)
        }

    @property
    def procedure_ids(self) -> set[int]:
        """Ids of the date's studies in silver."""
        return {procedure_occurrence_id(system, uid) for system, uid, _ in self.silver_series}

    def people(self, ids: set[int]) -> pd.DataFrame:
        """Returns the gold/person rows of some ids."""
        columns = ["person_id", "gender_concept_id"]
        return self._tables.read(catalog.PERSON, columns, where={"person_id": ids}).to_pandas()

    def procedures(self, ids: set[int]) -> pd.DataFrame:
        """Returns the gold/procedure_occurrence rows of some ids."""
        key = "procedure_occurrence_id"
        columns = [key, "procedure_type_concept_id", "person_id"]
        table = catalog.PROCEDURE_OCCURRENCE
        return self._tables.read(table, columns, where={key: ids}).to_pandas()

    def dangling(self) -> dict[str, int]:
        """Counts keys that gold points to and that the tables written here do not hold."""
        found = {}
        if self.run.settings.omop_person:
            ids = set(self.gold["person_id"].tolist())
            found["people"] = len(ids - set(self.people(ids)["person_id"]))
        if self.run.settings.omop_procedure_occurrence:
            ids = set(self.gold["procedure_occurrence_id"].tolist())
            found["procedures"] = len(ids - set(self.procedures(ids)["procedure_occurrence_id"]))
        return found

    def unmapped(self) -> dict[str, int]:
        """Counts the gold rows by code without a concept, as `modality XX`, `anatomic_site XX`."""
        rows = pa.Table.from_pandas(self.gold, preserve_index=False)
        return {
            f"{kind} {code}": count
            for kind, codes in unmapped(rows).items()
            for code, count in codes.items()
        }

    def by_modality(self) -> pd.DataFrame:
        """Counts the date's instances, series and studies by modality."""
        groups = self.instances.groupby("modality", dropna=False)
        return groups.agg(
            studies=("studyInstanceUid", "nunique"),
            series=("seriesInstanceUid", "nunique"),
            instances=("sopInstanceUid", "nunique"),
        ).reset_index()

    def study_sizes(self) -> pd.DataFrame:
        """Counts the date's studies in silver by their number of series."""
        studies = Counter(key[:2] for key in self.silver_series)
        sizes = Counter(studies.values())
        return pd.DataFrame(sorted(sizes.items()), columns=pd.Index(["series", "studies"]))

    @cached_property
    def manifest(self) -> dict[str, int]:
        """Counts that the newest manifest of the date declares, by table; empty without one."""
        folder = self.run.engine.layout.manifest_folder(self.run.ingest_date)
        found = sorted(folder.glob("*.json"), key=lambda path: int(path.name.split("_")[0]))
        return dict(json.loads(found[-1].read_bytes())["expected"]) if found else {}

    def actual(self) -> dict[str, int]:
        """Returns the counts a manifest can declare."""
        return {
            "process_files": self.organised,
            "dicomimagingmetastore": len(self.instances),
            "ImagingStudy": self.silver.num_rows,
            "Image_Occurrence": len(self.gold),
        }

    def resent(self) -> Counter[str]:
        """Counts the date's instances that came before: `resent` and, of those, `conflicting`.

        Earlier dates are read for the studies only that silver already knows.
        """
        keys = ["sourceSystem", "sopInstanceUid"]
        earlier = self._earlier_rows().assign(today=False)
        rows = pd.concat([earlier, self.instances.assign(today=True)], ignore_index=True)
        copies = rows.groupby(keys).agg(
            today=("today", "any"), sent=("today", "size"), contents=("contentHash", "nunique")
        )
        today = copies[copies["today"].astype(bool)]
        return Counter(
            resent=int((today["sent"] > 1).sum()), conflicting=int((today["contents"] > 1).sum())
        )

    def _earlier_rows(self) -> pd.DataFrame:
        """Returns other dates' rows of the date's studies that silver knows."""
        silver = catalog.silver_imaging_study()
        known = self._tables.read(silver, ["id"], where={"id": set(self.study_ids)})
        if not known.num_rows:
            return self.instances.iloc[:0]
        seen = set(known["id"].to_pylist())
        uids = zip(self.study_ids, self.instances["studyInstanceUid"], strict=True)
        rows = self._tables.read(
            catalog.metastore(self.run.settings.promoted),
            ["ingestDate", *self.instances.columns],
            where={"studyInstanceUid": {uid for each, uid in uids if each in seen}},
        ).to_pandas()
        return rows[rows.pop("ingestDate") != self.run.ingest_date]


def _id(line: bytes) -> str | None:
    """Returns a line's resource id; None where it has none, which is a failure already."""
    try:
        resource = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return resource.get("id") if isinstance(resource, dict) else None


def process_files(layout: Layout, day: date) -> Iterator[str]:
    """Yields the names of a date's organised files, of all source systems."""
    for folder in process_folders(layout, day):
        with os.scandir(folder) as entries:
            yield from (e.name for e in entries if e.is_file() and not e.name.startswith("."))


def process_folders(layout: Layout, day: date) -> list[Path]:
    """Returns a date's folders of organised files, of all source systems."""
    tail = f"{day:%Y/%m/%d}"
    root = layout.process_root
    return sorted(path for path in (root / tail, *root.glob(f"*/{tail}")) if path.is_dir())
