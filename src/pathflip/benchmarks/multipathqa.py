"""MultiPathQA: five parts on whole slides; balanced accuracy where the key is a class, accuracy where it is an option.

``MultiPathQA.csv`` has the columns benchmark_name, benchmark_id, image_path, answer, options, …, metric_type, prompt;
``options`` is a Python list in a cell, ``answer`` the number of an option or its text. Answers that cannot be read
move a part by points, so both are given: "all" counts them as wrong, "parsed only" leaves them out.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.assistant import build_prompt, generate, load_assistant, prepare_slide
from pathflip.benchmarks.choice_questions import answers_to, content_rows, match_answers, not_scorable
from pathflip.benchmarks.measured import mean_over_groups, metric_score
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Score, Skipped
from pathflip.benchmarks.slide_files import feature_files
from pathflip.benchmarks.test_sets import KnownSet, recognise
from pathflip.data.question_files import VQAQuestion
from pathflip.errors import CaptionError
from pathflip.evaluate import metrics
from pathflip.evaluate.answer_parsing import parse_answer
from pathflip.evaluate.predictions import VQAPrediction, read_predictions
from pathflip.evaluate.scorable import Scorable, scorable
from pathflip.features import read_features
from pathflip.io.tables import first_of, is_empty, read_table
from pathflip.text.captions import patient_of_row, slide_of_row
from pathflip.text.question_tables import empty_letters, option_text, plain_option, why_no_answer

__all__ = ["PROTOCOL", "read_multipathqa"]

NAME = "multipathqa"
SETS = (KnownSet(934, "MultiPathQA"),)
_BALANCED = ("balanced_accuracy", "balanced accuracy", "bacc")
_BALANCED_PARTS = ("gtex", "tcga", "panda")
_MOST_OPTIONS = 26
_CONSTANT = "most frequent answer"


@dataclass(frozen=True)
class _Part:
    """One part: its questions, whether balanced accuracy is asked for, what numbers of options count from, and how many
    rows the file marks as not valid."""

    questions: list[VQAQuestion]
    balanced: bool
    counts_from: int | None
    not_valid: int = 0


def read_multipathqa(path: Path) -> dict[str, _Part]:
    """The parts of the benchmark's file. Questions whose right answer cannot be told have a ``problem``.

    Raises:
        CaptionError: a row lacks a slide, a question or options; or keys are numbers that may count from 0 or from 1.
    """
    rows = read_table(path, expected="MultiPathQA's table")
    parts: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    not_valid: Counter[str] = Counter()
    for number, row in enumerate(rows, 1):
        if "benchmark_name" not in row:
            raise CaptionError(f"{path.name}: no column 'benchmark_name'; expected MultiPathQA's columns")
        name = str(first_of(row, ("benchmark_name",)) or "unnamed")
        if str(row.get("is_valid", True)).strip().lower() in ("false", "0"):
            not_valid[name] += 1
        else:
            parts.setdefault(name, []).append((number, row))
    if not parts:
        raise CaptionError(f"{path.name}: no valid question; expected rows, and not all marked is_valid False")
    return {name: replace(_part(path.name, name, own), not_valid=not_valid[name]) for name, own in parts.items()}


def _part(file: str, name: str, rows: Sequence[tuple[int, dict[str, Any]]]) -> _Part:
    lists = [_options(file, number, row) for number, row in rows]
    keys = [str(row.get("answer") if row.get("answer") is not None else "").strip() for _, row in rows]
    if not any(lists):  # the key is a class, and the classes are the keys
        classes = _classes(keys)
        lists = [list(classes) for _ in rows]
    first = _counts_from(lists, keys)
    questions = []
    for (number, row), options, key in zip(rows, lists, keys, strict=True):
        question = str(first_of(row, ("prompt", "question")) or "").strip()
        if not question or len(options) > _MOST_OPTIONS * 2:
            raise CaptionError(
                f"{file}: row {number}: no question, or {len(options)} options; expected 2 to {_MOST_OPTIONS * 2}"
            )
        place, problem = _key(file, number, key, options, first)
        own = first_of(row, ("benchmark_id", "id"))
        slide = slide_of_row(row, ("image_path", "slide", "slide_id", "file_id"))
        questions.append(
            VQAQuestion(
                question_id=f"{name}:{number if own is None else own}",
                slide_id=slide,
                patient=patient_of_row(row, slide),
                question=question,
                options=tuple(options),
                answer=str(place),
                category=name,
                problem=problem,
                empty_options=empty_letters(options),
            )
        )
    kinds = {str(row.get("metric_type") or "").strip().lower() for _, row in rows}
    balanced = bool(kinds & set(_BALANCED)) or (kinds <= {""} and name.lower() in _BALANCED_PARTS)
    return _Part(questions, balanced, first)


def _options(file: str, number: int, row: Mapping[str, Any]) -> list[str]:
    value = row.get("options")
    if is_empty(value):
        return []
    if isinstance(value, str):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if not isinstance(value, list) or not all(one is None or isinstance(one, str | int | float) for one in value):
        raise CaptionError(f"{file}: row {number}: options are {str(value)[:40]!r}, expected a list of texts")
    return _as_texts(value)


def _as_texts(values: Sequence[Any]) -> list[str]:
    """Options as texts, "" for one that is empty."""
    return [option_text(one) for one in values]


def _classes(keys: Sequence[str]) -> list[str]:
    """The classes that keys name, each once, however it is written."""
    names: dict[str, str] = {}
    for key in sorted(filter(None, keys), key=lambda key: (len(key), key)):
        names.setdefault(plain_option(key), key)
    return list(names.values())


def _counts_from(lists: Sequence[Sequence[str]], keys: Sequence[str]) -> int | None:
    """What numbers as keys count from: 0 or 1 where the file shows it, None where keys are texts or it does not."""
    numbers = [(int(float(k)), o) for k, o in zip(keys, lists, strict=True) if re.fullmatch(r"\d+(\.0)?", k)]
    outside = [(n, o) for n, o in numbers if str(n) not in o]
    zero, last = any(n == 0 for n, _ in outside), any(n == len(o) for n, o in outside)
    return None if zero == last else int(last)


def _key(file: str, number: int, key: str, options: Sequence[str], first: int | None) -> tuple[int, str]:
    """The right option's place, or -1 and why it cannot be told."""
    if sum(map(bool, options)) < 2:
        return -1, "there are not two options"
    place = _place(file, number, key, options, first)
    if place is None:
        return -1, f"the answer is {key[:40]!r}, which is none of its {len(options)} options" if key else "no answer"
    problem = why_no_answer(options, place) if options[place] else f"the answer is {key[:40]!r}, an empty option"
    return (-1, problem) if problem else (place, "")


