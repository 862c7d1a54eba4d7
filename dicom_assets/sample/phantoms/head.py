"""A head for CT and MR: skull, folded brain, ventricles, orbits, neck, and a few findings.

One anatomy serves every plane and every contrast, so that slices of different series and
modalities fit each other.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import numpy as np

from dicom_assets.sample.phantoms.shapes import (
    Field,
    Layers,
    Plane,
    Points,
    between,
    blurred,
    ellipse,
    ellipsoid,
    folds,
    grain,
    hypotenuse,
    inside,
    render,
)

Finding = Literal["epidural_haematoma", "glioblastoma"]

HOUNSFIELD: Mapping[str, float] = {
    "air": -1000, "skin": 40, "fat": -90, "muscle": 55, "bone": 1250, "marrow": 550,
    "csf": 6, "white": 27, "grey": 38, "falx": 52, "fluid": 10, "lens": 70, "blood": 72,
    "swelling": 45, "crack": 30, "disc": 80, "oedema": 20, "tumour": 36, "necrosis": 18,
}  # fmt: skip
T1: Mapping[str, float] = {
    "air": 8, "skin": 420, "fat": 900, "muscle": 360, "bone": 30, "marrow": 560, "csf": 110,
    "white": 640, "grey": 450, "falx": 200, "fluid": 120, "lens": 300, "disc": 330,
    "oedema": 400, "tumour": 420, "necrosis": 200,
}  # fmt: skip
T1_CONTRAST: Mapping[str, float] = {**T1, "falx": 520, "tumour": 960, "necrosis": 190}
T2: Mapping[str, float] = {
    "air": 8, "skin": 380, "fat": 620, "muscle": 170, "bone": 30, "marrow": 330, "csf": 980,
    "white": 330, "grey": 500, "falx": 120, "fluid": 1000, "lens": 120, "disc": 420,
    "oedema": 800, "tumour": 600, "necrosis": 900,
}  # fmt: skip
FLAIR: Mapping[str, float] = {
    "air": 8, "skin": 330, "fat": 600, "muscle": 200, "bone": 30, "marrow": 300, "csf": 60,
    "white": 370, "grey": 500, "falx": 120, "fluid": 70, "lens": 120, "disc": 330,
    "oedema": 850, "tumour": 700, "necrosis": 480,
}  # fmt: skip
DIFFUSION: Mapping[str, float] = {
    "air": 8, "skin": 60, "fat": 50, "muscle": 90, "bone": 10, "marrow": 40, "csf": 60,
    "white": 330, "grey": 430, "falx": 60, "fluid": 70, "lens": 60, "disc": 90,
    "oedema": 360, "tumour": 800, "necrosis": 180,
}  # fmt: skip


def _vault_and_floor(points: Points) -> tuple[Field, Field]:
    """Signed distances to the skull's inside: an ellipsoid, and a floor that slopes back."""
    _, y, z = points
    vault = ellipsoid(points, (0, 4, 0), (64, 82, 78))
    return vault, (-z - 50 - 0.38 * y) * np.float32(0.93)


def _face_and_neck(points: Points) -> Layers:
    """What surrounds the skull, from the skin inwards."""
    x, y, z = points
    scalp = ellipsoid(points, (0, 4, 0), (77, 95, 93))
    face = ellipsoid(points, (0, -36, -64), (66, 58, 68))
    neck = np.maximum(hypotenuse(x / 1.05, (y - 18) / 1.1) - 56, z + 45)
    nose = np.minimum(
        ellipsoid((x, y - 0.35 * (z + 60), z), (0, -90, -60), (12, 18, 22)),
        ellipsoid(points, (0, -74, -116), (22, 18, 14)),
    )
    outer = np.minimum(np.minimum(scalp, face), np.minimum(neck, nose))
    yield "skin", inside(outer)
    yield "fat", inside(outer + 2.5)
    yield "muscle", inside(np.minimum(np.minimum(neck, face) + 9, scalp + 6))
    yield "air", inside(np.maximum(ellipsoid(points, (0, -52, -66), (13, 36, 18)), 2 - np.abs(x)))
    yield "air", inside(ellipsoid(points, (0, -12, -98), (12, 9, 46)))
    yield "marrow", inside(np.abs(ellipsoid(points, (0, -38, -104), (42, 42, 18))) - 4)
    yield "bone", inside(np.maximum(np.abs(ellipsoid(points, (0, -34, -86), (30, 36, 8))), y) - 2)
    body = np.maximum(hypotenuse(x, (y - 16) / 0.9) - 13, z + 78)
    yield "bone", inside(body)
    yield "marrow", inside(body + 2)
    yield "disc", inside(np.maximum(body, np.abs((z + 8) % 22 - 11) - 2.5))
    arch = np.maximum(np.abs(hypotenuse(x, y - 36) - 15) - 4, z + 84)
    yield "bone", inside(arch)
    yield "csf", inside(np.maximum(hypotenuse(x, y - 36) - 10, z + 60))


