"""Opening slides and reading tiles by physical size."""

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from pathflip.errors import ConfigError, MissingMPPError, ResolutionError, SlideError
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.slide import open_slide, slide_info_row
from slide_files import exact_box, halved, smooth_picture, write_pyramid


@pytest.fixture(scope="module")
def picture():
    return smooth_picture(768, 1024)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory, picture):
    """Lossless, 0.25 mpp, levels 1, 2 and 4."""
    path = tmp_path_factory.mktemp("slides") / "case 1 é.tif"
    return write_pyramid(path, [picture, halved(picture, 2), halved(picture, 4)])


READERS = ("auto", "openslide")


@pytest.mark.parametrize("reader", READERS)
def test_info(pyramid, reader):
    with open_slide(pyramid, reader=reader) as slide:
        info = slide.info
        assert slide.level_sizes == ((1024, 768), (512, 384), (256, 192))
    assert (info.slide_id, info.size0, info.downsamples) == ("case 1 é", (1024, 768), (1.0, 2.0, 4.0))
    assert info.mpp0 == pytest.approx(0.25)
    assert info.reader


@pytest.mark.parametrize("reader", READERS)
def test_levels_are_read_as_stored(pyramid, picture, reader, rng):
    with open_slide(pyramid, reader=reader) as slide:
        for level, factor in enumerate((1, 2, 4)):
            stored = halved(picture, factor)
            for _ in range(6):
                x, y = (int(rng.integers(0, n - 60)) for n in (stored.shape[1], stored.shape[0]))
                got = slide.read_region_px(level, x, y, 60, 50)
                assert np.array_equal(got, stored[y : y + 50, x : x + 60])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("mpp", "x0", "y0"), [(0.25, 33, 71), (0.3, 101, 55), (0.6, 33, 71), (1.1, 333, 211), (1.0, 3, 5)]
)
def test_a_tile_is_the_exact_mean_over_its_microns(pyramid, picture, reader, mpp, x0, y0):
    """Whatever level it comes from, and however its corner falls between that level's pixels."""
    spec = TileSpec(32, mpp)
    with open_slide(pyramid, reader=reader) as slide:
        side0 = spec.tile_px0(slide.info)
        got = slide.read_tile(x0, y0, spec).astype(int)
    want = exact_box(picture, x0, y0, side0, side0, (32, 32)).astype(int)
    # A level's pixels are means already, so cutting through them costs a little; being half a level-0 pixel off
    # would cost 1.8 on average, one pixel 3.6.
    assert np.abs(got - want).max() <= (1 if mpp in (0.25, 0.3) else 6)
    assert np.abs(got - want).mean() < (0.1 if mpp in (0.25, 0.3) else 1.2)


@pytest.mark.parametrize("reader", READERS)
def test_levels_of_rounded_size_are_not_displaced(tmp_path, reader):
    """1021 px in 256: the ratio of sizes, 3.988, taken at its word would be 2.7 level-0 pixels off at the far edge."""
    picture = smooth_picture(765, 1021)
    whole = cv2.copyMakeBorder(picture, 0, 3, 0, 3, cv2.BORDER_REPLICATE)
    path = write_pyramid(tmp_path / "a.tif", [picture, halved(whole, 4)], mpp=0.25)
    spec = TileSpec(24, 1.1)
    with open_slide(path, reader=reader) as slide:
        side0 = spec.tile_px0(slide.info)
        x0, y0 = 1021 - side0 - 9, 765 - side0 - 6
        got = slide.read_tile(x0, y0, spec).astype(int)
    shifts = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    errors = [np.abs(got - exact_box(picture, x0 + dx, y0 + dy, side0, side0, (24, 24))).mean() for dx, dy in shifts]
    assert errors[0] == min(errors) < 2.2


def test_openslide_starts_between_pixels_and_says_where(tmp_path):
    """With a ratio of 3.988 OpenSlide interpolates; the source hands on by what fraction."""
    wave = np.abs((np.arange(256) * 20) % 400 - 200)
    stored = np.repeat(np.broadcast_to(wave[None, :, None], (192, 256, 1)), 3, axis=2).astype(np.uint8)
    level0 = np.zeros((765, 1021, 3), np.uint8)
    path = write_pyramid(tmp_path / "a.tif", [level0, stored], mpp=0.25)
    with open_slide(path, reader="openslide") as slide:
        fractions = []
        for x in range(5, 200, 9):
            pixels, dx, _ = slide._source.read(1, x, 40, 32, 16)
            want = np.interp(x + dx + np.arange(1, 31), np.arange(256), wave)
            assert np.abs(pixels[8, 1:31, 0] - want).max() <= 1.5
            fractions.append(abs(dx))
    assert max(fractions) > 0.1


