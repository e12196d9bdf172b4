"""The fast reader gives OpenSlide's pixels, or leaves the slide to OpenSlide."""

import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from pathflip.errors import SlideError
from pathflip.geometry import TileSpec
from pathflip.slide import open_slide
from pathflip.slide.sources.jpeg import canonical_header
from pathflip.slide.sources.tiled_tiff import TiledTIFFSource
from slide_files import exact_box, halved, smooth_picture, write_pyramid


@pytest.fixture(scope="module")
def texture():
    """Tissue-like: smooth colours and fine grain; sizes divide by 4, so OpenSlide's levels lie on whole pixels."""
    picture = smooth_picture(720, 1008).astype(int)
    grain = np.random.default_rng(1).normal(0, 18, picture.shape[:2])[..., None]
    return np.clip(picture * 0.6 + 80 + cv2.GaussianBlur(grain, (0, 0), 1.2)[..., None] * 2, 0, 255).astype(np.uint8)


def fuzz(slide, through_openslide, rng, rounds=40):
    """The largest difference to OpenSlide over random rectangles of all levels, many across an edge."""
    worst = 0
    for _ in range(rounds):
        level = int(rng.integers(len(slide.level_sizes)))
        width0, height0 = slide.level_sizes[level]
        width, height = (int(v) for v in rng.integers(1, 420, 2))
        x, y = int(rng.integers(-90, width0 + 40)), int(rng.integers(-90, height0 + 40))
        ratio = through_openslide.level_downsamples[level]
        if abs(ratio - round(ratio)) > 1e-6:  # there OpenSlide can only be asked between pixels, except at the origin
            x = y = 0
        got = slide.read_region_px(level, x, y, width, height)
        rgba = np.asarray(through_openslide.read_region((round(x * ratio), round(y * ratio)), level, (width, height)))
        share = rgba[..., 3:] / 255
        want = np.rint(rgba[..., :3] * share + 255 * (1 - share))
        worst = max(worst, int(np.abs(got - want).max()))
    return worst


FORMATS = {
    "jpeg 4:2:0": {"compression": "jpeg", "compressionargs": {"level": 85}, "subsampling": (2, 2)},
    "jpeg 4:4:4": {"compression": "jpeg", "compressionargs": {"level": 70}, "subsampling": (1, 1)},
    "jpeg 4:2:2": {"compression": "jpeg", "compressionargs": {"level": 90}, "subsampling": (2, 1)},
    "jpeg rgb": {"compression": "jpeg", "compressionargs": {"level": 85, "outcolorspace": "rgb"}},
    "deflate": {"compression": "deflate"},
    "deflate predictor": {"compression": "deflate", "predictor": 2},
    "lzw": {"compression": "lzw"},
    "lzw predictor": {"compression": "lzw", "predictor": 2},
    "none": {"compression": None},
}


@pytest.mark.parametrize(
    ("kind", "tile"), [(kind, tile) for kind in FORMATS for tile in (128, 240) if (kind, tile) != ("none", 240)]
)  # OpenSlide itself refuses the padding tifffile gives uncompressed tiles of 240
def test_same_pixels_as_openslide(tmp_path, texture, rng, kind, tile):
    levels = [texture, halved(texture, 2), halved(texture, 4)]
    path = write_pyramid(tmp_path / "a.tif", levels, tile=tile, **FORMATS[kind])
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert isinstance(slide._source, TiledTIFFSource), slide.info.reader
        assert slide.info.reader.startswith("tiled-tiff: ")
        assert fuzz(slide, reference, rng) <= 1


@pytest.mark.real
@pytest.mark.parametrize(
    "name",
    [
        "cmu-1-small-region.svs",
        "colon-crohn-disease.tif",
        "colon-submucosal-lipoma.tif",
        "duodenum-giardiasis.svs",
        "esophagus-eosinophilic-esophagitis.tif",
        "head-neck-frozen-section-no-mpp.svs",
        "lung-squamous-cell-carcinoma.svs",
        "pancreas-ductal-adenocarcinoma.svs",
    ],
)
def test_same_pixels_as_openslide_on_real_slides(real_data, rng, name):
    path = real_data / "slides" / name
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert slide.info.reader.startswith("tiled-tiff: ")
        assert fuzz(slide, reference, rng, rounds=12) <= 1


