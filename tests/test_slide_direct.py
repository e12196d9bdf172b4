"""NDPI and DICOM decoded directly: OpenSlide's pixels, or OpenSlide itself and the reason."""

import pickle
import shutil
import threading
from contextlib import suppress

import numpy as np
import openslide
import pytest
from pydicom.dataset import Dataset

from pathflip.errors import SlideError
from pathflip.slide import open_slide
from pathflip.slide.sources.dicom import DICOMSource
from pathflip.slide.sources.ndpi import NDPISource
from slide_files import halved, smooth_picture
from vendor_files import write_dicom, write_ndpi


@pytest.fixture(scope="module")
def picture():
    """Smooth colours and grain; 640 × 400 px."""
    grain = np.random.default_rng(3).normal(0, 14, (400, 640, 1))
    return np.clip(smooth_picture(400, 640) * 0.7 + 30 + grain, 0, 255).astype(np.uint8)


def largest_difference(slide, path, rng, rounds=60):
    """Over random rectangles of all levels, many across an edge."""
    worst = 0
    with openslide.OpenSlide(path) as reference:
        assert slide.level_sizes == reference.level_dimensions
        for _ in range(rounds):
            level = int(rng.integers(len(slide.level_sizes)))
            width0, height0 = slide.level_sizes[level]
            width, height = (int(v) for v in rng.integers(1, 300, 2))
            x, y = int(rng.integers(-60, width0 + 20)), int(rng.integers(-60, height0 + 20))
            ratio = reference.level_downsamples[level]
            if abs(ratio - round(ratio)) > 1e-6:
                x = y = 0
            got = slide.read_region_px(level, x, y, width, height).astype(int)
            rgba = np.asarray(reference.read_region((round(x * ratio), round(y * ratio)), level, (width, height)))
            want = np.where(rgba[..., 3:] == 255, rgba[..., :3], 255)
            worst = max(worst, int(np.abs(got - want).max()))
    return worst


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2"])
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_ndpi_gives_openslides_pixels(tmp_path, picture, rng, subsampling, columns):
    levels = [picture, halved(picture, 2)]
    path = write_ndpi(tmp_path / "a.ndpi", levels, columns=columns, subsampling=subsampling)
    with open_slide(path) as slide:
        assert isinstance(slide._source, NDPISource), slide.info.reader
        assert slide.info.reader.startswith("ndpi: ")
        assert slide.info.mpp0 == 0.5
        assert largest_difference(slide, path, rng) == 0


@pytest.mark.parametrize(
    ("height", "subsampling", "word"),
    [(389, "4:4:4", "no whole number of restart intervals"), (400, "4:2:0", "chroma")],
)
def test_ndpi_that_openslide_reads_otherwise_is_left_to_it(tmp_path, picture, height, subsampling, word):
    """OpenSlide leaves out rows of an unfinished interval, and cannot decode intervals with chroma of half the rows."""
    path = write_ndpi(tmp_path / "a.ndpi", [picture[:height]], subsampling=subsampling)
    with open_slide(path) as slide:
        assert slide.info.reader.startswith("openslide")
        assert word in slide.info.reader


def test_ndpi_levels_between_the_stored_ones_are_halved_while_decoding(tmp_path):
    smooth = smooth_picture(512, 640)
    path = write_ndpi(tmp_path / "a.ndpi", [smooth], quality=95)
    with open_slide(path) as slide:
        assert slide.level_sizes == ((640, 512), (320, 256), (160, 128), (80, 64))
        assert [level.halved for level in slide._source._levels] == [0, 1, 2, 3]
        for level in (1, 2, 3):
            width, height = slide.level_sizes[level]
            pixels = slide.read_region_px(level, 0, 0, width, height).astype(int)
            assert np.abs(pixels - halved(smooth, 2**level)).mean() < 1.5


