"""Whether an overview can show fat and other pale tissue: not if it is blurred, noisy, coarse or full of JPEG blocks.

Fat is told by walls a pixel or two wide, so that a poor overview loses it without a trace in the mask. The limits lie
between fourteen slides as they are and the same ones blurred, with noise, or compressed (docs/quality.md).
"""

import numpy as np
from numpy.typing import NDArray

from pathflip.slide.masks import Mask, grown

__all__ = ["poor_overview"]

_COARSEST_UM = 16.0
"""Wider pixels show no walls."""
_NOISE = 0.04
"""Optical density that the glass's noise may reach: twice a wall's contrast."""
_SHARP = 0.33
"""Contrast of single pixels over that of some 60 µm, where tissue has most of both: slides have .53 to .84, blurred by
a pixel (of 8 µm) .19 to .29."""
_BLOCKS = 1.25
"""Steps at the borders of JPEG blocks over those elsewhere: slides have 1.0 to 1.1, at JPEG quality 50 1.3 to 1.7."""
_LEAST_PIXELS = 500


def poor_overview(
    overview: NDArray[np.uint8], density: NDArray[np.float32], mask: Mask, noise: float, um: float
) -> str:
    """What is wrong with an overview, in a word or two; "" where it shows what is there.

    Args:
        overview: RGB. density: its optical density, (rows, columns, 3). mask: the tissue found on it.
        noise: optical density that bare glass reaches by noise alone. um: microns a pixel.
    """
    if um > _COARSEST_UM:
        return f"pixels of {um:.0f} µm"
    if noise > _NOISE:
        return "noisy"
    if _block_contrast(overview[..., 1]) > _BLOCKS:
        return "strongly compressed"
    sharpness = _sharpness(np.ascontiguousarray(density[..., 1]), mask)
    return "blurred" if sharpness is not None and sharpness < _SHARP else ""


def _sharpness(green: NDArray[np.float32], mask: Mask) -> float | None:
    """How much of the tissue's contrast single pixels have; None where there is too little tissue."""
    import cv2

    inside = grown(mask, 1)  # its edge too: smooth tissue has no other
    if int(inside.sum()) < _LEAST_PIXELS:
        return None
    fine = np.percentile(np.abs(green - cv2.blur(green, (3, 3)))[inside], 95)
    broad = np.percentile(np.abs(green - cv2.GaussianBlur(green, (0, 0), 4))[inside], 95)
    return float(fine / broad) if broad > 1e-6 else None


def _block_contrast(green: NDArray[np.uint8]) -> float:
    """The usual step between neighbours at every 8th (or 4th) border, over that at the other borders."""
    worst = 0.0
    for axis in (0, 1):
        steps = np.abs(np.diff(green.astype(np.int16), axis=axis)).mean(axis=1 - axis)
        for period in (8, 4):
            if len(steps) >= 16 * period:
                by_phase = np.array([np.median(steps[phase::period]) for phase in range(period)])  # no single edge
                worst = max(worst, float(by_phase.max() / max(np.median(by_phase), 0.05)))
    return worst
