"""Slides with one oddity each, as public trackers report them: the right pixels, or one line that says why not.

Every file of ``fixtures/odd_slides`` shows ``truth.png``, 700 × 500 px at 0.5 µm (0.25 µm where it is 1400 × 1000).
Its kinds are planted again below in other files, so that no rule holds for the sample alone.
"""

import shutil
import warnings

import cv2
import numpy as np
import openslide
import pytest

from odd_slides import FOLDER, SPEC, THE_TILE, TRUTH, difference, whole
from pathflip.errors import MissingMPPError, ResolutionError, SlideError
from pathflip.geometry import TileSpec
from pathflip.slide import find_tissue, open_slide


def opened(name, **options):
    return open_slide(FOLDER / name, **options)


@pytest.mark.parametrize(
    ("name", "tile", "bad", "good"),
    [
        ("tile_second_half_zeros.svs", 5, (560, 300), (20, 300)),
        ("tile_second_half_noise.svs", 1, (300, 100), (20, 100)),
        ("tile_count_too_short.svs", 3, (60, 300), (300, 300)),
    ],
)
def test_a_jpeg_tile_that_is_not_whole_is_an_error_there_and_only_there(name, tile, bad, good):
    with opened(name) as slide:
        with pytest.raises(SlideError, match=f"tile {tile} of level 0"):
            slide.read_tile(*bad, TileSpec(32, 0.5))
        with pytest.raises(SlideError, match=f"tile {tile} of level 0"):
            slide._source.read(0, bad[0] // 2, bad[1] // 2, 16, 16, halvings=1)
        x, y = good
        assert difference(slide.read_region_px(0, x, y, 64, 64), TRUTH[y : y + 64, x : x + 64]) < 4


@pytest.mark.parametrize("reader", ["auto", "openslide"])
@pytest.mark.parametrize(("name", "level"), [("coarsest_level_zeroed.svs", 2), ("middle_level_zeroed.svs", 1)])
def test_a_damaged_level_is_made_from_the_next_finer_one(name, level, reader):
    with opened(name, reader=reader) as slide, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thumbnail = slide.thumbnail(140)
        for mpp, shrink in ((0.25, 0.5), (0.5, 1.0), (1.0, 2.0)):
            side = int(64 * shrink)
            part = TRUTH[128 : 128 + side, 256 : 256 + side]
            want = cv2.resize(part, (64, 64), interpolation=cv2.INTER_NEAREST if shrink < 1 else cv2.INTER_AREA)
            assert difference(slide.read_tile(512, 256, TileSpec(64, mpp)), want) < 4
        width, height = slide.level_sizes[level]
        stored = cv2.resize(TRUTH, (width, height), interpolation=cv2.INTER_AREA)
        assert difference(slide.read_region_px(level, 0, 0, width, height), stored) < 4
        assert 0.20 < find_tissue(slide).mask.mean() < 0.45
    assert difference(thumbnail, cv2.resize(TRUTH, (140, 100), interpolation=cv2.INTER_AREA)) < 5
    lines = [str(w.message) for w in caught if "damaged" in str(w.message)]
    assert len(lines) == 1
    assert f"level {level} is damaged" in lines[0]
    assert f"from level {level - 1}" in lines[0]


def test_a_damaged_level_over_a_damaged_full_resolution_is_an_error(tmp_path):
    path = tmp_path / "slide.svs"
    data = bytearray((FOLDER / "coarsest_level_zeroed.svs").read_bytes())
    with opened("coarsest_level_zeroed.svs") as slide:
        for level in slide._source._levels[:2]:
            for offset, count in zip(level.offsets[0], level.counts[0], strict=True):
                data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(SlideError, match="cannot decode"):
        slide.thumbnail(100)


def test_absent_tiles_are_openslides_pixels_and_can_be_told_from_glass():
    path = FOLDER / "tiles_absent_at_row_ends.svs"
    with opened(path.name) as slide, openslide.OpenSlide(path) as other:
        assert slide.info.reader.startswith("tiled-tiff")
        for level, (width, height) in enumerate(slide.level_sizes):
            rgba = np.asarray(other.read_region((0, 0), level, (width, height))).astype(float)
            want = rgba[..., :3] * rgba[..., 3:] / 255 + 255 - rgba[..., 3:]
            assert difference(slide.read_region_px(level, 0, 0, width, height), want) < 0.5
        assert [(b.x, b.y, b.width, b.height) for b in slide.absent_boxes()] == [
            (512, 0, 188, 256),
            (512, 256, 188, 244),
        ]
        assert any("leaves out 2 of 6 tiles" in note for note in slide.info.notes)
    with opened("user_name_latin1.svs") as slide:
        assert slide.absent_boxes() == []


def test_a_padded_level_is_never_read_from_another_place():
    with opened("level_padded_to_whole_tiles.tif") as slide:
        assert slide.info.downsamples in ((1.0,), (1.0, 2.0))
        assert difference(slide.read_tile(256, 128, SPEC), THE_TILE) < 4
        assert difference(slide.thumbnail(140), cv2.resize(TRUTH, (140, 100), interpolation=cv2.INTER_AREA)) < 4
        assert any("512 × 512" in note for note in slide.info.notes)


def test_pixels_that_are_not_square():
    with pytest.raises(SlideError, match=r"0\.5 µm wide and 1 µm high.*--slide-mpp"):
        opened("pixels_twice_as_high_as_wide.tif")
    with opened("pixels_twice_as_high_as_wide.tif", slide_mpp=0.5) as slide:
        assert slide.info.mpp0 == 0.5
    with opened("pixels_half_a_percent_off_square.tif") as slide:
        assert slide.info.mpp0 == pytest.approx(0.50125, abs=1e-4)


def test_three_grey_planes_are_red_green_and_blue_only_where_the_header_says_so():
    with opened("rgb_in_three_grey_planes.ome.tif") as slide:
        assert difference(whole(slide), TRUTH) < 1
        assert difference(slide.read_tile(256, 128, SPEC), THE_TILE) < 1
        assert slide.info.mpp0 == pytest.approx(0.5)
    with pytest.raises(SlideError, match=r"multichannel.*DAPI.*CD8.*PanCK"):
        opened("three_fluorescence_channels.ome.tif")


@pytest.mark.parametrize("name", ["jpeg2000_ycbcr_33003.tif", "jpeg2000_rgb_33005.tif", "jpeg2000_34712.tif"])
def test_jpeg_2000_under_each_of_its_numbers(name):
    with opened(name) as slide:
        assert difference(whole(slide), TRUTH) < 3
        assert difference(slide.read_tile(256, 128, SPEC), THE_TILE) < 4


def test_an_alpha_channel_that_was_never_filled_is_ignored_and_said():
    with opened("alpha_zero_everywhere.tif") as slide:
        assert difference(whole(slide), TRUTH) < 1
        assert any("alpha is 0 everywhere" in note for note in slide.info.notes)
        assert find_tissue(slide).mask.mean() > 0.2


@pytest.mark.parametrize(
    ("name", "written"),
    [("mpp_in_nanometres.svs", "MPP = 252"), ("mpp_zero.svs", "MPP = 0"), ("mpp_nan.svs", "MPP = nan")],
)
def test_a_resolution_no_scanner_has_is_unknown_and_named(name, written):
    with opened(name) as slide:
        assert slide.info.mpp0 is None
        with pytest.raises(MissingMPPError, match=f"'{written}'.*--slide-mpp"):
            slide.read_tile(0, 0, SPEC)
    with opened(name, slide_mpp=0.5) as slide:
        assert difference(slide.read_tile(256, 128, SPEC), THE_TILE) < 4


def test_a_resolution_with_its_unit():
    with opened("mpp_with_unit.svs") as slide:
        assert slide.info.mpp0 == pytest.approx(0.2523)


def test_a_resolution_coarser_than_any_scan_is_questioned():
    with pytest.warns(UserWarning, match=r"5 µm.*--slide-mpp"):
        slide = opened("resolution_ten_times_too_coarse.tif")
    with slide, pytest.raises(ResolutionError, match=r"has 5 mpp.*--slide-mpp"):
        slide.read_tile(0, 0, SPEC)


@pytest.mark.parametrize("name", ["full_resolution_on_second_page.tif", "levels_not_marked_as_reduced.tif"])
def test_levels_in_any_order_and_unmarked(name):
    with opened(name) as slide:
        assert (slide.info.size0, slide.info.mpp0, slide.info.downsamples) == ((700, 500), 0.5, (1.0, 2.0))
        assert difference(whole(slide), TRUTH) < 1
        assert difference(slide.read_tile(256, 128, SPEC), THE_TILE) < 1


@pytest.mark.parametrize(
    "name", ["user_name_latin1.svs", "user_name_control_byte.svs", "description_first_byte_zero.svs"]
)
def test_bytes_in_a_header_that_are_no_utf8(name, capfd):
    with opened(name) as slide:
        assert slide.info.mpp0 == 0.5
        assert difference(whole(slide), TRUTH) < 3
    assert capfd.readouterr() == ("", "")


def test_a_utf16_header(tmp_path):
    """The same length in UTF-16, over the resolution that ends the header."""
    data = (FOLDER / "user_name_latin1.svs").read_bytes()
    header = "\ufeffAperio|MPP = 0.5".encode("utf-16-le")
    at = data.index(b"Aperio Image Library v12.0\n700x500")
    path = tmp_path / "a.svs"
    end = data.index(b"\0", at)
    path.write_bytes(data[:at] + header.ljust(end - at, b"\0") + data[end:])
    with open_slide(path) as slide:
        assert slide.info.mpp0 == 0.5
        assert difference(whole(slide), TRUTH) < 3


def test_the_same_file_name_in_two_folders_is_two_slides():
    folder = FOLDER / "two_cases_same_file_name"
    colours = []
    for case in ("case_0001", "case_0002"):
        with open_slide(folder / case / "slide_H&E_0.tiff") as slide:
            colours.append(whole(slide).mean(axis=(0, 1)))
    assert np.abs(colours[0] - colours[1]).max() > 10


def test_no_file_needs_openslide_to_be_right(tmp_path):
    """Whatever OpenSlide thinks of a file's kind: under another extension the pixels are the same."""
    shutil.copy(FOLDER / "jpeg2000_34712.tif", tmp_path / "a.svs")
    with open_slide(tmp_path / "a.svs") as slide:
        assert difference(whole(slide), TRUTH) < 3
