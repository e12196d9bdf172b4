"""What a language model reads: visual tokens among the embeddings of a prompt, for both published variants.

Pure functions of tensors, and two small projections. ``embed`` is the language model's own table of tokens
(``llm.get_input_embeddings()``); the result goes in as ``llm(inputs_embeds=…, attention_mask=…, position_ids=…,
labels=…)``. Defaults are right where the released code is wrong; :data:`AS_RELEASED` brings its behaviour back
(docs/splice.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pathflip import losses
from pathflip.errors import ConfigError
from pathflip.models.layers import TextKeyAttention, drop_padding
from pathflip.types import IGNORED

__all__ = [
    "AS_RELEASED",
    "LatentPrefix",
    "SlidePrefix",
    "Spliced",
    "attention_scores",
    "cosine_scores",
    "prompt_prefix",
    "select_patches",
    "splice_caption",
    "splice_visual",
]

AS_RELEASED: dict[str, Any] = {"keep_prompt_before": False, "end_token": None}
"""The settings of :func:`splice_caption` that reproduce variant 1's release: no instruction, no end of the answer."""

Embed = Callable[[Tensor], Tensor]
"""Token ids (..., T) to embeddings (..., T, H)."""


@dataclass(frozen=True, eq=False)
class Spliced:
    """A language model's input: H is its width, T the positions; ``labels`` are not yet shifted."""

    embeds: Float[Tensor, "B T H"]
    mask: Bool[Tensor, "B T"]
    labels: Int[Tensor, "B T"]

    @property
    def position_ids(self) -> Int[Tensor, "B T"]:
        """0, 1, … over the real positions of each row, wherever its padding stands; 0 on padding."""
        return (self.mask.long().cumsum(dim=1) - 1).masked_fill(~self.mask, 0)


# ---------------------------------------------------------------------------------------------- visual tokens


class SlidePrefix(nn.Module):
    """Variant 1: the slide token and all region tokens, each through one linear layer."""

    def __init__(self, embed_dim: int, llm_width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(embed_dim, llm_width)

    def forward(self, slide: Float[Tensor, "B E"], regions: Float[Tensor, "B L E"]) -> Float[Tensor, "B V H"]:
        """V = 1 + L tokens, the slide's first (``SlideCode.slide`` and ``.keys`` of the published model)."""
        return self.proj(torch.cat([slide.unsqueeze(1), regions], dim=1))


def _projection(embed_dim: int, llm_width: int) -> nn.Sequential:
    # torch's own epsilon follows the precision of the input; this is its value in float32, fixed for all
    return nn.Sequential(nn.Linear(embed_dim, llm_width), nn.RMSNorm(llm_width, eps=1.1920929e-07))


class LatentPrefix(nn.Module):
    """Variant 2: the patches selected for a question, then the latent tokens without the global one."""

    def __init__(self, embed_dim: int, llm_width: int) -> None:
        super().__init__()
        self.local = _projection(embed_dim, llm_width)
        self.latent = _projection(embed_dim, llm_width)

    def forward(self, selected: Float[Tensor, "B k E"], latents: Float[Tensor, "B Q E"]) -> Float[Tensor, "B V H"]:
        """V = k + Q tokens."""
        return torch.cat([self.local(selected), self.latent(latents)], dim=1)


def cosine_scores(query: Float[Tensor, "B E"], patches: Float[Tensor, "B N E"]) -> Float[Tensor, "B N"]:
    """Cosine of each slide's question with its patches."""
    return losses.cosine(query.unsqueeze(1), patches).squeeze(1)


def attention_scores(
    head: TextKeyAttention,
    query: Float[Tensor, "B E"],
    patches: Float[Tensor, "B N E"],
    mask: Bool[Tensor, "B N"] | None = None,
) -> Float[Tensor, "B N"]:
    """Attention of each slide's question over its patches, mean of the heads.

    Give the head that alignment trained (``PerceiverPathFLIP.region_head``): the release makes a new, random one,
    and no gradient passes the selection to train it.
    """
    real = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device) if mask is None else mask
    return head.weights(query.unsqueeze(1), patches, real).mean(dim=1).squeeze(1)


