"""Teach an assistant: an aligned model and a language model in, an assistant that answers with evidence out."""

import difflib
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from pathflip.assistant import (
    LanguageModelSpec,
    LoadedAssistant,
    Prompt,
    VisualTokenizer,
    build_prompt,
    load_assistant,
    open_language_model,
    option_probabilities,
    save_assistant,
)
from pathflip.assistant.language_model import open_tokenizer, prepare_language_model
from pathflip.data.instruct import CAPTION_PROMPTS, InstructDataset, InstructSpec
from pathflip.data.instruct_examples import InstructExample
from pathflip.data.splits import read_splits
from pathflip.errors import CaptionError, ConfigError, ContractError
from pathflip.features import read_features
from pathflip.inference import Aligned, load
from pathflip.io.slide_id import join_ids, paths_by_id
from pathflip.models.assistant import Assistant, AssistantConfig
from pathflip.text.chat import SLIDE_MARK, ChatTemplate
from pathflip.text.privacy import identifier_note
from pathflip.text.questions import GRAMMAR, MOST_OPTIONS
from pathflip.text.sentences import split_sentences
from pathflip.train import (
    BatchSampler,
    Evaluator,
    InstructStep,
    SampledBatches,
    Save,
    TrainConfig,
    TrainResult,
    fit,
)

__all__ = ["InstructRecipe", "key_phrases", "split_examples", "train_instruct"]

STATISTICS_FROM = 256
"""Examples from which the measured numbers are standardised."""

VAL_QUESTIONS = 400


