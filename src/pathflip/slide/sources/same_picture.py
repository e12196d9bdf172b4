"""Whether a level shows what the next finer one does: in few places, in more where no header calls it a level."""

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import SlideError
from pathflip.slide.sources.finer_level import from_finer_level
from pathflip.slide.sources.source import Pixels, Source

__all__ = ["seems_the_same", "shows_the_same"]

_FINER_PX = 1024
"""Side of the squares of the finer level that are compared."""
_GRID, _PLACES, _BLOCKS = 4, 3, 8
_GLANCE_PX = 96
"""Side of the four squares of a level that is called one: some ten stored tiles are decoded for them."""
_GREY_LEVELS, _OF_CONTRAST = 4.0, 0.3
"""Blocks may differ by so much, as levels are made in many ways (sharpened, by every other pixel, compressed anew)."""


def shows_the_same(source: Source, level: int) -> bool:
    """Compare a level with the next finer one in the places where it shows most; what cannot be read says nothing."""
    scale = source.info.downsamples[level] / source.info.downsamples[level - 1]
    width, height = source.sizes[level]
    side = max(_BLOCKS, min(256, int(_FINER_PX / scale), width, height))
    corners = {
        (round((width - side) * i / (_GRID - 1)), round((height - side) * j / (_GRID - 1)))
        for i in range(_GRID)
        for j in range(_GRID)
    }
    places = []
    for x, y in sorted(corners):
        try:
            shown = _blocks(source.read(level, x, y, side, side)[0])
        except SlideError:
            continue
        places.append((float(shown.std()), x, y, shown))
    return all(_agrees(source, level, place[1:], side) for place in sorted(places, key=lambda p: -p[0])[:_PLACES])


def seems_the_same(source: Source, level: int) -> bool:
    """Compare a level that its header calls one with the next finer level, in four small squares."""
    width, height = source.sizes[level]
    side = min(_GLANCE_PX, width, height)
    if side < _BLOCKS:
        return True
    for x in (width // 4, width * 3 // 4):
        for y in (height // 4, height * 3 // 4):
            left, top = min(x, width - side), min(y, height - side)
            try:
                shown = _blocks(source.read(level, left, top, side, side)[0])
            except SlideError:
                continue
            if not _agrees(source, level, (left, top, shown), side):
                return False
    return True


def _agrees(source: Source, level: int, place: tuple[int, int, NDArray[np.float64]], side: int) -> bool:
    """Whether the finer level shows the same in a place; one that cannot be read says nothing."""
    x, y, shown = place
    try:
        expected = _blocks(from_finer_level(source, level, x, y, side, side))
    except SlideError:
        return True
    contrast = max(float(expected.std()), float(shown.std()))
    return float(np.abs(shown - expected).mean()) <= _GREY_LEVELS + _OF_CONTRAST * contrast


def _blocks(pixels: Pixels) -> NDArray[np.float64]:
    """Mean colours of 8 × 8 blocks."""
    step = len(pixels) // _BLOCKS
    cut = pixels[: step * _BLOCKS, : step * _BLOCKS].astype(np.float64)
    return np.asarray(cut.reshape(_BLOCKS, step, _BLOCKS, step, 3).mean(axis=(1, 3)))
