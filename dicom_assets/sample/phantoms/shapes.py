"""Geometry that all phantoms share: planes through the patient, soft-edged solids, grain.

Lengths are millimetres in the patient's coordinate system (x to the left, y to the back, z to
the head; PS3.3 section C.7.6.2), so that a header's Image Position tells where a picture lies.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Field: TypeAlias = NDArray[np.floating]  # float32 throughout: half the time of float64
Points: TypeAlias = tuple[Field, Field, Field]
Vector: TypeAlias = tuple[float, float, float]
Layers: TypeAlias = Iterable[tuple[str, Field]]


@dataclass(frozen=True)
class Plane:
    """Where one picture lies in the patient.

    Attributes:
        centre: The picture's middle.
        across: Direction of rising column index, a unit vector.
        down: Direction of rising row index, a unit vector.
        spacing: Distance of neighbouring pixels.
        rows: Number of rows.
        columns: Number of columns.
    """

    centre: Vector
    across: Vector
    down: Vector
    spacing: float
    rows: int
    columns: int

    @property
    def origin(self) -> Vector:
        """The middle of the first pixel: Image Position (Patient)."""
        right = self.spacing * (self.columns - 1) / 2
        low = self.spacing * (self.rows - 1) / 2
        x, y, z = (
            c - right * a - low * d
            for c, a, d in zip(self.centre, self.across, self.down, strict=True)
        )
        return x, y, z

    def points(self) -> Points:
        """The coordinates of all pixels, kept as row or column vectors where that is enough."""
        column = self.spacing * np.arange(self.columns, dtype=np.float32)[np.newaxis, :]
        row = self.spacing * np.arange(self.rows, dtype=np.float32)[:, np.newaxis]
        x, y, z = (
            np.float32(o) + (a * column if a else 0) + (d * row if d else np.zeros((1, 1), "f4"))
            for o, a, d in zip(self.origin, self.across, self.down, strict=True)
        )
        return x, y, z


def axial(z: float, *, spacing: float, size: int = 256, y: float = 0.0) -> Plane:
    """A horizontal slice, seen from the feet as radiologists do."""
    return Plane((0.0, y, z), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), spacing, size, size)


def coronal(y: float, *, spacing: float, rows: int, columns: int, z: float = 0.0) -> Plane:
    """An upright slice, seen from the front."""
    return Plane((0.0, y, z), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0), spacing, rows, columns)


def sagittal(x: float, *, spacing: float, size: int = 256, y: float = 0.0, z: float = 0.0) -> Plane:
    """An upright slice, seen from the patient's left."""
    return Plane((x, y, z), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), spacing, size, size)


def hypotenuse(a: Field, b: Field) -> Field:
    """Like numpy.hypot, which guards against overflow and is several times slower."""
    return np.sqrt(a * a + b * b)


def ellipsoid(points: Points, centre: Vector, radii: Vector) -> Field:
    """Signed distance to an ellipsoid, negative inside; exact enough near its surface."""
    x, y, z = points
    scaled = (
        ((x - centre[0]) / radii[0]) ** 2
        + ((y - centre[1]) / radii[1]) ** 2
        + ((z - centre[2]) / radii[2]) ** 2
    )
    return (np.sqrt(scaled) - 1) * np.float32(sum(radii) / 3)


def ellipse(x: Field, y: Field, centre: tuple[float, float], radii: tuple[float, float]) -> Field:
    """Signed distance to an ellipse in a drawing plane, negative inside."""
    scaled = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2
    return (np.sqrt(scaled) - 1) * np.float32(sum(radii) / 2)


def capsule(
    x: Field,
    y: Field,
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float | tuple[float, float],
) -> Field:
    """Signed distance to a rounded bar in a drawing plane; two radii make it taper."""
    first, last = radius if isinstance(radius, tuple) else (radius, radius)
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    length = along_x**2 + along_y**2
    part = np.clip(((x - start[0]) * along_x + (y - start[1]) * along_y) / length, 0, 1)
    away = hypotenuse(x - start[0] - part * along_x, y - start[1] - part * along_y)
    return away - (first + (last - first) * part)


def inside(distance: Field, edge: float = 1.0) -> Field:
    """A mask from 0 outside to 1 inside, with an edge so many millimetres wide."""
    return np.clip(0.5 - distance / edge, 0, 1)


def between(value: Field, low: float, high: float | Field, edge: float = 1.0) -> Field:
    """A mask of the values from low to high, with soft edges."""
    return np.clip(0.5 + (value - low) / edge, 0, 1) * np.clip(0.5 + (high - value) / edge, 0, 1)


def folds(points: Points, wavelength: float) -> Field:
    """A gyroid, between about -1.5 and 1.5: its zero surface winds as the cortex does."""
    x, y, z = (np.float32(2 * np.pi / wavelength) * axis for axis in points)
    return np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)


def render(layers: Layers, contrast: Mapping[str, float], *, shape: tuple[int, int]) -> Field:
    """Paint tissue over tissue; what the contrast does not name stays invisible."""
    canvas = np.full(shape, contrast["air"], dtype=np.float32)
    for tissue, mask in layers:
        if tissue in contrast:
            canvas += mask * (np.float32(contrast[tissue]) - canvas)
    return canvas


def blurred(image: Field, sigma: float) -> Field:
    """Gaussian blur of so many pixels; beyond the edge the picture is taken to go on as it is."""
    margin = int(np.ceil(3 * sigma))
    steps = np.arange(-margin, margin + 1)
    kernel = np.exp(-0.5 * (steps / sigma) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    rows, columns = image.shape
    padded = np.pad(image, margin, mode="edge")
    down = sum_of(weight * padded[at : at + rows] for at, weight in enumerate(kernel))
    return sum_of(weight * down[:, at : at + columns] for at, weight in enumerate(kernel))


def sum_of(terms: Iterable[Field]) -> Field:
    """Add fields up without keeping more than two of them."""
    return reduce(operator.iadd, terms)


def grain(shape: tuple[int, int], rng: np.random.Generator, *, sigma: float = 0.0) -> Field:
    """Noise of mean 0 and deviation 1; a sigma in pixels makes its grain coarser."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if sigma:
        noise = blurred(noise, sigma)
        noise /= noise.std()
    return noise
