"""Headers as scanners write them, one dataset for each kind of file.

Decided here: which elements stand in them, and which vary within a series. The private blocks are
those of pydicom's private dictionary, with values of the right kind. Nested elements count.
Not decided here: bytes, pixels and files (`benchmarks.data`).
"""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from benchmarks.header_values import (
    CR,
    CR_IMAGE,
    CT,
    CT_IMAGE,
    GE_BLOCKS,
    LONG,
    MR,
    MR_IMAGE,
    PRIVATE_VALUES,
    ROOT,
    SOP_CLASS,
    patient_and_study_values,
    series_values,
)

ENHANCED_CT = UID("1.2.840.10008.5.1.4.1.1.2.1")


def series_header(modality: str, study: int, series: int, *, long: bool) -> Dataset:
    """Returns what one series' instances share, with values that vary filled for the first.

    Args:
        modality: CT, MR or CR.
        study: Number of the study, of which four belong to one patient.
        series: Number of the series.
        long: Some 260 elements instead of some 90.
    """
    header = Dataset()
    _fill(header, patient_and_study_values(study))
    _fill(header, series_values(modality, study, series))
    _fill(header, {CT: CT_IMAGE, MR: MR_IMAGE, CR: CR_IMAGE}[modality])
    _add_sequences(header, study)
    if modality == MR:
        _add_siemens(header, series)
    elif long:
        _fill(header, LONG)
        _add_long_sequences(header, study)
        for group, creator, count in GE_BLOCKS:
            _add_private(header, group, creator, count)
    elif modality == CT:
        _add_private(header, 0x0019, "SIEMENS CT VA0  COAD", 6)
        _add_private(header, 0x0021, "SIEMENS MED", 4)
    _fill(header, varying(modality, study, series, 0))
    return header


def varying(modality: str, study: int, series: int, number: int) -> dict[str, str]:
    """Returns the text values that differ between the instances of a series."""
    seconds = f"{9 + number // 3600:02}{number // 60 % 60:02}{number % 60:02}"
    place = -812.5 + 0.625 * number
    values = {
        "SOPInstanceUID": f"{ROOT}.{study}.{series}.{number + 1}",
        "InstanceNumber": f"{number + 1}",
        "ContentTime": f"{seconds}.{number * 7919 % 1000000:06}",
        "AcquisitionTime": f"{seconds}.{number * 6101 % 1000000:06}",
    }
    if modality != CR:
        values |= {
            "ImagePositionPatient": f"-249.51171875\\-{200 + series}.51171875\\{place:.3f}",
            "SliceLocation": f"{place:.3f}",
            "WindowCenter": f"{40 + number % 3 * 20}",
            "WindowWidth": f"{400 + number % 3 * 100}",
        }
    if modality == CT:
        current = 180 + number * 37 % 240
        values |= {"XRayTubeCurrent": f"{current}", "Exposure": f"{current // 2}"}
    return values


def enhanced_header(study: int, frames: int) -> Dataset:
    """Returns an Enhanced CT: shared groups, and for each frame some forty elements."""
    header = series_header(CT, study, study, long=False)
    for keyword in ("ImagePositionPatient", "SliceLocation", "WindowCenter", "WindowWidth"):
        delattr(header, keyword)
    header.SOPClassUID, header.NumberOfFrames = ENHANCED_CT, frames
    shared = Dataset()
    shared.PixelMeasuresSequence = [
        _of(PixelSpacing=[0.9765625, 0.9765625], SliceThickness="0.625")
    ]
    shared.CTPositionSequence = [_of(TableHeight=170.0, DataCollectionDiameter=500.0)]
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = [_frame(study, number) for number in range(frames)]
    header.DimensionIndexSequence = [
        _of(DimensionIndexPointer=tag, FunctionalGroupPointer=0x00209111)
        for tag in (0x00209056, 0x00209057)
    ]
    return header


def count(header: Dataset) -> int:
    """Returns how many elements a dataset has, nested ones too."""
    return len(list(header.iterall()))


def _fill(header: Dataset, values: dict[str, Any]) -> None:
    for keyword, value in values.items():
        setattr(header, keyword, value)