class InstructRecipe(BaseModel):
    """Everything an instruction run needs beside the data.

    Attributes:
        name: of the recipe, written into the checkpoint.
        learn: kinds of examples it takes: captions, questions (multiple choice), conversations.
        assistant: fields of :class:`~pathflip.models.assistant.AssistantConfig`; ``embed_dim`` comes from the aligned
            model.
        num_probes: frequent phrases of the training texts, looked for on every slide where a question has no options.
        language: the language model and what of it is trained.
        data: how examples become rows.
        epochs: passes over the data; 0 takes ``train.steps``. warmup_fraction: of the steps, where epochs are given.
        train: the loop's settings; ``batch_size`` counts conversations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    learn: tuple[Literal["caption", "question", "conversation"], ...] = ("caption", "question", "conversation")
    assistant: dict[str, Any] = {}
    num_probes: int = Field(48, ge=0)
    language: LanguageModelSpec
    data: InstructSpec = InstructSpec()
    epochs: float = Field(0, ge=0)
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    train: TrainConfig = TrainConfig()


def split_examples(examples: Sequence[InstructExample], splits: Path | None) -> dict[str, list[InstructExample]]:
    """Examples by split; everything is "train" where no splits are given, and slides not named there are left out.

    Raises:
        ConfigError: no columns slide and split, a patient in two splits, or an example across splits.
    """
    parts: dict[str, list[InstructExample]] = {"train": [], "val": [], "test": []}
    if splits is None:
        return {**parts, "train": list(examples)}
    split_of = read_splits(splits)
    named = [slide for example in examples for slide in example.slide_ids]
    split_of |= {own: split_of[name] for name, own in join_ids(split_of, named).items()}
    for example in examples:
        parts_of_slides = {split_of.get(slide_id) for slide_id in example.slide_ids}
        if len(parts_of_slides) > 1:
            raise ConfigError(f"{example.name}: its slides are in different splits; expected one split")
        if (part := parts_of_slides.pop()) in parts:
            parts[part].append(example)
    return parts


def train_instruct(
    recipe: InstructRecipe,
    examples: Sequence[InstructExample],
    files: Sequence[Path],
    out: Path,
    *,
    aligned: Path | None = None,
    start: Path | None = None,
    language_model: Path | None = None,
    val_examples: Sequence[InstructExample] = (),
    resume: bool = False,
    note: str = "",
    on_step: Callable[[Mapping[str, float]], None] | None = None,
) -> TrainResult:
    """Train an assistant and leave ``out/last`` (and ``out/best``), metrics and a resumable state.

    Args:
        recipe: what to train.
        examples: what to learn from: of training patients only.
        files: feature files of all slides the examples speak of.
        out: the run's directory.
        aligned: checkpoint of the alignment model. With ``start`` it takes the place of that assistant's own, and must
            be as wide and of the same features.
        start: an assistant to go on from (the second stage from the first). It brings its own way of showing slides:
            settings of ``recipe.assistant`` that differ are named in a warning.
        language_model: where the recipe's language model lies, if not under its name.
        val_examples: questions to answer during training; with them ``best/`` is kept by their accuracy.
        resume: go on where a killed run stopped.
        note: a caution kept in the checkpoint.
        on_step: called with every line of ``metrics.jsonl``, and the number of steps.

    Raises:
        CaptionError: an example about a slide without features, or no example of a kind the recipe learns.
        ConfigError: neither ``aligned`` nor ``start``, or a language model that is not there.
        ContractError: ``aligned`` reads other features than the one of ``start``.
    """
    learned = _of_kinds(examples, recipe.learn)
    if line := identifier_note(" ".join(turn.text for turn in one.turns) for one in learned):
        warnings.warn(line, stacklevel=2)
    by_id = _files_by_id([*learned, *val_examples], files)
    made = _begin(recipe, learned, by_id, aligned, start, language_model)
    data = InstructDataset(learned, made.visual_tokenizer, made.template, recipe.data, made.model.config.embed_dim)
    if not made.model.config.text_only:
        made.visual_tokenizer.expect(_texts_of_slides(made.visual_tokenizer, [*learned, *val_examples]))
    if not made.model.config.text_only:
        _set_statistics(made.model, data, recipe.train.seed)
    config = _train_config(recipe, len(data))
    evaluators: dict[str, Evaluator] = {}
    questions = [example for example in val_examples if example.options][:VAL_QUESTIONS]
    if questions:
        evaluators["val"] = _validation(made, questions)
        config = config if config.best else config.model_copy(update={"best": "val/accuracy"})
    what_was_run = {**recipe.model_dump(mode="json"), "note": note, "num_examples": len(data)}
    result = fit(
        InstructStep(made.model),
        SampledBatches(data.batch, BatchSampler(len(data), config.batch_size, config.seed), config.seed),
        config=config,
        out=Path(out),
        evaluators=evaluators,
        save=_saver(made, what_was_run),
        resume=resume,
        on_step=None if on_step is None else lambda row: on_step({**row, "steps": config.steps}),
    )
    if data.cut:
        warnings.warn(
            f"{len(data.cut)} of {len(data)} answers were cut at data.max_length {recipe.data.max_length} tokens "
            f"(first {min(data.cut)}); nothing of a slide was cut. A larger data.max_length keeps more of them",
            stacklevel=2,
        )
    return result


def _saver(made: LoadedAssistant, what_was_run: Mapping[str, Any]) -> Save:
    where = made.aligned.checkpoint.path
    if where is None:
        raise ConfigError("train: the aligned model was not opened from a directory; save it first")

    def save(path: Path, numbers: Mapping[str, float]) -> None:
        words: dict[str, Any] = {"language": made.language, "template": made.template, "aligned": where}
        save_assistant(path, made.model, recipe=what_was_run, metrics=numbers, **words)

    return save


def _of_kinds(examples: Sequence[InstructExample], kinds: Sequence[str]) -> list[InstructExample]:
    def kind(example: InstructExample) -> str:
        return "question" if example.options else ("caption" if example.category == "caption" else "conversation")

    chosen = [example for example in examples if kind(example) in kinds]
    if not chosen:
        raise CaptionError(f"train: none of {len(examples)} examples is a {' or a '.join(kinds)}; give files of such")
    return chosen


def _files_by_id(examples: Sequence[InstructExample], files: Sequence[Path]) -> dict[str, Path]:
    """The feature file of every slide the examples name, under the name they have there and under its own."""
    by_id = paths_by_id(files)
    named = {slide for example in examples for slide in example.slide_ids}
    by_id |= {name: by_id[own] for name, own in join_ids(sorted(named), by_id).items()}
    lonely = sorted(named - by_id.keys())
    if lonely:
        raise CaptionError(
            f"examples speak of {len(lonely)} slides without features ({', '.join(lonely[:3])}); "
            "extract them, or leave their examples out"
        )
    return by_id


def _begin(
    recipe: InstructRecipe,
    examples: Sequence[InstructExample],
    by_id: Mapping[str, Path],
    aligned: Path | None,
    start: Path | None,
    language_model: Path | None,
) -> LoadedAssistant:
    """The assistant before its first step."""
    if start is not None:
        before = load_assistant(start, "cpu", language_model)
        _say_what_start_decides(recipe, before)
        other = before.aligned if aligned is None else _other_aligned(before, load(aligned, "cpu"), start)
        return _go_on(recipe, before, other, by_id)
    if aligned is None:
        raise ConfigError("train: give the aligned model (--aligned), or an assistant to go on from (--start)")
    aligned_model = load(aligned)
    language = recipe.language.model_copy(update={"source": str(language_model or recipe.language.source)})
    if not language.source:
        raise ConfigError(
            f"train {recipe.name}: give the folder of a language model (--language-model); "
            "pathflip train language_small  makes a small one"
        )
    tokenizer, lm = open_tokenizer(language.source), open_language_model(language)
    shown = _shown(recipe, examples, aligned_model.checkpoint.config["model"]["embed_dim"])
    template = ChatTemplate(tokenizer, language.template)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        model = Assistant(shown, lm, [ids[-1] for ids in template.letter_ids(MOST_OPTIONS)])
    return _assembled(model, aligned_model, template, language, by_id)


def _shown(recipe: InstructRecipe, examples: Sequence[InstructExample], embed_dim: int) -> AssistantConfig:
    probes = key_phrases(_answers(examples), recipe.num_probes)
    try:
        return AssistantConfig(**{"probes": probes, **recipe.assistant, "embed_dim": embed_dim})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        close = difflib.get_close_matches(where, AssistantConfig.model_fields, n=1)
        hint = f"; did you mean 'assistant.{close[0]}'?" if close else ""
        raise ConfigError(f"assistant.{where}: {first['msg']} (got {first['input']!r}){hint}") from None


def _say_what_start_decides(recipe: InstructRecipe, before: LoadedAssistant) -> None:
    """The projector was trained on slides shown in one way: settings that ask for another are not taken, and named."""
    own = before.model.config.model_dump(mode="json")
    wanted = AssistantConfig(**{**own, **recipe.assistant}).model_dump(mode="json")
    differ = [name for name in own if wanted[name] != own[name]]
    if differ:
        listed = ", ".join(f"assistant.{name} {own[name]!r} (not {wanted[name]!r})" for name in differ[:3])
        warnings.warn(f"start: how slides are shown is as in the earlier stage: {listed}", stacklevel=4)


def _other_aligned(before: LoadedAssistant, aligned: Aligned, start: Path) -> Aligned:
    """Another alignment model for an assistant that goes on: of the same features and width.

    Raises:
        ContractError: it is of others.
    """
    had, new = before.aligned.checkpoint, aligned.checkpoint
    widths = [checkpoint.config["model"]["embed_dim"] for checkpoint in (had, new)]
    if had.contract != new.contract or widths[0] != widths[1]:
        facts = [f"{c.contract.model_dump()}, embed_dim {w}" for c, w in zip((had, new), widths, strict=True)]
        raise ContractError(
            f"train: --aligned {new.path} reads {facts[1]}; {start} was trained on {facts[0]}; give a model of the "
            "same features and width, or leave --aligned out"
        )
    if new.path != had.path:
        warnings.warn(
            f"start: the projector of {start} was trained on another alignment model than {new.path}", stacklevel=4
        )
    return aligned


def _go_on(
    recipe: InstructRecipe, before: LoadedAssistant, aligned: Aligned, by_id: Mapping[str, Path]
) -> LoadedAssistant:
    """The next stage: same parts, other weights trained."""
    had = before.language
    of_before = {"source": had.source, "template": had.template, "stored": had.stored or had.train == "full"}
    language = recipe.language.model_copy(update=of_before)
    model = before.model
    model.projector.requires_grad_(True)
    if model.option_score is not None:
        model.option_score.requires_grad_(True)
    if had.train != "lora":
        prepare_language_model(model.lm, language)
    elif language.train != "lora" or language.lora != had.lora:
        raise ConfigError("train: the assistant to go on from has LoRA adapters; expected the same language.lora")
    else:
        for name, parameter in model.lm.named_parameters():
            parameter.requires_grad_("lora_" in name)
    return _assembled(model, aligned, before.template, language, by_id)


def _assembled(
    model: Assistant, aligned: Aligned, template: ChatTemplate, language: LanguageModelSpec, by_id: Mapping[str, Path]
) -> LoadedAssistant:
    visual_tokenizer = VisualTokenizer(
        aligned, model.config, lambda slide_id: read_features(by_id[slide_id]), evidence=False
    )
    return LoadedAssistant(model, aligned, template, visual_tokenizer, language, {})


def _train_config(recipe: InstructRecipe, num_examples: int) -> TrainConfig:
    """Steps and warm-up from epochs, where those are given."""
    if not recipe.epochs:
        return recipe.train
    batch = min(recipe.train.batch_size, num_examples) * recipe.train.accumulation
    steps = max(1, math.ceil(recipe.epochs * num_examples / batch))
    optim = recipe.train.optim.model_copy(update={"warmup_steps": round(recipe.warmup_fraction * steps)})
    return recipe.train.model_copy(update={"steps": steps, "optim": optim})


def _set_statistics(model: Assistant, data: InstructDataset, seed: int) -> None:
    """Standardise what is measured by a sample of the training examples."""
    rng = np.random.default_rng(seed)
    rows = [data.row(data.examples[i], rng) for i in rng.permutation(len(data))[:STATISTICS_FROM]]
    slides = [slide for row in rows for slide in row.slides]
    model.projector.set_statistics(torch.cat([s.numbers for s in slides]), torch.cat([s.kind for s in slides]))


def _validation(made: LoadedAssistant, questions: Sequence[InstructExample]) -> Evaluator:
    """Accuracy on multiple-choice questions of slides not trained on, by the likelihood of the letters."""
    known: list[Prompt] = []

    def evaluate(trained: nn.Module) -> dict[str, float]:
        if not known:
            known.extend(
                build_prompt(made, q.question, made.visual_tokenizer.slide(q.slide_ids[0]), q.options)
                for q in questions
            )
        chosen = [int(p.argmax()) for p in option_probabilities(made, known)]
        right = np.array([c == q.answer for c, q in zip(chosen, questions, strict=True)])
        seen = np.array([q.needs_slide for q in questions])
        return {"accuracy": float(right.mean()), "needs_slide": float(right[seen].mean()) if seen.any() else math.nan}

    return evaluate


def _texts_of_slides(visual_tokenizer: VisualTokenizer, examples: Sequence[InstructExample]) -> dict[str, list[str]]:
    """Every text that the examples will have looked for on each slide."""
    out: dict[str, list[str]] = {}
    for example in examples:
        user_texts = [turn.text.replace(SLIDE_MARK, " ") for turn in example.turns if turn.role == "user"]
        questions = [example.question] if example.question else [text for text in user_texts if text.strip()]
        texts = [one.text for question in questions for one in visual_tokenizer.queries(question, example.options)]
        texts += [one.text for request in CAPTION_PROMPTS if not questions for one in visual_tokenizer.queries(request)]
        for slide_id in example.slide_ids:
            out.setdefault(slide_id, []).extend(texts)
    return out


def _answers(examples: Sequence[InstructExample]) -> list[str]:
    return [turn.text for example in examples for turn in example.turns if turn.role == "assistant"]


def key_phrases(texts: Iterable[str], count: int) -> tuple[str, ...]:
    """Phrases of one to three words that stand in many of ``texts``, most frequent first.

    A phrase that nearly always stands within a longer one gives way to it; words of grammar stand in none.
    """
    counts: Counter[str] = Counter()
    num_texts = 0
    for text in texts:
        num_texts += 1
        counts.update({p for sentence in split_sentences(text.lower()) for p in _phrases(sentence)})
    often = {p: n for p, n in counts.items() if max(3, 0.02 * num_texts) <= n <= 0.8 * num_texts}
    chosen = [
        p
        for p, n in often.items()
        if not any(f" {p} " in f" {q} " and m >= 0.6 * n for q, m in often.items() if q != p)
    ]
    return tuple(sorted(chosen, key=lambda p: (-often[p], p))[:count])


def _phrases(sentence: str) -> set[str]:
    out = set()
    for run in re.split(r"[^\w\s'-]", sentence):
        words = run.split()
        for size in (1, 2, 3):
            for start in range(len(words) - size + 1):
                part = words[start : start + size]
                if not GRAMMAR.intersection(part) and all(w.isalpha() or "-" in w for w in part):
                    out.add(" ".join(part))
    return out
