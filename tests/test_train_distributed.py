import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import distributed_train
from distributed_train import CONFIG, SCENARIOS, KilledError
from pathflip.checkpoint import load_checkpoint
from pathflip.train import AlignStep, fit, read_metrics
from pathflip.train.state import latest_state, load_state
from small_cohort import WORDS
from tiny_align import TinyAlign, batches, evaluate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """What two gloo processes left."""
    out = tmp_path_factory.mktemp("two")
    with suppress(KilledError):
        fit(AlignStep(TinyAlign()), distributed_train.killed_at(5), config=CONFIG, out=out / "begun-on-one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        [*command, distributed_train.__file__, str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_two_processes_train_as_one(two, tmp_path, name):
    config = SCENARIOS[name]
    step = AlignStep(TinyAlign(), config.grad_cache_chunk)
    fit(step, batches(), config=config, out=tmp_path)
    one, both = read_metrics(tmp_path / "metrics.jsonl"), read_metrics(two / name / "metrics.jsonl")
    assert len(one) == len(both) == 6
    for a, b in zip(one, both, strict=True):
        for key in ("step", "loss", "slide", "region", "grad_norm", "lr"):
            assert b[key] == pytest.approx(a[key], rel=1e-5), (key, a["step"])
    weights = torch.load(two / name / "weights.pt", weights_only=True)
    for key, value in step.model.state_dict().items():
        torch.testing.assert_close(weights[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_gradients_of_two_processes_are_those_of_one(two):
    expected, got = distributed_train.gradients(0, 1), torch.load(two / "gradients.pt", weights_only=True)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-7, msg=name)


def test_losses_of_the_default_model_on_two_processes_are_those_of_one(two):
    expected, got = distributed_train.pathflip_losses(0, 1), torch.load(two / "pathflip.pt", weights_only=True)
    assert expected.keys() == got.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("begun", [2, 1])
def test_resume_on_another_number_of_processes(two, tmp_path, begun):
    """Begun on two (or one), stopped after step 5 (state of step 4), finished on one (or two): every loss and weight
    as if on one from the start.
    """
    run = two / ("killed" if begun == 2 else "begun-on-one")
    step, whole = AlignStep(TinyAlign()), AlignStep(TinyAlign())
    if begun == 2:
        assert [path.name for path in (run / "state").iterdir()] == ["step-00000004"]
        fit(step, batches(), config=CONFIG, out=run, resume=True)
    else:
        load_state(latest_state(run / "state"), step, torch.optim.AdamW(step.parameters()))
    fit(whole, batches(), config=CONFIG, out=tmp_path)
    resumed, through = read_metrics(run / "metrics.jsonl"), read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in resumed] == list(range(1, 7))
    for a, b in zip(through, resumed, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5), a["step"]
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(step.model.state_dict()[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_a_bad_slide_on_one_process_stops_both_with_its_name(two):
    slide = batches()(3, 1, 2).slide_ids[0]
    messages = [json.loads((two / f"error-{rank}.json").read_text()) for rank in range(2)]
    assert messages[0] == messages[1]
    assert f"step 4: not finite: slide = nan, region = nan; slides that caused it: {slide}: its features" in messages[0]
    assert [path.name for path in (two / "poisoned" / "state").iterdir()] == ["step-00000002"]


def test_sharded_training_equals_plain_training(two, tmp_path):
    """FSDP2 on two processes, killed, resumed and evaluated, against one process that went through."""
    step = AlignStep(TinyAlign())
    result = fit(step, batches(), config=CONFIG, out=tmp_path, evaluators={"val": evaluate})
    one, both = read_metrics(tmp_path / "metrics.jsonl"), read_metrics(two / "sharded" / "metrics.jsonl")
    assert [line["step"] for line in both] == list(range(1, 7))
    for a, b in zip(one, both, strict=True):
        assert (b["loss"], b["grad_norm"]) == pytest.approx((a["loss"], a["grad_norm"]), rel=1e-5)
    back = load_checkpoint(two / "sharded", lambda config: distributed_train.Flat())
    assert back.config["metrics"]["val/slide"] == pytest.approx(result.metrics["val/slide"], rel=1e-4)
    for name, value in step.model.state_dict().items():
        torch.testing.assert_close(
            back.model.state_dict()[name].reshape(value.shape), value, rtol=1e-4, atol=1e-5, msg=name
        )


def test_sharding_a_scalar_is_refused_by_name(two):
    for rank in range(2):
        message = json.loads((two / f"scalar-{rank}.json").read_text())
        assert message.startswith("FSDP: got the scalar parameter model.logit_scale")


def test_a_sharded_run_keeps_the_vectors_of_its_training_texts(two):
    """They are made of collected weights, once a checkpoint is written."""
    checkpoint = load_checkpoint(two / "alignment" / "last")
    tokens = checkpoint.tokenizer.encode([sentence.lower().rstrip(".") for sentence in WORDS], 64)
    with torch.no_grad():
        expected = checkpoint.model.text_vectors(tokens.ids, tokens.mask, None)
    stored = checkpoint.model.known_texts.vectors
    assert torch.cdist(expected, stored).min(1).values.max() < 1e-4
    assert int((stored.abs().sum(1) > 0).sum()) == len(WORDS)
