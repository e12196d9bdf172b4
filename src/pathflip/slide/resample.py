"""Anti-aliased resampling of a rectangle with real-valued corners: the one place where pixels change size."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["area_weights", "cubic_weights", "resample"]

Pixels = NDArray[np.uint8]
Weights = NDArray[np.float32]

AREA_FROM = 1.15
"""Shrinking by less than this interpolates: the area mean of 1.05 pixels would blur wherever it straddles two, and
there is nothing yet to alias."""
_CUBIC = -0.75  # OpenCV's INTER_CUBIC, so that both paths below give the same pixels


def resample(image: Pixels, x: float, y: float, width: float, height: float, out: tuple[int, int]) -> Pixels:
    """Resample the rectangle at ``(x, y)`` of ``image`` to ``out = (columns, rows)`` pixels.

    Shrinking takes the mean over the exact area of each output pixel (a box filter with fractional coverage), so
    nothing aliases; close to the same size it is cubic. Nothing moves: the centre of the rectangle stays the centre of
    the output, at any fraction of a pixel.

    Args:
        image: uint8 (rows, columns, 3); pixel ``(i, j)`` covers ``[i, i + 1) × [j, j + 1)``.
        x, y, width, height: the rectangle, in pixels of ``image``; outside the image its border is repeated.
        out: columns and rows wanted.
    """
    by_area = max(width / out[0], height / out[1]) >= AREA_FROM
    if _is_whole(x, y, width, height) and _is_inside(image, x, y, width, height):
        crop = image[round(y) : round(y + height), round(x) : round(x + width)]
        if not by_area or _is_whole(width / out[0], height / out[1]):
            return _from_whole(crop, out, by_area)
    rows, columns = image.shape[:2]
    across = _weights(round(x, 9), round(width, 9), out[0], columns, by_area)
    down = _weights(round(y, 9), round(height, 9), out[1], rows, by_area)
    return _separable(image, across, down)


def _is_whole(*corners: float) -> bool:
    return all(abs(v - round(v)) < 1e-6 for v in corners)


def _is_inside(image: Pixels, x: float, y: float, width: float, height: float) -> bool:
    return x > -0.5 and y > -0.5 and x + width < image.shape[1] + 0.5 and y + height < image.shape[0] + 0.5


def _from_whole(crop: Pixels, out: tuple[int, int], by_area: bool) -> Pixels:
    """Whole-pixel corners and a whole or a near-1 factor, the common cases: OpenCV does the same sums faster."""
    if crop.shape[1::-1] == out:
        return crop.copy()
    import cv2

    how = cv2.INTER_AREA if by_area else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, out, interpolation=how), np.uint8)


def _separable(image: Pixels, across: "csr_array", down: "csr_array") -> Pixels:
    """Weigh rows, then columns, which are turned to be rows: a product passes over whole rows of pixels."""
    import cv2

    tall = _weighted_rows(down, image.astype(np.float32))
    turned = _weighted_rows(across, np.asarray(cv2.transpose(tall), np.float32))
    cut = cv2.threshold(turned, 0, 0, cv2.THRESH_TOZERO, dst=turned)[1]  # cubic weights undershoot
    return np.asarray(cv2.transpose(cv2.convertScaleAbs(cut)), np.uint8)


def _weighted_rows(weights: "csr_array", image: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns, channels = image.shape
    return np.asarray(weights @ image.reshape(rows, -1)).reshape(-1, columns, channels)


@lru_cache(maxsize=512)
def _weights(start: float, length: float, num_out: int, num_in: int, by_area: bool) -> "csr_array":
    """Sparse, as each output touches a few inputs only; and a sparse product stays with one processor, while BLAS
    would share a dense one among all, where tiles are read side by side anyway.
    """
    from scipy.sparse import csr_array

    return csr_array((area_weights if by_area else cubic_weights)(start, length, num_out, num_in))


def area_weights(start: float, length: float, num_out: int, num_in: int) -> Weights:
    """The share of each of ``num_in`` pixels in each of ``num_out`` equal pieces of ``[start, start + length)``.

    Rows sum to 1; a piece outside the pixels takes the border pixel.
    """
    edges = np.clip(start + np.arange(num_out + 1) * (length / num_out), 0, num_in)
    pixel = np.arange(num_in)
    low = np.maximum(edges[:-1, None], pixel)
    high = np.minimum(edges[1:, None], pixel + 1)
    share = np.clip(high - low, 0, None)
    outside = share.sum(axis=1) < 1e-9
    border = np.clip(np.floor((edges[:-1] + edges[1:]) / 2).astype(int), 0, num_in - 1)
    share[outside, border[outside]] = 1.0
    return (share / share.sum(axis=1, keepdims=True)).astype(np.float32)


def cubic_weights(start: float, length: float, num_out: int, num_in: int) -> Weights:
    """Cubic interpolation at the centres of ``num_out`` equal pieces of ``[start, start + length)``; border repeated.

    Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -0.75.
    """
    centre = start + (np.arange(num_out) + 0.5) * (length / num_out) - 0.5
    base = np.floor(centre).astype(int)
    weights = np.zeros((num_out, num_in))
    for tap in range(-1, 3):
        t = np.abs(centre - (base + tap))
        near = (_CUBIC + 2) * t**3 - (_CUBIC + 3) * t**2 + 1
        far = _CUBIC * (t**3 - 5 * t**2 + 8 * t - 4)
        weight = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
        np.add.at(weights, (np.arange(num_out), np.clip(base + tap, 0, num_in - 1)), weight)
    return weights.astype(np.float32)
