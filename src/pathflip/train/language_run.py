"""Train a small language model on the cohort's own text, where no pretrained one fits."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from pathflip.assistant import build_language_model
from pathflip.data.instruct import CAPTION_PROMPTS, InstructDataset, InstructSpec
from pathflip.data.instruct_examples import InstructExample
from pathflip.io.files import atomic_directory, write_json
from pathflip.models.assistant import Assistant, AssistantConfig
from pathflip.models.measurements import NUM_NUMBERS
from pathflip.processes import transformers_are_quiet
from pathflip.text.chat import ChatTemplate, train_chat_tokenizer
from pathflip.text.privacy import identifier_note
from pathflip.text.questions import MOST_OPTIONS
from pathflip.train import BatchSampler, InstructStep, SampledBatches, TrainConfig, TrainResult, fit
from pathflip.types import SlideTokens

__all__ = ["LanguageRecipe", "texts_of", "train_language"]


class LanguageRecipe(BaseModel):
    """Everything it takes to build a language model and teach it words.

    Attributes:
        name: of the recipe, written beside the weights.
        built: settings of a Qwen3 (``transformers.Qwen3Config``), which starts from random weights.
        vocab_size: of the tokenizer trained on the same texts.
        data: how conversations become rows.
        train: the loop's settings; ``batch_size`` counts conversations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    built: dict[str, Any]
    vocab_size: int = Field(1500, ge=300)
    data: InstructSpec = InstructSpec(learn="everything")
    train: TrainConfig = TrainConfig()


def train_language(
    recipe: LanguageRecipe,
    examples: Sequence[InstructExample],
    out: Path,
    *,
    resume: bool = False,
    note: str = "",
    on_step: Callable[[Mapping[str, float]], None] | None = None,
) -> TrainResult:
    """Train a tokenizer and a language model on what the examples say, and leave ``out/last`` in Hugging Face layout.

    Args:
        recipe: what to build and how to train it.
        examples: captions, questions and conversations, of training patients only.
        out: the run's directory.
        resume: go on where a killed run stopped.
        note: a caution kept beside the weights.
        on_step: called with every line of ``metrics.jsonl``, and the number of steps.

    Raises:
        ConfigError: settings that Qwen3 does not know, or no example.
    """
    if line := identifier_note(" ".join(turn.text for turn in one.turns) for one in examples):
        warnings.warn(line, stacklevel=2)
    tokenizer = train_chat_tokenizer(texts_of(examples), recipe.vocab_size)
    template = ChatTemplate(tokenizer)
    seed, ends = recipe.train.seed, (tokenizer.eos_token_id, tokenizer.pad_token_id)
    lm = build_language_model(recipe.built, len(tokenizer), *ends, seed=seed)
    reader = Assistant(
        AssistantConfig(embed_dim=1, text_only=True), lm, [ids[-1] for ids in template.letter_ids(MOST_OPTIONS)]
    )
    reader.projector.requires_grad_(False)  # nothing is shown
    data = InstructDataset(examples, _see_nothing, template, recipe.data, embed_dim=1)
    what_was_run = {"recipe": recipe.model_dump(mode="json"), "note": note, "num_examples": len(data)}

    def save(path: Path, numbers: Mapping[str, float]) -> None:
        with atomic_directory(path) as temporary, transformers_are_quiet():
            lm.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            write_json(temporary / "pathflip.json", {**what_was_run, "metrics": dict(numbers)})

    return fit(
        InstructStep(reader),
        SampledBatches(data.batch, BatchSampler(len(data), recipe.train.batch_size, seed), seed),
        config=recipe.train,
        out=Path(out),
        save=save,
        resume=resume,
        on_step=None if on_step is None else lambda row: on_step({**row, "steps": recipe.train.steps}),
    )


def texts_of(examples: Sequence[InstructExample]) -> list[str]:
    """Everything a language model will read or write."""
    out: list[str] = []
    for example in examples:
        out += [turn.text for turn in example.turns] + ([example.question, *example.options] if example.options else [])
    return [*out, *CAPTION_PROMPTS, "A. B. C. D. E. F."]


def _see_nothing(slide_id: str, questions: Sequence[str], options: Sequence[str], num_slides: int) -> SlideTokens:
    """A slide of no tokens."""
    none = torch.zeros(0, dtype=torch.long)
    return SlideTokens(
        vectors=torch.zeros(0, 1),
        text_vectors=torch.zeros(0, 1),
        numbers=torch.zeros(0, NUM_NUMBERS),
        kind=none,
        slot=none,
        tiles=(),
        scores=(),
        texts=(),
    )
