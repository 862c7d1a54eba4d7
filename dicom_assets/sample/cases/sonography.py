"""An ultrasound of the upper abdomen: stills of the right side, a clip of the left kidney."""

from functools import partial

import numpy as np

from dicom_assets.sample.cases.people import ECHO, KIDNEY, SOTO
from dicom_assets.sample.model import Code, Picture, Series, Study
from dicom_assets.sample.phantoms import ultrasound
from dicom_assets.sample.phantoms.shapes import Field

FRAMES = 6


def _clip(rng: np.random.Generator) -> Field:
    """The kidney moves with the breath."""
    shifts = 9 * np.sin(2 * np.pi * np.arange(FRAMES) / FRAMES)
    return np.stack([ultrasound.fan("kidney", rng, shift=float(shift)) for shift in shifts])


def abdomen() -> Study:
    """A gallstone, and kidneys as they should be."""
    views: tuple[ultrasound.View, ...] = ("liver", "liver", "gallbladder", "gallbladder")
    shifts = (0.0, 14.0, 0.0, -8.0)
    return Study(
        key="case6",
        patient=SOTO,
        equipment=ECHO,
        date="20240205",
        time="110455",
        timezone="-0300",
        description="US abdomen",
        accession="US-24-00311",
        procedures=(Code("24558-9", "LN", "US Abdomen"),),
        reason="Right upper quadrant pain",
        referrer="Acosta^Julian^^Dr.",
        performer="Reyes^Carmen",
        operators=("Reyes^Carmen",),
        institution="Clinica del Puerto",
        series=(
            Series(
                number=1,
                kind="US",
                description="Liver and gallbladder",
                time="110530",
                body_part="ABDOMEN",
                place="Ultrasound/20240205/case6_{n:03d}.dcm",
                pictures=tuple(
                    Picture(draw=partial(ultrasound.fan, view, shift=shift))
                    for view, shift in zip(views, shifts, strict=True)
                ),
            ),
            Series(
                number=2,
                kind="US cine",
                description="Left kidney, breathing",
                time="111208",
                laterality="L",
                region=KIDNEY,
                place="Ultrasound/20240205/clips/case6_{n:03d}.dcm",
                pictures=(Picture(draw=_clip),),
            ),
        ),
    )
