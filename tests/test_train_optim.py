from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pathflip.errors import ConfigError
from pathflip.train import OptimConfig, build_optimizer, learning_rate
from tiny_align import TinyAlign

CURVES = load_file(Path(__file__).parent / "fixtures" / "schedules" / "lr_schedules.safetensors")
"""Learning rates of the published code, step by step."""


@pytest.mark.parametrize(
    ("curve", "schedule", "settings"),
    [
        ("pf2_cosine", "cosine", {"warmup_steps": 20}),
        ("pf2_exp", "exponential", {"warmup_steps": 20, "steps_per_epoch": 100}),
        ("pf1_cosine", "epoch_cosine", {"warmup_steps": 200, "steps_per_epoch": 300, "min_factor": 0.05}),
        ("pf1_step", "epoch_step", {"warmup_steps": 200, "steps_per_epoch": 300, "min_factor": 0.05}),
    ],
)
def test_published_schedules(curve, schedule, settings):
    expected = CURVES[curve].tolist()
    config = OptimConfig(lr=1e-4, schedule=schedule, **settings)
    ours = [learning_rate(config, step, len(expected)) for step in range(len(expected))]
    assert ours == pytest.approx(expected, rel=1e-9)


def test_constant_after_warm_up():
    config = OptimConfig(lr=2.0, schedule="constant", warmup_steps=4, warmup_factor=0.0)
    assert [learning_rate(config, step, 10) for step in range(7)] == [0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_epoch_schedule_without_epochs_is_refused():
    with pytest.raises(ConfigError, match="steps_per_epoch: got 0"):
        learning_rate(OptimConfig(schedule="epoch_cosine"), 0, 10)


def test_norms_biases_and_scales_are_not_decayed():
    """One step with zero gradients moves exactly what is decayed."""
    for decay, spared in (("matrices", {"patch.0.bias", "patch.1.weight", "logit_scale", "text.bias"}), ("all", set())):
        model = TinyAlign()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0)
                parameter.grad = torch.zeros_like(parameter)
        build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5, decay=decay)).step()
        same = {name for name, p in model.named_parameters() if torch.equal(p, torch.ones_like(p))}
        assert spared <= same
        if decay == "all":
            assert same == set()
        else:
            assert "patch.0.weight" not in same
            assert "words.weight" not in same


def test_optimizer_is_adamw_of_the_paper():
    """Against the update rule of Loshchilov & Hutter 2019, written out, over three steps."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2, bias=False).double()
    config = OptimConfig(lr=0.01, weight_decay=0.1, betas=(0.8, 0.95))
    optimizer = build_optimizer(layer, config)
    weight, m, v = layer.weight.detach().clone(), 0.0, 0.0
    for step in range(1, 4):
        grad = torch.randn(2, 3, dtype=torch.double)
        layer.weight.grad = grad.clone()
        optimizer.step()
        m, v = 0.8 * m + 0.2 * grad, 0.95 * v + 0.05 * grad**2
        weight = weight * (1 - 0.01 * 0.1)
        weight = weight - 0.01 * (m / (1 - 0.8**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-10, atol=1e-12)
