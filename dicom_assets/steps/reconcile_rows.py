"""Reconciliation by numbers: an ingest date's rows, each a few integers instead of its texts.

Decided here: what stands for a file, an instance, a series, a study and a FHIR resource: 63 bits of
a hash, for the last four those of silver/current_files; so that the millions of rows that a date
may have take some 100 bytes each in memory. Only studies keep their ids in silver. Rows are read a
batch at a time. Not decided here: what is counted of them (`reconcile`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dicom_assets.fhir.flatten import silver_id
from dicom_assets.fhir.imaging_study import is_told
from dicom_assets.lakehouse.engine import Table
from dicom_assets.lakehouse.keys import int_key
from dicom_assets.lakehouse.layout import one_name
from dicom_assets.lakehouse.schemas import INGEST_DATE
from dicom_assets.omop.image_occurrence import unmapped
from dicom_assets.omop.person import person_id
from dicom_assets.omop.studies import (
    SERIES_COLUMN,
    STUDY_COLUMNS,
    procedure_occurrence_id,
    studies,
)
from dicom_assets.steps import catalog
from dicom_assets.steps.current_files import (
    StudyUid,
    instance_key,
    series_key,
    study_key,
    study_key_of,
)
from dicom_assets.steps.run import Run
from dicom_assets.terminology import body_parts, modality_concepts

SERIES = ["study", "series"]
PLACE = [*SERIES, "instance"]
"""Columns that say where an instance stands."""

UNKNOWN = -1
"""Stands for what has no key."""

_KEYS = ("sourceSystem", "studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
_OF_STUDY = ("resource", "study", "person_id", "procedure_occurrence_id")
_IN_GOLD = (
    "image_occurrence_id",
    "person_id",
    "procedure_occurrence_id",
    "modality_concept_id",
    "anatomic_site_concept_id",
)
_Columns = dict[str, Any]


class _Texts:
    """Numbers the texts of a column in which the same ones stand again and again."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def numbers(self, texts: Iterable[str]) -> NDArray[np.int32]:
        known = self._numbers
        return np.fromiter((known.setdefault(text, len(known)) for text in texts), np.int32)

    def column(self, numbers: NDArray[np.int32]) -> pd.Categorical:
        found = pd.Categorical.from_codes(numbers, list(self._numbers))
        return found.reorder_categories(sorted(self._numbers))


def organised(run: Run) -> pd.DataFrame:
    """Returns the date's rows of bronze/process_files.

    Returns:
        file: As `file_key`. place, folder: The folders of filePath and of sourcePath, categories.
    """
    texts = {"place": _Texts(), "folder": _Texts()}

    def numbered(batch: pa.RecordBatch) -> _Columns:
        systems, paths, sources = _lists(batch, "sourceSystem", "filePath", "sourcePath")
        return {
            "file": _keys(map(file_key, systems, paths)),
            "place": texts["place"].numbers(map(_folder, paths)),
            "folder": texts["folder"].numbers(map(_folder, sources)),
        }

    columns = ["sourceSystem", "filePath", "sourcePath"]
    batches = _of_date(run, catalog.PROCESS_FILES, columns)
    return _frame(batches, numbered, file="int64", place=texts["place"], folder=texts["folder"])


def organised_elsewhere(run: Run, lying: NDArray[np.int64]) -> Iterator[dict[str, str]]:
    """Yields the rows of bronze/process_files whose files are not among those that lie there."""
    columns = ["sourceSystem", "filePath", "sourcePath"]
    for batch in _of_date(run, catalog.PROCESS_FILES, columns):
        keys = _keys(map(file_key, *_lists(batch, "sourceSystem", "filePath")))
        yield from batch.filter(pa.array(~np.isin(keys, lying))).to_pylist()


