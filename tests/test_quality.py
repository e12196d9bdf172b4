"""Quality of slides: numbers in physical units, flags in words, and a cohort that survives its bad slides."""

import csv
import json
import re

import cv2
import h5py
import numpy as np
import pytest

from pathflip.cli import app
from pathflip.features import extract_cohort
from pathflip.features.store import read_settings
from pathflip.geometry import TileSpec
from pathflip.slide import ArtefactSpec, QualitySpec, check_cohort, check_slide, tile_cohort
from pathflip.slide.quality import COLUMNS
from pathflip.slide.stain import REFERENCE_VECTORS, measure_stains
from slide_files import write_pyramid

SPEC = TileSpec(64, 2.0)
HAEMATOXYLIN, EOSIN = REFERENCE_VECTORS
PINK, BLUE = 0.75 * EOSIN, 0.3 * EOSIN + 1.2 * HAEMATOXYLIN


def textured(height=1000, width=1200, seed=0):
    """Glass with one disk of 400 px radius, of sharp two-stain texture. Its strength varies from place to place: of two
    colours alone nobody could tell the stains.
    """
    rng = np.random.default_rng(seed)
    picture = np.clip(np.array((243, 241, 243)) + rng.normal(0, 1.2, (height, width, 3)), 0, 255).astype(np.uint8)
    disk = cv2.circle(np.zeros((height, width), np.uint8), (500, 500), 400, 1, -1) > 0
    nuclei = np.zeros((height, width), np.uint8)
    for x, y in rng.integers(100, 900, (6000, 2)):
        cv2.circle(nuclei, (int(x), int(y)), 3, 1, -1)
    pink, blue = (1 + 60 * cv2.GaussianBlur(rng.normal(0, 0.2, (height, width)), (0, 0), 20) for _ in range(2))
    density = np.where(nuclei[..., None] > 0, blue[..., None] * BLUE, pink[..., None] * PINK)
    picture[disk] = np.clip(245 * np.exp(-density[disk]), 0, 255)
    return picture


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """good, pen, soft (half of it blurred), empty, broken."""
    folder = tmp_path_factory.mktemp("slides")
    write_pyramid(folder / "good.tif", [textured()], mpp=2.0)
    pen = textured()
    cv2.line(pen, (1050, 100), (1050, 900), (30, 60, 165), 60)
    write_pyramid(folder / "pen.tif", [pen], mpp=2.0)
    soft = textured()
    soft[500:] = cv2.GaussianBlur(soft, (0, 0), 4)[500:]
    write_pyramid(folder / "soft.tif", [soft], mpp=2.0)
    write_pyramid(folder / "empty.tif", [np.full((400, 400, 3), 243, np.uint8)], mpp=2.0)
    (folder / "broken.tif").write_bytes((folder / "good.tif").read_bytes()[:700])
    write_pyramid(folder / "no-mpp.tif", [textured()], mpp=None)
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


def test_area_is_physical(cohort):
    row, picture = check_slide(cohort / "good.tif", SPEC)
    assert row.tissue_mm2 == pytest.approx(np.pi * 0.8**2, rel=0.05)  # a disk of 400 px at 2 µm
    assert row.tissue_share == pytest.approx(np.pi * 400**2 / (1000 * 1200), rel=0.05)
    assert row.tiles == pytest.approx(np.pi * 400**2 / 64**2, rel=0.25)
    assert (row.width0, row.height0, row.mpp0) == (1200, 1000, 2.0)
    assert row.flags == ()
    assert row.error == ""
    assert picture.shape == (400, 480, 3)
    doubled, _ = check_slide(cohort / "good.tif", TileSpec(64, 4.0), slide_mpp=4.0)
    assert doubled.tissue_mm2 == pytest.approx(4 * row.tissue_mm2, rel=0.05)


def test_a_slide_too_coarse_is_refused_before_it_is_measured(cohort, monkeypatch):
    def search(*_):
        raise AssertionError("tissue was searched for")

    monkeypatch.setattr("pathflip.slide.quality.find_tissue", search)
    row, picture = check_slide(cohort / "good.tif", TileSpec(64, 0.5))
    assert "2" in row.error
    assert "0.5" in row.error
    assert row.tissue_mm2 is None
    assert picture is not None


def test_very_pale_slides_are_flagged(tmp_path):
    picture = textured()
    faint = np.clip(245 * (picture / 245.0) ** 0.12, 0, 255).round().astype(np.uint8)
    write_pyramid(tmp_path / "faint.tif", [faint], mpp=2.0)
    row, _ = check_slide(tmp_path / "faint.tif", SPEC)
    assert any(flag.startswith("very pale: tissue may be missed") for flag in row.flags)


def test_a_cohort_with_bad_slides(cohort, tmp_path):
    seen = []
    rows = check_cohort(
        sorted(cohort.iterdir()), tmp_path, SPEC, num_workers=2, progress=lambda *step: seen.append(step[:2])
    )
    table = rows_of(tmp_path / "qc.csv")
    assert list(table) == ["broken", "empty", "good", "no-mpp", "pen", "soft"] == [row.slide_id for row in rows]
    assert tuple(table["good"]) == COLUMNS
    assert seen[-1] == (6, 6)
    assert table["good"]["flags"] == ""
    assert table["broken"]["error"]
    assert table["broken"]["tissue_mm2"] == ""
    assert "no tissue" in table["empty"]["flags"]
    assert "pen on" in table["pen"]["flags"]
    assert 1 <= float(table["pen"]["pen"]) / (60 * 860 / (1000 * 1200)) < 1.6  # with its margin
    assert "out of focus" in table["soft"]["flags"]
    assert float(table["soft"]["blurred"]) == pytest.approx(0.5, abs=0.1)
    assert float(table["good"]["blurred"]) < 0.01
    assert "--slide-mpp" in table["no-mpp"]["error"]
    assert table["no-mpp"]["sharpness"]
    assert float(table["good"]["seconds"]) > 0
    assert table["good"]["reader"].startswith("tiled-tiff")


