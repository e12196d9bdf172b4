"""Coordinates in another unit, features in another place, collections in collections: never read as something else."""

import json

import h5py
import numpy as np
import pytest

from pathflip.errors import FeatureError
from pathflip.geometry import SlideInfo
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


# ---------------------------------------------------------------- numbers and texts of other kinds


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_coordinates_of_sixteen_bits_on_a_larger_slide(tmp_path, dtype):
    wrapped = (CELLS * 512 + 65536 - 1024).astype(np.uint16).view(dtype)
    large = {**TRIDENT, "level0_width": 90_000, "level0_height": 90_000}
    with pytest.raises(FeatureError, match=rf"'coords' are {np.dtype(dtype)}, which ends at \d+, on a slide of 90000"):
        tiles_of(layout(tmp_path / "s.h5", wrapped, on_coords=large))
    fits = tiles_of(layout(tmp_path / "s.h5", (CELLS * 512).astype(dtype), on_coords=TRIDENT))
    assert fits.warnings == ()
    unknown = {"patch_size": 256, "patch_size_level0": 512}
    near = layout(tmp_path / "s.h5", (CELLS * 512 + 62_000).astype(np.uint16), on_coords=unknown)
    assert "on a larger slide they would be wrong" in " ".join(tiles_of(near).warnings)


def test_coordinates_in_half_precision(tmp_path):
    with pytest.raises(FeatureError, match="half precision, which rounds places beyond 2048"):
        tiles_of(layout(tmp_path / "s.h5", (CELLS * 1024).astype(np.float16), on_coords=TRIDENT))


@pytest.mark.parametrize("write", [lambda v: np.bytes_(str(v)), lambda v: np.array([v]), str, float])
def test_attributes_of_other_kinds_say_the_same(tmp_path, write):
    path = layout(
        tmp_path / "s.h5", CELLS * 384, on_coords={k: write(v) for k, v in {**TRIDENT, "overlap": 64}.items()}
    )
    for encoder in (np.bytes_(b"uni_v1"), np.array([b"uni_v1"]), np.array(["uni_v1"], dtype=object)):
        with h5py.File(path, "a") as file:
            file["features"].attrs["encoder"] = encoder
        tiles = tiles_of(path, ReadOptions(mpp=0.5, slide_mpp=0.25))
        assert (tiles.encoder, tiles.grid.spec.stride_px, tiles.warnings) == ("uni_v1", 192, ())
    with h5py.File(path, "a") as file:
        file["features"].attrs["encoder"] = h5py.Empty("f4")
    with pytest.raises(FeatureError, match="does not say which encoder"):
        tiles_of(path, ReadOptions(mpp=0.5, slide_mpp=0.25))


@pytest.mark.parametrize("side", [0, -512])
def test_a_tile_of_no_width_is_named(tmp_path, side):
    with pytest.raises(FeatureError, match=rf"s.h5: says its tiles at level 0 are {side} px wide"):
        tiles_of(layout(tmp_path / "s.h5", CELLS * 512, on_coords={**TRIDENT, "patch_size_level0": side}))


def test_two_sizes_are_no_size(tmp_path):
    path = layout(tmp_path / "s.h5", CELLS * 512, on_coords={**TRIDENT, "patch_size": np.array([256, 512])})
    with pytest.raises(FeatureError, match="does not say how large its tiles are"):
        tiles_of(path, ReadOptions(mpp=0.5, slide_mpp=0.25, encoder="uni_v1"))


def test_features_without_numbers_and_of_whole_numbers(tmp_path):
    with pytest.raises(FeatureError, match=r"'features' holds no number a tile \(shape \(12, 0\)\)"):
        tiles_of(layout(tmp_path / "s.h5", CELLS * 512, on_coords=TRIDENT, rows=ROWS[:, :0]))
    whole = tiles_of(layout(tmp_path / "s.h5", CELLS * 512, on_coords=TRIDENT, rows=(ROWS * 10).astype(np.int8)))
    assert "were they quantised, their scale is missing" in " ".join(whole.warnings)


