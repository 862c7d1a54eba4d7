"""Projection radiographs for CR and DX: a chest from the front and the side, knees likewise.

What is drawn is how much each pixel's ray is attenuated: thicknesses add up, as they do on film.
Bone is bright (MONOCHROME2). x runs to the right of the picture, y down it, in millimetres.
"""

from typing import Literal

import numpy as np

from dicom_assets.sample.phantoms.shapes import (
    Field,
    blurred,
    capsule,
    ellipse,
    grain,
    hypotenuse,
    inside,
)

Side = Literal["R", "L"]
CHEST_WIDTH, LATERAL_WIDTH, KNEE_WIDTH = 370.0, 330.0, 190.0


def _grid(rows: int, columns: int, width: float) -> tuple[Field, Field]:
    spacing = width / columns
    x = (np.arange(columns, dtype=np.float32) - (columns - 1) / 2) * spacing
    y = (np.arange(rows, dtype=np.float32) - (rows - 1) / 2) * spacing
    return np.meshgrid(x, y)


def _thickness(distance: Field, full: float) -> Field:
    """How thick a round body is along the ray: 1 from `full` millimetres inside its edge."""
    return np.sqrt(np.clip(-distance / full, 0, 1))


def _bone(distance: Field, cortex: float) -> Field:
    """A long bone on film: bright compact edges around a greyer, spongy middle."""
    wall = np.exp(-((np.minimum(distance, 0) / cortex + 0.6) ** 2)) * inside(distance)
    return 0.62 * _thickness(distance, 4 * cortex) + 0.38 * wall


def _finished(image: Field, rng: np.random.Generator, *, noise: float) -> Field:
    """The detector's answer: level where much is absorbed, blurred a little, with quantum noise."""
    rows, columns = image.shape
    level = 1 - np.exp(-1.7 * np.clip(image, 0, None))
    return np.clip(blurred(level, 0.8) + noise * grain((rows, columns), rng, sigma=0.6), 0, 1)


def _mirrored(half: Field) -> Field:
    """A picture whose left half mirrors the right one, which alone is given."""
    return np.hstack([half[:, ::-1], half])


