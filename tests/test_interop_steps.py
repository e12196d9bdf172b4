"""Coordinates in another unit, features in another place, collections in collections: never read as something else."""

import json

import h5py
import numpy as np
import pytest

from pathflip.errors import FeatureError
from pathflip.interop import ReadOptions, read_regions, read_tiles
from pathflip.interop.tile_steps import commonest_step, smallest_step

CELLS = np.array([[x, y] for y in range(3) for x in range(4)])
RNG = np.random.default_rng(1)
ROWS = RNG.normal(size=(12, 8)).astype(np.float32)
TRIDENT = {"patch_size": 256, "patch_size_level0": 512, "overlap": 0, "level0_width": 9000, "level0_height": 9000}
KNOWN = ReadOptions(mpp=0.5, tile_px=256, slide_mpp=0.25, encoder="uni_v1")


def layout(path, coords, name="features", *, on_coords=None, root=None, rows=ROWS):
    with h5py.File(path, "w") as file:
        if rows is not None:
            file[name] = rows
        file["coords"] = coords
        file["coords"].attrs.update(on_coords or {})
        file.attrs.update(root or {})
    return path


def tiles_of(path, options=KNOWN):
    return read_tiles(path, options)[1]


def test_steps_by_hand():
    values = np.array([[0, 0], [512, 0], [1024, 0], [1124, 0], [0, 512], [0, 1024]])
    assert (smallest_step(values), commonest_step(values)) == (100.0, 512.0)
    assert smallest_step(np.array([[0, 0], [5, 7]])) is None
    assert commonest_step(np.array([[0, 0], [5, 7]])) is None


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_microns_under_pixels_of_trident(tmp_path, dtype):
    path = layout(tmp_path / "s.h5", (CELLS * 128).astype(dtype), on_coords=TRIDENT)
    with pytest.raises(FeatureError, match=r"512 level-0 px apart but stand 128 apart.*the coordinates are microns"):
        tiles_of(path)
    good = tiles_of(layout(path, (CELLS * 512).astype(dtype), on_coords=TRIDENT))
    assert good.warnings == ()
    np.testing.assert_array_equal(good.grid.coords, CELLS * 512)


def test_columns_and_rows_instead_of_pixels(tmp_path):
    for on_coords in (TRIDENT, {}):
        path = layout(tmp_path / "s.h5", CELLS, on_coords=on_coords)
        with pytest.raises(FeatureError, match="these are numbers of columns and rows"):
            tiles_of(path)


def test_a_step_that_contradicts_the_stated_overlap_is_said(tmp_path):
    tiles = tiles_of(layout(tmp_path / "s.h5", CELLS * 384, on_coords=TRIDENT))
    assert "stand 512 level-0 px apart, most stand 384" in " ".join(tiles.warnings)
    tiles = tiles_of(layout(tmp_path / "s.h5", CELLS * 384, on_coords={**TRIDENT, "overlap": 64}))
    assert tiles.warnings == ()
    assert tiles.grid.spec.stride_px == 192


def test_an_overlap_nobody_states_is_taken_from_the_step_and_said(tmp_path):
    tiles = tiles_of(layout(tmp_path / "s.h5", CELLS * 256))
    assert tiles.grid.spec.stride_px == 128
    assert tiles.grid.tile_px0 == 512
    assert "stand 256 apart: taken as overlapping: look" in " ".join(tiles.warnings)
    doubtful = tiles_of(layout(tmp_path / "s.h5", CELLS * 128))
    assert "or these are microns (0.25 µm a pixel)" in " ".join(doubtful.warnings)
    assert tiles_of(layout(tmp_path / "s.h5", CELLS * 512)).warnings[:-1] == ()


def test_gaps_between_tiles_are_no_contradiction(tmp_path):
    sparse = np.array([[0, 0], [1536, 0], [0, 1024], [512 * 9, 1024]])
    tiles = tiles_of(layout(tmp_path / "s.h5", sparse, on_coords=TRIDENT, rows=ROWS[:4]))
    assert tiles.warnings == ()


