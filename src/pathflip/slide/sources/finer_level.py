"""What a damaged or left-out part of a level looks like, made from the next finer level."""

import threading
import warnings
from math import ceil, floor

import numpy as np

from pathflip.slide.resample import resample
from pathflip.slide.sources.source import Pixels, Source

__all__ = ["DamageNotes", "from_finer_level"]

_BLOCK = 2048
"""Side of the blocks of the finer level that are read at once: bounds their memory."""


class DamageNotes:
    """Says once a level that it is damaged, and where its pixels come from instead."""

    def __init__(self, silent: bool = False) -> None:
        self._silent = silent
        self._lock = threading.Lock()
        self._said: set[int] = set()

    def say(self, slide: str, level: int, reason: str) -> None:
        """Warn of a level, the first time."""
        with self._lock:
            if self._silent or level in self._said:
                return
            self._said.add(level)
        reason = " ".join(reason.split())
        line = f"slide '{slide}': level {level} is damaged ({reason}); where it is, pixels come from level {level - 1}"
        warnings.warn(line, stacklevel=2)


def from_finer_level(source: Source, level: int, x: int, y: int, width: int, height: int, halvings: int = 0) -> Pixels:
    """A rectangle of a level by the mean over each pixel's area in the next finer one; background beyond the level.

    Args:
        source: where the finer level is read.
        level: the level that cannot be read, at least 1.
        x, y, width, height: the rectangle, in pixels of the level divided by ``2 ** halvings``.
        halvings: how often smaller than the level it is wanted.

    Raises:
        SlideError: the finer level cannot be read there either.
    """
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = source.background
    full_w, full_h = (-(-side >> halvings) for side in source.sizes[level])
    left, top, right, bottom = max(0, x), max(0, y), min(full_w, x + width), min(full_h, y + height)
    scale = source.info.downsamples[level] / source.info.downsamples[level - 1] * 2**halvings
    step = max(1, int(_BLOCK / scale))
    for row in range(top, bottom, step):
        for column in range(left, right, step):
            out = min(step, right - column), min(step, bottom - row)
            pixels = _shrunk(source, level - 1, column, row, out, scale)
            canvas[row - y : row - y + out[1], column - x : column - x + out[0]] = pixels
    return canvas


def _shrunk(source: Source, level: int, x: int, y: int, out: tuple[int, int], scale: float) -> Pixels:
    """``out`` columns and rows, each over ``scale`` pixels of ``level``, from the corner ``(x, y)`` so counted."""
    full_w, full_h = source.sizes[level]
    left, top = min(floor(x * scale), full_w - 1), min(floor(y * scale), full_h - 1)
    right = max(left + 1, min(full_w, ceil((x + out[0]) * scale - 1e-9)))
    bottom = max(top + 1, min(full_h, ceil((y + out[1]) * scale - 1e-9)))
    pixels, dx, dy = source.read(level, left, top, right - left, bottom - top)
    return resample(pixels, x * scale - left - dx, y * scale - top - dy, out[0] * scale, out[1] * scale, out)
