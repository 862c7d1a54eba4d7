"""Corrections: what the operations that were asked for say of a file, a patient, a study.

Decided here: which files a delete or a restore is about (those that arrived before it and have all
the UIDs it gives), that the last of them holds, and that a change of patient stands for whatever
comes later, too. Not decided here: what an operation may say (`lakehouse.operations`), or what is
written because of one (`settle`, `convert`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import date, datetime
from itertools import product
from operator import itemgetter
from typing import Any

import pyarrow as pa

from dicom_assets.lakehouse.engine import LocalEngine
from dicom_assets.lakehouse.keys import stated
from dicom_assets.lakehouse.operations import WHAT
from dicom_assets.lakehouse.query import values_of
from dicom_assets.lakehouse.schemas import REQUIRED_TAGS
from dicom_assets.steps import catalog
from dicom_assets.steps.current_files import Row, StudyUid, instance_key, is_deleted

_COLUMNS = ("sourceSystem", *WHAT, "takenAt", "operationId")
_IN_ORDER = itemgetter("takenAt", "operationId")
_ABOUT = ("sourceSystem", *REQUIRED_TAGS)

Operation = dict[str, Any]


class Corrections:
    """All operations that were taken in, in their order."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        """Takes rows of bronze/operations with at least _COLUMNS."""
        self._deletes: defaultdict[tuple[Any, ...], list[Operation]] = defaultdict(list)
        self._changes: dict[str, list[Operation]] = {}
        self.reread_at = {each["takenAt"] for each in operations if each["operation"] == "reread"}
        for each in sorted(operations, key=_IN_ORDER):
            if each["operation"] in ("delete", "restore"):
                self._deletes[tuple(each[name] for name in _ABOUT)].append(each)
            elif each["operation"] == "change_patient":
                self._changes.setdefault(each["sourceSystem"], []).append(each)

    @property
    def systems(self) -> list[str]:
        """Source systems of which a patient was changed."""
        return list(self._changes)

    @property
    def has_deletes(self) -> bool:
        """Whether anything was ever deleted."""
        return bool(self._deletes)

    @classmethod
    def read(cls, engine: LocalEngine, *, before: Operation | None = None) -> "Corrections":
        """Reads them, or those before one of them; they are few, whatever the lakehouse holds."""
        rows = engine.read(catalog.OPERATIONS, _COLUMNS).to_pylist()
        return cls([each for each in rows if not before or _IN_ORDER(each) < _IN_ORDER(before)])

    def deleted_at(self, instance: Row) -> datetime | None:
        """Returns before which instant an instance's files must have arrived to be deleted."""
        if not self._deletes:
            return None
        said = [each for about in _about(instance) for each in self._deletes.get(about, ())]
        last = max(said, key=_IN_ORDER, default=None)
        return last["takenAt"] if last and last["operation"] == "delete" else None

    def is_deleted(self, instance: Row) -> bool:
        """Says whether an instance, with its arrivedAt, is deleted."""
        return is_deleted(instance | {"deletedAt": self.deleted_at(instance)})

    def patient_id(
        self, source_system: str, study_uid: str | None, patient_id: str | None
    ) -> str | None:
        """Returns the Patient ID that holds where a file of a study says one."""
        for change in self._changes.get(source_system, ()):
            is_about = change["studyInstanceUid"] in (None, study_uid)
            if is_about and stated(patient_id) == change["patientId"]:
                patient_id = change["newPatientId"]
        return patient_id

    def with_patients(self, rows: pa.Table) -> pa.Table:
        """Returns rows with sourceSystem, studyInstanceUid and patientId, that one as it holds."""
        if not self._changes:
            return rows
        told = values_of(rows, "sourceSystem", "studyInstanceUid", "patientId")
        place = rows.schema.get_field_index("patientId")
        held = pa.array([self.patient_id(*each) for each in told], pa.string())
        return rows.set_column(place, rows.schema.field(place), held)

    def studies_of(self, changes: Collection[Operation], studies: Collection[Row]) -> set[StudyUid]:
        """Returns those studies of silver/current_files that changes of patient are about."""
        found: set[StudyUid] = set()
        about = [(change, self.about_patients(change)) for change in changes]
        for row in studies:
            study = row["sourceSystem"], row["studyInstanceUid"]
            said = _patients(row)
            for change, patients in about:
                is_there = change["sourceSystem"] == study[0]
                if is_there and change["studyInstanceUid"] in (None, study[1]) and said & patients:
                    found.add(study)
        return found

    def said_by(self, source_system: str, patient_id: str) -> set[str]:
        """Returns the Patient IDs that files may say of a patient."""
        found = {patient_id}
        changes = self._changes.get(source_system, ())
        while more := {c["patientId"] for c in changes if c["newPatientId"] in found} - found:
            found |= more
        return found

    def about_patients(self, change: Operation) -> set[str]:
        """Returns the Patient IDs that files may say of whom a change of patient is about."""
        system = change["sourceSystem"]
        return self.said_by(system, change["patientId"]) | {change["newPatientId"]}


