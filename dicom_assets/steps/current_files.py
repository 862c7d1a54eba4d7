"""Which file speaks for each instance, series and study: the newest, by arrival.

Decided here: the rule, and what two files contradict each other in. Files count by when they were
taken in, then by modification time, content and path, so that the same files in any order give the
same answer; a file that is read again has not arrived again. A study is one to be written whole
when an instance left it or came to it from another, when a file of it is taken in here after one
that arrived later, when a file is read again, or when its patient changed: then nothing that was
written of it before counts, and from then on it is always written so, each time as of a later
instant.
Not decided here: how files and rows are read and written (`settle`).
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

from dicom_assets.fhir.imaging_study import resource_id
from dicom_assets.lakehouse.keys import int_key, stated
from dicom_assets.lakehouse.schemas import CURRENT_FILES, REQUIRED_TAGS

ATTRIBUTES = (
    "patientId",
    "patientBirthDate",
    "patientSex",
    "accessionNumber",
    "studyDate",
    "studyTime",
    "studyDescription",
    "referringPhysicianName",
)
"""Columns that should be the same in all files of a study."""

FILE = (
    "ingestDate",
    "sourceSystem",
    *REQUIRED_TAGS,
    *ATTRIBUTES,
    "filePath",
    "contentHash",
    "version",
    "ingestedAt",
    "sourceModifiedAt",
)
"""Metastore columns that `Settling` takes."""

ARRIVAL = ("arrivedAt", "sourceModifiedAt", "contentHash", "filePath")
"""By what files are ordered, the newest last; see `arrival`."""

_OF_FILE = ("filePath", "contentHash", "version", "sourceModifiedAt")
_WHEN = ("filePath", "contentHash", "arrivedAt", "sourceModifiedAt")
_IN_INSTANCES = ("studyInstanceUid", "seriesInstanceUid", "contentHash")
COMPARED = (*_IN_INSTANCES, *ATTRIBUTES)
"""In what files may contradict each other: `attribute` of silver/conflicts."""

_NEVER = datetime.fromtimestamp(0, UTC)
_TICK = timedelta(microseconds=1)

Row = dict[str, Any]
StudyUid = tuple[str, str]
"""Source system and Study Instance UID."""


def instance_key(source_system: str, sop_uid: str) -> int:
    """Returns the key of an instance in silver/current_files."""
    return int_key("instance", source_system, sop_uid)


@lru_cache(maxsize=1024)  # the files of a series come together
def series_key(source_system: str, series_uid: str) -> int:
    """Returns the key of a series in silver/current_files."""
    return int_key("series", source_system, series_uid)


def study_key(source_system: str, resource: str) -> int:
    """Returns the key of a study in silver/current_files, from its resource's id."""
    return int_key("study", source_system, resource)


@lru_cache(maxsize=1024)
def study_key_of(source_system: str, study_uid: str) -> int:
    """Returns the same from its Study Instance UID."""
    return study_key(source_system, resource_id(study_uid))


def keys_of(file: Row) -> tuple[int, int, int]:
    """Returns the keys of a file's instance, series and study."""
    system, study, series, instance = (file[name] for name in ("sourceSystem", *REQUIRED_TAGS))
    return instance_key(system, instance), series_key(system, series), study_key_of(system, study)


def is_deleted(instance: Row) -> bool:
    """Says whether an instance of silver/current_files is deleted."""
    return instance["deletedAt"] is not None and instance["arrivedAt"] < instance["deletedAt"]


def arrival(row: Row) -> tuple[datetime, datetime, str, str]:
    """Orders files by arrival, metastore rows or others; what is not known is oldest."""
    arrived_at = row["arrivedAt"] if "arrivedAt" in row else row["ingestedAt"]
    modified = row["sourceModifiedAt"] or _NEVER
    return arrived_at, modified, row["contentHash"] or "", row["filePath"]


def first_seen(rows: Iterable[Row]) -> dict[tuple[str, str | None], datetime]:
    """Returns path and version of files → when they were taken in, by all their metastore rows."""
    found: dict[tuple[str, str | None], datetime] = {}
    for row in rows:
        file, at = (row["filePath"], row["version"]), row["ingestedAt"]
        found[file] = min(at, found.get(file, at))
    return found


