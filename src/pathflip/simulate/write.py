"""Slides as scanners write them: pyramidal TIFF of JPEG tiles that says how large a pixel is."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pathflip.io.files import atomic_path

__all__ = ["write_slide"]

TILE_PX = 256
JPEG_QUALITY = 87
SMALLEST_PX = 256
"""The pyramid stops before a level falls below this side."""


def write_slide(target: str | Path, rgb: NDArray[np.uint8], mpp: float) -> None:
    """Write a slide atomically; OpenSlide opens it as ``generic-tiff`` and finds ``mpp`` in the resolution tags.

    Args:
        rgb: level 0, uint8 (H, W, 3). Further levels are halved until ``SMALLEST_PX``, at most to 1/8.
        mpp: microns per level-0 pixel.
    """
    import tifffile

    levels: list[NDArray] = [rgb]
    while len(levels) < 4 and min(levels[-1].shape[:2]) >= 2 * SMALLEST_PX:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    with atomic_path(target) as temporary, tifffile.TiffWriter(temporary) as tiff:
        for number, level in enumerate(levels):
            pixels_per_cm = 1e4 / (mpp * 2**number)
            tiff.write(
                level,
                photometric="rgb",  # of the data given; the file holds YCbCr at 4:2:0
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                resolution=(pixels_per_cm, pixels_per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if number else 0,
                metadata=None,
                software="pathflip simulate",
                maxworkers=1,
            )
