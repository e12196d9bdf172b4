"""Answers to multiple-choice questions, from files: what a model said, and which question each answer is to."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathflip.data.question_files import VQAQuestion
from pathflip.errors import CaptionError
from pathflip.io.slide_id import join_ids
from pathflip.io.tables import PLAIN, TableOptions, first_of, read_table
from pathflip.text.captions import slide_of_row
from pathflip.text.question_tables import (
    ID_KEYS,
    QUESTION_SLIDE_KEYS,
    options_of_row,
    plain_option,
)

__all__ = ["VQAPrediction", "match_predictions", "read_predictions"]

_ANSWER_KEYS = ("output", "prediction", "pred", "response", "model_answer", "generated", "text", "answer")
_PROBABILITY_KEYS = ("probabilities", "option_probabilities", "probs")


@dataclass(frozen=True)
class VQAPrediction:
    """What a model said to one question: words, probabilities of the options, or both."""

    text: str | None = None
    probabilities: tuple[float, ...] | None = None
    question_id: str | None = None
    slide_id: str | None = None
    question: str | None = None
    options: tuple[str, ...] = ()
    """What was offered, where the file says; "" for a letter without an option."""


def read_predictions(path: Path, options: TableOptions = PLAIN) -> list[VQAPrediction]:
    """Predictions: JSON lines, JSON or CSV (SlideChat's columns are understood).

    A row names its question by ``id``, or by slide and question text; it holds the model's words (``output``,
    ``prediction``, ``response`` or ``answer``; where a column ``output`` stands beside ``answer``, ``answer`` is the
    truth) and, where known, ``probabilities`` of the options: a list, or an object from letter to number.

    Raises:
        CaptionError: the file cannot be read, or a row holds neither words nor probabilities of a kind.
    """
    rows = read_table(path, options)
    _refuse_keys(path, rows)
    some_have_words = any(key in row for row in rows for key in _ANSWER_KEYS)
    predictions = []
    for number, row in enumerate(rows, 1):
        words = next((row[key] or "" for key in _ANSWER_KEYS if key in row), None)  # an empty cell is an empty answer
        chances = _probabilities(first_of(row, _PROBABILITY_KEYS), f"{path.name}: row {number}")
        if words is None and chances is None and not some_have_words:
            raise CaptionError(f"{path.name}: row {number} holds no answer; expected one of {', '.join(_ANSWER_KEYS)}")
        named = any(key in row for key in QUESTION_SLIDE_KEYS)
        predictions.append(
            VQAPrediction(
                text="" if words is None and chances is None else None if words is None else str(words),
                probabilities=chances,
                question_id=None if (question_id := first_of(row, ID_KEYS)) is None else str(question_id),
                slide_id=slide_of_row(row, QUESTION_SLIDE_KEYS) if named else None,
                question=None if row.get("question") is None else str(row["question"]).strip(),
                options=_options_shown(row),
            )
        )
    return predictions


def _options_shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that stand beside an answer; none where there is no list of them."""
    try:
        return tuple(options_of_row(row))
    except CaptionError:
        return ()