def test_feats_of_another_tool_are_not_taken_for_stamps(tmp_path):
    """STAMP 1 counts in pixels of 256/224 µm and says nothing: only its step tells."""
    pixels = layout(tmp_path / "s.h5", CELLS * 512, "feats")
    kind, tiles = read_tiles(pixels, KNOWN)
    assert kind == "clam"
    np.testing.assert_array_equal(tiles.grid.coords, CELLS * 512)
    np.testing.assert_array_equal(tiles.features, ROWS)
    kind, tiles = read_tiles(layout(pixels, CELLS * 512, "feats", on_coords=TRIDENT), KNOWN)
    assert (kind, tiles.grid.tile_px0) == ("trident", 512)
    first = layout(pixels, CELLS * 224, "feats")
    kind, tiles = read_tiles(first, ReadOptions(slide_mpp=0.25, encoder="uni_v1"))
    assert (kind, tiles.grid.tile_px0) == ("stamp", 1024)
    np.testing.assert_array_equal(tiles.grid.coords, CELLS * 1024)
    with pytest.raises(FeatureError, match=r"coordinates, 512 apart, are in unit 'unknown'"):
        tiles_of(layout(pixels, CELLS * 512, "feats", root={"extractor": "uni_v1"}))


@pytest.mark.parametrize("name", ["x", "data", "Features", "tokens"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8])
def test_tables_beside_coordinates_are_never_passed_over(tmp_path, name, dtype):
    path = layout(tmp_path / "s.h5", CELLS * 512, name, on_coords=TRIDENT, rows=(ROWS * 10).astype(dtype))
    with pytest.raises(FeatureError, match=rf"holds '{name}' \(12, 8\) beside its coordinates"):
        tiles_of(path)


@pytest.mark.parametrize("name", ["features/uni_v1", "uni/features", "20x/feats"])
def test_features_in_a_group_are_never_passed_over(tmp_path, name):
    path = layout(tmp_path / "s.h5", CELLS * 512, name, on_coords=TRIDENT)
    with pytest.raises(FeatureError, match=rf"holds '{name}' beside its coordinates.*take it out of its group"):
        tiles_of(path)


def test_other_things_beside_coordinates_do_not_matter(tmp_path):
    path = layout(tmp_path / "s.h5", CELLS * 512, on_coords=TRIDENT, rows=None)
    with h5py.File(path, "a") as file:
        file["names"], file["labels"] = np.array([b"a"] * 12), np.arange(12)
        file["boxes"] = np.zeros((12, 4), np.int32)
        file.create_group("metadata").create_group("more").attrs["a"] = 1
        file["type"] = np.dtype("f4")
    kind, tiles = read_tiles(path, KNOWN)
    assert kind == "trident coordinates"
    assert tiles.features is None


# ---------------------------------------------------------------- outlines


def square(x, y=0, side=10):
    return [[[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]]


def outlines(path, *geometries):
    features = [{"type": "Feature", "properties": {"name": f"n{i}"}, "geometry": g} for i, g in enumerate(geometries)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return read_regions(path)


def test_collections_in_collections(tmp_path):
    inner = {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": square(20)}]}
    multi = {"type": "MultiPolygon", "coordinates": [square(40), square(60)]}
    point = {"type": "Point", "coordinates": [1, 2]}
    outer = {
        "type": "GeometryCollection",
        "geometries": [point, {"type": "Polygon", "coordinates": square(0)}, inner, multi],
    }
    (region,) = outlines(tmp_path / "a.geojson", outer)
    assert region.shape.area == 400
    assert outlines(tmp_path / "a.geojson", {"type": "GeometryCollection", "geometries": [point]}) == []


def test_outlines_that_cross_themselves_keep_both_sides(tmp_path):
    bow = [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]
    crossing = {"type": "Polygon", "coordinates": bow}
    (alone,) = outlines(tmp_path / "a.geojson", crossing)
    assert alone.shape.is_valid
    assert alone.shape.area == pytest.approx(50)
    both = {"type": "GeometryCollection", "geometries": [crossing, {"type": "Polygon", "coordinates": square(30)}]}
    (region,) = outlines(tmp_path / "a.geojson", both)
    assert region.shape.is_valid
    assert region.shape.area == pytest.approx(150)


def test_a_third_coordinate_and_a_tail_are_no_area(tmp_path):
    high = [[[x, y, 7.5] for x, y in square(0)[0]]]
    tail = [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0], [-20, 0], [0, 0]]]
    first, second = outlines(
        tmp_path / "a.geojson", {"type": "Polygon", "coordinates": high}, {"type": "Polygon", "coordinates": tail}
    )
    assert (first.shape.area, second.shape.area) == (100, 100)
