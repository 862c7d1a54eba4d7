"""Operations: corrections that somebody asks for, as JSON.

Decided here: what an operation may say, which file of the drop folder holds some, how one is told
from another, and how a wrong one is described: without its values, which may be a patient's. Not
decided here: when it is taken in (`dicom_assets.steps.organise`) or what it does (`steps.reread`;
for the others the steps that make silver and gold).
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from dicom_assets.lakehouse.keys import hex_key
from dicom_assets.lakehouse.layout import DEFAULT_SOURCE_SYSTEM, OPERATIONS_FOLDER

MAX_BYTES = 8 << 20
"""A longer file is refused: some twenty thousand operations."""

# one line, no white space around it, nothing that a terminal would act on
_LINE = r"^(?!\s)[^\x00-\x1f\x7f-\x9f\u2028\u2029]+(?<!\s)\Z"
_Name = Annotated[str, Meta(pattern=_LINE, max_length=256)]
_Uid = _Name  # what files say may be no UID by PS3.5 9, and is to be corrected all the same
_Text = Annotated[str, Meta(pattern=_LINE, max_length=4096)]

_EXPECTED = {
    "operation": "delete, restore, reread or change_patient",
    "studyInstanceUid": "a UID as files say it: one line, at most 256 characters",
    "seriesInstanceUid": "a UID as files say it: one line, at most 256 characters",
    "sopInstanceUid": "a UID as files say it: one line, at most 256 characters",
    "patientId": "a Patient ID: one line, at most 256 characters",
    "newPatientId": "a Patient ID: one line, at most 256 characters",
    "requestedBy": "who asks for it: one line, at most 256 characters",
    "reason": "why: one line, at most 4096 characters",
    "id": "a text of one line, at most 256 characters",
}
_PLACE = re.compile(r"\$(?:\[(\d+)\])?(?:\.(\w+))?")
_UIDS = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
WHAT = ("operation", *_UIDS, "patientId", "newPatientId")
"""Columns of `schemas.OPERATIONS` that say what is to be done, to what."""


class OperationError(ValueError):
    """A file holds no operations, or a wrong one. The message quotes nothing of it."""


class Operation(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """One correction.

    Attributes:
        operation: What is to be done.
        requestedBy: Who asks for it.
        reason: Why.
        studyInstanceUid: The study; with a series or an instance, the one that holds it.
        seriesInstanceUid: The series; with an instance, the one that holds it.
        sopInstanceUid: The instance.
        patientId: change_patient: the Patient ID that is wrong.
        newPatientId: change_patient: the one that holds.
        id: Its own id; the same one again is the same operation.
    """

    operation: Literal["delete", "restore", "reread", "change_patient"]
    requestedBy: _Name
    reason: _Text
    studyInstanceUid: _Uid | UnsetType = UNSET
    seriesInstanceUid: _Uid | UnsetType = UNSET
    sopInstanceUid: _Uid | UnsetType = UNSET
    patientId: _Name | UnsetType = UNSET
    newPatientId: _Name | UnsetType = UNSET
    id: _Name | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Checks that it names what it is about, and nothing else.

        Raises:
            ValueError: It does not.
        """
        if self.operation != "change_patient":
            if not self.uids:
                raise ValueError(f"{self.operation} needs one of {', '.join(_UIDS)}")
            if self.patientId is not UNSET or self.newPatientId is not UNSET:
                raise ValueError(f"{self.operation} takes no patientId and no newPatientId")
            return
        if self.patientId is UNSET or self.newPatientId is UNSET:
            raise ValueError("change_patient needs patientId and newPatientId")
        if self.patientId == self.newPatientId:
            raise ValueError("patientId and newPatientId are the same")
        if not set(self.uids) <= {"studyInstanceUid"}:
            raise ValueError("change_patient is about a patient, or one study of a patient")

    @property
    def uids(self) -> dict[str, str]:
        """Column → UID, of those that are given; a row it is about has all of them."""
        return {name: uid for name in _UIDS if (uid := getattr(self, name)) is not UNSET}

    def key(self, *asked: str) -> str:
        """Returns its id.

        Args:
            asked: How it was asked for: of one without an id, a text that is the same only when
                the same file comes again, so that asking twice on purpose is possible.
        """
        return self.id if self.id is not UNSET else hex_key(self.text.decode(), *asked)

    @property
    def text(self) -> bytes:
        """The operation as JSON."""
        return msgspec.json.encode(self)