def _place(file: str, number: int, key: str, options: Sequence[str], first: int | None) -> int | None:
    texts = [plain_option(option) for option in options]
    if plain_option(key) in filter(None, texts):
        return texts.index(plain_option(key))
    if re.fullmatch(r"\d+(\.0)?", key):
        if first is None:
            raise CaptionError(
                f"{file}: row {number}: the answer is the number {key}, which may count from 0 or from 1; expected the "
                "option's text, or a part in which a 0 or the last number occurs"
            )
        place = int(float(key)) - first
        return place if 0 <= place < len(options) else None
    letter = re.fullmatch(r"\(?([A-Za-z])[).]?", key)
    place = ascii_uppercase.index(letter[1].upper()) if letter else -1
    return place if 0 <= place < len(options) else None


def run(inputs: Inputs) -> Outcome:
    """Score answers to the questions of ``inputs.data``, part by part."""
    parts = read_multipathqa(inputs.data)
    questions = [question for part in parts.values() for question in part.questions]
    test_set = recognise(inputs.data.name, content_rows(questions), SETS, inputs.other_set)
    known = scorable(inputs.data.name, questions, lambda question: int(question.answer))
    scored, answers, skipped, strays = _answers(known, inputs)
    measured: list[_PartAnswers] = []
    items: list[dict[str, Any]] = []
    for name, part in parts.items():
        own = [(q, a) for q, a in zip(scored, answers, strict=True) if q.category == name]
        if own:
            of_part, rows = _answers_of(name, part, own)
            measured.append(of_part)
            items += rows
    scores = [score for of_part in measured for score in _part_scores(of_part, inputs)]
    mean = _mean_of_parts(measured, inputs)
    notes = list(known.notes)
    if marked := sum(part.not_valid for part in parts.values()):
        notes.append(f"{marked} rows are marked is_valid False in the file and are not counted")
    if strays:
        notes.append(f"{strays} predictions belong to no question and were left out")
    return Outcome(
        scores=(mean, *scores), scored=len(scored), total=len(questions), test_set=test_set[0],
        published_applies=test_set[1], skipped=(*not_scorable(known), *skipped), items=tuple(items), notes=tuple(notes),
        compared_on=tuple(
            (row["question_id"], patient)
            for row, patient in zip(items, [p for part in measured for p in part.patients], strict=True)
        ),
    )  # fmt: skip


