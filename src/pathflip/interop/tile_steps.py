"""How far apart the tiles of a neighbour's file stand, and whether that can be true of what else it says."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import FeatureError

__all__ = ["SAME_STEP", "check_step", "commonest_step", "smallest_step"]

SAME_STEP = 0.03
"""A step may differ from what is said by this fraction: sides and coordinates are rounded to pixels."""
_NO_PIXELS = 8
"""Tiles that stand fewer pixels apart are counted, not measured."""


def smallest_step(values: NDArray[Any]) -> float | None:
    """The smallest distance between neighbours in a row or column of tiles; None where no two share one."""
    return min((float(gaps.min()) for gaps in _gaps(values)), default=None)


def commonest_step(values: NDArray[Any]) -> float | None:
    """The commonest such distance, the smaller of two that are as common: the step of a lattice that may shift."""
    gaps = _gaps(values)
    if not gaps:
        return None
    steps, counts = np.unique(np.concatenate(gaps), return_counts=True)
    return float(steps[np.argmax(counts)])


def _gaps(values: NDArray[Any]) -> list[NDArray[np.float64]]:
    """Distances between neighbours along x in one row, and along y in one column."""
    gaps = []
    for along, across in ((0, 1), (1, 0)):
        rows = values[np.lexsort((values[:, along], values[:, across]))].astype(np.float64)
        gap = np.diff(rows[:, along])[np.diff(rows[:, across]) == 0]
        gaps += [gap[gap > 0]] if (gap > 0).any() else []
    return gaps


def check_step(
    path: Path, coords: NDArray[np.int64], side0: int, mpp0: float, stride0: int | None
) -> tuple[float | None, tuple[str, ...]]:
    """Whether the step of level-0 coordinates fits the tiles; microns or numbers of tiles in place of pixels do not.

    Args:
        path: for messages.
        coords: (N, 2), level-0 pixels as the file has them.
        side0: side of a tile, level-0 pixels.
        mpp0: microns per level-0 pixel.
        stride0: step in level-0 pixels, where the file says it.

    Returns:
        The step where it is smaller than a side and the file does not say so, else None; and what to tell a person.

    Raises:
        FeatureError: the coordinates are no level-0 pixels.
    """
    step, expected = commonest_step(coords), stride0 or side0
    if step is None or step >= (1 - SAME_STEP) * expected:
        return None, ()
    if step < _NO_PIXELS:
        raise FeatureError(
            f"{path}: its tiles are {side0} level-0 px wide but stand {step:g} apart: these are numbers of columns and "
            "rows, expected level-0 pixels; multiply them by the step of the tiles, or extract it again"
        )
    in_microns = abs(mpp0 - 1) > SAME_STEP and abs(step / (expected * mpp0) - 1) < SAME_STEP
    if stride0 is not None and in_microns:
        raise FeatureError(
            f"{path}: its tiles should stand {stride0} level-0 px apart but stand {step:g} apart, which is {stride0} "
            f"px of {mpp0:.4g} µm: the coordinates are microns, expected level-0 pixels; divide them by {mpp0:.4g}, or "
            "extract it again"
        )
    if stride0 is not None:
        return None, (
            f"the file says its tiles stand {stride0} level-0 px apart, most stand {step:g} apart: one of the two is "
            "wrong: look at them (--to qupath) before you use them",
        )
    microns = f"; or these are microns ({mpp0:.4g} µm a pixel)" if in_microns else ""
    return step, (
        f"its tiles are {side0} level-0 px wide but stand {step:g} apart: taken as overlapping{microns}: look at them "
        "(--to qupath) before you use them",
    )
