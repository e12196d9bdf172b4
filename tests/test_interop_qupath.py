"""QuPath objects in and out, on slides whose origin is not QuPath's."""

import json
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely

from pathflip.errors import FeatureError
from pathflip.geometry import Box, SlideInfo, TileGrid, TileSpec
from pathflip.interop import ReadOptions, convert, read_regions, read_tiles, tiles_inside
from pathflip.plots import save_tiles_geojson
from pathflip.slide import open_slide, read_coords, reader
from pathflip.types import Heatmap
from slide_files import smooth_picture, write_pyramid

BOUNDS = Box(300, 500, 1500, 1200)


@pytest.fixture
def slides(tmp_path, monkeypatch) -> Path:
    """A folder with one slide whose OpenSlide properties carry bounds, as those of MRXS do."""
    folder = tmp_path / "slides"
    folder.mkdir()
    write_pyramid(folder / "case.tif", [smooth_picture(2048, 2048)], mpp=0.25)
    names = {
        "bounds-x": 300,
        "bounds-y": 500,
        "bounds-width": 1500,
        "bounds-height": 1200,
        "mpp-x": 0.25,
        "mpp-y": 0.25,
    }
    carried = {f"openslide.{name}": str(value) for name, value in names.items()}
    plain = openslide.OpenSlide.properties.fget
    monkeypatch.setattr(openslide.OpenSlide, "properties", property(lambda self: {**plain(self), **carried}))
    plain_source = reader.open_source
    monkeypatch.setattr(reader, "open_source", lambda *args: plain_source(*args[:3], "openslide"))
    with open_slide(folder / "case.tif") as slide:
        assert slide.info.bounds0 == BOUNDS
    return folder


def box(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]


def qupath_object(geometry, **properties):
    return {
        "type": "Feature",
        "id": "0b9f9f3c-0000-0000-0000-000000000000",
        "geometry": geometry,
        "properties": properties,
    }


def export(path: Path, objects, bare: bool = False) -> Path:
    path.write_text(json.dumps(objects if bare else {"type": "FeatureCollection", "features": objects}))
    return path


@pytest.mark.parametrize("bare", [True, False])
def test_annotations_in(slides, tmp_path, bare):
    """What QuPath shows at (10, 20) of the bounds-cropped image lies at (310, 520) of level 0."""
    polygon = {"type": "Polygon", "coordinates": [box(10, 20, 100, 50), box(20, 30, 10, 10)]}
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    two = {"type": "MultiPolygon", "coordinates": [[box(0, 0, 10, 10)], [box(50, 50, 10, 10)]]}
    objects = [
        qupath_object(
            polygon, objectType="annotation", name="A", classification={"name": "Tumor", "color": [200, 0, 0]}
        ),
        qupath_object(two, objectType="detection", measurements={"Area": 7.5, "note": "text"}),
        qupath_object(bow_tie, measurements=[{"name": "Old", "value": 2}]),
        qupath_object({"type": "Point", "coordinates": [1, 2]}, objectType="annotation"),
    ]
    path = export(tmp_path / "case.geojson", objects, bare)
    with open_slide(slides / "case.tif") as slide:
        regions = read_regions(path, slide.info)
    assert [(r.object_type, r.name, r.classification, dict(r.measurements)) for r in regions] == [
        ("annotation", "A", "Tumor", {}),
        ("detection", "", "", {"Area": 7.5}),
        ("annotation", "", "", {"Old": 2.0}),
    ]
    assert regions[0].shape.bounds == (310, 520, 410, 570)
    assert regions[0].shape.area == 100 * 50 - 10 * 10
    assert regions[1].shape.area == 200
    assert regions[2].shape.area == pytest.approx(50)  # the outline that crosses itself: two triangles
    assert read_regions(path)[0].shape.bounds == (10, 20, 110, 70)