def chest_frontal(
    rows: int, columns: int, rng: np.random.Generator, *, supine: bool, nodule: bool
) -> Field:
    """A chest from the front, the patient's right side at the left; 0 is air, about 1 is bone.

    Args:
        rows: Height of the picture.
        columns: Width of the picture.
        rng: For the noise.
        supine: Taken lying: a wide heart and high domes, as portable pictures have.
        nodule: Whether a nodule lies in the right upper lobe.
    """
    x, y = _grid(rows, columns, CHEST_WIDTH)
    side = np.abs(x)
    trunk = np.maximum(side - 168 - 8 * np.sin(y / 70), -(y + 118) - 0 * x)
    shoulder = capsule(side, y, (40, -150), (150, -112), (28, 52))
    neck = np.maximum(side - 56 - np.clip(y + 140, 0, 60) * 0.7, y - 40)
    arm = capsule(side, y, (172, -112), (206, 120), 38)
    body = np.minimum(np.minimum(trunk, shoulder), np.minimum(neck, arm))
    heart, vessels = _heart_shadow(x, y, supine=supine)
    image = 0.50 * _thickness(body, 70)
    image -= 0.41 * _lung_fields(x, y, supine=supine) * (1 - 0.8 * heart)
    image += 0.10 * heart + vessels
    image += 0.08 * _thickness(ellipse(x, y, (-84, 165), (96, 84 if supine else 76)), 40)
    image += 0.05 * _thickness(ellipse(x, y, (86, 172), (92, 78)), 40)
    right_half = x[:, columns // 2 :], y[:, columns // 2 :]
    image += _mirrored(_ribs(*right_half) + _shoulder_girdle(*right_half) + _spine(*right_half))
    if nodule:
        image += 0.2 * _thickness(ellipse(x, y, (-84, -50), (13, 12)), 9)
    return _finished(image, rng, noise=0.007)


def _lung_fields(x: Field, y: Field, *, supine: bool) -> Field:
    """Air, less where vessels fan out from the roots."""
    raise_by = 16 if supine else 0
    right = ellipse(x + 0.10 * y, y, (-76, 0), (64, 138))
    left = ellipse(x - 0.10 * y, y, (76, 4), (61, 136))
    right = np.maximum(right, -ellipse(x, y, (-78, 168 - raise_by), (94, 92)))
    left = np.maximum(left, -ellipse(x, y, (80, 176 - raise_by), (90, 92)))
    air = _thickness(np.minimum(right, left), 55)
    x, y = x[::2, ::2], y[::2, ::2]  # vessels are faint: half the resolution is enough
    vessels = np.zeros_like(x)
    for angle in np.linspace(-1.25, 1.3, 13):
        for sign, root in ((-1, (-30.0, 4.0)), (1, (34.0, -2.0))):
            reach = 92 - 22 * abs(np.sin(3 * angle))
            bend = 0.16 * np.sin(5 * angle + sign)
            middle = (
                root[0] + sign * 0.5 * reach * np.cos(angle),
                root[1] + 0.5 * reach * np.sin(angle),
            )
            end = (
                root[0] + sign * reach * np.cos(angle + bend),
                root[1] + 1.1 * reach * np.sin(angle + bend),
            )
            vessels += 0.5 * _thickness(capsule(x, y, root, middle, (6.0, 3.2)), 4)
            vessels += 0.3 * _thickness(capsule(x, y, middle, end, (3.2, 0.8)), 3)
    return air * (1 - 0.33 * np.clip(vessels, 0, 1.3).repeat(2, axis=0).repeat(2, axis=1))


def _heart_shadow(x: Field, y: Field, *, supine: bool) -> tuple[Field, Field]:
    """The heart as a thickness from 0 to 1, and what the great vessels and airways add."""
    wide = 1.14 if supine else 1.0
    turned = x * 0.86 + (y - 62) * 0.5
    heart = np.minimum(
        ellipse(turned, (y - 62) * 0.86 - x * 0.5, (18, 0), (66 * wide, 47 * wide)),
        ellipse(x, y, (-14, 56), (36 * wide, 48)),
    )
    vessels = np.minimum(
        capsule(x, y, (24, -38), (26, 30), (15, 14)), capsule(x, y, (-12, -46), (-12, 30), 15)
    )
    aorta = np.minimum(vessels, ellipse(x, y, (28, -40), (18, 17)))
    middle = np.abs(x) - 24 - 0.0006 * (np.minimum(y, 20) - 20) ** 2
    shadow = 0.10 * _thickness(aorta, 12) + 0.12 * _thickness(middle, 16)
    windpipe = np.maximum(np.abs(x - 1) - 8, y + 28)
    bronchi = np.minimum(
        capsule(x, y, (0, -32), (-30, 0), (8, 5)), capsule(x, y, (0, -32), (36, 4), (7, 5))
    )
    return _thickness(heart, 22), shadow - 0.11 * _thickness(np.minimum(windpipe, bronchi), 6)


def _ribs(x: Field, y: Field) -> Field:
    """Ten pairs: behind, from the spine outwards and down; in front, fainter, back inwards."""
    side = np.abs(x)
    bones = np.zeros_like(x)
    for number in range(10):
        top = -132 + 27.5 * number
        edge = 88 + 45 * np.sin(min(1.0, 0.25 + 0.16 * number) * np.pi / 2)
        reach = np.clip(side / edge, 0, 1)
        behind = top - 22 * reach * (1 - reach) * 2 + (34 + 2 * number) * reach**2.6
        slope = np.sqrt(1 + (1.1 * reach) ** 2)
        band = np.abs(y - behind) / slope - 5.2
        bones += 0.115 * _bone(np.maximum(band, np.maximum(side - edge, 14 - side)), 1.6)
        front = behind + 14 + 62 * (1 - reach) ** 1.0
        band = np.abs(y - front) / np.sqrt(1.35) - 5.6
        low, high = 34 + 5 * number, edge
        if number < 7:
            bones += 0.06 * _bone(np.maximum(band, np.maximum(side - high, low - side)), 1.8)
        curve = hypotenuse((side - edge + 6) / 1.0, (y - behind - 8) / 1.5) - 8
        bones += 0.07 * _thickness(curve, 6)
    return bones


def _shoulder_girdle(x: Field, y: Field) -> Field:
    side = np.abs(x)
    collar = np.minimum(
        capsule(side, y, (14, -116), (70, -130), (7, 5)),
        capsule(side, y, (70, -130), (138, -146), (5, 6)),
    )
    blade = np.maximum(
        capsule(side, y, (134, -128), (104, 10), (30, 5)), -(side - 92 - 0.12 * (y + 60))
    )
    humerus = np.minimum(
        ellipse(side, y, (168, -118), (23, 23)), capsule(side, y, (170, -110), (184, 40), 14)
    )
    return 0.2 * _bone(collar, 2.2) + 0.10 * _bone(blade, 2.5) + 0.26 * _bone(humerus, 3.5)


def _spine(x: Field, y: Field) -> Field:
    column = np.abs(x) - 17 + 1.6 * np.cos(y * np.float32(2 * np.pi / 24))
    discs = np.clip(np.cos(y * np.float32(2 * np.pi / 24)) * 3 - 1.8, 0, 1)
    process = hypotenuse(x / 0.55, (y + 3) % 24 - 12) - 6
    pedicles = hypotenuse(np.abs(x) - 11, ((y + 6) % 24 - 12) / 1.3) - 3.5
    bone = 0.15 * _bone(column, 2.5) * (1 - 0.4 * discs)
    return bone + 0.035 * inside(process, 2) + 0.035 * inside(pedicles, 2)


def chest_lateral(rows: int, columns: int, rng: np.random.Generator) -> Field:
    """A chest from the left side: breastbone at the left, spine at the right, and the nodule."""
    x, y = _grid(rows, columns, LATERAL_WIDTH)
    bent = x - 10 * np.sin((y + 30) / 80)
    body = np.maximum(ellipse(bent, y, (4, 30), (122, 330)), -(y + 172))
    image = 0.54 * _thickness(body, 60)
    lungs = np.maximum(ellipse(bent, y, (2, -6), (95, 142)), -ellipse(x, y, (-8, 176), (118, 92)))
    image -= 0.42 * _thickness(lungs, 46)
    heart = ellipse(x * 0.8 + (y - 56) * 0.6, (y - 56) * 0.8 - x * 0.6, (-22, 14), (54, 40))
    image += 0.20 * _thickness(heart, 30)
    arch = np.abs(hypotenuse(x - 4, y + 34) - 40) - 13
    image += 0.07 * _thickness(np.where(y < -20, arch, 40), 9)
    image += 0.07 * _thickness(np.maximum(np.abs(x - 42) - 12, np.abs(y - 40) - 70), 9)
    image -= 0.09 * _thickness(np.maximum(np.abs(x - 0.12 * y - 8) - 8, y + 18), 6)
    image += 0.10 * _thickness(ellipse(x, y, (14, 6), (22, 18)), 14)
    image += 0.16 * _thickness(ellipse(x, y, (34, -62), (13, 12)), 9)
    back = 76 + 10 * np.sin((y + 10) / 78)
    turn = np.float32(2 * np.pi / 26)
    column = np.abs(x - back) - 15 + 1.8 * np.cos(y * turn)
    discs = np.clip(np.cos(y * turn) * 3 - 1.7, 0, 1)
    image += 0.20 * _bone(column, 2.6) * (1 - 0.65 * discs)
    spines = np.abs((y - 0.7 * (x - back) + 4) % 26 - 13) - 4
    image += 0.12 * _thickness(np.maximum(spines, np.abs(x - back - 32) - 15), 4)
    image += 0.10 * _bone(np.maximum(np.abs(bent + 97 - 0.05 * y) - 5, np.abs(y + 10) - 82), 2.2)
    for number in range(10):
        reach = (back + 6 - x) / (back + 100)
        path = -150 + 27 * number + 92 * np.clip(reach, 0, 1) - 16 * np.sin(np.pi * reach)
        band = np.abs(y - path) / 1.12 - 4.6
        image += 0.06 * _bone(np.maximum(band, np.maximum(-reach, reach - 0.93) * 150), 1.6)
    return _finished(image, rng, noise=0.007)


def knee_frontal(rows: int, columns: int, rng: np.random.Generator, *, side: Side) -> Field:
    """A knee from the front. The fibula lies on the outer side: at the left for a right knee."""
    x, y = _grid(rows, columns, KNEE_WIDTH)
    x = x if side == "R" else -x
    leg = np.abs(x + 0.02 * y) - 66 - 8 * np.sin((y - 10) / 60) + 0.0006 * y**2
    image = 0.34 * _thickness(leg, 52)
    shaft = capsule(x, y, (2, -170), (0, -46), (19, 22))
    condyles = np.minimum(ellipse(x, y, (-22, -26), (24, 26)), ellipse(x, y, (24, -25), (25, 28)))
    bridge = ellipse(x, y, (1, -44), (41, 27))
    notch = -ellipse(x, y, (0, 0), (8, 14))
    femur = np.maximum(np.minimum(np.minimum(shaft, condyles), bridge), notch)
    narrowed = 0.085 * np.maximum(x, 0) if side == "R" else 0
    top = 6 - y + 0.03 * np.abs(x) - narrowed
    head = np.minimum(ellipse(x, y, (1, 27), (45, 25)), capsule(x, y, (2, 36), (4, 170), (35, 16)))
    spines = np.minimum(
        capsule(x, y, (-5, 14), (-4, 3), (6, 1)), capsule(x, y, (6, 14), (6, 4), (6, 1))
    )
    tibia = np.minimum(np.maximum(head, top), spines)
    fibula = np.minimum(
        ellipse(x, y, (-43, 32), (10, 12)), capsule(x, y, (-42, 36), (-36, 170), (8, 7))
    )
    patella = ellipse(x, y, (-1, -44), (21, 23))
    image += 0.42 * _bone(femur, 3.2) + 0.42 * _bone(tibia, 3.2)
    image += 0.24 * _bone(fibula, 2.2) + 0.13 * _bone(patella, 2.2)
    image += _sponge(x, y, np.minimum(femur, tibia), rng)
    if side == "R":
        spur = np.minimum(
            capsule(x, y, (42, -9), (49, -3), (7, 1.5)), capsule(x, y, (40, 16), (49, 9), (8, 1.5))
        )
        image += 0.3 * _thickness(np.maximum(spur, -np.minimum(femur, tibia)), 5)
        image += 0.14 * np.exp(-(((x - 24) / 18) ** 2) - ((y - 11) / 4) ** 2) * inside(tibia)
    return _finished(image, rng, noise=0.006)


def knee_lateral(rows: int, columns: int, rng: np.random.Generator, *, side: Side) -> Field:
    """A slightly bent knee from the outer side, kneecap at the left for a right knee."""
    x, y = _grid(rows, columns, KNEE_WIDTH)
    x = x if side == "R" else -x
    thigh = capsule(x, y, (36, -190), (2, -8), (66, 52))
    calf = capsule(x, y, (4, 0), (46, 190), (49, 44))
    image = 0.36 * _thickness(np.minimum(thigh, calf), 48)
    shaft = capsule(x, y, (26, -170), (4, -44), (18, 19))
    condyle = np.minimum(ellipse(x, y, (4, -22), (29, 27)), ellipse(x, y, (12, -14), (27, 23)))
    femur = np.minimum(shaft, condyle)
    head = np.maximum(ellipse(x, y, (12, 32), (32, 24)), 12 - y - 0.06 * x)
    tibia = np.minimum(head, capsule(x, y, (12, 44), (44, 190), (24, 16)))
    tibia = np.minimum(tibia, ellipse(x, y, (-12, 54), (10, 14)))
    fibula = np.minimum(
        ellipse(x, y, (43, 38), (9, 11)), capsule(x, y, (44, 42), (78, 190), (7, 6))
    )
    patella = ellipse(x * 0.97 + y * 0.22, y * 0.97 - x * 0.22, (-49, -20), (10, 20))
    image += 0.40 * _bone(femur, 3.2) + 0.40 * _bone(tibia, 3.2)
    image += 0.22 * _bone(fibula, 2.2) + 0.34 * _bone(patella, 2.4)
    image += 0.06 * _thickness(capsule(x, y, (-46, 0), (-20, 52), 3.5), 3)
    image += 0.06 * _thickness(capsule(x, y, (-50, -40), (-30, -120), 5), 4)
    image += _sponge(x, y, np.minimum(femur, tibia), rng)
    return _finished(image, rng, noise=0.006)


def _sponge(x: Field, y: Field, bone: Field, rng: np.random.Generator) -> Field:
    """The fine streaks of spongy bone, along the load and strongest near the joint."""
    streaks = grain(x.shape, rng, sigma=1.3)
    return 0.014 * streaks * inside(bone + 3, 4) * np.exp(-((y / 55) ** 2))
