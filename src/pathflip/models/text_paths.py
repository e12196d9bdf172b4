"""Two ways into one text vector: a small Transformer trained from scratch, and a frozen pretrained encoder.

The first learns the cohort's own words, the second knows words that no report of the cohort used. Their vectors are
added. In training each text loses one of the two at times, so that neither can lean on the other, and the pretrained
vector is blurred by noise, so that its head cannot learn the training sentences by heart (docs/method.md).
"""

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from pathflip.errors import ConfigError
from pathflip.models.text_tower import Block, TextEncoder

__all__ = ["PretrainedHead", "PretrainedPath", "text_vectors"]


class PretrainedPath(BaseModel):
    """How a frozen pretrained encoder's vectors enter the text tower.

    Attributes:
        width: P, how many numbers a vector has; 0 means that there is no such path.
        scratch: also train a small Transformer from scratch; False leaves the pretrained path alone.
        only_scratch, only_pretrained: fractions of the texts that keep just that path in training, its vector doubled.
        noise: in training, standard deviations of the vector's own numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(0, ge=0)
    scratch: bool = True
    only_scratch: float = Field(0.3, ge=0, le=1)
    only_pretrained: float = Field(0.4, ge=0, le=1)
    noise: float = Field(0.5, ge=0)

    @model_validator(mode="after")
    def _fractions_fit(self) -> "PretrainedPath":
        if self.only_scratch + self.only_pretrained > 1:
            raise ValueError(
                f"only_scratch {self.only_scratch} and only_pretrained {self.only_pretrained} together exceed 1"
            )
        if not self.width and not self.scratch:
            raise ValueError("a text tower needs a path: width is 0 and scratch is False")
        return self


class PretrainedHead(nn.Module):
    """A pretrained encoder's vectors, standardised and projected to the width of the text tower."""

    vector_mean: Tensor
    vector_std: Tensor

    def __init__(self, path: PretrainedPath, width: int) -> None:
        super().__init__()
        self.path = path
        self.register_buffer("vector_mean", torch.zeros(path.width))
        self.register_buffer("vector_std", torch.ones(path.width))
        self.layers = nn.Sequential(nn.Linear(path.width, width), nn.LayerNorm(width))

    @torch.no_grad()
    def set_vector_statistics(self, vectors: Float[Tensor, "C P"]) -> None:
        """Standardise by the vectors of the training texts (kept in the checkpoint)."""
        self.vector_mean.copy_(vectors.mean(0))
        self.vector_std.copy_(vectors.std(0, correction=0).clamp(min=1e-4))

    def forward(self, vectors: Float[Tensor, "C P"]) -> Float[Tensor, "C W"]:
        """One vector a text; in training blurred by ``noise`` standard deviations."""
        standard = (vectors.to(self.vector_mean) - self.vector_mean) / self.vector_std
        if self.training and self.path.noise:
            standard = standard + self.path.noise * torch.randn_like(standard)
        projected: Tensor = self.layers(standard)
        return projected


def text_vectors(
    scratch: TextEncoder | None,
    head: PretrainedHead | None,
    block: Block,
    vectors: Float[Tensor, "C P"] | None,
) -> Float[Tensor, "C W"]:
    """One vector a text: from scratch (mean over its tokens), pretrained, or the sum of both.

    Args:
        scratch: the Transformer trained from scratch, where there is one.
        head: the pretrained path's head, where there is one.
        block: padded token ids and mask, for ``scratch``.
        vectors: the pretrained encoder's vectors, for ``head``.

    Raises:
        ConfigError: ``head`` has no vectors to work on.
    """
    learned = None if scratch is None else scratch([block], "mean")[0]
    if head is None:
        if learned is None:
            raise ConfigError("text tower: no path; expected a Transformer from scratch or a pretrained encoder")
        return learned
    if vectors is None:
        raise ConfigError(
            "text tower: the pretrained encoder's vectors of the texts are missing; open the model with "
            "pathflip.load, which opens its text encoder too"
        )
    known: Tensor = head(vectors)
    if learned is None:
        return known
    keep_learned, keep_known = _path_weights(head, len(known), known.device)
    return learned * keep_learned[:, None] + known * keep_known[:, None]


def _path_weights(
    head: PretrainedHead, count: int, device: torch.device
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Weights of the two paths for each text: 1 and 1; in training for some texts 2 and 0, for some 0 and 2."""
    both = torch.ones(count, device=device)
    if not head.training:
        return both, both
    draw = torch.rand(count, device=device)
    only_scratch = draw < head.path.only_scratch
    only_known = ~only_scratch & (draw < head.path.only_scratch + head.path.only_pretrained)
    return both + only_scratch.float() - only_known.float(), both + only_known.float() - only_scratch.float()