def _orbits(points: Points) -> Layers:
    x, y, z = points
    mirrored = (np.abs(x), y, z)
    orbit = ellipsoid(mirrored, (33, -58, -38), (17, 26, 17))
    yield "bone", inside(orbit - 3)
    yield "fat", inside(orbit)
    nerve = hypotenuse(mirrored[0] - 25 + 0.25 * (y + 60), z + 38) - 3
    yield "muscle", inside(np.maximum(nerve, orbit))
    eye = ellipsoid(mirrored, (34, -74, -38), (12, 12, 12))
    yield "skin", inside(eye - 1.5)
    yield "fluid", inside(eye)
    yield "lens", inside(ellipsoid(mirrored, (34, -83, -38), (5, 2.5, 5)))
    sinus = ellipsoid(mirrored, (27, -56, -70), (14, 17, 14))
    yield "bone", inside(sinus - 1.5)
    yield "air", inside(sinus)
    yield "air", inside(ellipsoid(mirrored, (9, -82, -20), (11, 5, 11)))


def _skull(points: Points) -> Layers:
    x, y, z = points
    vault, floor = _vault_and_floor(points)
    thickness = 6.5 + 0.8 * np.sin(y / 23) + np.maximum(0, (y - 60) / 20)
    yield "bone", inside(np.maximum(vault - thickness, floor - 3))
    yield "marrow", between(vault, 2.2, 4.4) * np.clip((z + 30) / 10, 0, 1) * inside(floor)
    mirrored = (np.abs(x), y, z)
    petrous = ellipsoid((mirrored[0], y - 0.6 * (mirrored[0] - 40), z), (38, 16, -42), (24, 8, 8))
    yield "bone", inside(petrous)
    mastoid = ellipsoid(mirrored, (50, 30, -48), (9, 14, 14))
    yield "bone", inside(mastoid - 2.5)
    yield "air", inside(mastoid) * np.clip(3 * folds((x, 1.3 * y, z + 0.4 * x), 9) + 0.6, 0, 1)


def _cerebrum(points: Points, cavity: Field) -> Layers:
    x, y, z = points
    depth = -cavity
    bent = (
        np.abs(x) + 9 + 5 * np.sin((z + y) / 15),
        y + 0.25 * z + 6 * np.sin((x + z) / 17),
        z + 5 * np.sin((y - x) / 19),
    )
    winding = folds(bent, 26) + 0.35 * folds(bent, 17)
    near_surface = np.clip((32 - depth) / 14, 0, 1)
    yield "csf", inside(cavity)
    yield "grey", inside(cavity + 1.5)
    white = np.clip((np.abs(winding) - 0.5) * 4, 0, 1) * np.clip((depth - 4) / 2, 0, 1)
    yield "white", np.maximum(white, np.clip((depth - 22) / 6, 0, 1)) * inside(cavity + 3)
    yield "csf", np.clip((0.2 - np.abs(winding)) * 7, 0, 1) * near_surface * inside(cavity)
    yield "csf", inside(ellipsoid((np.abs(x), y, z), (47, -10, -2), (12, 17, 3)))
    fissure = np.abs(x) + np.zeros_like(y * z)
    above = np.clip(ellipse(y, z, (0, 6), (46, 27)) / 3, 0, 1)
    yield "grey", inside(fissure - 5, 2) * above * inside(cavity)
    yield "csf", inside(fissure - 2.2) * above * inside(cavity)
    yield "falx", inside(fissure - 0.8) * above * inside(cavity)


def _deep(points: Points) -> Layers:
    """Basal ganglia and ventricles, mirrored at the midline."""
    x, y, z = points
    side = np.abs(x)
    mirrored = (side, y, z)
    callosum = np.maximum(np.abs(ellipse(y, z, (2, 8), (38, 19)) - 3) - 4, 4 - z)
    yield "white", inside(np.maximum(callosum, side - 18))
    yield "grey", inside(ellipsoid((side - 0.35 * (y + 8), y, z), (27, -6, 3), (6, 19, 13)))
    yield "grey", inside(ellipsoid(mirrored, (10.5, 10, 5), (9, 14, 10)))
    yield "grey", inside(ellipsoid(mirrored, (14, -24, 9), (6.5, 10, 11)))
    yield "csf", inside(ellipsoid((side + 0.3 * (y + 24), y, z), (6.5, -24, 12), (5, 15, 9)))
    yield "csf", inside(ellipsoid(mirrored, (11, 2, 19), (6.5, 30, 7)))
    yield "csf", inside(ellipsoid((side - 0.3 * (y - 34), y, z), (22, 36, 10), (6, 22, 9)))
    yield "csf", inside(ellipsoid((side, y, z - 0.4 * y), (34, 2, -20), (4, 18, 4)))
    yield "white", inside(side - 0.9) * inside(ellipsoid(points, (0, -10, 16), (4, 22, 8)))
    yield "csf", inside(ellipsoid(points, (0, 2, 2), (2.4, 14, 9)))


