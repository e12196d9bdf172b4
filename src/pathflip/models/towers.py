"""What PathFLIP and the CLIP baselines share: the settings of both towers, and the stem over patch features."""

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pathflip.models.known_texts import KnownTexts
from pathflip.models.text_paths import PretrainedHead, PretrainedPath
from pathflip.models.text_tower import TextConfig

__all__ = ["PatchStem", "TowerConfig"]


class TowerConfig(BaseModel):
    """Sizes and regularisation of the patch stem and the text tower, which PathFLIP and the CLIP baselines share.

    Attributes:
        feature_dim: D, width of the patch features.
        vocab_size: number of tokens of the tokenizer.
        width: W of the patch stem. embed_dim: E of the shared space.
        text_width, text_layers, text_heads, text_ffn, max_tokens: the text tower.
        word_dropout: fraction of word pieces hidden in training, so that no single word decides.
        feature_noise: spread of Gaussian noise on standardised features in training.
        slide_noise: the same, but one draw for all patches of a slide: staining and scanner shift whole slides, and
            a slide must not be known by its shift.
        context: use the 3×3 neighbourhood mean beside each patch (the largest single gain for heatmaps).
        position: use each patch's place in the tissue, so that "upper left" can be learned.
        scale: start of the logit scales (stored as their logarithm).
        pretrained: a pretrained encoder's vectors beside, or instead of, the text tower from scratch.
        known_texts: vectors of training texts kept for reading texts in other words
            (:mod:`~pathflip.models.known_texts`); 0, as in older checkpoints: none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature_dim: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    width: int = 256
    embed_dim: int = 128
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    text_ffn: int = 256
    max_tokens: int = 512
    dropout: float = Field(0.1, ge=0, lt=1)
    word_dropout: float = Field(0.0, ge=0, lt=1)
    feature_noise: float = Field(0.0, ge=0)
    slide_noise: float = Field(0.0, ge=0)
    context: bool = True
    position: bool = True
    scale: float = 10.0
    pretrained: PretrainedPath = PretrainedPath()
    known_texts: int = Field(0, ge=0, le=65_536)

    def pretrained_head(self) -> PretrainedHead | None:
        """The head of the pretrained path, where there is one."""
        return PretrainedHead(self.pretrained, self.text_width) if self.pretrained.width else None

    def known_texts_part(self) -> KnownTexts | None:
        """The place for vectors of training texts, where they are to be kept."""
        return KnownTexts(self.known_texts, self.text_width) if self.known_texts else None

    def text(self) -> TextConfig:
        """The sizes of the text tower: a small pre-norm Transformer over word pieces."""
        return TextConfig(
            vocab_size=self.vocab_size,
            width=self.text_width,
            num_layers=self.text_layers,
            num_heads=self.text_heads,
            ffn_width=self.text_ffn,
            max_tokens=self.max_tokens,
            token_types=False,
            norm_first=True,
            dropout=self.dropout,
            word_dropout=self.word_dropout,
            eps=1e-5,
        )


class PatchStem(nn.Module):
    """Patch features, neighbourhood mean and position to hidden vectors."""

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("feature_mean", torch.zeros(config.feature_dim))
        self.register_buffer("feature_std", torch.ones(config.feature_dim))
        inputs = config.feature_dim * (2 if config.context else 1) + (8 if config.position else 0)
        self.layers = nn.Sequential(
            nn.Linear(inputs, config.width),
            nn.GELU(),
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.width),
            nn.GELU(),
            nn.LayerNorm(config.width),
        )

    def forward(
        self,
        patches: Float[Tensor, "V D"],
        context: Float[Tensor, "V D"] | None,
        position: Float[Tensor, "V 2"] | None,
        shift: Float[Tensor, "V D"] | None = None,
    ) -> Float[Tensor, "V W"]:
        """Hidden vectors of V real patches; ``shift`` is added to standardised features."""
        parts = [(patches - self.feature_mean) / self.feature_std]
        if self.config.context:
            around = patches if context is None else context
            parts.append((around - self.feature_mean) / self.feature_std)
        if self.training and self.config.feature_noise:
            parts = [part + self.config.feature_noise * torch.randn_like(part) for part in parts]
        if shift is not None:
            parts = [part + shift for part in parts]
        if self.config.position:
            place = torch.full_like(patches[:, :2], 0.5) if position is None else position
            angle = torch.pi * (place - 0.5)
            parts.append(torch.cat([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], dim=-1))
        return self.layers(torch.cat(parts, dim=-1))

    def draw_shift(
        self, mask: Bool[Tensor, "B M"], real: Int[Tensor, " V"] | None = None
    ) -> Float[Tensor, "V D"] | None:
        """In training with ``slide_noise``: one random shift a slide, repeated for each of its real patches.

        ``real``: the places of these, counted over all slides; with them no host waits for their number.
        """
        if not (self.training and self.config.slide_noise):
            return None
        shift = self.config.slide_noise * torch.randn(len(mask), self.config.feature_dim, device=mask.device)
        return shift.repeat_interleave(mask.sum(1), dim=0) if real is None else shift[real // mask.shape[1]]
