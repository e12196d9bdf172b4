"""What a painted slide really shows, from its label map: extents, places, polygons, labels of tiles, evidence.

A label map holds one class id (``LABELS``) for every ``label_px`` × ``label_px`` level-0 pixels. Fractions of the
tissue leave out glass and tissue that an artefact hides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError, SlideError
from pathflip.geometry import Box, SlideInfo, TileGrid
from pathflip.io.files import atomic_path
from pathflip.io.geojson import feature, write_features
from pathflip.simulate.world import CONCEPTS, LABELS, SCATTERED, Measured, compass

__all__ = [
    "concept_extents",
    "concept_fractions",
    "concept_mask",
    "evidence_boxes",
    "measure",
    "polygons",
    "read_labels",
    "tile_fractions",
    "tissue_mask",
    "write_labels",
    "write_polygons",
]

Labels = NDArray[np.uint8]

_PRESENT = 0.002
"""A concept on less of the tissue than this counts as absent."""

_COLOURS = {"tumour": (200, 30, 60), "fibrous_stroma": (230, 150, 180), "artefact": (120, 120, 120)}


def write_labels(target: str | Path, labels: Labels) -> None:
    """Save a label map as an 8-bit grey PNG whose values are class ids."""
    with atomic_path(target) as temporary:
        cv2.imwrite(str(temporary), labels)


def read_labels(path: str | Path) -> Labels:
    """Read a label map.

    Raises:
        SlideError: no such file, or values that are no class ids.
    """
    labels: Any = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8 or labels.max(initial=0) >= len(LABELS):
        raise SlideError(
            f"'{path}' is no label map; expected an 8-bit grey PNG of class ids below {len(LABELS)}, "
            "as `pathflip simulate` writes to truth/"
        )
    return np.asarray(labels)


def tissue_mask(labels: Labels) -> NDArray[np.bool_]:
    """Where there is readable tissue: neither glass nor artefact."""
    return (labels != LABELS.index("glass")) & (labels != LABELS.index("artefact"))


def concept_mask(labels: Labels, concept: str) -> NDArray[np.bool_]:
    """Where a concept of ``CONCEPTS`` is.

    Raises:
        ConfigError: there is no such concept.
    """
    return np.isin(labels, _ids(concept))


def _ids(concept: str) -> list[int]:
    if concept not in CONCEPTS:
        raise ConfigError(f"unknown concept '{concept}': expected one of {', '.join(CONCEPTS)}")
    return [LABELS.index(name) for name in CONCEPTS[concept]]


def concept_extents(labels: Labels, concepts: Sequence[str]) -> NDArray[np.float64]:
    """Fraction of the tissue each concept covers, (len(concepts),)."""
    area = max(1, int(tissue_mask(labels).sum()))
    return np.array([concept_mask(labels, concept).sum() / area for concept in concepts])


def measure(labels: Labels) -> dict[str, Measured]:
    """Extent and place of every concept, as a report may state them; absent ones included."""
    box = cv2.boundingRect(tissue_mask(labels).astype(np.uint8))
    extents = concept_extents(labels, list(CONCEPTS))
    measured = {}
    for concept, extent in zip(CONCEPTS, extents, strict=True):
        present = bool(extent >= _PRESENT)
        place = _place(concept_mask(labels, concept), box) if present else SCATTERED
        measured[concept] = Measured(round(float(extent), 5), place, present)
    return measured


def _place(mask: NDArray[np.bool_], box: Sequence[int]) -> str:
    """The compass cell of the centroid; ``scattered`` where the area is far from compact and spread over the tissue."""
    ys, xs = np.nonzero(mask)
    x, y, width, height = box
    u, v = (xs + 0.5 - x) / width, (ys + 0.5 - y) / height
    deviation = float(np.sqrt(u.var() + v.var()))
    disc = float(np.sqrt(len(xs) / (2 * np.pi)))
    scatter = float(np.sqrt(xs.var() + ys.var())) / disc
    if deviation > 0.22 and scatter > 1.9:
        return SCATTERED
    return compass(float(u.mean()), float(v.mean()))


def tile_fractions(
    labels: Labels, coords: NDArray[np.int64], tile_px0: int, size0: tuple[int, int]
) -> NDArray[np.float32]:
    """Fraction of every tile that each label covers.

    Args:
        coords: top-left corners, level-0 pixels, (N, 2).
        tile_px0: side of a tile, level-0 pixels.
        size0: width and height of the slide at level 0.

    Returns:
        (N, len(LABELS)); rows sum to 1. What of a tile lies beyond the slide counts as glass.
    """
    rows, columns = labels.shape
    left = np.clip(coords[:, 0] / size0[0] * columns, 0, columns)
    right = np.clip((coords[:, 0] + tile_px0) / size0[0] * columns, 0, columns)
    top = np.clip(coords[:, 1] / size0[1] * rows, 0, rows)
    bottom = np.clip((coords[:, 1] + tile_px0) / size0[1] * rows, 0, rows)
    whole = (tile_px0 / size0[0] * columns) * (tile_px0 / size0[1] * rows)
    fractions = np.zeros((len(coords), len(LABELS)))
    for label in range(1, len(LABELS)):
        here = labels == label
        if here.any():
            area = np.zeros((rows + 1, columns + 1))
            area[1:, 1:] = here.cumsum(0).cumsum(1)
            total = _at(area, right, bottom) - _at(area, left, bottom) - _at(area, right, top) + _at(area, left, top)
            fractions[:, label] = total / whole
    fractions[:, 0] = 1 - fractions[:, 1:].sum(1)
    return np.clip(fractions, 0, 1).astype(np.float32)


def _at(area: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """An integral image between its knots: bilinear there is exact, because the map is constant within a cell."""
    x0 = np.minimum(x.astype(np.int64), area.shape[1] - 2)
    y0 = np.minimum(y.astype(np.int64), area.shape[0] - 2)
    fx, fy = x - x0, y - y0
    upper = area[y0, x0] * (1 - fx) + area[y0, x0 + 1] * fx
    lower = area[y0 + 1, x0] * (1 - fx) + area[y0 + 1, x0 + 1] * fx
    return upper * (1 - fy) + lower * fy


def concept_fractions(labels: Labels, grid: TileGrid, concepts: Sequence[str]) -> NDArray[np.float32]:
    """Fraction of every tile of ``grid`` that each concept covers, (N, len(concepts))."""
    fractions = tile_fractions(labels, grid.coords, grid.tile_px0, grid.info.size0)
    return np.stack([fractions[:, _ids(concept)].sum(1) for concept in concepts], axis=1)


def polygons(labels: Labels, concept: str, label_px: int) -> list[list[NDArray[np.int64]]]:
    """Outlines of a concept along the edges of label pixels, in level-0 pixels.

    Returns:
        One list of closed rings a piece: the outer ring, then its holes; each (n, 2), (x, y). Pieces that touch at a
        corner only are two pieces.
    """
    import shapely

    mask = concept_mask(labels, concept).astype(np.int8)
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    runs = shapely.box(starts * label_px, rows * label_px, ends * label_px, (rows + 1) * label_px)
    pieces = shapely.get_parts(shapely.union_all(runs).simplify(0))
    return [
        [np.asarray(ring.coords).astype(np.int64) for ring in (piece.exterior, *piece.interiors)] for piece in pieces
    ]


def write_polygons(target: str | Path, labels: Labels, info: SlideInfo, label_px: int) -> None:
    """Write the outlines of the tumour, every finding and every artefact as GeoJSON that QuPath opens in place."""
    features = []
    for concept in (c for c in CONCEPTS if c != "fibrous_stroma"):
        colour = _COLOURS.get(concept) or _colour(concept)
        for rings in polygons(labels, concept, label_px):
            rings_xy = [[(float(x), float(y)) for x, y in ring] for ring in rings]
            features.append(feature(rings_xy, name=concept, info=info, classification=concept, color=colour))
    write_features(target, features)


def _colour(concept: str) -> tuple[int, int, int]:
    hue = 180 * list(CONCEPTS).index(concept) // len(CONCEPTS)
    rgb = cv2.cvtColor(np.array([[[hue, 200, 210]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0]
    return int(rgb[0]), int(rgb[1]), int(rgb[2])


def evidence_boxes(labels: Labels, concept: str, label_px: int, most: int = 4) -> list[Box]:
    """Boxes around the largest connected pieces of a concept, level-0 pixels, largest first."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(
        concept_mask(labels, concept).astype(np.uint8), connectivity=8
    )
    order = sorted(range(1, count), key=lambda i: -int(stats[i, cv2.CC_STAT_AREA]))[:most]
    return [Box(*(int(v) * label_px for v in stats[i, :4])) for i in order]
