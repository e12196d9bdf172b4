"""The command line: quick to start, one clear line on bad input, machine-readable where asked."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathflip.features import write_features
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.types import SlideFeatures

COMMAND = [sys.executable, "-c", "from pathflip.cli import main; main()"]
VERBS = [
    "simulate",
    "info",
    "tile",
    "extract",
    "convert",
    "pack",
    "train",
    "eval",
    "decompose",
    "zero-shot",
    "retrieve",
    "index",
    "search",
    "ground",
    "calibrate",
    "verify",
    "demo",
    "import",
    "export",
]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True)


def test_help_lists_every_verb():
    done = run("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert verb in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_speaks_json(verb):
    done = run(verb, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_importing_costs_less_than_a_fifth_of_a_second():
    probe = "import time; t = time.perf_counter(); import pathflip; print(time.perf_counter() - t)"
    best = min(
        float(subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout) for _ in range(3)
    )
    assert best < 0.2


@pytest.fixture
def slides(tmp_path):
    rng = np.random.default_rng(0)
    picture = np.full((600, 800, 3), 243, np.uint8)
    picture[150:450, 200:600] = np.array([190, 90, 150]) + rng.integers(-40, 40, (300, 400, 3))
    folder = tmp_path / "slides"
    folder.mkdir()
    Image.fromarray(picture).save(folder / "a case.tif", resolution=5000.0, resolution_unit="cm")
    Image.fromarray(picture).save(folder / "unknown.png")
    (folder / "broken.svs").write_bytes(b"II*\0 this is no slide")
    return folder


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    return {row.get("slide_id", row.get("path")): row for row in map(json.loads, done.stdout.splitlines())}


def test_info_goes_on_after_a_broken_slide(slides):
    done = run("info", str(slides), "--json")
    assert done.returncode == 1
    by_row = rows(done)
    assert by_row["a case"]["mpp0"] == pytest.approx(2.0, rel=1e-3)
    assert by_row["a case"]["size0"] == [800, 600]
    assert by_row["unknown"]["mpp0"] is None
    assert any("error" in row for row in by_row.values())
    assert "Traceback" not in done.stderr


def test_tile_refuses_what_it_must_and_does_the_rest(slides, tmp_path):
    done = run("tile", str(slides), "--tile-px", "64", "--mpp", "2", "--out", str(tmp_path / "out"), "--json")
    by_row = rows(done)
    assert done.returncode == 1
    assert by_row["a case"]["num_tiles"] > 10
    assert "--slide-mpp" in by_row["unknown"]["error"]
    assert by_row["broken"]["error"]
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert {row["slide_id"] for row in failures} == {"broken", "unknown"}


def test_extract_says_to_people_why_a_slide_failed(slides, tmp_path):
    unknown = str(slides / "unknown.png")
    done = run("extract", unknown, "--tile-px", "64", "--mpp", "2", "--out", str(tmp_path), "--workers", "1")
    assert done.returncode == 1
    assert "--slide-mpp" in done.stdout


def test_extract_does_the_rest_and_makes_nothing_twice(slides, tmp_path):
    command = [
        "extract",
        str(slides),
        "--tile-px",
        "64",
        "--mpp",
        "2",
        "--out",
        str(tmp_path),
        "--workers",
        "1",
        "--json",
    ]
    first = rows(run(*command))["a case"]
    assert first["status"] == "done"
    made = Path(first["path"]).stat()
    again = rows(run(*command))["a case"]
    assert again["status"] == "skipped"
    now = Path(first["path"]).stat()
    assert (now.st_ino, now.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)  # not written again
    changed = run(*command, "--min-tissue", "0.9")
    assert changed.returncode == 2
    assert "min_tissue" in changed.stderr
    assert len(changed.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "align_bse", "--features", ".", "--captions", "x", "--out", "y"], "did you mean 'align_base'"),
        (["zero-shot", "--model", "nowhere", "--features", "x.h5", "--classname", "a"], "nowhere"),
        (["simulate", "mars", "--out", "x"], "mars"),
        (["info", "no/such/slide.svs"], "no/such/slide.svs"),
        (["tile", "no-such-folder", "--out", "x"], "no such file or folder"),
        (["train", "mine.py:run", "--features", ".", "--captions", "x", "--out", "y"], "there is no file 'mine.py'"),
        (["qc", ".", "--workers", "0", "--out", "x"], "workers"),
    ],
)
def test_bad_input_is_one_line_and_no_traceback(words, message):
    done = run(*words)
    assert done.returncode in (1, 2)
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_packing_features_for_training(tmp_path):
    info = SlideInfo("a", (1024, 1024), 0.5, (1.0,), "test", "test")
    coords = np.array([[0, 0], [256, 0]])
    features = np.ones((2, 3), np.float32)
    write_features(
        tmp_path / "a.h5", SlideFeatures("a", features, coords, np.ones(2, bool), info, TileSpec(256, 0.5), "e")
    )
    (tmp_path / "b.h5").write_bytes(b"no features")
    done = run("pack", str(tmp_path), "--out", str(tmp_path / "store"), "--dtype", "float32", "--json")
    rows = {row["slide_id"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1
    assert rows["a"]["status"] == "done"
    assert rows["a"]["rows"] == 2
    assert Path(rows["a"]["path"]).parent == tmp_path / "store"
    assert "b.h5" in rows["b"]["message"]
    again = run("pack", str(tmp_path / "a.h5"), "--out", str(tmp_path / "store"))
    assert again.stdout.startswith("a: skipped, 2 patches")
    assert again.returncode == 0
    wrong = run("pack", str(tmp_path / "a.h5"), "--out", str(tmp_path / "store"), "--dtype", "int8")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == ["pathflip: number format: got 'int8', expected float16 or float32"]