def instances(run: Run, *, places: Collection[str]) -> pd.DataFrame:
    """Returns the date's rows of the metastore.

    Args:
        run: The lakehouse and the date.
        places: Folders in which files lie that were organised on the date.

    Returns:
        study, series, instance: Keys. path: Of filePath. content: Of the hash, or `UNKNOWN`.
        ingestedAt: Microseconds since 1970. isTold: Whether FHIR can hold the instance.
        isReceived: Whether its file came on the date. isZip: Whether that is compressed.
        modality: `shown_code`. folder: That of sourcePath. The last two are categories.
    """
    texts = {"modality": _Texts(), "folder": _Texts()}

    def numbered(batch: pa.RecordBatch) -> _Columns:
        systems, of_study, of_series, sops = _lists(batch, *_KEYS)
        paths, sources, modalities = _lists(batch, "filePath", "sourcePath", "modality")
        return {
            "study": _keys(map(study_key_of, systems, of_study)),
            "series": _keys(map(series_key, systems, of_series)),
            "instance": _keys(map(instance_key, systems, sops)),
            "path": _keys(map(int_key, paths)),
            "content": _keys(map(_content, batch["contentHash"].to_pylist())),
            "ingestedAt": micros(batch["ingestedAt"]),
            "isTold": np.fromiter(map(is_told, of_series, sops), bool),
            "isReceived": np.fromiter((_folder(path) in places for path in paths), bool),
            "isZip": np.fromiter((path.endswith(".dcm.zip") for path in paths), bool),
            "modality": texts["modality"].numbers(map(shown_code, modalities)),
            "folder": texts["folder"].numbers(map(_folder, sources)),
        }

    columns = [*_KEYS, "modality", "filePath", "sourcePath", "contentHash", "ingestedAt"]
    numbers = dict.fromkeys([*PLACE, "path", "content", "ingestedAt"], "int64")
    flags = dict.fromkeys(["isTold", "isReceived", "isZip"], "bool")
    batches = _of_date(run, run.metastore, columns)
    return _frame(batches, numbered, **numbers, **flags, **texts)


def instances_of_others(run: Run, others: Mapping[StudyUid, Collection[date]]) -> pd.DataFrame:
    """Returns metastore rows of some studies on other dates.

    Args:
        run: The lakehouse.
        others: The studies → the dates.

    Returns:
        study, instance, path, content, ingestedAt: As `instances`. isEarlier: Whether they came on
        an earlier date.
    """

    def numbered(batch: pa.RecordBatch) -> _Columns:
        systems, of_study, sops, paths, contents, days = _lists(batch, *columns[:-1])
        return {
            "study": _keys(map(study_key_of, systems, of_study)),
            "instance": _keys(map(instance_key, systems, sops)),
            "path": _keys(map(int_key, paths)),
            "content": _keys(map(_content, contents)),
            "ingestedAt": micros(batch["ingestedAt"]),
            "isEarlier": np.fromiter((day < run.ingest_date for day in days), bool),
        }

    columns = ["sourceSystem", "studyInstanceUid", "sopInstanceUid", "filePath", "contentHash"]
    columns += [INGEST_DATE, "ingestedAt"]
    where = {
        INGEST_DATE: set().union(*others.values()),
        "studyInstanceUid": {uid for _, uid in others},
    }
    batches = run.engine.stream(run.metastore, columns, where=where)
    numbers = dict.fromkeys(["study", "instance", "path", "content", "ingestedAt"], "int64")
    return _frame(batches, numbered, **numbers, isEarlier="bool")


def external(run: Run) -> pd.DataFrame:
    """Returns the date's rows of bronze/external_files.

    Returns:
        path: Key of filePath. state: A category. ingestedAt: foundAt, microseconds since 1970.
    """
    texts = _Texts()

    def numbered(batch: pa.RecordBatch) -> _Columns:
        return {
            "path": _keys(map(int_key, batch["filePath"].to_pylist())),
            "ingestedAt": micros(batch["foundAt"]),
            "state": texts.numbers(batch["state"].to_pylist()),
        }

    batches = _of_date(run, catalog.EXTERNAL_FILES, ["filePath", "state", "foundAt"])
    return _frame(batches, numbered, path="int64", ingestedAt="int64", state=texts)


def current(run: Run, wanted: NDArray[np.int64]) -> pd.DataFrame:
    """Returns where instances stand by silver/current_files.

    Args:
        run: The lakehouse.
        wanted: Keys of the instances.

    Returns:
        study, series, instance, isDeleted.
    """

    def numbered(batch: pa.RecordBatch) -> _Columns:
        systems, of_study, of_series = _lists(batch, *_KEYS[:3])
        is_deleted = pc.call_function("less", [batch["arrivedAt"], batch["deletedAt"]])
        return {
            "study": _keys(map(study_key_of, systems, of_study)),
            "series": _keys(map(series_key, systems, of_series)),
            "instance": batch["id"].to_numpy(),
            "isDeleted": is_deleted.fill_null(False).to_numpy(zero_copy_only=False),
        }

    columns = ["id", *_KEYS[:3], "arrivedAt", "deletedAt"]
    batches = run.engine.stream(catalog.CURRENT_FILES, columns, where={"id": wanted.tolist()})
    return _frame(batches, numbered, **dict.fromkeys(PLACE, "int64"), isDeleted="bool")


@dataclass(frozen=True, slots=True)
class KnownStudy:
    """A study of which silver/current_files says more than that it came on one date.

    Attributes:
        uid: Source system and Study Instance UID.
        whole_at: As of when it is to be written whole, if so.
        other_dates: Ingest dates of other files of it.
    """

    uid: StudyUid
    whole_at: datetime | None
    other_dates: frozenset[date]


