"""Which slides are meant by files, folders and trees of folders; a DICOM series is one slide."""

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from odd_slides import FOLDER, SPEC, THE_TILE, TRUTH, difference, whole
from pathflip.errors import ConfigError, SlideError
from pathflip.geometry import TileSpec
from pathflip.slide import check_cohort, find_slides, open_slide, tile_cohort
from pathflip.slide.paths import slide_names
from slide_files import smooth_picture, write_pyramid

SERIES, PARTS = FOLDER / "dicom_one_series", FOLDER / "dicom_level_in_two_parts"


def copy_series(source: Path, target: Path, names=None):
    """The instances of a series under other names."""
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(source.iterdir())
    return [shutil.copy(f, target / name) for f, name in zip(files, names or [f.name for f in files], strict=True)]


def write_other(source: Path, target: Path, **changes):
    """An instance with other header values."""
    data = pydicom.dcmread(source)
    for name, value in changes.items():
        setattr(data, name, value)
    if "SOPInstanceUID" in changes:
        data.file_meta.MediaStorageSOPInstanceUID = changes["SOPInstanceUID"]
    data.save_as(target)
    return target


@pytest.mark.parametrize(("folder", "downsamples"), [(SERIES, (1.0, 2.0, 4.0)), (PARTS, (1.0, 2.0))])
def test_a_dicom_folder_a_list_of_its_files_and_each_file_are_the_same_slide(folder, downsamples):
    files = sorted(folder.iterdir())
    orders = list(itertools.permutations(files))[:4]
    for slide in (folder, str(folder), *orders, *files):
        with open_slide(slide) as opened:
            assert (opened.info.size0, opened.info.downsamples) == ((700, 500), downsamples)
            assert opened.info.mpp0 == pytest.approx(0.5)
            assert difference(whole(opened), TRUTH) < 3
            assert difference(opened.read_tile(256, 128, SPEC), THE_TILE) < 4
            coarse = cv2.resize(TRUTH, opened.level_sizes[-1], interpolation=cv2.INTER_AREA)
            last = len(downsamples) - 1
            assert difference(opened.read_region_px(last, 0, 0, *opened.level_sizes[-1]), coarse) < 4
            assert opened.info.slide_id == (Path(slide).stem if slide in files else folder.name)
            with pickle.loads(pickle.dumps(opened)) as again:
                assert again.info == opened.info


def test_a_dicom_folder_with_a_label_an_overview_and_other_files(tmp_path):
    folder = tmp_path / "1.2.840.99"
    first, *_ = copy_series(SERIES, folder, ["IM1", "IM0", "a.dcm"])
    for kind, number in (("LABEL", 7), ("OVERVIEW", 8)):
        uid = f"1.2.826.0.1.3680043.10.9999.7.2.{number}"
        changes = {"ImageType": ["ORIGINAL", "PRIMARY", kind, "NONE"], "SOPInstanceUID": uid}
        write_other(Path(first), folder / f"{kind}.dcm", TotalPixelMatrixColumns=9000, **changes)
    (folder / "DICOMDIR").write_bytes(bytes(200))
    (folder / "notes.txt").write_text("nothing")
    with open_slide(folder) as slide:
        assert slide.info.slide_id == "1.2.840.99"
        assert slide.info.size0 == (700, 500)
        assert difference(whole(slide), TRUTH) < 3
    assert find_slides([folder]) == [folder]


def test_two_series_in_one_folder_are_two_slides(tmp_path):
    copy_series(SERIES, tmp_path, ["a1.dcm", "a2.dcm", "a3.dcm"])
    for number, file in enumerate(sorted(SERIES.iterdir())):
        uid = f"1.2.826.0.1.3680043.10.9999.8.{number}"
        write_other(file, tmp_path / f"b{number}.dcm", SeriesInstanceUID="1.2.826.0.1.9", SOPInstanceUID=uid)
    assert find_slides([tmp_path]) == [tmp_path / "a1.dcm", tmp_path / "b0.dcm"]
    with pytest.raises(SlideError, match="2 DICOM slides"):
        open_slide(tmp_path)
    with pytest.raises(SlideError, match="2 DICOM slides"):
        open_slide(sorted(tmp_path.iterdir()))


def test_lists_and_folders_that_are_no_slide(tmp_path):
    picture = write_pyramid(tmp_path / "a.tif", [smooth_picture(256, 256)])
    for slide, word in (
        ([], "empty list"),
        ([picture, sorted(SERIES.iterdir())[0]], "no part"),
        ([sorted(SERIES.iterdir())[0], sorted(PARTS.iterdir())[0]], "several folders"),
        (tmp_path, "no DICOM slide"),
    ):
        with pytest.raises(SlideError, match=word) as caught:
            open_slide(slide)
        assert "\n" not in str(caught.value)
    with open_slide([picture]) as slide:
        assert slide.info.slide_id == "a"