def test_the_contact_sheet(cohort, tmp_path):
    files = [cohort / f"{name}.tif" for name in ("good", "pen", "broken")]
    odd = tmp_path / "a <b>&'\"é.tif"
    odd.write_bytes((cohort / "good.tif").read_bytes())
    check_cohort([*files, odd], tmp_path / "out", SPEC)
    page = (tmp_path / "out" / "qc.html").read_text(encoding="utf-8")
    assert "not a medical device" in page
    names = re.findall(r"<h2>(.*?)</h2>", page)
    assert names[:2] == ["broken", "pen"]  # flagged first
    assert page.count("data:image/jpeg;base64,") == 3
    assert "<b>&'" not in page  # escaped
    assert not re.search(r"""(src|href)=["'](?!data:|qc)""", page)  # nothing fetched
    assert "pen on" in page


def test_unreadable_tiles_are_counted(cohort, monkeypatch):
    from pathflip.errors import SlideError
    from pathflip.slide.reader import Slide

    real = Slide.read_tile

    def read(self, x0, y0, spec):
        if y0 >= 500:
            raise SlideError("damaged")
        return real(self, x0, y0, spec)

    monkeypatch.setattr(Slide, "read_tile", read)
    row, _ = check_slide(cohort / "good.tif", SPEC, quality=QualitySpec(read_tiles=0))
    assert row.tiles_read == row.tiles
    assert 0.3 < row.tiles_invalid / row.tiles < 0.7
    assert any("cannot be read" in flag for flag in row.flags)


def test_stains_are_recovered():
    rng = np.random.default_rng(0)
    vectors = np.array([[0.65, 0.70, 0.29], [0.20, 0.90, 0.38]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    amounts = rng.gamma(1.2, 0.4, (40_000, 2)) + 0.02
    amounts[:400] = 0
    pixels = np.clip(245 * np.exp(-amounts @ vectors), 0, 255).round().astype(np.uint8)
    stains = measure_stains(pixels)
    angles = np.degrees(np.arccos(np.clip((stains.vectors * vectors).sum(axis=1), -1, 1)))
    assert angles.max() < 6
    assert stains.amounts == pytest.approx(tuple(amounts.mean(axis=0)), rel=0.25)
    assert measure_stains(np.full((1000, 3), 244, np.uint8)) is None
    assert measure_stains(np.zeros((0, 3), np.uint8)) is None


def test_tiling_without_artefacts(cohort, tmp_path):
    everything = tile_cohort([cohort / "soft.tif"], SPEC, tmp_path / "all")[0]
    sound = tile_cohort([cohort / "soft.tif"], SPEC, tmp_path / "sound", exclude=ArtefactSpec())[0]
    assert everything.excluded == {}
    assert sound.excluded["blur"] > 20
    assert sound.num_tiles + sum(sound.excluded.values()) == everything.num_tiles
    with (tmp_path / "sound" / "excluded" / "soft.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == sum(sound.excluded.values())
    assert all(int(row["y0"]) > 350 for row in listed)
    hashes = []
    for folder in ("all", "sound"):
        with h5py.File(tmp_path / folder / "coords" / "soft.h5") as file:
            hashes.append(file["coords"].attrs["settings_hash"])
    assert hashes[0] != hashes[1]


def test_extraction_without_artefacts(cohort, tmp_path):
    spec, path = ArtefactSpec(), cohort / "soft.tif"
    everything = extract_cohort([path], SPEC, "colour_histogram", tmp_path / "all", num_workers=1)[0]
    sound = extract_cohort([path], SPEC, "colour_histogram", tmp_path / "sound", exclude=spec, num_workers=1)[0]
    with sound.path.with_name("soft.excluded.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert everything.tiles == sound.tiles + len(listed)
    assert f"{len(listed)} tiles excluded (blur" in sound.message
    assert read_settings(sound.path)["exclude"]["max_share"] == 0.5
    assert read_settings(everything.path)["exclude"] is None
    assert not everything.path.with_name("soft.excluded.csv").exists()
    again = extract_cohort([path], SPEC, "colour_histogram", tmp_path / "sound", exclude=spec, num_workers=1)[0]
    assert again.status == "skipped"
    with pytest.raises(Exception, match="other settings"):
        extract_cohort([path], SPEC, "colour_histogram", tmp_path / "sound", num_workers=1)


def test_the_verb(cohort, tmp_path):
    from typer.testing import CliRunner

    options = ["--mpp", "2", "--tile-px", "64", "--workers", "1", "--json"]
    done = CliRunner().invoke(app, ["qc", str(cohort), "--out", str(tmp_path), *options])
    rows = {row["slide_id"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert done.exit_code == 1  # one could not be measured; the rest was
    assert rows["good"]["flags"] == []
    assert rows["broken"]["error"]
    assert (tmp_path / "qc.csv").is_file()
    assert (tmp_path / "qc.html").is_file()
