"""One step of instruction tuning: conversations in, the loss of their answers out."""

from typing import Any

import torch
from torch import Tensor, nn

from pathflip.models.assistant import Assistant
from pathflip.train.train_step import TrainStep
from pathflip.types import InstructBatch

__all__ = ["InstructStep"]


class InstructStep(TrainStep):
    """The mean over conversations of the mean over their learned tokens.

    So a letter counts as much as a report; with one conversation a micro-batch this is the published loss.

    Args:
        model: gives a loss for every conversation of a batch, and those that training adds up.
    """

    def __init__(self, model: Assistant) -> None:
        super().__init__()
        self.model = model
        self.register_state_dict_post_hook(_drop_frozen)

    def forward(self, batch: InstructBatch) -> dict[str, Tensor]:
        """Named scalar losses."""
        losses: dict[str, Tensor] = self.model.losses(batch)  # type: ignore[operator]
        return losses

    @torch.no_grad()
    def suspects(self, batch: InstructBatch, encode: bool = True) -> dict[str, str]:
        """Slides that make a loss non-finite, each with where it shows."""
        reasons: dict[str, str] = {}
        if not (torch.isfinite(batch.vectors).all() and torch.isfinite(batch.numbers).all()):
            bad = ~(torch.isfinite(batch.vectors).all(1) & torch.isfinite(batch.numbers).all(1))
            owners = batch.conversation[(batch.visual >= 0) & bad[batch.visual.clamp(min=0)]]
            reasons = {batch.slide_ids[i]: "its visual tokens" for i in owners.unique().tolist()}
        if not reasons and encode:
            bad_loss = ~torch.isfinite(self.model(batch))
            reasons = {batch.slide_ids[i]: "its conversation's loss" for i in bad_loss.nonzero()[:, 0].tolist()}
        return reasons


def _drop_frozen(step: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """A training state need not hold billions of numbers that never move."""
    for name, parameter in step.named_parameters(prefix=prefix.removesuffix("."), remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(name, None)
