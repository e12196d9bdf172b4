"""A score a tile, in the forms people take away: an array, a picture, QuPath objects, a table."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import MissingExtraError
from pathflip.geometry import TileGrid
from pathflip.io import geojson

__all__ = ["feature_collection", "image", "painted", "table"]

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
    try:
        import pandas
    except ImportError:
        raise MissingExtraError("pandas", "notebook", "a table of tile scores") from None
    side = grid.tile_px0
    columns = {"x": grid.coords[:, 0], "y": grid.coords[:, 1], "width": side, "height": side, "similarity": scores}
    made = pandas.DataFrame(columns)
    made.attrs |= {"slide_id": grid.info.slide_id, **about}
    return made
