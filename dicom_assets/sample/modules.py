"""What each kind of object adds to a header, and how its pixels are stored (PS3.3 annex A and C.8).

Decided here: the modality modules, such that a validator finds nothing wrong. What all objects
share is decided in `instances`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    MRImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from dicom_assets.sample.model import Code, Picture, Series, uid
from dicom_assets.sample.phantoms import ultrasound
from dicom_assets.sample.phantoms.shapes import Field

SOP_CLASSES = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "US": UltrasoundImageStorage,
    "US cine": UltrasoundMultiFrameImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "NM": NuclearMedicineImageStorage,
}
SUPINE = Code("40199007", "SCT", "supine")
RECUMBENT = Code("102538003", "SCT", "recumbent")
HEADFIRST = Code("102540008", "SCT", "headfirst")
LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
VIEWS = {
    "PA": Code("272479007", "SCT", "postero-anterior"),
    "LL": Code("399173006", "SCT", "left lateral"),
}
INTRAVENOUS = Code("47625008", "SCT", "Intravenous route")


def coded(code: Code) -> Dataset:
    """One item of a code sequence (PS3.3 section 8.8)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = code.meaning
    return item


def decimal(value: float) -> str:
    """A Decimal String: at most 16 characters, and no negative zero."""
    return f"{round(value, 6) + 0.0:.8g}"


@dataclass(frozen=True)
class Drawn:
    """A picture after drawing, and what it belongs to.

    Attributes:
        series: Its series.
        picture: What it was drawn from.
        index: Its number in the series, from 1.
        pixels: Its values in the modality's own unit.
    """

    series: Series
    picture: Picture
    index: int
    pixels: Field


def complete(ds: Dataset, drawn: Drawn) -> None:
    """Add the modules of the series' kind, and the pixels."""
    _ADDERS[drawn.series.kind](ds, drawn)


def _store(ds: Dataset, values: np.ndarray, *, bits: int, signed: bool = False) -> None:
    """Image Pixel module for one or more frames (PS3.3 section C.7.6.3)."""
    allocated = 8 if bits <= 8 else 16
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    stored = np.clip(np.rint(values), low, high)
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, bits, bits - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelData = stored.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    ds["PixelData"].VR = "OB" if allocated == 8 else "OW"


def _window(ds: Dataset, centre: float, width: float) -> None:
    ds.WindowCenter, ds.WindowWidth = decimal(centre), decimal(width)


def _place(ds: Dataset, drawn: Drawn) -> None:
    """Frame of Reference and Image Plane modules (PS3.3 sections C.7.4.1 and C.7.6.2)."""
    plane = drawn.picture.plane
    if plane is None:
        return
    ds.FrameOfReferenceUID = uid(0, "frame of reference of", ds.StudyInstanceUID)
    ds.PositionReferenceIndicator = ""
    if drawn.series.kind != "PT":  # there the coded patient orientation stands instead
        ds.PatientPosition = "HFS"
    ds.PixelSpacing = [decimal(plane.spacing)] * 2
    ds.ImageOrientationPatient = [decimal(value) for value in (*plane.across, *plane.down)]
    ds.ImagePositionPatient = [decimal(value) for value in plane.origin]
    ds.SliceThickness = decimal(5)
    normal = np.cross(plane.across, plane.down)
    ds.SliceLocation = decimal(float(normal @ np.array(plane.centre)))


def _add_ct(ds: Dataset, drawn: Drawn) -> None:
    _place(ds, drawn)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP = "120"
    ds.XRayTubeCurrent = 210 + drawn.index
    ds.ExposureTime = 750
    ds.GantryDetectorTilt = "0"
    ds.RotationDirection = "CW"
    ds.RescaleSlope = "1"
    if drawn.series.attributes.get("ImageType") != LOCALIZER:  # a projection has no such units
        ds.RescaleType = "HU"
    if drawn.series.attributes.get("PixelRepresentation") == 1:
        ds.RescaleIntercept = "0"
        _store(ds, drawn.pixels, bits=16, signed=True)
        ds.SmallestImagePixelValue = int(np.rint(drawn.pixels.min()))
        ds.LargestImagePixelValue = int(np.rint(drawn.pixels.max()))
    else:
        ds.RescaleIntercept = "-1024"
        _store(ds, drawn.pixels + 1024, bits=12)


