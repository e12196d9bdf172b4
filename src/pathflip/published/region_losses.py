"""What only the published models minimise: their region losses, their candidates, and their divisors as released.

The rest (contrast of slides and captions, balanced pairs, gathering over processes) is in :mod:`pathflip.losses`, where
masks, labels and ``gather`` are explained.
"""

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pathflip.errors import ConfigError
from pathflip.losses import (
    Gather,
    Scalar,
    balanced_sigmoid,
    cosine,
    gather_all,
    gather_with_grad,
    local_rows,
    own_labels,
    pair_losses,
    share_of_global,
)

__all__ = [
    "Normalize",
    "gather_detached",
    "pair_sigmoid",
    "published_candidates",
    "sigmoid",
    "soft_top_k",
    "soft_top_k_pool",
    "sort_candidates",
    "text_conditioned",
]

Normalize = Literal["balanced", "entries", "candidates", "positives"]
"""What a sum of pairwise sigmoid losses is divided by.

``balanced``: half the mean over true pairs plus half the mean over false ones. ``entries``: the number of pairs.
``candidates``: the number of texts a slide meets, so the value grows with the number of slides (published variant 1).
``positives``: the number of true pairs (published variant 2; SigLIP's per-image mean).
"""


def gather_detached(tensor: Tensor) -> Tensor:
    """The rows of all processes, the gathered copies carrying no gradient (what published variant 1 does).

    Without a process group this is the identity, gradient included: the published code does the same.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    return gather_all(tensor)


def sigmoid(
    image: Float[Tensor, "B E"],
    text: Float[Tensor, "B E"],
    scale: Scalar,
    bias: Scalar,
    labels: Int[Tensor, "B G"] | None = None,
    gather: Gather = gather_with_grad,
    left_out: Bool[Tensor, "B G"] | None = None,
) -> Float[Tensor, ""]:
    """SigLIP (arXiv 2303.15343): every slide-caption pair is a yes-or-no question; per slide, both directions' mean.

    ``labels`` as in :func:`pathflip.losses.info_nce` but in {-1, 0, +1}; ``left_out``: pairs of an equal report.
    """
    all_image, all_text = gather(image), gather(text)
    if labels is None:
        labels = (2 * own_labels(len(image), len(all_text), image.device) - 1).long()
    if left_out is not None:
        labels = labels.masked_fill(left_out, 0)
    loss = image.new_zeros((), dtype=torch.float32)
    for own, others in ((image, all_text), (text, all_image)):
        loss = loss + pair_losses(scale * cosine(own, others) + bias, labels).sum()
    return loss / (2 * len(image))


# ---------------------------------------------------------------------------------------------- pairs of yes and no


def pair_sigmoid(
    logits: Float[Tensor, "B C"],
    labels: Int[Tensor, "B C"],
    normalize: Normalize = "entries",
    weights: Float[Tensor, "B C"] | None = None,
) -> Float[Tensor, ""]:
    """Sum of -log sigmoid(label · logit) over pairs, divided as ``normalize`` says (:data:`Normalize`).

    ``weights`` multiply single pairs (and count in the denominators of ``balanced`` and ``entries``).
    """
    if normalize == "balanced":
        return balanced_sigmoid(logits, labels, weights)
    weights = torch.ones_like(logits, dtype=torch.float32) if weights is None else weights.float()
    losses = weights * pair_losses(logits, labels)
    if normalize == "entries":
        return losses.sum() / share_of_global((weights * (labels != 0)).sum()).clamp(min=1e-12)
    if normalize == "candidates":
        return losses.sum() / logits.shape[1]
    if normalize == "positives":
        return losses.sum() / (labels > 0).sum().clamp(min=1)
    raise ConfigError(f"normalize: got '{normalize}', expected balanced, entries, candidates or positives")


# ---------------------------------------------------------------------------------------------- candidates


def published_candidates(
    sub_caption_mask: Bool[Tensor, "B K"], generator: torch.Generator | None = None
) -> Int[Tensor, "B C"]:
    """The texts each slide meets in the published region loss: its own K and one random one of every other slide.

    Args:
        sub_caption_mask: which sub-captions of the (global) batch are real; only those are drawn (where there is any).
        generator: source of the draws; None: torch's own. Processes that seed it alike draw the same table.

    Returns:
        (B, K + B - 1) indices into the B·K sub-captions, slide-major, ascending in every row.
    """
    num_slides, num_sub_captions = sub_caption_mask.shape
    real = sub_caption_mask.float() if generator is None else sub_caption_mask.float().to(generator.device)
    real = torch.where(real.sum(dim=1, keepdim=True) > 0, real, torch.ones_like(real))
    if num_slides == 1:
        return torch.arange(num_sub_captions, device=real.device).unsqueeze(0)
    drawn = torch.multinomial(real, num_slides, replacement=True, generator=generator)  # (other slide, for slide)
    return sort_candidates(drawn.T.gather(1, _other_slides(num_slides, real.device)), num_sub_captions)


def _other_slides(num_slides: int, device: torch.device) -> Int[Tensor, "B O"]:
    """Row i: all slides but i, ascending."""
    other = torch.arange(num_slides - 1, device=device).expand(num_slides, -1)
    return other + (other >= torch.arange(num_slides, device=device).unsqueeze(1))


def sort_candidates(offsets: Int[Tensor, "B O"], num_sub_captions: int) -> Int[Tensor, "B C"]:
    """Candidate indices from ``offsets``: entry (i, c) is which sub-caption the c-th *other* slide lends slide i."""
    num_slides = len(offsets)
    slides = torch.arange(num_slides, device=offsets.device)
    other = _other_slides(num_slides, offsets.device)
    own = slides.unsqueeze(1) * num_sub_captions + torch.arange(num_sub_captions, device=offsets.device)
    return torch.cat([own, other * num_sub_captions + offsets], dim=1).sort(dim=1).values


# ---------------------------------------------------------------------------------------------- text-conditioned


def text_conditioned(
    attended: Float[Tensor, "B C E"],
    texts: Float[Tensor, "*b C E"],
    labels: Int[Tensor, "B C"],
    scale: Scalar,
    bias: Scalar = 0.0,
    normalize: Normalize = "entries",
    weights: Float[Tensor, "B C"] | None = None,
) -> Float[Tensor, ""]:
    """Text-conditioned sigmoid loss (FLAIR, arXiv 2412.03561): does the slide show what the text speaks of?

    Args:
        attended: what text c found when it attended to the keys of slide b.
        texts: the texts: one table (C, E) for all slides, or (B, C, E) each slide's own candidates.
        labels: +1 true of the slide, -1 not, 0 leave out.
        scale: what cosines are multiplied by.
        bias: added to the logits.
        normalize: the published losses are ``candidates`` (variant 1) and ``positives`` (variant 2).
        weights: of single pairs.
    """
    with torch.autocast(attended.device.type, enabled=False):
        logits = scale * F.cosine_similarity(attended.float(), texts.float(), dim=-1, eps=1e-12) + bias
    return pair_sigmoid(logits, labels, normalize, weights)


# ---------------------------------------------------------------------------------------------- soft top-k


def soft_top_k_pool(
    texts: Float[Tensor, "B K E"],
    keys: Float[Tensor, "B M E"],
    key_mask: Bool[Tensor, "B M"],
    top_k: int,
    temperature: float = 0.5,
) -> tuple[Float[Tensor, "B K E"], Float[Tensor, "B K M"]]:
    """Pool the ``top_k`` keys most like each text, weighted by a softmax of cosine / ``temperature``.

    Returns:
        The pooled keys, and the softmax over all keys (before the cut; padded keys hold 0). Where fewer than
        ``top_k`` keys are real, all of them are pooled.
    """
    logits = cosine(texts, keys) / temperature
    weights = _masked_softmax(logits, key_mask.unsqueeze(1))
    top_weights, index = weights.topk(min(top_k, keys.shape[1]), dim=-1)
    top_weights = top_weights / top_weights.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    sparse = torch.zeros_like(weights).scatter(-1, index, top_weights)
    return sparse.to(keys.dtype) @ keys.masked_fill(~key_mask.unsqueeze(-1), 0.0), weights


def _masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis among real entries; all zeros where none is real."""
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(dim=-1)
    return weights * mask


