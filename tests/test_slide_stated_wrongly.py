"""Headers that say something else than the file holds: right pixels and a note, or one line; never wrong in silence."""

import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from odd_slides import TRUTH, difference, whole
from pathflip.errors import SlideError
from pathflip.slide import open_slide
from tiff_writer import ASCII, LONG, RATIONAL, SHORT, Page, cut, jpeg, rgb_to_ycbcr, stream, write_tiff

PICTURE = np.ascontiguousarray(TRUTH)
GREY = PICTURE[..., 1:2]
BLACK = np.zeros_like(GREY)


def smaller(factor):
    return cv2.resize(PICTURE, (700 // factor, 500 // factor), interpolation=cv2.INTER_AREA)


def page(picture, *, reduced=0, compression=8, photometric=2, pack=None, mpp=0.5, words=None, **tags):
    """One tiled page; further tags as ``t530=(SHORT, [1, 1])``."""
    height, width, count = picture.shape
    own = {
        254: (LONG, reduced), 256: (LONG, width), 257: (LONG, height), 258: (SHORT, [8] * count),
        259: (SHORT, compression), 262: (SHORT, photometric), 277: (SHORT, count), 284: (SHORT, 1),
        322: (LONG, 128), 323: (LONG, 128),
        282: (RATIONAL, [round(1e6 / mpp), 100]), 283: (RATIONAL, [round(1e6 / mpp), 100]), 296: (SHORT, 3),
    }  # fmt: skip
    own |= {270: (ASCII, words.encode() + b"\0")} if words else {}
    own |= {int(name[1:]): value for name, value in tags.items()}
    pack = pack or (lambda samples: stream(samples, compression, "<", 1))
    return Page(own, [pack(part) for part in cut(picture, (128, 128), 0)], True)


def with_marker(data, marker):
    """A JPEG without application markers but for this one."""
    result, at = b"\xff\xd8" + marker, 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        result += data[at:end] if not 0xE0 <= data[at + 1] <= 0xEF else b""
        at = end
    return result + data[at:]


def adobe(transform):
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])


