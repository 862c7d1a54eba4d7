"""Plain films: a chest in two views (DX), a chest at the bedside and both knees (CR)."""

from functools import partial

from dicom_assets.sample.cases.people import (
    CHEST,
    FLATPLANE,
    KNEE,
    LEFEVRE,
    MUELLER,
    OKAFOR,
    PLATE_READER,
)
from dicom_assets.sample.model import Code, Picture, Series, Study
from dicom_assets.sample.phantoms import radiograph

ROWS = 512
KNEE_COLUMNS = 384
CHEST_SPACING = radiograph.CHEST_WIDTH / ROWS
LATERAL_SPACING = radiograph.LATERAL_WIDTH / ROWS
KNEE_SPACING = radiograph.KNEE_WIDTH / KNEE_COLUMNS


def chest_two_views() -> Study:
    """A chest from the front and from the side; a nodule in the right upper lobe."""
    frontal = partial(radiograph.chest_frontal, ROWS, ROWS, supine=False, nodule=True)
    lateral = partial(radiograph.chest_lateral, ROWS, ROWS)
    series = partial(Series, kind="DX", body_part="CHEST", region=CHEST, place="case3_{n:03d}.dcm")
    return Study(
        key="case3",
        patient=OKAFOR,
        equipment=FLATPLANE,
        date="20240603",
        time="101512.345",
        timezone="-0500",
        description="XR chest PA and lateral",
        accession="A0048830",
        procedures=(Code("36643-5", "LN", "XR Chest 2 Views"),),
        reason=Code("29857009", "SCT", "Chest Pain"),
        referrer="Lindqvist^Eva^^Dr.",
        performer="Marsh^Daniel",
        operators=("Nguyen^Kim",),
        institution="Southmere General Hospital",
        series=(
            series(
                number=1,
                description="Chest PA",
                time="101544.120",
                pictures=(
                    Picture(
                        draw=frontal, attributes=_view("PA", to_right="L", spacing=CHEST_SPACING)
                    ),
                ),
            ),
            series(
                number=2,
                description="Chest lateral",
                time="101702.900",
                pictures=(
                    Picture(
                        draw=lateral,
                        attributes=_view("LL", to_right="P", spacing=LATERAL_SPACING),
                    ),
                ),
            ),
        ),
    )


def _view(position: str, *, to_right: str, spacing: float) -> dict[str, object]:
    """View Position, the side of the patient at the picture's right, and the detector's pitch."""
    return {
        "ViewPosition": position,
        "PatientOrientation": [to_right, "F"],
        "ImagerPixelSpacing": [f"{spacing:.6g}"] * 2,
    }


def both_knees() -> Study:
    """Both knees, each from the front and the side; the right one is worn on its inner side."""
    return Study(
        key="case5",
        patient=LEFEVRE,
        equipment=PLATE_READER,
        date="20231109",
        time="143000",
        description="Radiographie des deux genoux",
        accession="PX-77120",
        procedures=(Code("36590-8", "LN", "XR Knee - bilateral AP and Lateral"),),
        reason=Code("30989003", "SCT", "Knee pain"),
        referrer="Bérenger^Zoé^^Dr.",
        performer="Dubois^Hélène",
        operators=("Chaïb^Naïma",),
        institution="Clinique du Pré",
        series=(_knee(1, "R", "droit", "143112"), _knee(2, "L", "gauche", "143540")),
    )


def _knee(number: int, side: radiograph.Side, word: str, time: str) -> Series:
    frontal = partial(radiograph.knee_frontal, ROWS, KNEE_COLUMNS, side=side)
    lateral = partial(radiograph.knee_lateral, ROWS, KNEE_COLUMNS, side=side)
    behind = "P" if side == "R" else "A"
    return Series(
        number=number,
        kind="CR",
        description=f"Genou {word} face et profil",
        time=time,
        body_part="KNEE",
        laterality=side,
        region=KNEE,
        place=f"Radiography/knees/{word}/IM{{n:04d}}",
        pictures=(
            Picture(draw=frontal, attributes=_view("AP", to_right="L", spacing=KNEE_SPACING)),
            Picture(draw=lateral, attributes=_view("LL", to_right=behind, spacing=KNEE_SPACING)),
        ),
    )


def chest_portable() -> Study:
    """The patient of case 1 two days later, at the bedside: nobody gave an accession number."""
    draw = partial(radiograph.chest_frontal, ROWS, ROWS, supine=True, nodule=False)
    return Study(
        key="case8",
        patient=MUELLER,
        equipment=PLATE_READER,
        date="20240313",
        time="0930",
        description="Thorax Bettaufnahme",
        accession="",
        procedures=(Code("36589-0", "LN", "Portable XR Chest AP single view"),),
        reason="Lagekontrolle ZVK",
        referrer="Groß^Änne^^Dr.",
        performer="Weiß^Sören",
        operators=("Kühn^Jan",),
        institution="Klinikum Nordburg",
        series=(
            Series(
                number=1,
                kind="CR",
                description="Thorax a.p. liegend",
                time="0931",
                body_part="CHEST",
                place="case8_{n:03d}",
                pictures=(
                    Picture(draw=draw, attributes=_view("AP", to_right="L", spacing=CHEST_SPACING)),
                ),
            ),
        ),
    )
