"""Fat and other pale tissue by its fine structure: thin walls with next to nothing between them.

Averaged over a few cells, the walls of fat are as pale as a fingerprint on the glass. Up close each is a line several
times darker than the glass beside it, with cells of 50 to 120 µm between the lines, so that tissue is where no gap
between lines is wider than a cell. Dust gives specks rather than lines, scratches and fibres enclose no area, the edge
of solid tissue has lines on one side only, and everything that lies on the glass instead of being stained is grey.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.slide.masks import Mask, closed, disk, extremes, fill_holes, grown, opened

__all__ = ["line_contrast", "spanned_by_walls", "without_smears"]

_COARSEST_UM = 16.0
_THIN_UM = 24.0
"""Half the width of the widest line that counts as a wall."""
_LONG_UM = 64.0
"""Shorter lines are specks."""
_AROUND_UM = 64.0
"""Standard deviation of the average in which walls are counted and their colour is judged."""
_GROUND_UM = 100.0
"""Half the width of the window whose lightest part is the ground between walls."""
_COLOUR = 0.12
"""Colour spread of walls relative to their density in green: walls have 0.2 to 0.5, dust and bands less than 0.11."""
_EDGE_UM = 16.0
"""Lines this near to solid tissue are its edge."""
_SMALL_UM2 = 500_000.0
"""Larger fragments are tissue whatever they look like."""
_PALE = 0.12
"""Density in green below which a fragment may be a smear,"""
_EVEN = 0.03
"""if the density of neighbouring pixels differs less than this"""
_SOFT = 0.035
"""and, along its edge, than this."""
_FLAKE = 1.15
"""A fragment whose upper quarter is this many times as dense as the densest hundredth of the tissue is a flake."""


def line_contrast(green: NDArray[np.float32], um: float) -> NDArray[np.float32]:
    """By how much a pixel is denser than the broader structures under it (white top-hat); zero on even ground."""
    import cv2

    return np.asarray(green - cv2.morphologyEx(green, cv2.MORPH_OPEN, disk(max(1, round(_THIN_UM / um)))))


def _above_ground(density: NDArray[np.float32], um: float) -> NDArray[np.float32]:
    """Density relative to the lightest ground nearby: shading of the slide cancels."""
    import cv2

    side = 2 * max(1, round(_GROUND_UM / um)) + 1
    return np.asarray(density - cv2.morphologyEx(density, cv2.MORPH_OPEN, np.ones((side, side), np.uint8)))


def spanned_by_walls(
    density: NDArray[np.float32],
    solid: Mask,
    um: float,
    *,
    wall: float,
    gap_um: float,
    hole_um2: float,
    fraction: float,
) -> Mask:
    """Where thin stained walls, or walls and the solid tissue beside them, leave no gap wider than a cell.

    Args:
        density: optical density relative to the glass, (rows, columns, 3).
        solid: tissue found by its colour.
        um: microns a pixel.
        wall: line contrast of a wall in green, the channel every stain darkens.
        gap_um: half the widest gap of an open cell.
        hole_um2: area of the largest cell that walls close in.
        fraction: walls cover at least this fraction of what is not solid.

    Returns:
        The mask without ``solid``; empty where a pixel is wider than 16 µm, which shows no walls.
    """
    import cv2

    if um > _COARSEST_UM:
        return np.zeros(solid.shape, bool)
    lines = line_contrast(np.ascontiguousarray(density[..., 1]), um) > wall
    network = fill_holes(closed(_long(lines, um) | solid, gap_um / um), hole_um2 / um**2)
    network = opened(network, 0.7 * gap_um / um) & ~solid  # a lone line, closed, is still a line
    if not network.any():
        return network
    sigma = _AROUND_UM / um

    def average(values: NDArray[Any]) -> NDArray[np.float32]:
        values = np.asarray(values, np.float32)
        return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)

    ground = ~grown(solid, _EDGE_UM / um)
    lines &= ground  # solid tissue says nothing of what lies beside it
    dense_enough = average(lines) > fraction * np.maximum(average(ground), 0.02)
    low, high = extremes(np.dstack([average(np.where(lines, density[..., i], 0)) for i in range(3)]))
    green = average(np.where(lines, _above_ground(density[..., 1], um), 0))
    coloured = high - low > _COLOUR * green  # the average first: what compression does to single pixels cancels
    return opened(network & dense_enough & coloured, 0.35 * gap_um / um)


def without_smears(mask: Mask, green: NDArray[np.float32], um: float) -> Mask:
    """Drop small fragments that are no tissue: pale smears without structure or edge, flakes darker than any tissue.

    Dried mounting medium and stain are even inside and fade out at their edge; pale tissue has fibres and nuclei, and
    ends within a pixel or two. Clots of dye and foreign flakes are denser than the densest tissue of the slide.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    around = np.ones((3, 3), np.uint8)
    steps = cv2.dilate(green, around) - cv2.erode(green, around)
    edge = mask & ~cv2.erode(mask.astype(np.uint8), around).astype(bool)
    small = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] * um**2 < _SMALL_UM2]
    large = np.ones(count, bool)
    large[[0, *small]] = False
    dense = green[large[labels]]
    densest = float(np.percentile(dense, 99)) if len(dense) else np.inf
    keep = np.ones(count, bool)
    keep[0] = False
    for i in small:
        x, y, width, height, _ = stats[i]
        window = slice(y, y + height), slice(x, x + width)
        inside = labels[window] == i
        values = green[window][inside]
        even = np.median(steps[window][inside]) < _EVEN and np.median(steps[window][inside & edge[window]]) < _SOFT
        keep[i] = not (even and np.median(values) < _PALE) and np.percentile(values, 75) <= _FLAKE * densest
    return np.asarray(keep[labels])


def _long(lines: Mask, um: float) -> Mask:
    """Lines without specks."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(lines.astype(np.uint8), connectivity=8)
    keep = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) * um >= _LONG_UM
    keep[0] = False
    return np.asarray(keep[labels])
