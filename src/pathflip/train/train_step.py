"""What the training loop asks of a step."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

__all__ = ["TrainStep"]


class TrainStep(nn.Module, ABC):
    """A batch in, named losses out. On many processes it is what DDP or FSDP wraps.

    Attributes:
        model: what is trained, evaluated and saved.
    """

    model: nn.Module

    @abstractmethod
    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Named scalar losses; their sum is what training minimises."""

    @abstractmethod
    def suspects(self, batch: Any, encode: bool = True) -> dict[str, str]:
        """Slides of a batch that make a loss non-finite, each with where it shows; empty where no slide does alone.

        Args:
            batch: the batch whose loss was not finite.
            encode: also run the model, if what it is given is clean.
        """
