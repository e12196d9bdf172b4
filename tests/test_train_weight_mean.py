"""Weights averaged over the last steps: the mean is what is saved and evaluated, and training does not notice."""

import json
from pathlib import Path

import pytest
import torch

from pathflip.errors import TrainingError
from pathflip.train import AlignStep, TrainConfig, fit, read_metrics
from pathflip.train.weight_mean import MEAN_FILE
from tiny_align import TinyAlign, batches, evaluate


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class Run:
    """One training; what was saved as ``last`` by the step it was saved after."""

    def __init__(self, out: Path, resume: bool = False, on_step=None, **settings) -> None:
        self.step, self.saved = AlignStep(TinyAlign(0.2)), {}
        config = TrainConfig(**{"steps": 6, "batch_size": 4, "device": "cpu", "save_every": 1, **settings})
        more = {"evaluators": {"val": evaluate}, "save": self.save, "resume": resume, "on_step": on_step}
        try:
            self.result = fit(self.step, batches(), config=config, out=out, **more)
        except InterruptedError:
            self.result = None

    def save(self, path, numbers):
        path.mkdir(exist_ok=True)
        if path.name == "last":
            self.saved[int(numbers["step"])] = weights(self.step.model)


def interrupt(row):
    if row["step"] == 5:
        raise InterruptedError


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_mean_of_the_last_steps_is_saved_and_evaluated_and_training_is_the_same(tmp_path):
    plain, averaged = Run(tmp_path / "plain"), Run(tmp_path / "mean", average_last=0.5)
    for step in range(1, 7):
        counted = [plain.saved[s] for s in range(4, step + 1)] or [plain.saved[step]]
        for name, value in averaged.saved[step].items():
            expected = torch.stack([one[name].double() for one in counted]).mean(0)
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7, msg=f"{name}, step {step}")
    assert not same(averaged.saved[6], plain.saved[6])
    assert same(weights(averaged.step.model), plain.saved[6])  # what goes on training is no mean
    losses = [[line["loss"] for line in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("plain", "mean")]
    assert losses[0] == losses[1]
    model = TinyAlign(0.2).eval()
    model.load_state_dict(averaged.saved[6])
    with torch.no_grad():
        assert averaged.result.metrics["val/slide"] == pytest.approx(evaluate(model)["slide"], rel=1e-6)
    assert averaged.result.metrics != plain.result.metrics


def test_a_run_that_is_interrupted_goes_on_with_the_same_mean(tmp_path):
    whole = Run(tmp_path / "whole", average_last=0.5)
    assert Run(tmp_path / "halves", average_last=0.5, on_step=interrupt).result is None
    again = Run(tmp_path / "halves", resume=True, average_last=0.5)
    assert same(again.saved[6], whole.saved[6])
    with pytest.raises(TrainingError, match=r"setting 'average_last' was 0.5 .*, got 0.25"):
        Run(tmp_path / "halves", resume=True, average_last=0.25)


def test_a_state_whose_mean_is_damaged_is_one_line(tmp_path):
    Run(tmp_path, average_last=0.5)
    (file,) = (tmp_path / "state").glob(f"*/{MEAN_FILE}")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(TrainingError, match=r"mean_weights\.safetensors cannot be read") as error:
        Run(tmp_path, resume=True, average_last=0.5)
    assert "\n" not in str(error.value)


def test_a_state_from_before_there_were_means_goes_on(tmp_path):
    Run(tmp_path, on_step=interrupt)
    (file,) = (tmp_path / "state").glob("*/state.json")
    record = json.loads(file.read_text())
    del record["config"]["average_last"], record["averaged"]
    file.write_text(json.dumps(record))
    assert Run(tmp_path, resume=True).result.step == 6
