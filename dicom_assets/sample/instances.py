"""From a study of the sample to the bytes of its DICOM files.

Decided here: what every object has (patient, study, series, equipment, references, private
elements) and how it is encoded. What one kind of object adds is decided in `modules`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from zlib import crc32

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_assets.sample.model import Code, Picture, Series, Study, uid
from dicom_assets.sample.modules import SOP_CLASSES, Drawn, coded, complete, decimal

IMPLEMENTATION = UID(uid(0, "implementation"))
TRANSFER_SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "rle": ExplicitVRLittleEndian,  # until it is compressed
}


@dataclass(frozen=True)
class Instance:
    """One DICOM file: its bytes, and its place below the DICOM folder."""

    place: str
    content: bytes


def instances(study: Study, *, seed: int) -> Iterator[Instance]:
    """All files of a study, in the order of their series and instance numbers."""
    number = 0
    for series in study.series:
        for index, picture in enumerate(series.pictures, start=1):
            dataset = _dataset(study, series, picture, index=index, seed=seed)
            place = series.place.format(n=number, s=series.number, i=index)
            yield Instance(place, _encoded(dataset, series))
            number += 1


def _dataset(study: Study, series: Series, picture: Picture, *, index: int, seed: int) -> Dataset:
    ds = Dataset()
    if study.patient.character_set is not None:
        ds.SpecificCharacterSet = study.patient.character_set
    ds.SOPClassUID = SOP_CLASSES[series.kind]
    ds.SOPInstanceUID = uid(seed, study.key, series.number, index)
    _add_patient(ds, study)
    _add_study(ds, study, seed=seed)
    _add_series(ds, study, series, seed=seed)
    _add_equipment(ds, study)
    _add_image(ds, study, series, index=index)
    rng = np.random.default_rng([seed, crc32(f"{study.key}/{series.number}/{index}".encode())])
    complete(ds, Drawn(series, picture, index, picture.draw(rng)))
    for keyword, value in {**series.attributes, **picture.attributes}.items():
        setattr(ds, keyword, value)
    _add_references(ds, study, series, seed=seed)
    _add_private(ds, study, series, index=index)
    return ds


def _add_patient(ds: Dataset, study: Study) -> None:
    patient = study.patient
    ds.PatientID = patient.identifier
    ds.PatientName = patient.name
    ds.PatientBirthDate = patient.birth_date
    ds.PatientSex = patient.sex
    birthday_to_come = study.date[4:] < patient.birth_date[4:]
    years = int(study.date[:4]) - int(patient.birth_date[:4]) - birthday_to_come
    ds.PatientAge = f"{years:03d}Y"
    if patient.issuer:
        ds.IssuerOfPatientID = patient.issuer
    ds.PatientComments = "Synthetic, no person"


def _add_study(ds: Dataset, study: Study, *, seed: int) -> None:
    ds.StudyInstanceUID = uid(seed, study.key)
    ds.StudyDate, ds.StudyTime = study.date, study.time
    if study.timezone:
        ds.TimezoneOffsetFromUTC = study.timezone
    ds.StudyID = study.key.removeprefix("case")
    ds.StudyDescription = study.description
    ds.AccessionNumber = study.accession
    if study.accession_issuer:
        name, oid = study.accession_issuer
        issuer = Dataset()
        issuer.LocalNamespaceEntityID = name
        issuer.UniversalEntityID = oid
        issuer.UniversalEntityIDType = "ISO"
        ds.IssuerOfAccessionNumberSequence = [issuer]
    ds.ReferringPhysicianName = study.referrer
    ds.ProcedureCodeSequence = [coded(code) for code in study.procedures]


def _add_series(ds: Dataset, study: Study, series: Series, *, seed: int) -> None:
    ds.Modality = series.kind.removesuffix(" cine")
    ds.SeriesInstanceUID = uid(seed, study.key, series.number)
    ds.SeriesNumber = series.number
    ds.SeriesDate, ds.SeriesTime = study.date, series.time
    ds.SeriesDescription = series.description
    ds.PerformingPhysicianName = study.performer
    ds.OperatorsName = list(study.operators)
    ds.PerformedProcedureStepID = f"PPS{study.key.removeprefix('case')}"
    ds.PerformedProcedureStepStartDate = study.date
    ds.PerformedProcedureStepStartTime = study.time
    ds.PerformedProcedureStepDescription = study.description
    ds.RequestAttributesSequence = [_request(study, series)]
    if series.protocol:
        ds.ProtocolName = series.protocol
    if series.body_part:
        ds.BodyPartExamined = series.body_part
    if series.laterality:
        ds.Laterality = series.laterality
    if series.region:
        ds.AnatomicRegionSequence = [coded(series.region)]


def _request(study: Study, series: Series) -> Dataset:
    """What was asked for: sequences three deep (PS3.3 table 10-9)."""
    request = Dataset()
    request.RequestedProcedureID = f"RP{study.key.removeprefix('case')}"
    request.RequestedProcedureDescription = study.description
    request.RequestedProcedureCodeSequence = [coded(study.procedures[0])]
    if isinstance(study.reason, Code):
        request.ReasonForRequestedProcedureCodeSequence = [coded(study.reason)]
    else:
        request.ReasonForTheRequestedProcedure = study.reason
    request.ScheduledProcedureStepID = f"SPS{study.key.removeprefix('case')}"
    request.ScheduledProcedureStepDescription = study.description
    if series.protocol:
        protocol = coded(Code(f"P{series.number:02d}", "99PROTOCOL", series.protocol))
        context = Dataset()
        context.ValueType = "TEXT"
        context.ConceptNameCodeSequence = [coded(Code("121106", "DCM", "Comment"))]
        context.TextValue = series.description
        protocol.ProtocolContextSequence = [context]
        request.ScheduledProtocolCodeSequence = [protocol]
    return request


def _add_equipment(ds: Dataset, study: Study) -> None:
    machine = study.equipment
    ds.Manufacturer = machine.manufacturer
    ds.ManufacturerModelName = machine.model
    ds.DeviceSerialNumber = machine.serial
    ds.SoftwareVersions = machine.software
    ds.StationName = machine.station
    ds.InstitutionName = study.institution


def _add_image(ds: Dataset, study: Study, series: Series, *, index: int) -> None:
    ds.InstanceNumber = index
    ds.AcquisitionNumber = 1
    ds.ContentDate = ds.AcquisitionDate = study.date
    ds.ContentTime = ds.AcquisitionTime = series.time
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"


def _add_references(ds: Dataset, study: Study, series: Series, *, seed: int) -> None:
    """Name the image this one was planned on, or reformatted from."""
    if series.refers_to is None:
        return
    source = next(other for other in study.series if other.number == series.refers_to)
    reference = Dataset()
    reference.ReferencedSOPClassUID = SOP_CLASSES[source.kind]
    reference.ReferencedSOPInstanceUID = uid(seed, study.key, source.number, 1)
    if ds.ImageType[0] == "DERIVED":
        reference.PurposeOfReferenceCodeSequence = [
            coded(Code("121322", "DCM", "Source image for image processing operation"))
        ]
        ds.SourceImageSequence = [reference]
        ds.DerivationDescription = "Multiplanar reformat"
    else:
        reference.PurposeOfReferenceCodeSequence = [coded(Code("121311", "DCM", "Localizer"))]
        ds.ReferencedImageSequence = [reference]


def _add_private(ds: Dataset, study: Study, series: Series, *, index: int) -> None:
    """The maker's own elements: text, numbers, a nested sequence, and a block of bytes."""
    creator = study.equipment.private_creator
    if creator is None:
        return
    block = ds.private_block(0x0029, creator, create=True)
    block.add_new(0x01, "LO", f"{series.protocol or study.description} v{study.equipment.software}")
    block.add_new(0x02, "DS", [decimal(0.25 * index), decimal(1.5), decimal(-index)])
    block.add_new(0x03, "US", [index, series.number])
    item = Dataset()
    inner = item.private_block(0x0029, creator, create=True)
    inner.add_new(0x11, "SH", f"COIL{series.number}")
    inner.add_new(0x12, "FD", 0.5 * index)
    block.add_new(0x10, "SQ", [item])
    block.add_new(0x20, "OB", bytes(range(256)) * 8)


def _encoded(ds: Dataset, series: Series) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION
    ds.file_meta.ImplementationVersionName = "DICOM_ASSETS_1"
    ds.file_meta.TransferSyntaxUID = TRANSFER_SYNTAXES[series.encoding]
    if series.encoding == "rle":
        ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
