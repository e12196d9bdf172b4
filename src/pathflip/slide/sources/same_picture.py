"""Whether a level shows what the next finer one does: asked where a header does not say that it is a level."""

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import SlideError
from pathflip.slide.sources.finer_level import from_finer_level
from pathflip.slide.sources.source import Pixels, Source

__all__ = ["shows_the_same"]

_FINER_PX = 1024
"""Side of the squares of the finer level that are compared."""
_GRID, _PLACES, _BLOCKS = 4, 3, 8
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
    for _, x, y, shown in sorted(places, key=lambda place: -place[0])[:_PLACES]:
        try:
            expected = _blocks(from_finer_level(source, level, x, y, side, side))
        except SlideError:
            continue
        contrast = max(float(expected.std()), float(shown.std()))
        if float(np.abs(shown - expected).mean()) > _GREY_LEVELS + _OF_CONTRAST * contrast:
            return False
    return True


def _blocks(pixels: Pixels) -> NDArray[np.float64]:
    """Mean colours of 8 × 8 blocks."""
    step = len(pixels) // _BLOCKS
    cut = pixels[: step * _BLOCKS, : step * _BLOCKS].astype(np.float64)
    return np.asarray(cut.reshape(_BLOCKS, step, _BLOCKS, step, 3).mean(axis=(1, 3)))
