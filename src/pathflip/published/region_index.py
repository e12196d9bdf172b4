"""Patches by region, as the published models read them."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pathflip.errors import ConfigError

__all__ = ["by_region"]


def by_region(
    patches: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"], regions: Int[Tensor, "B L S"] | None
) -> tuple[Float[Tensor, "B L S D"], Bool[Tensor, "B L S"]]:
    """The patches of every region, and which of them are real; empty slots (-1) show some other patch, masked.

    Raises:
        ConfigError: the batch knows no regions.
    """
    if regions is None:
        raise ConfigError("the published model reads regions, got none; expected a recipe that sets regions.side")
    place = regions.clamp(min=0).flatten(1)
    slide = torch.arange(len(patches), device=patches.device).unsqueeze(1)
    grouped, real = patches[slide, place], mask[slide, place]
    return grouped.unflatten(1, regions.shape[1:]), real.unflatten(1, regions.shape[1:]) & (regions >= 0)
