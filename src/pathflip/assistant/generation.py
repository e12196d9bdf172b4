"""Prompts for an assistant, the likelihood of answers to them, and the answers it writes itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pathflip.arguments import as_texts, refuse_text
from pathflip.assistant.saved_assistant import LoadedAssistant
from pathflip.assistant.visual_tokens import PreparedSlide, prepare_slide
from pathflip.data.instruct import Row, rows_to_batch, splice_row, with_slides
from pathflip.errors import CaptionError, ConfigError
from pathflip.text.chat import ChatPiece, Turn
from pathflip.text.questions import format_question
from pathflip.types import IGNORED, InstructBatch, SlideFeatures, SlideTokens

__all__ = [
    "Prompt",
    "answer_likelihoods",
    "build_prompt",
    "generate",
    "generate_many",
    "log_likelihood",
    "option_probabilities",
    "prompt_row",
    "slide_tokens",
]

Slide = SlideFeatures | PreparedSlide
PROMPTS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Prompt:
    """All a language model reads before it answers.

    Attributes:
        question: in words. options: of a multiple-choice question.
        slides: the visual tokens of each slide, and the tiles behind them.
        turns: the conversation, the question last.
        pieces: the same, tokenized.
    """

    question: str
    options: tuple[str, ...]
    slide_ids: tuple[str, ...]
    slides: tuple[SlideTokens, ...]
    turns: tuple[Turn, ...]
    pieces: tuple[ChatPiece, ...]

    @property
    def num_visual(self) -> int:
        """How many visual tokens the prompt holds."""
        return sum(len(one.kind) for one in self.slides)


def slide_tokens(
    assistant: LoadedAssistant,
    slide: Slide,
    question: str,
    options: Sequence[str] = (),
    *,
    keep: Bool[np.ndarray, " N"] | None = None,
    num_slides: int = 1,
) -> SlideTokens:
    """The visual tokens of one slide for a question.

    Args:
        assistant: from :func:`~pathflip.assistant.load_assistant`.
        slide: features, or a :class:`PreparedSlide` of them (quicker, for more than one question).
        question, options: to answer.
        keep: tiles to leave on the slide; the others are removed as if they had never been cut.
        num_slides: slides that share the conversation's visual tokens.

    Raises:
        ContractError, FeatureError, CaptionError: see :func:`pathflip.inference.encode_slide`.
    """
    refuse_text(options, "options")
    if isinstance(slide, SlideFeatures) or keep is not None:
        features = slide if isinstance(slide, SlideFeatures) else slide.features
        slide = prepare_slide(assistant.aligned, features, keep)
    return assistant.visual_tokenizer(slide, [question], options, num_slides)


def build_prompt(
    assistant: LoadedAssistant,
    question: str,
    slides: Slide | Sequence[Slide],
    options: Sequence[str] = (),
    *,
    history: Sequence[Turn] = (),
    keep: Sequence[Bool[np.ndarray, " _"] | None] | None = None,
    system: str = "",
) -> Prompt:
    """Everything up to the answer.

    Args:
        assistant: from :func:`~pathflip.assistant.load_assistant`.
        question: without options; those are written behind it, A to Z.
        slides: one or several.
        options: of a multiple-choice question.
        history: earlier turns of a conversation about the same slides, first question first.
        keep: a mask of tiles to leave for each slide (None keeps all).
        system: an instruction before everything.

    Raises:
        CaptionError: an empty question. See also :func:`slide_tokens`.
        ConfigError: no slide, or more than the visual tokens allow.
    """
    refuse_text(options, "options")
    refuse_text(history, "history", "a list of turns")
    many = [slides] if isinstance(slides, (SlideFeatures, PreparedSlide)) else list(slides)
    if not many:
        raise ConfigError("build_prompt: got no slide, expected at least one")
    masks = list(keep) if keep is not None else [None] * len(many)
    if len(masks) != len(many):
        raise ConfigError(f"keep: got {len(masks)} masks for {len(many)} slides, expected one each (or None)")
    text = format_question(question, options)
    tokens = tuple(
        slide_tokens(assistant, one, question, options, keep=mask, num_slides=len(many))
        for one, mask in zip(many, masks, strict=True)
    )
    turns = [*history, Turn("user", text)]
    if turns[0].role != "user":
        raise CaptionError(f"history: got a turn of the {turns[0].role} first, expected a question")
    turns[0] = replace(turns[0], text=with_slides(turns[0].text, len(many)))
    if system:
        turns.insert(0, Turn("system", system))
    pieces = assistant.template.pieces(turns, answer_next=True)
    ids = tuple(one.slide_id for one in many)
    return Prompt(
        question=question,
        options=tuple(options),
        slide_ids=ids,
        slides=tokens,
        turns=tuple(turns),
        pieces=tuple(pieces),
    )


@torch.no_grad()
def log_likelihood(
    assistant: LoadedAssistant, prompt: Prompt, answers: Sequence[str], *, per_token: bool = False, ended: bool = True
) -> Float[Tensor, " A"]:
    """Log-probability of each answer, its end included.

    Args:
        assistant: from :func:`~pathflip.assistant.load_assistant`.
        prompt: everything up to the answer.
        answers: for a multiple-choice question the letters ("A", "B", …), or any texts.
        per_token: mean over an answer's tokens, which does not favour short ones.
        ended: count the token that ends the answer.

    Raises:
        CaptionError: no answer, or an empty one.
    """
    answers = as_texts(answers, "answers")
    if not answers or any(not answer.strip() for answer in answers):
        raise CaptionError(f"answers: got {list(answers)!r}, expected at least one, none of them empty")
    rows = []
    for answer in answers:
        answer_piece = ChatPiece(assistant.template.answer_ids(answer, ended=ended), learned=True)
        rows.append(prompt_row(prompt, [*prompt.pieces, answer_piece]))
    batch = rows_to_batch(rows, assistant.model.config.embed_dim).to(assistant.device)
    mean = -assistant.model(batch).float().cpu()
    return mean if per_token else mean * (batch.labels != IGNORED).sum(1).cpu()


@torch.no_grad()
def answer_likelihoods(assistant: LoadedAssistant, prompts: Sequence[Prompt], answer: str) -> list[float]:
    """Log-probability of one answer, its end included, to each of many prompts; many at a time."""
    piece = ChatPiece(assistant.template.answer_ids(answer), learned=True)
    likely: list[float] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        rows = [prompt_row(one, [*one.pieces, piece]) for one in prompts[start : start + PROMPTS_AT_ONCE]]
        batch = rows_to_batch(rows, assistant.model.config.embed_dim).to(assistant.device)
        likely += (-assistant.model(batch).float().cpu() * (batch.labels != IGNORED).sum(1).cpu()).tolist()
    return likely


@torch.no_grad()
def option_probabilities(assistant: LoadedAssistant, prompts: Sequence[Prompt]) -> list[Float[np.ndarray, " _"]]:
    """For each multiple-choice prompt, a softmax over the likelihoods of its options' letters; many at a time.

    Raises:
        ConfigError: a prompt without options.
    """
    if any(not one.options for one in prompts):
        raise ConfigError("option_probabilities: got a prompt without options; use log_likelihood or generate")
    letters = assistant.template.letter_ids(max((len(one.options) for one in prompts), default=1))
    if len({ids[:-1] for ids in letters}) > 1:  # a letter is not one token after the same others
        return [_letters_one_by_one(assistant, one) for one in prompts]
    out: list[np.ndarray] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        some = prompts[start : start + PROMPTS_AT_ONCE]
        rows = [prompt_row(one, [*one.pieces, ChatPiece(letters[0][:-1])]) for one in some]
        batch = rows_to_batch(rows, assistant.model.config.embed_dim).to(assistant.device)
        logits = assistant.model.next_logits(batch)[:, [ids[-1] for ids in letters]].float().cpu()
        out += [row[: len(one.options)].softmax(0).numpy() for row, one in zip(logits, some, strict=True)]
    return out


def _letters_one_by_one(assistant: LoadedAssistant, prompt: Prompt) -> Float[np.ndarray, " O"]:
    likelihood = log_likelihood(assistant, prompt, list(ascii_uppercase[: len(prompt.options)]), ended=False)
    chances: np.ndarray = likelihood.softmax(0).numpy()
    return chances


@torch.no_grad()
def generate(
    assistant: LoadedAssistant,
    prompt: Prompt,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    begin: str = "",
    stream: Callable[[str], None] | None = None,
) -> str:
    """The answer the language model writes: greedy, or drawn with a seed.

    Args:
        assistant: from :func:`~pathflip.assistant.load_assistant`.
        prompt: everything up to the answer.
        max_new_tokens: where it stops at the latest.
        temperature: 0 always takes the likeliest token.
        top_p: draw from the likeliest tokens that make up this probability.
        seed: of the draws.
        begin: the first words of the answer, decided already; it goes on from them.
        stream: called with every new stretch of text as it comes.
    """
    opening = assistant.template.answer_ids(begin, ended=False) if begin else ()
    pieces = [*prompt.pieces, ChatPiece(opening)] if begin else prompt.pieces
    batch: InstructBatch = rows_to_batch([prompt_row(prompt, pieces)], assistant.model.config.embed_dim)
    if begin and stream is not None:
        stream(begin)
    batch = batch.to(assistant.device)
    embeds = assistant.model.embed(batch)
    options: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        options = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    tokenizer = assistant.template.tokenizer
    devices = [assistant.device.index or 0] if assistant.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        ids = assistant.model.lm.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
            max_new_tokens=max_new_tokens,
            eos_token_id=list(assistant.template.end_ids),
            pad_token_id=assistant.template.end_ids[0],
            streamer=_text_streamer(tokenizer, stream) if stream is not None else None,
            **options,
        )
    if not begin:
        return str(tokenizer.decode(ids[0], skip_special_tokens=True)).strip()
    whole, opened = (
        str(tokenizer.decode(some, skip_special_tokens=True)) for some in ([*opening, *ids[0].tolist()], opening)
    )
    return (begin + whole.removeprefix(opened)).strip()


@torch.no_grad()
def generate_many(assistant: LoadedAssistant, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
    """The greedy answers to many prompts at a time: those of :func:`generate`, in a fraction of the time where answers
    are short."""
    written: list[str] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        rows = [prompt_row(one, one.pieces) for one in prompts[start : start + PROMPTS_AT_ONCE]]
        batch: InstructBatch = rows_to_batch(rows, assistant.model.config.embed_dim).to(assistant.device)
        # What is written follows the last token of each row, so padding goes to the front.
        lengths = (batch.conversation >= 0).sum(1).tolist()
        embeds = torch.stack(
            [row.roll(row.shape[0] - n, 0) for row, n in zip(assistant.model.embed(batch), lengths, strict=True)]
        )
        mask = torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        for row, length in enumerate(lengths):
            mask[row, mask.shape[1] - length :] = 1
        ids = assistant.model.lm.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(assistant.template.end_ids),
            pad_token_id=assistant.template.end_ids[0],
            do_sample=False,
        )
        written += [text.strip() for text in assistant.template.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return written


def prompt_row(prompt: Prompt, pieces: Sequence[ChatPiece]) -> Row:
    """A prompt, or a prompt with the beginning of an answer, as tokens."""
    return splice_row(pieces, prompt.slides, prompt.question, prompt.slide_ids[0])


def _text_streamer(tokenizer: Any, write: Callable[[str], None]) -> Any:
    """transformers' streamer, which gives out whole words, writing to a function instead of the terminal."""
    from transformers import TextStreamer

    class _Writer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                write(text)

    return _Writer(tokenizer, skip_special_tokens=True)