def _add_mr(ds: Dataset, drawn: Drawn) -> None:
    _place(ds, drawn)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "2D"
    ds.SequenceName = f"*se2d{drawn.series.number}"
    ds.NumberOfAverages = "1"
    ds.ImagingFrequency = decimal(123.258974)
    ds.ImagedNucleus = "1H"
    ds.MagneticFieldStrength = "3"
    ds.FlipAngle = "90"
    ds.InPlanePhaseEncodingDirection = "ROW"
    _store(ds, drawn.pixels, bits=12)
    ds.SmallestImagePixelValue = int(np.rint(drawn.pixels.min()))
    ds.LargestImagePixelValue = int(np.rint(drawn.pixels.max()))


def _add_cr(ds: Dataset, drawn: Drawn) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.KVP = "66"
    ds.PlateID = f"P{1000 + drawn.index}"
    ds.CassetteOrientation = "PORTRAIT"
    ds.CassetteSize = "24CMX30CM"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    _window(ds, 1900, 3000)
    _store(ds, drawn.pixels * 4095, bits=12)


def _add_dx(ds: Dataset, drawn: Drawn) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "IDENTITY"
    ds.DetectorType = "SCINTILLATOR"
    ds.DetectorID = "DR7-0091"
    ds.KVP = "125"
    ds.Exposure = 2
    ds.PositionerType = ""
    ds.ViewCodeSequence = [coded(VIEWS[str(drawn.picture.attributes["ViewPosition"])])]
    ds.AcquisitionContextSequence = []
    _window(ds, 1900, 3000)
    _store(ds, drawn.pixels * 4095, bits=12)


def _add_us(ds: Dataset, drawn: Drawn) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"]
    ds.PatientOrientation = ""
    ds.TransducerType = "CURVED LINEAR"
    ds.SequenceOfUltrasoundRegions = [_fan_region()]
    if drawn.pixels.ndim == 3:
        ds.NumberOfFrames = drawn.pixels.shape[0]
        ds.FrameTime = decimal(66)
        ds.FrameIncrementPointer = 0x00181063
    _store(ds, drawn.pixels, bits=8)


def _fan_region() -> Dataset:
    """US Region Calibration (PS3.3 section C.8.5.5): a pixel in centimetres."""
    region = Dataset()
    region.RegionSpatialFormat = 1  # 2D
    region.RegionDataType = 1  # tissue
    region.RegionFlags = 0
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1 = ultrasound.COLUMNS - 1
    region.RegionLocationMaxY1 = ultrasound.ROWS - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaX = region.PhysicalDeltaY = ultrasound.SPACING / 10
    return region


def _add_pt(ds: Dataset, drawn: Drawn) -> None:
    _place(ds, drawn)
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.SeriesType = ["WHOLE BODY", "IMAGE"]
    ds.NumberOfSlices = len(drawn.series.pictures)
    ds.ImageIndex = drawn.index
    ds.Units, ds.CountsSource = "BQML", "EMISSION"
    ds.CorrectedImage = ["DECY", "ATTN", "SCAT", "DTIM", "RAN", "NORM"]
    ds.DecayCorrection = "START"
    ds.AttenuationCorrectionMethod = "measured by CT"
    ds.RandomsCorrectionMethod = "DLYD"
    ds.ScatterCorrectionMethod = "model-based"
    ds.ReconstructionMethod = "OSEM3D 3i24s"
    ds.CollimatorType = "NONE"
    ds.FrameReferenceTime = decimal(60_000 * drawn.index)
    ds.ActualFrameDuration = 120_000
    ds.DecayFactor = decimal(1 + 0.0065 * drawn.index)
    ds.DeadTimeFactor, ds.ScatterFractionFactor, ds.DoseCalibrationFactor = "1.02", "0.31", "1"
    tracer = _tracer(
        Code("77004003", "SCT", "^18^Fluorine"),
        Code("35321007", "SCT", "Fluorodeoxyglucose F^18^"),
        name="FDG -- fluorodeoxyglucose",
    )
    tracer.RadionuclideHalfLife, tracer.RadionuclidePositronFraction = "6586.2", "0.967"
    tracer.RadionuclideTotalDose = "287000000"
    tracer.RadiopharmaceuticalStartTime = "071810"
    ds.RadiopharmaceuticalInformationSequence = [tracer]
    _add_patient_position(ds)
    slope = float(decimal(float(drawn.pixels.max()) / 32767 or 1.0))
    ds.RescaleSlope, ds.RescaleIntercept = decimal(slope), "0"
    _window(ds, 20_000, 40_000)
    _store(ds, drawn.pixels / slope, bits=16, signed=True)


