"""PathFLIP, the default model: texts meet patches, not windows, and say what a slide cannot show.

What differs from the published model (``pathflip.published``) and why is told in docs/method.md. In short: texts meet
patches with their neighbourhood, pooled by their similarity to the text; every sub-caption of the batch is a candidate
for every slide; each sub-caption predicts a gate (can a slide show this at all?) and a margin (how similar is enough?);
negation is a sign, not something the text encoder must discover; and the score for retrieval is the mean over
a caption's sub-captions, trained as such.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import AliasChoices, Field
from torch import Tensor, nn

from pathflip.errors import ConfigError, FeatureError
from pathflip.losses import (
    balanced_sigmoid,
    equal_captions,
    gather_with_grad,
    info_nce,
    local_rows,
    share_of_global,
    sub_caption_labels,
    true_captions,
)
from pathflip.models.layers import cosine_of_patches, cosine_of_slides
from pathflip.models.text_paths import text_vectors
from pathflip.models.text_tower import TextEncoder
from pathflip.models.towers import PatchStem, TowerConfig
from pathflip.types import AlignBatch, AlignOutput, SlideChunks, SlideCode, TextCode

__all__ = ["PathFLIP", "PathFLIPConfig"]


class PathFLIPConfig(TowerConfig):
    """Sizes and switches of :class:`PathFLIP`.

    Attributes:
        gate: predict from the text whether a slide can show it. margin: predict how similar is similar enough.
        sharpness: start of the inverse temperature of similarity pooling.
        global_weight, sub_caption_weight, late_weight: weights beside the region loss: of the slide-caption contrast,
            of the contrast of slides for each sub-caption (``statement_weight`` in older checkpoints), and of the
            contrast of captions by their sub-captions.
    """

    kind: Literal["pathflip"] = "pathflip"
    gate: bool = True
    margin: bool = True
    sharpness: float = 10.0
    initial_margin: float = 0.2
    global_weight: float = 1.0
    sub_caption_weight: float = Field(1.0, validation_alias=AliasChoices("sub_caption_weight", "statement_weight"))
    late_weight: float = 1.0


class PathFLIP(nn.Module):
    """Text-conditioned alignment over patches. Satisfies :class:`~pathflip.types.AlignModel`."""

    reads_regions = False
    captions_are_sub_captions = True

    def __init__(self, config: PathFLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.reads_context = config.context
        self.stem = PatchStem(config)
        self.slide_pool = nn.Linear(config.width, 1)
        self.slide_head = nn.Sequential(
            nn.LayerNorm(2 * config.width), nn.Dropout(config.dropout), nn.Linear(2 * config.width, config.embed_dim)
        )
        self.key_head = nn.Linear(config.width, config.embed_dim)
        self.text = TextEncoder(config.text()) if config.pretrained.scratch else None
        self.caption_head = nn.Linear(config.text_width, config.embed_dim)
        self.local_head = nn.Linear(config.text_width, config.embed_dim)
        self.text_gate = nn.Linear(config.text_width, 2)
        # One-element vectors, not scalars: FSDP2 cannot shard a parameter without an axis.
        self.log_sharpness = nn.Parameter(torch.tensor([config.sharpness]).log())
        self.logit_scale = nn.Parameter(torch.tensor([config.scale]).log())
        self.logit_scale_global = nn.Parameter(torch.tensor([config.scale]).log())
        self.logit_scale_late = nn.Parameter(torch.tensor([1.0]).log())
        self.pretrained_text = config.pretrained_head()
        self.known_texts = config.known_texts_part()
        nn.init.zeros_(self.text_gate.weight)
        with torch.no_grad():
            self.text_gate.bias.copy_(torch.tensor([2.0, config.initial_margin]))

    def forward(self, batch: AlignBatch) -> AlignOutput:
        """Encode both sides of a batch."""
        slides = self.encode_slides(batch.patches, batch.patch_mask, batch.context, batch.position)
        num_slides, num_subs = batch.sub_caption_mask.shape
        block = (batch.sub_caption_ids.flatten(0, 1), batch.sub_caption_token_mask.flatten(0, 1))
        vectors = None if batch.sub_caption_vectors is None else batch.sub_caption_vectors.flatten(0, 1)
        pooled = text_vectors(self.text, self.pretrained_text, block, vectors)
        local, gate, margin = self._sub_caption(pooled)
        shape = (num_slides, num_subs)
        true_ones = (batch.sub_caption_mask & ~batch.sub_caption_false)[..., None]
        caption = torch.where(true_ones, self.caption_head(pooled).view(*shape, -1), 0).sum(1) / true_ones.sum(1).clamp(
            min=1
        )
        return AlignOutput(
            slide=slides.slide,
            caption=caption,
            patches=slides.patches,
            patch_mask=slides.patch_mask,
            sub_captions=local.view(*shape, -1),
            gate=gate.view(shape),
            margin=margin.view(shape),
        )

    def losses(self, output: AlignOutput, batch: AlignBatch) -> dict[str, Tensor]:
        """Slide contrast, region loss over all sub-captions of the (global) batch, sub-caption-level contrast."""
        if output.gate is None or output.margin is None:
            raise TypeError("PathFLIP.losses needs an output of PathFLIP.forward: gate and margin are missing")
        sub_captions = TextCode(
            texts=(),
            caption=(local := gather_with_grad(output.sub_captions).flatten(0, 1)),
            local=local,
            negated=gather_with_grad(batch.sub_caption_negated).flatten(),
            gate=gather_with_grad(output.gate).flatten(),
            margin=gather_with_grad(output.margin).flatten(),
        )
        sub_caption_mask, sub_caption_false = (
            gather_with_grad(batch.sub_caption_mask),
            gather_with_grad(batch.sub_caption_false),
        )
        own = local_rows(len(output.slide), len(sub_caption_mask))
        logits = self._logits(output.patches, output.patch_mask, sub_captions)
        equal = equal_captions(batch.caption_key)
        truth, own_sub_captions = labels_of_batch(batch, equal)
        # Other slides' captions that are true of a slide are no negatives, in either direction.
        true = true_captions(truth, sub_caption_mask & ~sub_caption_false, equal)
        left_out = (true, gather_with_grad(true)[:, own].T)
        scale = self.logit_scale_global.exp().clamp(max=100)
        whole = info_nce(output.slide, output.caption, scale, left_out=left_out)
        parts = {"slide": self.config.global_weight * whole, "region": balanced_sigmoid(logits, truth)}
        if len(sub_caption_mask) > 1:
            everywhere, stated = gather_with_grad(logits), gather_with_grad(truth)[:, own_sub_captions]
            parts["sub_caption"] = self.config.sub_caption_weight * sub_caption_nce(
                everywhere[:, own_sub_captions], stated
            )
            late = self.logit_scale_late.exp().clamp(max=100) * caption_scores(
                logits, sub_caption_mask & ~sub_caption_false
            )
            parts["late"] = self.config.late_weight * matrix_nce(gather_with_grad(late), own, left_out)
        return parts

    def encode_slides(
        self,
        patches: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        context: Float[Tensor, "B N D"] | None = None,
        position: Float[Tensor, "B N 2"] | None = None,
    ) -> SlideCode:
        """Padded slides into the shared space; only real patches are computed."""
        real = mask.flatten().nonzero().squeeze(1)  # once: a device makes its host wait for how many there are
        hidden = self.stem(
            patches.flatten(0, 1)[real],
            None if context is None else context.flatten(0, 1)[real],
            None if position is None else position.flatten(0, 1)[real],
            self.stem.draw_shift(mask, real),
        )
        padded = hidden.new_zeros(mask.numel(), hidden.shape[-1]).index_copy(0, real, hidden).unflatten(0, mask.shape)
        embedded = self._embed_patches(hidden)
        embeddings = embedded.new_zeros(mask.numel(), self.config.embed_dim).index_copy(0, real, embedded)
        embeddings = embeddings.unflatten(0, mask.shape)
        mean = padded.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        weight = self.slide_pool(padded).squeeze(-1).masked_fill(~mask, float("-inf")).softmax(-1)
        attended = torch.einsum("bm,bmw->bw", weight.to(padded.dtype), padded)
        slide = self.slide_head(torch.cat([mean, attended], -1))
        return SlideCode(slide=slide, patches=embeddings, patch_mask=mask)

    def _embed_patches(self, hidden: Float[Tensor, "V W"]) -> Float[Tensor, "V E"]:
        """Patch embeddings, of unit length from here on."""
        return F.normalize(self.key_head(hidden), dim=-1)

    def encode_slide(self, chunks: SlideChunks) -> SlideCode:
        """One slide of any size, chunk by chunk: the same code as :meth:`encode_slides` of the whole, in the memory of
        a chunk and the embeddings. Softmax pooling is carried along as (largest logit, sum, weighted sum) (Milakov &
        Gimelshein 2018, arXiv 1805.02867).
        """
        embeddings, count = [], 0
        total = weighted = None
        high = norm = torch.tensor(0.0)
        for chunk in chunks():
            hidden = self.stem(chunk.patches, chunk.context, chunk.position)
            embeddings.append(self._embed_patches(hidden))
            count += len(hidden)
            logit = self.slide_pool(hidden).squeeze(-1)
            if total is None or weighted is None:
                total, weighted = torch.zeros_like(hidden[0]), torch.zeros_like(hidden[0])
                high, norm = torch.full_like(logit[0], float("-inf")), torch.zeros_like(logit[0])
            higher = torch.maximum(high, logit.max())
            shrink, weight = (high - higher).exp(), (logit - higher).exp()
            total = total + hidden.sum(0)
            weighted, norm, high = weighted * shrink + weight @ hidden, norm * shrink + weight.sum(), higher
        if total is None or weighted is None:
            raise FeatureError("encode_slide: got no patch, expected at least one")
        slide = self.slide_head(torch.cat([total / count, weighted / norm])[None])
        mask = torch.ones(1, count, dtype=torch.bool, device=slide.device)
        return SlideCode(slide=slide, patches=torch.cat(embeddings)[None], patch_mask=mask)

    def encode_texts(
        self,
        texts: tuple[str, ...],
        ids: Int[Tensor, "C T"],
        mask: Bool[Tensor, "C T"],
        negated: Bool[Tensor, " C"],
        vectors: Float[Tensor, "C P"] | None = None,
        unknown: Bool[Tensor, " C"] | None = None,
    ) -> TextCode:
        """Texts into the shared space. ``texts`` are kept for naming results only; ``unknown`` ones hold words of no
        training text."""
        pooled = self.text_vectors(ids, mask, vectors)
        if self.known_texts is not None and unknown is not None:
            pooled = self.known_texts(pooled, unknown)
        local, gate, margin = self._sub_caption(pooled)
        return TextCode(texts, self.caption_head(pooled), local, negated, gate, margin)

    def text_vectors(
        self, ids: Int[Tensor, "C T"], mask: Bool[Tensor, "C T"], vectors: Float[Tensor, "C P"] | None
    ) -> Float[Tensor, "C W"]:
        """One vector a text, of which its embeddings are made."""
        return text_vectors(self.text, self.pretrained_text, (ids, mask), vectors)

    def similarity(self, slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C"]:
        """Cosine of slide and caption embeddings."""
        return cosine_of_slides(slides, texts)

    def patch_similarity(self, slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C M"]:
        """Cosine of each patch with the text; padded ones hold -inf."""
        return cosine_of_patches(slides, texts)

    def presence(
        self, slides: SlideCode, texts: TextCode, patch_similarity: Float[Tensor, "B C M"] | None = None
    ) -> Float[Tensor, "B C"]:
        """A logit that the slide shows what the text states; near 0 where the text says a slide cannot show it."""
        if slides.patch_weight is not None:
            similarity = self.patch_similarity(slides, texts) if patch_similarity is None else patch_similarity
            counted = slides.patch_weight.clamp(min=1e-12).log()[:, None]
            weight = (self._sharpness() * similarity + counted).softmax(-1)
        elif patch_similarity is None:
            return self._logits(slides.patches, slides.patch_mask, texts)
        else:
            weight = (self._sharpness() * patch_similarity).softmax(-1)
        return self._logits_of_pooled(weight @ slides.patches, F.normalize(texts.local, dim=-1), texts)

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

    def _sub_caption(
        self, pooled: Float[Tensor, "C W"]
    ) -> tuple[Float[Tensor, "C E"], Float[Tensor, " C"], Float[Tensor, " C"]]:
        raw = self.text_gate(pooled)
        gate = raw[:, 0].sigmoid() if self.config.gate else torch.ones_like(raw[:, 0])
        margin = raw[:, 1] if self.config.margin else torch.full_like(raw[:, 1], self.config.initial_margin)
        return self.local_head(pooled), gate, margin

    def _sharpness(self) -> Float[Tensor, "1"]:
        return self.log_sharpness.exp().clamp(max=100)

    def _logits(
        self, patches: Float[Tensor, "B M E"], mask: Bool[Tensor, "B M"], texts: TextCode
    ) -> Float[Tensor, "B C"]:
        """gate · scale · sign · (cos(o, t) - margin) with o = Σ softmax(β p·t) p: the patches pooled by their
        similarity to the text, patches and texts of unit length.
        """
        unit_texts = F.normalize(texts.local, dim=-1)
        similarity = F.linear(patches, self._sharpness() * unit_texts)
        if patches.device.type != "cpu" or not bool(mask.all()):
            similarity = similarity.masked_fill(~mask[..., None], float("-inf"))
        return self._logits_of_pooled(similarity.softmax(1).mT @ patches, unit_texts, texts)

    def _logits_of_pooled(
        self, pooled: Float[Tensor, "B C E"], unit_texts: Float[Tensor, "C E"], texts: TextCode
    ) -> Float[Tensor, "B C"]:
        cosine = (pooled * unit_texts).sum(-1) / pooled.norm(dim=-1).clamp(min=1e-6)
        sign = 1.0 - 2.0 * texts.negated.to(cosine.dtype)
        gate = 1.0 if texts.gate is None else texts.gate
        margin = 0.0 if texts.margin is None else texts.margin
        return gate * self.logit_scale.exp().clamp(max=100) * sign * (cosine - margin)


def caption_scores(logits: Float[Tensor, "B C"], counted: Bool[Tensor, "G K"]) -> Float[Tensor, "B G"]:
    """Mean logit of each caption's drawn sub-captions on each slide: the sub-caption-level score of retrieval."""
    per_caption = torch.where(counted, logits.view(len(logits), *counted.shape), 0.0)
    return per_caption.sum(-1) / counted.sum(-1).clamp(min=1)