def test_tiles_of_annotations(slides, tmp_path):
    """Tiles of our lattice with a quarter of their area inside, against rasterised areas."""
    outline = [[40, 30], [700, 90], [820, 700], [300, 620], [40, 30]]
    hole = box(350, 250, 200, 150)
    path = export(tmp_path / "case.geojson", [qupath_object({"type": "Polygon", "coordinates": [outline, hole]})])
    with pytest.raises(
        FeatureError, match=r"1 annotations; to lay tiles on them give --slides DIR \(with slide 'case'\)"
    ):
        read_tiles(path, ReadOptions(mpp=0.5, tile_px=64))
    kind, got = read_tiles(path, ReadOptions(mpp=0.5, tile_px=64, slides=slides))
    assert kind == "qupath"
    shape = shapely.Polygon(np.add(outline, (300, 500)), [np.add(hole, (300, 500))])
    points = shapely.points(*np.meshgrid(np.arange(0, 2048, 4) + 2, np.arange(0, 2048, 4) + 2))
    inside = shapely.contains(shape, points)
    share = inside.reshape(16, 32, 16, 32).mean((1, 3))
    clear = np.abs(share - 0.25) > 0.01  # the raster cannot tell closer calls
    covered = np.zeros((16, 16), bool)
    covered[got.grid.coords[:, 1] // 128, got.grid.coords[:, 0] // 128] = True
    np.testing.assert_array_equal(covered[clear], share[clear] >= 0.25)
    assert clear.sum() > 250
    assert covered.sum() == len(got.grid) > 10
    row = convert([path], "pathflip", tmp_path / "out", ReadOptions(mpp=0.5, tile_px=64, slides=slides))[0]
    np.testing.assert_array_equal(read_coords(row.files[0]).coords, got.grid.coords)
    export(path, [qupath_object({"type": "Polygon", "coordinates": [box(5, 5, 9, 9)]})])
    with pytest.raises(FeatureError, match="no tile of 32 µm has a quarter of its area"):
        read_tiles(path, ReadOptions(mpp=0.5, tile_px=64, slides=slides))


def test_tiles_inside_is_by_area():
    grid = TileGrid(
        SlideInfo("s", (4000, 4000), 0.5), TileSpec(100, 0.5), np.array([[0, 0], [100, 0], [200, 0], [300, 0]])
    )
    path = shapely.box(0, 0, 225, 100)
    from pathflip.interop import Region

    region = [Region(path, "annotation", "", "")]
    np.testing.assert_array_equal(tiles_inside(grid, region), [True, True, True, False])
    np.testing.assert_array_equal(tiles_inside(grid, region, 0.3), [True, True, False, False])
    np.testing.assert_array_equal(tiles_inside(grid, region, 0), [True, True, True, False])


def test_tiles_out_and_back(slides, tmp_path):
    with open_slide(slides / "case.tif") as slide:
        info = slide.info
    grid = TileGrid(info, TileSpec(64, 0.5), np.array([[384, 512], [512, 512], [1024, 896]]))
    from pathflip.slide.tiling import write_coords

    write_coords(tmp_path / "coords" / "case.h5", grid)
    row = convert([tmp_path / "coords" / "case.h5"], "qupath", tmp_path / "q")[0]
    loaded = json.loads(Path(row.files[0]).read_text())
    assert set(loaded) == {"type", "features"}  # no crs: QuPath refuses it
    first = loaded["features"][0]
    assert first["properties"]["objectType"] == "tile"
    assert first["geometry"]["coordinates"][0] == box(84, 12, 128, 128)  # level 0 less the bounds
    _, got = read_tiles(row.files[0], ReadOptions(mpp=0.5, tile_px=64, slides=slides))
    np.testing.assert_array_equal(got.grid.coords, grid.coords)
    assert (got.grid.tile_px0, got.grid.info, got.warnings) == (128, info, ())
    _, shifted = read_tiles(row.files[0], ReadOptions(mpp=0.5, tile_px=64))
    np.testing.assert_array_equal(shifted.grid.coords, grid.coords - [300, 500])
    assert any(
        "QuPath's origin was taken as level-0 (0, 0): wrong if 'case' declares bounds" in w for w in shifted.warnings
    )


def test_heat_out_is_a_measurement_at_the_right_place(slides, tmp_path):
    with open_slide(slides / "case.tif") as slide:
        info = slide.info
    grid = TileGrid(info, TileSpec(64, 0.5), np.array([[384, 512], [512, 512], [1024, 896]]))
    heat = Heatmap(grid, np.array([0.5, np.nan, -1.25], np.float32), "keratin pearls", 1.0)
    save_tiles_geojson(heat, tmp_path / "case.geojson")
    regions = read_regions(tmp_path / "case.geojson", info)
    assert [dict(r.measurements) for r in regions] == [{"similarity": 0.5}, {"similarity": -1.25}]
    assert [r.shape.bounds[:2] for r in regions] == [(384, 512), (1024, 896)]
    plain = json.loads((tmp_path / "case.geojson").read_text())["features"][0]["geometry"]["coordinates"][0][0]
    assert plain == [84, 12]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([], "no area in it"),
        ([qupath_object({"type": "Point", "coordinates": [1, 2]})], "no area in it"),
        ([{"type": "Feature"}], "not GeoJSON as QuPath writes it"),
        ([qupath_object({"type": "Polygon", "coordinates": "x"})], "object 0 has a geometry that cannot be read"),
        ([qupath_object({"type": "Blob"})], "object 0 has a geometry that cannot be read"),
        ([qupath_object(None)], "no area in it"),
        (
            [qupath_object({"type": "Polygon", "coordinates": [box(9, 9, s, s)]}, objectType="tile") for s in (10, 20)],
            r"sides \[10.0, 20.0\] px; expected squares of one size",
        ),
        (
            [qupath_object({"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [0, 9], [0, 0]]]}, objectType="tile")],
            "expected squares of one size",
        ),
    ],
)
def test_bad_objects(tmp_path, objects, message):
    path = export(tmp_path / "case.geojson", objects)
    with pytest.raises(FeatureError, match=message):
        read_tiles(path, ReadOptions(mpp=0.5, tile_px=64))
