"""Regions, context and positions against naive loops."""

from dataclasses import replace

import numpy as np
import pytest

from feature_grids import make_features, neighbour_means, scattered_cells
from pathflip.data.patches import Neighbourhood, relative_positions, rows_in_reading_order
from pathflip.data.regions import RegionSpec, group_regions
from pathflip.errors import FeatureError
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.types import SlideFeatures


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
    got = neighbour_means(features, radius=radius)
    for row in range(len(cells)):
        near = (np.abs(cells - cells[row]).max(1) <= radius) & features.valid
        expected = features.features[near].mean(0) if near.any() else 0
        np.testing.assert_allclose(got[row], expected, atol=1e-6)


def test_context_ignores_the_values_of_invalid_tiles(rng):
    features = make_features(scattered_cells(rng), invalid=(4,))
    changed = features.features.copy()
    changed[4] = 1e6
    after = neighbour_means(replace(features, features=changed))
    np.testing.assert_array_equal(neighbour_means(features), after)


def test_context_of_some_rows_is_theirs_among_all(rng):
    features = make_features(scattered_cells(rng), invalid=(4,))
    rows = rng.permutation(len(features.valid))[:9]
    near = Neighbourhood(features.grid.cells(), features.valid)
    np.testing.assert_array_equal(near.mean(features.features, rows), neighbour_means(features)[rows])


def contour_grid(invalid=()) -> SlideFeatures:
    """Two contours' grids of stride 256, the second shifted by 232 and 100 px: tiles 1 and 2 round to one cell."""
    info, spec = SlideInfo("s", (4000, 4000), 0.5), TileSpec(256, 0.5)
    coords = np.array([(768, 0), (1024, 0), (1000, 100), (1256, 100)], np.int64)
    valid = np.ones(4, bool)
    valid[list(invalid)] = False
    return SlideFeatures("s", np.eye(4, dtype=np.float32), coords, valid, info, spec, "test")


def test_all_tiles_of_one_lattice_cell_count_in_the_neighbourhood():
    features = contour_grid()
    cells = features.grid.cells()
    assert cells.tolist() == [[0, 0], [1, 0], [1, 0], [2, 0]]
    expected = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    np.testing.assert_allclose(neighbour_means(features), expected / expected.sum(1, keepdims=True), atol=1e-6)
    assert rows_in_reading_order(features).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("side", [1, 2, 4])
def test_regions_hold_every_tile_of_a_lattice_cell(side):
    grid = group_regions(contour_grid(), RegionSpec(side=side))
    assert sorted(grid.index[grid.mask]) == [0, 1, 2, 3]
    assert grid.index.shape[1] == side**2


@pytest.mark.parametrize("invalid", [1, 2])
def test_a_valid_tile_behind_an_invalid_one_is_seen(invalid):
    expected = np.ones(4)
    expected[invalid] = 0
    means = neighbour_means(contour_grid(invalid=(invalid,)))
    np.testing.assert_allclose(means[1], expected / 3, atol=1e-6)
    np.testing.assert_allclose(means[2], expected / 3, atol=1e-6)


def test_context_needs_no_memory_for_empty_space():
    far = make_features([(0, 0), (1, 0), (900, 900)])
    far_cells = far.grid.cells() * 50_000  # a dense lattice of these would need petabytes
    got = neighbour_means(far, far_cells)
    np.testing.assert_allclose(got, far.features, atol=1e-6)


def test_positions_span_the_tissue():
    features = make_features([(0, 0), (9, 0), (0, 9), (9, 9)])
    place = relative_positions(features.coords, features.valid, features.grid.tile_px0)
    np.testing.assert_allclose(place, [[0.05, 0.05], [0.95, 0.05], [0.05, 0.95], [0.95, 0.95]], atol=0.01)