def new_operations(
    engine: LocalEngine, ingest_date: date, *, since: int | None, until: int
) -> list[Operation]:
    """Returns a date's operations that came after a version of bronze/operations."""
    return engine.table_of_new(
        catalog.OPERATIONS, _COLUMNS, since=since, until=until, ingest_date=ingest_date
    ).to_pylist()


def what_is_about(
    engine: LocalEngine, corrections: Corrections, operations: Collection[Operation]
) -> tuple[list[Row], set[StudyUid]]:
    """Returns what operations are about, as it stands.

    The table is walked, unless operations name instances: nobody corrects every day.

    Returns:
        The instances in silver/current_files that deletes and restores name, and the studies of
        these and of the patients that are changed.
    """
    instances = _instances(engine, operations)
    studies = {(row["sourceSystem"], row["studyInstanceUid"]) for row in instances}
    changes = [each for each in operations if each["operation"] == "change_patient"]
    if changes:
        studies |= corrections.studies_of(changes, stating_patients(engine))
        studies |= _said_by_files(engine, corrections, changes)
    return instances, studies


def _said_by_files(
    engine: LocalEngine, corrections: Corrections, changes: Collection[Operation]
) -> set[StudyUid]:
    """Returns the studies of which a file says one of the patients that are changed.

    What silver/current_files says that a study's files state is the newest of it, and the file that
    stated it may have been deleted since, or have come elsewhere.
    """
    said = {patient for change in changes for patient in corrections.about_patients(change)}
    columns = ["sourceSystem", "studyInstanceUid"]
    rows = engine.read(catalog.metastore(), columns, where={"patientId": said})
    about = {(each["sourceSystem"], each["studyInstanceUid"]) for each in changes}
    return {
        (system, uid)
        for system, uid in set(values_of(rows, *columns))
        if (system, uid) in about or (system, None) in about
    }


def stating_patients(engine: LocalEngine) -> list[Row]:
    """Returns all studies in silver/current_files, with what their files say."""
    columns = ["sourceSystem", "studyInstanceUid", "stated"]
    return engine.read(catalog.CURRENT_FILES, columns, where={"level": ["study"]}).to_pylist()


def _instances(engine: LocalEngine, operations: Collection[Operation]) -> list[Row]:
    """Returns the instances in silver/current_files that deletes and restores name."""
    table = catalog.CURRENT_FILES
    columns = table.upserted.names
    about = [each for each in operations if each["operation"] in ("delete", "restore")]
    named = {
        instance_key(each["sourceSystem"], each["sopInstanceUid"])
        for each in about
        if each["sopInstanceUid"]
    }
    found = {row["id"]: row for row in engine.read(table, columns, where={"id": named}).to_pylist()}
    for name in ("seriesInstanceUid", "studyInstanceUid"):
        uids = {each[name] for each in about if each[name] and not each["sopInstanceUid"]}
        where = {"level": ["instance"], name: uids}
        found |= {row["id"]: row for row in engine.read(table, columns, where=where).to_pylist()}
    given = {tuple(each[name] for name in _ABOUT) for each in about}
    return [row for row in found.values() if any(map(given.__contains__, _about(row)))]


def _patients(study: Row) -> set[str]:
    return {each["value"] for each in study["stated"] if each["attribute"] == "patientId"}


def _about(row: Row) -> Iterator[tuple[Any, ...]]:
    """Yields all that an operation may give to be about an instance."""
    uids = [row[name] for name in REQUIRED_TAGS]
    for given in product((True, False), repeat=len(uids)):
        some = (uid if is_given else None for uid, is_given in zip(uids, given, strict=True))
        yield row["sourceSystem"], *some
