"""A score a tile, in the forms people take away: an array, a picture, QuPath objects, a table."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import MissingExtraError
from pathflip.geometry import TileGrid
from pathflip.io import geojson

__all__ = [
    "feature_collection",
    "features_image",
    "features_line",
    "features_table",
    "heatmap_line",
    "image",
    "painted",
    "table",
]

COLOR_MAP = "inferno"


def painted(grid: TileGrid, scores: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Scores painted on a (height, width) canvas that spans level 0; NaN where there is no valid tile.

    Overlapping tiles are averaged.
    """
    height, width = shape
    scale = np.array([width, height]) / np.array(grid.info.size0)
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    low = np.floor(grid.coords * scale).astype(int)
    high = np.maximum(np.ceil((grid.coords + grid.tile_px0) * scale).astype(int), low + 1)
    for (x0, y0), (x1, y1), score in zip(low, high, scores, strict=True):
        if np.isfinite(score):
            total[y0:y1, x0:x1] += score
            count[y0:y1, x0:x1] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def image(grid: TileGrid, scores: NDArray[np.float32], max_px: int) -> Any:
    """A Pillow picture of level 0: coloured from the lowest score to the highest, clear where there is no tile.

    Its longer side has ``max_px`` pixels; laid over a thumbnail of that size it fits.
    """
    from matplotlib import colormaps
    from PIL import Image

    scale = max_px / max(grid.info.size0)
    width, height = (max(1, round(side * scale)) for side in grid.info.size0)
    values = painted(grid, scores, (height, width))
    shown = np.isfinite(values)
    low, high = (float(values[shown].min()), float(values[shown].max())) if shown.any() else (0.0, 1.0)
    rgba = colormaps[COLOR_MAP]((np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-9), bytes=True)
    rgba[~shown] = 0
    return Image.fromarray(rgba)


def feature_collection(grid: TileGrid, scores: NDArray[np.float32], text: str) -> dict[str, Any]:
    """A tile object a valid tile, with its score as the measurement "similarity"."""
    features = [
        geojson.feature(
            [geojson.box_ring(grid.box(row))],
            name=text,
            info=grid.info,
            object_type="tile",
            classification=text,
            measurements={"similarity": float(score)},
        )
        for row, score in enumerate(scores)
        if np.isfinite(score)
    ]
    return {"type": "FeatureCollection", "features": features}


def table(grid: TileGrid, scores: NDArray[np.float32], **about: Any) -> Any:
    """A pandas table of all tiles; ``about`` and the slide's id go into its ``attrs``.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    pandas = _pandas("a table of tile scores")
    side = grid.tile_px0
    columns = {"x": grid.coords[:, 0], "y": grid.coords[:, 1], "width": side, "height": side, "similarity": scores}
    made = pandas.DataFrame(columns)
    made.attrs |= {"slide_id": grid.info.slide_id, **about}
    return made


# --- Features, and one line for each ---------------------------------------------------------------------------------


def heatmap_line(heatmap: Any) -> str:
    """A heatmap in one line."""
    shown = heatmap.scores[np.isfinite(heatmap.scores)]
    highest = f"highest similarity {shown.max():.3f}" if len(shown) else "no valid tile"
    denied = ", states an absence" if heatmap.negated else ""
    return (
        f"Heatmap({heatmap.text!r} on '{heatmap.grid.info.slide_id}': {len(heatmap.scores)} tiles, {highest}, "
        f"presence logit {heatmap.presence:.2f}{denied})"
    )


def features_line(slide: Any) -> str:
    """Features in one line."""
    lost = int((~slide.valid).sum())
    invalid = f", {lost} invalid" if lost else ""
    return (
        f"SlideFeatures('{slide.slide_id}': {len(slide.features)} tiles × {slide.features.shape[1]} of "
        f"'{slide.encoder}'{invalid}, {slide.spec.tile_px} px at {slide.spec.mpp:g} mpp)"
    )


def features_table(slide: Any) -> Any:
    """A pandas table of all tiles with their features; slide, encoder and resolution go into its ``attrs``.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    pandas = _pandas("a table of features")
    side = slide.grid.tile_px0
    place = {"x": slide.coords[:, 0], "y": slide.coords[:, 1], "width": side, "height": side, "valid": slide.valid}
    names = [f"f{i}" for i in range(slide.features.shape[1])]
    made = pandas.concat([pandas.DataFrame(place), pandas.DataFrame(slide.features, columns=names)], axis=1)
    made.attrs |= {"slide_id": slide.slide_id, "encoder": slide.encoder, "mpp": slide.spec.mpp}
    return made


def features_image(slide: Any, max_px: int = 1024) -> Any:
    """A Pillow picture of level 0, tiles coloured by the first three principal components of the slide's own features.

    What looks alike is alike; clear where there is no valid tile.
    """
    from PIL import Image

    valid = slide.features[slide.valid].astype(np.float64)
    grid = slide.grid
    scale = max_px / max(grid.info.size0)
    width, height = (max(1, round(side * scale)) for side in grid.info.size0)
    rgba = np.zeros((height, width, 4), np.uint8)
    if len(valid):
        centred = valid - valid.mean(0)
        axes = np.linalg.svd(centred, full_matrices=False)[2][:3]
        parts = centred @ axes.T
        low, high = np.percentile(parts, [2, 98], axis=0)
        colours = np.clip((parts - low) / np.maximum(high - low, 1e-9), 0, 1)
        for channel in range(3):
            scores = np.full(len(slide.valid), np.nan, np.float32)
            scores[slide.valid] = colours[:, channel] if channel < colours.shape[1] else 0.5
            values = painted(grid, scores, (height, width))
            rgba[..., channel] = np.round(255 * np.nan_to_num(values))
            rgba[..., 3] = np.where(np.isfinite(values), 255, 0)
    return Image.fromarray(rgba)


def _pandas(purpose: str) -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingExtraError("pandas", "notebook", purpose) from None
    return pandas