def _add_nm(ds: Dataset, drawn: Drawn) -> None:
    frames = drawn.pixels.shape[0]
    whole_body = frames == 2
    ds.ImageType = ["ORIGINAL", "PRIMARY", "STATIC", "EMISSION"]
    ds.NumberOfFrames = frames
    ds.FrameIncrementPointer = [0x00540010, 0x00540020]
    ds.NumberOfEnergyWindows, ds.EnergyWindowVector = 1, [1] * frames
    ds.NumberOfDetectors, ds.DetectorVector = frames, list(range(1, frames + 1))
    ds.CountsAccumulated = int(drawn.pixels.sum())
    ds.ActualFrameDuration = 900_000 if whole_body else 300_000
    if whole_body:
        ds.ScanVelocity, ds.WholeBodyTechnique, ds.ScanLength = "2.5", "1PS", 1950
    window = Dataset()
    limits = Dataset()
    limits.EnergyWindowLowerLimit, limits.EnergyWindowUpperLimit = "126", "154"
    window.EnergyWindowName = "Tc-99m 20%"
    window.EnergyWindowRangeSequence = [limits]
    ds.EnergyWindowInformationSequence = [window]
    tracer = _tracer(
        Code("72454006", "SCT", "^99m^Technetium"),
        Code("96390006", "SCT", "Technetium Tc^99m^ medronate"),
        name="Tc-99m MDP",
    )
    tracer.RadiopharmaceuticalStartTime = "094000"
    ds.RadiopharmaceuticalInformationSequence = [tracer]
    front = Code("399321004", "SCT", "Anterior projection")
    back = Code("399001007", "SCT", "Posterior projection")
    views = (front, back) if whole_body else (back,) if drawn.index == 1 else (front,)
    ds.DetectorInformationSequence = [_detector(view) for view in views]
    _add_patient_position(ds)
    _window(ds, float(drawn.pixels.max()) / 4, float(drawn.pixels.max()) / 2)
    _store(ds, drawn.pixels, bits=16)


def _detector(view: Code) -> Dataset:
    detector = Dataset()
    detector.CollimatorType = "PARA"
    detector.CollimatorGridName = "LEHR"
    detector.ImageOrientationPatient = None
    detector.ImagePositionPatient = None
    detector.ViewCodeSequence = [coded(view)]
    return detector


def _tracer(nuclide: Code, drug: Code, *, name: str) -> Dataset:
    tracer = Dataset()
    tracer.Radiopharmaceutical = name
    tracer.AdministrationRouteCodeSequence = [coded(INTRAVENOUS)]
    tracer.RadionuclideCodeSequence = [coded(nuclide)]
    tracer.RadiopharmaceuticalCodeSequence = [coded(drug)]
    return tracer


def _add_patient_position(ds: Dataset) -> None:
    """NM/PET Patient Orientation module (PS3.3 section C.8.4.6): sequences in a sequence."""
    orientation = coded(RECUMBENT)
    orientation.PatientOrientationModifierCodeSequence = [coded(SUPINE)]
    ds.PatientOrientationCodeSequence = [orientation]
    ds.PatientGantryRelationshipCodeSequence = [coded(HEADFIRST)]


_Adder = Callable[[Dataset, Drawn], None]
_ADDERS: dict[str, _Adder] = {
    "CT": _add_ct,
    "MR": _add_mr,
    "CR": _add_cr,
    "DX": _add_dx,
    "US": _add_us,
    "US cine": _add_us,
    "PT": _add_pt,
    "NM": _add_nm,
}