def labels_of_batch(batch: AlignBatch, equal: Bool[Tensor, "B G"] | None) -> tuple[Int[Tensor, "B C"], slice]:
    """Which sub-captions of the global batch are true of each local slide, and where the local ones stand among them.

    ``equal``: of :func:`pathflip.losses.equal_captions`.
    """
    mask, made_false = gather_with_grad(batch.sub_caption_mask), gather_with_grad(batch.sub_caption_false)
    own = local_rows(len(batch.caption_keys), len(mask))
    keys = gather_with_grad(batch.sub_caption_keys)
    truth = sub_caption_labels(batch.caption_keys, keys, mask, made_false, first_slide=own.start, equal=equal)
    return truth, slice(own.start * mask.shape[1], own.stop * mask.shape[1])


def sub_caption_nce(logits: Float[Tensor, "G C"], truth: Int[Tensor, "G C"]) -> Float[Tensor, ""]:
    """Cross-entropy over slides, sub-caption by sub-caption: which slides is it true of? All true ones share it.

    Sub-captions that are true of no slide, or of all, say nothing; the mean is over those of all processes that do.
    """
    true = (truth > 0).to(logits.dtype)
    telling = true.any(0) & (truth < 0).any(0)
    target = true / true.sum(0).clamp(min=1)
    each = -(target * logits.masked_fill(truth == 0, float("-inf")).log_softmax(0).clamp(min=-1e4)).sum(0)
    return torch.where(telling, each, 0).sum() / share_of_global(telling.sum()).clamp(min=1e-12)


def matrix_nce(
    scores: Float[Tensor, "G G"], own: slice, left_out: tuple[Bool[Tensor, "B G"], Bool[Tensor, "B G"]] | None = None
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of a whole score matrix with the diagonal true, over this process's rows and columns.

    ``left_out``: see :func:`pathflip.losses.info_nce`.
    """
    target = torch.arange(len(scores), device=scores.device)[own]
    rows, columns = scores[own], scores.T[own]
    if left_out is not None:
        rows, columns = (
            part.masked_fill(out, float("-inf")) for part, out in zip((rows, columns), left_out, strict=True)
        )
    return 0.5 * (F.cross_entropy(rows, target) + F.cross_entropy(columns, target))
