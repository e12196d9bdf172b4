"""Regions, context and positions against naive loops."""

import numpy as np
import pytest

from pathflip.data.regions import RegionSpec, group_regions, neighbour_context, relative_positions
from pathflip.errors import FeatureError
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


def scattered_cells(rng, num=80, size=17):
    return np.array(sorted({(int(x), int(y)) for x, y in rng.integers(0, size, (num, 2))}))


def test_every_valid_patch_is_in_exactly_one_region_of_its_neighbours(rng):
    features = make_features(scattered_cells(rng), invalid=(3, 7))
    grid = group_regions(features, RegionSpec(side=4))
    used = grid.index[grid.mask]
    assert sorted(used) == sorted(np.flatnonzero(features.valid))
    step = features.spec.stride_px0(features.info)
    for rows, mask, (x, y, width, height) in zip(grid.index, grid.mask, grid.boxes, strict=True):
        corners = features.coords[rows[mask]]
        assert np.ptp(corners, axis=0).max() <= 3 * step
        assert (corners.min(0) == (x, y)).all()
        assert (corners.max(0) + features.grid.tile_px0 == (x + width, y + height)).all()


def test_file_order_reproduces_the_published_windows(rng):
    features = make_features(scattered_cells(rng))
    grid = group_regions(features, RegionSpec(side=3, order="file"))
    expected = np.arange(len(features.valid) // 9 * 9).reshape(-1, 9)
    assert (grid.index == expected).all()
    assert grid.mask.all()


def test_too_few_patches_for_file_order_is_one_clear_line():
    with pytest.raises(FeatureError, match=r"slide 's': 2 patches.*at least 9"):
        group_regions(make_features([(0, 0), (1, 0)]), RegionSpec(side=3, order="file"))


def test_no_valid_patch_is_refused():
    with pytest.raises(FeatureError, match="no valid patch among 2"):
        group_regions(make_features([(0, 0), (1, 0)], invalid=(0, 1)))


@pytest.mark.parametrize("radius", [1, 2])
def test_context_equals_a_naive_neighbourhood_mean(rng, radius):
    features = make_features(scattered_cells(rng), invalid=(0, 5, 11))
    cells = features.grid.cells()
    got = neighbour_context(features.features, cells, features.valid, radius)
    for row in range(len(cells)):
        near = (np.abs(cells - cells[row]).max(1) <= radius) & features.valid
        expected = features.features[near].mean(0) if near.any() else 0
        np.testing.assert_allclose(got[row], expected, atol=1e-6)


def test_context_ignores_the_values_of_invalid_tiles(rng):
    features = make_features(scattered_cells(rng), invalid=(4,))
    changed = features.features.copy()
    changed[4] = 1e6
    before = neighbour_context(features.features, features.grid.cells(), features.valid)
    after = neighbour_context(changed, features.grid.cells(), features.valid)
    np.testing.assert_array_equal(before, after)


def test_context_needs_no_memory_for_empty_space():
    far = make_features([(0, 0), (1, 0), (900, 900)])
    far_cells = far.grid.cells() * 50_000  # a dense lattice of these would need petabytes
    got = neighbour_context(far.features, far_cells, far.valid)
    np.testing.assert_allclose(got, far.features, atol=1e-6)


def test_positions_span_the_tissue():
    features = make_features([(0, 0), (9, 0), (0, 9), (9, 9)])
    place = relative_positions(features.coords, features.valid, features.grid.tile_px0)
    np.testing.assert_allclose(place, [[0.05, 0.05], [0.95, 0.05], [0.05, 0.95], [0.95, 0.95]], atol=0.01)