def soft_top_k(
    pooled: Float[Tensor, "B K E"],
    texts: Float[Tensor, "B K E"],
    scale: Scalar,
    bias: Scalar,
    normalize: Normalize = "balanced",
    sub_caption_mask: Bool[Tensor, "B K"] | None = None,
    sub_caption_keys: Int[Tensor, "B K"] | None = None,
    positives: Literal["own", "process"] = "own",
    gather: Gather = gather_with_grad,
) -> Float[Tensor, ""]:
    """Sigmoid loss between what each text pooled (:func:`soft_top_k_pool`) and all texts of the global batch.

    Args:
        pooled: pooled keys, one row a text.
        texts: the texts.
        scale: what cosines are multiplied by.
        bias: added to the logits.
        normalize: ``entries`` is published (positives drown as the batch grows).
        sub_caption_mask: which texts are real.
        sub_caption_keys: sub-caption keys: the same sub-caption elsewhere is left out instead of being called false.
        positives: ``own``: a text and what it pooled. ``process``: the published labels, by which with several
            processes every local text is true of everything any local text pooled.
        gather: see the module docstring.
    """
    rows = pooled.shape[0] * pooled.shape[1]
    pooled, texts = pooled.reshape(rows, -1), texts.reshape(rows, -1)
    all_pooled, all_texts = gather(pooled), gather(texts)
    own = own_labels(rows, len(all_texts), pooled.device)
    if positives == "process" and len(all_texts) != rows:
        own[:, local_rows(rows, len(all_texts))] = 1.0
    labels = (2 * own - 1).long()
    if sub_caption_keys is not None:
        keys, all_keys = sub_caption_keys.reshape(-1, 1), gather(sub_caption_keys.reshape(-1))
        labels = labels.masked_fill((keys == all_keys) & (keys != 0) & (labels < 0), 0)
    if sub_caption_mask is not None:
        labels = labels * (sub_caption_mask.reshape(-1, 1) & gather(sub_caption_mask.reshape(-1))).long()
    image_to_text = pair_sigmoid(scale * cosine(pooled, all_texts) + bias, labels, normalize)
    text_to_image = pair_sigmoid(scale * cosine(texts, all_pooled) + bias, labels, normalize)
    return 0.5 * (image_to_text + text_to_image)
