"""The published model, variant 1 (arXiv 2512.17621): slide and region Q-Formers with shared weights, a transformer
that mixes slide and regions, and text-conditioned attention over regions.

Same values and gradients as the authors' code where that is right, several times faster (docs/performance.md). Where it
is wrong the default here is right and a setting brings the old behaviour back (docs/published.md). :data:`REPAIRED`
changes what makes it stall on cohorts of hundreds of slides, which is a matter of the method, not of its code.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pathflip import losses
from pathflip.errors import ConfigError
from pathflip.models.layers import TextKeyAttention, cosine_of_patches, drop_padding
from pathflip.models.text_tower import Block, TextConfig, TextLayer, encode
from pathflip.published import region_losses
from pathflip.published.negatives import met_by_blocks, met_in_global_batch
from pathflip.published.patch_attention import ChunkReader
from pathflip.published.qformer import QFormer
from pathflip.published.region_index import by_region
from pathflip.types import AlignBatch, AlignOutput, SlideChunks, SlideCode, TextCode

__all__ = ["AS_RELEASED", "REPAIRED", "PublishedConfig", "PublishedPathFLIP"]

AS_RELEASED: dict[str, Any] = {
    "raw_logit_scale": True,
    "normalize": "candidates",
    "detach_gathered": True,
    "process_blocks": True,
    "repeats_are_negatives": True,
}
"""The settings that reproduce the released code, defects included: ``PublishedConfig(..., **AS_RELEASED)``."""

REPAIRED: dict[str, Any] = {
    "init": "by_width",
    "text_pooling": "mean",
    "standardize": True,
    "learned_temperature": True,
    "bias": 0.0,
    "candidates": "all",
    "normalize": "balanced",
    "region_keys": "patches",
    "heat": "similarity",
}
"""The settings that let the model learn from hundreds of slides (together; measured in docs/published.md)."""


class PublishedConfig(BaseModel):
    """Sizes and switches of :class:`PublishedPathFLIP`; the defaults are the published sizes.

    Attributes:
        feature_dim: D. embed_dim: E. width: W of the Q-Former.
        cross_every: layers 0, cross_every, … read patches.
        max_tokens: positions the text path knows.
        region_head: ``projected`` as published; ``normed``: layer norms instead of the extra projections.
        temperature, smoothing: of the slide loss.
        scale: start of the region loss's logit scale. bias: its logit bias (None: no such parameter, as published).
        candidates: texts a slide meets in the region loss: its own and one random of each other slide (``sampled``,
            as published), or ``all`` of the global batch.
        normalize: what the region loss is divided by (:data:`pathflip.published.region_losses.Normalize`).
        raw_logit_scale: use the logarithm of the scale as the scale, as released (2.66 instead of 14.3).
        detach_gathered: no gradient through other processes' embeddings in the slide loss, as released.
        process_blocks: each process draws its candidates among its own slides and lends them to the others row by
            row, as released; else they are drawn from the global batch.
        repeats_are_negatives: call another slide's sub-caption false even where this slide's caption holds it, as
            released.
        init: of the Q-Former's linear layers. ``bert``: N(0, .02) whatever their width, as published (where it is 768);
            ``by_width``: scaled so that narrower layers pass on as much as 768 wide ones.
        text_pooling: what stands for a text: its first token (``cls``, as published) or the ``mean`` of its tokens.
        standardize: features minus the training set's mean, over its spread; else as they come, as published.
        learned_temperature: the slide loss's temperature is learned from ``temperature`` on; else it stays.
        region_keys: what texts attend to. ``qformer``: what the queries find in each region, as published;
            ``patches``: the mean of the region's projected patches (with regions of one patch: single patches).
        heat: the heatmap of a text. ``attention``: the region head's weights, as published; ``similarity``: cosine of
            the text with what it would find if a region were all there is.
        checkpoint_layers: recompute Q-Former and text layers in the backward pass (less memory, a third more time).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["published"] = "published"
    feature_dim: PositiveInt = 512
    vocab_size: PositiveInt = 28997
    embed_dim: PositiveInt = 256
    width: PositiveInt = 768
    num_layers: PositiveInt = 12
    num_heads: PositiveInt = 12
    ffn_width: PositiveInt = 3072
    max_tokens: PositiveInt = 512
    num_queries: PositiveInt = 8
    cross_every: PositiveInt = 2
    mixing_layers: PositiveInt = 2
    mixing_heads: PositiveInt = 8
    region_heads: PositiveInt = 8
    region_head: Literal["projected", "normed"] = "projected"
    dropout: float = Field(0.1, ge=0, lt=1)
    temperature: PositiveFloat = 0.1
    smoothing: float = Field(0.1, ge=0, lt=1)
    scale: PositiveFloat = 1 / 0.07
    bias: float | None = None
    candidates: Literal["sampled", "all"] = "sampled"
    normalize: region_losses.Normalize = "entries"
    raw_logit_scale: bool = False
    detach_gathered: bool = False
    process_blocks: bool = False
    repeats_are_negatives: bool = False
    init: Literal["bert", "by_width"] = "bert"
    text_pooling: Literal["cls", "mean"] = "cls"
    standardize: bool = False
    learned_temperature: bool = False
    region_keys: Literal["qformer", "patches"] = "qformer"
    heat: Literal["attention", "similarity"] = "attention"
    checkpoint_layers: bool = False

    def text(self) -> TextConfig:
        """The sizes of the Q-Former as a BERT."""
        return TextConfig(
            vocab_size=self.vocab_size,
            width=self.width,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            ffn_width=self.ffn_width,
            max_tokens=self.max_tokens,
            token_types=False,
            dropout=self.dropout,
        )