def _mean_of_parts(parts: Sequence["_PartAnswers"], inputs: Inputs) -> Score:
    """The mean over the parts, of patients drawn for all parts together."""
    return metric_score(
        "mean of the parts", "all", mean_over_groups([(len(part.keys), part.value) for part in parts]),
        [patient for part in parts for patient in part.patients], float(np.mean([part.chance for part in parts])),
        inputs, rivals={_CONSTANT: mean_over_groups([(len(part.keys), part.constant) for part in parts])},
    )  # fmt: skip


def _answers(known: Scorable, inputs: Inputs) -> tuple[list[VQAQuestion], list[VQAPrediction], Any, int]:
    """As :func:`answers_to`; predictions may name a question by its id with or without its part."""
    questions = known.questions
    inputs.require(NAME, "predictions", "assistant")
    if inputs.predictions is None:
        if any(len(question.options) > _MOST_OPTIONS for question in questions) and inputs.assistant is not None:
            return _asked_in_words(questions, inputs)
        lettered = [replace(q, answer=ascii_uppercase[int(q.answer)]) for q in questions]
        can, answers, skipped, strays = answers_to(NAME, lettered, inputs)
        by_id = {question.question_id: question for question in questions}
        return [by_id[question.question_id] for question in can], answers, skipped, strays
    predictions = _predictions(inputs.predictions, [*questions, *known.others])
    return match_answers(NAME, questions, predictions, inputs, known.others)


def _predictions(path: Path, questions: Sequence[VQAQuestion]) -> list[VQAPrediction]:
    """Predictions under the names ``part:id``.

    Raises:
        CaptionError: the parts count their questions alike, and the predictions do not say which part they are of.
    """
    full = {question.question_id.partition(":")[2]: question.question_id for question in questions}
    ambiguous = len(full) < len(questions)
    named = []
    for row, one in zip(read_table(path), read_predictions(path), strict=True):
        part, own = first_of(row, ("benchmark_name",)), one.question_id or ""
        if part is not None:
            own = f"{part}:{own}"
        elif ":" not in own:
            if ambiguous:
                raise CaptionError(
                    f"{path.name}: the parts of MultiPathQA count their questions alike; expected the column "
                    "benchmark_name beside benchmark_id"
                )
            own = full.get(own, own)
        named.append(replace(one, question_id=own))
    return named


def _asked_in_words(questions: list[VQAQuestion], inputs: Inputs) -> Any:
    """Parts of more options than letters are asked without letters; what is written is read as an option's text."""
    assert inputs.assistant is not None
    assistant = load_assistant(inputs.assistant, inputs.device, inputs.settings.get("language_model"))
    files, missing = feature_files(NAME, [question.slide_id for question in questions], inputs)
    can = [question for question in questions if question.slide_id in files]
    answers: list[VQAPrediction] = []
    for done, question in enumerate(can, start=1):
        view = prepare_slide(assistant.aligned, read_features(files[question.slide_id]))
        few = question.options if len(question.options) <= _MOST_OPTIONS else ()
        text = generate(assistant, build_prompt(assistant, question.question, view, few), max_new_tokens=20)
        answers.append(VQAPrediction(text=text, question_id=question.question_id))
        inputs.progress(done, len(can))
    lost = {one.item for one in missing}
    skipped = [Skipped(q.question_id, "its slide has no feature file") for q in questions if q.slide_id in lost]
    return can, answers, skipped, 0


