import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import tiny_align
from pathflip.errors import ConfigError, TrainingError
from pathflip.train import AlignStep, OptimConfig, TrainConfig, fit, read_metrics
from pathflip.train.run_folder import digest_of, only_training_here
from tiny_align import TinyAlign, batches, evaluate, poison, save

TINY = Path(tiny_align.__file__)


def config(**settings) -> TrainConfig:
    return TrainConfig(**{"steps": 6, "batch_size": 4, "device": "cpu", **settings})


def train(out: Path, dropout: float = 0.2, source=None, step=None, **settings):
    step = step or AlignStep(TinyAlign(dropout))
    chosen = config(**settings)
    result = fit(step, source or batches(batch_size=chosen.batch_size), config=chosen, out=out, save=save)
    return step.model.state_dict(), result


def run(out: Path, **settings) -> subprocess.CompletedProcess:
    path = os.pathsep.join(part for part in (str(TINY.parent), os.environ.get("PYTHONPATH")) if part)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, str(TINY), str(out), json.dumps({"batch_size": 4, **settings})]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_learns_and_leaves_what_it_promises(tmp_path):
    step = AlignStep(TinyAlign())
    chosen = config(
        steps=60,
        optim=OptimConfig(lr=0.01, warmup_steps=5),
        eval_every=20,
        save_every=25,
        best="val/slide",
        best_mode="min",
    )
    seen = []
    result = fit(
        step, batches(), config=chosen, out=tmp_path, evaluators={"val": evaluate}, save=save, on_step=seen.append
    )
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 61)) == [line["step"] for line in seen]
    assert np.mean([line["loss"] for line in lines[-5:]]) < 0.5 * lines[0]["loss"]
    assert all(line["loss"] == pytest.approx(line["slide"] + line["region"], rel=1e-5) for line in lines)
    assert [line["step"] for line in lines if "val/slide" in line] == [20, 40, 60]
    assert lines[0].keys() >= {"loss", "lr", "grad_norm", "samples_per_s"}
    best = min(line["val/slide"] for line in lines if "val/slide" in line)
    assert result.best == best
    assert json.loads((tmp_path / "best" / "metrics.json").read_text())["val/slide"] == best
    assert json.loads((tmp_path / "last" / "metrics.json").read_text())["step"] == 60
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000060"]
    assert step.training
    assert step.forward.__func__ is AlignStep.forward  # accelerate's wrapping is undone


def test_same_command_same_weights_whatever_is_logged_saved_or_prefetched(tmp_path):
    first, _ = train(tmp_path / "a")
    torch.rand(5)  # the caller's random state must not matter
    np.random.default_rng().random()
    second, _ = train(tmp_path / "b", prefetch=0, log_every=4, save_every=1)
    assert same(first, second)
    other, _ = train(tmp_path / "c", seed=1)
    assert not same(first, other)


def test_evaluation_does_not_disturb_training(tmp_path):
    plain, _ = train(tmp_path / "plain")
    step = AlignStep(TinyAlign(0.2))
    fit(step, batches(), config=config(eval_every=1), out=tmp_path / "evaluated", evaluators={"val": evaluate})
    assert same(plain, step.model.state_dict())