def test_every_scanner_sees_the_same_microns(tmp_path, picture):
    """The same tissue scanned at 0.25 and at 0.5 mpp gives the same tile."""
    fine = write_pyramid(tmp_path / "fine.tif", [picture], mpp=0.25)
    coarse = write_pyramid(tmp_path / "coarse.tif", [halved(picture, 2)], mpp=0.5)
    spec = TileSpec(64, 0.5)
    with open_slide(fine) as a, open_slide(coarse) as b:
        assert np.abs(a.read_tile(200, 100, spec).astype(int) - b.read_tile(100, 50, spec)).max() <= 1


def test_966_level_0_pixels():
    assert TileSpec(512, 0.5).tile_px0(SlideInfo("s", (9, 9), 0.265)) == 966


@pytest.mark.parametrize("reader", READERS)
def test_beyond_the_edge_is_background(pyramid, picture, reader):
    spec = TileSpec(64, 0.25)
    with open_slide(pyramid, reader=reader, background=(10, 20, 30)) as slide:
        tile = slide.read_tile(1024 - 20, 768 - 30, spec)
        away = slide.read_tile(5000, 5000, spec)
        before = slide.read_region_px(0, -7, -5, 20, 20)
    assert np.array_equal(tile[:30, :20], picture[-30:, -20:])
    assert (tile[30:] == (10, 20, 30)).all()
    assert (tile[:, 20:] == (10, 20, 30)).all()
    assert (away == (10, 20, 30)).all()
    assert np.array_equal(before[5:, 7:], picture[:15, :13])
    assert (before[:5] == (10, 20, 30)).all()


@pytest.mark.parametrize("reader", READERS)
def test_thumbnail_and_overview(pyramid, picture, reader):
    with open_slide(pyramid, reader=reader) as slide:
        thumbnail = slide.thumbnail(128)
        assert slide.thumbnail(10_000).shape == (768, 1024, 3)
        overview = slide.overview(10.0)
    assert thumbnail.shape == (96, 128, 3)
    assert np.abs(thumbnail.astype(int) - halved(picture, 8)).max() <= 2
    assert overview.shape == (77, 103, 3)
    want = exact_box(picture, 800, 600, 220, 160, (22, 16)).astype(int)
    assert np.abs(overview[60:76, 80:102].astype(int) - want).mean() < 1.2


def test_a_thumbnail_is_read_in_blocks(tmp_path, monkeypatch, picture):
    """A slide without a pyramid is never held whole."""
    monkeypatch.setattr("pathflip.slide.reader._BLOCK", 200)
    path = write_pyramid(tmp_path / "flat.tif", [picture])
    with open_slide(path) as slide:
        largest = []
        inner = slide._source.read
        slide._source.read = lambda *a, **k: largest.append(a[3] * a[4]) or inner(*a, **k)
        got = slide.thumbnail(128)
    assert len(largest) > 4
    assert max(largest) <= 220 * 220
    assert np.abs(got.astype(int) - halved(picture, 8)).max() <= 1


@pytest.mark.parametrize("reader", READERS)
def test_threads_and_pickling(pyramid, reader):
    spec = TileSpec(48, 0.4)
    corners = [(x, y) for x in range(0, 900, 150) for y in range(0, 700, 150)]
    with open_slide(pyramid, slide_mpp=0.2, reader=reader) as slide:
        one = list(slide.read_tiles(corners, spec))
        with ThreadPoolExecutor(4) as pool:
            many = list(pool.map(lambda c: slide.read_tile(*c, spec), corners))
        with pickle.loads(pickle.dumps(slide)) as other:
            assert other.info == slide.info
            assert np.array_equal(other.read_tile(*corners[7], spec), one[7])
    assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True))


