"""A text in words that no training text used is read, for the larger part, as the training texts nearest to it.

The rest of the model was trained on the vectors of training texts alone. A text in other words lies beside them, and
what the model makes of the difference is noise; moved towards its nearest neighbours among them it lies where the model
knows what it sees. What that brings, and how share, number and sharpness were chosen, is told in docs/method.md.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["KnownTexts"]

NEAREST = 15
"""Training texts that a text is moved towards."""
SHARPNESS = 20.0
"""Inverse temperature of the softmax over their similarities."""
SHARE = 0.7
"""How much of the vector is theirs."""
ROUNDS = 15
"""Of k-means, where there are more training texts than places."""
MOST = 20_000
"""Training texts that k-means looks at, a seeded sample of more."""


class KnownTexts(nn.Module):
    """Vectors of the training texts, or of groups of like ones where there are more than ``count``.

    They are part of the checkpoint and no part of training: set before weights are saved, zeros before that. Rows of
    zeros are empty places; with no other rows a text stays as it is.
    """

    vectors: Tensor

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(count, width))

    @torch.no_grad()
    def remember(self, vectors: Float[Tensor, "C W"]) -> None:
        """Keep the vectors of the training texts; of more than there are places for, the centres of k-means."""
        own, count = vectors.detach().float(), len(self.vectors)
        if len(own) > count:
            own = _centres(own, count)
        self.vectors.zero_()
        self.vectors[: len(own)] = own.to(self.vectors)

    @torch.no_grad()
    def forget(self) -> None:
        """As before training."""
        self.vectors.zero_()

    def forward(self, texts: Float[Tensor, "C W"], unknown: Bool[Tensor, " C"]) -> Float[Tensor, "C W"]:
        """The texts' vectors, those of ``unknown`` ones moved; the others to the bit as they were."""
        there = self.vectors[self.vectors.abs().sum(1) > 0].to(texts)
        if not len(there) or not bool(unknown.any()):
            return texts
        centre = there.mean(0)
        own = texts[unknown]
        similarity = F.normalize(own - centre, dim=-1) @ F.normalize(there - centre, dim=-1).T
        nearest, rows = similarity.topk(min(NEAREST, len(there)), dim=1)
        near = torch.einsum("ck,ckw->cw", (SHARPNESS * nearest).softmax(1), there[rows])
        moved = texts.clone()
        moved[unknown] = (1 - SHARE) * own + SHARE * near
        return moved


def _centres(vectors: Float[Tensor, "C W"], count: int) -> Float[Tensor, "G W"]:
    """Centres of ``count`` groups of like vectors (k-means by Lloyd's rounds); the same for the same vectors."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(vectors), generator=generator)[:MOST]
    own = vectors.cpu()[order]
    centres = own[:count].clone()
    for _ in range(ROUNDS):
        group = torch.cdist(own, centres).argmin(1)
        size = torch.bincount(group, minlength=count)[:, None]
        total = torch.zeros_like(centres).index_add_(0, group, own)
        centres = torch.where(size > 0, total / size.clamp(min=1), centres)
    return centres
