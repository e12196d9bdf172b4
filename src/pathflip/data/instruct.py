"""Batches for instruction tuning: examples as conversations, conversations as rows of tokens with visual ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch import Tensor

from pathflip.data.instruct_examples import InstructExample
from pathflip.errors import CaptionError, ConfigError
from pathflip.models.measurements import NUM_NUMBERS
from pathflip.text.chat import SLIDE_MARK, ChatPiece, ChatTemplate, Turn
from pathflip.text.questions import format_question, refers_to_options
from pathflip.types import IGNORED, InstructBatch, SlideTokens

__all__ = [
    "CAPTION_PROMPTS",
    "InstructDataset",
    "InstructSpec",
    "Row",
    "pack",
    "rows_to_batch",
    "splice_row",
    "with_slides",
]

CAPTION_PROMPTS = (
    "Describe this slide.",
    "Write a report on this slide.",
    "What are the findings on this slide?",
)
"""Requests a caption answers, drawn in turn by seed."""


class InstructSpec(BaseModel):
    """How examples become rows.

    Attributes:
        max_length: tokens of a conversation, visual ones included; a longer one loses the end of its last answer.
        pack_tokens: conversations share rows of at most this many tokens, without seeing each other; 0 gives each its
            own row.
        shuffle_options: options come in a new order each time.
        open_fraction: fraction of multiple-choice questions asked without their options, where that makes sense.
        learn: ``answers`` alone, each with its end, or ``everything`` that is said (to teach a language model words).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_length: int = Field(2048, ge=16)
    pack_tokens: int = Field(0, ge=0)
    shuffle_options: bool = True
    open_fraction: float = Field(0.1, ge=0, le=1, validation_alias=AliasChoices("open_fraction", "open_share"))
    learn: Literal["answers", "everything"] = "answers"


@dataclass(frozen=True, eq=False)
class Row:
    """A conversation as tokens, with its visual ones; ``visual`` counts them from 0, -1 is text."""

    name: str
    slide_id: str
    ids: Int[np.ndarray, " T"]
    visual: Int[np.ndarray, " T"]
    labels: Int[np.ndarray, " T"]
    slides: tuple[SlideTokens, ...]
    cut: int = 0
    """Tokens at its end that did not fit."""


def with_slides(text: str, num_slides: int) -> str:
    """A first question with a mark for every slide behind it; marks that are there stay.

    The marks stand behind the question: a causal language model reads in one direction, so the visual tokens can attend
    to the question and not the other way round.

    Raises:
        CaptionError: marks for another number of slides.
    """
    marks = text.count(SLIDE_MARK)
    if marks == num_slides:
        return text
    if marks:
        raise CaptionError(f"question: got {marks} times {SLIDE_MARK} for {num_slides} slides, expected one a slide")
    if num_slides == 1:
        return f"{text}\n{SLIDE_MARK}"
    return text + "".join(f"\nSlide {i}: {SLIDE_MARK}" for i in range(1, num_slides + 1))


def splice_row(
    pieces: Sequence[ChatPiece],
    slides: Sequence[SlideTokens],
    name: str,
    slide_id: str,
    max_length: int = 0,
    learn: Literal["answers", "everything"] = "answers",
) -> Row:
    """Put the slides' tokens where their pieces stand.

    Raises:
        ConfigError: the conversation is longer than ``max_length`` before its answer begins, or before its last visual
            token.
    """
    ids: list[int] = []
    visual: list[int] = []
    labels: list[int] = []
    starts = np.cumsum([0, *(len(one.kind) for one in slides)])
    for piece in pieces:
        if piece.slide is not None:
            own = range(starts[piece.slide], starts[piece.slide + 1])
            ids += [0] * len(own)
            visual += own
            labels += [IGNORED] * len(own)
        else:
            ids += piece.ids
            visual += [-1] * len(piece.ids)
            labels += piece.ids if piece.learned or learn == "everything" else [IGNORED] * len(piece.ids)
    cut = max(0, len(ids) - max_length) if max_length else 0
    if cut:
        if any(token >= 0 for token in visual[max_length:]):
            raise ConfigError(
                f"{name}: its visual tokens do not fit into max_length {max_length}; expected fewer of them (or fewer "
                "slides), shorter text before them, or a larger max_length"
            )
        ids, visual, labels = ids[:max_length], visual[:max_length], labels[:max_length]
        if all(label == IGNORED for label in labels):
            raise ConfigError(
                f"{name}: nothing of the answer is within max_length {max_length}; "
                "expected shorter text, fewer visual tokens, or a larger max_length"
            )
    return Row(name, slide_id, np.array(ids), np.array(visual), np.array(labels), tuple(slides), cut)


