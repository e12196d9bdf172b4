"""DeepSpeed configurations: what is filled in, what is refused. (Training under it: docs/training.md.)"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pathflip.errors import ConfigError
from pathflip.train import AlignStep, deepspeed
from tiny_align import TinyAlign


def test_the_run_decides_on_batches_clipping_and_precision() -> None:
    settings: dict[str, Any] = {
        "zero_optimization": {"stage": 2},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
    }
    deepspeed.configure(settings, batch=8, accumulation=2, clip=0.5, precision="bf16")
    assert settings["train_micro_batch_size_per_gpu"] == 8
    assert settings["gradient_accumulation_steps"] == 2
    assert settings["gradient_clipping"] == 0.5
    assert settings["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert settings["zero_optimization"] == {"stage": 2}


@pytest.mark.parametrize(
    ("settings", "precision", "message"),
    [
        ({"optimizer": {"type": "Adam"}}, "no", "section 'optimizer'"),
        ({"scheduler": {"type": "WarmupLR"}}, "no", "section 'scheduler'"),
        ({"bf16": {"enabled": True}}, "no", "section 'bf16'"),
        ({"zero_optimization": {"stage": 3}}, "no", "zero_optimization.stage 3"),
        ({}, "no", "zero_optimization.stage 0"),
        ({"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}}, "no", "offload_optimizer"),
        ({"zero_optimization": {"stage": 2}}, "fp16", "precision: got 'fp16'"),
    ],
)
def test_what_the_loop_does_itself_is_refused(settings: dict[str, Any], precision: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        deepspeed.configure(settings, batch=4, accumulation=1, clip=1.0, precision=precision)


def test_a_plain_model_has_no_spread_state() -> None:
    step = AlignStep(TinyAlign())
    optimizer = torch.optim.AdamW(step.parameters())
    assert deepspeed.moments(step, optimizer) is None
    assert not deepspeed.restore(step, optimizer, {})


def test_spread_moments_come_back_where_they_were() -> None:
    """Two processes' fragments of one flat partition, as ZeRO lays them out, through ``moments`` and ``restore``."""
    model, values = torch.nn.Linear(3, 2), {"exp_avg": 1.0, "exp_avg_sq": 2.0}
    moments: dict[tuple[str, str], torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        tags: Any = parameter
        tags._hp_mapping = object()
        tags.get_full_hp_param = lambda entry, p=parameter: torch.full_like(p, values[entry])
        tags.set_full_hp_param = lambda value, entry, name=name: moments.__setitem__((name, entry), value)
    flat, called = torch.zeros(8), []
    optimizer = SimpleNamespace(
        optimizer=SimpleNamespace(state={flat: {"step": 3.0}}),
        single_partition_of_fp32_groups=[flat],
        refresh_fp32_params=lambda: called.append("weights"),
        _hp_optimizer_states_linked=True,
        _lazy_init_hp_params_optimizer_state=lambda: called.append("fragments"),
    )
    stored = deepspeed.moments(model, optimizer)
    assert stored is not None
    called.clear()
    assert stored["weight/exp_avg_sq"].tolist() == [[2.0] * 3] * 2
    optimizer.optimizer.state = {}
    assert deepspeed.restore(model, optimizer, stored)
    assert called == ["weights", "fragments"]
    assert optimizer.optimizer.state[flat]["step"] == 3.0
    assert optimizer.optimizer.state[flat]["exp_avg"].shape == flat.shape
    assert moments["bias", "exp_avg"].tolist() == [1.0, 1.0]
