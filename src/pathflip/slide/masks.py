"""Operations on boolean masks that tissue and artefacts share: grow from seeds, close gaps, fill holes, drop specks."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mask", "closed", "disk", "fill_holes", "hysteresis", "without_small"]

Mask = NDArray[np.bool_]


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
