"""A trunk from brain to thighs for CT and PET: lungs, heart, ribs, belly, pelvis, and a cancer.

The same organs give Hounsfield units and tracer uptake, so that the two halves of a PET/CT fit.
The tracheal bifurcation lies at the origin.
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
    blurred,
    ellipse,
    ellipsoid,
    folds,
    grain,
    hypotenuse,
    inside,
    render,
)

Finding = Literal["solitary_nodule", "metastatic_cancer"]

HOUNSFIELD: Mapping[str, float] = {
    "air": -1000, "skin": 20, "fat": -100, "muscle": 55, "bone": 700, "marrow": 190,
    "lung": -860, "vessel": 45, "airway": -990, "heart": 42, "blood": 46, "liver": 58,
    "spleen": 50, "kidney": 36, "pelvis": 8, "bowel": 30, "gas": -800, "bladder": 8,
    "brain": 34, "tumour": 40, "table": -300, "cord": 32,
}  # fmt: skip
UPTAKE: Mapping[str, float] = {
    "air": 0, "skin": 0.4, "fat": 0.35, "muscle": 0.7, "bone": 1.0, "marrow": 1.6, "lung": 0.45,
    "vessel": 0.9, "airway": 0.1, "heart": 3.6, "blood": 1.7, "liver": 2.4, "spleen": 2.0,
    "kidney": 3.0, "pelvis": 9.0, "bowel": 1.4, "bladder": 16.0, "brain": 11.0, "tumour": 10.0,
}  # fmt: skip


def _outline(points: Points) -> Field:
    """Signed distance to the skin: trunk, neck, head and two thighs."""
    x, y, z = points
    width = 168 - 16 * np.exp(-(((z + 190) / 70) ** 2)) + 14 * np.exp(-(((z - 60) / 60) ** 2))
    depth = 112 - 10 * np.clip((z - 20) / 90, 0, 1) + 6 * np.exp(-(((z + 200) / 90) ** 2))
    trunk = (hypotenuse(x / width, (y - 5) / depth) - 1) * 135
    trunk = np.maximum(trunk, ellipsoid(points, (0, 5, -190), (235, 420, 345)))
    trunk = np.maximum(trunk, -460 - z)
    neck = np.maximum(hypotenuse(x, y - 10) - 58, -z + 60)
    neck = np.maximum(neck, z - 330)
    skull = ellipsoid(points, (0, -5, 315), (76, 94, 112))
    thigh = np.maximum(hypotenuse(np.abs(x) - 84, y) - (84 + 0.06 * (z + 420)), z + 400)
    return np.minimum(np.minimum(trunk, neck), np.minimum(skull, thigh))


def _wall(points: Points, skin: Field) -> Layers:
    """Skin, fat, muscle and the bony cage."""
    x, y, z = points
    yield "skin", inside(skin, 2)
    yield "fat", inside(skin + 3, 2)
    yield "muscle", inside(skin + 17 + 5 * np.sin(np.arctan2(y, x) * 6), 3)
    chest = ellipsoid(points, (0, 2, -30), (141, 98, 210))
    phase = (z + 0.42 * (y - 60)) / 27
    bar = np.abs(phase - np.round(phase)) * 27 - 6.5
    rib = np.maximum(np.maximum(np.abs(chest) - 4.5, bar), np.maximum(-z - 190, z - 150))
    yield "bone", inside(rib, 1.5)
    yield "marrow", inside(rib + 2.6, 1.5)
    plate = np.maximum(ellipse(x, y, (0, -95), (20, 6)), np.abs(z + 15) - 90)
    yield "bone", inside(plate, 1.5)
    yield "marrow", inside(plate + 2.5, 1.5)
    blade = np.abs(y - 78 + 0.45 * (np.abs(x) - 90)) - 3.5
    blade = np.maximum(blade, hypotenuse(np.abs(x) - 104, (z - 60) / 2) - 34)
    yield "bone", inside(blade, 1.5)


def _spine(points: Points) -> Layers:
    x, y, z = points
    back = 76 - 14 * np.exp(-(((z + 260) / 90) ** 2)) - 30 * np.clip((z - 60) / 150, 0, 1)
    column = np.abs(z + 90) - 315
    body = np.maximum(ellipse(x, y - back, (0, 0), (22, 17)), column)
    disc = np.abs(np.abs((z + 14) % 30 - 15) - 15) - 3.0
    canal = hypotenuse(x, y - back - 27)
    arch = np.maximum(np.abs(canal - 12) - 3, column)
    spine = np.maximum(ellipse(x, y - back, (0, 54), (4, 18)), column)
    process = np.maximum(ellipse(np.abs(x), y - back, (26, 28), (20, 5)), column)
    for part in (arch, spine, process):
        yield "bone", inside(part, 1.5)
    yield "bone", inside(body, 1.5)
    yield "marrow", inside(body + 3, 1.5)
    yield "muscle", inside(np.maximum(body, disc), 1.5)
    yield "cord", inside(np.maximum(canal - 9, column), 1.5)


def _lungs(points: Points) -> Layers:
    """Both lungs with their vessels, which thin out from the hilum to the pleura."""
    lobes = np.minimum(
        ellipsoid(points, (-74, 4, -18), (60, 84, 132)),
        ellipsoid(points, (74, 6, -18), (57, 82, 132)),
    )
    domes = np.minimum(
        ellipsoid(points, (-72, -4, -178), (92, 100, 84)),
        ellipsoid(points, (78, -2, -188), (88, 100, 84)),
    )
    lungs = np.maximum(lobes, -domes)
    yield "lung", inside(lungs, 1.5)
    tree = np.zeros_like(lungs)
    where = lungs < -1
    if where.any():
        x, y, z = (np.broadcast_to(axis, lungs.shape)[where] for axis in points)
        tree[where] = _vessel_tree((x, y, z))
    yield "vessel", tree


def _vessel_tree(points: Points) -> Field:
    """Bars from each hilum to places all over its lung, for a list of points in the lungs."""
    x, y, z = points
    rng = np.random.default_rng(11)  # a patient's vessels are the same in every slice
    tips = rng.uniform((30, -70, -110), (124, 82, 96), size=(70, 3)).astype(np.float32)
    along = tips - np.array((30, 14, -16), dtype=np.float32)
    from_hilum = np.stack([np.abs(x) - 30, y - 14, z + 16], axis=1) + 4 * np.sign(x)[:, np.newaxis]
    length = (along**2).sum(axis=1)
    reach = from_hilum @ along.T
    part = np.clip(reach / length, 0, 1)
    away = (from_hilum**2).sum(axis=1)[:, np.newaxis] + part * (part * length - 2 * reach)
    distance = np.sqrt(np.maximum(away, 0)) - (5.0 - 3.6 * part)
    return inside(distance.min(axis=1), 1.5)


def _mediastinum(points: Points) -> Layers:
    x, y, z = points
    middle = np.maximum(ellipse(x, y, (2, 12), (33, 62)), np.maximum(z - 90, -z - 90))
    yield "fat", inside(middle, 2)
    turned = (x, y - 0.15 * x, z + 0.35 * x)
    yield "heart", inside(ellipsoid(turned, (18, -24, -62), (60, 50, 52)), 2)
    yield "blood", inside(ellipsoid(turned, (40, -24, -58), (28, 26, 34)), 3)
    yield "blood", inside(ellipsoid(points, (-22, -22, -55), (26, 30, 34)), 3)
    descending = np.maximum(hypotenuse(x - 24, y - 50) - 12.5, np.abs(z + 130) - 170)
    ascending = np.maximum(hypotenuse(x + 14, y + 22) - 15.5, np.abs(z - 10) - 32)
    turn = hypotenuse(hypotenuse((x - 5) * 1.9, y - 14) - 36, z - 42) - 12.5
    artery = np.maximum(hypotenuse(y + 8 - 0.35 * np.abs(x), z + 8) - 12.5, np.abs(x - 4) - 34)
    cava = np.maximum(hypotenuse(x + 32, y + 6) - 9.5, np.abs(z - 30) - 60)
    for vessel in (descending, ascending, turn, artery, cava):
        yield "blood", inside(vessel, 1.5)
    windpipe = np.maximum(hypotenuse(x, (y - 14) * 1.1) - 9, np.abs(z - 110) - 110)
    bronchi = np.maximum(hypotenuse(y - 16, z + 0.75 * np.abs(x)) - 6.5, np.abs(x) - 38)
    airway = np.minimum(windpipe, bronchi)
    yield "muscle", inside(airway - 1.8, 1.5)
    yield "airway", inside(airway, 1.5)
    yield "muscle", inside(np.maximum(ellipse(x, y, (6, 36), (8, 6)), np.abs(z - 30) - 200), 1.5)


def _belly(points: Points) -> Layers:
    x, y, z = points
    cavity = ellipsoid(points, (0, -8, -260), (128, 82, 190))
    yield "fat", inside(np.maximum(cavity, z + 170), 3)
    liver = ellipsoid((x, y, z - 0.35 * x), (-58, -6, -160), (86, 84, 80))
    yield "liver", inside(np.maximum(liver, ellipsoid(points, (0, 2, -170), (134, 92, 130))), 2)
    yield "spleen", inside(ellipsoid(points, (102, 34, -172), (26, 42, 46)), 2)
    yield "bowel", inside(ellipsoid((x, y, z - 0.4 * x), (66, -34, -158), (48, 38, 34)), 2)
    yield "gas", inside(ellipsoid(points, (66, -54, -132), (30, 14, 20)), 3)
    kidney = ellipsoid((np.abs(x) + 0.15 * z, y, z), (30, 44, -236), (29, 27, 56))
    yield "kidney", inside(kidney, 2)
    yield "pelvis", inside(ellipsoid((np.abs(x) + 0.15 * z, y, z), (20, 42, -236), (11, 11, 26)), 2)
    coil = folds((x + 8 * np.sin(z / 21), y, z), 58)
    loops = np.maximum(ellipsoid(points, (0, -30, -310), (104, 52, 92)), 12 * (0.12 - coil))
    yield "bowel", inside(loops, 3)
    yield "gas", inside(np.maximum(loops, 14 * (0.95 - coil)), 3)
    yield "blood", inside(np.maximum(hypotenuse(x - 10, y - 30) - 10, np.abs(z + 240) - 90), 1.5)
    yield "bladder", inside(ellipsoid(points, (0, -34, -410), (44, 36, 32)), 2)


def _hips_and_head(points: Points) -> Layers:
    x, y, z = points
    side = np.abs(x)
    wing = np.abs(side - 100 + 0.35 * (-z - 320) - 0.4 * np.maximum(y, 0) * 0.8) - 6
    wing = np.maximum(wing, hypotenuse((y - 24) / 1.15, z + 345) - 62)
    socket = np.abs(ellipsoid((side, y, z), (92, 4, -418), (34, 34, 34))) - 5
    femur = ellipsoid((side, y, z), (94, 4, -420), (25, 25, 25))
    shaft = np.maximum(hypotenuse(side - 106 - 0.1 * (z + 450), y - 4) - 15, z + 440)
    sacrum = np.maximum(ellipsoid(points, (0, 70, -372), (48, 20, 56)), -60 - y)
    for bone in (wing, np.maximum(socket, side - 104), femur, shaft, sacrum):
        yield "bone", inside(bone, 2)
        yield "marrow", inside(bone + 4, 2)
    yield "bone", inside(ellipsoid(points, (0, -3, 335), (68, 85, 82)), 2)
    yield "brain", inside(ellipsoid(points, (0, -3, 338), (61, 78, 74)), 2)
    yield "fat", inside(ellipsoid(points, (0, -2, 340), (9, 34, 15)), 4)


def _solitary_nodule(points: Points) -> Layers:
    rough = 1.3 * folds(points, 9)
    yield "tumour", inside(ellipsoid(points, (-88, 14, 32), (13, 12, 12)) + rough, 1.5)


def _metastatic_cancer(points: Points) -> Layers:
    """A right upper lobe mass, nodes beside the windpipe, and spread to liver and bone."""
    yield "tumour", inside(ellipsoid(points, (-84, 8, 30), (20, 19, 19)) + folds(points, 11), 2)
    yield "tumour", inside(ellipsoid(points, (-17, 6, 24), (11, 12, 13)), 2)
    yield "tumour", inside(ellipsoid(points, (22, 8, -14), (9, 9, 10)), 2)
    yield "tumour", inside(ellipsoid(points, (-84, -8, -160), (15, 15, 15)), 2)
    yield "tumour", inside(ellipsoid(points, (-40, 26, -186), (11, 11, 11)), 2)
    yield "tumour", inside(ellipsoid(points, (88, 34, -330), (12, 12, 14)), 2)


def tissues(plane: Plane, finding: Finding) -> Layers:
    """All layers of the trunk in this plane, outermost first, with one finding."""
    points = plane.points()
    skin = _outline(points)
    body = inside(skin, 2)
    yield from _wall(points, skin)
    yield from _belly(points)
    yield from _lungs(points)
    yield from _mediastinum(points)
    yield from _spine(points)
    yield from _hips_and_head(points)
    yield from (
        _solitary_nodule(points) if finding == "solitary_nodule" else _metastatic_cancer(points)
    )
    yield "air", 1 - body


@lru_cache(maxsize=8)
def _attenuation(plane: Plane, finding: Finding) -> Field:
    """Hounsfield units without noise, kept for the next kernel of the same slices."""
    image = render(tissues(plane, finding), HOUNSFIELD, shape=(plane.rows, plane.columns))
    x, y, _ = plane.points()
    table = inside(np.maximum(np.abs(y - 150 + 0.0011 * x**2) - 3, np.abs(x) - 170), 2)
    return image + table * (HOUNSFIELD["table"] - image)


def computed_tomography(
    plane: Plane, rng: np.random.Generator, *, finding: Finding, noise: float, sharp: bool
) -> Field:
    """Hounsfield units of one slice, with the table the patient lies on."""
    image = _attenuation(plane, finding)
    if not sharp:
        image = blurred(image, 0.8)
    return image + noise * grain(image.shape, rng, sigma=0.5 if sharp else 0.9)


def positron_emission(
    plane: Plane, rng: np.random.Generator, *, finding: Finding, activity: float
) -> Field:
    """Activity concentration in Bq/ml: uptake seen by a scanner that resolves some 7 mm."""
    shape = plane.rows, plane.columns
    image = blurred(render(tissues(plane, finding), UPTAKE, shape=shape), 3.2 / plane.spacing)
    counts = rng.poisson(np.maximum(image, 0) * 60).astype(np.float32) / 60
    return np.maximum(blurred(counts, 0.8), 0) * np.float32(activity)