def test_features_without_coordinates_say_what_is_there(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["features"], file["x"], file["y"] = ROWS, CELLS[:, 0], CELLS[:, 1]
    with pytest.raises(FeatureError, match=r"\(12, 8\) and no coordinates \(it holds \['features', 'x', 'y'\]\)"):
        tiles_of(tmp_path / "s.h5")


def test_other_formats_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", features=ROWS)
    np.save(tmp_path / "a.npy", ROWS)
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(50))
    (tmp_path / "empty.h5").write_bytes(b"")
    names = {"a.npz": "a zip archive", "a.npy": "a NumPy array", "a.parquet": "a Parquet table", "empty.h5": "is empty"}
    for name, words in names.items():
        with pytest.raises(FeatureError, match=words) as caught:
            tiles_of(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_tensors_that_were_trained_or_hold_nothing(tmp_path):
    import torch

    (tmp_path / "h5_files").mkdir()
    (tmp_path / "pt_files").mkdir()
    layout(tmp_path / "h5_files" / "s.h5", CELLS * 512)
    path = tmp_path / "pt_files" / "s.pt"
    torch.save(torch.nn.Parameter(torch.from_numpy(ROWS)), path)
    np.testing.assert_array_equal(tiles_of(path).features, ROWS)
    torch.save(torch.empty(12, 8, device="meta"), path)
    with pytest.raises(FeatureError, match="holds a tensor without its numbers"):
        tiles_of(path)


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


def test_holes_take_away_and_overlaps_count_once(tmp_path):
    outside = {"type": "Polygon", "coordinates": [*square(0), *square(100)]}
    half_out = {"type": "Polygon", "coordinates": [*square(0, side=20), *square(15, 5)]}
    overlapping = {"type": "MultiPolygon", "coordinates": [square(0), square(5)]}
    areas = [region.shape.area for region in outlines(tmp_path / "a.geojson", outside, half_out, overlapping)]
    assert areas == [100, 400 - 50, 150]


SLIDE = SlideInfo("s", (4000, 3000), 0.25)


def feature(ring, **more):
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}, **more}


@pytest.mark.parametrize(
    ("collection", "message"),
    [
        (
            {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}},
            r"system \(urn:ogc.*CRS84\)",
        ),
        ({"crs": "mm"}, r"states a coordinate system \(mm\)"),
        ({"properties": {"unit": "micron"}}, "coordinates are in 'micron'"),
        ({"units": "mm"}, "coordinates are in 'mm'"),
        ({"features": [feature([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3], [0.1, 0.1]])]}, "at most 0.2 px wide"),
        ({"features": [feature([[0, -10], [10, -10], [10, -20], [0, -10]])]}, r"1 of 1 areas lie outside.*4000 × 3000"),
        ({"features": [feature([[5000, 0], [5100, 0], [5100, 10], [5000, 0]])]}, r"1 of 1 areas lie outside"),
        ({"features": [{"type": "Feature", "geometry": {"coordinates": square(0)}}]}, "object 0 .*it has no type"),
    ],
)
def test_outlines_that_are_no_pixels_of_the_slide(tmp_path, collection, message):
    path = tmp_path / "s.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature(square(100)[0])], **collection}))
    with pytest.raises(FeatureError, match=message) as caught:
        read_regions(path, SLIDE)
    assert "\n" not in str(caught.value)


def test_some_outlines_outside_are_said(tmp_path):
    path = tmp_path / "s.geojson"
    path.write_text(json.dumps([feature(square(100)[0]), feature(square(9000)[0])]))
    with pytest.warns(UserWarning, match=r"1 of 2 areas lie outside the slide.*area 1 begins at x 9000"):
        assert len(read_regions(path, SLIDE)) == 2
    path.write_text(
        json.dumps({"type": "FeatureCollection", "crs": None, "unit": "px", "features": [feature(square(9)[0])]})
    )
    assert len(read_regions(path, SLIDE)) == 1


def test_a_name_that_stands_twice_in_an_object(tmp_path):
    path = tmp_path / "s.geojson"
    path.write_text('{"type": "FeatureCollection", "features": [], "features": []}')
    with pytest.raises(FeatureError, match="'features' stands twice"):
        read_regions(path)


def test_some_corners_with_a_third_coordinate(tmp_path):
    mixed = [[[0, 0, 7.5], [10, 0], [10, 10], [0, 10], [0, 0, 7.5]]]
    (region,) = outlines(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": mixed})
    assert region.shape.area == 100
    assert not region.shape.has_z
