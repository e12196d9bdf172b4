"""The training state on disk: everything a killed run needs to go on as if nothing had happened.

```text
state/step-00000040/
  model.safetensors        weights and buffers
  optimizer.safetensors    "<parameter>/<entry>", for example "head.weight/exp_avg"
  mean_weights.safetensors mean of the weights so far, where TrainConfig.average_last asks for it
  state.json               step, configuration, best value so far, loss-scaler state
```

A new directory appears whole under its own name, then older ones go; so at any moment at least one is complete.
Random states are not in it because none outlives a step: data order and dropout are functions of (seed, step).
Nothing depends on the number of processes. No pickle is written or read.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pathflip.errors import TrainingError
from pathflip.io.files import atomic_directory, write_json
from pathflip.train import deepspeed

__all__ = ["is_sharded", "latest_state", "load_state", "placed_like", "save_state", "whole_weights"]

_LIKE_PARAMETER = ("exp_avg", "exp_avg_sq")
_NAME = re.compile(r"step-(\d{8})")


def latest_state(folder: Path) -> Path | None:
    """The newest complete state under ``folder``, or None."""
    folders = sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))
    return folders[-1] if folders else None


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    record: dict[str, Any],
    write: bool = True,
    more: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write the state after ``record["step"]`` steps and remove older ones.

    Every process calls it (sharded parameters are collected by all of them); those with ``write`` False write nothing.
    ``more``: further tensors, by the name of their file.
    """
    weights = {name: _whole(value) for name, value in model.state_dict().items()}
    moments = deepspeed.moments(model, optimizer)
    if moments is None:
        moments = {
            f"{name}/{entry}": _whole(torch.as_tensor(value))
            for name, parameter in model.named_parameters()
            for entry, value in optimizer.state.get(parameter, {}).items()
        }
    others = {file: {name: _whole(value) for name, value in own.items()} for file, own in (more or {}).items() if own}
    if not write:
        return
    target = folder / f"step-{record['step']:08d}"
    with atomic_directory(target) as temporary:
        save_file(weights, temporary / "model.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        for file, tensors in others.items():
            save_file(tensors, temporary / file)
        write_json(temporary / "state.json", record)
    for path in folder.iterdir():
        if path != target and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a saved state into ``model`` and ``optimizer``; the rest of it is returned.

    Raises:
        TrainingError: the state is damaged, or of another model.
    """
    try:
        weights, moments = load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors")
        record: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainingError(
            f"training state {path}: cannot be read ({error}); start again with another --out"
        ) from error
    own = model.state_dict()
    _same_names(path, own, weights)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(placed_like(weights[name], value))
    if deepspeed.restore(model, optimizer, moments):
        return record
    for name, parameter in model.named_parameters():
        entries = {key.rpartition("/")[2]: value for key, value in moments.items() if key.rpartition("/")[0] == name}
        if entries:
            optimizer.state[parameter] = {
                entry: placed_like(value, parameter if entry in _LIKE_PARAMETER else value.to(parameter.device))
                for entry, value in entries.items()
            }
    return record


def _same_names(path: Path, own: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    missing, foreign = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
    shapes = [name for name in own.keys() & stored.keys() if own[name].shape != stored[name].shape]
    if missing or foreign or shapes:
        raise TrainingError(
            f"training state {path}: is of another model (missing {missing[:3]}, unknown {foreign[:3]}, other shape "
            f"{sorted(shapes)[:3]}); expected the model it was written by; choose another --out"
        )


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Collect sharded weights on every process for a while, so that any part of the model can be called."""
    units: list[Any] = [part for part in model.modules() if hasattr(part, "unshard")]
    for unit in units:
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters are spread over processes (FSDP2), so that reading one takes all processes."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def _whole(value: Tensor) -> Tensor:
    """A contiguous copy on the CPU; collected from all processes where it is sharded."""
    full = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full.detach().to("cpu", copy=True).contiguous()


def placed_like(value: Tensor, reference: Any) -> Tensor:
    """The same numbers on the device, and in the shards, of ``reference``."""
    value = value.to(reference.device)
    if not hasattr(reference, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Tensor = distribute_tensor(value, reference.device_mesh, reference.placements)
    return sharded
