"""A bone scan: counts from a skeleton that takes up the tracer, with hot metastases.

Drawn as the gamma camera sees it, from the front and from the back; each pixel's count obeys
Poisson's law.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dicom_assets.sample.phantoms.shapes import (
    Field,
    blurred,
    capsule,
    ellipse,
    hypotenuse,
    inside,
)

View = Literal["anterior", "posterior"]

# x to the patient's left, y down from the crown, in millimetres
_LIMBS = (
    ((150, 330), (180, 590), 13, 0.55), ((180, 600), (206, 830), 10, 0.55),
    ((208, 850), (214, 930), 17, 0.45), ((88, 960), (80, 1330), 16, 0.6),
    ((80, 1370), (74, 1690), 13, 0.55), ((74, 1710), (92, 1765), 13, 0.6),
)  # fmt: skip
_JOINTS = (
    ((148, 318), 24, 1.1), ((180, 595), 15, 0.8), ((207, 838), 13, 0.8), ((92, 905), 27, 1.2),
    ((80, 1345), 28, 1.1), ((76, 1700), 17, 0.9), ((26, 306), 10, 0.9),
)  # fmt: skip
_METASTASES = (
    ((-96, 470), 13, 4.5), ((74, 590), 11, 4.0), ((2, 610), 15, 5.0), ((-8, 505), 12, 4.2),
    ((-122, 764), 17, 5.5), ((44, 860), 16, 4.8), ((86, 1060), 17, 4.6), ((40, 70), 12, 3.6),
)  # fmt: skip


def _skeleton(x: Field, y: Field, view: View) -> Field:
    side = np.abs(x)
    body = np.maximum(side - 150 - 20 * np.sin(y / 190), np.abs(y - 590) - 330)
    bones = 0.13 * inside(body, 40)
    bones += 0.09 * inside(capsule(side, y, (88, 930), (78, 1720), (70, 34)), 20)
    bones += 0.08 * inside(capsule(side, y, (154, 330), (210, 900), (40, 24)), 20)
    for start, end, radius, uptake in _LIMBS:
        bones += uptake * inside(capsule(side, y, start, end, radius), 6)
    for place, radius, uptake in _JOINTS:
        bones += uptake * inside(hypotenuse(side - place[0], y - place[1]) - radius, 10)
    skull = ellipse(x, y, (0, 105), (76, 98))
    bones += 0.55 * inside(skull, 6) + 0.5 * inside(np.abs(skull + 5) - 6, 6)
    bones += 0.5 * inside(ellipse(x, y, (0, 190), (44, 40)), 8)
    front = view == "anterior"
    vertebra = 0.75 + 0.3 * np.cos(y * np.float32(2 * np.pi / 30))
    spine = np.maximum(side - 17 - 0.008 * (y - 300), np.abs(y - 545) - 305)
    bones += (0.7 if front else 1.35) * vertebra * inside(spine, 6)
    for number in range(10):
        reach = np.clip(side / (92 + 6 * min(number, 6)), 0, 1.0)
        drop = 52 * reach**2 if not front else 60 * (1 - reach) ** 1.3 + 26
        path = 318 + 29 * number + drop
        edge = 94 + 6 * min(number, 6)
        bones += 0.5 * inside(np.maximum(np.abs(y - path) - 6, side - edge), 5)
    if front:
        bones += 0.9 * inside(np.maximum(side - 14, np.abs(y - 400) - 86), 6)
        bones += 0.6 * inside(capsule(side, y, (16, 306), (140, 296), 7), 5)
    else:
        bones += 0.55 * inside(np.abs(capsule(side, y, (124, 330), (86, 450), (40, 6))) - 6, 6)
        bones += 0.9 * inside(ellipse(side, y, (58, 640), (24, 44)), 10)
    wing = np.abs(ellipse(side, y, (76, 800), (62, 74))) - 13
    bones += (0.75 if front else 0.9) * inside(np.maximum(wing, 740 - y), 8)
    bones += (0.6 if front else 1.25) * inside(ellipse(x, y, (0, 805), (38, 56)), 10)
    bones += 0.7 * inside(np.abs(ellipse(side, y, (40, 905), (34, 30))) - 9, 8)
    if front:
        bones += 2.6 * inside(ellipse(x, y, (0, 900), (34, 26)), 10)
    return bones


@dataclass(frozen=True, kw_only=True)
class Scan:
    """How the camera is set.

    Attributes:
        rows: Height of the picture.
        columns: Width of the picture.
        spacing: Millimetres per pixel.
        top: Where the picture starts, in millimetres below the crown.
        exposure: Counts of ordinary bone in a pixel.
    """

    rows: int
    columns: int
    spacing: float
    top: float
    exposure: float


def counts(view: View, rng: np.random.Generator, scan: Scan) -> Field:
    """Counts per pixel; from the back, the patient's left is at the left."""
    x = (np.arange(scan.columns, dtype=np.float32) - (scan.columns - 1) / 2) * np.float32(
        scan.spacing
    )
    y = np.arange(scan.rows, dtype=np.float32) * np.float32(scan.spacing) + np.float32(scan.top)
    x, y = np.meshgrid(x if view == "anterior" else -x, y)
    image = _skeleton(x, y, view)
    for place, radius, uptake in _METASTASES:
        image += uptake * inside(hypotenuse(x - place[0], y - place[1]) - radius, 14)
    image = blurred(image, 5.5 / scan.spacing)
    return rng.poisson(np.maximum(image, 0) * scan.exposure + 0.15).astype(np.float32)