def _of(**values: Any) -> Dataset:
    made = Dataset()
    _fill(made, values)
    return made


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _of(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _add_sequences(header: Dataset, study: int) -> None:
    header.ReferencedStudySequence = [
        _of(
            ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
            ReferencedSOPInstanceUID=f"{ROOT}.{study}.8",
        )
    ]
    header.ProcedureCodeSequence = [_code("RPID16", "RADLEX", "CT CHEST W CONTRAST")]
    request = _of(RequestedProcedureID=f"R{study}", ScheduledProcedureStepID=f"S{study}")
    request.ScheduledProtocolCodeSequence = [_code("CTTHX", "99MUSTER", "CT Thorax nativ")]
    header.RequestAttributesSequence = [request]


def _add_long_sequences(header: Dataset, study: int) -> None:
    header.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    header.CTDIPhantomTypeCodeSequence = [_code("113691", "DCM", "IEC Body Dosimetry Phantom")]
    header.PerformedProtocolCodeSequence = [_code("CTTHXKM", "99MUSTER", "CT Thorax mit KM")]
    header.ReasonForRequestedProcedureCodeSequence = [_code("363346000", "SCT", "Cancer")]
    header.ReferencedImageSequence = [
        _of(
            ReferencedSOPClassUID=SOP_CLASS[CT],
            ReferencedSOPInstanceUID=f"{ROOT}.{study}.7.{number}",
        )
        for number in range(2)
    ]
    header.OtherPatientIDsSequence = [
        _of(PatientID=f"KV{number}", IssuerOfPatientID="KASSE", TypeOfPatientID="TEXT")
        for number in range(2)
    ]


def _add_private(header: Dataset, group: int, creator: str, count: int) -> None:
    """Adds the first elements that pydicom's private dictionary knows of a creator."""
    from pydicom._private_dict import private_dictionaries

    block = header.private_block(group, creator, create=True)
    known = [
        (int(tag[-2:], 16), vr)
        for tag, (vr, *_) in private_dictionaries[creator].items()
        if tag.lower().startswith(f"{group:04x}xx") and "x" not in tag[-2:] and vr in PRIVATE_VALUES
    ]
    for offset, vr in sorted(known)[:count]:
        block.add_new(offset, vr, PRIVATE_VALUES[vr])


def _add_siemens(header: Dataset, series: int) -> None:
    """Adds what Siemens MR carries: two CSA headers, and small elements around them."""
    noise = np.random.default_rng(series)
    csa = header.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    for offset, size in ((0x10, 11_264), (0x20, 77_824)):
        text = b"SV10\x04\x03\x02\x01" + noise.integers(0, 64, size - 8, np.uint8).tobytes()
        csa.add_new(offset - 2, "CS", "IMAGE NUM 4")
        csa.add_new(offset - 1, "LO", "20260314")
        csa.add_new(offset, "OB", text)
    mr = header.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    mr.add_new(0x08, "CS", "IMAGE NUM 4")
    mr.add_new(0x0C, "IS", "1000")
    mr.add_new(0x0E, "FD", [0.7071, 0.0, 0.7071])
    mr.add_new(0x27, "FD", [991.2, 1.5, 3.5, 988.1, 2.5, 1001.7])
    mr.add_new(0x29, "FD", [float(number) for number in range(0, 2400, 75)])


def _frame(study: int, number: int) -> Dataset:
    """Returns the functional groups of one frame of an Enhanced CT."""
    place = -812.5 + 0.625 * number + study
    frame = Dataset()
    frame.FrameContentSequence = [
        _of(
            FrameAcquisitionNumber=2,
            FrameReferenceDateTime=f"202603140915{number % 60:02}.5",
            FrameAcquisitionDateTime=f"202603140915{number % 60:02}.25",
            FrameAcquisitionDuration=500.0,
            StackID="1",
            InStackPositionNumber=number + 1,
            DimensionIndexValues=[1, number + 1],
            TemporalPositionIndex=1,
        )
    ]
    frame.PlanePositionSequence = [_of(ImagePositionPatient=["-249.5", "-421.5", f"{place:.3f}"])]
    frame.PlaneOrientationSequence = [_of(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"])]
    frame.FrameVOILUTSequence = [
        _of(WindowCenter="40", WindowWidth="400", WindowCenterWidthExplanation="SOFT")
    ]
    frame.PixelValueTransformationSequence = [
        _of(RescaleIntercept="-1024", RescaleSlope="1", RescaleType="HU")
    ]
    frame.CTAcquisitionDetailsSequence = [
        _of(RotationDirection="CW", RevolutionTime=0.5, TableSpeed=39.375, GantryDetectorTilt="0")
    ]
    frame.CTExposureSequence = [
        _of(
            ExposureTimeInms=500.0,
            XRayTubeCurrentInmA=180.0 + number % 97,
            ExposureInmAs=90.0 + number % 97,
            CTDIvol=7.812,
            ExposureModulationType="Z_EC",
        )
    ]
    frame.CTReconstructionSequence = [
        _of(
            ReconstructionAlgorithm="FILTER_BACK_PROJ",
            ConvolutionKernel="Br40d",
            ReconstructionDiameter="500",
            ReconstructionAngle=360.0,
        )
    ]
    frame.IrradiationEventIdentificationSequence = [
        _of(IrradiationEventUID=f"{ROOT}.{study}.5.{number // 100}")
    ]
    return frame