class PublishedPathFLIP(nn.Module):
    """Variant 1. Satisfies :class:`~pathflip.types.AlignModel`; texts are compared with regions."""

    reads_context = False
    reads_regions = True
    captions_are_sub_captions = False
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__()
        if config.embed_dim % config.mixing_heads or config.embed_dim % config.region_heads:
            raise ConfigError(
                f"embed_dim: got {config.embed_dim}, expected a multiple of mixing_heads {config.mixing_heads} "
                f"and region_heads {config.region_heads}"
            )
        self.config = config
        self.patch_proj = nn.Linear(config.feature_dim, config.embed_dim)
        self.query_tokens = nn.Parameter(0.02 * torch.randn(1, config.num_queries, config.width))
        self.qformer = QFormer(config.text(), config.embed_dim, config.cross_every, config.checkpoint_layers)
        if config.init == "by_width":
            self.qformer.scale_weights_to_width()
        self.slide_proj = nn.Linear(config.width, config.embed_dim)
        self.text_proj = nn.Linear(config.width, config.embed_dim)
        layer = nn.TransformerEncoderLayer(
            config.embed_dim, config.mixing_heads, 4 * config.embed_dim, config.dropout, batch_first=True
        )
        self.mixing = nn.TransformerEncoder(layer, config.mixing_layers, enable_nested_tensor=False)
        self.region_head = TextKeyAttention(config.embed_dim, config.region_heads, config.region_head)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
        self.logit_bias = None if config.bias is None else nn.Parameter(torch.tensor(config.bias))
        start = torch.tensor(-math.log(config.temperature))
        self.slide_logit_scale = nn.Parameter(start) if config.learned_temperature else None
        if config.standardize:
            self.register_buffer("feature_mean", torch.zeros(config.feature_dim))
            self.register_buffer("feature_std", torch.ones(config.feature_dim))

    # ------------------------------------------------------------------------------------------ encoding

    def forward(self, batch: AlignBatch) -> AlignOutput:
        """Encode both sides of a batch; captions and sub-captions in one pass."""
        code = self.encode_slides(batch.patches, batch.patch_mask, batch.regions)
        subs = (batch.sub_caption_ids.flatten(0, 1), batch.sub_caption_token_mask.flatten(0, 1))
        caption, sub = self.embed_texts([(batch.caption_ids, batch.caption_mask), subs])
        sub = sub.unflatten(0, batch.sub_caption_mask.shape)
        return AlignOutput(code.slide, caption, code.patches, code.patch_mask, sub)

    def embed_texts(self, blocks: list[Block]) -> list[Float[Tensor, "_ E"]]:
        """Embeddings of several padded blocks of texts, (ids, mask) each."""
        layers: list[TextLayer] = list(self.qformer.layers)  # type: ignore[arg-type]
        pooling, checkpointed = self.config.text_pooling, self.config.checkpoint_layers
        hidden = encode(self.qformer.embeddings, layers, blocks, pooling, checkpointed)
        return [self.text_proj(rows) for rows in hidden]

    def encode_slides(
        self, patches: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"], regions: Int[Tensor, "B L S"] | None
    ) -> SlideCode:
        """Padded slides into the shared space."""
        grouped, real = by_region(patches, mask, regions)
        x, mask_of_x = self.project_patches(grouped, real)
        if self.config.region_keys == "patches":
            whole = x.flatten(1, 2).unsqueeze(1), None if mask_of_x is None else mask_of_x.flatten(1).unsqueeze(1)
            slide = self.slide_proj(self.qformer(self.query_tokens, *whole, slide=False).mean(dim=2))
            pooled = torch.cat([slide, _mean_of_patches(x, mask_of_x)], dim=1)
        else:
            pooled = self.slide_proj(self.qformer(self.query_tokens, x, mask_of_x).mean(dim=2))
        region_mask = real.any(dim=2)
        tokens = torch.cat([torch.ones_like(region_mask[:, :1]), region_mask], dim=1)
        mixed = self.mixing(pooled, src_key_padding_mask=None if mask_of_x is None else ~tokens)
        return SlideCode(slide=mixed[:, 0], patches=mixed[:, 1:], patch_mask=region_mask)

    @torch.no_grad()
    def encode_slide(self, chunks: SlideChunks) -> SlideCode:
        """One slide of any size, some regions at a time: the code of :meth:`encode_slides`, without gradients.

        A region depends on no other until they are mixed. The slide's own queries read all patches, which are kept as
        projected: E numbers each.
        """
        parts, masks, pooled = [], [], []
        for chunk in chunks():
            everything = torch.ones(1, len(chunk.patches), dtype=torch.bool, device=chunk.patches.device)
            grouped, mask = by_region(
                chunk.patches[None], everything, None if chunk.regions is None else chunk.regions[None]
            )
            x, real = self.project_patches(grouped, mask)
            if self.config.region_keys == "patches":
                pooled.append(_mean_of_patches(x, real))
            else:
                pooled.append(self.slide_proj(self.qformer(self.query_tokens, x, real, slide=False).mean(dim=2)))
            parts.append((x.flatten(1, 2), None if real is None else real.flatten(1)))
            masks.append(mask.any(dim=2))
        region_mask = torch.cat(masks, dim=1)
        slide = self.qformer.answer(self.query_tokens, ChunkReader(parts)).mean(dim=2)
        mixed = self._mix(torch.cat([self.slide_proj(slide), *pooled], dim=1), region_mask)
        return SlideCode(slide=mixed[:, 0], patches=mixed[:, 1:], patch_mask=region_mask)

    def _mix(self, tokens: Float[Tensor, "B R E"], region_mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B R E"]:
        """Slide and regions, mixed. Without torch's inference path, which keeps R × R weights of every head."""
        padding = None if bool(region_mask.all()) else ~F.pad(region_mask, (1, 0), value=True)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            return self.mixing(tokens, src_key_padding_mask=padding)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)

    def project_patches(
        self, patches: Float[Tensor, "B L S D"], patch_mask: Bool[Tensor, "B L S"]
    ) -> tuple[Float[Tensor, "B L S E"], Bool[Tensor, "B L S"] | None]:
        """Patches as the Q-Former reads them, and their mask (None where none is padding)."""
        if patches.shape[-1] != self.config.feature_dim:
            raise ConfigError(f"patch features are {patches.shape[-1]} wide, expected {self.config.feature_dim}")
        if self.config.standardize:
            patches = (patches - self.feature_mean) / self.feature_std
        if patches.device.type == "cpu" and bool(patch_mask.all()):
            return self.patch_proj(patches), None
        if torch.is_grad_enabled():  # before the projection, for a NaN in padding would reach its gradient
            return self.patch_proj(drop_padding(patches, patch_mask)), patch_mask
        return self.patch_proj(patches).masked_fill_(~patch_mask.unsqueeze(-1), 0.0), patch_mask

    def encode_texts(
        self,
        texts: tuple[str, ...],
        ids: Int[Tensor, "C T"],
        mask: Bool[Tensor, "C T"],
        negated: Bool[Tensor, " C"],
        vectors: Float[Tensor, "C P"] | None = None,
        unknown: Bool[Tensor, " C"] | None = None,
    ) -> TextCode:
        """Texts into the shared space; one embedding serves slides and regions. The last two are not used."""
        (embedded,) = self.embed_texts([(ids, mask)])
        return TextCode(texts=texts, caption=embedded, local=embedded, negated=negated)

    # ------------------------------------------------------------------------------------------ scores

    def similarity(self, slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C"]:
        """Cosine of slide and caption embeddings."""
        return losses.cosine(slides.slide, texts.caption)

    def presence(
        self, slides: SlideCode, texts: TextCode, patch_similarity: Float[Tensor, "B C M"] | None = None
    ) -> Float[Tensor, "B C"]:
        """The region loss's logit: scaled cosine of a text and what it attended to among the regions."""
        attended = self.region_head(texts.local, slides.patches, slides.patch_mask)
        scale, bias = self._scaling()
        return scale * F.cosine_similarity(attended.float(), texts.local.float(), dim=-1, eps=1e-12) + bias

    def patch_similarity(self, slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C M"]:
        """Heat of each text over the regions: attention, mean of the heads, or similarity (``config.heat``)."""
        if self.config.heat == "similarity":
            alone = F.normalize(self.region_head.alone(slides.patches), dim=-1)
            return cosine_of_patches(SlideCode(slides.slide, alone, slides.patch_mask), texts)
        weights = self.region_head.weights(texts.local, slides.patches, slides.patch_mask).mean(dim=1)
        return weights.masked_fill(~slides.patch_mask.unsqueeze(1), float("-inf"))

    @torch.no_grad()
    def set_feature_statistics(self, mean: Float[Tensor, " D"], std: Float[Tensor, " D"]) -> None:
        """Standardise by the training set's mean and spread, where so configured; else nothing, as published."""
        if self.config.standardize:
            self.feature_mean.copy_(mean)
            self.feature_std.copy_(std.clamp(min=1e-4))

    # ------------------------------------------------------------------------------------------ training

    def _slide_scale(self) -> Tensor | float:
        """What cosines of slides and captions are multiplied by."""
        return (
            1 / self.config.temperature
            if self.slide_logit_scale is None
            else self.slide_logit_scale.exp().clamp(max=100)
        )

    def _scaling(self) -> tuple[Tensor, Tensor | float]:
        scale = self.logit_scale if self.config.raw_logit_scale else self.logit_scale.exp()
        return scale, 0.0 if self.logit_bias is None else self.logit_bias

    def losses(
        self, output: AlignOutput, batch: AlignBatch, candidates: Int[Tensor, "B C"] | None = None
    ) -> dict[str, Tensor]:
        """Slide loss and region loss.

        Args:
            output: what :meth:`forward` gave for ``batch``.
            batch: the batch.
            candidates: which sub-captions each slide meets (indices into the B·K of the global batch, or of this
                process with ``process_blocks``). Default: drawn from torch's random stream, as dropout is.
        """
        config = self.config
        gather = region_losses.gather_detached if config.detach_gathered else losses.gather_with_grad
        equal = None if config.repeats_are_negatives else losses.equal_captions(batch.caption_key)
        slide = losses.info_nce(
            output.slide,
            output.caption,
            self._slide_scale(),
            config.smoothing,
            gather=gather,
            left_out=None if equal is None else (equal, equal),
        )
        if config.process_blocks:
            texts, labels = met_by_blocks(output, batch, candidates, config.repeats_are_negatives)
        else:
            sampled = config.candidates == "sampled"
            texts, labels = met_in_global_batch(output, batch, candidates, sampled, config.repeats_are_negatives)
        attended = self.region_head(texts, output.patches, output.patch_mask)
        region = region_losses.text_conditioned(attended, texts, labels, *self._scaling(), config.normalize)
        return {"slide": slide, "region": region}


def _mean_of_patches(x: Float[Tensor, "B L S E"], mask: Bool[Tensor, "B L S"] | None) -> Float[Tensor, "B L E"]:
    """Mean of each region's real patches; zeros where there is none."""
    if mask is None:
        return x.mean(dim=2)
    weight = mask.unsqueeze(-1)
    return x.masked_fill(~weight, 0.0).sum(dim=2) / weight.sum(dim=2).clamp(min=1)
