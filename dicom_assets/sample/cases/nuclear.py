"""Tracers: a PET/CT that stages a lung cancer, and a bone scan with metastases."""

from functools import partial

import numpy as np

from dicom_assets.sample.cases.people import (
    ANGER,
    FUSION,
    HALVORSEN,
    NORDBURG,
    WHOLE_BODY,
    WOJCIK,
)
from dicom_assets.sample.model import Code, Picture, Series, Study
from dicom_assets.sample.phantoms import scintigraphy, torso
from dicom_assets.sample.phantoms.shapes import Field, Plane, axial, coronal

LEVELS = (330, 32, -20, -160, -232, -330, -410)
NM_COLUMNS = 256
NM_SPACING = 1.9


def _ct(plane: Plane) -> Picture:
    draw = partial(
        torso.computed_tomography, plane, finding="metastatic_cancer", sharp=False, noise=13.0
    )
    return Picture(plane=plane, draw=draw)


def _pet(plane: Plane) -> Picture:
    draw = partial(torso.positron_emission, plane, finding="metastatic_cancer", activity=5200.0)
    return Picture(plane=plane, draw=draw)


def pet_ct() -> Study:
    """A tumour of the right upper lobe with nodes, liver and bone involved."""
    fine = [axial(z, spacing=1.9, y=10) for z in LEVELS]
    coarse = [axial(z, spacing=3.8, y=10, size=128) for z in LEVELS]
    upright = [coronal(y, spacing=4.0, rows=256, columns=128, z=-40) for y in (-30, -5, 20, 44)]
    series = partial(Series, body_part="WHOLEBODY", region=WHOLE_BODY, protocol="PET/CT FDG")
    return Study(
        key="case7",
        patient=WOJCIK,
        equipment=FUSION,
        date="20240708",
        time="081500.000000",
        timezone="+0200",
        description="FDG PET/CT Staging",
        accession="NB2024-070412",
        accession_issuer=NORDBURG,
        procedures=(Code("443271005", "SCT", "FDG PET-CT of whole body"),),
        reason="Staging bei Raumforderung im rechten Oberlappen",
        referrer="Żak^Bożena^^Dr.",
        performer="Weiß^Sören",
        operators=("Kühn^Jan", "Özdemir^Aylin"),
        institution="Klinikum Nordburg",
        series=(
            series(
                number=1,
                kind="CT",
                description="CT low dose",
                time="081903",
                place="nuclear_medicine.zip!/PETCT/CT/{n:04d}.dcm",
                pictures=tuple(_ct(plane) for plane in fine),
                attributes={"WindowCenter": "40", "WindowWidth": "400", "PixelRepresentation": 1},
            ),
            series(
                number=2,
                kind="PT",
                description="PET attenuation corrected",
                time="082417.730000",
                place="Oncology/PET/AC/case7_{n:03d}.dcm",
                pictures=tuple(_pet(plane) for plane in coarse),
            ),
            series(
                number=3,
                kind="PT",
                description="PET coronal reformat",
                time="082417.730000",
                place="Oncology/PET/coronal/case7_{n:03d}",
                pictures=tuple(_pet(plane) for plane in upright),
                encoding="rle",
                refers_to=2,
                attributes={"ImageType": ["DERIVED", "PRIMARY"]},
            ),
        ),
    )


def _whole_body(rng: np.random.Generator) -> Field:
    scan = scintigraphy.Scan(
        rows=1024, columns=NM_COLUMNS, spacing=NM_SPACING, top=-40, exposure=14
    )
    return np.stack([scintigraphy.counts(view, rng, scan) for view in ("anterior", "posterior")])


def _spot(rng: np.random.Generator, *, view: scintigraphy.View, top: float) -> Field:
    scan = scintigraphy.Scan(
        rows=NM_COLUMNS, columns=NM_COLUMNS, spacing=NM_SPACING, top=top, exposure=40
    )
    return scintigraphy.counts(view, rng, scan)[np.newaxis]


def bone_scan() -> Study:
    """Spread to ribs, spine, pelvis and femur, three hours after the injection."""
    series = partial(
        Series,
        kind="NM",
        body_part="WHOLEBODY",
        region=WHOLE_BODY,
        attributes={"PixelSpacing": [str(NM_SPACING)] * 2},
    )
    return Study(
        key="case9",
        patient=HALVORSEN,
        equipment=ANGER,
        date="20240517",
        time="124500",
        timezone="+0200",
        description="Bone scan",
        accession="NB2024-051760",
        accession_issuer=NORDBURG,
        procedures=(Code("25031-6", "LN", "NM Bone Views"),),
        reason="Prostate cancer, rising PSA",
        referrer="Brandt^Ole^^Dr.",
        performer="Vogel^Ines",
        operators=("Lang^Petra",),
        institution="Klinikum Nordburg",
        series=(
            series(
                number=1,
                description="Whole body ANT POST",
                time="124730",
                place="nuclear_medicine.zip!/bone scan/whole body/{n:04d}.dcm",
                pictures=(
                    Picture(
                        draw=_whole_body,
                        attributes={"ImageType": ["ORIGINAL", "PRIMARY", "WHOLE BODY", "EMISSION"]},
                    ),
                ),
            ),
            series(
                number=2,
                description="Static thorax and pelvis",
                time="131502",
                place="nuclear_medicine.zip!/bone scan/spots/{n:04d}.dcm",
                pictures=(
                    Picture(draw=partial(_spot, view="posterior", top=280)),
                    Picture(draw=partial(_spot, view="anterior", top=620)),
                ),
            ),
        ),
    )