def test_resolution_comes_from_tags_or_the_user(tmp_path, picture):
    def mpp_of(name, **resolution):
        tifffile.imwrite(tmp_path / name, picture, photometric="rgb", tile=(128, 128), **resolution)
        with open_slide(tmp_path / name) as slide:
            return slide.info.mpp0

    assert mpp_of("cm.tif", resolution=(20000, 20000), resolutionunit="CENTIMETER") == pytest.approx(0.5)
    assert mpp_of("inch.tif", resolution=(50800, 50800), resolutionunit="INCH") == pytest.approx(0.5)
    assert mpp_of("dpi72.tif", resolution=(72, 72), resolutionunit="INCH") is None
    assert mpp_of("dpi300.tif", resolution=(300, 300), resolutionunit="INCH") is None
    assert mpp_of("none.tif") is None
    with open_slide(tmp_path / "none.tif") as slide, pytest.raises(MissingMPPError, match="--slide-mpp"):
        slide.read_tile(0, 0, TileSpec(64, 0.5))
    with open_slide(tmp_path / "cm.tif", slide_mpp=0.3) as slide:
        assert slide.info.mpp0 == 0.3
    with pytest.raises(ConfigError, match="slide_mpp"):
        open_slide(tmp_path / "cm.tif", slide_mpp=-1)


def test_finer_than_the_slide_is_refused(pyramid):
    with open_slide(pyramid) as slide:
        assert slide.read_tile(0, 0, TileSpec(64, 0.24)).shape == (64, 64, 3)
        with pytest.raises(ResolutionError, match="finest level"):
            slide.read_tile(0, 0, TileSpec(64, 0.2))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_plain_images(tmp_path, picture, name):
    path = tmp_path / name
    Image.fromarray(picture).save(path, dpi=(50800, 50800), **({"quality": 98} if name == "a.jpg" else {}))
    with open_slide(path) as slide:
        assert slide.info.size0 == (1024, 768)
        assert slide.info.mpp0 == pytest.approx(0.5, rel=1e-3)
        tile = slide.read_tile(100, 200, TileSpec(64, 0.5))
    assert np.abs(tile.astype(int) - picture[200:264, 100:164]).max() <= (0 if name != "a.jpg" else 12)


def test_transparency_lies_on_the_background(tmp_path):
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[:, :20] = (200, 0, 0, 255)
    rgba[:, 20:] = (0, 0, 0, 51)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        pixels = slide.read_region_px(0, 0, 0, 40, 40)
    assert (pixels[0, 0] == (200, 0, 0)).all()
    assert (pixels[0, 30] == 204).all()


def test_a_wrong_extension_does_no_harm(tmp_path, picture, pyramid):
    Image.fromarray(picture).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", tmp_path / "a.svs")
    with open_slide(tmp_path / "a.svs") as slide:
        assert slide.info.vendor == "png"
    renamed = tmp_path / "b.png"
    renamed.write_bytes(pyramid.read_bytes())
    with open_slide(renamed) as slide:
        assert len(slide.info.downsamples) == 3


def test_what_cannot_be_opened_says_why_in_one_line(tmp_path, pyramid):
    (tmp_path / "empty.svs").touch()
    (tmp_path / "text.svs").write_text("patient,slide\n1,2\n")
    (tmp_path / "cut.tif").write_bytes(pyramid.read_bytes()[:200])
    (tmp_path / "folder.svs").mkdir()
    (tmp_path / "loop.svs").symlink_to(tmp_path / "loop.svs")
    words = {
        "missing.svs": "no such file",
        "empty.svs": "0 bytes",
        "text.svs": "neither",
        "cut.tif": "cut",
        "folder.svs": "folder",
        "loop.svs": "cannot be reached",
    }
    for name, word in words.items():
        with pytest.raises(SlideError, match=word) as caught:
            open_slide(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_one_bad_tile_leaves_the_others_readable(tmp_path, rng):
    """Overwrite the bytes of one stored tile: only tiles over it fail, before and after."""
    noise = rng.integers(0, 256, (512, 512, 3), np.uint8)
    path = write_pyramid(tmp_path / "a.tif", [noise], tile=256)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[3], file.pages[0].databytecounts[3]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\xaa" * count
    path.write_bytes(bytes(data))
    spec = TileSpec(64, 0.25)
    for reader in READERS:
        with open_slide(path, reader=reader) as slide:
            for _ in range(2):
                assert np.array_equal(slide.read_tile(10, 10, spec), noise[10:74, 10:74])
                with pytest.raises(SlideError, match="cannot decode"):
                    slide.read_tile(300, 300, spec)
            assert np.array_equal(slide.read_tile(300, 10, spec), noise[10:74, 300:364])


def test_info_rows_are_plain_data(pyramid, tmp_path):
    row = slide_info_row(pyramid)
    assert list(row) == ["slide_id", "vendor", "size0", "mpp0", "levels", "reader", "notes"]
    assert json.loads(json.dumps(row))["levels"] == [[1024, 768], [512, 384], [256, 192]]
    bad = slide_info_row(tmp_path / "nothing.svs")
    assert "no such file" in bad["error"]
    assert bad["size0"] is None
