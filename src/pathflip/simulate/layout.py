"""Where things lie on a slide: fragments of tissue, the tumour, the findings; on the grid of the label map."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pathflip.simulate.fields import Plane, fractal
from pathflip.simulate.world import LABELS, PLACES, SCATTERED, CasePlan, PlacedFinding, World

__all__ = ["Layout", "lay_out", "tissue_box"]

Mask = NDArray[np.bool_]
Ground = tuple[Plane, Plane]
Point = tuple[int, int]

_IN_TUMOUR = ("tumour_infiltrating_lymphocytes", "keratin_pearls")
_IN_STROMA = ("vascular_invasion", "perineural_invasion")
_BESIDE_TUMOUR = ("desmoplastic_stroma", "necrosis")


@dataclass(frozen=True, eq=False)
class Layout:
    """The ground plan of a slide, one cell a label-map pixel.

    Attributes:
        labels: class ids (``LABELS``), uint8 (G, G).
        tissue: where there is tissue.
        tumour: where tumour grows, also underneath findings that let it show.
    """

    labels: NDArray[np.uint8]
    tissue: Mask
    tumour: Mask


def tissue_box(tissue: Mask) -> tuple[int, int, int, int]:
    """Bounding box of a mask: x, y, width, height (zeros if empty)."""
    x, y, width, height = cv2.boundingRect(tissue.astype(np.uint8))
    return int(x), int(y), int(width), int(height)


def lay_out(plan: CasePlan, world: World, rng: np.random.Generator) -> Layout:
    """Fragments first, then findings (small ones choose first), then the tumour in what is left."""
    side = world.slide_px // world.label_px
    tissue = _fragments(rng, side)
    labels = np.where(tissue, LABELS.index("fibrous_stroma"), 0).astype(np.uint8)
    free = tissue.copy()
    ground = _bent_coordinates(rng, side)
    anchors: dict[str, list[Point]] = {}
    for finding in sorted(plan.findings, key=lambda f: f.fraction):
        blob, anchors[finding.name] = _place(finding, tissue, free, ground, rng)
        labels[blob] = LABELS.index(finding.name)
        free &= ~blob
    tumour = np.zeros_like(tissue)
    if plan.tumour is not None:
        tumour = _grow_tumour(plan, tissue, free, ground, anchors, rng)
        labels[tumour & free] = LABELS.index("tumour")
        for name in _IN_TUMOUR:
            tumour |= labels == LABELS.index(name)
        for name in _IN_STROMA:
            tumour &= labels != LABELS.index(name)
    return Layout(labels, tissue, tumour)


def _coordinates(side: int) -> tuple[Plane, Plane]:
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    return x, y


def _bent_coordinates(rng: np.random.Generator, side: int) -> Ground:
    """Coordinates of the grid, bent: discs and straight lines drawn in them come out organic."""
    x, y = _coordinates(side)
    bends = [
        side / 36 * _field(rng, side, side / 7, 2) + side / 110 * _field(rng, side, side / 22, 2) for _ in range(2)
    ]
    return x + bends[0], y + bends[1]


def _reach(ground: Ground, point: Point) -> Plane:
    """Distance of every cell from ``point``, in bent coordinates."""
    x, y = ground
    column, row = point
    return np.hypot(x - x[row, column], y - y[row, column])


def _field(rng: np.random.Generator, side: int, cell: float, octaves: int = 3) -> Plane:
    """Noise for a grid of any side (the seamless one wants sides with many divisors)."""
    field = fractal(rng, 120, cell * 120 / side, octaves)
    return np.asarray(cv2.resize(field, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)


def _top(score: Plane, allowed: Mask, count: int) -> Mask:
    """The ``count`` best-scoring allowed cells: this makes areas come out as planned."""
    chosen = np.zeros_like(allowed)
    where = np.flatnonzero(allowed)
    count = min(count, len(where))
    if count > 0:
        best = where[np.argpartition(-score.ravel()[where], count - 1)[:count]]
        chosen.ravel()[best] = True
    return chosen


def _fragments(rng: np.random.Generator, side: int) -> Mask:
    """One resection, several pieces, or needle cores; with organic outlines and clear of the slide's edge."""
    x, y = _coordinates(side)
    x, y = x / np.float32(side), y / np.float32(side)
    kind = rng.choice(["resection", "pieces", "cores"], p=[0.35, 0.45, 0.20])
    field = np.full((side, side), -9.0, np.float32)
    if kind == "cores":
        count, area = int(rng.integers(2, 4)), rng.uniform(0.36, 0.46)
        centres = [(0.5 + rng.uniform(-0.03, 0.03), (i + 0.5) / count) for i in range(count)]
        shapes = [(0.46, 0.42 / count, rng.normal(0, 0.06)) for _ in range(count)]
        if rng.random() < 0.5:
            centres, shapes = [(b, a) for a, b in centres], [(b, a, turn) for a, b, turn in shapes]
    elif kind == "pieces":
        count, area = int(rng.integers(2, 5)), rng.uniform(0.36, 0.50)
        cells = rng.permutation([(0.28, 0.28), (0.72, 0.3), (0.3, 0.73), (0.71, 0.71)])[:count]
        centres = [tuple(c + rng.uniform(-0.04, 0.04, 2)) for c in cells]
        shapes = [(rng.uniform(0.2, 0.32), rng.uniform(0.16, 0.26), rng.uniform(0, np.pi)) for _ in range(count)]
    else:
        area = rng.uniform(0.45, 0.66)
        centres, shapes = [(0.48, 0.5), (0.86, 0.84)], [(0.42, 0.36, rng.uniform(0, np.pi)), (0.09, 0.07, 0.4)]
    for (cx, cy), (a, b, turn) in zip(centres, shapes, strict=True):
        dx, dy = x - cx, y - cy
        u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        field = np.maximum(field, 1 - np.hypot(u / a, v / b).astype(np.float32))
    field += 0.14 * _field(rng, side, side / 5) + 0.05 * _field(rng, side, side / 20)
    margin = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    field -= 6 * np.clip(0.09 - margin, 0, None)
    return _tidy(_top(field, margin > 0.015, int(area * side * side)), side)