@pytest.mark.parametrize(("mpp", "halvings"), [(0.25, 0), (0.45, 0), (0.5, 1), (0.49, 1), (0.8, 1), (1.0, 2), (2.0, 3)])
def test_halving_while_decoding_moves_nothing(tmp_path, mpp, halvings):
    """On a slide without a pyramid, against the exact area mean of level 0; odd corners fall between halved pixels."""
    picture = smooth_picture(768, 1024)
    path = write_pyramid(tmp_path / "a.tif", [picture], compression="jpeg", compressionargs={"level": 95})
    spec = TileSpec(32, mpp)
    with open_slide(path) as slide:
        side0 = spec.tile_px0(slide.info)
        assert slide._source.halvings(0, side0 / 32) == halvings
        stored = slide.read_region_px(0, 0, 0, 1024, 768)
        for x0, y0 in ((200, 100), (201, 101), (333, 210)):
            got = slide.read_tile(x0, y0, spec).astype(int)
            errors = [
                np.abs(got - exact_box(stored, x0 + dx, y0 + dy, side0, side0, (32, 32))).mean()
                for dx, dy in ((0, 0), (0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
            ]
            assert errors[0] < 2.0
            assert errors[0] == min(errors)  # half a level-0 pixel off in any direction fits worse


@pytest.mark.real
def test_halved_tissue_is_as_good_as_the_exact_mean(real_data):
    """Real texture: the mean difference to averaging level 0 stays near one grey level."""
    with open_slide(real_data / "slides" / "duodenum-giardiasis.svs") as slide:
        x0, y0, side0 = 6000, 4500, 128
        stored = slide.read_region_px(0, x0, y0, side0, side0)
        got = slide.read_box(x0, y0, side0, side0, (64, 64)).astype(int)
    assert np.abs(got - exact_box(stored, 0, 0, side0, side0, (64, 64))).mean() < 1.0


def test_the_edge_of_the_slide_is_not_mixed_with_what_lies_beyond(tmp_path):
    dark = np.full((301, 403, 3), 40, np.uint8)
    path = write_pyramid(tmp_path / "a.tif", [dark], compression="jpeg", compressionargs={"level": 95})
    with open_slide(path) as slide:
        tile = slide.read_box(403 - 64, 301 - 64, 64, 64, (32, 32))
        across = slide.read_box(403 - 32, 100, 64, 64, (32, 32))
    assert np.abs(tile.astype(int) - 40).max() <= 2
    assert np.abs(across[:, :16].astype(int) - 40).max() <= 2
    assert (across[:, 17:] == 255).all()


def test_each_stored_tile_is_decoded_once(tmp_path, texture, monkeypatch):
    path = write_pyramid(tmp_path / "a.tif", [texture], compression="jpeg", compressionargs={"level": 85})
    decoded, lock = [], threading.Lock()
    inner = TiledTIFFSource._decoded

    def counted(self, *arguments):
        with lock:
            decoded.append(arguments[:3])
        return inner(self, *arguments)

    monkeypatch.setattr(TiledTIFFSource, "_decoded", counted)
    spec = TileSpec(50, 0.25)
    corners = [(x, y) for y in range(0, 600, 50) for x in range(0, 900, 50)]
    with open_slide(path) as slide, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda c: slide.read_tile(*c, spec), corners))
    assert len(decoded) == len(set(decoded)) == 8 * 5


def test_the_cache_is_bounded(tmp_path, texture, monkeypatch):
    monkeypatch.setattr("pathflip.slide.sources.stored_tiles.CACHE_BYTES", 0)
    path = write_pyramid(tmp_path / "a.tif", [texture], compression="jpeg", compressionargs={"level": 85})
    with open_slide(path) as slide:
        whole = slide.read_region_px(0, 0, 0, 1008, 720)
        assert len(slide._source._cache) == 16
        assert np.array_equal(slide.read_region_px(0, 0, 0, 300, 300), whole[:300, :300])


