"""Pictures of the report page: heatmaps over slides, outlines of the truth, the colour bar."""

import math

import numpy as np
from numpy.typing import NDArray

from pathflip.plots import COLOR_MAP, RANGE_PERCENTILES, embedded, heatmap_image
from pathflip.types import Heatmap

__all__ = ["color_bar", "heatmap_panel", "mask_outline", "score_range"]

HEATMAP_OPACITY = 0.82
HALF = 0.5


def color_bar() -> str:
    """The heatmaps' colours from low to high, as a picture."""
    from matplotlib import colormaps

    row = colormaps[COLOR_MAP](np.linspace(0, 1, 256))[None, :, :3]
    return embedded(np.rint(row * 255).astype(np.uint8), "PNG")


def heatmap_panel(
    heatmap: Heatmap, thumbnail: NDArray[np.uint8], limits: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """The map over a pale grey slide, stretched between ``limits``, or percentiles of its own scores: colours mean
    tile, not stain.
    """
    from matplotlib import colormaps

    image = heatmap_image(heatmap, thumbnail.shape[:2])
    low, high = limits or score_range(heatmap)
    scaled = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    color = 255 * colormaps[COLOR_MAP](np.nan_to_num(scaled))[..., :3]
    grey = 255 - 0.5 * (255 - thumbnail @ np.array([0.299, 0.587, 0.114]))
    paper = np.repeat(grey[..., None], 3, axis=2)
    shown = np.where(np.isfinite(image)[..., None], HEATMAP_OPACITY * color + (1 - HEATMAP_OPACITY) * paper, paper)
    return np.rint(shown).astype(np.uint8)


def score_range(heatmap: Heatmap) -> tuple[float, float]:
    """The scores between which the colours run; nan where no tile has one."""
    finite = heatmap.scores[np.isfinite(heatmap.scores)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.percentile(finite, RANGE_PERCENTILES)
    return float(low), float(high)


def mask_outline(mask: NDArray[np.bool_], size: tuple[int, int]) -> str:
    """The borders of a mask as an SVG path on a canvas of (width, height)."""
    import cv2

    finer = max(1, math.ceil(2 * max(size) / max(mask.shape)))
    rows, columns = mask.shape[0] * finer, mask.shape[1] * finer
    smooth = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR)
    padded = np.pad((smooth >= HALF).astype(np.uint8), 1)
    rings, _ = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    scale = np.array([size[0] / columns, size[1] / rows])
    parts = []
    for ring in rings:
        points = (cv2.approxPolyDP(ring, 1.0, True)[:, 0] - HALF) * scale
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return "".join(parts)