def test_callers_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_loop_is_plain_training(tmp_path):
    """Against the loop anyone would write, without accelerate: dropout off, clipping on."""
    chosen = config(optim=OptimConfig(lr=0.01, warmup_steps=2, clip=0.5), accumulation=2)
    step = AlignStep(TinyAlign())
    fit(step, batches(), config=chosen, out=tmp_path)
    model, source = TinyAlign(), batches()
    decayed, spared = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": spared, "weight_decay": 0.0}])
    norms = []
    for index in range(6):
        lr = 0.01 * (0.01 + 0.99 * index / 2) if index < 2 else 0.01 * 0.5 * (1 + np.cos(np.pi * (index - 2) / 4))
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        for part in range(2):
            batch = source(2 * index + part)
            (sum(model.losses(model(batch), batch).values()) / 2).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        optimizer.step()
    assert [line["grad_norm"] for line in read_metrics(tmp_path / "metrics.jsonl")] == pytest.approx(norms, rel=1e-4)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(step.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_precision_is_what_was_asked_one_model_after_another(tmp_path, precision):
    seen = []
    step = AlignStep(TinyAlign())
    step.model.text.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    train(tmp_path, step=step, precision=precision)
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert step.model.text.weight.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.usefixtures("annotations_off")
def test_a_compiled_model_trains_alike(tmp_path):
    """Traced by torch.compile and run without a C++ compiler, which a test machine may lack."""

    class Traced(TinyAlign):
        def compile(self):
            torch.nn.Module.compile(self, backend="eager")

    step = AlignStep(Traced())
    compiled, _ = train(tmp_path / "compiled", step=step, compile=True, steps=3)
    plain, _ = train(tmp_path / "plain", dropout=0.0, steps=3)
    assert step.model._compiled_call_impl is not None
    assert all(torch.allclose(compiled[name], plain[name], atol=1e-5) for name in plain)


def test_half_precision_on_a_cpu_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="precision: got 'fp16' on a CPU"):
        train(tmp_path, precision="fp16")


def test_batch_of_one(tmp_path):
    weights, _ = train(tmp_path, source=batches(num_slides=1, batch_size=1), batch_size=1)
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_bad_slide_stops_the_step_and_is_named(tmp_path, prefetch):
    source, bad = batches(), 3

    def poisoned(index, rank, world):
        batch = source(index, rank, world)
        return poison(batch, 2) if index == bad else batch

    expected, _ = train(tmp_path / "good", steps=6, source=source)
    slide = source(bad).slide_ids[2]
    step = AlignStep(TinyAlign(0.2))
    with pytest.raises(
        TrainingError, match=rf"step 4: not finite: slide = nan, region = nan.*{slide}: its features"
    ) as error:
        train(tmp_path / "bad", source=poisoned, step=step, save_every=1, prefetch=prefetch)
    assert "\n" not in str(error.value)
    assert error.value.args[0].count("slide-") == 1
    state = next((tmp_path / "bad" / "state").iterdir())
    assert state.name == "step-00000003"
    assert all(torch.isfinite(value).all() for value in step.model.state_dict().values())
    assert [line["step"] for line in read_metrics(tmp_path / "bad" / "metrics.jsonl")] == [1, 2, 3]
    # what was saved is good: with the slide repaired, the run ends where it should have
    step = AlignStep(TinyAlign(0.2))
    fit(step, source, config=config(save_every=1), out=tmp_path / "bad", save=save, resume=True)
    assert same(step.model.state_dict(), expected)


def test_a_bad_gradient_of_a_finite_loss_stops_too(tmp_path):
    class Steep(TinyAlign):
        def losses(self, output, batch):
            parts = super().losses(output, batch)
            return {**parts, "steep": (0 * output.slide.sum()).abs().sqrt()}  # value 0, slope infinite

    step = AlignStep(Steep())
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    with pytest.raises(TrainingError, match="step 1: not finite: grad_norm"):
        train(tmp_path, step=step)
    assert same(step.model.state_dict(), before)


def test_unknown_best_metric_names_the_known(tmp_path):
    with pytest.raises(ConfigError, match="best: got 'val/r1', expected one of val/slide"):
        fit(AlignStep(TinyAlign()), batches(), config=config(best="val/r1"), out=tmp_path, evaluators={"val": evaluate})


def test_unknown_setting_is_an_error():
    with pytest.raises(ValidationError, match="learning_rate"):
        TrainConfig(learning_rate=1.0)


def test_a_directory_with_a_run_is_not_overwritten_and_other_settings_do_not_resume(tmp_path):
    train(tmp_path)
    with pytest.raises(TrainingError, match=r"holds a run .*--resume"):
        train(tmp_path)
    with pytest.raises(TrainingError, match="setting 'seed' was 0 when the run began, got 1"):
        fit(AlignStep(TinyAlign()), batches(), config=config(seed=1), out=tmp_path, resume=True)
    finished = fit(AlignStep(TinyAlign()), batches(), config=config(), out=tmp_path, resume=True)
    assert finished.step == 6