def _posterior_fossa(points: Points, cavity: Field) -> Layers:
    x, y, z = points
    cerebellum = np.maximum(ellipsoid((np.abs(x), y, z), (18, 50, -42), (34, 28, 24)), cavity + 2)
    yield "csf", inside(cerebellum - 3) * inside(cavity)
    yield "grey", inside(cerebellum)
    leaves = np.sin((z + 0.45 * hypotenuse(y - 34, 0.5 * x)) * np.float32(1.15))
    yield "white", inside(cerebellum + 4) * np.clip(leaves * 2, 0, 1) * np.float32(0.8)
    yield "white", inside(cerebellum + 13, 4)
    yield "csf", inside(ellipsoid(points, (0, 12, -36), (22, 20, 16))) * inside(cavity)
    pons = ellipsoid(points, (0, 12, -38), (15, 13, 15))
    cord = np.maximum(hypotenuse(x, y - 18 - 0.3 * np.clip(-z - 20, 0, 60)) - 7.5, z + 20)
    yield "grey", inside(np.minimum(pons, cord))
    yield "white", inside(np.minimum(pons, cord) + 2.5)
    yield "csf", inside(ellipsoid(points, (0, 29, -38), (6, 5, 11)))


def _epidural_haematoma(points: Points, cavity: Field) -> Layers:
    """A lens of blood under the right parietal bone, a fracture above it, swollen scalp."""
    x, y, z = points
    lens = np.maximum(ellipsoid(points, (-66, 22, 26), (25, 42, 34)), cavity + 0.3)
    yield "falx", inside(lens - 1.2)
    yield "blood", inside(lens)
    line = np.abs(y - 20 - 0.3 * (z - 26) - 3 * np.sin(z / 6)) - 0.9
    yield "crack", inside(np.maximum(line, np.abs(z - 26) - 34)) * between(cavity, 0, 7) * (x < 0)
    bump = 11 * np.exp(-(((y - 22) / 26) ** 2) - ((z - 28) / 24) ** 2)
    yield "swelling", between(cavity, 9, 11 + bump) * (x < 0) * np.clip(bump, 0, 1)


def _glioblastoma(points: Points, cavity: Field) -> Layers:
    """A ring-enhancing left frontal mass: necrosis in a rim, oedema along the white matter."""
    rough = 2.5 * folds(points, 19)
    centre = (29.0, -32.0, 24.0)
    halo = ellipsoid(points, centre, (29, 36, 25)) + 2 * rough
    yield "oedema", inside(halo, 3) * np.clip((-cavity - 8) / 5, 0, 1)
    mass = ellipsoid(points, centre, (15, 18, 15)) + 0.6 * rough
    yield "tumour", inside(mass)
    yield "necrosis", inside(mass + 4.5 + 0.4 * rough)


def _shifted(points: Points, finding: Finding) -> Points:
    """Push the brain away from the mass, as far as each finding does."""
    x, y, z = points
    push, (at_y, at_z) = (7.0, (20, 22)) if finding == "epidural_haematoma" else (-4.0, (-30, 22))
    near = np.exp(-(((y - at_y) / 48) ** 2) - ((z - at_z) / 42) ** 2)
    return (x - push * near).astype(np.float32), y, z


def tissues(plane: Plane, finding: Finding) -> Layers:
    """All layers of the head in this plane, outermost first, with one finding."""
    points = plane.points()
    cavity = np.maximum(*_vault_and_floor(points))
    brain = _shifted(points, finding)
    yield from _face_and_neck(points)
    yield from _orbits(points)
    yield from _skull(points)
    yield from _cerebrum(brain, cavity)
    yield from _deep(brain)
    yield from _posterior_fossa(points, cavity)
    if finding == "epidural_haematoma":
        yield from _epidural_haematoma(points, cavity)
    else:
        yield from _glioblastoma(points, cavity)


@lru_cache(maxsize=8)
def _attenuation(plane: Plane, finding: Finding) -> Field:
    """Hounsfield units without noise, kept for the next kernel of the same slices."""
    return render(tissues(plane, finding), HOUNSFIELD, shape=(plane.rows, plane.columns))


def computed_tomography(
    plane: Plane, rng: np.random.Generator, *, finding: Finding, noise: float, sharp: bool
) -> Field:
    """Hounsfield units of one slice; a sharp kernel keeps edges and shows more noise."""
    image = _attenuation(plane, finding)
    if not sharp:
        image = blurred(image, 0.6)
    return image + noise * grain(image.shape, rng, sigma=0.5 if sharp else 0.9)


def magnetic_resonance(
    plane: Plane,
    rng: np.random.Generator,
    *,
    finding: Finding,
    contrast: Mapping[str, float],
    blur: float = 0.5,
) -> Field:
    """Signal of one slice, brighter near the coil's front, with the noise of a magnitude image."""
    shape = plane.rows, plane.columns
    image = blurred(render(tissues(plane, finding), contrast, shape=shape), blur)
    x, y, _ = plane.points()
    image = image * (1 - 0.0007 * y + 0.0003 * x).astype(np.float32)
    return hypotenuse(image + 11 * grain(shape, rng), 11 * grain(shape, rng))
