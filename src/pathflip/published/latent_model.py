"""The published model, variant 2 (the authors' later release): latent tokens read the patches, patches read them back.

Defaults are right where the released code is wrong; :data:`AS_RELEASED` brings its behaviour back
(docs/published.md).
"""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pathflip import losses
from pathflip.errors import ConfigError
from pathflip.models.layers import MultiHeadAttention, TextKeyAttention, drop_padding
from pathflip.models.text_tower import Block, Pooling, TextConfig, TextEncoder
from pathflip.published import region_losses
from pathflip.published.negatives import met_by_blocks, met_in_global_batch
from pathflip.types import AlignBatch, AlignOutput, SlideChunks, SlideCode, TextCode

__all__ = ["AS_RELEASED", "PerceiverConfig", "PerceiverPathFLIP"]

AS_RELEASED: dict[str, Any] = {
    "raw_logit_scale": True,
    "pooling": "mean_with_padding",
    "normalize": "entries",
    "process_positives": True,
    "process_blocks": True,
    "repeats_are_negatives": True,
    "second_skip": True,
}
"""The settings of the released training script (``text_conditioned`` was released with ``normalize="positives"``)."""

_EPS = 1.1920929e-07  # float32 machine epsilon: what torch's RMSNorm uses when not told, fixed here for every precision


