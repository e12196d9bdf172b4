"""What PathFLIP must beat: one vector a slide against one vector a caption (CLIP), trained by the same loop.

``pool="mean"`` averages patch embeddings; ``pool="abmil"`` weighs them by gated attention (Ilse, Tomczak & Welling,
ICML 2018, eq. 9). Same patch stem, text tower and optimiser as :class:`~pathflip.models.pathflip.PathFLIP`, so that
a difference is the method's.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from pathflip.errors import ConfigError
from pathflip.losses import cosine, equal_captions, gather_with_grad, info_nce
from pathflip.models.layers import cosine_of_patches, cosine_of_slides
from pathflip.models.pathflip import labels_of_batch, sub_caption_nce
from pathflip.models.text_paths import text_vectors
from pathflip.models.text_tower import TextEncoder
from pathflip.models.towers import PatchStem, TowerConfig
from pathflip.types import AlignBatch, AlignOutput, SlideChunks, SlideCode, TextCode

__all__ = ["ClipConfig", "SlideCLIP"]


class ClipConfig(TowerConfig):
    """Sizes of :class:`SlideCLIP`. Neither context nor position by default: the plain method is the baseline.

    Attributes:
        sub_caption_weight: weight of the contrast of slides for each sub-caption, beside that of whole captions; 0, the
            plain method, trains on whole captions alone.
    """

    kind: Literal["clip"] = "clip"
    pool: Literal["mean", "abmil"] = "mean"
    context: bool = False
    position: Literal[False] = False
    sub_caption_weight: float = Field(0.0, ge=0)


class SlideCLIP(nn.Module):
    """Whole-slide CLIP. Patches live in the same space, so that their similarity to a text gives a heatmap."""

    reads_regions = False
    captions_are_sub_captions = False

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.reads_context = config.context
        self.stem = PatchStem(config)
        self.attention_value = nn.Linear(config.width, config.width // 2)
        self.attention_gate = nn.Linear(config.width, config.width // 2)
        self.attention_score = nn.Linear(config.width // 2, 1)
        if config.pool == "mean":
            for part in (self.attention_value, self.attention_gate, self.attention_score):
                part.requires_grad_(False)
        self.head = nn.Linear(config.width, config.embed_dim)
        self.text = TextEncoder(config.text()) if config.pretrained.scratch else None
        self.caption_head = nn.Linear(config.text_width, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor([config.scale]).log())
        self.pretrained_text = config.pretrained_head()
        self.known_texts = config.known_texts_part()

    def forward(self, batch: AlignBatch) -> AlignOutput:
        """Encode both sides; sub-captions where the model is trained on them (else they are zeros)."""
        slides = self.encode_slides(batch.patches, batch.patch_mask, batch.context, batch.position)
        block = (batch.caption_ids, batch.caption_mask)
        pooled = text_vectors(self.text, self.pretrained_text, block, batch.caption_vectors)
        caption = self.caption_head(pooled)
        return AlignOutput(slides.slide, caption, slides.patches, slides.patch_mask, self._sub_captions(batch, caption))

    def _sub_captions(self, batch: AlignBatch, caption: Float[Tensor, "B E"]) -> Float[Tensor, "B K E"]:
        if not self.config.sub_caption_weight:
            return caption.new_zeros(*batch.sub_caption_mask.shape, self.config.embed_dim)
        block = (batch.sub_caption_ids.flatten(0, 1), batch.sub_caption_token_mask.flatten(0, 1))
        vectors = None if batch.sub_caption_vectors is None else batch.sub_caption_vectors.flatten(0, 1)
        pooled = text_vectors(self.text, self.pretrained_text, block, vectors)
        return self.caption_head(pooled).view(*batch.sub_caption_mask.shape, -1)

    def losses(self, output: AlignOutput, batch: AlignBatch) -> dict[str, Tensor]:
        """Symmetric InfoNCE (CLIP; Radford et al. 2021) over the global batch, learned temperature; a slide
        and another's equal caption are left out. Where trained on sub-captions, beside it the contrast of slides
        for each of them."""
        scale = self.logit_scale.exp().clamp(max=100)
        equal = equal_captions(batch.caption_key)
        left_out = None if equal is None else (equal, equal)
        parts = {"slide": info_nce(output.slide, output.caption, scale, left_out=left_out)}
        if self.config.sub_caption_weight:
            truth, own = labels_of_batch(batch, equal)
            logits = scale * cosine(gather_with_grad(output.slide), output.sub_captions.flatten(0, 1))
            parts["sub_caption"] = self.config.sub_caption_weight * sub_caption_nce(
                logits, gather_with_grad(truth)[:, own]
            )
        return parts

    def encode_slides(
        self,
        patches: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        context: Float[Tensor, "B N D"] | None = None,
        position: Float[Tensor, "B N 2"] | None = None,
    ) -> SlideCode:
        """Padded slides into the shared space (position is not read)."""
        around = None if context is None else context[mask]
        hidden = self.stem(patches[mask], around, None, self.stem.draw_shift(mask))
        padded = hidden.new_zeros(*mask.shape, hidden.shape[-1])
        padded[mask] = hidden
        return self._code(padded, mask)

    def _code(self, padded: Float[Tensor, "B N W"], mask: Bool[Tensor, "B N"]) -> SlideCode:
        if self.config.pool == "mean":
            weight = mask / mask.sum(1, keepdim=True).clamp(min=1)
        else:
            gated = self.attention_value(padded).tanh() * self.attention_gate(padded).sigmoid()
            weight = self.attention_score(gated).squeeze(-1).masked_fill(~mask, float("-inf")).softmax(-1)
        slide = self.head(torch.einsum("bm,bmw->bw", weight.to(padded.dtype), padded))
        return SlideCode(slide=slide, patches=F.normalize(self.head(padded), dim=-1), patch_mask=mask)

    def encode_slide(self, chunks: SlideChunks) -> SlideCode:
        """One slide of any size: only the hidden vectors of its patches are held at once."""
        hidden = torch.cat([self.stem(chunk.patches, chunk.context, None) for chunk in chunks()])[None]
        return self._code(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device))

    def encode_texts(
        self,
        texts: tuple[str, ...],
        ids: Int[Tensor, "C T"],
        mask: Bool[Tensor, "C T"],
        negated: Bool[Tensor, " C"],
        vectors: Float[Tensor, "C P"] | None = None,
        unknown: Bool[Tensor, " C"] | None = None,
    ) -> TextCode:
        """Texts into the shared space; ``unknown`` ones hold words of no training text."""
        pooled = self.text_vectors(ids, mask, vectors)
        if self.known_texts is not None and unknown is not None:
            pooled = self.known_texts(pooled, unknown)
        caption = self.caption_head(pooled)
        return TextCode(texts, caption, caption, negated)

    def text_vectors(
        self, ids: Int[Tensor, "C T"], mask: Bool[Tensor, "C T"], vectors: Float[Tensor, "C P"] | None
    ) -> Float[Tensor, "C W"]:
        """One vector a text, of which its embedding is made."""
        return text_vectors(self.text, self.pretrained_text, (ids, mask), vectors)

    def similarity(self, slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C"]:
        """Cosine of slide and text."""
        return cosine_of_slides(slides, texts)

    def patch_similarity(self, slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C M"]:
        """Cosine of each patch with the text; padded ones hold -inf."""
        return cosine_of_patches(slides, texts)

    def presence(
        self, slides: SlideCode, texts: TextCode, patch_similarity: Float[Tensor, "B C M"] | None = None
    ) -> Float[Tensor, "B C"]:
        """All a global model can say about one sub-caption: its scaled similarity to the whole slide."""
        return self.logit_scale.exp().clamp(max=100) * self.similarity(slides, texts)

    @torch.no_grad()
    def set_feature_statistics(self, mean: Float[Tensor, " D"], std: Float[Tensor, " D"]) -> None:
        """Standardise patch features by the training set's mean and spread (kept in the checkpoint)."""
        self.stem.feature_mean.copy_(mean)
        self.stem.feature_std.copy_(std.clamp(min=1e-4))

    def set_text_statistics(self, vectors: Float[Tensor, "C P"]) -> None:
        """Standardise a pretrained encoder's vectors by those of the training texts (kept in the checkpoint)."""
        if self.pretrained_text is None:
            raise ConfigError("set_text_statistics: this model has no pretrained path; expected pretrained.width > 0")
        self.pretrained_text.set_vector_statistics(vectors)
