"""Samples of a TIFF to 8-bit RGB, for every meaning a photometric tag and extra samples give them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.slide.sources.source import Color, Pixels
from pathflip.slide.sources.tiff_codecs import Samples

__all__ = ["Colours"]

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLOURS_OF = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
"""How many samples are colours; what follows is alpha or extra."""
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Colours:
    """What the samples of a page mean.

    Attributes:
        photometric: TIFF tag 262; YCBCR only where samples still are YCbCr (decoders undo a JPEG's own).
        largest: the value of full intensity (255, 65535, or less where fewer bits are used).
        alpha: the meaning of a further sample: ASSOCIATED, UNASSOCIATED, or UNSPECIFIED, which is ignored.
        background: what shows through transparent pixels.
        palette: uint8 (entries, 3).
    """

    photometric: int
    largest: int
    alpha: int
    background: Color
    palette: NDArray[np.uint8] | None = None

    def has_further(self, samples: int) -> bool:
        """Whether ``samples`` a pixel are more than its colours."""
        return samples > COLOURS_OF[self.photometric]

    @property
    def is_grey(self) -> bool:
        """Whether pixels have one brightness and no colour."""
        return self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)

    def without_alpha(self) -> "Colours":
        """The same with a further sample ignored."""
        return replace(self, alpha=UNSPECIFIED)

    def to_rgb(self, samples: Samples) -> Pixels:
        """uint8 (rows, columns, 3) from the samples of a tile."""
        count = COLOURS_OF[self.photometric]
        colours = samples[..., :count]
        if self.palette is not None:
            return self.palette[np.minimum(colours[..., 0], len(self.palette) - 1)]
        colours = self._in_eight_bits(colours)
        if self.photometric == WHITE_IS_ZERO:
            colours = 255 - colours
        elif self.photometric == CMYK:
            ink = colours.astype(np.uint16)
            colours = ((255 - ink[..., :3]) * (255 - ink[..., 3:]) // 255).astype(np.uint8)
        elif self.photometric == YCBCR:
            colours = ycbcr_to_rgb(colours)
        if colours.shape[-1] == 1:
            colours = np.repeat(colours, 3, axis=-1)
        if self.alpha == UNSPECIFIED or samples.shape[-1] <= count:
            return np.ascontiguousarray(colours)
        return self._over_background(colours, self._in_eight_bits(samples[..., count : count + 1]))

    def _in_eight_bits(self, samples: Samples) -> NDArray[np.uint8]:
        if self.largest == 255:
            return samples.astype(np.uint8, copy=False)
        if self.largest > 255 and (self.largest + 1) & self.largest == 0:  # 2 ** bits - 1: the upper eight bits
            return np.minimum(samples >> (self.largest.bit_length() - 8), 255).astype(np.uint8)
        return np.minimum(np.rint(samples * (255 / self.largest)), 255).astype(np.uint8)

    def _over_background(self, colours: Pixels, alpha: NDArray[np.uint8]) -> Pixels:
        share = alpha.astype(np.float32) / 255
        own = colours * share if self.alpha == UNASSOCIATED else colours.astype(np.float32)
        return np.minimum(np.rint(own + np.asarray(self.background, np.float32) * (1 - share)), 255).astype(np.uint8)


def ycbcr_to_rgb(ycbcr: NDArray[np.uint8]) -> Pixels:
    """JFIF's YCbCr (ITU-R BT.601, full range) to RGB."""
    y, cb, cr = (ycbcr[..., i].astype(np.float32) for i in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def palette_of(page: Any) -> NDArray[np.uint8]:
    """The colour table of a page, uint8 (entries, 3); old writers fill only the lower eight bits of its sixteen."""
    table = np.asarray(page.colormap).reshape(3, -1).T
    return (table if table.max(initial=0) < 256 else table >> 8).astype(np.uint8)
