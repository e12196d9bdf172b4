"""The mean of the weights of a run's later steps (Polyak & Juditsky 1992; Izmailov et al. 2018, arXiv 1803.05407).

What is evaluated and saved are the mean weights; training itself goes on with its own. What it brings: docs/method.md.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pathflip.errors import TrainingError
from pathflip.train.state import placed_like

__all__ = ["MEAN_FILE", "WeightMean"]

MEAN_FILE = "mean_weights.safetensors"
"""Its file beside the weights of a training state."""


class WeightMean:
    """Mean of what training changes: parameters, and buffers of real numbers. Kept in float32 on the weights' device.

    Args:
        model: its weights are counted in by :meth:`add`.
        first: the first step that counts.
    """

    def __init__(self, model: nn.Module, first: int) -> None:
        self.model, self.first, self.count = model, first, 0
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Count in the weights as they are after ``step`` steps; nothing before ``first``."""
        if step < self.first:
            return
        self.count += 1
        for name, value in self._weights().items():
            if self.count == 1:
                self.mean[name] = value.detach().float().clone()
            else:
                # in this form a value that never changes keeps every bit
                self.mean[name].add_(value.detach().float() - self.mean[name], alpha=1 / self.count)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model holds the mean, where there is one; behind it its own weights again."""
        if not self.count:
            yield
            return
        own = {name: value.detach().clone() for name, value in self._weights().items()}
        self._put(self.mean)
        try:
            yield
        finally:
            self._put(own)

    def restore(self, state: Path, count: int) -> None:
        """The mean of ``count`` steps, as a training state holds it.

        Raises:
            TrainingError: it cannot be read, or is of another model.
        """
        self.count = count
        if not count:
            return
        try:
            stored = load_file(state / MEAN_FILE)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"training state {state}: {MEAN_FILE} cannot be read ({error}); start again with another --out"
            ) from error
        weights = self._weights()
        if {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in weights.items()}:
            raise TrainingError(f"training state {state}: {MEAN_FILE} is of another model; choose another --out")
        self.mean = {name: placed_like(stored[name], value) for name, value in weights.items()}

    def _weights(self) -> dict[str, Tensor]:
        trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        return trained | {name: value for name, value in self.model.named_buffers() if value.is_floating_point()}

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self._weights().items():
            value.copy_(values[name])
