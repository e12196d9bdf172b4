"""Seamless random fields and the few drawing strokes all painted tissue is made of.

Everything here is periodic: a field of side ``size`` repeats without a seam, so that a small swatch can cover a slide.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Cells", "Fibres", "cells", "fibres", "fractal", "noise", "sample", "scatter", "stamp"]

Plane = NDArray[np.float32]


@lru_cache(maxsize=256)
def _divisor(size: int, wanted: float) -> int:
    """The divisor of ``size`` nearest to ``wanted`` on a log scale, at least 2 (seamless upsampling needs one)."""
    divisors = [d for d in range(2, size + 1) if size % d == 0]
    return min(divisors, key=lambda d: abs(np.log(d / max(wanted, 1.0))))


def noise(rng: np.random.Generator, size: int, cell: float | tuple[float, float]) -> Plane:
    """Smooth noise of zero mean and unit deviation, features ``cell`` pixels wide (or ``(y, x)``); (size, size)."""
    cell_y, cell_x = cell if isinstance(cell, tuple) else (cell, cell)
    # A lattice finer than the features, then blurred: a coarse one alone would show its own rows and columns.
    fine = 3.0 if min(cell_y, cell_x) >= 6 else 1.0
    rows, columns = _divisor(size, fine * size / cell_y), _divisor(size, fine * size / cell_x)
    grid: NDArray = np.pad(rng.standard_normal((rows, columns), dtype=np.float32), 6, mode="wrap")
    if fine > 1:
        grid = cv2.GaussianBlur(grid, (9, 9), 1.3)
    grid = np.ascontiguousarray(grid[4:-4, 4:-4])
    step_y, step_x = size // rows, size // columns
    large = cv2.resize(grid, ((columns + 4) * step_x, (rows + 4) * step_y), interpolation=cv2.INTER_CUBIC)
    field = np.ascontiguousarray(large[2 * step_y : 2 * step_y + size, 2 * step_x : 2 * step_x + size])
    deviation = float(field.std())
    return (field - np.float32(field.mean())) / np.float32(max(deviation, 1e-6))


def fractal(rng: np.random.Generator, size: int, cell: float, octaves: int = 3, gain: float = 0.55) -> Plane:
    """Sum of ``octaves`` noises, each half as wide and ``gain`` as strong; about unit deviation."""
    total, weight = np.zeros((size, size), np.float32), 0.0
    for octave in range(octaves):
        total += noise(rng, size, max(1.0, cell / 2**octave)) * np.float32(gain**octave)
        weight += gain ** (2 * octave)
    return total / np.float32(np.sqrt(weight))


def _warp(field: NDArray, dx: Plane, dy: Plane, nearest: bool = False) -> Any:
    size = field.shape[0]
    axis = np.arange(size, dtype=np.float32)
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.remap(field, axis[None, :] + dx, axis[:, None] + dy, flags, borderMode=cv2.BORDER_WRAP)


@dataclass(frozen=True)
class Fibres:
    """A wavy bundle running left to right: brightness of the strands, and how far strands are pushed down."""

    strands: Plane
    shift: Plane

    def angle(self, x: NDArray, y: NDArray) -> NDArray:
        """Direction of the strands at pixel positions, radians."""
        slope = sample(self.shift, x + 3, y) - sample(self.shift, x - 3, y)
        return np.arctan2(-slope, 6.0).astype(np.float32)


def fibres(rng: np.random.Generator, size: int, width: float, length: float, wave: float) -> Fibres:
    """Strands ``width`` wide and ``length`` long, waving by about ``wave`` pixels."""
    straight = noise(rng, size, (width, length)) + 0.6 * noise(rng, size, (width / 2, length / 2))
    shift = noise(rng, size, size / 4) * np.float32(wave) + noise(rng, size, size / 12) * np.float32(wave / 5)
    return Fibres(_warp(straight, np.zeros_like(shift), shift) * np.float32(0.85), shift)


def sample(field: NDArray, x: NDArray, y: NDArray) -> NDArray:
    """Values at (rounded, wrapped) pixel positions."""
    rows, columns = field.shape[:2]
    return field[np.rint(y).astype(np.int64) % rows, np.rint(x).astype(np.int64) % columns]


def scatter(rng: np.random.Generator, size: int, spacing: float, jitter: float = 0.75) -> tuple[Plane, Plane]:
    """Points on a jittered hexagonal lattice, ``spacing`` apart; x and y, (n,) each."""
    count = max(2, round(size / spacing / 2) * 2)
    step = size / count
    row, column = np.mgrid[0:count, 0:count].astype(np.float32)
    wobble = (rng.random((2, count, count), dtype=np.float32) - 0.5) * np.float32(jitter)
    x = (column + 0.5 * (row % 2) + 0.25 + wobble[0]) * np.float32(step)
    y = (row + 0.5 + wobble[1]) * np.float32(step)
    return x.ravel() % size, y.ravel() % size


@dataclass(frozen=True)
class Cells:
    """A Voronoi tessellation.

    Attributes:
        ids: which point a pixel belongs to, from 1.
        reach: distance to that point, pixels.
        border: distance to the nearest border between two cells, pixels.
        x, y: the points.
    """

    ids: NDArray[np.int32]
    reach: Plane
    border: Plane
    x: Plane
    y: Plane


def cells(
    rng: np.random.Generator,
    size: int,
    spacing: float,
    *,
    jitter: float = 0.75,
    warp: float = 0.0,
    stretch: float = 1.0,
) -> Cells:
    """Seamless Voronoi cells about ``spacing`` wide, made irregular by displacing them ``warp`` pixels.

    ``stretch`` > 1 makes them longer from left to right by that factor.
    """
    x, y = scatter(rng, size, spacing / np.sqrt(stretch), jitter)
    if stretch > 1:
        keep = rng.random(len(x)) < 1 / stretch
        keep[0] = True
        x, y = x[keep], y[keep]
    columns = max(8, round(size / stretch))
    pad = int(min(columns, size, 2.5 * spacing + 4))
    return _warp_cells(rng, size, _tessellate(x, y, size, columns, pad), x, y, warp, spacing)


def _tessellate(x: Plane, y: Plane, size: int, columns: int, pad: int) -> tuple[Any, Any, Any]:
    seed = np.zeros((size, columns), np.int32)
    seed[y.astype(np.int64) % size, (x * columns / size).astype(np.int64) % columns] = np.arange(1, len(x) + 1)
    wide = np.pad(seed, pad, mode="wrap")
    reach, label = cv2.distanceTransformWithLabels(
        (wide == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(label.max() + 1, np.int32)
    owner[label[wide > 0]] = wide[wide > 0]
    ids = owner[label]
    edge = np.ones(ids.shape, np.uint8)
    edge[:, 1:][ids[:, 1:] != ids[:, :-1]] = 0
    edge[1:][ids[1:] != ids[:-1]] = 0
    border = cv2.distanceTransform(edge, cv2.DIST_L2, 5)
    inner = (slice(pad, pad + size), slice(pad, pad + columns))
    return ids[inner], reach[inner], border[inner]


def _warp_cells(
    rng: np.random.Generator,
    size: int,
    parts: tuple[Any, Any, Any],
    x: Plane,
    y: Plane,
    warp: float,
    spacing: float,
) -> Cells:
    ids, reach, border = parts
    if ids.shape[1] != size:
        ids = cv2.resize(ids.astype(np.float32), (size, size), interpolation=cv2.INTER_NEAREST).astype(np.int32)
        reach = cv2.resize(reach, (size, size), interpolation=cv2.INTER_LINEAR)
        border = cv2.resize(border, (size, size), interpolation=cv2.INTER_LINEAR)
    if warp:
        dx, dy = (fractal(rng, size, spacing, 2) * np.float32(warp) for _ in range(2))
        ids = _warp(ids.astype(np.float32), dx, dy, nearest=True).astype(np.int32)
        reach, border = _warp(np.ascontiguousarray(reach), dx, dy), _warp(np.ascontiguousarray(border), dx, dy)
    return Cells(ids, reach, border, x, y)


def stamp(
    size: int,
    x: NDArray,
    y: NDArray,
    a: NDArray | float,
    b: NDArray | float,
    theta: NDArray | float,
    value: NDArray | float = 1.0,
    hollow: NDArray | float = 0.0,
) -> Plane:
    """Anti-aliased ellipses on an empty plane; where they overlap the stronger one shows; (size, size).

    Args:
        x, y: centres, pixels, (n,).
        a, b: half axes, pixels; ``theta`` turns ``a`` away from the x axis, radians.
        value: strength of each.
        hollow: by how much the centre is weaker than the rim (0 solid, 1 empty).
    """
    n = len(x)
    if n == 0:
        return np.zeros((size, size), np.float32)
    shape = [np.broadcast_to(np.asarray(v, np.float32), (n,)) for v in (x, y, a, b, theta, value, hollow)]
    reach = np.maximum(shape[2], shape[3])
    large = reach > 0.62 * reach.max()
    if 0.02 * n < large.sum() < 0.6 * n:  # the few large ones must not set the window of all
        return np.maximum(*(_stamp(size, *(v[part] for v in shape)) for part in (large, ~large)))
    return _stamp(size, *shape)


def _stamp(size: int, x: Plane, y: Plane, a: Plane, b: Plane, theta: Plane, value: Plane, hollow: Plane) -> Plane:
    plane = np.zeros(size * size, np.float32)
    radius = int(np.ceil(float(max(a.max(), b.max())) + 0.5))
    offsets = np.arange(-radius, radius + 1)
    cx, cy = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    columns = ((cx[:, None] + offsets) % size)[:, None, :]
    rows = ((cy[:, None] + offsets) % size * size)[:, :, None]
    dx = (offsets.astype(np.float32) - (x - cx).astype(np.float32)[:, None])[:, None, :]
    dy = (offsets.astype(np.float32) - (y - cy).astype(np.float32)[:, None])[:, :, None]
    a, b, value, hollow = (v[:, None, None] for v in (a, b, value, hollow))
    cos, sin = np.cos(theta)[:, None, None], np.sin(theta)[:, None, None]
    distance = np.sqrt(((dx * cos + dy * sin) / a) ** 2 + ((dy * cos - dx * sin) / b) ** 2)
    alpha = np.clip((1 - distance) * np.minimum(a, b) + np.float32(0.5), 0, 1)
    strength = alpha * value * (1 - hollow * np.clip(1 - distance, 0, 1))
    drawn = alpha > 0
    np.maximum.at(plane, (rows + columns)[drawn], strength[drawn])
    return plane.reshape(size, size)
