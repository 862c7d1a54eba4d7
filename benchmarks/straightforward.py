"""The pipeline that a good engineer writes in an afternoon, to measure ours against.

pydicom in a loop, `zipfile` with its defaults, pandas, `write_deltalake`, fhir.resources objects,
MERGE for silver and gold; writes are batched. It does what ours does of the contract: files are
moved under new names, each gets a ZIP of its own, all tags are kept as DICOM JSON beside the
promoted columns, studies become NDJSON, a silver and three gold tables. It leaves out what scripts
leave out: no exactly-once, no failures table, no checks, no metadata map. One process, as such
scripts are; `processes` spreads the loop over files all the same, so that nobody's second core is
hidden. Its parts are what the Spark job (`benchmarks.spark`) runs in its UDFs as well.
"""

import hashlib
import itertools
import json
import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pydicom
from deltalake import DeltaTable, write_deltalake
from fhir.resources.R4B.imagingstudy import ImagingStudy
from pydicom.multival import MultiValue

from dicom_assets.lakehouse.promoted import PROMOTED_TAGS

BATCH = 1000
MODALITIES = {"CR": 2128009189, "CT": 2128009190, "MR": 2128009230}
_KEYS = {
    "ImagingStudy": "id",
    "Image_Occurrence": "image_occurrence_id",
    "person": "person_id",
    "procedure_occurrence": "procedure_occurrence_id",
}
_DCM = "http://dicom.nema.org/resources/ontology/DCM"


def run(drop: Path, lakehouse: Path, *, processes: int = 1) -> dict[str, float]:
    """Runs drop folder → gold; returns the seconds of each stage."""
    clock = Clock()
    processed = lakehouse / "bronze/Files/Process" / f"{date.today():%Y/%m/%d}"
    processed.mkdir(parents=True, exist_ok=True)
    files = organise(drop, processed)
    clock.lap("organise")
    studies: dict[str, list[dict[str, Any]]] = {}
    for rows in _batches(read_all(files, processes)):
        table = lakehouse / "bronze/Tables/dicomimagingmetastore"
        write_deltalake(table, frame_of(rows), mode="append")
        for row in rows:
            studies.setdefault(row["studyInstanceUid"], []).append(row)
    clock.lap("extract")
    lines = [imaging_study(rows) for rows in studies.values()]
    ndjson = lakehouse / "bronze/Files/Process/FHIR/ImagingStudy.ndjson"
    ndjson.parent.mkdir(parents=True, exist_ok=True)
    ndjson.write_text("\n".join(lines) + "\n")
    bronze = pd.DataFrame({"resource": ndjson.read_text().splitlines()})
    bronze["id"] = [json.loads(line)["id"] for line in bronze["resource"]]
    bronze["filePath"] = str(ndjson)
    write_deltalake(lakehouse / "bronze/Tables/ImagingStudy", bronze, mode="append")
    clock.lap("fhir")
    silver = [silver_row(line) for line in bronze["resource"]]
    upsert(lakehouse / "silver/Tables/ImagingStudy", silver)
    clock.lap("silver")
    for name, rows in gold_rows(silver).items():
        upsert(lakehouse / "gold/Tables" / name, rows)
    clock.lap("gold")
    return clock.laps


