"""Extraction: rows equal what the encoder says of each tile; cohorts survive kills, damage and changed minds."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from pathflip.errors import ConfigError, SlideError
from pathflip.features import extract, extract_cohort, load_encoder, read_features
from pathflip.features.extraction import read_tiles
from pathflip.geometry import TileSpec
from pathflip.slide import find_tissue, open_slide, tile_slide
from slide_files import write_pyramid

SPEC = TileSpec(64, 2.0)


def write_tissue_slide(path, seed=0, px=640, tissue=True):
    """Pink tissue with purple nuclei on glass, 2 mpp."""
    rng = np.random.default_rng(seed)
    picture = np.full((px, px, 3), 244, np.uint8)
    if tissue:
        cv2.ellipse(picture, (px // 2, px // 2), (px // 3, px // 4), 20, 0, 360, (225, 150, 190), -1)
        for x, y in rng.integers(px // 3, 2 * px // 3, (200, 2)):
            cv2.circle(picture, (int(x), int(y)), 3, (90, 60, 140), -1)
    return write_pyramid(path, [picture], mpp=2.0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "slides").mkdir()
    for i in range(3):
        write_tissue_slide(tmp_path / "slides" / f"s{i}.tif", seed=i)
    return tmp_path / "slides"


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(("readers", "batch"), [(0, 256), (0, 7), (2, 5), (2, 40), (3, 256)])
def test_rows_equal_encoding_each_tile(folder, monkeypatch, reentrant, readers, batch):
    encoder = load_encoder("stain_texture", "cpu")
    monkeypatch.setattr(encoder, "reentrant", reentrant)
    threads = torch.get_num_threads()
    calls = []
    with open_slide(folder / "s0.tif") as slide:
        grid = tile_slide(slide, find_tissue(slide), SPEC)
        got = extract(slide, grid, encoder, batch_size=batch, readers=readers, progress=lambda *a: calls.append(a))
        tiles = [slide.read_tile(int(x), int(y), SPEC) for x, y in grid.coords]
        rows = np.sort(np.random.default_rng(0).permutation(len(grid))[:64])
        state = encoder.prepare(np.stack([tiles[row] for row in rows]))
        want = np.concatenate([encoder.encode(tile[None], state) for tile in tiles])
    np.testing.assert_allclose(got.features, want, atol=2e-3)
    assert got.valid.all()
    assert calls[-1] == (len(grid), len(grid))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert torch.get_num_threads() == threads


class Damaged:
    """A slide whose tiles at some corners cannot be decoded."""

    def __init__(self, slide, corners):
        self.info, self._slide, self._corners = slide.info, slide, corners

    def read_tile(self, x0, y0, spec):
        if (x0, y0) in self._corners:
            raise SlideError("damaged")
        return self._slide.read_tile(x0, y0, spec)


@pytest.mark.usefixtures("annotations_off")
def test_unreadable_tiles_are_invalid_rows(folder):
    encoder = load_encoder("stain_texture", "cpu")
    with open_slide(folder / "s0.tif") as slide:
        grid = tile_slide(slide, find_tissue(slide), SPEC)
        lost = {tuple(grid.coords[2].tolist()), tuple(grid.coords[5].tolist())}
        got = extract(Damaged(slide, lost), grid, encoder)
        assert np.flatnonzero(~got.valid).tolist() == [2, 5]
        assert (got.features[[2, 5]] == 0).all()
        assert np.abs(got.features[got.valid]).sum(axis=1).min() > 0
        tiles, readable = read_tiles(Damaged(slide, lost), grid, np.array([1, 2]))
        assert readable.tolist() == [True, False]
        assert tiles[1].max() == 0
        with pytest.raises(SlideError, match="none of its"):
            extract(Damaged(slide, set(map(tuple, grid.coords.tolist()))), grid, encoder)


def test_cohort_outcomes_failures_and_resume(folder, tmp_path):
    write_tissue_slide(folder / "glass.tif", tissue=False)
    (folder / "broken.svs").write_bytes(b"not a slide" * 50)
    paths = sorted(folder.iterdir())
    steps = []
    outcomes = extract_cohort(paths, SPEC, "stain_texture", tmp_path / "o", num_workers=1, progress=steps.append)
    assert [o.slide_id for o in outcomes] == [p.stem for p in paths]
    assert {o.slide_id: o.status for o in outcomes} == {
        "broken": "failed", "glass": "empty", "s0": "done", "s1": "done", "s2": "done",
    }  # fmt: skip
    assert "no tile holds 25% tissue" in next(o.message for o in outcomes if o.status == "empty")
    (row,) = map(json.loads, (tmp_path / "o" / "failures.jsonl").read_text().splitlines())
    assert (row["slide_id"], row["error"], row["encoder"]) == ("broken", "SlideError", "stain_texture")
    assert steps[-1].slides_done == steps[-1].slides == 5
    assert steps[-1].seconds_left == pytest.approx(0, abs=1e-6)
    assert sum(step.outcome is not None for step in steps) == 5
    features = tmp_path / "o" / "features_stain_texture"
    before = {path: path.stat().st_mtime_ns for path in features.glob("*.h5")}
    assert len(before) == 3
    write_tissue_slide(folder / "broken.svs", seed=9)  # copied again
    again = extract_cohort(paths, SPEC, "stain_texture", tmp_path / "o", num_workers=1)
    assert [o.status for o in again] == ["done", "empty", "skipped", "skipped", "skipped"]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert not (tmp_path / "o" / "failures.jsonl").exists()


def test_changed_settings_are_said(folder, tmp_path):
    paths, out = sorted(folder.iterdir()), tmp_path / "o"
    extract_cohort(paths, SPEC, "colour_histogram", out, num_workers=1)
    before = bytes_of(out / "features_colour_histogram")
    with pytest.raises(ConfigError, match=r"3 feature files .* min_tissue was 0.25, now 0.5\); pass --overwrite"):
        extract_cohort(paths, replace(SPEC, min_tissue=0.5), "colour_histogram", out, num_workers=1)
    write_tissue_slide(folder / "s1.tif", seed=5, px=704)  # another slide under the same name
    with pytest.raises(ConfigError, match=r"1 feature files .*'s1.h5': slide_bytes was"):
        extract_cohort(paths, SPEC, "colour_histogram", out, num_workers=1)
    assert bytes_of(out / "features_colour_histogram") == before
    done = extract_cohort(paths, SPEC, "colour_histogram", out, num_workers=1, overwrite=True)
    assert [o.status for o in done] == ["done"] * 3
    extract_cohort(paths, SPEC, "stain_texture", out, num_workers=1)  # another encoder has a folder of its own


def test_damaged_file_is_extracted_again(folder, tmp_path):
    paths, out = sorted(folder.iterdir()), tmp_path / "o"
    (first, *_) = extract_cohort(paths, SPEC, "colour_histogram", out, num_workers=1)
    good = read_features(first.path)
    first.path.write_bytes(first.path.read_bytes()[:-300])
    (outcome, *rest) = extract_cohort(paths, SPEC, "colour_histogram", out, num_workers=1)
    assert outcome.status == "done"
    assert {o.status for o in rest} == {"skipped"}
    np.testing.assert_array_equal(read_features(first.path).features, good.features)


SCRIPT = """
import sys
import time
from pathlib import Path
from pathflip.features import extract_cohort, extraction
from pathflip.geometry import TileSpec
extract = extraction.extract
def slowly(*slide, **settings):  # its workers read this too; so a kill that comes late still finds slides undone
    time.sleep(0.7)
    return extract(*slide, **settings)
