"""Tile grids, coordinate files and whole cohorts."""

import json
import shutil

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image
from shapely.geometry import shape

from pathflip.errors import FeatureError, ResolutionError
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.io.grid_attributes import magnification
from pathflip.slide import TissueMask, open_slide, read_coords, tile_cohort, tile_slide
from pathflip.slide.tiling import settings_hash, write_coords
from slide_files import write_pyramid

INFO = SlideInfo("case", (1000, 800), 0.5, (1.0, 4.0), "aperio", "test")


def mask_of(array, downsample=10.0, info=INFO):
    return TissueMask(info, np.asarray(array, bool), downsample)


def test_tiles_are_those_of_a_naive_loop(rng):
    smooth = cv2.GaussianBlur(rng.normal(size=(80, 100)), (0, 0), 6)
    tissue, spec = mask_of(smooth > 0), TileSpec(64, 0.7, stride_px=40, min_tissue=0.4)
    grid = tile_slide(INFO, tissue, spec)
    fine = np.pad(np.repeat(np.repeat(tissue.mask, 10, axis=0), 10, axis=1), ((0, 200), (0, 200)))
    side, step = round(64 * 1.4), round(40 * 1.4)
    want = [
        (x, y)
        for y in range(0, 800, step)
        for x in range(0, 1000, step)
        if fine[y : y + side, x : x + side].mean() >= 0.4
    ]
    assert grid.coords.tolist() == [list(c) for c in want]
    assert grid.coords.dtype == np.int64
    assert grid.tile_px0 == side


def test_the_lattice_does_not_move_with_the_tissue():
    spec = TileSpec(32, 0.5)
    some = np.zeros((80, 100), bool)
    some[13:40, 17:51] = True
    both = some.copy()
    both[2:5, 2:5] = True
    first, second = (tile_slide(INFO, mask_of(m), spec).coords for m in (some, both))
    assert {tuple(c) for c in first} <= {tuple(c) for c in second}
    assert (first % 32 == 0).all()


def test_no_tissue_gives_no_tiles_even_when_none_is_demanded():
    assert len(tile_slide(INFO, mask_of(np.zeros((80, 100))), TileSpec(64, 0.5, min_tissue=0.0))) == 0


def test_finer_than_the_slide_is_refused():
    with pytest.raises(ResolutionError):
        tile_slide(INFO, mask_of(np.ones((80, 100))), TileSpec(64, 0.25))


def test_coordinate_files(tmp_path):
    grid = tile_slide(INFO, mask_of(np.ones((80, 100))), TileSpec(128, 1.0, stride_px=96))
    path = tmp_path / "coords" / "case.h5"
    write_coords(path, grid)
    with h5py.File(path) as file:
        attributes = dict(file["coords"].attrs)
        assert file["coords"].dtype == np.int64
    trident = {
        "patch_size": 128,
        "patch_size_level0": 256,
        "level0_magnification": 20,
        "target_magnification": 10,
        "overlap": 32,
        "name": "case",
        "savetodir": str(path.parent),
        "level0_width": 1000,
        "level0_height": 800,
    }
    assert {key: attributes[key] for key in trident} == trident
    assert attributes["mpp0"] == 0.5
    assert attributes["format_version"] == 1
    again = read_coords(path)
    assert again.info == INFO
    assert again.spec == grid.spec
    assert np.array_equal(again.coords, grid.coords)


def test_unreadable_coordinate_files_say_what_is_missing(tmp_path):
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["coords"] = np.zeros((3, 2), np.int64)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "text.h5").write_text("no")
    for name, word in (
        ("foreign.h5", "slide_id"),
        ("other.h5", "coords"),
        ("text.h5", "HDF5"),
        ("gone.h5", "no such file"),
    ):
        with pytest.raises(FeatureError, match=word):
            read_coords(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("size0", "large"), ("size0", [1000]), ("mpp0", float("nan")), ("mpp0", -1), ("tile_px", 0), ("slide_id", "../x")],
)
def test_attributes_that_cannot_be_true_are_one_line(tmp_path, name, value):
    path = tmp_path / "case.h5"
    write_coords(path, tile_slide(INFO, mask_of(np.ones((80, 100))), TileSpec(128, 1.0)))
    with h5py.File(path, "r+") as file:
        file["coords"].attrs[name] = value
    with pytest.raises(FeatureError, match=r"case\.h5") as error:
        read_coords(path)
    assert "\n" not in str(error.value)


def test_settings_hash_changes_with_any_setting():
    hashes = {settings_hash(TileSpec(*a)) for a in ((256, 0.5), (512, 0.5), (256, 0.6), (256, 0.5, 128))}
    assert len(hashes) == 4
    assert settings_hash(TileSpec(256, 0.5)) == settings_hash(TileSpec(256, 0.5, 256))


def test_magnification_buckets():
    assert [magnification(m) for m in (0.1, 0.25, 0.5, 0.9, 2.0, 4.0, 30.0)] == [80, 40, 20, 10, 5, 2, 1]