_DECODER = msgspec.json.Decoder(Operation | list[Operation])


def holds_operations(source_path: str, source_system: str) -> bool:
    """Says whether a file, addressed within the drop folder, is one of operations by its place."""
    if not source_path.lower().endswith(".json"):
        return False
    is_default = source_system == DEFAULT_SOURCE_SYSTEM
    expected = OPERATIONS_FOLDER if is_default else f"{source_system}/{OPERATIONS_FOLDER}"
    return source_path.rpartition("/")[0] == expected


def parse(content: bytes) -> list[Operation]:
    """Returns the operations of a file: one JSON object, or an array of them.

    Raises:
        OperationError: One of them is not valid; then none of them counts.
    """
    try:
        found = _DECODER.decode(content.removeprefix(b"\xef\xbb\xbf"))
    except msgspec.ValidationError as error:
        raise OperationError(_described(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise OperationError("not JSON in UTF-8") from None
    json.loads(content, object_pairs_hook=_without_double)
    operations = found if isinstance(found, list) else [found]
    if not operations:
        raise OperationError("an array without operations")
    return operations


def are_in(content: bytes) -> bool:
    """Says whether a file, of whatever place, holds operations."""
    try:
        return bool(parse(content))
    except OperationError:
        return False


def _without_double(fields: list[tuple[str, Any]]) -> None:
    """Raises OperationError where a field is there twice: of what it says, one is not meant."""
    if len(dict(fields)) < len(fields):
        raise OperationError("a field is there twice")


def operation(**values: str) -> Operation:
    """Returns an operation with the given fields.

    Raises:
        OperationError: It is not valid.
    """
    return parse(msgspec.json.encode(values))[0]


def rows(
    operations: Sequence[Operation], *, source_path: str, modified_us: int
) -> Iterator[dict[str, Any]]:
    """Yields what `schemas.OPERATIONS` says of each, but for when and from where it came.

    Args:
        operations: All operations of a file.
        source_path: The file.
        modified_us: When it was last written, microseconds since 1970.
    """
    for number, operation in enumerate(operations):
        values = {name: getattr(operation, name) for name in WHAT}
        yield {name: None if value is UNSET else value for name, value in values.items()} | {
            "operationId": operation.key(source_path, str(modified_us), str(number)),
            "requestedBy": operation.requestedBy,
            "reason": operation.reason,
            "sourcePath": source_path,
        }


def of_row(row: dict[str, Any]) -> Operation:
    """Returns the operation that a row stands for."""
    names = (*WHAT, "requestedBy", "reason")
    said = {name: row[name] for name in names if row[name] is not None}
    return Operation(**said, id=row["operationId"])


def what(row: dict[str, Any]) -> dict[str, str | None]:
    """Returns what a row of an operation says is to be done, to what."""
    return {name: row[name] for name in WHAT}


def _described(error: str) -> str:
    """Returns what msgspec says, without a value or a name out of the file."""
    said, _, place = error.partition(" - at `")
    match = _PLACE.match(place)
    number, name = match.groups() if match else (None, None)
    at = f"operation {int(number) + 1}: " if number else ""
    if name in _EXPECTED:
        return f"{at}{name} is not {_EXPECTED[name]}"
    if said.startswith("Object contains unknown field"):
        return f"{at}a field is unknown; known are {', '.join(_EXPECTED)}"
    return at + said.replace("Object missing required field", "there is no")
