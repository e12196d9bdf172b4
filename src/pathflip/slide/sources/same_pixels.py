"""Whether a way of reading gives OpenSlide's pixels, tried on a few places when a slide is opened."""

import numpy as np

from pathflip.errors import SlideError
from pathflip.slide.sources.openslide import OpenSlideSource
from pathflip.slide.sources.source import NotHereError, Source
from pathflip.slide.sources.stored_tiles import StoredTiles

__all__ = ["check_same_pixels"]

_SIDE = 48
_PLACES = (0.5, 0.25, 0.75)
"""Of the width and the height of a level."""


def check_same_pixels(source: StoredTiles, through_openslide: OpenSlideSource) -> None:
    """Compare three squares of every level with OpenSlide; places that either cannot decode are passed over.

    (A damaged place is no reason to leave the slide to OpenSlide, whose decoder may paint it grey and say nothing.)

    Raises:
        NotHereError: sizes or pixels differ; ``source`` is closed.
    """
    source.damage = through_openslide.damage  # both read the damaged places: what one has said the other need not
    levels = range(len(source.sizes))
    same = source.sizes == through_openslide.sizes and all(_same(source, through_openslide, n) for n in levels)
    if not same:
        source.close()
        raise NotHereError("decoded directly its pixels would not be OpenSlide's")


def _same(source: Source, through_openslide: Source, level: int) -> bool:
    width, height = source.sizes[level]
    for place in _PLACES:
        x, y = (max(0, min(int(place * side), side - _SIDE)) for side in (width, height))
        try:
            want, dx, dy = through_openslide.read(level, x, y, _SIDE, _SIDE)
            if abs(dx) > 1e-6 or abs(dy) > 1e-6:  # between pixels; at the origin it never is
                x = y = 0
                want, _, _ = through_openslide.read(level, x, y, _SIDE, _SIDE)
            got, _, _ = source.read(level, x, y, _SIDE, _SIDE)
        except SlideError:
            continue
        if not np.array_equal(got, want):
            return False
    return True
