"""The optimiser and its learning rate. Both are plain functions of the configuration and the step.

There is no scheduler object: the learning rate of step ``t`` depends on nothing but ``t``, so there is no
scheduler state that a resumed run could get wrong.
"""

import math
import re
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from pathflip.errors import ConfigError

__all__ = ["OptimConfig", "build_optimizer", "learning_rate", "set_learning_rate"]

_ENCODER = ".text_encoder."
_LAYER = re.compile(r"\.layers?\.(\d+)\.")


class OptimConfig(BaseModel):
    """AdamW and its learning-rate curve.

    Attributes:
        lr: peak learning rate.
        weight_decay: decoupled weight decay (AdamW).
        decay: "matrices" decays tensors of two or more axes and leaves norms, biases and scales alone;
            "all" decays everything, as the published code does.
        betas, eps: AdamW's.
        clip: largest gradient norm; 0 does not clip.
        warmup_steps: steps from ``warmup_factor * lr`` to ``lr``, linear.
        schedule: after the warm-up, "constant"; "cosine" per step down to ``min_factor * lr``;
            "exponential" lr * decay_rate ** (steps / steps_per_epoch) (the later release's other schedule).
            The first release's schedules change once per epoch and start at the second epoch:
            "epoch_cosine" and "epoch_step" (lr * decay_rate ** epoch), neither below ``min_factor * lr``.
        min_factor, warmup_factor: fractions of ``lr``.
        decay_rate: factor per epoch of "exponential" and "epoch_step".
        steps_per_epoch: needed by every schedule that speaks of epochs.
        encoder_lr: peak learning rate of a pretrained text encoder that is trained along; its curve is that of ``lr``.
        layer_decay: factor of that rate from each of its layers to the one below.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    decay: Literal["matrices", "all"] = "matrices"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    clip: float = Field(default=1.0, ge=0)
    warmup_steps: int = Field(default=40, ge=0)
    warmup_factor: float = Field(default=0.01, ge=0, le=1)
    schedule: Literal["constant", "cosine", "exponential", "epoch_cosine", "epoch_step"] = "cosine"
    min_factor: float = Field(default=0.0, ge=0, le=1)
    decay_rate: float = Field(default=0.9, gt=0, le=1)
    steps_per_epoch: int = Field(default=0, ge=0)
    encoder_lr: float = Field(default=1e-4, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of optimiser step ``step`` (from 0) in a run of ``steps``.

    Raises:
        ConfigError: a schedule that speaks of epochs without ``steps_per_epoch``.
    """
    per_epoch = config.steps_per_epoch
    if per_epoch == 0 and config.schedule in ("exponential", "epoch_cosine", "epoch_step"):
        raise ConfigError(
            f"optim.steps_per_epoch: got 0, but schedule '{config.schedule}' changes by epoch; "
            "expected the number of slides divided by the batch size"
        )
    if config.schedule.startswith("epoch_"):
        return _by_epoch(config, step, steps)
    if step < config.warmup_steps:
        return _warmup(config, step)
    since = step - config.warmup_steps
    if config.schedule == "cosine":
        return _cosine(config, since / max(1, steps - config.warmup_steps))
    if config.schedule == "exponential":
        return config.lr * config.decay_rate ** (since / per_epoch)
    return config.lr


def _warmup(config: OptimConfig, step: int) -> float:
    start = config.warmup_factor * config.lr
    return min(config.lr, start + (config.lr - start) * step / max(1, config.warmup_steps))


def _cosine(config: OptimConfig, progress: float) -> float:
    low = config.min_factor * config.lr
    return low + (config.lr - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _by_epoch(config: OptimConfig, step: int, steps: int) -> float:
    """The first release's rule: warm-up inside the first epoch, then one value per epoch."""
    epoch = step // config.steps_per_epoch
    if epoch == 0:
        return _warmup(config, step) if config.warmup_steps else config.lr
    if config.schedule == "epoch_step":
        return max(config.min_factor * config.lr, config.lr * config.decay_rate**epoch)
    return _cosine(config, epoch / max(1, math.ceil(steps / config.steps_per_epoch)))


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters, in groups of one weight decay and one learning rate.

    Norms, biases and scales are not decayed. Parameters under ``text_encoder.`` follow ``encoder_lr`` and
    ``layer_decay``; a group's ``lr_factor`` is what the common curve is multiplied by.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ConfigError("the model has no trainable parameter; expected at least one with requires_grad")
    factors = _factors(model, config)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        decay = config.weight_decay if config.decay == "all" or parameter.ndim >= 2 else 0.0
        groups.setdefault((factors.get(name, 1.0), decay), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] != 1.0, -item[0][0], -item[0][1]))
    return torch.optim.AdamW(
        [{"params": own, "weight_decay": decay, "lr_factor": factor} for (factor, decay), own in ordered],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def _factors(model: nn.Module, config: OptimConfig) -> dict[str, float]:
    """What the learning rate of a pretrained text encoder's parameters is multiplied by, layer by layer."""
    names = [name for name, _ in model.named_parameters() if _ENCODER in f".{name}"]
    layer_of = {name: int(match[1]) for name in names if (match := _LAYER.search(name))}
    count = max(layer_of.values(), default=-1) + 1
    base = config.encoder_lr / config.lr
    below = {name: count if "embed" in name else 0 for name in names}  # the embeddings lie under all layers
    below |= {name: count - 1 - layer for name, layer in layer_of.items()}
    return {name: base * config.layer_decay**number for name, number in below.items()}


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group the learning rate, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("lr_factor", 1.0)
