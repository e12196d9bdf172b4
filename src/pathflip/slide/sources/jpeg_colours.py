"""Whether the JPEG tiles of a TIFF are RGB or YCbCr, where its header may be wrong.

The header's photometric tag decides, as for every reader. But files are written whose streams are of the other kind
(an image library's JPEGs under the tag RGB, RGB under the tag YCbCr), and then a slide is green and pink all over.
"""

from collections.abc import Callable, Iterable

import numpy as np

from pathflip.slide.sources.jpeg import JPEGDecoder, stated_colours
from pathflip.slide.sources.tiff_codecs import Samples

__all__ = ["believed_ycbcr"]

_GLASS = 0.1
"""The brightest tenth of a slide is glass, or light tissue."""
_COLOURED, _NEUTRAL = 60.0, 25.0
"""Grey levels between the largest and smallest of red, green and blue of glass that is clearly wrong, and right."""


def believed_ycbcr(jpeg: JPEGDecoder, stream: bytes, tiles: Callable[[bool], Iterable[Samples]]) -> tuple[bool, str]:
    """Whether JPEG tiles of three colours are YCbCr, and what to say where the header is wrong about it, or "".

    Args:
        jpeg: their decoder, as the header says.
        stream: one of them.
        tiles: some of them, decoded as YCbCr (True) or as RGB.
    """
    says_ycbcr, is_certain = stated_colours(stream, jpeg.tables)
    if says_ycbcr is jpeg.ycbcr:
        return jpeg.ycbcr, ""
    if not is_certain:
        as_tagged, otherwise = _glass_colour(tiles(jpeg.ycbcr)), _glass_colour(tiles(not jpeg.ycbcr))
        is_silent = says_ycbcr is None
        if otherwise >= as_tagged or (is_silent and not (as_tagged > _COLOURED and otherwise < _NEUTRAL)):
            return jpeg.ycbcr, ""
    said, meant = ("YCbCr", "RGB") if jpeg.ycbcr else ("RGB", "YCbCr")
    return not jpeg.ycbcr, f"its header says {said}, its JPEG tiles are {meant}: read as {meant}"


def _glass_colour(tiles: Iterable[Samples]) -> float:
    """How far red, green and blue are apart in the brightest tenth of the pixels, grey levels; 0 without a pixel."""
    pixels = [tile.reshape(-1, 3)[::7] for tile in tiles]
    if not pixels:
        return 0.0
    values = np.concatenate(pixels).astype(np.int16)
    brightness = values.sum(axis=1)
    glass = values[brightness >= np.quantile(brightness, 1 - _GLASS)]
    return float((glass.max(axis=1) - glass.min(axis=1)).mean())