def _refuse_keys(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a file of questions in the place of answers: its key would be scored as if a model had said it.

    Raises:
        CaptionError: the only words are a column ``answer`` beside the options.
    """
    columns = {key for row in rows for key in row}
    words = [key for key in _ANSWER_KEYS if key in columns]
    if words == ["answer"] and ("options" in columns or {"a", "b"} <= columns) and not columns & set(_PROBABILITY_KEYS):
        raise CaptionError(
            f"{path.name}: the column 'answer' stands beside the options, as the key of a file of questions does; "
            "expected the model's own words in a column 'output'"
        )


def _id_text(text: str) -> str:
    """An id without the ".0" of programs that write 12 as a fraction."""
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


def _probabilities(value: Any, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    numbers = [value[letter] for letter in sorted(value)] if isinstance(value, dict) else value
    if not isinstance(numbers, list) or not all(isinstance(n, int | float) and 0 <= n <= 1 for n in numbers):
        raise CaptionError(f"{where}: probabilities are {str(value)[:60]}, expected a number from 0 to 1 an option")
    return tuple(float(number) for number in numbers)


def match_predictions(
    questions: Sequence[VQAQuestion], predictions: Iterable[VQAPrediction], others: Sequence[VQAQuestion] = ()
) -> tuple[list[VQAPrediction | None], int]:
    """The prediction of every question (None where there is none), and how many predictions belong to no question.

    By id where it is known, else by slide and question text, several of the same in file order.

    Args:
        others: questions of the same file that are not scored: predictions of them are passed over.

    Raises:
        CaptionError: two predictions of one question, probabilities of another number of options, a prediction of
            another question or of other options under the same id, or none that fits.
    """
    predictions = list(predictions)
    names = {p.slide_id for p in predictions if p.slide_id is not None}
    whole_set = [*questions, *others]
    slide_of = join_ids(sorted(names), [question.slide_id for question in whole_set])
    predictions = [replace(p, slide_id=slide_of.get(p.slide_id or "", p.slide_id)) for p in predictions]
    place_of = {question.question_id: i for i, question in enumerate(whole_set)}
    whole = {_id_text(question.question_id): i for i, question in enumerate(whole_set)}
    by_text: dict[tuple[str, str], list[int]] = {}
    for i, question in enumerate(whole_set):
        by_text.setdefault((question.slide_id, question.question), []).append(i)
    matched: list[VQAPrediction | None] = [None] * len(whole_set)
    strays = 0
    for prediction in predictions:
        identity = prediction.question_id or ""
        place = place_of.get(identity, whole.get(_id_text(identity)))
        if place is None:
            same = by_text.get((prediction.slide_id or "", prediction.question or ""), [])
            place = next((p for p in same if matched[p] is None), same[-1] if same else None)
        if place is None:
            strays += 1
            continue
        if place >= len(questions):
            matched[place] = prediction
            continue
        _refuse_another_question(prediction, questions[place])
        if matched[place] is not None:
            raise CaptionError(f"two predictions of question '{questions[place].question_id}'; expected one")
        matched[place] = replace(prediction, probabilities=_by_letter(prediction.probabilities, questions[place]))
    matched = matched[: len(questions)]
    if all(prediction is None for prediction in matched):
        ids = [p.question_id for p in predictions if p.question_id is not None]
        example = (
            f" (predictions are of '{ids[0]}' and the like, questions '{questions[0].question_id}')" if ids else ""
        )
        raise CaptionError(
            f"no prediction belongs to these questions{example}; expected their 'id', or slide and question text"
        )
    return matched, strays


def _refuse_another_question(prediction: VQAPrediction, question: VQAQuestion) -> None:
    """Refuse an answer about another slide, to other words, or to other options: its letter means something else.

    Raises:
        CaptionError: names both.
    """
    if prediction.slide_id not in (None, question.slide_id):
        raise CaptionError(
            f"prediction '{prediction.question_id}' is of slide '{prediction.slide_id}', the question of "
            f"'{question.slide_id}'; expected predictions of these very questions"
        )
    asked, words = _words(prediction.question or ""), _words(question.question)
    if asked and words and asked not in words and words not in asked:
        raise CaptionError(
            f"prediction '{prediction.question_id}' answers {str(prediction.question)[:60]!r}, the question of this id "
            f"is {question.question[:60]!r}; expected predictions of these very questions"
        )
    shown = [plain_option(text) for text in prediction.options]
    offered = [plain_option(text) for text in question.options]
    while shown and not shown[-1]:
        shown.pop()
    if shown and shown not in (offered, [text for text in offered if text]):
        raise CaptionError(
            f"the prediction of question '{question.question_id}' was given options {', '.join(shown)[:80]}, the "
            f"question has {', '.join(offered)[:80]}; expected the same in the same order: letters mean other things"
        )


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _by_letter(chances: tuple[float, ...] | None, question: VQAQuestion) -> tuple[float, ...] | None:
    """A probability a letter; 0 for letters without an option, where only the others have one."""
    options = question.options
    if chances is None or len(chances) == len(options):
        return chances
    if len(chances) != question.offered:
        raise CaptionError(
            f"question '{question.question_id}': got {len(chances)} probabilities, expected {question.offered}"
        )
    rest = iter(chances)
    return tuple(next(rest) if option else 0.0 for option in options)