def known_studies(run: Run, wanted: Iterable[int]) -> list[KnownStudy]:
    """Returns those of some studies, by their keys, that have other dates or are written whole."""
    columns = ["sourceSystem", "studyInstanceUid", "wholeAt", "ingestDates"]
    found = []
    where = {"id": list(wanted)}
    for batch in run.engine.stream(catalog.CURRENT_FILES, columns, where=where):
        for system, uid, whole_at, days in zip(*_lists(batch, *columns), strict=True):
            others = frozenset(days) - {run.ingest_date}
            if others or whole_at:
                found.append(KnownStudy((system, uid), whole_at, others))
    return found


def lines(run: Run, bad: Collection[tuple[str, int]]) -> tuple[pd.DataFrame, list[str]]:
    """Returns the date's rows of bronze/ImagingStudy.

    Args:
        run: The lakehouse and the date.
        bad: File and number of lines that are no valid ImagingStudy.

    Returns:
        A row for each line: resource: Its key, `UNKNOWN` where it has no id or is bad. lineNumber.
        filePath, sourceSystem: Categories. And the resources' ids in silver.
    """
    texts = {"filePath": _Texts(), "sourceSystem": _Texts()}
    ids: dict[int, str] = {}

    def numbered(batch: pa.RecordBatch) -> _Columns:
        keys = np.full(batch.num_rows, UNKNOWN, np.int64)
        systems, own_ids, paths, numbers = _lists(batch, *columns)
        rows = zip(systems, own_ids, paths, numbers, strict=True)
        for place, (system, own_id, path, number) in enumerate(rows):
            if own_id and (path, number) not in bad:
                key = keys[place] = study_key(system, own_id)
                ids[key] = silver_id(system, "ImagingStudy", own_id)
        return {
            "resource": keys,
            "lineNumber": batch["lineNumber"].to_numpy(),
            "filePath": texts["filePath"].numbers(paths),
            "sourceSystem": texts["sourceSystem"].numbers(systems),
        }

    columns = ["sourceSystem", "id", "filePath", "lineNumber"]
    batches = _of_date(run, catalog.BRONZE_IMAGING_STUDY, columns)
    found = _frame(batches, numbered, resource="int64", lineNumber="int64", **texts)
    return found, sorted(ids.values())


def resources(run: Run, wanted: Collection[int]) -> set[tuple[str, str]]:
    """Returns source system and id of those of the date's lines that have one of some keys."""
    found: set[tuple[str, str]] = set()
    for batch in _of_date(run, catalog.BRONZE_IMAGING_STUDY, ["sourceSystem", "id"]):
        pairs = zip(*_lists(batch, "sourceSystem", "id"), strict=True)
        found |= {each for each in pairs if each[1] and study_key(*each) in wanted}
    return found


@dataclass(frozen=True, slots=True)
class Silver:
    """Rows of silver/ImagingStudy.

    Attributes:
        studies: A row for each: resource, study (keys), person_id, procedure_occurrence_id.
        series: study, series; each once.
        instances: study, series, instance; each once.
    """

    studies: pd.DataFrame
    series: pd.DataFrame
    instances: pd.DataFrame


class _Instance(msgspec.Struct):
    uid: str


class _Series(msgspec.Struct):
    uid: str
    instance: list[_Instance] = []


_SERIES = msgspec.json.Decoder(list[_Series])


def silver(run: Run, ids: Collection[str]) -> Silver:
    """Returns silver's rows of some studies, by their ids there."""
    of_series: list[pd.DataFrame] = []
    of_instances: list[pd.DataFrame] = []

    def numbered(batch: pa.RecordBatch) -> _Columns:
        found: dict[str, list[int]] = {name: [] for name in _OF_STUDY}
        series, inner = [], []
        for study in studies(pa.Table.from_batches([batch])):
            system, key = study.source_system, study_key_of(study.source_system, study.uid)
            found["resource"].append(study_key(system, study.row["idOrig"]))
            found["study"].append(key)
            found["person_id"].append(
                person_id(system, study.patient_id, study.uid, run.crosswalks)
            )
            found["procedure_occurrence_id"].append(procedure_occurrence_id(system, study.uid))
            for each in _SERIES.decode(study.row[SERIES_COLUMN] or "[]"):
                place = key, series_key(system, each.uid)
                series.append(place)
                inner += [(*place, instance_key(system, one.uid)) for one in each.instance]
        of_series.append(_places(series, SERIES))
        of_instances.append(_places(inner, PLACE))
        return {name: _keys(keys) for name, keys in found.items()}

    table = catalog.silver_imaging_study()
    batches = run.engine.stream(table, STUDY_COLUMNS, where={"id": ids})
    rows = _frame(batches, numbered, **dict.fromkeys(_OF_STUDY, "int64"))
    return Silver(
        rows,
        pd.concat([_places([], SERIES), *of_series]).drop_duplicates(),
        pd.concat([_places([], PLACE), *of_instances]).drop_duplicates(),
    )