@dataclass(frozen=True, eq=False)
class _PartAnswers:
    """A part's keys and answers as texts ("" where none could be read), with what is counted of them."""

    name: str
    balanced: bool
    keys: NDArray[np.str_]
    guessed: NDArray[np.str_]
    patients: tuple[str, ...]
    chance: float
    right: NDArray[np.bool_]

    def value(self, rows: NDArray[Any]) -> float:
        """Balanced accuracy or accuracy of some answers."""
        if self.balanced:
            return metrics.balanced_accuracy(self.keys[rows], self.guessed[rows])
        return float(self.right[rows].mean())

    def constant(self, rows: NDArray[Any]) -> float:
        """The same of always giving the part's most frequent key."""
        names, counts = np.unique(self.keys, return_counts=True)
        guess = np.full(len(rows), names[counts.argmax()])
        if self.balanced:
            return metrics.balanced_accuracy(self.keys[rows], guess)
        return float((self.keys[rows] == guess).mean())


def _answers_of(
    name: str, part: _Part, own: Sequence[tuple[VQAQuestion, VQAPrediction]]
) -> tuple[_PartAnswers, list[dict[str, Any]]]:
    """A part's answers, read, and a row an item."""
    truth = np.array([int(question.answer) for question, _ in own])
    guess = np.array([_read(answer, question.options, part.counts_from) for question, answer in own])
    keys = [question.options[place] for (question, _), place in zip(own, truth, strict=True)]
    guessed = [question.options[g] if g >= 0 else "" for (question, _), g in zip(own, guess, strict=True)]
    rows = [
        {"question_id": q.question_id, "slide": q.slide_id, "key": k, "read_as": s, "answer": (a.text or "")[:200]}
        for (q, a), k, s in zip(own, keys, guessed, strict=True)
    ]
    chance = float(np.mean([1 / question.offered for question, _ in own]))
    patients = tuple(question.patient for question, _ in own)
    return _PartAnswers(name, part.balanced, np.array(keys), np.array(guessed), patients, chance, truth == guess), rows


def _part_scores(part: _PartAnswers, inputs: Inputs) -> list[Score]:
    """The part's measure on all answers, and on those that could be read."""
    read = np.flatnonzero(part.guessed != "")
    measure = "balanced accuracy" if part.balanced else "accuracy"
    unread = len(part.keys) - len(read)
    note = f"{unread} answers name no option" if unread else ""
    everything = metric_score(measure, f"{part.name}, all", part.value, part.patients, part.chance, inputs,
                              rivals={_CONSTANT: part.constant}, note=note)  # fmt: skip
    if not part.balanced:
        everything = replace(everything, right=part.right.astype(np.float64))
    if not len(read):
        return [everything]
    some = metric_score(measure, f"{part.name}, parsed only", lambda rows: part.value(read[rows]),
                        [part.patients[i] for i in read], part.chance, inputs)  # fmt: skip
    return [everything, some]


def _read(answer: VQAPrediction, options: Sequence[str], first: int | None) -> int:
    """The option an answer names, -1 where it names none: a letter, its text, or a number counted as the key is."""
    if answer.text is None:
        return int(np.argmax(answer.probabilities)) if answer.probabilities is not None else -1
    text = answer.text.strip()
    exact = [place for place, option in enumerate(options) if option.lower() == text.lower().strip(".* ")]
    if len(exact) == 1:
        return exact[0]
    number = re.fullmatch(r"(?:(?:the )?answer(?: is)?\s*:?\s*)?[(\[]?(\d{1,2})[)\].]*", text, re.IGNORECASE)
    if number and first is not None:
        place = int(number[1]) - first
        return place if 0 <= place < len(options) else -1
    if len(options) <= _MOST_OPTIONS and (letter := parse_answer(text, options).letter):
        return ascii_uppercase.index(letter)
    held = [place for place, option in enumerate(options)
            if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text, re.IGNORECASE)]  # fmt: skip
    return held[0] if len(held) == 1 and len(options) > _MOST_OPTIONS else -1


PROTOCOL = Protocol(
    name=NAME,
    title="MultiPathQA",
    metric="balanced accuracy (gtex, tcga, panda) and accuracy (expert, slidebench), all and parsed only",
    needs="MultiPathQA.csv (934 rows); an assistant and features, or predictions with benchmark_name, benchmark_id",
    run=run,
    table="questions",
    source="MultiPathQA's public files",
)
