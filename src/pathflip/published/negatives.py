"""Which sub-captions a slide meets in the region losses of the published models, and which of them are true of it."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pathflip import losses
from pathflip.published import region_losses
from pathflip.types import AlignBatch, AlignOutput

__all__ = ["met_by_blocks", "met_in_global_batch"]


def met_in_global_batch(
    output: AlignOutput,
    batch: AlignBatch,
    index: Int[Tensor, "B C"] | None,
    sampled: bool,
    repeats_are_negatives: bool,
) -> tuple[Float[Tensor, "*b C E"], Int[Tensor, "B C"]]:
    """Candidates from the global batch.

    Args:
        output: this process's embeddings.
        batch: this process's batch.
        index: which of the B·K sub-captions of the global batch each local slide meets; None: drawn here.
        sampled: draw a slide's own sub-captions and one of every other slide; else it meets all.
        repeats_are_negatives: ignore that another slide's sub-caption may stand in this slide's caption too.

    Returns:
        Embeddings, (C, E) where all slides meet the same, else (B, C, E); and labels in {-1, 0, +1}.
    """
    texts, sub_caption_mask = (
        losses.gather_with_grad(output.sub_captions),
        losses.gather_with_grad(batch.sub_caption_mask),
    )
    own = losses.local_rows(len(output.slide), len(texts))
    keys, false = losses.gather_with_grad(batch.sub_caption_keys), losses.gather_with_grad(batch.sub_caption_false)
    if repeats_are_negatives:
        labels = losses.sub_caption_labels(
            torch.zeros_like(batch.caption_keys), keys, sub_caption_mask, false, own.start
        )
    else:
        parts = None if batch.sub_caption_part_keys is None else losses.gather_with_grad(batch.sub_caption_part_keys)
        equal = losses.equal_captions(batch.caption_key)
        labels = losses.sub_caption_labels(batch.caption_keys, keys, sub_caption_mask, false, own.start, equal, parts)
    texts = texts.flatten(0, 1)
    if index is None and sampled:
        index = region_losses.published_candidates(sub_caption_mask)[own].to(texts.device)
    return (texts, labels) if index is None else (texts[index], labels.gather(1, index))


def met_by_blocks(
    output: AlignOutput, batch: AlignBatch, index: Int[Tensor, "B C"] | None, repeats_are_negatives: bool
) -> tuple[Float[Tensor, "B G E"], Int[Tensor, "B G"]]:
    """As released: candidates drawn in each process, and row i of every other process as negatives of row i.

    ``index`` points into this process's B·K sub-captions.
    """
    if index is None:
        index = region_losses.published_candidates(batch.sub_caption_mask)
    index = index.to(output.slide.device)
    if repeats_are_negatives:
        caption_keys, equal, parts = torch.zeros_like(batch.caption_keys), None, None
    else:
        equal, parts = losses.equal_captions(batch.caption_key, lambda own: own), batch.sub_caption_part_keys
        caption_keys = batch.caption_keys
    own = losses.sub_caption_labels(
        caption_keys,
        batch.sub_caption_keys,
        batch.sub_caption_mask,
        batch.sub_caption_false,
        equal=equal,
        part_keys=parts,
    )
    own = own.gather(1, index)
    texts = losses.gather_with_grad(output.sub_captions.flatten(0, 1)[index]).unflatten(0, (-1, len(index)))
    labels = -(losses.gather_with_grad(own).unflatten(0, (-1, len(own))) != 0).long()
    if not repeats_are_negatives:
        labels = labels.masked_fill(_true_elsewhere(batch, index), 0)
    labels[losses.local_rows(1, len(labels))] = own
    return texts.transpose(0, 1).flatten(1, 2), labels.transpose(0, 1).flatten(1)


def _true_elsewhere(batch: AlignBatch, index: Int[Tensor, "B C"]) -> Bool[Tensor, "P B C"]:
    """Which of the texts that row i of each of P processes meets are true of this process's row i, too."""
    keys = losses.gather_with_grad(batch.sub_caption_keys.flatten()[index]).unflatten(0, (-1, len(index)))
    true = (keys[..., None] == batch.caption_keys[:, None, :]).any(dim=-1) & (keys != 0)
    if batch.sub_caption_part_keys is not None:
        parts = losses.gather_with_grad(batch.sub_caption_part_keys.flatten(0, 1)[index]).unflatten(0, (-1, len(index)))
        stands = (parts[..., None] == batch.caption_keys[:, None, None, :]).any(dim=-1) | (parts == 0)
        true = true | (stands.all(dim=-1) & (parts != 0).any(dim=-1))
    return true