def test_the_photometric_tag_decides_the_colour_space(tmp_path, texture):
    """Aperio stores RGB JPEGs without a marker saying so; decoders then guess YCbCr."""
    path = write_pyramid(tmp_path / "a.tif", [texture], **FORMATS["jpeg rgb"])
    with open_slide(path) as slide:
        for out in (1, 2):
            got = slide.read_box(128, 128, 256, 256, (256 // out, 256 // out)).astype(int)
            want = halved(texture[128:384, 128:384], out)
            assert np.abs(got - want).mean() < 6
            assert np.abs(got.mean(axis=(0, 1)) - want.mean(axis=(0, 1))).max() < 1


def test_a_frame_header_that_claims_gigabytes_is_refused_unread(tmp_path, texture):
    path = write_pyramid(tmp_path / "a.tif", [texture], compression="jpeg", compressionargs={"level": 85})
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    frame = data.find(b"\xff\xc0", offset, offset + count)
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    path.write_bytes(bytes(data))
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match="65000 × 65000"):
            slide.read_region_px(0, 0, 0, 50, 50)
        assert slide.read_region_px(0, 500, 500, 50, 50).shape == (50, 50, 3)


def test_a_truncated_file_is_refused_in_one_line(tmp_path, texture):
    path = write_pyramid(tmp_path / "a.tif", [texture], compression="jpeg", compressionargs={"level": 85})
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(SlideError, match="incomplete") as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)


def test_random_damage_never_escapes_as_another_error(tmp_path, texture, rng):
    """Flip bytes anywhere: the slide opens or not, a tile decodes or not, but nothing else happens."""
    path = write_pyramid(tmp_path / "a.tif", [texture[:256, :256]], compression="jpeg", compressionargs={"level": 85})
    good = path.read_bytes()
    for _ in range(60):
        data = bytearray(good)
        for at in rng.integers(0, 2000 if rng.random() < 0.5 else len(good), 6):
            data[at % len(data)] = int(rng.integers(256))
        path.write_bytes(bytes(data))
        try:
            with open_slide(path) as slide:
                slide.read_box(0, 0, 64, 64, (32, 32))
        except SlideError:
            continue


def test_headers_without_a_scan_are_refused():
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"junk" * 50, b"\xff\xd8\xff\xdb\x00\x00" * 20):
        with pytest.raises(ValueError, match="JPEG stream"):
            canonical_header(data, None, True)


def test_strips_and_grey_are_read_directly_too(tmp_path, texture):
    tifffile.imwrite(tmp_path / "strips.tif", texture, photometric="rgb", rowsperstrip=7)
    tifffile.imwrite(tmp_path / "grey.tif", texture[..., 0], photometric="minisblack", tile=(128, 128))
    with open_slide(tmp_path / "strips.tif") as slide:
        assert slide.info.reader.startswith("tiled-tiff: uncompressed strips")
        assert np.array_equal(slide.read_region_px(0, 5, 6, 300, 290), texture[6:296, 5:305])
    with open_slide(tmp_path / "grey.tif") as slide:
        assert np.array_equal(slide.read_region_px(0, 5, 6, 40, 40)[..., 1], texture[6:46, 5:45, 0])


def test_ome_tiff_has_its_levels_and_resolution(tmp_path, texture):
    """OpenSlide sees one level and no resolution there."""
    path, levels = tmp_path / "case.ome.tif", [texture, halved(texture, 2), halved(texture, 4)]
    size = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
    options = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(levels[0], subifds=2, metadata={"axes": "YXS", **size}, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
    with open_slide(path) as slide:
        assert (slide.info.slide_id, slide.info.mpp0, slide.info.downsamples) == ("case", 0.25, (1.0, 2.0, 4.0))
        for number, level in enumerate(levels):
            assert np.array_equal(slide.read_region_px(number, 20, 30, 90, 70), level[30:100, 20:110])
        assert np.array_equal(slide.read_tile(0, 0, TileSpec(64, 1.0)), levels[2][:64, :64])