def damage_an_interval(path, level):
    """The last but one restart interval of a level, at its left edge, holds nothing that decodes."""
    with open_slide(path) as slide:
        stored = slide._source._levels[level]
        start, end = int(stored.offsets[-2]), int(stored.ends[-2])
    data = bytearray(path.read_bytes())
    data[start : end - 2] = b"\xff\x00" * ((end - start - 2) // 2) + b"\0" * ((end - start) % 2)
    path.write_bytes(data)


def test_ndpi_a_damaged_interval_is_an_error_there_alone(tmp_path, picture):
    path = write_ndpi(tmp_path / "a.ndpi", [picture], columns=2)
    damage_an_interval(path, 0)
    with open_slide(path) as slide:
        assert slide.read_region_px(0, 0, 0, 64, 64).shape == (64, 64, 3)
        with pytest.raises(SlideError, match="cannot decode"):
            slide.read_region_px(0, 0, 392, 64, 8)


def test_ndpi_a_damaged_smaller_level_is_made_from_the_finer_one(tmp_path, picture, recwarn):
    levels = [picture, halved(picture, 2)]
    path = write_ndpi(tmp_path / "a.ndpi", levels, columns=2)
    damage_an_interval(path, 1)
    with open_slide(path) as slide:
        pixels = slide.read_region_px(1, 0, 192, 64, 8).astype(int)
    assert any("level 1 is damaged" in str(warning.message) for warning in recwarn)
    assert np.abs(pixels - levels[1][-8:, :64]).mean() < 8


def test_ndpi_without_restart_intervals_goes_through_openslide(tmp_path, picture, monkeypatch):
    path = write_ndpi(tmp_path / "a.ndpi", [picture], columns=80)
    data = path.read_bytes()
    for what, word in ((b"\xff\xdd\x00\x04\x00\x01", b"\xff\xfe\x00\x04\x00\x01"),):
        assert data.count(what) == 1
        path.write_bytes(data.replace(what, word))
    with open_slide(path) as slide:
        assert slide.info.reader.startswith("openslide")
        assert "restart" in slide.info.reader or "unusual" in slide.info.reader


def test_ndpi_lists_beside_the_markers_go_through_openslide(tmp_path, picture):
    path = write_ndpi(tmp_path / "a.ndpi", [picture], columns=2)
    with open_slide(path) as slide:
        offsets = slide._source._levels[0].offsets
    data = path.read_bytes()
    listed = (offsets - 12).astype("<u4").tobytes()  # counted from the JPEG's first byte, which is the file's twelfth
    assert data.count(listed) == 1
    path.write_bytes(data.replace(listed, (offsets - 12 + 3).astype("<u4").tobytes()))
    with open_slide(path) as slide:
        assert slide.info.reader.startswith("openslide")
        assert "markers" in slide.info.reader


@pytest.mark.real
@pytest.mark.parametrize(("name", "reader"), [("fluorescence.ndpi", "ndpi: "), ("lymph-node-overview.dcm", "dicom: ")])
@pytest.mark.filterwarnings("ignore:slide 'lymph-node-overview'")
def test_same_pixels_as_openslide_on_real_slides(real_data, rng, name, reader):
    path = real_data / "slides" / name
    with open_slide(path) as slide:
        assert slide.info.reader.startswith(reader)
        assert largest_difference(slide, path, rng) == 0
    with open_slide(path, reader="openslide") as slide:
        assert slide.info.reader.startswith("openslide")


@pytest.mark.parametrize("kind", ["jpeg", "jpeg-rgb", "jpeg2000", "jpeg2000-lossy", "native"])
@pytest.mark.parametrize("table", ["basic", "extended", "none"])
def test_dicom_gives_openslides_pixels(tmp_path, picture, rng, kind, table):
    for number, level in enumerate((picture, halved(picture, 2), halved(picture, 4))):
        write_dicom(tmp_path / f"{number}.dcm", level, kind=kind, table=table, mpp=0.5 * 2**number)
    (tmp_path / "notes.txt").write_text("no slide")
    path = tmp_path / "0.dcm"
    with open_slide(path) as slide:
        assert isinstance(slide._source, DICOMSource), slide.info.reader
        assert slide.info.reader.startswith("dicom: ")
        assert len(slide.level_sizes) == 3
        assert largest_difference(slide, path, rng) == 0


def test_dicom_levels_in_parts_and_frames_in_fragments(tmp_path, picture, rng):
    for number, part in enumerate(((1, 0, 7), (2, 7, 6), (3, 13, 7))):
        write_dicom(tmp_path / f"{2 - number}.dcm", picture, part=part, fragments=2 if number == 1 else 1)
    write_dicom(tmp_path / "another_series.dcm", halved(picture, 2), series="1.2.3.5")
    write_dicom(tmp_path / "label.dcm", picture[:90, :90], ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])
    with open_slide(tmp_path / "1.dcm") as slide:
        assert isinstance(slide._source, DICOMSource), slide.info.reader
        assert len(slide.level_sizes) == 1
        got = slide.read_region_px(0, 0, 0, 640, 400).astype(int)
    assert np.abs(got - picture).mean() < 6
    assert np.abs(got[:, ::-1] - picture).mean() > 12


def places(count):
    """PerFrameFunctionalGroupsSequence of frames from the last to the first, five a row."""
    groups = []
    for number in reversed(range(count)):
        place, group = Dataset(), Dataset()
        place.ColumnPositionInTotalImagePixelMatrix = number % 5 * 128 + 1
        place.RowPositionInTotalImagePixelMatrix = number // 5 * 128 + 1
        group.PlanePositionSlideSequence = [place]
        groups.append(group)
    return groups


