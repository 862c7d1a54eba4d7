"""A compiled check: is a text surely a valid R4B ImagingStudy?

fhir.resources builds an object for each element, some 20 microseconds an instance; this decodes the
same bytes into structs, about one. It knows the elements that `imaging_study` writes and is at
least as strict as the model about them:

* no element that it does not know, no null, no empty array, each value of FHIR's JSON type;
* required: status, subject, series.uid, series.modality, instance.uid, instance.sopClass,
  performer.actor, extension.url, and lastUpdated and source of a meta;
* strings say something, up to FHIR's 1 MiB; ids are 1 to 64 of A-Za-z0-9.-; codes have no space but
  single ones inside; URIs have none; counts and numbers are 0 to 2^31-1; status is one of FHIR's;
* dates exist, a time has seconds and an offset, an instant is whole;
* an extension has one value, or extensions of one level;
* a contained resource is short, and valid by the model, asked once for each text.

What it accepts the model accepts. What it does not accept may be valid all the same: then the model
decides, and says what is wrong (`model.problem`).
"""

from functools import lru_cache
from typing import Annotated, Literal, TypeVar

import msgspec
import orjson
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dicom_assets.fhir.model import problem

_DAY = (
    r"(?!0000)(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_TIME = (
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
    r"(?:Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
)

T = TypeVar("T")
Many = Annotated[list[T], Meta(min_length=1)]

String = Annotated[str, Meta(pattern=r"\S", max_length=1 << 20)]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.-]{1,64}\Z")]
Code = Annotated[str, Meta(pattern=r"^\S+(?: \S+)*\Z")]
Uri = Annotated[str, Meta(pattern=r"^\S+\Z")]
UnsignedInt = Annotated[int, Meta(ge=0, le=2**31 - 1)]
DateTime = Annotated[str, Meta(pattern=rf"^{_DAY}(?:{_TIME})?\Z")]
Instant = Annotated[str, Meta(pattern=rf"^{_DAY}{_TIME}\Z")]


class _Element(Struct, forbid_unknown_fields=True):
    """An element without those that are not listed."""


class _Value(_Element):
    url: Uri
    valueString: String | UnsetType = UNSET
    valueCode: Code | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.valueString is UNSET) == (self.valueCode is UNSET):
            raise ValueError("not one value")


class _Extension(_Element):
    url: Uri
    extension: Many[_Value] | UnsetType = UNSET
    valueString: String | UnsetType = UNSET
    valueCode: Code | UnsetType = UNSET

    def __post_init__(self) -> None:
        if [self.extension, self.valueString, self.valueCode].count(UNSET) != 2:
            raise ValueError("not one value, or extensions")


class _Extended(_Element, kw_only=True):
    extension: Many[_Extension] | UnsetType = UNSET


class _Coding(_Extended):
    system: Uri | UnsetType = UNSET
    code: Code | UnsetType = UNSET
    display: String | UnsetType = UNSET


class _Concept(_Element):
    coding: Many[_Coding] | UnsetType = UNSET
    text: String | UnsetType = UNSET


class _Assigner(_Element):
    display: String


class _Identifier(_Element):
    type: _Concept | UnsetType = UNSET
    system: Uri | UnsetType = UNSET
    value: String | UnsetType = UNSET
    assigner: _Assigner | UnsetType = UNSET


class _Reference(_Extended):
    reference: String | UnsetType = UNSET
    type: Uri | UnsetType = UNSET
    identifier: _Identifier | UnsetType = UNSET
    display: String | UnsetType = UNSET


class _Performer(_Element):
    actor: _Reference


class _Instance(_Element):
    uid: Id
    sopClass: _Coding
    number: UnsignedInt | UnsetType = UNSET
    title: String | UnsetType = UNSET


class _Series(_Extended):
    uid: Id
    modality: _Coding
    number: UnsignedInt | UnsetType = UNSET
    description: String | UnsetType = UNSET
    numberOfInstances: UnsignedInt | UnsetType = UNSET
    bodySite: _Coding | UnsetType = UNSET
    laterality: _Coding | UnsetType = UNSET
    started: DateTime | UnsetType = UNSET
    performer: Many[_Performer] | UnsetType = UNSET
    instance: Many[_Instance] | UnsetType = UNSET


class _Meta(_Element):
    lastUpdated: Instant
    source: Uri
    tag: Many[_Coding] | UnsetType = UNSET


class _ImagingStudy(_Element):
    resourceType: Literal["ImagingStudy"]
    id: Id
    status: Literal["registered", "available", "cancelled", "entered-in-error", "unknown"]
    subject: _Reference
    meta: _Meta | UnsetType = UNSET
    contained: Many[Raw] | UnsetType = UNSET
    identifier: Many[_Identifier] | UnsetType = UNSET
    modality: Many[_Coding] | UnsetType = UNSET
    started: DateTime | UnsetType = UNSET
    referrer: _Reference | UnsetType = UNSET
    endpoint: Many[_Reference] | UnsetType = UNSET
    numberOfSeries: UnsignedInt | UnsetType = UNSET
    numberOfInstances: UnsignedInt | UnsetType = UNSET
    procedureCode: Many[_Concept] | UnsetType = UNSET
    reasonCode: Many[_Concept] | UnsetType = UNSET
    description: String | UnsetType = UNSET
    series: Many[_Series] | UnsetType = UNSET


_DECODER = msgspec.json.Decoder(_ImagingStudy)
_LONGEST_CONTAINED = 4096


def surely_valid(text: bytes | str) -> bool:
    """Says whether a text is surely a valid ImagingStudy of elements that are listed here."""
    try:
        study = _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    if study.contained is UNSET:
        return True
    texts = [bytes(each) for each in study.contained]
    return all(len(each) <= _LONGEST_CONTAINED and _is_valid(each) for each in texts)


@lru_cache(maxsize=256)
def _is_valid(contained: bytes) -> bool:
    try:
        resource = orjson.loads(contained)
    except orjson.JSONDecodeError:
        return False
    return isinstance(resource, dict) and problem(resource) is None