def pack(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Which conversations share a row of at most ``limit`` tokens: first fit, longest first (one longer than the limit
    stands alone). Within a row, and among rows, the given order is kept."""
    groups: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((g for g, left in enumerate(room) if left >= lengths[item]), None)
        if place is None:
            groups.append([])
            room.append(limit)
            place = len(groups) - 1
        groups[place].append(item)
        room[place] -= lengths[item]
    return sorted(sorted(group) for group in groups)


def rows_to_batch(rows: Sequence[Row], embed_dim: int, pack_tokens: int = 0) -> InstructBatch:
    """Pad, or pack and pad, conversations. Conversation g is ``rows[g]``, wherever it stands."""
    groups = pack([len(row.ids) for row in rows], pack_tokens) if pack_tokens else [[i] for i in range(len(rows))]
    longest = max(sum(len(rows[i].ids) for i in group) for group in groups)
    shape = (len(groups), longest)
    out = {name: np.full(shape, fill) for name, fill in _FILL.items()}
    starts = np.cumsum([0, *(sum(len(s.kind) for s in row.slides) for row in rows)])
    for line, group in enumerate(groups):
        at = 0
        for i in group:
            part = slice(at, at + len(rows[i].ids))
            out["ids"][line, part], out["labels"][line, part] = rows[i].ids, rows[i].labels
            out["visual"][line, part] = np.where(rows[i].visual >= 0, rows[i].visual + starts[i], -1)
            out["conversation"][line, part] = i
            out["position_ids"][line, part] = np.arange(len(rows[i].ids))
            at = part.stop
    slides = [slide for row in rows for slide in row.slides]
    empty: dict[str, Tensor] = {
        **dict.fromkeys(("vectors", "text_vectors"), torch.zeros(0, embed_dim)), "numbers": torch.zeros(0, NUM_NUMBERS),
        **dict.fromkeys(("kind", "slot"), torch.zeros(0, dtype=torch.long)),
    }  # fmt: skip
    seen = {name: torch.cat([none, *(getattr(slide, name) for slide in slides)]) for name, none in empty.items()}
    words = {name: torch.from_numpy(value.astype(np.int64)) for name, value in out.items()}
    return InstructBatch(slide_ids=tuple(row.slide_id for row in rows), **words, **seen)


_FILL = {"ids": 0, "visual": -1, "conversation": -1, "position_ids": 0, "labels": IGNORED}


Look = Callable[[str, Sequence[str], Sequence[str], int], SlideTokens]
"""Slide id, questions, options, number of slides in the conversation -> what the language model is shown."""


class InstructDataset:
    """Examples as batches: a pure function of ``(indices, rng)``.

    Args:
        examples: what to learn.
        look: what is seen on a slide when it is asked something.
        template: how conversations are written.
        spec: lengths, packing, shuffling.
        embed_dim: E.

    Raises:
        ConfigError: no example. CaptionError: a conversation without a question or an answer.
    """

    def __init__(
        self,
        examples: Sequence[InstructExample],
        look: Look,
        template: ChatTemplate,
        spec: InstructSpec,
        embed_dim: int,
    ) -> None:
        if not examples:
            raise ConfigError("instruct: got no example, expected captions, questions or conversations")
        for example in examples:
            _check(example)
        self.examples, self.look, self.template, self.spec = list(examples), look, template, spec
        self.embed_dim = embed_dim
        self.cut: set[str] = set()
        """Names of the examples whose answer did not fit into ``spec.max_length`` so far."""

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> InstructBatch:
        """Some examples. The same indices and generator state give the same batch, whatever was asked before."""
        seed = int(rng.integers(2**62))
        rows = [self.row(self.examples[i], np.random.default_rng([seed, i])) for i in indices]
        self.cut |= {row.name for row in rows if row.cut}
        return rows_to_batch(rows, self.embed_dim, self.spec.pack_tokens)

    def row(self, example: InstructExample, rng: np.random.Generator) -> Row:
        """One example as tokens; options are shuffled, and wordings drawn, by ``rng``."""
        turns, options = self._turns(example, rng)
        questions = [turn.text.replace(SLIDE_MARK, " ").strip() for turn in turns if turn.role == "user"]
        texts = [example.question] if example.question else questions
        slides = [self.look(slide, texts, options, len(example.slide_ids)) for slide in example.slide_ids]
        first = next(i for i, turn in enumerate(turns) if turn.role == "user")
        turns[first] = replace(turns[first], text=with_slides(turns[first].text, len(slides)))
        pieces = self.template.pieces(turns)
        name, slide_id = example.name, example.slide_ids[0]
        return splice_row(pieces, slides, name, slide_id, self.spec.max_length, self.spec.learn)

    def _turns(self, example: InstructExample, rng: np.random.Generator) -> tuple[list[Turn], tuple[str, ...]]:
        if not example.options:
            turns = list(example.turns)
            if turns[0].role == "user" and not turns[0].text.strip():
                turns[0] = Turn("user", CAPTION_PROMPTS[int(rng.integers(len(CAPTION_PROMPTS)))])
            return turns, ()
        right = example.options[example.answer]
        if rng.random() < self.spec.open_fraction and not refers_to_options(example.question):
            return [Turn("user", example.question), Turn("assistant", right)], ()
        order = rng.permutation(len(example.options)) if self.spec.shuffle_options else range(len(example.options))
        options = tuple(example.options[i] for i in order)
        letter = chr(ord("A") + options.index(right))
        return [Turn("user", format_question(example.question, options)), Turn("assistant", letter)], options


def _check(example: InstructExample) -> None:
    """Refuse what no language model can learn from.

    Raises:
        CaptionError: a conversation in which nobody asks or nobody answers, or no slide.
    """
    if not example.slide_ids:
        raise CaptionError(f"{example.name}: no slide; expected the id of at least one")
    if example.options:
        return
    roles = {turn.role for turn in example.turns}
    for role, who in (("user", "asks"), ("assistant", "answers")):
        if role not in roles:
            raise CaptionError(f"{example.name}: nobody {who}; expected a question and an answer")
