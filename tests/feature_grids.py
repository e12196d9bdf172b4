"""Features on scattered tiles, for tests of neighbourhoods, regions and models."""

import numpy as np

from pathflip.data.patches import Neighbourhood
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.types import SlideFeatures


def make_features(cells, dim=5, tile_px=64, mpp0=0.26, invalid=(), seed=0) -> SlideFeatures:
    info = SlideInfo("s", (40000, 40000), mpp0)
    spec = TileSpec(tile_px, 0.5)
    cells = np.asarray(cells)
    coords = (cells * spec.stride_px0(info) + 1000).astype(np.int64)
    rng = np.random.default_rng(seed)
    valid = np.ones(len(cells), bool)
    valid[list(invalid)] = False
    return SlideFeatures("s", rng.normal(size=(len(cells), dim)).astype(np.float32), coords, valid, info, spec, "test")


def neighbour_means(features: SlideFeatures, cells=None, radius: int = 1) -> np.ndarray:
    """Of every tile."""
    near = Neighbourhood(features.grid.cells() if cells is None else cells, features.valid, radius)
    return near.mean(features.features, np.arange(len(features.valid)))


def scattered_cells(rng, num=80, size=17):
    return np.array(sorted({(int(x), int(y)) for x, y in rng.integers(0, size, (num, 2))}))