extraction.extract = slowly
if __name__ == "__main__":
    def show(step):
        if step.outcome:
            print(step.outcome.slide_id, step.outcome.status, flush=True)
    extract_cohort(sorted(Path(sys.argv[1]).iterdir()), TileSpec(64, 2.0), "stain_texture", sys.argv[2],
                   num_workers=int(sys.argv[3]), progress=show)
"""


@pytest.mark.slow
def test_killing_a_run_ends_its_workers_and_the_next_run_goes_on(folder, tmp_path):
    """``test_robustness.py`` kills at random moments; here it is a run with worker processes."""
    (tmp_path / "run.py").write_text(SCRIPT)
    for i in range(3, 10):
        write_tissue_slide(folder / f"s{i}.tif", seed=i)
    command = [sys.executable, str(tmp_path / "run.py"), str(folder), str(tmp_path / "a"), "2"]
    victim = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert victim.stdout.readline().strip().endswith("done")
    children = subprocess.run(["pgrep", "-P", str(victim.pid)], capture_output=True, text=True, check=False).stdout
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    for child in map(int, children.split()):  # no worker outlives its parent
        deadline = time.monotonic() + 20
        while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not os.path.exists(f"/proc/{child}")
    features = tmp_path / "a" / "features_stain_texture"
    done = len(list(features.glob("[!.]*.h5")))
    assert 1 <= done < 10
    (features / ".s9.0123abcd.tmp.h5").write_bytes(b"half a file")
    paths = sorted(folder.iterdir())
    again = extract_cohort(paths, SPEC, "stain_texture", tmp_path / "a", num_workers=1)
    assert [o.status for o in again].count("skipped") == done
    for outcome in extract_cohort([*paths[:2], paths[-1]], SPEC, "stain_texture", tmp_path / "b", num_workers=1):
        same = read_features(features / outcome.path.name)
        np.testing.assert_array_equal(same.features, read_features(outcome.path).features)
    assert sorted(p.name for p in features.iterdir()) == sorted(
        [".lock", ".settings.json", *[f"s{i}.h5" for i in range(10)]]
    )


@pytest.mark.slow
def test_a_slide_that_kills_its_worker_is_a_failure_not_the_end(folder, tmp_path, monkeypatch):
    """A crash in a decoder takes the process with it. sitecustomize plants one for slide s1."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathflip.slide.reader as r\n"
        "opened = r.open_slide\n"
        "def open_slide(path, **kw):\n"
        "    if str(path).endswith('s1.tif'): os._exit(139)\n"
        "    return opened(path, **kw)\n"
        "r.open_slide = open_slide\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcomes = extract_cohort(sorted(folder.iterdir()), SPEC, "colour_histogram", tmp_path / "o", num_workers=2)
    assert [o.status for o in outcomes] == ["done", "failed", "done"]
    assert "the process reading it died" in outcomes[1].message
    (row,) = map(json.loads, (tmp_path / "o" / "failures.jsonl").read_text().splitlines())
    assert row["error"] == "WorkerDied"


@pytest.mark.real
@pytest.mark.slow
def test_real_slides_pass_or_are_refused_as_they_should(real_data, tmp_path):
    paths = sorted((real_data / "slides").iterdir())
    outcomes = extract_cohort(paths, TileSpec(64, 8.0), "colour_histogram", tmp_path, num_workers=2)
    failed = {o.slide_id: o.error for o in outcomes if o.status == "failed"}
    assert failed == {
        "broken": "SlideError",
        "colon-submucosal-lipoma": "MissingMPPError",
        "head-neck-frozen-section-no-mpp": "MissingMPPError",
        "lymph-node-overview": "ResolutionError",
    }
    assert {o.slide_id for o in outcomes if o.status == "empty"} == {"fluorescence"}
    assert sum(o.status == "done" for o in outcomes) == 6