def test_dicom_frames_placed_one_by_one_are_left_to_openslide(tmp_path, picture):
    sparse = {"DimensionOrganizationType": "TILED_SPARSE", "PerFrameFunctionalGroupsSequence": places(20)}
    path = write_dicom(tmp_path / "a.dcm", picture, **sparse)
    with open_slide(path) as slide:
        assert slide.info.reader.startswith("openslide")
        assert "placed one by one" in slide.info.reader
        last = slide.read_region_px(0, 0, 0, 128, 128).astype(int)
    assert np.abs(last[:16] - picture[384:400, 512:640]).mean() < 6


@pytest.mark.parametrize("kind", ["TILED_SPARSE", "3D"])
@pytest.mark.parametrize("which", [0, 1])
def test_dicom_frames_without_a_place_are_refused(tmp_path, picture, kind, which):
    """OpenSlide 4.0.1 ends the process on them, in the file itself or in another of its series."""
    for number in (0, 1):
        kinds = {"DimensionOrganizationType": kind} if number == which else {}
        write_dicom(tmp_path / f"{number}.dcm", halved(picture, 2**number), **kinds)
    for reader in ("auto", "openslide"):
        with pytest.raises(SlideError, match=rf"'{which}.dcm' does not say where its frames lie"):
            open_slide(tmp_path / "0.dcm", reader=reader)


@pytest.mark.parametrize("tag", [b"\x20\x00\x0e\x00UI", b"\x48\x00\x06\x00UL", b"\x20\x00\x11\x93CS"])
def test_dicom_attributes_of_no_known_kind_are_one_line(tmp_path, picture, tag):
    """pydicom raises on them only when they are asked for."""
    path = write_dicom(tmp_path / "a.dcm", picture)
    data = path.read_bytes()
    assert data.count(tag) == 1
    path.write_bytes(data.replace(tag, tag[:4] + b"U\x89"))
    with suppress(SlideError):
        open_slide(path).close()


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"NumberOfOpticalPaths": 3}, "holds 3 optical paths"),
        ({"TotalPixelMatrixFocalPlanes": 2}, "holds 2 focal planes"),
        ({"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}, "holds MONOCHROME2 pixels"),
        ({"PhotometricInterpretation": "RGB"}, "PhotometricInterpretation is RGB, but its JPEG frames are YCbCr"),
    ],
)
def test_dicom_that_would_be_shown_wrongly_is_refused_by_name(tmp_path, picture, attributes, words):
    """OpenSlide lays the frames of several paths over one another, and calls focal planes and grey "damaged"."""
    path = write_dicom(tmp_path / "a.dcm", picture, **attributes)
    with pytest.raises(SlideError, match=words) as caught:
        open_slide(path)
    assert "damaged" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dicom_of_two_files_a_level_or_of_two_patients_is_refused(tmp_path, picture):
    write_dicom(tmp_path / "a.dcm", picture, PatientID="one")
    shutil.copy(tmp_path / "a.dcm", tmp_path / "copy of a.dcm")
    with pytest.raises(SlideError, match=r"'a.dcm' and 'copy of a.dcm' are both its level of \d+ × \d+ px"):
        open_slide(tmp_path)
    (tmp_path / "copy of a.dcm").unlink()
    write_dicom(tmp_path / "b.dcm", halved(picture, 2), PatientID="two")
    with pytest.raises(SlideError, match=r"'a.dcm' and 'b.dcm' are of one series and of two patients"):
        open_slide(tmp_path)


def test_dicom_damaged_frames_fail_alone(tmp_path, picture):
    path = write_dicom(tmp_path / "a.dcm", picture)
    with open_slide(path) as slide:
        stored = slide._source._levels[0]
        start, end = int(stored.starts[1]) + 8, int(stored.ends[1])
    data = bytearray(path.read_bytes())
    data[(start + end) // 2 : end - 4] = bytes(end - 4 - (start + end) // 2)
    path.write_bytes(data)
    with open_slide(path) as slide:
        slide.read_region_px(0, 0, 0, 128, 128)
        with pytest.raises(SlideError, match="tile 1 of level 0"):
            slide.read_region_px(0, 130, 0, 100, 100)
        slide.read_region_px(0, 256, 0, 128, 128)


@pytest.mark.parametrize("make", ["ndpi", "dicom"])
def test_copies_and_threads_read_the_same(tmp_path, picture, make):
    path = tmp_path / f"a.{make}"
    (write_ndpi(path, [picture]) if make == "ndpi" else write_dicom(path, picture))
    corners = [(x, y) for y in range(0, 336, 48) for x in range(0, 600, 50)]
    before = threading.active_count()
    with open_slide(path) as slide, pickle.loads(pickle.dumps(slide)) as copy:
        one = [copy.read_region_px(0, x, y, 64, 64) for x, y in corners]
        many = list(slide.read_regions(0, corners, 64, 64, workers=4))
    assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True))
    assert threading.active_count() == before
