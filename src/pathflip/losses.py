"""What training minimises: pure functions of features, labels and scalars; no function here knows a model.

Every mask is boolean and True means real. Labels are +1 (true pair), -1 (false pair), 0 (leave out).

Many processes: each loss takes ``gather``, a function that joins one tensor of every process along the first axis
(identity where there is one process). Each process then compares its own rows with the whole global batch, and the
*mean over processes* of what it returns is the loss one process would compute on the joined batch; averaging
gradients over processes, as DDP and FSDP do, gives that one process's gradients.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pathflip.errors import ConfigError

__all__ = [
    "Gather",
    "Normalize",
    "balanced_sigmoid",
    "candidate_labels",
    "cosine",
    "gather_detached",
    "gather_with_grad",
    "info_nce",
    "local_rows",
    "pair_sigmoid",
    "published_candidates",
    "share_of_global",
    "sigmoid",
    "soft_top_k",
    "soft_top_k_pool",
    "sort_candidates",
    "statement_labels",
    "text_conditioned",
]

Gather = Callable[[Tensor], Tensor]
Scalar = Float[Tensor, ""] | float
Normalize = Literal["balanced", "entries", "candidates", "positives"]
"""What a sum of pairwise sigmoid losses is divided by.

``balanced``: half the mean over true pairs plus half the mean over false ones. ``entries``: the number of pairs.
``candidates``: the number of texts a slide meets, so the value grows with the number of slides (published variant 1).
``positives``: the number of true pairs (published variant 2; SigLIP's per-image mean).
"""


# ---------------------------------------------------------------------------------------------- processes


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _AllGather(torch.autograd.Function):
    """All-gather along the first axis whose backward sums the gradients of all processes.

    ``torch.distributed.nn.functional.all_gather`` returns wrong gradients on gloo where the incoming gradient is a
    transposed tensor, which is what ``v @ gathered.T`` produces: hence the ``contiguous``.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        return _joined(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        start = _rank() * ctx.rows
        return grad[start : start + ctx.rows]


def _joined(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().contiguous()
    parts = [torch.empty_like(tensor) for _ in range(_world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def gather_with_grad(tensor: Tensor) -> Tensor:
    """The rows of all processes in rank order; gradients flow back to the process a row came from.

    Every process must bring the same number of rows. Identity where there is one process.
    """
    if _world_size() == 1:
        return tensor
    return _AllGather.apply(tensor) if tensor.is_floating_point() else _joined(tensor)


def gather_detached(tensor: Tensor) -> Tensor:
    """As :func:`gather_with_grad`, the gathered copies carrying no gradient (what published variant 1 does).

    Without a process group this is the identity, gradient included: the published code does the same.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    return _joined(tensor)


def local_rows(local: int, gathered: int) -> slice:
    """Where this process's ``local`` rows stand among the ``gathered`` ones."""
    start = _rank() * local if gathered != local else 0
    return slice(start, start + local)


def share_of_global(total: Tensor) -> Tensor:
    """Mean over processes of ``total``: the denominator that makes the mean of local losses the global loss.

    Every process must call it. Itself where there is one process.
    """
    world = _world_size()
    if world == 1:
        return total
    total = total.detach().clone()
    dist.all_reduce(total)
    return total / world


# ---------------------------------------------------------------------------------------------- similarity


def cosine(a: Float[Tensor, "*b M E"], b: Float[Tensor, "*b C E"]) -> Float[Tensor, "*b M C"]:
    """Cosines of all rows of ``a`` with all rows of ``b``, in float32 whatever autocast says."""
    with torch.autocast(a.device.type, enabled=False):
        return F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).mT


def _own_labels(rows: int, columns: int, device: torch.device) -> Float[Tensor, "B G"]:
    """1 where a row meets its own column, else 0."""
    labels = torch.zeros(rows, columns, device=device)
    labels[:, local_rows(rows, columns)].fill_diagonal_(1.0)
    return labels


# ---------------------------------------------------------------------------------------------- slide and caption


def info_nce(
    image: Float[Tensor, "B E"],
    text: Float[Tensor, "B E"],
    scale: Scalar,
    smoothing: float = 0.0,
    labels: Float[Tensor, "B G"] | None = None,
    gather: Gather = gather_with_grad,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy between slides and captions (CLIP, arXiv 2103.00020).

    Args:
        image: slide embeddings, any length (normalised here).
        text: caption embeddings, row i belonging to slide i.
        scale: what cosines are multiplied by, 1 / temperature.
        smoothing: share of every target spread evenly over all columns.
        labels: positive where local slide i and caption j of the global batch belong together, and likewise slide j
            and caption i; several in a row share its weight. Default: each slide and its own caption.
        gather: see the module docstring.
    """
    all_image, all_text = gather(image), gather(text)
    target = _own_labels(len(image), len(all_text), image.device) if labels is None else labels.clamp(min=0).float()
    target = target / target.sum(dim=1, keepdim=True).clamp(min=1e-12)
    target = (1.0 - smoothing) * target + smoothing / target.shape[1]
    loss = image.new_zeros((), dtype=torch.float32)
    for own, others in ((image, all_text), (text, all_image)):
        log_prob = F.log_softmax(scale * cosine(own, others), dim=-1)
        loss = loss - (target * log_prob).sum(dim=-1).mean()
    return 0.5 * loss


def sigmoid(
    image: Float[Tensor, "B E"],
    text: Float[Tensor, "B E"],
    scale: Scalar,
    bias: Scalar,
    labels: Int[Tensor, "B G"] | None = None,
    gather: Gather = gather_with_grad,
) -> Float[Tensor, ""]:
    """SigLIP (arXiv 2303.15343): every slide-caption pair is a yes-or-no question; per slide, both directions' mean.

    ``labels`` as in :func:`info_nce` but in {-1, 0, +1}.
    """
    all_image, all_text = gather(image), gather(text)
    if labels is None:
        labels = (2 * _own_labels(len(image), len(all_text), image.device) - 1).long()
    loss = image.new_zeros((), dtype=torch.float32)
    for own, others in ((image, all_text), (text, all_image)):
        loss = loss + _pair_losses(scale * cosine(own, others) + bias, labels).sum()
    return loss / (2 * len(image))


# ---------------------------------------------------------------------------------------------- pairs of yes and no


def _pair_losses(logits: Float[Tensor, "*b"], labels: Tensor) -> Float[Tensor, "*b"]:
    """-log sigmoid(label · logit); exactly 0 (and no gradient, even from NaN or infinity) where the label is 0."""
    logits = torch.where(labels == 0, torch.zeros_like(logits), logits.float())
    return F.softplus(-labels * logits) * (labels != 0)


def pair_sigmoid(
    logits: Float[Tensor, "B C"],
    labels: Int[Tensor, "B C"],
    normalize: Normalize = "entries",
    weights: Float[Tensor, "B C"] | None = None,
) -> Float[Tensor, ""]:
    """Sum of -log sigmoid(label · logit) over pairs, divided as ``normalize`` says (:data:`Normalize`).

    ``weights`` multiply single pairs (and count in the denominators of ``balanced`` and ``entries``).
    """
    weights = torch.ones_like(logits, dtype=torch.float32) if weights is None else weights.float()
    losses = weights * _pair_losses(logits, labels)
    if normalize == "balanced":
        halves = [(labels > 0).float(), (labels < 0).float()]
        means = [(losses * half).sum() / _denominator((weights * half).sum()) for half in halves]
        return 0.5 * (means[0] + means[1])
    if normalize == "entries":
        return losses.sum() / _denominator((weights * (labels != 0)).sum())
    if normalize == "candidates":
        return losses.sum() / logits.shape[1]
    if normalize == "positives":
        return losses.sum() / (labels > 0).sum().clamp(min=1)
    raise ConfigError(f"normalize: got '{normalize}', expected balanced, entries, candidates or positives")


def _denominator(total: Tensor) -> Tensor:
    """A denominator over the global batch; an empty class divides 0 by something."""
    return share_of_global(total).clamp(min=1e-12)


def balanced_sigmoid(
    logits: Float[Tensor, "B C"], labels: Int[Tensor, "B C"], weights: Float[Tensor, "B C"] | None = None
) -> Float[Tensor, ""]:
    """Half the mean loss of true pairs plus half that of false ones, however few the true ones are; 0 is ignored."""
    return pair_sigmoid(logits, labels, normalize="balanced", weights=weights)


# ---------------------------------------------------------------------------------------------- statements and keys


def published_candidates(sub_mask: Bool[Tensor, "B K"], generator: torch.Generator | None = None) -> Int[Tensor, "B C"]:
    """The texts each slide meets in the published region loss: its own K and one random one of every other slide.

    Args:
        sub_mask: which sub-captions of the (global) batch are real; only those are drawn (where a slide has any).
        generator: source of the draws; None: torch's own. Processes that seed it alike draw the same table.

    Returns:
        (B, K + B - 1) indices into the B·K sub-captions, slide-major, ascending in every row.
    """
    num_slides, num_subcaptions = sub_mask.shape
    real = sub_mask.float() if generator is None else sub_mask.float().to(generator.device)
    real = torch.where(real.sum(dim=1, keepdim=True) > 0, real, torch.ones_like(real))
    if num_slides == 1:
        return torch.arange(num_subcaptions, device=real.device).unsqueeze(0)
    drawn = torch.multinomial(real, num_slides, replacement=True, generator=generator)  # (other slide, for slide)
    return sort_candidates(drawn.T.gather(1, _other_slides(num_slides, real.device)), num_subcaptions)


def _other_slides(num_slides: int, device: torch.device) -> Int[Tensor, "B O"]:
    """Row i: all slides but i, ascending."""
    other = torch.arange(num_slides - 1, device=device).expand(num_slides, -1)
    return other + (other >= torch.arange(num_slides, device=device).unsqueeze(1))


def sort_candidates(offsets: Int[Tensor, "B O"], num_subcaptions: int) -> Int[Tensor, "B C"]:
    """Candidate indices from ``offsets``: entry (i, c) is which sub-caption the c-th *other* slide lends slide i."""
    num_slides = len(offsets)
    slides = torch.arange(num_slides, device=offsets.device)
    other = _other_slides(num_slides, offsets.device)
    own = slides.unsqueeze(1) * num_subcaptions + torch.arange(num_subcaptions, device=offsets.device)
    return torch.cat([own, other * num_subcaptions + offsets], dim=1).sort(dim=1).values


def candidate_labels(index: Int[Tensor, "B C"], num_subcaptions: int, first_slide: int = 0) -> Int[Tensor, "B C"]:
    """+1 where candidate ``index`` belongs to the row's own slide (rows start at ``first_slide``), else -1."""
    slides = torch.arange(len(index), device=index.device).unsqueeze(1) + first_slide
    return 2 * (index // num_subcaptions == slides).long() - 1


def statement_labels(
    caption_keys: Int[Tensor, "B J"],
    sub_key: Int[Tensor, "G K"],
    sub_mask: Bool[Tensor, "G K"],
    sub_false: Bool[Tensor, "G K"],
    first_slide: int = 0,
) -> Int[Tensor, "B C"]:
    """Which of the G·K statements of the global batch are true of each of B slides.

    A slide's own statements are true unless made false by rule; another slide's are false unless the same statement
    (by key; 0 is no key) stands in this slide's caption; padding gets 0. Rows are slides ``first_slide`` onwards.
    """
    num_slides, (num_all, num_subcaptions) = len(caption_keys), sub_key.shape
    keys = sub_key.reshape(-1)
    known = (caption_keys.unsqueeze(2) == keys).any(dim=1) & (keys != 0)
    owner = torch.arange(num_all, device=keys.device).repeat_interleave(num_subcaptions)
    rows = torch.arange(num_slides, device=keys.device).unsqueeze(1) + first_slide
    true = torch.where(owner == rows, ~sub_false.reshape(-1).expand_as(known), known)
    return (2 * true.long() - 1) * sub_mask.reshape(-1).long()


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
    kept, index = weights.topk(min(top_k, keys.shape[1]), dim=-1)
    kept = kept / kept.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    sparse = torch.zeros_like(weights).scatter(-1, index, kept)
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
    sub_mask: Bool[Tensor, "B K"] | None = None,
    sub_key: Int[Tensor, "B K"] | None = None,
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
        sub_mask: which texts are real.
        sub_key: statement keys: the same statement elsewhere is left out instead of being called false.
        positives: ``own``: a text and what it pooled. ``process``: the published labels, by which with several
            processes every local text is true of everything any local text pooled.
        gather: see the module docstring.
    """
    rows = pooled.shape[0] * pooled.shape[1]
    pooled, texts = pooled.reshape(rows, -1), texts.reshape(rows, -1)
    all_pooled, all_texts = gather(pooled), gather(texts)
    own = _own_labels(rows, len(all_texts), pooled.device)
    if positives == "process" and len(all_texts) != rows:
        own[:, local_rows(rows, len(all_texts))] = 1.0
    labels = (2 * own - 1).long()
    if sub_key is not None:
        keys, all_keys = sub_key.reshape(-1, 1), gather(sub_key.reshape(-1))
        labels = labels.masked_fill((keys == all_keys) & (keys != 0) & (labels < 0), 0)
    if sub_mask is not None:
        labels = labels * (sub_mask.reshape(-1, 1) & gather(sub_mask.reshape(-1))).long()
    image_to_text = pair_sigmoid(scale * cosine(pooled, all_texts) + bias, labels, normalize)
    text_to_image = pair_sigmoid(scale * cosine(texts, all_pooled) + bias, labels, normalize)
    return 0.5 * (image_to_text + text_to_image)
