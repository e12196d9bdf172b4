"""LazySlide stores against wsidata itself: what it writes we read, and what we write it opens as its own."""

import builtins
import shutil

import numpy as np
import pytest

from interop_samples import only, same, sample, strip_own
from pathflip.errors import FeatureError
from pathflip.features import read_features, write_features
from pathflip.interop import ReadOptions, convert, read_tiles
from slide_files import halved, smooth_picture, write_pyramid

wsidata = pytest.importorskip("wsidata", reason="the reference for LazySlide stores: pip install 'pathflip[dev]'")

MPP0 = 0.2631


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A slide, and the store wsidata makes of it: 56 px tiles at 0.5 mpp with a step of 40, features shuffled."""
    folder = tmp_path_factory.mktemp("lazyslide")
    picture = smooth_picture(1024, 1536)
    write_pyramid(folder / "case.tif", [picture, halved(picture, 4)], mpp=MPP0)
    wsi = wsidata.open_wsi(folder / "case.tif", store=folder / "case.zarr", reader="openslide")
    spec = wsidata.TileSpec.from_wsidata(wsi, 56, stride_px=40, mpp=0.5)
    x, y = np.meshgrid(np.arange(5) * spec.base_stride_width, np.arange(4) * spec.base_stride_height)
    coords = np.stack([x.ravel(), y.ravel()], axis=1)
    wsidata.io.add_tiles(wsi, "tiles", coords, spec, np.zeros(len(coords), int))
    features = np.random.default_rng(0).normal(size=(len(coords), 7)).astype(np.float32)
    wsidata.io.add_features(wsi, "uni_tiles", "tiles", features)
    wsi.write()
    return folder, coords, features, spec


def test_what_wsidata_writes(store, tmp_path):
    folder, coords, features, spec = store
    kind, got = read_tiles(folder / "case.zarr")
    assert (kind, got.slide_id, got.encoder, got.warnings) == ("lazyslide", "case", "uni", ())
    np.testing.assert_array_equal(got.grid.coords, coords)
    np.testing.assert_array_equal(got.features, features)
    assert got.grid.tile_px0 == spec.base_width
    assert (got.grid.spec.tile_px, got.grid.spec.stride_px) == (56, 40)
    assert got.grid.spec.mpp == pytest.approx(0.5, rel=0.01)  # wsidata truncates to whole pixels
    assert got.grid.info.size0 == (1536, 1024)
    assert got.grid.info.mpp0 == pytest.approx(MPP0, rel=1e-3)
    assert got.grid.info.bounds0 is None
    row = only(convert([folder / "case.zarr"], "pathflip", tmp_path))
    back = read_features(row.files[0])
    np.testing.assert_array_equal(back.features, features)
    np.testing.assert_array_equal(back.coords, coords)


def test_wsidata_opens_what_we_write(store, tmp_path):
    folder, coords, features, spec = store
    ours = read_features(only(convert([folder / "case.zarr"], "pathflip", tmp_path / "ours")).files[0])
    row = only(convert([tmp_path / "ours" / "features_uni"], "lazyslide", tmp_path / "zarr"))
    assert [p.name for p in (tmp_path / "zarr").iterdir()] == ["case.zarr"]
    wsi = wsidata.open_wsi(folder / "case.tif", store=row.files[0], reader="openslide")
    tiles = wsi["tiles"]
    np.testing.assert_array_equal(tiles[["x", "y"]].to_numpy(), coords)
    read_back = wsi.tile_spec("tiles")
    assert (read_back.width, read_back.stride_width) == (56, 40)
    assert read_back.base_width == spec.base_width == ours.grid.tile_px0
    assert abs(read_back.base_stride_width - ours.spec.stride_px0(ours.info)) <= 1  # it truncates, we round
    np.testing.assert_array_equal(np.asarray(wsi.tables["uni_tiles"].X), features)
    assert tuple(tiles.geometry.iloc[7].bounds) == (*coords[7], *(coords[7] + spec.base_width))
    (picture,) = [t.image for t in wsi.iter.tile_images("tiles") if t.id == 7][:1]
    assert picture.shape[:2] == (56, 56)  # it cuts from our store the tile size it was told


def test_rows_are_joined_by_tile_id(store, tmp_path):
    """Features in another order than the tiles come back to their tiles; a row too few is refused."""
    import spatialdata

    folder, coords, features, _ = store
    order = np.random.default_rng(1).permutation(len(coords))
    for name, rows in (("shuffled", order), ("short", order[:-1])):
        read_back = spatialdata.read_zarr(folder / "case.zarr")
        read_back.tables["uni_tiles"] = read_back.tables["uni_tiles"][rows].copy()
        read_back.write(tmp_path / f"{name}.zarr")
    _, got = read_tiles(tmp_path / "shuffled.zarr")
    np.testing.assert_array_equal(got.features, features)
    with pytest.raises(FeatureError, match="20 tiles and 19 feature rows whose tile_id do not match"):
        read_tiles(tmp_path / "short.zarr")


def test_there_and_back(tmp_path):
    want = sample()
    path = tmp_path / "ours" / "features_uni_v1" / f"{want.slide_id}.h5"
    write_features(path, want)
    row = only(convert([path], "lazyslide", tmp_path / "zarr"))
    again = only(convert([path], "lazyslide", tmp_path / "zarr"))  # replaces the first whole
    assert again.files == row.files
    got = read_features(only(convert([tmp_path / "zarr"], "pathflip", tmp_path / "back")).files[0])
    assert (got.info, got.spec) == (want.info, want.spec)
    same(got, want)


def test_several_tables_and_damage(store, tmp_path):
    import spatialdata

    folder = store[0]
    read_back = spatialdata.read_zarr(folder / "case.zarr")
    read_back.tables["conch_tiles"] = read_back.tables["uni_tiles"].copy()
    read_back.write(tmp_path / "two.zarr")
    with pytest.raises(FeatureError, match=r"features of \['conch', 'uni'\]; give --encoder"):
        read_tiles(tmp_path / "two.zarr")
    assert read_tiles(tmp_path / "two.zarr", ReadOptions(encoder="conch"))[1].encoder == "conch"
    shutil.copytree(folder / "case.zarr", tmp_path / "cut.zarr")
    next((tmp_path / "cut.zarr" / "shapes" / "tiles").glob("*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(FeatureError, match=r"cut.zarr: not a readable SpatialData store|cut.zarr: tile sets"):
        read_tiles(tmp_path / "cut.zarr")


def test_without_the_package(store, tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **named):
        if name == "spatialdata":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    row = convert([store[0] / "case.zarr"], "pathflip", tmp_path)[0]
    assert "needs the package 'spatialdata': install it with pip install 'pathflip[lazyslide]'" in row.error


@pytest.mark.real
def test_a_real_slide_there_and_back(real_data, tmp_path):
    """Real pixels: our tiles through every layout and back by the slide alone; wsidata cuts the same pictures."""
    from pathflip.features import extract_cohort
    from pathflip.geometry import TileSpec
    from pathflip.slide import open_slide

    slide_file = real_data / "slides" / "cmu-1-small-region.svs"
    spec = TileSpec(128, 1.0)
    extract_cohort([slide_file], spec, "stain_texture", tmp_path / "ours", num_workers=1)
    path = tmp_path / "ours" / "features_stain_texture" / "cmu-1-small-region.h5"
    want = read_features(path)
    options = {"slides": real_data / "slides", "encoder": "stain_texture"}
    needs = {"trident": {}, "stamp": {}, "clam": {"mpp": 1.0, "tile_px": 128}, "qupath": {"mpp": 1.0, "tile_px": 128}}
    for target, more in needs.items():
        row = only(convert([path], target, tmp_path / target))
        if target != "qupath":
            strip_own(tmp_path / target)
        for file in row.files:
            _, got = read_tiles(file, ReadOptions(**options, **more))
            np.testing.assert_array_equal(got.grid.coords, want.coords)
            assert got.grid.tile_px0 == want.grid.tile_px0
            assert got.grid.info == want.info
            assert got.grid.spec.mpp == pytest.approx(1.0, rel=0.002)
            assert got.features is None or np.allclose(got.features, want.features, rtol=1e-3, atol=1e-4)
    row = only(convert([path], "lazyslide", tmp_path / "zarr"))
    wsi = wsidata.open_wsi(slide_file, store=row.files[0], reader="openslide")
    with open_slide(slide_file) as slide:
        for tile, _ in zip(wsi.iter.tile_images("tiles"), range(5), strict=False):
            ours = slide.read_tile(int(tile.x), int(tile.y), spec).astype(float)
            assert np.abs(ours - tile.image).mean() < 6
            shifted = slide.read_tile(int(tile.x) + 24, int(tile.y), spec).astype(float)
            assert np.abs(shifted - tile.image).mean() > 10
