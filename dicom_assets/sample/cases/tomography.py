"""CT and MR studies: a head after a fall, a brain tumour, and a lung nodule followed up by CT."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from dicom_assets.sample.cases.people import (
    BRAIN,
    CHEST,
    HEAD,
    HELIX,
    HIKARI,
    LARMOR,
    MUELLER,
    NORDBURG,
    OKAFOR,
    YAMADA,
)
from dicom_assets.sample.model import Code, Picture, Series, Study
from dicom_assets.sample.phantoms import head, radiograph, torso
from dicom_assets.sample.phantoms.shapes import Field, Plane, axial, coronal, sagittal

BRAIN_WINDOW = {"WindowCenter": "35", "WindowWidth": "80", "ConvolutionKernel": "H30s"}
REFORMAT = BRAIN_WINDOW | {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}
BONE_WINDOW = {"WindowCenter": "500", "WindowWidth": "2200", "ConvolutionKernel": "H70h"}
LUNG_WINDOW = {"WindowCenter": "-600", "WindowWidth": "1500", "ConvolutionKernel": "B60f"}
SCOUT = {
    "WindowCenter": "0",
    "WindowWidth": "1400",
    "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
}
SOFT_WINDOW = {"WindowCenter": "40", "WindowWidth": "400", "ConvolutionKernel": "B30f"}


def _head_slices(planes: Sequence[Plane], *, sharp: bool) -> tuple[Picture, ...]:
    draw = partial(
        head.computed_tomography,
        finding="epidural_haematoma",
        sharp=sharp,
        noise=26.0 if sharp else 2.2,
    )
    return tuple(Picture(plane=plane, draw=partial(draw, plane)) for plane in planes)


def _brain_slices(
    planes: Sequence[Plane], contrast: Mapping[str, float], *, blur: float = 0.5
) -> tuple[Picture, ...]:
    draw = partial(head.magnetic_resonance, finding="glioblastoma", contrast=contrast, blur=blur)
    return tuple(Picture(plane=plane, draw=partial(draw, plane)) for plane in planes)


def _chest_slices(planes: Sequence[Plane], *, sharp: bool) -> tuple[Picture, ...]:
    draw = partial(
        torso.computed_tomography,
        finding="solitary_nodule",
        sharp=sharp,
        noise=38.0 if sharp else 11.0,
    )
    return tuple(Picture(plane=plane, draw=partial(draw, plane)) for plane in planes)


def ct_head() -> Study:
    """A fall: an epidural haematoma on the right, under a fracture."""
    levels = [axial(z, spacing=0.82) for z in (-34, -20, -6, 8, 20, 32, 46, 60)]
    upright = [coronal(y, spacing=0.82, rows=256, columns=256, z=-12) for y in (-30, 0, 22, 48)]
    sides = [sagittal(x, spacing=0.94, z=-22) for x in (-56, -30, 22, 44)]
    series = partial(
        Series,
        kind="CT",
        body_part="HEAD",
        region=HEAD,
        protocol="Schädel Trauma",
        place="Emergency/CT head/case1_{n:03d}.dcm",
    )
    return Study(
        key="case1",
        patient=MUELLER,
        equipment=HELIX,
        date="20240311",
        time="214503",
        timezone="+0100",
        description="CT Schädel nativ",
        accession="NB2024-031187",
        accession_issuer=NORDBURG,
        procedures=(Code("30799-1", "LN", "CT Head WO contrast"),),
        reason="Sturz von der Leiter, kurz bewusstlos",
        referrer="Groß^Änne^^Dr.",
        performer="Weiß^Sören",
        operators=("Özdemir^Aylin",),
        institution="Klinikum Nordburg",
        series=(
            series(
                number=1,
                description="Schädel 5.0 Hirn",
                time="214611",
                pictures=_head_slices(levels, sharp=False),
                attributes=BRAIN_WINDOW,
            ),
            series(
                number=2,
                description="Schädel 5.0 Knochen",
                time="214611",
                pictures=_head_slices(levels, sharp=True),
                attributes=BONE_WINDOW,
            ),
            series(
                number=3,
                description="Schädel MPR koronar",
                time="215020",
                pictures=_head_slices(upright, sharp=False),
                attributes=REFORMAT,
                refers_to=1,
            ),
            series(
                number=4,
                description="Schädel MPR sagittal",
                time="215104",
                pictures=_head_slices(sides, sharp=False),
                attributes=REFORMAT,
                refers_to=1,
            ),
        ),
    )


def mr_head() -> Study:
    """A ring-enhancing left frontal tumour, in five contrasts."""
    sides = [sagittal(x, spacing=0.94, z=-22) for x in (-26, -9, 5, 18, 30)]
    levels = [axial(z, spacing=0.82) for z in (-30, 2, 14, 24, 44)]
    series = partial(
        Series,
        kind="MR",
        body_part="HEAD",
        region=BRAIN,
        protocol="Brain tumour",
        place="mr_head.zip!/DICOM/PAT00001/ST00001/SE{s:05d}/IM{i:05d}",
    )
    return Study(
        key="case2",
        patient=YAMADA,
        equipment=LARMOR,
        date="20240422",
        time="093012.250000",
        timezone="+0900",
        description="MR Brain with and without contrast",
        accession="HK240422-07",
        accession_issuer=HIKARI,
        procedures=(Code("816077007", "SCT", "MRI of brain"),),
        reason=Code("25064002", "SCT", "Headache"),
        referrer="Suzuki^Hanako=鈴木^花子=すずき^はなこ",
        performer="Sato^Ken=佐藤^健=さとう^けん",
        operators=("Tanaka^Yui=田中^結衣=たなか^ゆい", "Ito^Sho=伊藤^翔=いとう^しょう"),
        institution="Hikari Medical Center",
        series=(
            series(
                number=1,
                description="T1 SAG",
                time="093145.100000",
                pictures=_brain_slices(sides, head.T1),
                attributes=_mr("SE", te=9, tr=560),
            ),
            series(
                number=2,
                description="T2 TSE AX",
                time="093602",
                pictures=_brain_slices(levels, head.T2),
                attributes=_mr("SE", te=98, tr=4800, train=15),
                refers_to=1,
            ),
            series(
                number=3,
                description="FLAIR AX",
                time="094121.5",
                pictures=_brain_slices(levels, head.FLAIR),
                attributes=_mr(["SE", "IR"], te=120, tr=9000, train=16, ti=2500),
                refers_to=1,
            ),
            series(
                number=4,
                description="DWI b1000 AX",
                time="094733",
                pictures=_brain_slices(levels[1:], head.DIFFUSION, blur=1.6),
                attributes=_mr("EP", te=84, tr=5200, train=96),
                refers_to=1,
            ),
            series(
                number=5,
                description="T1 AX +Gd",
                time="095518",
                pictures=_brain_slices(levels, head.T1_CONTRAST),
                attributes=_mr("SE", te=9, tr=600)
                | {"ContrastBolusAgent": "Gadobutrol 1 mmol/ml", "ContrastBolusVolume": "7.5"},
                refers_to=1,
            ),
        ),
    )


def _mr(
    sequence: str | list[str], *, te: int, tr: int, train: int = 1, ti: int = 0
) -> dict[str, object]:
    """The acquisition attributes of the MR Image module (PS3.3 section C.8.3.1)."""
    inversion = {"InversionTime": str(ti)} if ti else {}
    return {
        "ScanningSequence": sequence,
        "SequenceVariant": "SK",
        "EchoTime": str(te),
        "RepetitionTime": str(tr),
        "EchoTrainLength": str(train),
        "WindowCenter": "450",
        "WindowWidth": "900",
        **inversion,
    }


def ct_chest() -> Study:
    """The nodule that the chest radiograph of case 3 showed, looked at closely."""
    levels = [axial(z, spacing=1.45, y=10) for z in (86, 60, 32, 6, -28, -68, -112)]
    scout = coronal(0, spacing=radiograph.CHEST_WIDTH / 384, rows=384, columns=384, z=-30)
    series = partial(
        Series, kind="CT", body_part="CHEST", region=CHEST, protocol="Thorax", encoding="implicit"
    )
    place = "chest_followup.zip!/export/CT thorax/{:s}/case4_{{n:03d}}.dcm"
    return Study(
        key="case4",
        patient=OKAFOR,
        equipment=HELIX,
        date="20240619",
        time="152040",
        description="CT chest without contrast",
        accession="A0049127",
        procedures=(
            Code("29252-4", "LN", "CT Chest WO contrast"),
            Code("CTTHX1", "99SOUTHMERE", "CT thorax plain"),
        ),
        reason="Nodule on chest radiograph, follow-up",
        referrer="Lindqvist^Eva^^Dr.",
        performer="Marsh^Daniel",
        operators=("Bell^Joan", "Pereira^Rui"),
        institution="Southmere General Hospital",
        series=(
            series(
                number=1,
                description="Topogram",
                time="152112",
                place=place.format("scout"),
                pictures=(Picture(plane=scout, draw=_scout),),
                attributes=SCOUT,
            ),
            series(
                number=2,
                description="Lung 1.5 B60f",
                time="152301",
                place="chest_followup.zip!/export/lung.zip!/CT thorax/lung/case4_{n:03d}.dcm",
                pictures=_chest_slices(levels, sharp=True),
                attributes=LUNG_WINDOW,
                refers_to=1,
            ),
            series(
                number=3,
                description="Mediastinum 3.0 B30f",
                time="152301",
                place=place.format("mediastinum"),
                pictures=_chest_slices(levels, sharp=False),
                attributes=SOFT_WINDOW,
                refers_to=1,
            ),
        ),
    )


def _scout(rng: np.random.Generator) -> Field:
    """The scout view is a projection; its numbers only look like Hounsfield units."""
    return radiograph.chest_frontal(384, 384, rng, supine=True, nodule=True) * 1700 - 1000