def quiet(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_slide(path)


YCBCR, RGB = "read as YCbCr", "read as RGB"
JPEGS = {
    "4:2:0 under RGB": (2, lambda s: jpeg(s, "420"), YCBCR),
    "4:4:4 with JFIF's marker under RGB": (2, lambda s: jpeg(s, "444"), YCBCR),
    "4:4:4 with Adobe's marker under RGB": (2, lambda s: with_marker(jpeg(s, "444"), adobe(1)), YCBCR),
    "4:4:4 without a marker under RGB": (2, lambda s: with_marker(jpeg(s, "444"), b""), YCBCR),
    "RGB with Adobe's marker under YCbCr": (6, lambda s: with_marker(jpeg(s, None), adobe(0)), RGB),
    "RGB without a marker under YCbCr": (6, lambda s: with_marker(jpeg(s, None), b""), RGB),
    "RGB as Aperio writes it": (2, lambda s: with_marker(jpeg(s, None), b""), ""),
    "RGB with Adobe's marker": (2, lambda s: with_marker(jpeg(s, None), adobe(0)), ""),
    "4:4:4 under YCbCr": (6, lambda s: with_marker(jpeg(s, "444"), b""), ""),
    "4:2:0 under YCbCr": (6, lambda s: jpeg(s, "420"), ""),
    "RGB with a false marker under RGB": (2, lambda s: with_marker(jpeg(s, None), adobe(1)), ""),
    "4:4:4 with a false marker under YCbCr": (6, lambda s: with_marker(jpeg(s, "444"), adobe(0)), ""),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_tiles_have_their_own_colours_whatever_the_header_says(tmp_path, kind):
    photometric, pack, note = JPEGS[kind]
    options = {"compression": 7, "photometric": photometric, "pack": pack, "t530": (SHORT, [1, 1])}
    path = write_tiff(tmp_path / "a.tif", [page(PICTURE, **options), page(smaller(2), reduced=1, **options)])
    with open_slide(path) as slide:
        assert difference(whole(slide), PICTURE) < 1
        assert difference(slide.read_region_px(1, 0, 0, 350, 250), smaller(2)) < 1
        assert [line for line in slide.info.notes if "read as" in line] == (
            [line for line in slide.info.notes if line.endswith(note)] if note else []
        )
        assert bool(slide.info.notes) == bool(note)


def test_ink_in_each_way_that_jpeg_stores_it(tmp_path):
    inks = np.concatenate([255 - PICTURE, BLACK], axis=-1)

    def ycck(samples):
        return with_marker(
            jpeg(np.concatenate([rgb_to_ycbcr(255 - samples[..., :3]), samples[..., 3:]], -1), None), adobe(2)
        )

    for pack in (lambda s: jpeg(s, None), lambda s: with_marker(jpeg(s, None), b""), ycck):
        path = write_tiff(tmp_path / "a.tif", [page(inks, compression=7, photometric=5, pack=pack)])
        with open_slide(path) as slide:
            assert difference(whole(slide), PICTURE) < 1


def test_ycbcr_of_other_coefficients_is_refused(tmp_path):
    picture, plain = rgb_to_ycbcr(PICTURE), {"photometric": 6, "t530": (SHORT, [1, 1])}
    with open_slide(write_tiff(tmp_path / "a.tif", [page(picture, **plain)])) as slide:
        assert difference(whole(slide), PICTURE) < 1
    jfif = {"t529": (RATIONAL, [299, 1000, 587, 1000, 114, 1000])}
    with open_slide(write_tiff(tmp_path / "a.tif", [page(picture, **plain, **jfif)])) as slide:
        assert difference(whole(slide), PICTURE) < 1
    television = {"t529": (RATIONAL, [2126, 10000, 7152, 10000, 722, 10000])}
    with pytest.raises(SlideError, match=r"other coefficients than JPEG's \(0.2126, 0.7152, 0.0722\)"):
        open_slide(write_tiff(tmp_path / "a.tif", [page(picture, **plain, **television)]))


def test_a_grey_level_of_a_coloured_slide_is_left_out(tmp_path):
    grey = cv2.resize(GREY, (350, 250), interpolation=cv2.INTER_AREA)[..., None]
    pages = [page(PICTURE), page(grey, reduced=1, photometric=1), page(smaller(4), reduced=1)]
    with open_slide(write_tiff(tmp_path / "a.tif", pages)) as slide:
        assert slide.info.downsamples == (1.0, 4.0)
        assert "leaves out page 1: grey where the full resolution is coloured" in slide.info.notes[0]


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("marked", [0, 9])
def test_a_label_larger_than_the_slide_is_not_the_slide(tmp_path, place, marked):
    """Without a name: the levels that are marked tell to which page they belong."""
    label = page(np.full((900, 900, 3), 60, np.uint8), reduced=marked)
    pages = [page(PICTURE), page(smaller(2), reduced=1)]
    pages.insert(place, label)
    with open_slide(write_tiff(tmp_path / "a.tif", pages)) as slide:
        assert slide.info.size0 == (700, 500)
        assert slide.info.downsamples == (1.0, 2.0)
        assert difference(whole(slide), PICTURE) == 0
        assert any("900 × 900 px" in note for note in slide.info.notes)


def test_full_resolution_behind_its_own_level_still_is_the_slide(tmp_path):
    with open_slide(write_tiff(tmp_path / "a.tif", [page(smaller(2), reduced=1), page(PICTURE)])) as slide:
        assert (slide.info.size0, slide.info.downsamples) == ((700, 500), (1.0, 2.0))


@pytest.mark.parametrize("words", ["Aperio v12\r\n700x500 |AppMag = 40|MPP = 0.25", "x|MPP = 0.25"])
def test_a_header_that_contradicts_its_resolution_tags_is_questioned(tmp_path, words):
    path = write_tiff(tmp_path / "a.svs", [page(PICTURE, words=words)])
    with pytest.warns(UserWarning, match=r"says 0.25 µm a pixel, its resolution tags 0.5: 0.25 is used.*--slide-mpp"):
        assert open_slide(path).info.mpp0 == 0.25
    assert open_slide(path, slide_mpp=0.5).info.notes == ()
    for stored in (0.26, 353.0):  # nominal beside measured; a screen's dots an inch
        with quiet(write_tiff(tmp_path / "b.svs", [page(PICTURE, words=words, mpp=stored)])) as slide:
            assert (slide.info.mpp0, slide.info.notes) == (0.25, ())


def test_differences_that_nobody_compressed_are_refused(tmp_path):
    """libtiff shows such a file otherwise than tifffile; which of them is right the file does not say."""
    for compression in (1, 8):
        path = write_tiff(tmp_path / "a.tif", [page(PICTURE, compression=compression, t317=(SHORT, 1))])
        with open_slide(path) as slide:
            assert difference(whole(slide), PICTURE) == 0
    with pytest.raises(SlideError, match="pixels without compression are predicted"):
        open_slide(write_tiff(tmp_path / "a.tif", [page(PICTURE, compression=1, t317=(SHORT, 2))]))


@pytest.mark.parametrize(
    "level",
    [
        255 - smaller(2),
        np.roll(smaller(2), 80, axis=1),
        np.full_like(smaller(2), 255),
        np.zeros_like(smaller(2)),
        np.rint(rgb_to_ycbcr(smaller(2))).astype(np.uint8),
    ],
    ids=["inverted", "another place", "blank", "black", "YCbCr under RGB"],
)
def test_a_level_that_is_marked_and_shows_something_else_is_left_out(tmp_path, level):
    path = write_tiff(tmp_path / "a.tif", [page(PICTURE), page(level, reduced=1), page(smaller(4), reduced=1)])
    with open_slide(path) as slide:
        assert slide.info.downsamples == (1.0, 4.0)
        assert slide.info.notes == ("leaves out a page of 350 × 250 px, which shows something else than the slide",)
        assert difference(slide.thumbnail(350), smaller(2)) < 2


def test_levels_made_in_other_ways_stay(tmp_path):
    """Every other pixel, sharpened, compressed anew, a little shifted."""
    sharp = np.clip(smaller(2) * 1.5 - cv2.GaussianBlur(smaller(2), (0, 0), 2) * 0.5, 0, 255).astype(np.uint8)
    for level in (PICTURE[::2, ::2], sharp, np.roll(smaller(2), 1, axis=1), np.clip(smaller(2) * 1.02, 0, 255)):
        level = np.ascontiguousarray(level.astype(np.uint8))
        with open_slide(write_tiff(tmp_path / "a.tif", [page(PICTURE), page(level, reduced=1)])) as slide:
            assert (slide.info.downsamples, slide.info.notes) == ((1.0, 2.0), ())


@pytest.mark.parametrize("black", [0, 40])
@pytest.mark.parametrize("compression", [1, 7, 8])
def test_inks_stored_inverted_are_refused_and_right_ones_read(tmp_path, compression, black):
    inks = np.concatenate([255 - PICTURE, np.full_like(GREY, black)], -1)
    as_stored = {"compression": compression, "photometric": 5}
    if compression == 7:
        as_stored["pack"] = lambda samples: jpeg(samples, None)
    right = write_tiff(tmp_path / "right.tif", [page(inks, **as_stored)])
    with quiet(right) as slide:
        assert difference(whole(slide), np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))) < 4
    wrong = write_tiff(tmp_path / "wrong.tif", [page(255 - inks, **as_stored)])
    with pytest.raises(SlideError, match=r"inks inverted .*export it as RGB"):
        quiet(wrong)