def gold(run: Run, ids: Collection[str]) -> tuple[pd.DataFrame, Counter[str]]:
    """Returns gold's Image_Occurrence rows of some studies, by their ids in silver.

    Returns:
        study, series: Keys. image_occurrence_id, person_id, procedure_occurrence_id. isDated:
        Whether it has a date. modality_source_value: `shown_code`, a category.
        modality_concept_id, anatomic_site_concept_id. And how many rows have a code without
        a concept, as `modality XX`, `anatomic_site XX`.
    """
    texts, without = _Texts(), Counter[str]()

    def numbered(batch: pa.RecordBatch) -> _Columns:
        for kind, codes in unmapped(pa.Table.from_batches([batch])).items():
            for code, count in codes.items():
                without[f"{kind} {shown_code(code)}"] += count
        systems, of_study, of_series, modalities = _lists(
            batch, "sourceSystem", "image_study_uid", "image_series_uid", "modality_source_value"
        )
        return {
            "study": _keys(map(study_key_of, systems, of_study)),
            "series": _keys(map(series_key, systems, of_series)),
            **{name: batch[name].to_numpy(zero_copy_only=False) for name in _IN_GOLD},
            "isDated": batch["image_occurrence_date"].is_valid().to_numpy(zero_copy_only=False),
            "modality_source_value": texts.numbers(map(shown_code, modalities)),
        }

    columns = [name for name in catalog.IMAGE_OCCURRENCE.schema.names if name != "local_path"]
    where = {"sourceRecordId": ids}
    batches = run.engine.stream(catalog.IMAGE_OCCURRENCE, columns, where=where)
    numbers = dict.fromkeys([*SERIES, *_IN_GOLD], "int64")
    found = _frame(batches, numbered, **numbers, isDated="bool", modality_source_value=texts)
    return found, without


def absent(rows: pd.DataFrame, others: pd.DataFrame, *, on: list[str]) -> pd.DataFrame:
    """Returns, of some columns, the distinct rows that are not among others."""
    both = pd.concat([others.loc[:, on], rows.loc[:, on]], ignore_index=True)
    return both.loc[~both.duplicated().to_numpy() & (both.index >= len(others))]


def file_key(source_system: str, path: str) -> int:
    """Returns the key of an organised file, plain or in its ZIP, wherever it lies."""
    return int_key(source_system, one_name(path))


def micros(instants: Iterable[datetime] | pa.Array) -> NDArray[np.int64]:
    """Returns instants as microseconds since 1970."""
    return pa.array(instants, pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()


def shown_code(value: str | None) -> str:
    """Returns a code of the terminology; else `other`, since people type names into any field."""
    if not value:
        return "none"
    return value if value in modality_concepts() or value in body_parts() else "other"


def _of_date(run: Run, table: Table, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return run.engine.stream(table, columns, where={INGEST_DATE: [run.ingest_date]})


def _frame(
    batches: Iterable[pa.RecordBatch],
    numbered: Callable[[pa.RecordBatch], _Columns],
    **types: str | _Texts,
) -> pd.DataFrame:
    """Puts batches together, each made into numbers."""
    parts = [numbered(batch) for batch in batches]
    found: _Columns = {}
    for name, kind in types.items():
        dtype = "int32" if isinstance(kind, _Texts) else kind
        # safe: no number is made of what is missing
        pieces = [part.pop(name).astype(dtype, casting="safe", copy=False) for part in parts]
        numbers = np.concatenate(pieces) if pieces else np.empty(0, dtype)
        found[name] = kind.column(numbers) if isinstance(kind, _Texts) else numbers
    return pd.DataFrame(found)


def _places(rows: list[tuple[int, ...]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(columns), dtype="int64")


def _lists(batch: pa.RecordBatch, *names: str) -> list[list[Any]]:
    return [batch[name].to_pylist() for name in names]


def _keys(keys: Iterable[int]) -> NDArray[np.int64]:
    return np.fromiter(keys, np.int64)


def _content(content_hash: str | None) -> int:
    return int(content_hash[:15], 16) if content_hash else UNKNOWN


def _folder(path: str | None) -> str:
    return (path or "").rpartition("/")[0]
