"""The learning curve of bench/worlds.py (test_demo.py runs the script itself)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pathflip.types import Caption

BENCH = Path(__file__).resolve().parents[1] / "bench" / "worlds.py"


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
        dotted = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
        assert [list(line.get_ydata()) for line in dotted] == [[0.3, 0.3]]


def test_planted_errors_stand_beside_the_measures_of_the_test_patients(bench, tmp_path):
    for seed, value in ((1, 0.6), (2, 0.8)):
        demo = bench.Demo(tmp_path / str(seed), seed)
        for kind, measure in (("test", "presence AUROC"), (bench.PLANTED, "planted errors, finding omitted")):
            numbers = {measure: {"value": value, "chance": 0.5}}
            bench.write_json(bench.result_file(demo, "align_base@1/4", kind), numbers)
    kinds = ["test", bench.PLANTED]
    values = bench.collect(tmp_path, [1, 2], ["align_base@1/4"], kinds)
    assert values["planted errors, finding omitted"] == {"align_base@1/4": [0.6, 0.8]} == values["presence AUROC"]
    levels = bench.chance_levels(tmp_path, 1, "align_base@1/4", kinds)
    assert "| planted errors, finding omitted | 0.70 ± 0.14 | 0.50 |" in bench.table(values, ["align_base@1/4"], levels)
    assert set(bench.collect(tmp_path, [1], ["align_base@1/4"], ["test"])) == {"presence AUROC"}


def test_captions_stand_in_the_order_of_their_files(bench):
    captions = [Caption(name, f"patient {name}", "Necrosis.", ()) for name in ("b", "a", "c")]
    files = [Path(f"features/{name}.h5") for name in ("c", "a")]
    assert [caption.slide_id for caption in bench.paired_captions(files, captions)] == ["c", "a"]