def test_two_trainings_do_not_share_a_directory(tmp_path):
    with (
        only_training_here(tmp_path),
        pytest.raises(TrainingError, match=r"another training \(process \d+ on .*\) is writing here"),
    ):
        train(tmp_path)
    assert train(tmp_path)[1].step == 6


def test_checkpoints_whose_state_is_gone_are_not_replaced(tmp_path):
    train(tmp_path)
    shutil.rmtree(tmp_path / "state")
    before = {file.name: file.read_bytes() for file in (tmp_path / "last").iterdir()}
    for resume in (False, True):
        with pytest.raises(TrainingError, match="'last' but no training state"):
            fit(AlignStep(TinyAlign()), batches(), config=config(), out=tmp_path, save=save, resume=resume)
    assert {file.name: file.read_bytes() for file in (tmp_path / "last").iterdir()} == before != {}


def test_a_run_goes_on_with_the_data_it_began_with_and_no_other(tmp_path):
    begun = {"captions": digest_of(["a"]), "tokenizer": digest_of("t")}
    fit(AlignStep(TinyAlign()), batches(), config=config(), out=tmp_path, data=begun)
    other = {**begun, "captions": digest_of(["b"])}
    with pytest.raises(TrainingError, match="the captions differ"):
        fit(AlignStep(TinyAlign()), batches(), config=config(), out=tmp_path, resume=True, data=other)
    assert fit(AlignStep(TinyAlign()), batches(), config=config(), out=tmp_path, resume=True, data=begun).step == 6


def test_damaged_or_foreign_state_is_one_line(tmp_path):
    train(tmp_path)
    with pytest.raises(TrainingError, match="of another model"):
        fit(AlignStep(torch.nn.Linear(2, 2)), batches(), config=config(), out=tmp_path, resume=True)
    file = next((tmp_path / "state").iterdir()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TrainingError, match="cannot be read") as error:
        fit(AlignStep(TinyAlign()), batches(), config=config(), out=tmp_path, resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_killed_and_resumed_is_bit_identical(tmp_path):
    settings = {"steps": 9, "save_every": 4, "eval_every": 3, "accumulation": 2, "prefetch": 1}
    step, whole, killed = AlignStep(TinyAlign(0.2)), tmp_path / "whole", tmp_path / "killed"
    fit(step, batches(), config=config(**settings), out=whole, evaluators={"val": evaluate}, save=save)
    assert run(killed, **settings, kill_at=15).returncode == -signal.SIGKILL
    assert [path.name for path in (killed / "state").iterdir()] == ["step-00000004"]
    with (killed / "metrics.jsonl").open("a") as log:
        log.write('{"step": 7, "lo')  # torn by the kill
    assert read_metrics(killed / "metrics.jsonl")[-1]["step"] > 4  # these come again and must not stand twice
    (killed / "state" / ".step-00000008.dead.tmp").mkdir()
    again = AlignStep(TinyAlign(0.2, seed=9))  # whatever the weights are, the stored ones replace them
    fit(again, batches(), config=config(**settings), out=killed, evaluators={"val": evaluate}, save=save, resume=True)
    assert same(step.model.state_dict(), again.model.state_dict())
    lines = [read_metrics(folder / "metrics.jsonl") for folder in (whole, killed)]
    for line in (*lines[0], *lines[1]):
        del line["samples_per_s"]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == list(range(1, 10))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_the_run_can_go_on(tmp_path, number):
    source = batches()

    def interrupted(index, rank, world):
        if index == 4:
            os.kill(os.getpid(), number)
        return source(index, rank, world)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 4; the state is saved"):
        train(tmp_path, source=interrupted, prefetch=0)
    assert signal.getsignal(number) is before
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000004"]
    step = AlignStep(TinyAlign(0.2))
    fit(step, source, config=config(), out=tmp_path, resume=True)
    assert same(step.model.state_dict(), train(tmp_path / "whole")[0])
