"""bench/worlds.py on a tiny world: it runs, resumes, and prints what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench" / "worlds.py"
SHORT = "+train.steps=2+train.eval_every=2+train.save_every=2+train.batch_size=8"
MODELS = [f"align_base{SHORT}", f"clip_mean{SHORT}"]


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
    # The table's mean is the mean of the object's values.
    row = next(line for line in first.stdout.splitlines() if line.startswith("| grounding AP |"))
    mean = np.mean(values["grounding AP"][MODELS[0]])
    assert row.split("|")[2].split()[0] == f"{mean:.2f}"
