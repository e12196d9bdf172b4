"""Formats that only fastslide reads: right pixels, or one line; without the package, the line that installs it."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from pathflip.errors import MissingExtraError, SlideError
from pathflip.geometry import TileSpec
from pathflip.slide import open_slide
from pathflip.slide.paths import find_slides
from slide_files import halved, smooth_picture, write_pyramid

pytest.importorskip("fastslide")
pytestmark = pytest.mark.filterwarnings("ignore:.*is read through fastslide")
CZI = Path(__file__).parent / "fixtures" / "slides" / "two_scenes.czi"
"""Made with pylibCZIrw 6.1.0 (zstd): scene 0 of 64 × 64 px, scene 1 of four tiles of 112 × 80 px, the last left out."""
RGB = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))


@pytest.fixture(scope="module")
def picture():
    return smooth_picture(160, 224, seed=5)


def write_zarr(path, levels, channels=RGB, unit="micrometer", dtype="uint8"):
    """OME-Zarr 0.5: axes c, y, x, a chunk of 64 px."""
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w", zarr_format=3)
    datasets = []
    for number, level in enumerate(levels):
        stored = np.moveaxis(level, -1, 0).astype(dtype)
        group.create_array(str(number), shape=stored.shape, chunks=(1, 64, 64), dtype=dtype)[:] = stored
        scale = {"type": "scale", "scale": [1, 0.5 * 2**number, 0.5 * 2**number]}
        datasets.append({"path": str(number), "coordinateTransformations": [scale]})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": unit} for name in "yx"]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    if channels:
        window = {"min": 0, "max": 255, "start": 0, "end": 255}
        ome["omero"] = {"channels": [{"label": n, "color": c, "active": True, "window": window} for n, c in channels]}
    group.attrs["ome"] = ome
    return path


def test_czi_that_openslide_cannot_read(picture):
    with open_slide(CZI) as slide:
        assert slide.info.reader.startswith("fastslide ")
        assert "no other reader opens this CZI" in slide.info.reader
        assert slide.info.size0 == (224, 160)
        assert slide.info.mpp0 == 0.5
        pictures, unreported = slide.info.notes
        assert pictures == "holds 2 pictures, of which only the largest ('Scene 1') is read"
        assert "cannot decode as white" in unreported
        whole = slide.read_region_px(0, -10, -20, 250, 200)
        tiles = list(slide.read_tiles([(0, 0), (50, 40), (200, 100)], TileSpec(48, 0.5), workers=3))
    want = np.full((200, 250, 3), 255, np.uint8)
    want[20:180, 10:234] = picture
    want[100:180, 122:234] = 255  # left out
    assert np.array_equal(whole, want)
    assert np.array_equal(tiles[1], picture[40:88, 50:98])
    assert (tiles[2][:, 24:] == 255).all()


def test_that_fastslide_does_not_report_damaged_czi_tiles_is_said(tmp_path):
    """It shows them as white. Once it reports them, the warning can go."""
    data = bytearray(CZI.read_bytes())
    frames = [at for at in range(len(data)) if data[at : at + 4] == b"\x28\xb5\x2f\xfd"]
    data[frames[1] + 40 : frames[1] + 1500] = bytes(1460)
    path = tmp_path / "a.czi"
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="cannot decode as white"):
        slide = open_slide(path)
    with slide:
        assert (slide.read_region_px(0, 0, 0, 112, 80) == 255).all()
        assert not (slide.read_region_px(0, 112, 0, 112, 80) == 255).all()


def test_czi_by_another_name_or_cut_off_is_refused(tmp_path):
    shutil.copy(CZI, tmp_path / "a.bin")
    with pytest.raises(SlideError, match=r"holds Zeiss CZI, which fastslide knows by its name's ending \.czi"):
        open_slide(tmp_path / "a.bin")
    (tmp_path / "b.czi").write_bytes(CZI.read_bytes()[:5000])
    with pytest.raises(SlideError, match=r"b\.czi") as error:
        open_slide(tmp_path / "b.czi")
    assert "src/" not in str(error.value)


def test_ome_zarr_is_a_slide_in_a_folder(tmp_path, picture):
    path = write_zarr(tmp_path / "a.ome.zarr", [picture, halved(picture, 2)])
    assert find_slides([tmp_path]) == find_slides([tmp_path], recursive=True) == find_slides([path]) == [path]
    with open_slide(path) as slide:
        assert slide.info.slide_id == "a"
        assert slide.info.vendor == "OME-Zarr"
        assert slide.info.downsamples == (1.0, 2.0)
        assert slide.info.mpp0 == 0.5
        assert slide.info.notes == ()
        assert np.array_equal(slide.read_region_px(0, 0, 0, 224, 160), picture)
        assert np.array_equal(slide.read_tile(20, 30, TileSpec(40, 1.0)), halved(picture, 2)[15:55, 10:50])


def test_ome_zarr_chunks_that_cannot_be_decoded_fail_alone(tmp_path, picture):
    path = write_zarr(tmp_path / "a.ome.zarr", [picture])
    chunk = path / "0" / "c" / "1" / "0" / "1"
    chunk.write_bytes(chunk.read_bytes()[:40])
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match="cannot decode level 0, x 64"):
            slide.read_region_px(0, 64, 0, 64, 64)
        assert np.array_equal(slide.read_region_px(0, 0, 0, 64, 64), picture[:64, :64])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": (("DAPI", "0000FF"), ("CD8", "FFFF00"), ("PanCK", "FF00FF"))}, "3 channels of uint8 (DAPI, CD8"),
        ({"dtype": "uint16"}, "3 channels of uint16"),
    ],
)
def test_other_pixels_than_colour_are_refused(tmp_path, picture, options, words):
    path = write_zarr(tmp_path / "a.ome.zarr", [picture], **options)
    with pytest.raises(SlideError) as error:
        open_slide(path)
    assert words in str(error.value)
    assert "expected" in str(error.value)


def test_unnamed_channels_are_said_and_units_are_read(tmp_path, picture):
    with open_slide(write_zarr(tmp_path / "a.ome.zarr", [picture], channels=())) as slide:
        assert slide.info.notes == ("does not name its three channels, which are taken for red, green and blue",)
    with open_slide(write_zarr(tmp_path / "b.ome.zarr", [picture], unit="millimeter")) as slide:
        assert slide.info.mpp0 is None  # 500 µm a pixel is no microscope's
    with open_slide(write_zarr(tmp_path / "c.ome.zarr", [picture], unit="parsec")) as slide:
        assert slide.info.mpp0 is None
        assert "parsec" in slide.info.mpp_stated


def test_an_older_ome_zarr_is_refused_with_its_reason(tmp_path):
    path = tmp_path / "a.ome.zarr"
    path.mkdir()
    (path / ".zattrs").write_text(json.dumps({"multiscales": [{"version": "0.4"}]}))
    with pytest.raises(SlideError, match=r"older than version 0\.5"):
        open_slide(path)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.isyntax", b'<DataObject ObjectType="DPUfsImport">', "Philips iSyntax"),
        ("a.vsi", b"II*\0\x08\0\0\0\0\0", "Olympus VSI"),
        ("a.ets", b"SIS\0" + bytes(60), "Olympus ETS"),
    ],
)
def test_formats_it_is_needed_for_name_it_where_it_is_missing(tmp_path, monkeypatch, name, content, kind):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SlideError, match=f"{kind} that fastslide cannot read"):
        open_slide(path)
    monkeypatch.setitem(sys.modules, "fastslide", None)
    with pytest.raises(
        MissingExtraError, match=rf"reading {kind} needs the package 'fastslide'.*pathflip\[fastslide\]"
    ):
        open_slide(path)


def test_czi_without_the_package_says_what_openslide_said_and_what_may_help(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastslide", None)
    with pytest.raises(SlideError, match=r"dimension.*pip install 'pathflip\[fastslide\]'"):
        open_slide(CZI)


def test_it_never_takes_what_another_way_reads_unless_asked(tmp_path, picture):
    path = write_pyramid(tmp_path / "a.tif", [picture], compression="deflate", mpp=0.5)
    with open_slide(path) as slide:
        assert slide.info.reader.startswith("tiled-tiff")
    with open_slide(path, reader="fastslide") as slide:
        assert slide.info.reader.startswith("fastslide ")
        assert "as asked" in slide.info.reader
        assert np.array_equal(slide.read_region_px(0, 0, 0, 224, 160), picture)


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:slide 'lymph-node-overview'")
@pytest.mark.parametrize(
    "name", ["pancreas-ductal-adenocarcinoma.svs", "colon-crohn-disease.tif", "lymph-node-overview.dcm"]
)
def test_asked_for_it_reads_real_slides_nearly_as_openslide(real_data, name):
    path = real_data / "slides" / name
    with open_slide(path) as exact, open_slide(path, reader="fastslide") as slide:
        assert slide.info.size0 == exact.info.size0
        assert slide.info.mpp0 == exact.info.mpp0
        x, y = (side // 2 - 150 for side in slide.info.size0)
        difference = np.abs(
            slide.read_region_px(0, x, y, 300, 300).astype(int) - exact.read_region_px(0, x, y, 300, 300)
        )
    assert difference.mean() < 2
    assert difference.max() < 30
