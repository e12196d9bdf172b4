"""Features to convert, and how converted ones are compared."""

from pathlib import Path

import h5py
import numpy as np

from pathflip.geometry import Box, SlideInfo, TileSpec
from pathflip.types import SlideFeatures

CASE = "case é 1"


MPP0 = 0.2631


def sample(dim: int = 6, encoder: str = "uni_v1", name: str = CASE, seed: int = 0, **spec) -> SlideFeatures:
    """A slide whose bounds, resolution, overlap and scattered tiles all differ from anything a reader might assume."""
    rng = np.random.default_rng(seed)
    info = SlideInfo(
        name, (40_000, 30_000), MPP0, (1.0, 4.0, 16.0), "mirax", "openslide", Box(1000, 2000, 30_000, 20_000)
    )
    tiles = TileSpec(**{"tile_px": 256, "mpp": 0.5, "stride_px": 192, "min_tissue": 0.3} | spec)
    cells = np.unique(rng.integers(0, 30, (60, 2)), axis=0)
    coords = cells * tiles.stride_px0(info) + np.array([1003, 2017])
    features = rng.normal(size=(len(coords), dim)).astype(np.float32)
    return SlideFeatures(name, features, coords, np.ones(len(coords), bool), info, tiles, encoder)


def only(rows):
    """The one outcome, which went well."""
    assert len(rows) == 1
    assert rows[0].error is None, rows[0].error
    return rows[0]


def strip_own(folder: Path) -> None:
    """Take our own attribute out of every file, so that only the neighbour's layout is left."""
    for path in folder.rglob("*.h5"):
        with h5py.File(path, "a") as file:
            assert "pathflip" in file.attrs
            del file.attrs["pathflip"]


def same(got: SlideFeatures, want: SlideFeatures, half: bool = False) -> None:
    assert got.slide_id == want.slide_id
    assert got.encoder == want.encoder
    assert got.grid.tile_px0 == want.grid.tile_px0
    assert got.spec.stride_px0(got.info) == want.spec.stride_px0(want.info)
    np.testing.assert_array_equal(got.coords, want.coords)
    expected = want.features.astype(np.float16).astype(np.float32) if half else want.features
    np.testing.assert_array_equal(got.features, expected)
