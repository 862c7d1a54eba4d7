"""What a study of the sample is made of: patients, equipment, series, and the pictures in them.

Decided here: only the shape of the data. The studies themselves stand in `cases`; how they
become DICOM is decided in `instances` and `modules`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from uuid import NAMESPACE_OID, uuid5

import numpy as np

from dicom_assets.sample.phantoms.shapes import Field, Plane

Kind = Literal["CT", "MR", "CR", "DX", "US", "US cine", "PT", "NM"]
Encoding = Literal["explicit", "implicit", "rle"]
Draw = Callable[[np.random.Generator], Field]

NO_ATTRIBUTES: Mapping[str, object] = {}


class Code(NamedTuple):
    """A coded concept: value, scheme and meaning (PS3.3 section 8.8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A person who does not exist.

    Attributes:
        identifier: Patient ID.
        name: Patient's Name, with up to three component groups.
        character_set: Specific Character Set that the name and all texts of the study need.
        sex: Patient's Sex.
        birth_date: Patient's Birth Date.
        issuer: Issuer of Patient ID, or None.
    """

    identifier: str
    name: str
    character_set: str | list[str] | None = None
    sex: str
    birth_date: str
    issuer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Equipment:
    """A machine that does not exist; its private creator marks what only its maker explains."""

    manufacturer: str
    model: str
    serial: str
    software: str
    station: str
    private_creator: str | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One instance: how it is drawn, where it lies, and what its header says beyond the series.

    Attributes:
        draw: Gives the picture in the modality's own unit (Hounsfield, Bq/ml, counts, …), as
            rows by columns, or frames by rows by columns.
        plane: Where it lies in the patient, for tomographic modalities.
        attributes: Further attributes by keyword.
    """

    draw: Draw
    plane: Plane | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series, and where its files go.

    Attributes:
        number: Series Number.
        kind: Which of the sample's object definitions it follows.
        description: Series Description.
        time: Series Time, as it stands in the header.
        place: Path below the DICOM folder, with `{n}` for the instance's number in the study and
            `{i}` for its number in the series; `archive.zip!/member` goes into a ZIP.
        pictures: The instances, in order.
        body_part: Body Part Examined.
        laterality: Laterality, R or L.
        region: The coded Anatomic Region.
        protocol: Protocol Name.
        encoding: How the files are encoded.
        refers_to: Number of a series of the study whose first image this one's images refer to.
        attributes: Further attributes by keyword.
    """

    number: int
    kind: Kind
    description: str
    time: str
    place: str
    pictures: tuple[Picture, ...]
    body_part: str | None = None
    laterality: Literal["R", "L"] | None = None
    region: Code | None = None
    protocol: str | None = None
    encoding: Encoding = "explicit"
    refers_to: int | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study. Its key names it in the sample and is the root of its UIDs."""

    key: str
    patient: Patient
    equipment: Equipment
    date: str
    time: str
    description: str
    accession: str
    procedures: tuple[Code, ...]
    reason: Code | str
    referrer: str
    performer: str
    operators: tuple[str, ...]
    institution: str
    series: tuple[Series, ...]
    timezone: str | None = None
    accession_issuer: tuple[str, str] | None = None


def uid(seed: int, *path: str | int) -> str:
    """A UID that depends on nothing but the seed and what it names (PS3.5 section B.2)."""
    name = "/".join(str(part) for part in ("dicom_assets sample", seed, *path))
    return f"2.25.{uuid5(NAMESPACE_OID, name).int}"
