"""The kinds that the sample files stand for, planted anew: damage, channels, resolutions, labels, absent tiles."""

import warnings

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from pathflip.errors import SlideError
from pathflip.slide import open_slide
from pathflip.slide.sources.resolution import number_of_microns
from pathflip.slide.sources.tiff_pages import level_factor
from slide_files import area_mean, halved, smooth_picture, write_pyramid
from slide_matrix import (
    COMPRESSIONS,
    HEIGHT,
    TILE,
    WIDTH,
    Case,
    can_be_written,
    known_picture,
    page_of,
    turn_back,
    write_case,
)
from tiff_writer import ASCII, SHORT, Page, write_tiff

PICTURE = known_picture()


def difference(got, want):
    """Mean absolute difference in grey levels."""
    return float(np.abs(got.astype(int) - want.astype(int)).mean())


def whole(slide):
    """All of level 0."""
    return slide.read_region_px(0, 0, 0, *slide.info.size0)


# --- tiles that are not whole ---------------------------------------------------------------------------------------


def spoilt(data, kind, rng):
    """Second halves lost in the ways copies and disks lose them."""
    half = len(data) // 2
    return {
        "zeros": data[:half] + bytes(len(data) - half),
        "noise": data[:half] + rng.integers(0, 256, len(data) - half, np.uint8).tobytes(),
        "zeros, end kept": data[:half] + bytes(len(data) - half - 2) + data[-2:],
        "count too short": data[: int(len(data) * 0.6)],
        "all zeros": bytes(len(data)),
    }[kind]


KINDS = ("zeros", "noise", "zeros, end kept", "count too short", "all zeros")
CHECKED = [name for name in COMPRESSIONS if name not in ("none", "JPEG, old style")]


def format_can_tell(compression, kind):
    """Whether the format can tell: JPEG 2000 knows its end mark only, WebP nothing (no checksum in either)."""
    cannot = (compression == "WebP" and kind == "noise") or (
        compression.startswith("JPEG 2000") and kind == "zeros, end kept"
    )
    return not cannot


@pytest.mark.parametrize("compression", CHECKED)
@pytest.mark.parametrize("parts", ["tiles", "strips"])
def test_a_tile_that_is_not_whole_is_an_error_in_every_compression(tmp_path, rng, compression, parts):
    colour = "YCbCr 4:2:0" if compression.startswith("JPEG,") else "RGB"
    case = Case(compression=compression, parts=parts, levels="none", colour=colour)
    for kind in filter(lambda kind: format_can_tell(compression, kind), KINDS):
        page = page_of(case, PICTURE, reduced=False, mpp=(0.5, 0.5))
        page.segments[1] = spoilt(page.segments[1], kind, rng)
        with open_slide(write_tiff(tmp_path / "a.tif", [page])) as slide:
            x, y = (70, 10) if parts == "tiles" else (10, 40)
            with pytest.raises(SlideError, match="tile 1 of level 0"):
                slide.read_region_px(0, x, y, 20, 20)
            beside = slide.read_region_px(0, 0, 100, 60, 40)
            assert difference(beside, PICTURE[100:140, :60]) < 3