class PerceiverConfig(BaseModel):
    """Sizes and switches of :class:`PerceiverPathFLIP`; the defaults are the published sizes.

    Attributes:
        feature_dim: D. embed_dim: E, also the width of the slide encoder.
        num_latents: one global token and the rest.
        num_layers: (cross, self) pairs of blocks before the decoder.
        dropout: of the slide encoder. head_dropout: of the projections. text_dropout: of the text encoder.
        pooling: of a text's tokens (:func:`pathflip.models.text_tower.encode`).
        slide_loss: ``sigmoid`` (SigLIP) or ``info_nce`` with temperature and smoothing.
        region_loss: ``soft_top_k`` pooling of patches by similarity, or ``text_conditioned`` attention.
        top_k, top_k_temperature: of the soft top-k.
        slide_term: add to ``text_conditioned`` the term that matches whole slides' texts with each other.
        scale, bias: start of the logit scales and biases of both losses.
        normalize: what the region loss is divided by (:data:`pathflip.published.region_losses.Normalize`).
        raw_logit_scale: the parameter is the scale itself, as released; else its logarithm.
        process_positives: with several processes, soft top-k calls every local pair true, as released.
        process_blocks: each process draws the candidates of ``text_conditioned`` among its own slides and lends them
            to the others row by row, as released; else they are drawn from the global batch.
        repeats_are_negatives: call a sub-caption false of another slide whose caption holds it too, as released.
        second_skip: add the patches once more behind the decoder block, as released.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["perceiver"] = "perceiver"
    feature_dim: PositiveInt = 512
    vocab_size: PositiveInt = 28996
    embed_dim: PositiveInt = 512
    num_latents: PositiveInt = 129
    num_heads: PositiveInt = 8
    num_layers: PositiveInt = 1
    dropout: float = Field(0.2, ge=0, lt=1)
    head_dropout: float = Field(0.1, ge=0, lt=1)
    text_width: PositiveInt = 768
    text_layers: PositiveInt = 12
    text_heads: PositiveInt = 12
    text_ffn_width: PositiveInt = 3072
    text_dropout: float = Field(0.1, ge=0, lt=1)
    max_tokens: PositiveInt = 512
    pooling: Pooling = "mean"
    slide_loss: Literal["sigmoid", "info_nce"] = "sigmoid"
    temperature: PositiveFloat = 0.1
    smoothing: float = Field(0.1, ge=0, lt=1)
    region_loss: Literal["soft_top_k", "text_conditioned"] = "soft_top_k"
    top_k: PositiveInt = 128
    top_k_temperature: PositiveFloat = 0.5
    slide_term: bool = False
    scale: PositiveFloat = 10.0
    bias: float = -10.0
    normalize: region_losses.Normalize = "balanced"
    raw_logit_scale: bool = False
    process_positives: bool = False
    process_blocks: bool = False
    repeats_are_negatives: bool = False
    second_skip: bool = False
    checkpoint_layers: bool = False

    def text(self) -> TextConfig:
        """The sizes of the text encoder."""
        return TextConfig(
            vocab_size=self.vocab_size,
            width=self.text_width,
            num_layers=self.text_layers,
            num_heads=self.text_heads,
            ffn_width=self.text_ffn_width,
            max_tokens=self.max_tokens,
            dropout=self.text_dropout,
        )


class _Mlp(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down, self.dropout = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), dropout

    def forward(self, x: Float[Tensor, "*b E"]) -> Float[Tensor, "*b E"]:
        hidden = F.dropout(F.gelu(self.up(x)), self.dropout, self.training)
        return F.dropout(self.down(hidden), self.dropout, self.training)


class LatentBlock(nn.Module):
    """Pre-norm attention of rows x over rows y, then a feed-forward; a block over x itself shares one norm."""

    def __init__(self, width: int, num_heads: int, dropout: float, over_itself: bool = False) -> None:
        super().__init__()
        self.norm_q = nn.RMSNorm(width, eps=_EPS)
        self.norm_kv = None if over_itself else nn.RMSNorm(width, eps=_EPS)
        self.attention = MultiHeadAttention(width, num_heads, dropout)
        self.norm_ffn = nn.RMSNorm(width, eps=_EPS)
        self.mlp = _Mlp(width, dropout)

    def forward(
        self, x: Float[Tensor, "B Q E"], y: Float[Tensor, "B M E"], mask: Bool[Tensor, "B M"] | None = None
    ) -> Float[Tensor, "B Q E"]:
        """``mask`` says which rows of y are real."""
        rows = (self.norm_kv or self.norm_q)(y)
        x = x + self.attention(self.norm_q(x), rows, rows, mask)
        return x + self.mlp(self.norm_ffn(x))

    def over_chunks(
        self, x: Float[Tensor, "B Q E"], chunks: Iterable[Float[Tensor, "B _ E"]]
    ) -> Float[Tensor, "B Q E"]:
        """:meth:`forward` (without dropout) over rows y that come in chunks."""
        norm = self.norm_kv or self.norm_q
        x = x + self.attention.over_chunks(self.norm_q(x), (norm(y) for y in chunks))
        return x + self.mlp(self.norm_ffn(x))


def _projection(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.RMSNorm(outputs, eps=_EPS), nn.Dropout(dropout))


class PerceiverPathFLIP(nn.Module):
    """Variant 2. Satisfies :class:`~pathflip.types.AlignModel`."""

    reads_context = False
    reads_regions = False
    captions_are_sub_captions = False

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        if config.embed_dim % config.num_heads:
            raise ConfigError(f"embed_dim: got {config.embed_dim}, expected a multiple of num_heads {config.num_heads}")
        self.config = config
        width, sizes = config.embed_dim, (config.embed_dim, config.num_heads, config.dropout)
        self.patch_proj = _projection(config.feature_dim, width, config.head_dropout)
        self.latents = nn.Parameter(torch.randn(1, config.num_latents, width))
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"cross": LatentBlock(*sizes), "self": LatentBlock(*sizes, over_itself=True)})
            for _ in range(config.num_layers)
        )
        self.decoder = LatentBlock(*sizes)
        self.slide_head = _projection(width, width, config.head_dropout)
        self.key_head = _projection(width, width, config.head_dropout)
        self.text_encoder = TextEncoder(config.text(), config.checkpoint_layers)
        self.caption_head = _projection(config.text_width, width, config.head_dropout)
        self.local_head = _projection(config.text_width, width, config.head_dropout)
        self.region_head = None
        if config.region_loss == "text_conditioned":
            self.region_head = TextKeyAttention(width, config.num_heads, "normed")
        scale = config.scale if config.raw_logit_scale else math.log(config.scale)
        self.logit_scale, self.logit_bias = (nn.Parameter(torch.tensor(start)) for start in (scale, config.bias))
        if config.slide_loss == "sigmoid":
            self.logit_scale_global = nn.Parameter(torch.tensor(scale))
            self.logit_bias_global = nn.Parameter(torch.tensor(config.bias))

    # ------------------------------------------------------------------------------------------ encoding

    def forward(self, batch: AlignBatch) -> AlignOutput:
        """Encode both sides of a batch; captions and sub-captions in one pass."""
        code = self.encode_slides(batch.patches, batch.patch_mask)
        subs = (batch.sub_caption_ids.flatten(0, 1), batch.sub_caption_token_mask.flatten(0, 1))
        caption, sub = self.text_encoder([(batch.caption_ids, batch.caption_mask), subs], self.config.pooling)
        sub = self.local_head(sub).unflatten(0, batch.sub_caption_mask.shape)
        return AlignOutput(code.slide, self.caption_head(caption), code.patches, code.patch_mask, sub)

    def encode_slides(self, patches: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> SlideCode:
        """Padded slides into the shared space."""
        tokens, features = self.encode_patches(patches, mask)
        return SlideCode(slide=self.slide_head(tokens[:, 0]), patches=self.key_head(features), patch_mask=mask)

    def encode_patches(
        self, patches: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B N E"]]:
        """Latent tokens, and patch features that have read them."""
        x = self._project(patches, mask)
        tokens = self._read(x, mask)
        features = self.decoder(x, tokens)
        return tokens, features + x if self.config.second_skip else features

    def encode_slide(self, chunks: SlideChunks) -> SlideCode:
        """One slide of any size, chunk by chunk: the code of :meth:`encode_slides`, without gradients.

        The patches are read once for every block of latents and once to be decoded; only their embeddings are kept.
        """
        tokens = self.latents
        for block in self.blocks:
            projected = (self._project(chunk.patches[None]) for chunk in chunks())
            tokens = block["cross"].over_chunks(tokens, projected)  # type: ignore[index]
            tokens = block["self"](tokens, tokens)  # type: ignore[index]
        embeddings = []
        for chunk in chunks():
            x = self._project(chunk.patches[None])
            features = self.decoder(x, tokens)
            embeddings.append(self.key_head(features + x if self.config.second_skip else features))
        patches = torch.cat(embeddings, dim=1)
        mask = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
        return SlideCode(slide=self.slide_head(tokens[:, 0]), patches=patches, patch_mask=mask)

    def _project(self, patches: Tensor, mask: Tensor | None = None) -> Float[Tensor, "B N E"]:
        if patches.shape[-1] != self.config.feature_dim:
            raise ConfigError(f"patch features are {patches.shape[-1]} wide, expected {self.config.feature_dim}")
        return self.patch_proj(patches if mask is None else drop_padding(patches, mask))

    def _read(self, x: Float[Tensor, "B M E"], mask: Bool[Tensor, "B M"]) -> Float[Tensor, "B Q E"]:
        tokens = self.latents.expand(len(x), -1, -1)
        for block in self.blocks:
            tokens = block["cross"](tokens, x, mask)  # type: ignore[index]
            tokens = block["self"](tokens, tokens)  # type: ignore[index]
        return tokens

    def encode_texts(
        self,
        texts: tuple[str, ...],
        ids: Int[Tensor, "C T"],
        mask: Bool[Tensor, "C T"],
        negated: Bool[Tensor, " C"],
        vectors: Float[Tensor, "C P"] | None = None,
        unknown: Bool[Tensor, " C"] | None = None,
    ) -> TextCode:
        """Texts into the shared space, as captions and as sub-captions. ``vectors``, ``unknown``: not used."""
        block: Block = (ids, mask)
        (pooled,) = self.text_encoder([block], self.config.pooling)
        return TextCode(texts, self.caption_head(pooled), self.local_head(pooled), negated)

    # ------------------------------------------------------------------------------------------ scores

    def similarity(self, slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C"]:
        """Cosine of slide and caption embeddings."""
        return losses.cosine(slides.slide, texts.caption)

    def presence(
        self, slides: SlideCode, texts: TextCode, patch_similarity: Float[Tensor, "B C M"] | None = None
    ) -> Float[Tensor, "B C"]:
        """The region loss's logit: scaled cosine of a text and what it pooled among the patches."""
        pooled = self._pooled(texts.local, slides.patches, slides.patch_mask)
        scale, bias = self._scaling()
        return scale * F.cosine_similarity(pooled.float(), texts.local.float(), dim=-1, eps=1e-12) + bias

    def patch_similarity(self, slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C M"]:
        """Cosine of patches and text; with a text-conditioned head its attention, mean of the heads."""
        if self.region_head is None:
            scores = losses.cosine(texts.local.expand(len(slides.patches), -1, -1), slides.patches)
        else:
            scores = self.region_head.weights(texts.local, slides.patches, slides.patch_mask).mean(dim=1)
        return scores.masked_fill(~slides.patch_mask.unsqueeze(1), float("-inf"))

    def set_feature_statistics(self, mean: Float[Tensor, " D"], std: Float[Tensor, " D"]) -> None:
        """Nothing: the published model takes features as they come."""

    # ------------------------------------------------------------------------------------------ training

    def _pooled(
        self, texts: Float[Tensor, "*b C E"], keys: Float[Tensor, "B M E"], key_mask: Bool[Tensor, "B M"]
    ) -> Float[Tensor, "B C E"]:
        """What each text found among a slide's patches."""
        if self.region_head is not None:
            return self.region_head(texts, keys, key_mask)
        own = texts.expand(len(keys), *texts.shape[-2:])
        return region_losses.soft_top_k_pool(own, keys, key_mask, self.config.top_k, self.config.top_k_temperature)[0]

    def _scaling(self, part: Literal["", "_global"] = "") -> tuple[Tensor, Tensor]:
        scale, bias = getattr(self, f"logit_scale{part}"), getattr(self, f"logit_bias{part}")
        return scale if self.config.raw_logit_scale else scale.exp(), bias

    def losses(
        self, output: AlignOutput, batch: AlignBatch, candidates: Int[Tensor, "B C"] | None = None
    ) -> dict[str, Tensor]:
        """Slide loss and region loss.

        Args:
            output: what :meth:`forward` gave for ``batch``.
            batch: the batch.
            candidates: for ``text_conditioned``: which sub-captions of the global batch each slide meets. Default:
                its own and one random of each other slide, drawn from torch's random stream, as dropout is.
        """
        equal = None if self.config.repeats_are_negatives else losses.equal_captions(batch.caption_key)
        slides, captions = output.slide, output.caption
        if self.config.slide_loss == "sigmoid":
            slide = region_losses.sigmoid(slides, captions, *self._scaling("_global"), left_out=equal)
        else:
            out = None if equal is None else (equal, equal)
            scale = 1.0 / self.config.temperature
            slide = losses.info_nce(slides, captions, scale, self.config.smoothing, left_out=out)
        if self.config.region_loss == "soft_top_k":
            return {"slide": slide, "region": self._soft_top_k_loss(output, batch)}
        return {"slide": slide, "region": self._text_conditioned_loss(output, batch, candidates)}

    def _soft_top_k_loss(self, output: AlignOutput, batch: AlignBatch) -> Tensor:
        return region_losses.soft_top_k(
            self._pooled(output.sub_captions, output.patches, output.patch_mask),
            output.sub_captions,
            *self._scaling(),
            self.config.normalize,
            sub_caption_mask=batch.sub_caption_mask,
            sub_caption_keys=None if self.config.repeats_are_negatives else batch.sub_caption_keys,
            positives="process" if self.config.process_positives else "own",
        )

    def _text_conditioned_loss(self, output: AlignOutput, batch: AlignBatch, candidates: Tensor | None) -> Tensor:
        config, scaling = self.config, self._scaling()
        if config.process_blocks:
            texts, labels = met_by_blocks(output, batch, candidates, config.repeats_are_negatives)
        else:
            texts, labels = met_in_global_batch(output, batch, candidates, True, config.repeats_are_negatives)
        pooled = self._pooled(texts, output.patches, output.patch_mask)
        loss = region_losses.text_conditioned(pooled, texts, labels, *scaling, config.normalize)
        if not config.slide_term:
            return loss
        texts, labels = met_in_global_batch(output, batch, None, False, config.repeats_are_negatives)
        logits = scaling[0] * losses.cosine(output.slide, texts) + scaling[1]
        return 0.5 * (loss + region_losses.pair_sigmoid(logits, labels, config.normalize))
