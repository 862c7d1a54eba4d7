"""Abdominal ultrasound: a curved-array fan of speckle with liver, gallbladder and kidneys.

Echoes are made in the probe's own coordinates (depth and angle), where speckle has its natural
shape, and then scan-converted, as a real machine does.
"""

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dicom_assets.sample.phantoms.shapes import (
    Field,
    blurred,
    capsule,
    ellipse,
    folds,
    hypotenuse,
    inside,
)

View = Literal["liver", "gallbladder", "kidney"]
ROWS, COLUMNS = 384, 512
SPACING = 0.45
_DEPTHS, _ANGLES = 360, 220
_PROBE_RADIUS, _DEPTH, _HALF_ANGLE = 45.0, 150.0, 0.62


def _polar() -> tuple[Field, Field, Field]:
    """Depth below the probe, and the place in the body (x right of the picture, y down)."""
    depth = np.linspace(0, _DEPTH, _DEPTHS, dtype=np.float32)[:, np.newaxis]
    angle = np.linspace(-_HALF_ANGLE, _HALF_ANGLE, _ANGLES, dtype=np.float32)[np.newaxis, :]
    reach = depth + _PROBE_RADIUS
    return depth, reach * np.sin(angle), reach * np.cos(angle) - _PROBE_RADIUS


def _liver(x: Field, y: Field) -> tuple[Field, Field]:
    """Echo strength, and how much the ultrasound has been strengthened by what lies above."""
    echo = np.full_like(x, 0.34)
    veins = (((-50, 118), (4, 62), 6.0), ((10, 122), (6, 58), 5.0), ((62, 104), (14, 56), 5.0))
    for start, end, width in veins:
        echo *= 1 - 0.93 * inside(capsule(x, y, start, end, (width, 0.4 * width)))
    for place, size in (((-36, 54), 5), ((34, 40), 4), ((-12, 92), 5)):
        ring = ellipse(x, y, place, (size, 0.7 * size))
        echo += 0.55 * inside(np.abs(ring) - 1.0)
        echo *= 1 - 0.9 * inside(ring)
    dome = hypotenuse(x, y - 10) - 118 + 0.08 * x
    echo += 1.5 * inside(np.abs(dome) - 1.2)
    echo *= 1 - 0.45 * inside(-dome + 1)
    return echo, np.ones_like(x)


def _gallbladder(x: Field, y: Field) -> tuple[Field, Field]:
    """A gallbladder with one stone: no echo in bile, more behind it, none behind the stone."""
    echo = np.full_like(x, 0.33)
    tilt_x, tilt_y = 0.9 * x + 0.43 * (y - 62), 0.9 * (y - 62) - 0.43 * x
    sac = ellipse(tilt_x + 0.004 * tilt_y**2, tilt_y, (0, 0), (40, 17))
    echo += 0.5 * inside(np.abs(sac - 1) - 1.0)
    echo *= 1 - 0.97 * inside(sac)
    stone = ellipse(x, y, (17, 66), (8, 6))
    echo += 1.6 * inside(stone) * np.clip((66 - y) / 5 + 0.5, 0.2, 1)
    behind = np.clip((y - 66) / 12, 0, 1)
    gain = 1 + 0.9 * behind * inside(np.abs(x + 12) - 20, 6)
    gain *= 1 - 0.95 * inside(np.abs(x - 17 - 0.15 * (y - 66)) - 7, 3) * (y > 70)
    return echo, gain


def _kidney(x: Field, y: Field) -> tuple[Field, Field]:
    """A kidney along its length: dark cortex and pyramids, bright sinus, liver or spleen above."""
    echo = np.full_like(x, 0.34)
    tilt_x, tilt_y = 0.97 * x + 0.22 * (y - 78), 0.97 * (y - 78) - 0.22 * x
    outline = ellipse(tilt_x, tilt_y, (0, 0), (55, 26))
    echo += 0.7 * inside(np.abs(outline - 1) - 0.9) * np.clip(-tilt_y / 12 + 0.6, 0.2, 1)
    below = inside(-(tilt_y - 26), 8)
    echo *= 1 - 0.35 * below
    echo += inside(outline) * (0.2 - echo)
    turn = np.arctan2(tilt_y / 26, tilt_x / 55)
    ring = hypotenuse(tilt_x / 55, tilt_y / 26)
    echo *= 1 - 0.6 * inside(np.abs(ring - 0.66) - 0.11, 0.06) * np.clip(2 * np.cos(9 * turn), 0, 1)
    sinus = ellipse(tilt_x, tilt_y, (0, 0), (30, 9)) + 2.5 * np.cos(5 * turn)
    echo += 0.62 * inside(sinus, 3)
    return echo, np.ones_like(x)


def fan(view: View, rng: np.random.Generator, *, shift: float = 0.0) -> Field:
    """One frame, 0 to 255, of ROWS by COLUMNS pixels.

    Args:
        view: What the probe looks at.
        rng: For the speckle.
        shift: How far breathing has moved the organ, in millimetres.
    """
    depth, x, y = _polar()
    draw = {"liver": _liver, "gallbladder": _gallbladder, "kidney": _kidney}[view]
    echo, gain = draw(x - shift, y - 0.25 * shift)
    layers = 0.35 + 0.5 * np.exp(-(((depth - 9) / 1.2) ** 2)) + 0.45 * np.exp(-((depth - 15) ** 2))
    near = inside(depth - 19 - 1.5 * np.sin(x / 14), 3)
    echo = echo + near * (layers - echo) + 0.05 * folds((x, y, np.zeros_like(x)), 31) * echo
    spread = blurred(rng.standard_normal(x.shape, dtype=np.float32), 1.1)
    other = blurred(rng.standard_normal(x.shape, dtype=np.float32), 1.1)
    speckle = hypotenuse(spread, other)
    speckle /= speckle.mean()
    fading = np.exp(-depth / 420) * (0.75 + 0.25 * np.exp(-(((depth - 75) / 45) ** 2)))
    level = np.log10(1 + 30 * np.maximum(blurred(echo * gain, 0.9), 0.004) * speckle * fading)
    return _scan_converted(np.clip(level / np.log10(34), 0, 1) * 255)


def _scan_converted(image: Field) -> Field:
    """From depth and angle to the screen, black outside the fan."""
    seen, depth, angle = _screen()
    top, left = depth.astype(np.intp), angle.astype(np.intp)
    low, right = depth - top, angle - left
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    screen = np.zeros(seen.shape, dtype=np.float32)
    screen[seen] = upper * (1 - low) + lower * low
    return screen


@cache
def _screen() -> tuple[NDArray[np.bool_], Field, Field]:
    """Which pixels of the screen lie in the fan, and at which depth and angle, as indices."""
    column = (np.arange(COLUMNS, dtype=np.float32) - (COLUMNS - 1) / 2) * np.float32(SPACING)
    row = np.arange(ROWS, dtype=np.float32) * np.float32(SPACING) - 6
    x, y = np.meshgrid(column, row + _PROBE_RADIUS)
    depth = (hypotenuse(x, y) - _PROBE_RADIUS) / _DEPTH * (_DEPTHS - 1)
    angle = (np.arctan2(x, y) / _HALF_ANGLE + 1) / 2 * (_ANGLES - 1)
    seen = (depth >= 0) & (depth < _DEPTHS - 1) & (angle >= 0) & (angle < _ANGLES - 1)
    return seen, depth[seen], angle[seen]
