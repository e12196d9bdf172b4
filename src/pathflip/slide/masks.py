"""What tissue and artefacts share: operations on boolean masks (grow, close, fill, drop), and colour spread."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GREY_TINT",
    "Mask",
    "closed",
    "disk",
    "extremes",
    "fill_holes",
    "grown",
    "hysteresis",
    "opened",
    "without_small",
]

Mask = NDArray[np.bool_]
GREY_TINT = 0.15
"""Near black a grey level of colour is a large step of density: so much spread per unit of grey density is ignored."""


def hysteresis(faint: Mask, clear: Mask) -> Mask:
    """The connected parts of ``faint`` that hold some pixel of ``clear``."""
    import cv2

    count, labels = cv2.connectedComponents(faint.astype(np.uint8), connectivity=8)
    keep = np.zeros(count, bool)
    keep[labels[clear]] = True
    keep[0] = False
    return keep[labels]


def closed(mask: Mask, radius: float) -> Mask:
    """Morphological closing; the border is padded so that tissue at the edge neither grows nor shrinks."""
    import cv2

    r = round(radius)
    if r < 1:
        return mask
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), r, r, r, r, cv2.BORDER_CONSTANT, value=0)
    filled = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disk(r))[r:-r, r:-r].astype(bool)
    return filled | mask


def opened(mask: Mask, radius: float) -> Mask:
    """Morphological opening: what a disk of ``radius`` pixels (one at least) fits into."""
    import cv2

    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disk(max(1, round(radius)))).astype(bool)


def grown(mask: Mask, radius: float) -> Mask:
    """The mask and everything within ``radius`` pixels (one at least) of it."""
    import cv2

    return cv2.dilate(mask.astype(np.uint8), disk(max(1, round(radius)))).astype(bool)


def fill_holes(mask: Mask, area: float) -> Mask:
    """Fill enclosed holes of up to ``area`` pixels (those that touch the border are not enclosed)."""
    outside = np.pad(~mask, 1, constant_values=True)
    return mask | ~without_small(outside, area, keep_first=True)[1:-1, 1:-1]


def without_small(mask: Mask, area: float, keep_first: bool = False) -> Mask:
    """Drop connected parts below ``area`` pixels; ``keep_first`` spares the part at the top-left corner."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    if keep_first:
        keep[labels[0, 0]] = True
    return np.asarray(keep[labels])


def disk(radius: int) -> NDArray[np.uint8]:
    """A round structuring element of ``2 · radius + 1`` pixels."""
    import cv2

    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.uint8)


def extremes(colors: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smallest and largest of the three channels; numpy's own reduction over so short an axis is ten times slower."""
    import cv2

    planes = cv2.split(colors)
    low = cv2.min(cv2.min(planes[0], planes[1]), planes[2])
    high = cv2.max(cv2.max(planes[0], planes[1]), planes[2])
    return np.asarray(low), np.asarray(high)