def select_patches(
    patches: Float[Tensor, "B N E"], scores: Float[Tensor, "B N"], k: int, mask: Bool[Tensor, "B N"] | None = None
) -> tuple[Float[Tensor, "B k E"], Int[Tensor, "B k"], Bool[Tensor, "B k"]]:
    """The k patches of highest score, best first (all where there are fewer): rows, indices, which are real.

    A hard choice: gradients reach the patches and not the scores. Padding is chosen only where a slide has fewer
    than k patches, is marked so, and its rows are zero.
    """
    if k < 1:
        raise ConfigError(f"k: got {k}, expected at least 1 patch to select")
    real = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    ranked = scores.detach().masked_fill(~real, float("-inf"))
    index = ranked.topk(min(k, scores.shape[1]), dim=1).indices
    selected = real.gather(1, index)
    rows = patches.gather(1, index.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
    return drop_padding(rows, selected), index, selected


# ---------------------------------------------------------------------------------------------- variant 1


def prompt_prefix(
    visual: Float[Tensor, "B V H"],
    prompt_ids: Int[Tensor, " P"],
    image_token: int,
    embed: Embed,
    *,
    visual_mask: Bool[Tensor, "B V"] | None = None,
    keep_prompt_before: bool = True,
) -> Spliced:
    """[prompt up to and with the image token, visual tokens, rest of the prompt]: what an answer is generated from.

    Args:
        visual: tokens of each slide.
        prompt_ids: one prompt for all slides; it holds the image token once.
        image_token: its id; the token itself stays and announces the visual ones.
        embed: the language model's token embeddings.
        visual_mask: which visual tokens are real (default: all). The others are masked out, so give the model
            ``position_ids``.
        keep_prompt_before: False drops what stands before the image token, as released: the instruction.

    Raises:
        ConfigError: the prompt holds no image token, or several.
    """
    places = (prompt_ids == image_token).nonzero().flatten().tolist()
    if len(places) != 1:
        raise ConfigError(f"prompt: got the image token {image_token} {len(places)} times, expected once")
    after = places[0] + 1
    prompt = embed(prompt_ids).expand(len(visual), -1, -1)
    head, tail = prompt[:, 0 if keep_prompt_before else after - 1 : after], prompt[:, after:]
    real = torch.ones(visual.shape[:2], dtype=torch.bool, device=visual.device) if visual_mask is None else visual_mask
    embeds = torch.cat([head, drop_padding(visual, real).to(prompt.dtype), tail], dim=1)
    mask = torch.cat([real.new_ones(head.shape[:2]), real, real.new_ones(tail.shape[:2])], dim=1)
    return Spliced(embeds, mask, torch.full_like(mask, IGNORED, dtype=torch.long))


def splice_caption(
    visual: Float[Tensor, "B V H"],
    prompt_ids: Int[Tensor, " P"],
    text_ids: Int[Tensor, "B T"],
    text_mask: Bool[Tensor, "B T"],
    image_token: int,
    embed: Embed,
    *,
    end_token: int | None,
    visual_mask: Bool[Tensor, "B V"] | None = None,
    keep_prompt_before: bool = True,
) -> Spliced:
    """Variant 1's training sequence: :func:`prompt_prefix`, then each slide's caption; only the caption is learned.

    Args:
        visual, prompt_ids, image_token, embed, visual_mask, keep_prompt_before: as in :func:`prompt_prefix`.
        text_ids, text_mask: captions, padded on the right.
        end_token: put behind each caption that does not end with it, and learned. None as released: a model trained
            so never learns to stop.
    """
    if bool((text_mask[:, 1:] & ~text_mask[:, :-1]).any()):
        raise ConfigError("captions: got padding before or between tokens, expected all of it on the right")
    prefix = prompt_prefix(
        visual, prompt_ids, image_token, embed, visual_mask=visual_mask, keep_prompt_before=keep_prompt_before
    )
    if end_token is not None:
        text_ids, text_mask = _ended(text_ids, text_mask, end_token)
    return Spliced(
        embeds=torch.cat([prefix.embeds, embed(text_ids)], dim=1),
        mask=torch.cat([prefix.mask, text_mask], dim=1),
        labels=torch.cat([prefix.labels, text_ids.masked_fill(~text_mask, IGNORED)], dim=1),
    )


def _ended(ids: Tensor, mask: Tensor, end_token: int) -> tuple[Int[Tensor, "B U"], Bool[Tensor, "B U"]]:
    """Captions one position wider, the end token behind each that lacks it."""
    length = mask.sum(dim=1, keepdim=True)
    lacking = (ids.gather(1, (length - 1).clamp(min=0)) != end_token) | (length == 0)
    ids, mask = F.pad(ids, (0, 1)), F.pad(mask, (0, 1))
    return ids.scatter(1, length, end_token), mask.scatter(1, length, lacking)


# ---------------------------------------------------------------------------------------------- variant 2


def splice_visual(
    visual: Float[Tensor, "B V H"],
    ids: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    image_token: int,
    embed: Embed,
    *,
    labels: Int[Tensor, "B T"] | None = None,
    visual_mask: Bool[Tensor, "B V"] | None = None,
    padding: Literal["right", "left"] = "right",
) -> Spliced:
    """Variant 2's sequence: each row without its padding, the image token replaced by the row's visual tokens.

    Args:
        visual: row i belongs to row i of ``ids``, whether that has an image token or not.
        ids, mask: conversations, padded anywhere. A row without an image token stays text, and its visual tokens get
            a gradient of zero rather than none (so that processes agree on which parameters took part).
        image_token: its id; it need not be in the model's vocabulary.
        embed: the language model's token embeddings.
        labels: what is learned (default: nothing); visual tokens and padding are labelled :data:`IGNORED`.
        visual_mask: which visual tokens are real (default: all); the others are left out.
        padding: where the rows are padded (with zeros) to the longest. ``left`` is for generating in a batch, with
            ``position_ids``; the release pads on the right there too, between question and answer.

    Raises:
        ConfigError: a row holds several image tokens.
    """
    if labels is None:
        labels = torch.full_like(ids, IGNORED)
    text = embed(ids.masked_fill((ids == image_token) | ~mask, 0))
    rows, targets = [], []
    for i, real in enumerate(mask):
        shown = visual[i] if visual_mask is None else visual[i][visual_mask[i]]
        places = (ids[i][real] == image_token).nonzero().flatten().tolist()
        if len(places) > 1:
            raise ConfigError(f"row {i}: got {len(places)} image tokens, expected at most one for its one slide")
        before, after = (places[0], places[0] + 1) if places else (0, 0)
        shown = shown if places else shown[:0]
        own, target = text[i][real], labels[i][real]
        rows.append(torch.cat([own[:before], shown.to(own.dtype), own[after:]]))
        targets.append(torch.cat([target[:before], target.new_full((len(shown),), IGNORED), target[after:]]))
    return Spliced(
        embeds=pad_sequence(rows, batch_first=True, padding_side=padding),
        mask=pad_sequence([torch.ones_like(t, dtype=torch.bool) for t in targets], True, False, padding),
        labels=pad_sequence(targets, True, IGNORED, padding),
    )