def tree(root: Path):
    """Slides in three folders, one hidden, a link back to the top, and a DICOM folder."""
    picture = smooth_picture(256, 256)
    for place in ("a.tif", "x/b.tif", "x/y/c.tif", ".hidden/d.tif"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        write_pyramid(root / place, [picture])
    (root / "x" / "back").symlink_to(root)
    copy_series(SERIES, root / "x" / "series")
    return root


def test_folders_are_read_recursively_where_asked(tmp_path):
    tree(tmp_path)
    assert find_slides([tmp_path]) == [tmp_path / "a.tif"]
    places = ["a.tif", "x/b.tif", "x/series", "x/y/c.tif"]
    assert find_slides([tmp_path], recursive=True) == [tmp_path / place for place in places]
    (tmp_path / "e").mkdir()
    with pytest.raises(ConfigError, match="--recursive"):
        find_slides([tmp_path / "e"])
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_slides([tmp_path / "nowhere"])
    assert find_slides(sorted(SERIES.iterdir())) == [SERIES]  # as a shell expands *.dcm


@pytest.mark.parametrize("verb", ["info", "tile"])
def test_the_verbs_take_trees(tmp_path, verb):
    tree(tmp_path / "in")
    out = ["--out", str(tmp_path / "out"), "--tile-px", "32"] if verb == "tile" else []
    command = [
        sys.executable,
        "-c",
        "from pathflip.cli import main; main()",
        verb,
        str(tmp_path / "in"),
        "--recursive",
        "--json",
        *out,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["slide_id"] for row in rows] == ["a", "b", "series", "c"], done.stderr
    if verb == "info":
        assert all(row["reader"] for row in rows)


def test_equal_file_names_in_two_case_folders_are_told_apart(tmp_path):
    files = find_slides([FOLDER / "two_cases_same_file_name"], recursive=True)
    assert list(slide_names(files).values()) == ["case_0001__slide_H&E_0", "case_0002__slide_H&E_0"]
    outcomes = tile_cohort(files, TileSpec(32, 0.5, min_tissue=0.0), tmp_path)
    assert [(o.slide_id, o.error) for o in outcomes] == [(name, None) for name in slide_names(files).values()]
    written = sorted(path.name for path in (tmp_path / "coords").iterdir())
    assert written == ["case_0001__slide_H&E_0.h5", "case_0002__slide_H&E_0.h5"]


def test_a_slide_too_coarse_is_refused_before_it_is_measured(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "a.tif", [smooth_picture(256, 256)], mpp=1.5)
    monkeypatch.setattr("pathflip.slide.quality.find_tissue", lambda *_: pytest.fail("measured"))
    (row,) = check_cohort([path], tmp_path / "out", TileSpec(256, 0.5))
    assert "has 1.5 mpp" in row.error


def test_a_single_colour_of_a_case_is_not_lost():
    """The two cases differ in colour: neither is read twice."""
    means = []
    for path in find_slides([FOLDER / "two_cases_same_file_name"], recursive=True):
        with open_slide(path) as slide:
            means.append(whole(slide).mean(axis=(0, 1)))
    assert np.abs(means[0] - means[1]).max() > 10


@pytest.mark.parametrize("missing", [0, 1])
def test_a_concatenation_without_one_of_its_parts_is_refused(tmp_path, missing):
    files = copy_series(PARTS, tmp_path / "case")
    Path(files[missing]).unlink()
    with pytest.raises(SlideError, match="concatenation"):
        open_slide(tmp_path / "case")


def test_a_damaged_dicom_level_is_made_from_the_finer_one_and_said_once(tmp_path):
    files = copy_series(SERIES, tmp_path / "case")
    data = bytearray(Path(files[2]).read_bytes())
    half = len(data) // 2
    data[half:-200] = bytes(len(data) - 200 - half)
    Path(files[2]).write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_slide(tmp_path / "case") as slide:
            thumbnail = slide.thumbnail(140)
    assert difference(thumbnail, cv2.resize(TRUTH, (140, 100), interpolation=cv2.INTER_AREA)) < 5
    assert ["level 2 is damaged" in str(w.message) for w in caught] == [True]


def test_info_tells_equal_names_apart_and_names_what_it_does_not_believe():
    run = "from pathflip.cli import main; main()"
    places = [str(FOLDER / "two_cases_same_file_name"), str(FOLDER / "mpp_in_nanometres.svs")]
    command = [sys.executable, "-c", run, "info", *places, "--recursive", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["slide_id"] for row in rows[:2]] == ["case_0001__slide_H&E_0", "case_0002__slide_H&E_0"]
    assert rows[2]["mpp0"] is None
    assert "MPP = 252" in rows[2]["notes"][0]
