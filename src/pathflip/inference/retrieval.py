"""Retrieval: every slide scored against every report, both ways."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from pathflip.arguments import as_texts
from pathflip.errors import CaptionError, ConfigError
from pathflip.inference.aligned import Aligned
from pathflip.inference.encoding import (
    Slides,
    as_slides,
    encode_text,
    encoded_slides,
    presence_of,
)
from pathflip.text.sentences import split_sentences
from pathflip.text.sub_captions import sub_captions_of
from pathflip.types import TextCode

__all__ = ["Retrieval", "encode_caption", "retrieval_scores", "retrieve"]

SENTENCE_WEIGHT = 2.0
"""Weight of the sub-caption-level score beside the whole-slide score in retrieval (docs/method.md)."""


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Scores of slides (rows) against captions (columns): ``scores`` combines the other two.

    ``scores`` of a slide and a caption do not depend on which other slides are in the gallery, but for one scale of
    the whole matrix.
    """

    slide_ids: tuple[str, ...]
    captions: tuple[str, ...]
    whole: Float[np.ndarray, "B A"]
    sub_captions: Float[np.ndarray, "B A"]
    scores: Float[np.ndarray, "B A"]
    unknown: tuple[bool, ...] = ()
    """Which captions hold no word of the training texts: their scores mean nothing."""

    @property
    def gallery_normalised(self) -> Float[np.ndarray, "B A"]:
        """The combined scores standardised caption by caption over the gallery's slides: some captions score high on
        every slide, and what tells is on which they score higher than elsewhere. It needs the whole test gallery at
        once, so no headline number uses it."""
        return retrieval_scores(self.whole, self.sub_captions, axis=0)

    def slides_for(self, caption: int, k: int = 5) -> list[tuple[str, float]]:
        """The k best slides for a caption."""
        order = np.argsort(-self.scores[:, caption], kind="stable")[:k]
        return [(self.slide_ids[i], float(self.scores[i, caption])) for i in order]

    def captions_for(self, slide: int, k: int = 5) -> list[tuple[int, float]]:
        """The k best captions (column numbers) for a slide; those of unknown words come last."""
        last = np.array(self.unknown or [False] * len(self.captions))
        order = np.lexsort((-self.scores[slide], last))[:k]
        return [(int(i), float(self.scores[slide, i])) for i in order]


@torch.no_grad()
def retrieve(model: Aligned, slides: Slides, captions: str | Sequence[str]) -> Retrieval:
    """Score every slide against every caption, both ways at once.

    Args:
        slides: at least one.
        captions: whole reports or single sentences; a text alone is one caption.

    Raises:
        CaptionError: a caption without a sentence. ConfigError: no slide, or no caption.
    """
    captions, slides = tuple(as_texts(captions, "captions")), as_slides(slides)
    if not captions or not len(slides):
        raise ConfigError(f"retrieve: got {len(slides)} slides and {len(captions)} captions, expected one at least")
    sentences = [_counted_sub_captions(model, caption, place) for place, caption in enumerate(captions)]
    unique = sorted({sentence for parts in sentences for sentence in parts})
    row_of = {sentence: row for row, sentence in enumerate(unique)}
    rows_of = [[row_of[sentence] for sentence in parts] for parts in sentences]
    code = encode_text(model, unique)
    whole_code = _whole_captions(model, captions, rows_of, code)
    whole, sub_captions, ids = [], [], []
    for slide in encoded_slides(model, slides):
        logits = presence_of(model, slide, code)
        ids.append(slide.slide_id)
        whole.append(model.net.similarity(slide.code, whole_code)[0].float().cpu().numpy())
        sub_captions.append([float(logits[rows].mean()) for rows in rows_of])
    whole_scores, sub_caption_scores = np.stack(whole), np.array(sub_captions)
    return Retrieval(
        tuple(ids),
        captions,
        whole_scores,
        sub_caption_scores,
        retrieval_scores(whole_scores, sub_caption_scores),
        tuple(map(model.knows_no_word_of, captions)),
    )


@torch.no_grad()
def encode_caption(model: Aligned, caption: str) -> tuple[TextCode, TextCode]:
    """A caption as :func:`retrieve` scores it: one code of the whole, and one of the sub-captions that count.

    Raises:
        CaptionError: no sentence in it.
    """
    sub_captions = encode_text(model, _counted_sub_captions(model, caption, 0))
    return _whole_captions(model, [caption], [list(range(len(sub_captions.texts)))], sub_captions), sub_captions


def _counted_sub_captions(model: Aligned, caption: str, place: int) -> list[str]:
    """The sentences of a caption that its score is the mean of: those a slide can show, or all if there are none."""
    sentences = split_sentences(caption)
    if not sentences:
        raise CaptionError(f"caption {place}: no sentence in {caption[:40]!r}; expected at least one")
    if not model.text.visual_only:
        return sentences
    stated = [one for sentence in sentences for one in sub_captions_of(sentence)]
    return [one.text for one in stated if one.visual] or sentences


def _whole_captions(model: Aligned, captions: Sequence[str], rows_of: list[list[int]], code: TextCode) -> TextCode:
    if not model.net.captions_are_sub_captions:
        return encode_text(model, captions, sub_captions=False)
    caption = torch.stack([code.caption[rows].mean(0) for rows in rows_of])
    return TextCode(tuple(captions), caption, caption, torch.zeros(len(captions), dtype=torch.bool))


def retrieval_scores(
    whole: Float[np.ndarray, "B A"], sub_captions: Float[np.ndarray, "B A"], axis: int | None = None
) -> Float[np.ndarray, "B A"]:
    """z(whole) + 2·z(sub-captions), z being (value - mean) / standard deviation.

    Args:
        axis: None takes mean and standard deviation over the whole matrix, which changes no ranking of either part;
            0 takes them over the slides, caption by caption. A constant column (or matrix) contributes nothing.
    """

    def standard(values: np.ndarray) -> np.ndarray:
        deviation = values.std(axis=axis, keepdims=True)
        centred = values - values.mean(axis=axis, keepdims=True)
        return np.where(deviation > 1e-9, centred / np.maximum(deviation, 1e-9), 0.0)

    return standard(whole) + SENTENCE_WEIGHT * standard(sub_captions)
