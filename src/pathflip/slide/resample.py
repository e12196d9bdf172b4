"""Anti-aliased resampling of a rectangle with real-valued corners: the one place where pixels change size."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["area_weights", "cubic_weights", "resample"]

Pixels = NDArray[np.uint8]
Weights = NDArray[np.float32]

AREA_FROM = 1.15
"""Shrinking by less than this interpolates: the area mean of 1.05 pixels would blur wherever it straddles two, and
there is nothing yet to alias."""
_ONE_PROCESSOR = 2**18  # multiplications; GEMM_MULTITHREAD_THRESHOLD of OpenBLAS, 4, times 2**16
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
    across = _bands(round(x, 9), round(width, 9), out[0], columns, by_area)
    down = _bands(round(y, 9), round(height, 9), out[1], rows, by_area)
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


Bands = tuple[tuple[int, int, int, int, Weights], ...]


def _separable(image: Pixels, across: Bands, down: Bands) -> Pixels:
    """Weigh rows, then columns, which are turned to be rows: whole rows of pixels are what BLAS multiplies fastest."""
    import cv2

    tall = cv2.transpose(_weighted_rows(image.astype(np.float32), down))
    both = cv2.transpose(_weighted_rows(tall, across))
    cut = cv2.threshold(both, 0, 0, cv2.THRESH_TOZERO, dst=both)[1]  # cubic weights undershoot
    return np.asarray(cv2.convertScaleAbs(cut), np.uint8)


def _weighted_rows(image: NDArray[np.float32], bands: Bands) -> NDArray[np.float32]:
    """Each row of the result is a weighted sum of a few neighbouring rows of ``image`` (rows, columns, 3)."""
    values = image.reshape(len(image), -1)
    weighted = np.empty((bands[-1][1], values.shape[1]), np.float32)
    for first, last, low, high, block in bands:
        for part in _parts(values.shape[1], block.size):
            np.matmul(block, values[low:high, part], out=weighted[first:last, part])
    return weighted.reshape(len(weighted), -1, 3)


def _parts(length: int, block: int) -> list[slice]:
    """``length`` in so few equal parts that multiplying one by a block of that size stays with one processor.

    OpenBLAS shares larger products among all of them, where tiles are read side by side anyway, and its threads then
    spin for more: half of the processors' time was lost.
    """
    count = -(-length * block // _ONE_PROCESSOR)
    edges = [length * i // count for i in range(count + 1)]
    return [slice(low, high) for low, high in pairwise(edges)]


@lru_cache(maxsize=512)
def _bands(start: float, length: float, num_out: int, num_in: int, by_area: bool) -> Bands:
    """Weights in runs of a few outputs: first and last output, first and last input, and the block between them."""
    weights = (area_weights if by_area else cubic_weights)(start, length, num_out, num_in)
    bands = []
    run = 8 if by_area else 16  # short runs waste less on zeros, long ones call BLAS less often
    for first in range(0, num_out, run):
        block = weights[first : first + run]
        used = np.flatnonzero(block.any(axis=0))
        low, high, last = int(used[0]), int(used[-1]) + 1, first + len(block)
        bands.append((first, last, low, high, np.ascontiguousarray(block[:, low:high])))
    return tuple(bands)


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