def _tidy(tissue: Mask, side: int) -> Mask:
    """Without crumbs and pinholes smaller than a tile or so."""
    least = max(8, side * side // 700)
    for inside in (True, False):
        count, parts, stats, _ = cv2.connectedComponentsWithStats((tissue == inside).astype(np.uint8), connectivity=4)
        small = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] < least]
        tissue = np.where(np.isin(parts, small), not inside, tissue)
    return tissue


def _cell_mask(place: str, tissue: Mask) -> Mask:
    """The part of the tissue's bounding box a place names."""
    x, y, width, height = tissue_box(tissue)
    mask = np.zeros_like(tissue)
    row, column = divmod(PLACES.index(place), 3)
    top, bottom = y + row * height // 3, y + (row + 1) * height // 3
    left, right = x + column * width // 3, x + (column + 1) * width // 3
    mask[top:bottom, left:right] = True
    return mask


def _anchor(inside: Mask, free: Mask, radius: float, rng: np.random.Generator) -> Point:
    """A point of ``inside`` with room for ``radius`` around it if there is such a point; else the nearest free one."""
    x, y = _coordinates(len(free))
    if not (inside & free).any():
        ys, xs = np.nonzero(inside)
        centre = (xs.mean(), ys.mean()) if len(xs) else (len(free) / 2, len(free) / 2)
        distance = np.where(free, np.hypot(x - centre[0], y - centre[1]), np.inf)
        row, column = np.unravel_index(int(distance.argmin()), free.shape)
        return int(column), int(row)
    room = cv2.distanceTransform(np.pad((inside & free).astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    options = np.argwhere(room >= min(radius, 0.75 * float(room.max())))
    row, column = options[rng.integers(len(options))]
    return int(column), int(row)


def _place(
    finding: PlacedFinding, tissue: Mask, free: Mask, ground: Ground, rng: np.random.Generator
) -> tuple[Mask, list[Point]]:
    """The cells of one finding and the anchors of its blobs."""
    count = max(3, round(finding.fraction * int(tissue.sum())))
    if finding.place == SCATTERED:
        places = [str(p) for p in rng.permutation(PLACES[:9])[: int(rng.integers(4, 6))]]
    else:
        places = [finding.place] * int(rng.integers(1, 3 if finding.fraction < 0.025 else 4))
    radius = float(np.sqrt(count / len(places) / np.pi))
    anchors = [_anchor(_cell_mask(p, tissue), free, radius, rng) for p in places]
    score = np.full(free.shape, -np.inf, np.float32)
    for anchor in anchors:
        score = np.maximum(score, -_reach(ground, anchor) / np.float32(radius * rng.uniform(0.85, 1.15)))
    score += 0.30 * _field(rng, len(free), max(4.0, radius * 1.1), 3)
    return _top(score, free, count), anchors


def _grow_tumour(
    plan: CasePlan,
    tissue: Mask,
    free: Mask,
    ground: Ground,
    anchors: dict[str, list[Point]],
    rng: np.random.Generator,
) -> Mask:
    """Tumour over ``tumour_fraction`` of the tissue, drawn to the findings that only grow with it."""
    side, area = len(tissue), int(tissue.sum())
    reach = max(2.0, float(np.sqrt(plan.tumour_fraction * area / np.pi)))
    score = np.full(tissue.shape, -np.inf, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        centre = _anchor(tissue, tissue, reach * 0.4, rng)
        score = np.maximum(score, -_reach(ground, centre) / np.float32(reach))
    for name in (*_IN_TUMOUR, *_IN_STROMA, *_BESIDE_TUMOUR):
        for anchor in anchors.get(name, ()):
            score = np.maximum(score, -_reach(ground, anchor) / np.float32(0.45 * reach) - np.float32(0.1))
    score += 0.30 * _field(rng, side, max(4.0, reach * 0.7), 3)
    grown = _top(score, free, round(plan.tumour_fraction * area))
    return tissue & (score >= score[grown].min()) if grown.any() else grown
