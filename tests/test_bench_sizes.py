"""bench/gpu.py and bench/growth.py at a tiny size on the processor: every section runs and says what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


def result_of(script: str, *options: str) -> dict:
    """The object a script ends with."""
    command = [sys.executable, str(BENCH / script), *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_on_a_processor():
    result = result_of("gpu.py", "--tiny", "--cpu")
    sections = ("matmul", "align_base", "grad_cache", "published", "loader", "extraction", "search")
    assert all(result[section] for section in sections)
    numbers = {f"{section}.{key}": value for section in sections for key, value in result[section].items()}
    for key, value in numbers.items():
        if key.endswith(("_s", "_ms", "tflops", "ratio")):
            assert value > 0, key
        if key.endswith("wait_share"):
            assert 0 <= value <= 1, key
    assert result["extraction"]["tiles"] == 32


@pytest.mark.slow
def test_growth_is_measured_row_by_row():
    one, two = result_of("growth.py", "--tiny")["rows"]
    assert (one["processes"], two["processes"]) == (1, 2)
    row_bytes = 2 * 64 * 2  # features and neighbourhood mean in float16
    drawn = 32 * 128 * row_bytes / 1e6
    assert drawn <= one["read_mb"] <= 32 * 300 * (row_bytes + 9) / 1e6
    assert two["read_mb"] == pytest.approx(one["read_mb"] / 2, rel=0.2)
    assert one["step_ms"] > 0
    assert two["step_ms"] == 0


def test_a_gpu_is_asked_for_where_there_is_none():
    command = [sys.executable, str(BENCH / "gpu.py"), "--cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip() == "no GPU here; --tiny runs the script at a size for a processor"