class Clock:
    """Takes the time of stages."""

    def __init__(self) -> None:
        """Starts now."""
        self.laps: dict[str, float] = {}
        self._begin = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a stage."""
        now = time.perf_counter()
        self.laps[name] = now - self._begin
        self._begin = now


def organise(drop: Path, processed: Path) -> list[Path]:
    """Moves every file, and every member of every ZIP, into a folder under a name of its own."""
    stamp = itertools.count(int(time.time() * 1000))
    files = []
    for path in sorted(path for path in drop.rglob("*") if path.is_file()):
        if path.suffix == ".zip":
            files += extract_zip(path, processed, stamp)
            path.unlink()
        else:
            target = processed / f"{next(stamp)}_{path.name}"
            shutil.move(path, target)
            files.append(target)
    return files


def extract_zip(path: Path, processed: Path, stamp: Iterable[int]) -> list[Path]:
    """Writes every member of a ZIP into a folder under a name of its own."""
    files = []
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        for number, member in zip(stamp, members, strict=False):
            target = processed / f"{number}_{Path(member.filename).name}"
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            files.append(target)
    return files


def read_all(files: list[Path], processes: int) -> Iterable[dict[str, Any]]:
    """Reads and packs every file, in order."""
    if processes == 1:
        return map(read_and_pack, files)
    return _pooled(files, processes)


def _pooled(files: list[Path], processes: int) -> Iterable[dict[str, Any]]:
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(read_and_pack, files, chunksize=20)


def read_and_pack(path: Path) -> dict[str, Any]:
    """Returns the metastore's row of a file, and puts the file into a ZIP of its own."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    row: dict[str, Any] = {tag.column: _text(dataset.get(tag.keyword)) for tag in PROMOTED_TAGS}
    row["metadata_string"] = json.dumps(dataset.to_json_dict())
    row["transferSyntaxUid"] = str(dataset.file_meta.TransferSyntaxUID)
    row["fileSize"] = path.stat().st_size
    with path.open("rb") as stream:
        row["contentHash"] = hashlib.file_digest(stream, "sha256").hexdigest()
    packed = path.with_name(f"{path.name}.zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, path.name)
    path.unlink()
    row["filePath"] = str(packed)
    row["ingestDate"] = date.today()
    row["sourceSystem"] = "default"
    row["ingestedAt"] = datetime.now(UTC)
    return row


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else f"{value}"


def _batches(rows: Iterable[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch


def imaging_study(rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> str:
    """Returns a study's rows as a validated ImagingStudy, in JSON."""
    first = rows[0]
    series: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = series.setdefault(row["seriesInstanceUid"], _series(row))
        entry["instance"].append(
            {
                "uid": row["sopInstanceUid"],
                "number": int(row["instanceNumber"]),
                "sopClass": {
                    "system": "urn:ietf:rfc:3986",
                    "code": f"urn:oid:{row['sopClassUid']}",
                },
            }
        )
    for entry in series.values():
        entry["numberOfInstances"] = len(entry["instance"])
    uid = first["studyInstanceUid"]
    identifiers = [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}]
    if first["accessionNumber"]:
        identifiers.append({"value": first["accessionNumber"]})
    day = first["studyDate"]
    resource = {
        "id": uid,
        "meta": {"lastUpdated": datetime.now(UTC).isoformat()},
        "identifier": identifiers,
        "status": "available",
        "modality": [
            {"system": _DCM, "code": code} for code in sorted({row["modality"] for row in rows})
        ],
        "subject": {"type": "Patient", "identifier": {"value": first["patientId"]}},
        "started": f"{day[:4]}-{day[4:6]}-{day[6:8]}",
        "referrer": {"display": first["referringPhysicianName"]},
        "description": first["studyDescription"],
        "numberOfSeries": len(series),
        "numberOfInstances": len(rows),
        "series": list(series.values()),
    }
    return ImagingStudy(**resource).model_dump_json(exclude_none=True)


def _series(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "uid": row["seriesInstanceUid"],
        "number": int(row["seriesNumber"]),
        "modality": {"system": _DCM, "code": row["modality"]},
        "description": row["seriesDescription"],
        "bodySite": {"display": row["bodyPartExamined"]},
        "instance": [],
    }


def silver_row(line: str) -> dict[str, Any]:
    """Returns a resource flattened: scalars as columns, the rest as JSON text."""
    resource = json.loads(line)
    row = {
        "id": hashlib.sha256(f"default|ImagingStudy|{resource['id']}".encode()).hexdigest(),
        "idOrig": resource["id"],
        "sourceSystem": "default",
        "modifiedAt": datetime.now(UTC),
    }
    for name in ("status", "started", "description", "numberOfSeries", "numberOfInstances"):
        row[name] = resource.get(name)
    for name in ("meta", "identifier", "modality", "subject", "referrer", "series"):
        row[f"{name}_string"] = json.dumps(resource.get(name))
    return row


def gold_rows(silver: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of the gold tables, by table."""
    occurrences, persons, procedures = [], {}, []
    for study in silver:
        patient = json.loads(study["subject_string"])["identifier"]["value"]
        person, procedure = _key(patient), _key(study["idOrig"])
        day = date.fromisoformat(study["started"])
        audit = {"sourceSystem": "default", "modifiedAt": datetime.now(UTC)}
        persons[person] = {"person_id": person, "person_source_value": patient} | audit
        procedures.append(
            {
                "procedure_occurrence_id": procedure,
                "person_id": person,
                "procedure_date": day,
                "procedure_source_value": study["description"],
            }
            | audit
        )
        occurrences += [
            {
                "image_occurrence_id": _key(study["idOrig"], series["uid"]),
                "person_id": person,
                "procedure_occurrence_id": procedure,
                "image_occurrence_date": day,
                "image_study_uid": study["idOrig"],
                "image_series_uid": series["uid"],
                "modality_concept_id": MODALITIES.get(series["modality"]["code"], 0),
                "modality_source_value": series["modality"]["code"],
                "anatomic_site_source_value": series["bodySite"].get("display"),
            }
            | audit
            for series in json.loads(study["series_string"])
        ]
    return {
        "Image_Occurrence": occurrences,
        "person": list(persons.values()),
        "procedure_occurrence": procedures,
    }


def _key(*parts: str) -> int:
    digest = hashlib.sha256("|".join(("default", *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns rows as a frame, instants in microseconds: not every reader of Delta has finer."""
    frame = pd.DataFrame(rows)
    for name in frame.select_dtypes("datetimetz"):
        frame[name] = frame[name].dt.as_unit("us")
    return frame


def upsert(table: Path, rows: list[dict[str, Any]]) -> None:
    """Merges rows into a table by its key; makes the table the first time."""
    frame = frame_of(rows)
    key = _KEYS[table.name]
    if not DeltaTable.is_deltatable(str(table)):
        DeltaTable.create(table, pa.Table.from_pandas(frame, preserve_index=False).schema)
    (
        DeltaTable(table)
        .merge(frame, f"t.{key} = s.{key}", source_alias="s", target_alias="t")
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .execute()
    )
