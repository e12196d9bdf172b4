"""The picture behind the odd slide files of the fixtures, and how readings are compared with it."""

from pathlib import Path

import cv2
import numpy as np

from pathflip.geometry import TileSpec

FOLDER = Path(__file__).parent / "fixtures" / "odd_slides"
TRUTH = cv2.imread(str(FOLDER / "truth.png"))[..., ::-1]
THE_TILE = cv2.resize(TRUTH[128:256, 256:384], (64, 64), interpolation=cv2.INTER_AREA)
SPEC = TileSpec(64, 1.0)


def difference(got, want):
    """Mean absolute difference in grey levels."""
    assert got.shape == want.shape
    return float(np.abs(got.astype(int) - want.astype(int)).mean())


def whole(slide):
    """All of level 0."""
    width, height = slide.info.size0
    return slide.read_region_px(0, 0, 0, width, height)
