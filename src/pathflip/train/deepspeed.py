"""DeepSpeed's ZeRO stages 1 and 2 (arXiv 1910.02054) under the training loop.

accelerate steps the engine inside ``backward``; here the loop drives the engine itself, so that a loss that is not
finite is noticed before any weight moves. DeepSpeed is never imported here: the engine comes prepared.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pathflip.errors import ConfigError

__all__ = ["backward", "configure", "moments", "restore", "take_step"]

_MOMENTS = ("exp_avg", "exp_avg_sq")


def configure(settings: dict[str, Any], batch: int, accumulation: int, clip: float, precision: str) -> None:
    """Fill DeepSpeed's configuration from the run's, which alone decides on batches, optimiser, clipping and precision.

    Args:
        settings: DeepSpeed's configuration, changed in place.
        batch: slides of a micro-batch in one process.
        accumulation: micro-batches a step. clip: largest gradient norm, 0 for none. precision: "no" or "bf16".

    Raises:
        ConfigError: it asks for what the loop does itself, or for ZeRO-3.
    """
    if taken := [name for name in ("optimizer", "scheduler", "fp16", "bf16") if _is_set(settings.get(name))]:
        raise ConfigError(
            f"DeepSpeed configuration: got a section '{taken[0]}', expected none; remove it: optim.* and precision of "
            "the recipe decide"
        )
    zero = settings.get("zero_optimization", {})
    moved = [name for name in ("offload_optimizer", "offload_param") if _device(zero.get(name)) != "none"]
    if zero.get("stage", 0) not in (1, 2) or moved:
        got = f"zero_optimization.{moved[0]}" if moved else f"zero_optimization.stage {zero.get('stage', 0)}"
        raise ConfigError(
            f"DeepSpeed configuration: got {got}, expected ZeRO stage 1 or 2 without offloading; "
            "DDP does what stage 0 does, FSDP2 (fsdp_version: 2) shards weights"
        )
    if precision == "fp16":
        raise ConfigError("precision: got 'fp16' with DeepSpeed; expected 'bf16' or 'no'")
    settings |= {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "zero_allow_untested_optimizer": True,
    }
    if precision == "bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}


def _is_set(section: Any) -> bool:
    return bool(section) and section.get("enabled", True) not in (False, "auto")


def _device(section: Any) -> str:
    return str((section or {}).get("device", "none"))


def backward(engine: Any, loss: Tensor, last: bool) -> None:
    """Gradients of one micro-batch; averaged over processes behind the ``last`` one of a step."""
    engine.set_gradient_accumulation_boundary(is_boundary=last)
    engine.backward(loss)


def take_step(engine: Any) -> float:
    """Clip, move the weights, forget the gradients. Returns the gradients' norm before clipping."""
    engine.step()
    norm = engine.get_global_grad_norm()
    return float("nan") if norm is None else float(norm)


def moments(model: nn.Module, optimizer: Any) -> dict[str, Tensor] | None:
    """The optimiser's spread state by "<parameter>/<entry>", collected by all processes; None where none is spread."""
    if not _is_spread(model):
        return None
    _link(optimizer)
    state: dict[str, Tensor] = {}
    step = next(iter(optimizer.optimizer.state.values()))["step"]
    parameters: Iterator[tuple[str, Any]] = model.named_parameters()  # DeepSpeed hangs methods on them
    for name, parameter in parameters:
        for entry in _MOMENTS:
            state[f"{name}/{entry}"] = parameter.get_full_hp_param(entry).cpu()
        state[f"{name}/step"] = torch.tensor(float(step))
    return state


def restore(model: nn.Module, optimizer: Any, stored: dict[str, Tensor]) -> bool:
    """Put weights (already in ``model``) and moments into the spread state. False where none is spread."""
    if not _is_spread(model):
        return False
    optimizer.refresh_fp32_params()
    if not stored:
        return True
    step = next(value for key, value in stored.items() if key.endswith("/step"))
    for part in optimizer.single_partition_of_fp32_groups:
        empty = {entry: torch.zeros_like(part) for entry in _MOMENTS}
        optimizer.optimizer.state[part] = {"step": step.to(part.device, copy=True), **empty}
    _link(optimizer)
    parameters: Iterator[tuple[str, Any]] = model.named_parameters()
    for name, parameter in parameters:
        for entry in _MOMENTS:
            parameter.set_full_hp_param(stored[f"{name}/{entry}"].to(parameter.device), entry)
    return True


def _link(optimizer: Any) -> None:
    """Tell every parameter where its moments are. DeepSpeed (0.19) does so behind the first group's first step, when
    other groups have none yet.
    """
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()


def _is_spread(model: nn.Module) -> bool:
    return any(hasattr(parameter, "_hp_mapping") for parameter in model.parameters())
