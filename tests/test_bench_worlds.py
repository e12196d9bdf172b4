"""bench/worlds.py on a tiny world: it runs, resumes, and prints what it promises."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pathflip.data.splits import read_splits
from pathflip.io.tables import read_table

BENCH = Path(__file__).resolve().parents[1] / "bench" / "worlds.py"
SHORT = "+train.steps=2+train.eval_every=2+train.save_every=2+train.batch_size=8"
MODELS = [f"align_base{SHORT}", f"clip_mean{SHORT}@1/2"]


def run(out):
    words = ["--seeds", "1", "--world", "quick", "--models", ",".join(MODELS), "--out", str(out), "--json"]
    return subprocess.run([sys.executable, str(BENCH), *words], capture_output=True, text=True, check=True)


@pytest.mark.slow
def test_worlds_are_measured_once_and_told_as_one_object(tmp_path):
    first = run(tmp_path)
    values = json.loads(first.stdout.splitlines()[-1])
    assert set(values["grounding AP"]) == set(MODELS)
    assert all(len(by_seed) == 1 for by_model in values.values() for by_seed in by_model.values())
    weights = sorted((tmp_path / "1" / "runs").rglob("model.safetensors"))
    stamps = [file.stat().st_mtime_ns for file in weights]
    second = run(tmp_path)
    assert second.stdout == first.stdout
    assert [file.stat().st_mtime_ns for file in weights] == stamps
    assert "0 models trained, 2 kept" in second.stderr
    # Half of the patients trained the second.
    patients = {row["slide"]: row["patient"] for row in read_table(tmp_path / "1" / "cohort" / "labels.csv")}
    split = read_splits(tmp_path / "1" / "cohort" / "splits.csv")
    everyone = {patients[slide] for slide, part in split.items() if part == "train"}
    numbers = [len(trained_on(tmp_path / "1" / "runs", kind)["patients"]) for kind in ("align_base", "clip_mean")]
    assert numbers == [len(everyone), -(-len(everyone) // 2)]
    # The table's mean is the mean of the object's values.
    row = next(line for line in first.stdout.splitlines() if line.startswith("| grounding AP |"))
    mean = np.mean(values["grounding AP"][MODELS[0]])
    assert row.split("|")[2].split()[0] == f"{mean:.2f}"


def trained_on(runs, kind):
    (run,) = runs.glob(f"{kind}*")
    return json.loads((run / "last" / "config.json").read_text())["recipe"]["trained_on"]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_worlds", BENCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_curves_join_a_models_fractions_at_their_number_of_patients(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "training_patients", lambda demo, part: range({"": 40, "1/4": 10, "1/8": 5}[part]))
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: drawn.append(self) or Path(file).write_text("svg"))
    models = {
        "align_base": [0.8, 1.0],
        "align_base@1/8": [0.2, 0.4],
        "clip_best": [0.3, 0.3],
        "align_base@1/4": [0.5, 0.5],
    }
    bench.draw_curve(tmp_path / "curve.svg", tmp_path, [1, 2], dict.fromkeys(bench.CURVE_MEASURES, models))
    assert (tmp_path / "curve.svg").is_file()
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == list(bench.CURVE_MEASURES)
    for axes in figure.axes:
        lines = {own.get_label(): own for own in axes.containers}
        assert set(lines) == {"align_base", "clip_best"}
        line, _, (bars,) = lines["align_base"].lines
        np.testing.assert_allclose(line.get_xydata(), [[5, 0.3], [10, 0.5], [40, 0.9]])
        spread = np.array([abs(ends[1][1] - ends[0][1]) / 2 for ends in bars.get_segments()])
        np.testing.assert_allclose(spread, [np.std([0.2, 0.4], ddof=1), 0, np.std([0.8, 1.0], ddof=1)])
        np.testing.assert_allclose(lines["clip_best"].lines[0].get_xydata(), [[40, 0.3]])