class Settling:
    """Takes files in and holds which rows of silver/current_files change, and the conflicts."""

    def __init__(self, known: Iterable[Row]) -> None:
        """Starts from known rows: those of the files' keys, and of the studies these stand in."""
        self._rows = {row["id"]: row for row in known}
        self._before = {key: dict(row) for key, row in self._rows.items()}
        self._conflicts: dict[int, Row] = {}

    @property
    def changed(self) -> list[Row]:
        """The rows that are not what they were."""
        return [row for key, row in self._rows.items() if row != self._before.get(key)]

    @property
    def keys(self) -> set[int]:
        """The keys of all rows that are known now."""
        return set(self._rows)

    @property
    def conflicts(self) -> list[Row]:
        """Rows of silver/conflicts."""
        return list(self._conflicts.values())

    def take(self, files: Iterable[Row]) -> None:
        """Takes files (FILE), in any order.

        Of a file that has been read again, arrivedAt says when it was taken in.
        """
        studies: dict[tuple[Any, ...], tuple[int, Row]] = {}
        whole: list[tuple[int, datetime]] = []
        for row in sorted(files, key=lambda file: (arrival(file), file["ingestedAt"])):
            file = {"arrivedAt": row["ingestedAt"]} | row
            instance, series, study = keys_of(file)
            held = self._rows.get(instance)
            if held and _is_same_file(file, held):
                file["arrivedAt"] = min(held["arrivedAt"], file["arrivedAt"])
            # of files that say the same of a study, the last one speaks for all
            told = (study, file["arrivedAt"], file["ingestDate"], *map(file.get, ATTRIBUTES))
            studies.pop(told, None)
            studies[told] = study, file
            self._take_series(series, file)
            whole += self._take_instance(instance, file)
            if file["arrivedAt"] != file["ingestedAt"]:
                whole.append((study, file["arrivedAt"]))
        for study, file in studies.values():
            self._take_study(study, file)
        for study, at in whole:
            self.whole(study, at)

    def whole(self, study: int, at: datetime) -> None:
        """Says that a study is to be written whole.

        Args:
            study: Its key.
            at: Why, or later: whatever was said of it before was said as of an earlier instant.
        """
        row = self._rows[study]
        row["wholeAt"] = max(at, max(row["wholeAt"] or at, row["arrivedAt"]) + _TICK)

    def instances(self) -> Iterable[Row]:
        """Yields the instances, to be changed in place."""
        return (row for row in self._rows.values() if row["level"] == "instance")

    def _take_instance(self, key: int, file: Row) -> list[tuple[int, datetime]]:
        """Takes one in; returns the studies that are to be written whole because of it."""
        new: Row = _row(key, "instance", file) | {"otherStudies": []}
        held = self._rows.get(key)
        if held is None:
            self._rows[key] = new
            return []
        newer, older = _newer_first(new, held)
        if not _is_same_file(new, held):
            for attribute in _IN_INSTANCES:
                self._compare(attribute, _said(newer, attribute), _said(older, attribute), newer)
        studies = {new["studyInstanceUid"], held["studyInstanceUid"]}
        others = studies | set(held["otherStudies"] or ())
        self._rows[key] = newer | {
            "otherStudies": sorted(others - {newer["studyInstanceUid"]}),
            "deletedAt": held["deletedAt"],
        }
        if len(studies) == 1 and newer is new:
            return []
        system = file["sourceSystem"]
        return [(study_key_of(system, uid), newer["arrivedAt"]) for uid in studies]

    def _take_series(self, key: int, file: Row) -> None:
        new = _row(key, "series", file) | {"sopInstanceUid": None}
        held = self._rows.get(key)
        newer, older = _newer_first(new, held or new)
        attribute = "studyInstanceUid"
        self._compare(attribute, _said(newer, attribute), _said(older, attribute), newer)
        self._rows[key] = newer

    def _take_study(self, key: int, file: Row) -> None:
        new = _row(key, "study", file) | {"sopInstanceUid": None, "seriesInstanceUid": None}
        held = self._rows.get(key)
        said = {each["attribute"]: each for each in held["stated"] or ()} if held else {}
        is_late = held is not None and new["arrivedAt"] < held["arrivedAt"]
        is_other_patient = False
        for attribute in ATTRIBUTES:
            if not (value := stated(file.get(attribute))):
                continue
            told = {"attribute": attribute, "value": value}
            told |= {name: file[name] for name in _WHEN}
            newer, older = _newer_first(told, said.get(attribute, told))
            said[attribute] = newer
            self._compare(attribute, newer, older, new)
            is_other_patient |= attribute == "patientId" and newer["value"] != older["value"]
        dates: set[date] = set(held["ingestDates"] if held else ())
        newer, _ = _newer_first(new, held or new)
        self._rows[key] = newer | {
            "ingestDates": sorted(dates | {file["ingestDate"]}),
            "wholeAt": held["wholeAt"] if held else None,
            "stated": [said[attribute] for attribute in ATTRIBUTES if attribute in said],
        }
        # of two whole statements the one that knows this file is to be the later one
        if is_late or is_other_patient or self._rows[key]["wholeAt"]:
            self.whole(key, self._rows[key]["arrivedAt"])

    def _compare(self, attribute: str, newer: Row, older: Row, about: Row) -> None:
        """Adds a conflict, if both say something and not the same."""
        values = newer["value"], older["value"]
        if None in values or values[0] == values[1]:
            return
        level, system = about["level"], about["sourceSystem"]
        uid = next(filter(None, (about[name] for name in reversed(REQUIRED_TAGS))))
        key = int_key("conflict", level, system, uid, attribute, *sorted(values))
        self._conflicts[key] = {
            "id": key,
            **{name: about[name] for name in ("level", "sourceSystem", *REQUIRED_TAGS)},
            "attribute": attribute,
            "newerValue": values[0],
            "newerPath": newer["filePath"],
            "newerArrivedAt": newer["arrivedAt"],
            "olderValue": values[1],
            "olderPath": older["filePath"],
            "olderArrivedAt": older["arrivedAt"],
        }


def known_studies(instances: Iterable[Row]) -> set[int]:
    """Returns the keys of the studies that instances of silver/current_files stood in."""
    return {
        study_key_of(row["sourceSystem"], uid)
        for row in instances
        if row["level"] == "instance"
        for uid in (row["studyInstanceUid"], *(row["otherStudies"] or ()))
    }


_EMPTY = dict.fromkeys(CURRENT_FILES.names)


def _row(key: int, level: str, file: Row) -> Row:
    names = ("sourceSystem", *REQUIRED_TAGS, *_OF_FILE, "arrivedAt")
    return _EMPTY | {"id": key, "level": level} | {name: file[name] for name in names}


def _is_same_file(one: Row, other: Row) -> bool:
    return one["filePath"] == other["filePath"] and one["version"] == other["version"]


def _said(row: Row, attribute: str) -> Row:
    return {"value": row[attribute], **{name: row[name] for name in _WHEN}}


def _newer_first(new: Row, held: Row) -> tuple[Row, Row]:
    """Returns both, the newer first; of the same file the new row."""
    return (new, held) if arrival(new) >= arrival(held) else (held, new)
