"""What training minimises: pure functions of features, labels and scalars; no function here knows a model.

Every mask is boolean and True means real. Labels are +1 (true pair), -1 (false pair), 0 (leave out).

Many processes: each loss takes ``gather``, a function that joins one tensor of every process along the first axis
(identity where there is one process). Each process then compares its own rows with the whole global batch, and the
*mean over processes* of what it returns is the loss one process would compute on the joined batch; averaging
gradients over processes, as DDP and FSDP do, gives that one process's gradients.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "Gather",
    "Scalar",
    "balanced_sigmoid",
    "cosine",
    "equal_captions",
    "gather_all",
    "gather_with_grad",
    "info_nce",
    "local_rows",
    "own_labels",
    "pair_losses",
    "share_of_global",
    "sub_caption_labels",
    "true_captions",
]

Gather = Callable[[Tensor], Tensor]
Scalar = Float[Tensor, ""] | Float[Tensor, " 1"] | float
"""A number, or a parameter that holds one."""

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
        return gather_all(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        start = _rank() * ctx.rows
        return grad[start : start + ctx.rows]


def gather_all(tensor: Tensor) -> Tensor:
    """The rows of all processes in rank order, without a gradient; there must be a process group."""
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
    return _AllGather.apply(tensor) if tensor.is_floating_point() else gather_all(tensor)


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


def own_labels(rows: int, columns: int, device: torch.device) -> Float[Tensor, "B G"]:
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
    left_out: tuple[Bool[Tensor, "B G"], Bool[Tensor, "B G"]] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy between slides and captions (CLIP, arXiv 2103.00020).

    Args:
        image: slide embeddings, any length (normalised here).
        text: caption embeddings, row i belonging to slide i.
        scale: what cosines are multiplied by, 1 / temperature.
        smoothing: fraction of every target spread evenly over all columns.
        labels: positive where local slide i and caption j of the global batch belong together, and likewise slide j
            and caption i; several in a row share its weight. Default: each slide and its own caption.
        gather: see the module docstring.
        left_out: pairs that are neither true nor false (an equal report): for each local slide among all captions,
            and for each local caption among all slides.
    """
    all_image, all_text = gather(image), gather(text)
    target = own_labels(len(image), len(all_text), image.device) if labels is None else labels.clamp(min=0).float()
    target = target / target.sum(dim=1, keepdim=True).clamp(min=1e-12)
    none = torch.zeros_like(target, dtype=torch.bool)
    loss = image.new_zeros((), dtype=torch.float32)
    for own, others, out in zip((image, text), (all_text, all_image), left_out or (none, none), strict=True):
        evenly = (smoothing / (~out).sum(dim=1, keepdim=True).clamp(min=1).double()).float()
        smoothed = ((1.0 - smoothing) * target + evenly).masked_fill(out, 0.0)
        log_prob = F.log_softmax((scale * cosine(own, others)).masked_fill(out, float("-inf")), dim=-1)
        loss = loss - (smoothed * log_prob.masked_fill(out, 0.0)).sum(dim=-1).mean()
    return 0.5 * loss


# ---------------------------------------------------------------------------------------------- pairs of yes and no


def pair_losses(logits: Float[Tensor, "*b"], labels: Tensor) -> Float[Tensor, "*b"]:
    """-log sigmoid(label · logit); exactly 0 (and no gradient, even from NaN or infinity) where the label is 0."""
    logits = torch.where(labels == 0, torch.zeros_like(logits), logits.float())
    return F.softplus(-labels * logits) * (labels != 0)


def balanced_sigmoid(
    logits: Float[Tensor, "B C"], labels: Int[Tensor, "B C"], weights: Float[Tensor, "B C"] | None = None
) -> Float[Tensor, ""]:
    """Half the mean loss of true pairs plus half that of false ones, however few the true ones are; 0 is ignored.

    ``weights`` multiply single pairs, and count in the denominators. These are of the global batch; an empty class
    gives 0.
    """
    weights = torch.ones_like(logits, dtype=torch.float32) if weights is None else weights.float()
    losses = weights * pair_losses(logits, labels)
    halves = [(labels > 0).float(), (labels < 0).float()]
    means = [(losses * half).sum() / share_of_global((weights * half).sum()).clamp(min=1e-12) for half in halves]
    return 0.5 * (means[0] + means[1])


# ---------------------------------------------------------------------------------------------- sub-captions and keys


def equal_captions(
    caption_key: Int[Tensor, " B"] | None, gather: Gather = gather_with_grad
) -> Bool[Tensor, "B G"] | None:
    """Which captions of the global batch are another slide's and yet the same as a local slide's own, by key.

    None where there are no keys; 0 is no key.
    """
    if caption_key is None:
        return None
    everywhere = gather(caption_key)
    own = own_labels(len(caption_key), len(everywhere), caption_key.device) > 0
    return (caption_key.unsqueeze(1) == everywhere) & (everywhere != 0) & ~own


def true_captions(
    truth: Int[Tensor, "B C"], counted: Bool[Tensor, "G K"], equal: Bool[Tensor, "B G"] | None = None
) -> Bool[Tensor, "B G"]:
    """Which captions of other slides are true of each local slide: equal ones, and those of which every sub-caption
    that was drawn is.

    Args:
        truth: of :func:`sub_caption_labels`. counted: sub-captions that make up their caption. equal: of
            :func:`equal_captions`.
    """
    true = ((truth > 0).view(len(truth), *counted.shape) | ~counted).all(dim=-1) & counted.any(dim=-1)
    true = true & ~(own_labels(len(truth), len(counted), truth.device) > 0)
    return true if equal is None else true | equal


def sub_caption_labels(
    caption_keys: Int[Tensor, "B J"],
    sub_caption_keys: Int[Tensor, "G K"],
    sub_caption_mask: Bool[Tensor, "G K"],
    sub_caption_false: Bool[Tensor, "G K"],
    first_slide: int = 0,
    equal: Bool[Tensor, "B G"] | None = None,
    part_keys: Int[Tensor, "G K R"] | None = None,
) -> Int[Tensor, "B C"]:
    """Which of the G·K sub-captions of the global batch are true of each of B slides.

    A slide's own sub-captions are true unless made false by rule; another slide's are false unless the same sub-caption
    (by key; 0 is no key) stands in this slide's caption; padding gets 0. Rows are slides ``first_slide`` onwards.

    Args:
        equal: slides whose whole captions are equal (:func:`equal_captions`): what is true of one is of the other.
        part_keys: of merged sentences: merges of sentences that all stand in a caption are true of its slide.
    """
    num_slides, (num_all, num_sub_captions) = len(caption_keys), sub_caption_keys.shape
    keys = sub_caption_keys.reshape(-1)
    known = (caption_keys.unsqueeze(2) == keys).any(dim=1) & (keys != 0)
    if part_keys is not None:
        parts = part_keys.flatten(0, 1)
        stands = (caption_keys[:, None, None, :] == parts[None, :, :, None]).any(dim=-1)
        known = known | ((stands | (parts == 0)).all(dim=-1) & (parts != 0).any(dim=-1))
    if equal is not None:
        known = known | (equal.repeat_interleave(num_sub_captions, dim=1) & ~sub_caption_false.reshape(-1))
    owner = torch.arange(num_all, device=keys.device).repeat_interleave(num_sub_captions)
    rows = torch.arange(num_slides, device=keys.device).unsqueeze(1) + first_slide
    true = torch.where(owner == rows, ~sub_caption_false.reshape(-1).expand_as(known), known)
    return (2 * true.long() - 1) * sub_caption_mask.reshape(-1).long()
