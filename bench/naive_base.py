"""``align_base``'s model the way its formulas read, on the same parameters: what align_step.py measures ours against.

Every slot of the batch goes through the stem, padding included; sub-captions are padded to the limit of the recipe; and
for every slide and sub-caption the cosines with all patches are taken from a materialised (sub-captions, patches, E)
block and the attended vector is pooled before it is compared. Nobody publishes this schedule: it is what a direct
implementation does.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pathflip.models.pathflip import PathFLIP, PathFLIPConfig
from pathflip.models.text_tower import Block, TextEncoder
from pathflip.types import SlideCode, TextCode

__all__ = ["NaivePathFLIP"]


class PaddedTexts(TextEncoder):
    """Every slot of every text through every layer; the mean of the real ones."""

    def forward(self, blocks: Sequence[Block], pooling: str = "mean") -> list[Tensor]:
        """One (texts, W) tensor a block."""
        pooled = []
        for ids, mask in blocks:
            x = self.embeddings(ids, torch.arange(ids.shape[1]).expand_as(ids))
            for layer in self.layers:
                x = layer.text(x, mask)
            x = self.norm(x) * mask.unsqueeze(-1)
            pooled.append(x.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1))
        return pooled


class NaivePathFLIP(PathFLIP):
    """The same weights, losses and values."""

    def __init__(self, config: PathFLIPConfig) -> None:
        super().__init__(config)
        self.text.__class__ = PaddedTexts

    def encode_slides(
        self, patches: Tensor, patch_mask: Tensor, context: Tensor | None = None, position: Tensor | None = None
    ) -> SlideCode:
        """All slots, real or not."""
        mask = patch_mask
        parts = [None if part is None else part.flatten(0, 1) for part in (patches, context, position)]
        everything = torch.ones_like(mask).flatten().unsqueeze(0)
        hidden = self.stem(*parts, self.stem.draw_shift(everything)).unflatten(0, mask.shape)
        real = hidden * mask.unsqueeze(-1)
        mean = real.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        weight = self.slide_pool(hidden).squeeze(-1).masked_fill(~mask, float("-inf")).softmax(-1)
        attended = (weight.unsqueeze(-1) * real).sum(1)
        embeddings = F.normalize(self.key_head(hidden), dim=-1) * mask.unsqueeze(-1)
        return SlideCode(self.slide_head(torch.cat([mean, attended], -1)), embeddings, mask)

    def _logits(self, patches: Tensor, patch_mask: Tensor, texts: TextCode) -> Tensor:
        rows = []
        for own, mask in zip(patches, patch_mask, strict=True):
            similarity = F.cosine_similarity(own.unsqueeze(0), texts.local.unsqueeze(1), dim=-1)
            weight = (
                (self.log_sharpness.exp().clamp(max=100) * similarity).masked_fill(~mask, float("-inf")).softmax(-1)
            )
            pooled = (weight.unsqueeze(-1) * own).sum(dim=1)
            rows.append(F.cosine_similarity(pooled, texts.local, dim=-1, eps=1e-6))
        sign = 1.0 - 2.0 * texts.negated.to(patches.dtype)
        scale = self.logit_scale.exp().clamp(max=100)
        return texts.gate * scale * sign * (torch.stack(rows) - texts.margin)
