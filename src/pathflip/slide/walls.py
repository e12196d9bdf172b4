"""Fat and other pale tissue by its fine structure: thin walls with next to nothing between them.

Averaged over a few cells, the walls of fat are as pale as a fingerprint on the glass. Up close each is a line several
times darker than the glass beside it, with cells of 50 to 120 µm between the lines, so that tissue is where no gap
between lines is wider than a cell. Dust gives specks rather than lines, scratches and fibres enclose no area, the edge
of solid tissue has lines on one side only, and everything that lies on the glass instead of being stained is grey.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.slide.masks import Mask, closed, disk, extremes, fill_holes, grown, hysteresis, opened

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
_COLOUR = 0.10
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


def _ground(green: NDArray[np.float32], um: float, step: int) -> NDArray[np.float32]:
    """The lightest ground within 100 µm of every ``step``-th pixel (an opening, in two strides)."""
    import cv2

    light = cv2.erode(green, np.ones((2 * step + 1, 2 * step + 1), np.uint8))[step // 2 :: step, step // 2 :: step]
    side = 2 * max(1, round(_GROUND_UM / um / step) - 1) + 1
    return np.asarray(cv2.morphologyEx(light, cv2.MORPH_OPEN, np.ones((side, side), np.uint8)), np.float32)


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
    density_green = np.ascontiguousarray(density[..., 1])
    lines = line_contrast(density_green, um) > wall
    network = fill_holes(closed(_long(lines, um) | solid, gap_um / um), hole_um2 / um**2)
    network = opened(network, 0.7 * gap_um / um) & ~solid  # a lone line, closed, is still a line
    if not network.any():
        return network
    step = max(1, int(_AROUND_UM / um / 2))  # a coarser lattice does for averages so wide
    rows, columns = (side // step for side in solid.shape)
    if min(rows, columns) < 1:
        return np.zeros(solid.shape, bool)

    def average(values: NDArray[Any]) -> NDArray[np.float32]:
        coarse = cv2.resize(values[: rows * step, : columns * step], (columns, rows), interpolation=cv2.INTER_AREA)
        smooth = cv2.GaussianBlur(coarse, (0, 0), _AROUND_UM / um / step, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(smooth, np.float32)

    ground = (network & ~grown(solid, _EDGE_UM / um)).astype(np.uint8)
    lines = lines & (ground > 0)  # solid tissue says nothing of what lies beside it
    share = average(lines.astype(np.float32))
    walls = average(cv2.copyTo(density, lines.astype(np.uint8)))
    low, high = extremes(walls)
    green = walls[..., 1] - share * _ground(density_green, um, step)[:rows, :columns]
    fat = (share > fraction * np.maximum(average(ground.astype(np.float32)), 0.02)) & (high - low > _COLOUR * green)
    fat = cv2.resize(fat.astype(np.float32), solid.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    fat = opened(network & fat, 0.35 * gap_um / um)
    return hysteresis(fat, opened(fat, gap_um / um))  # a rim along solid tissue is no fat


def without_smears(mask: Mask, green: NDArray[np.float32], um: float, least_um2: float) -> Mask:
    """Drop fragments that are no tissue: specks below ``least_um2``, pale smears, and flakes darker than any tissue.

    Dried mounting medium and stain are even inside and fade out at their edge; pale tissue has fibres and nuclei, and
    ends within a pixel or two. Clots of dye and foreign flakes are denser than the densest tissue of the slide.
    """
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA] * um**2
    keep = areas >= least_um2
    keep[0] = False
    large = keep & (areas >= _SMALL_UM2)
    solid = green[cv2.erode(large[labels].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0][::5]
    densest = float(np.percentile(solid, 99)) if len(solid) else np.inf
    for i in np.flatnonzero(keep & ~large):
        x, y, width, height, _ = (int(v) for v in stats[i])
        window = slice(max(0, y - 1), y + height + 1), slice(max(0, x - 1), x + width + 1)
        keep[i] = _is_tissue(green[window], labels[window] == i, densest)
    return np.asarray(keep[labels])


def _is_tissue(green: NDArray[np.float32], inside: Mask, densest: float) -> bool:
    """Whether a small fragment is neither a smear nor a flake."""
    import cv2

    around = np.ones((3, 3), np.uint8)
    steps = cv2.dilate(green, around) - cv2.erode(green, around)
    edge = inside & ~cv2.erode(inside.astype(np.uint8), around).astype(bool)
    even = np.median(steps[inside]) < _EVEN and np.median(steps[edge]) < _SOFT
    smear = even and np.median(green[inside]) < _PALE
    return not smear and float(np.percentile(green[inside], 75)) <= _FLAKE * densest


def _long(lines: Mask, um: float) -> Mask:
    """Lines without specks."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(lines.astype(np.uint8), connectivity=8)
    keep = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) * um >= _LONG_UM
    keep[0] = False
    return np.asarray(keep[labels])