@pytest.fixture
def cohort(tmp_path):
    picture = np.full((1024, 1024, 3), 243, np.uint8)
    cv2.circle(picture, (400, 500), 250, (200, 120, 170), -1)
    folder = tmp_path / "in put é"
    folder.mkdir()
    good = write_pyramid(folder / "góod 1.tif", [picture], mpp=1.0)
    coarse = write_pyramid(folder / "coarse.tif", [picture], mpp=4.0)
    unknown = write_pyramid(folder / "unknown.tif", [picture], mpp=None)
    (folder / "broken.svs").write_bytes(good.read_bytes()[:1000])
    return folder, [folder / "broken.svs", good, coarse, unknown, folder / "gone.svs"]


def test_one_bad_slide_never_stops_the_batch(tmp_path, cohort):
    _, paths = cohort
    seen, out = [], tmp_path / "out"
    outcomes = tile_cohort(paths, TileSpec(64, 2.0), out, progress=lambda *a: seen.append(a))
    assert [o.ok for o in outcomes] == [False, True, False, False, False]
    assert [(done, total) for done, total, _ in seen] == [(n, 5) for n in range(1, 6)]
    good = outcomes[1]
    assert good.num_tiles == len(read_coords(out / "coords" / "góod 1.h5")) > 10
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text("utf-8").splitlines()]
    assert [f["slide_id"] for f in failures] == ["broken", "coarse", "unknown", "gone"]
    assert "finest level" in failures[1]["error"]
    assert "--slide-mpp" in failures[2]["error"]
    assert all("\n" not in f["error"] for f in failures)
    assert sorted(p.name for p in (out / "coords").iterdir()) == ["góod 1.h5"]
    again = tile_cohort(paths[1:2], TileSpec(64, 2.0), out)
    assert again[0].ok
    assert not (out / "failures.jsonl").exists()


def test_outputs_agree_with_each_other(tmp_path, cohort):
    _, paths = cohort
    outcome = tile_cohort(paths[1:2], TileSpec(64, 2.0), tmp_path)[0]
    features = json.loads((tmp_path / "tissue" / "góod 1.geojson").read_text("utf-8"))["features"]
    area = sum(shape(f["geometry"]).area for f in features)
    assert area == pytest.approx(outcome.tissue_fraction * 1024**2, rel=0.01)
    assert area == pytest.approx(np.pi * 250**2, rel=0.1)
    with Image.open(tmp_path / "qc" / "góod 1.png") as picture:
        assert picture.size == (1024, 1024 + 30)
    with open_slide(paths[1]) as slide:
        grid = read_coords(tmp_path / "coords" / "góod 1.h5")
        assert all((slide.read_tile(*c, grid.spec) != 243).any() for c in grid.coords[:5].tolist())


def test_equal_names_in_two_folders_are_told_apart(tmp_path, cohort):
    _, paths = cohort
    other = tmp_path / "b"
    other.mkdir()
    shutil.copy(paths[1], other / "góod 1.tif")
    outcomes = tile_cohort([paths[1], other / "góod 1.tif", paths[1]], TileSpec(64, 2.0), tmp_path / "out")
    assert len(outcomes) == 2  # the same file named twice is done once
    assert [outcome.slide_id for outcome in outcomes] == [f"{paths[1].parent.name}__góod 1", "b__góod 1"]
    assert all(outcome.ok for outcome in outcomes)
    (tmp_path / "c" / "b").mkdir(parents=True)
    deeper = tmp_path / "c" / "b" / "góod 1.tif"
    shutil.copy(paths[1], deeper)
    outcomes = tile_cohort([other / "góod 1.tif", deeper], TileSpec(64, 2.0), tmp_path / "out")
    for outcome in outcomes:  # nothing is left to tell them apart
        assert not outcome.ok
        assert str(other) in outcome.error
        assert str(deeper) in outcome.error


@pytest.mark.real
def test_real_slides_are_tiled_or_refused(real_data, tmp_path):
    folder = real_data / "slides"
    names = [
        "broken.svs",
        "cmu-1-small-region.svs",
        "colon-crohn-disease.tif",
        "fluorescence.ndpi",
        "head-neck-frozen-section-no-mpp.svs",
        "lymph-node-overview.dcm",
    ]
    outcomes = {o.slide_id: o for o in tile_cohort([folder / n for n in names], TileSpec(256, 0.5), tmp_path)}
    assert 40 < outcomes["cmu-1-small-region"].num_tiles < 70
    assert outcomes["fluorescence"].ok
    assert outcomes["fluorescence"].num_tiles == 0
    assert "fluorescence" in outcomes["fluorescence"].warnings[0]
    refused = {name: o.error for name, o in outcomes.items() if not o.ok}
    assert "truncated" in refused["broken"]
    assert "28.97 mpp" in refused["lymph-node-overview"]
    assert "1.052 mpp" in refused["colon-crohn-disease"]
    assert "--slide-mpp" in refused["head-neck-frozen-section-no-mpp"]
    assert len(refused) == 4
    frozen = tile_cohort([folder / names[4]], TileSpec(256, 0.5), tmp_path, slide_mpp=0.5)[0]
    assert 140 < frozen.num_tiles < 190
