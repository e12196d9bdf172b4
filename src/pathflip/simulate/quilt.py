"""Real tiles laid side by side with few visible seams: image quilting (Efros & Freeman 2001, SIGGRAPH).

Each tile overlaps its neighbours by a sixth; in the overlap it is cut along the line on which the two pictures differ
least, and the cut is softened over about two pixels. No pixel is recoloured: tiles are chosen to be alike instead.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

__all__ = ["alike", "quilt"]

OVERLAP = 1 / 6
SOFT_PX = 0.8
Tile = UInt8[np.ndarray, "t t 3"]


def alike(tiles: Sequence[Tile], count: int, rng: np.random.Generator) -> list[Tile]:
    """A random tile and those ``count - 1`` others whose mean colours are nearest to it."""
    means = np.stack([tile.reshape(-1, 3).mean(0) for tile in tiles])
    distance = np.linalg.norm(means - means[rng.integers(len(tiles))], axis=1)
    return [tiles[i] for i in np.argsort(distance, kind="stable")[:count]]


def quilt(
    tiles: Sequence[Tile], wanted: Bool[np.ndarray, "y x"], rng: np.random.Generator
) -> UInt8[np.ndarray, "y x 3"]:
    """A picture made of tiles, each turned or mirrored at random.

    Args:
        tiles: squares of one size.
        wanted: where the picture is needed; elsewhere it may stay black.
    """
    side = len(tiles[0])
    overlap = max(2, round(side * OVERLAP))
    step = side - overlap
    height, width = wanted.shape
    rows, columns = max(1, -(-(height - overlap) // step)), max(1, -(-(width - overlap) // step))
    canvas = np.zeros((rows * step + overlap, columns * step + overlap, 3), np.uint8)
    laid = np.zeros((rows, columns), bool)
    for row in range(rows):
        for column in range(columns):
            y, x = row * step, column * step
            if not wanted[y : y + side, x : x + side].any():
                continue
            tile = _turned(tiles[int(rng.integers(len(tiles)))], rng)
            left = bool(column and laid[row, column - 1])
            above = bool(row and laid[row - 1, column])
            view = canvas[y : y + side, x : x + side]
            alpha = _cut(view, tile, overlap, left, above)[..., None]
            view[:] = np.rint(view + alpha * (tile.astype(np.float32) - view)).astype(np.uint8)
            laid[row, column] = True
    return canvas[:height, :width]


def _turned(tile: Tile, rng: np.random.Generator) -> Tile:
    turned = np.rot90(tile[:, ::-1] if rng.integers(2) else tile, int(rng.integers(4)))
    return np.ascontiguousarray(turned)


def _cut(view: Tile, tile: Tile, overlap: int, left: bool, above: bool) -> Float[np.ndarray, "t t"]:
    """How much of the new tile shows at each pixel, 0 to 1."""
    difference = ((view.astype(np.float32) - tile) ** 2).sum(-1)
    new = np.ones(difference.shape, bool)
    if left:
        path = _cheapest_path(difference[:, :overlap])
        new[:, :overlap] &= np.arange(overlap) >= path[:, None]
    if above:
        path = _cheapest_path(difference[:overlap].T)
        new[:overlap] &= np.arange(overlap)[:, None] >= path
    soft = np.asarray(cv2.GaussianBlur(new.astype(np.float32), (0, 0), SOFT_PX), np.float32)
    if not left:
        soft[:, :overlap] = np.maximum(soft[:, :overlap], new[:, :overlap])
    return np.where(view.any(-1), soft, 1.0).astype(np.float32)


def _cheapest_path(cost: Float[np.ndarray, "n w"]) -> NDArray[np.int64]:
    """The column at each row of the path from top to bottom whose sum of costs is least; steps of at most one."""
    total = cost.astype(np.float64).copy()
    for row in range(1, len(total)):
        before = np.pad(total[row - 1], 1, constant_values=np.inf)
        total[row] += np.minimum(np.minimum(before[:-2], before[1:-1]), before[2:])
    path = np.empty(len(total), np.int64)
    path[-1] = int(total[-1].argmin())
    for row in range(len(total) - 2, -1, -1):
        low = max(path[row + 1] - 1, 0)
        path[row] = low + int(total[row, low : path[row + 1] + 2].argmin())
    return path