@pytest.mark.parametrize("compression", CHECKED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_smaller_level_is_made_from_the_full_one(tmp_path, rng, compression, kind):
    if not format_can_tell(compression, kind):
        return
    case = Case(compression=compression, levels="2")
    pages = [page_of(case, PICTURE, reduced=False, mpp=None)]
    small = area_mean(PICTURE, 0, 0, WIDTH, HEIGHT, (WIDTH // 2, HEIGHT // 2))
    pages.append(page_of(case, small, reduced=True, mpp=None))
    pages[1].segments = [spoilt(data, kind, rng) for data in pages[1].segments]
    with open_slide(write_tiff(tmp_path / "a.tif", pages)) as slide:
        with pytest.warns(UserWarning, match="level 1 is damaged"):
            got = slide.read_region_px(1, 0, 0, WIDTH // 2, HEIGHT // 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once
            slide.thumbnail(50)
    assert difference(got, small) < 3


@pytest.mark.parametrize("interval", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_restart_markers_hide_nothing(tmp_path, rng, interval, kind):
    options = [cv2.IMWRITE_JPEG_RST_INTERVAL, interval, cv2.IMWRITE_JPEG_QUALITY, 92]
    page = page_of(Case("JPEG, own tables", "YCbCr 4:2:0", levels="none"), PICTURE, reduced=False, mpp=None)
    tile = np.ascontiguousarray(PICTURE[: TILE[1], TILE[0] : 2 * TILE[0], ::-1])
    data = cv2.imencode(".jpg", tile, options)[1].tobytes()
    for stream, is_whole in ((data, True), (spoilt(data, kind, rng), False)):
        page.segments[1] = stream
        with open_slide(write_tiff(tmp_path / "a.tif", [page])) as slide:
            if is_whole:
                assert difference(whole(slide), PICTURE) < 4
            else:
                with pytest.raises(SlideError, match="tile 1 of level 0"):
                    whole(slide)


def test_a_few_zeros_before_the_end_of_a_jpeg_are_padding(tmp_path):
    page = page_of(Case("JPEG, own tables", "YCbCr 4:2:0", levels="none"), PICTURE, reduced=False, mpp=None)
    page.segments = [data[:-2] + bytes(9) + data[-2:] for data in page.segments]
    with open_slide(write_tiff(tmp_path / "a.tif", [page])) as slide:
        assert difference(whole(slide), PICTURE) < 4


@pytest.mark.parametrize("kind", KINDS)
def test_plain_jpegs_that_are_not_whole_are_errors(tmp_path, rng, kind):
    Image.fromarray(PICTURE).save(tmp_path / "whole.jpg", quality=92)
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:700] + spoilt(data[700:], kind, rng))
    with open_slide(tmp_path / "whole.jpg") as slide:
        assert difference(whole(slide), PICTURE) < 4
    with pytest.raises(SlideError, match="cannot decode"), open_slide(tmp_path / "a.jpg") as slide:
        whole(slide)


# --- absent tiles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", ["together", "apart"])
@pytest.mark.parametrize("parts", ["tiles", "strips"])
def test_absent_tiles_are_background_or_made_from_the_finer_level(tmp_path, planes, parts):
    case = Case(planes=planes, parts=parts)
    small = area_mean(PICTURE, 0, 0, WIDTH, HEIGHT, (WIDTH // 2, HEIGHT // 2))
    pages = [page_of(case, PICTURE, reduced=False, mpp=None), page_of(case, small, reduced=True, mpp=None)]
    pages[0].segments[1] = b""
    pages[1].segments = [b""] * len(pages[1].segments)
    with open_slide(write_tiff(tmp_path / "a.tif", pages), background=(1, 2, 3)) as slide:
        want = PICTURE.copy()
        box = (0, 48, 64, 128) if parts == "tiles" else (32, 64, 0, WIDTH)
        want[box[0] : box[1], box[2] : box[3]] = (1, 2, 3)
        assert np.array_equal(whole(slide), want)
        assert [(b.x, b.y, b.width, b.height) for b in slide.absent_boxes()] == [
            (box[2], box[0], box[3] - box[2], box[1] - box[0])
        ]
        got = slide.read_region_px(1, 0, 0, WIDTH // 2, HEIGHT // 2)
        assert difference(got, area_mean(want, 0, 0, WIDTH, HEIGHT, (WIDTH // 2, HEIGHT // 2))) < 1
        assert slide.info.reader.startswith("tiled-tiff")


# --- channels -------------------------------------------------------------------------------------------------------

RED, GREEN, BLUE = -16776961, 16711935, 65535
"""OME's signed 32-bit RGBA."""


def write_ome(path, planes, *, names=None, colours=None, levels=1, **pixels):
    """Grey planes as one OME image; ``levels`` in sub-directories."""
    channel = {"Name": names} if names else {}
    channel |= {"Color": colours} if colours else {}
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, **pixels}
    if channel:
        metadata["Channel"] = channel
    options = {"photometric": "minisblack", "tile": (64, 64), "compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(planes, subifds=levels - 1, metadata=metadata, **options)
        for level in range(1, levels):
            writer.write(planes[:, :: 2**level, :: 2**level], subfiletype=1, **options)
    return path


def planes_of(picture, order=(0, 1, 2)):
    """Colour planes in this order."""
    return np.stack([picture[..., i] for i in order])


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"names": ["Red", "Green", "Blue"]}, (0, 1, 2)),
        ({"names": ["R", "G", "B"]}, (0, 1, 2)),
        ({"names": ["blue", "green", "red"], "colours": [BLUE, GREEN, RED]}, (2, 1, 0)),
        ({"colours": [RED, GREEN, BLUE]}, (0, 1, 2)),
        ({"colours": [GREEN, BLUE, RED]}, (1, 2, 0)),
        ({"names": ["Channel 0", "Channel 1", "Channel 2"], "colours": [RED, GREEN, BLUE]}, (0, 1, 2)),
        ({"names": ["C:0", "C:1", "C:2"], "colours": [0xFF000000, 0x00FF0000, 0x0000FF00]}, (0, 1, 2)),
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_colour_planes_however_they_are_called(tmp_path, options, order, bits):
    planes = planes_of(PICTURE, order)
    planes = planes.astype(np.uint16) * 257 if bits == 16 else planes
    with open_slide(write_ome(tmp_path / "a.ome.tif", planes, levels=2, **options)) as slide:
        assert slide.info.downsamples == (1.0, 2.0)
        assert np.array_equal(whole(slide), PICTURE)
        width, height = slide.level_sizes[1]
        assert np.array_equal(slide.read_region_px(1, 0, 0, width, height), PICTURE[::2, ::2])
        assert slide.info.mpp0 == 0.5


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"names": ["DAPI", "FITC", "TRITC"], "colours": [BLUE, GREEN, RED]}, 3),
        ({"names": ["Hoechst", "Alexa 488", "Cy5"]}, 3),
        ({"names": ["Red", "Green", "DAPI"]}, 3),
        ({}, 3),
        ({"colours": [RED, RED, BLUE]}, 3),
        ({"names": ["Red", "Green", "Blue", "IR"]}, 4),
        ({"names": ["A", "B"]}, 2),
        ({"names": ["DAPI"]}, 1),
    ],
)
def test_other_channels_are_refused(tmp_path, options, count):
    planes = np.concatenate([planes_of(PICTURE), planes_of(PICTURE)[:1]])[:count]
    with pytest.raises(SlideError, match="multichannel") as caught:
        open_slide(write_ome(tmp_path / "a.ome.tif", planes, **options))
    assert "\n" not in str(caught.value)


def test_focal_planes_and_stacks_are_refused(tmp_path):
    stack = np.repeat(PICTURE[None], 3, axis=0)
    tifffile.imwrite(tmp_path / "z.ome.tif", stack, ome=True, photometric="rgb", metadata={"axes": "ZYXS"})
    tifffile.imwrite(tmp_path / "ij.tif", stack[..., 0], imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "pages.tif", stack, photometric="rgb", metadata=None)
    for name, word in (("z.ome.tif", "focal planes"), ("ij.tif", "ImageJ stack"), ("pages.tif", "3 pages")):
        with pytest.raises(SlideError, match=word):
            open_slide(tmp_path / name)


# --- bits -----------------------------------------------------------------------------------------------------------


def test_sixteen_bits_that_are_not_all_used(tmp_path):
    twelve = PICTURE.astype(np.uint16) * 16
    options = {"photometric": "rgb", "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "said.tif", twelve, extratags=[(281, SHORT, 3, (4095, 4095, 4095), True)], **options)
    with open_slide(tmp_path / "said.tif") as slide:
        assert np.array_equal(whole(slide), PICTURE)
    tifffile.imwrite(tmp_path / "not.tif", twelve, **options)
    with pytest.raises(SlideError, match=r"16-bit samples that reach \d+ only"):
        open_slide(tmp_path / "not.tif")


# --- resolutions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "microns"),
    [
        ("0.2523", 0.2523), (" 0,2523 ", 0.2523), ("0.2523 um", 0.2523), ("0.2523µm", 0.2523), ("252.3 nm", 0.2523),
        ("2.523e-1", 0.2523), ("0.0002523 mm", 0.2523), ("0", None), ("-0.25", None), ("nan", None), ("inf", None),
        ("1e999", None), ("", None), ("unknown", None), ("0.25 parsec", None), ("1,234,5", None), (None, None),
    ],
)  # fmt: skip
def test_numbers_with_and_without_units(text, microns):
    assert number_of_microns(text) == (None if microns is None else pytest.approx(microns))


@pytest.mark.parametrize(
    ("written", "mpp"),
    [("0.25", 0.25), ("0,25", 0.25), ("250 nm", 0.25), ("252", None), ("0.00025", None), ("-1", None), ("inf", None)],
)
def test_resolutions_of_aperio_headers(tmp_path, written, mpp):
    text = f"Aperio Image Library v12\n{WIDTH}x{HEIGHT} JPEG/RGB Q=90|AppMag = 40|MPP = {written}|User = x"
    path = write_pyramid(tmp_path / "a.svs", [PICTURE], mpp=None, description=text, tile=64)
    with open_slide(path) as slide:
        assert slide.info.vendor == "aperio"
        assert slide.info.mpp0 == mpp


# --- levels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size0", "size", "tile", "factor"),
    [
        ((14486, 16783), (3622, 4196), None, 4.0),
        ((700, 500), (512, 512), (256, 256), None),
        ((700, 500), (350, 500), (256, 256), None),
        ((100000, 80000), (25088, 20224), (256, 256), 4.0),
        ((100000, 100000), (25088, 25088), (256, 256), 4.0),
        ((1000, 1000), (300, 300), None, 10 / 3),
        ((1000, 700), (387, 463), None, None),
        ((700, 500), (700, 500), None, None),
    ],
)
def test_factors_of_levels(size0, size, tile, factor):
    assert level_factor(size0, size, tile) == (None if factor is None else pytest.approx(factor))


def test_a_padded_level_that_is_recognised_is_read_from_the_right_place(tmp_path):
    picture = smooth_picture(620, 1000, 5)
    level = np.full((320, 512, 3), 255, np.uint8)
    level[:310, :500] = halved(picture, 2)
    path = write_pyramid(tmp_path / "a.tif", [picture, level], tile=64)
    with open_slide(path) as slide:
        assert slide.info.downsamples == (1.0, 2.0)
        assert slide.level_sizes[1] == (500, 310)
        assert (
            difference(slide.read_box(700, 400, 240, 200, (60, 50)), area_mean(picture, 700, 400, 240, 200, (60, 50)))
            < 1
        )


@pytest.mark.parametrize("marked", [True, False])
def test_what_shows_something_else_is_no_level_whatever_its_shape(tmp_path, marked):
    """A label of half the size that nobody calls a label; a level padded by a factor that its size does not tell."""
    half = area_mean(PICTURE, 0, 0, WIDTH, HEIGHT, (WIDTH // 2, HEIGHT // 2))
    label = cv2.GaussianBlur(smooth_picture(HEIGHT // 2, WIDTH // 2, 9), (0, 0), 2)
    pages = [page_of(Case(), p, reduced=n > 1, mpp=None) for n, p in enumerate((PICTURE, label, half))]
    if not marked:
        pages[2].tags[254] = pages[0].tags[254]
        pages = [pages[0], pages[2], page_of(Case(), halved(label, 2), reduced=False, mpp=None)]
    with open_slide(write_tiff(tmp_path / "a.tif", pages)) as slide:
        assert slide.info.downsamples == (1.0, 2.0)
        assert difference(slide.thumbnail(WIDTH // 2), half) < 1
    picture = smooth_picture(500, 700, 5)
    level = np.full((256, 512, 3), 255, np.uint8)
    level[:200, :280] = area_mean(picture, 0, 0, 700, 500, (280, 200))  # 2.5, where 2 would fill up to the same size
    path = write_pyramid(tmp_path / "b.tif", [picture, level], tile=256)
    assert level_factor((700, 500), (512, 256), (256, 256)) == 2
    with open_slide(path) as slide:
        assert slide.info.downsamples == (1.0,)
        assert (
            difference(slide.read_box(380, 260, 240, 200, (60, 50)), area_mean(picture, 380, 260, 240, 200, (60, 50)))
            < 1
        )


@pytest.mark.parametrize("name", ["label 100x90", "macro 1280x431", "Thumbnail", "overview"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_labels_and_macros_are_never_levels(tmp_path, name, place):
    """Even where one is larger than the slide, or exactly half of it."""
    case = Case(levels="2")
    half = area_mean(PICTURE, 0, 0, WIDTH, HEIGHT, (WIDTH // 2, HEIGHT // 2))
    for associated in (np.full((400, 600, 3), 9, np.uint8), np.full((HEIGHT // 2, WIDTH // 2, 3), 9, np.uint8)):
        pages = [page_of(case, PICTURE, reduced=False, mpp=None), page_of(case, half, reduced=True, mpp=None)]
        other = page_of(case, associated, reduced=False, mpp=None)
        other.tags[270] = (ASCII, name.encode() + b"\0")
        pages.insert(place, other)
        with open_slide(write_tiff(tmp_path / "a.tif", pages)) as slide:
            assert (slide.info.size0, slide.info.downsamples) == ((WIDTH, HEIGHT), (1.0, 2.0))
            assert difference(slide.thumbnail(WIDTH // 2), half) < 1


def test_full_resolution_in_a_sub_directory(tmp_path):
    small = page_of(
        Case(), area_mean(PICTURE, 0, 0, WIDTH, HEIGHT, (WIDTH // 2, HEIGHT // 2)), reduced=True, mpp=(1, 1)
    )
    small.below = [page_of(Case(), PICTURE, reduced=False, mpp=(0.5, 0.5))]
    with open_slide(write_tiff(tmp_path / "a.tif", [small])) as slide:
        assert (slide.info.size0, slide.info.mpp0, slide.info.downsamples) == ((WIDTH, HEIGHT), 0.5, (1.0, 2.0))
        assert np.array_equal(whole(slide), PICTURE)


# --- orientation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_is_the_same_in_every_way_of_reading(tmp_path, orientation):
    case = Case("JPEG, own tables", "YCbCr 4:4:4", orientation=orientation)
    shown = []
    for reader in ("auto", "openslide"):
        with open_slide(write_case(tmp_path / "a.tif", case, PICTURE), reader=reader) as slide:
            shown.append(whole(slide))
            assert any(f"({orientation})" in note for note in slide.info.notes)
    assert np.array_equal(*shown)
    assert difference(shown[0], PICTURE) < 3
    stored = Image.fromarray(turn_back(PICTURE, orientation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for ending in ("png", "jpg"):
        stored.save(tmp_path / f"a.{ending}", exif=exif, quality=98)
        with open_slide(tmp_path / f"a.{ending}") as slide:
            assert slide.info.size0 == (WIDTH, HEIGHT)
            assert difference(whole(slide), PICTURE) < 3


def test_can_be_written_is_no_excuse():
    """Every compression stands in the tests above but those without a check of their own."""
    assert {"none", "JPEG, old style"} == set(COMPRESSIONS) - set(CHECKED)
    assert all(can_be_written(Case(compression=c)) for c in CHECKED)
    assert isinstance(page_of(Case(), PICTURE, reduced=False, mpp=None), Page)
