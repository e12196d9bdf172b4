"""Multiple-choice questions about slides: accuracy with baselines and intervals, and knowing what cannot be seen.

Two ways of answering are measured apart: the option a model *writes* (read by
:mod:`pathflip.evaluate.answer_parsing`; what cannot be read counts as wrong and is counted apart) and the option it
finds *likeliest*. Beside every accuracy stands what one gets without looking: a constant letter, the longest option,
chance, and the same model without the slide.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from string import ascii_uppercase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.data.question_files import VQAQuestion
from pathflip.evaluate import metrics
from pathflip.evaluate.answer_parsing import parse_answer
from pathflip.evaluate.bootstrap import PatientBootstrap, bounds
from pathflip.evaluate.paired import are_right_or_wrong, mcnemar
from pathflip.evaluate.predictions import VQAPrediction, match_predictions
from pathflip.evaluate.probability_scores import brier_skill, log_loss_skill

__all__ = ["letter_baselines", "vqa_measures"]

AUROC_COHORTS = 200
"""Bootstrap cohorts of the abstention AUROC, which is slow to count."""
_ROUNDED = 0.02
"""Probabilities of an option list may miss 1 by this much: files round them."""
_DRAWS = ("drawn", "places", "right")


# --- Answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Answers:
    """Letters chosen ("" where none could be read), and why not."""

    letters: list[str]
    why: list[str]
    right: NDArray[np.float64] = field(repr=False)


def _written(questions: Sequence[VQAQuestion], predictions: Sequence[VQAPrediction | None]) -> _Answers:
    letters, why = [], []
    for question, prediction in zip(questions, predictions, strict=True):
        if prediction is None or prediction.text is None:
            letters.append("")
            why.append("unanswered")
            continue
        parsed = parse_answer(prediction.text, question.options)
        letters.append(parsed.letter or "")
        why.append(parsed.why)
    return _Answers(letters, why, _right(questions, letters))


def _likeliest(questions: Sequence[VQAQuestion], predictions: Sequence[VQAPrediction | None]) -> _Answers:
    """The option of highest probability; where several are highest, the credit is shared."""
    letters, why, right = [], [], []
    for question, prediction in zip(questions, predictions, strict=True):
        if prediction is None or prediction.probabilities is None:
            letters.append("")
            why.append("unanswered")
            right.append(0.0)
            continue
        top = max(prediction.probabilities)
        best = [letter for letter, p in zip(ascii_uppercase, prediction.probabilities, strict=False) if p == top]
        letters.append(best[0])
        why.append("likelihood")
        right.append((question.answer in best) / len(best))
    return _Answers(letters, why, np.array(right))


def _right(questions: Sequence[VQAQuestion], letters: Sequence[str]) -> NDArray[np.float64]:
    return np.array([float(q.answer == letter) for q, letter in zip(questions, letters, strict=True)])


# --- Baselines -------------------------------------------------------------------------------------------------------


def letter_baselines(
    questions: Sequence[VQAQuestion], train: Sequence[VQAQuestion] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Credit a question, of answers that look at no slide: ``constant`` letter, ``longest`` option, ``chance``.

    Args:
        train: questions the constant letter is chosen on; without them, on ``questions`` themselves, which flatters it.
    """
    pool = train or questions
    counts = {letter: sum(q.answer == letter for q in pool) for letter in ascii_uppercase}
    letter = max(counts, key=lambda name: counts[name])
    longest = []
    for question in questions:
        most = max(len(option) for option in question.options)
        best = [ascii_uppercase[i] for i, option in enumerate(question.options) if len(option) == most]
        longest.append((question.answer in best) / len(best))
    return {
        "constant": _right(questions, [letter] * len(questions)),
        "longest": np.array(longest),
        "chance": np.array([1 / question.offered for question in questions]),
    }


# --- Measures --------------------------------------------------------------------------------------------------------


def vqa_measures(
    questions: Sequence[VQAQuestion],
    predictions: Iterable[VQAPrediction],
    *,
    text_only: Iterable[VQAPrediction] | None = None,
    train: Sequence[VQAQuestion] | None = None,
    num: int = 1000,
    seed: int = 0,
    draws: bool = False,
    others: Sequence[VQAQuestion] = (),
) -> list[dict[str, Any]]:
    """Everything measured of a model's answers, a row a measure, a way of answering and a category.

    Args:
        text_only: answers of the same language model without the slide, to the same questions.
        train: questions the constant letter is chosen on.
        num, seed: of the bootstrap over patients; the model and its text-only baseline see the same resamples.
        others: questions of the same file that are not scored; predictions may answer them.
        draws: keep what a comparison with another system needs in the rows of means: ``drawn`` (the value on every
            cohort), ``places`` (the questions' numbers) and ``right`` (the credit of each).

    Returns:
        Rows with ``measure``, ``how`` (generation, likelihood), ``category``, ``questions``, ``value``, ``low``,
        ``high`` (95 % over patients), ``baselines``, and with ``text_only``: ``text_only``, ``difference``,
        ``difference_low``, ``difference_high``. Accuracy rows also hold ``wilson_low``, ``wilson_high`` and ``unread``
        (answers that could not be read, by reason; they count as wrong).

    Raises:
        CaptionError: predictions do not fit the questions.
    """
    ours, strays = match_predictions(questions, predictions, others)
    theirs = match_predictions(questions, text_only, others)[0] if text_only is not None else None
    patients = np.array([question.patient for question in questions])
    resampled = PatientBootstrap(patients, num, seed)
    baselines = letter_baselines(questions, train)
    rows: list[dict[str, Any]] = []
    for how, answers_of in _ways(ours):
        answers = answers_of(questions, ours)
        twin = answers_of(questions, theirs) if theirs is not None and any(_says(how, p) for p in theirs) else None
        for category, chosen in _categories(questions).items():
            rows.append(_accuracy_row(how, category, chosen, answers, twin, baselines, resampled) | {"strays": strays})
        rows += _abstention_rows(how, questions, ours, answers, twin, resampled)
    rows += _probability_rows(questions, ours, resampled)
    return rows if draws else [{key: row[key] for key in row if key not in _DRAWS} for row in rows]


def _says(how: str, prediction: VQAPrediction | None) -> bool:
    if prediction is None:
        return False
    return (prediction.text if how == "generation" else prediction.probabilities) is not None


def _ways(predictions: Sequence[VQAPrediction | None]) -> list[tuple[str, Callable[..., _Answers]]]:
    ways: tuple[tuple[str, Callable[..., _Answers]], ...] = (("generation", _written), ("likelihood", _likeliest))
    return [(how, answers) for how, answers in ways if any(_says(how, p) for p in predictions)]


def _categories(questions: Sequence[VQAQuestion]) -> dict[str, NDArray[np.int64]]:
    """Question numbers of all, of those that need the slide, of those that can be answered, of each (sub)category."""
    groups: dict[str, list[int]] = {"all": list(range(len(questions)))}
    for name, holds in (
        ("needs the slide", [q.needs_slide for q in questions]),
        ("answerable, needs the slide", [q.needs_slide and q.answerable for q in questions]),
    ):
        if 0 < sum(holds) < len(questions):
            groups[name] = [i for i, inside in enumerate(holds) if inside]
    for i, question in enumerate(questions):
        groups.setdefault(question.category, []).append(i)
    for i, question in enumerate(questions):
        if question.subcategory:
            groups.setdefault(f"{question.category}: {question.subcategory}", []).append(i)
    return {name: np.array(places) for name, places in groups.items()}


def _fraction_row(
    values: NDArray[np.float64],
    twin: NDArray[np.float64] | None,
    chosen: NDArray[np.int64],
    resampled: PatientBootstrap,
) -> dict[str, Any]:
    """A mean with its interval, and the paired difference to the text-only baseline."""
    drawn = resampled.means(values, chosen)
    low, high = bounds(drawn)
    row: dict[str, Any] = {"questions": len(chosen), "value": float(values[chosen].mean()), "low": low, "high": high}
    row |= {"drawn": drawn, "places": chosen, "right": values[chosen]}
    if twin is not None:
        row["text_only"] = float(twin[chosen].mean())
        row["difference"] = row["value"] - row["text_only"]
        row["difference_low"], row["difference_high"] = bounds(drawn - resampled.means(twin, chosen))
    return row


def _accuracy_row(
    how: str,
    category: str,
    chosen: NDArray[np.int64],
    answers: _Answers,
    twin: _Answers | None,
    baselines: Mapping[str, NDArray[np.float64]],
    resampled: PatientBootstrap,
) -> dict[str, Any]:
    row: dict[str, Any] = {"measure": "accuracy", "how": how, "category": category}
    row |= _fraction_row(answers.right, twin.right if twin else None, chosen, resampled)
    if twin is not None and are_right_or_wrong(answers.right[chosen]) and are_right_or_wrong(twin.right[chosen]):
        row["mcnemar_p"] = mcnemar(answers.right[chosen], twin.right[chosen])
    wilson = metrics.wilson_interval(round(float(answers.right[chosen].sum())), len(chosen))
    row |= {"wilson_low": wilson.low, "wilson_high": wilson.high}
    row["baselines"] = {name: float(values[chosen].mean()) for name, values in baselines.items()}
    unread = [answers.why[i] for i in chosen if not answers.letters[i]]
    return row | {"unread": {why: unread.count(why) for why in sorted(set(unread))}}


def _probability_rows(
    questions: Sequence[VQAQuestion], predictions: Sequence[VQAPrediction | None], resampled: PatientBootstrap
) -> list[dict[str, Any]]:
    """Skill of the options' probabilities over stating the key's letter frequencies for every question."""
    answered = [i for i, p in enumerate(predictions) if p is not None and p.probabilities is not None]
    width = max((len(questions[i].options) for i in answered), default=0)
    stated = np.zeros((len(questions), width))
    for i in answered:
        chances = predictions[i].probabilities  # type: ignore[union-attr]
        stated[i, : len(chances or ())] = chances
    if not answered or np.abs(stated[answered].sum(1) - 1).max() > _ROUNDED:
        return []  # rounded or unnormalised scores are ranks, not probabilities
    stated[answered] /= stated[answered].sum(1, keepdims=True)
    truth = np.array([ascii_uppercase.index(question.answer) for question in questions])
    rows, chosen = [], np.array(answered)
    for measure, skill in (("Brier skill", brier_skill), ("log-loss skill", log_loss_skill)):
        drawn = [skill(stated[some], truth[some]) for some in islice(resampled.cohorts(chosen), AUROC_COHORTS)]
        low, high = bounds(np.array(drawn))
        rows.append(
            {
                "measure": measure,
                "how": "likelihood",
                "category": "all",
                "questions": len(chosen),
                "value": skill(stated[chosen], truth[chosen]),
                "low": low,
                "high": high,
                "baselines": {"chance": 0.0},
            }
        )
    return rows


def _abstention_rows(
    how: str,
    questions: Sequence[VQAQuestion],
    predictions: Sequence[VQAPrediction | None],
    answers: _Answers,
    twin: _Answers | None,
    resampled: PatientBootstrap,
) -> list[dict[str, Any]]:
    """Whether "cannot be determined from this slide" is said when it should be, and only then."""
    offered = [i for i, question in enumerate(questions) if question.cannot_tell]
    unanswerable = np.array([i for i in offered if not questions[i].answerable], dtype=np.int64)
    answerable = np.array([i for i in offered if questions[i].answerable], dtype=np.int64)
    if not len(unanswerable) or not len(answerable):
        return []

    def abstained(answers: _Answers) -> NDArray[np.float64]:
        return np.array(
            [
                float(bool(letter) and letter == q.cannot_tell)
                for letter, q in zip(answers.letters, questions, strict=True)
            ]
        )

    abstentions, text_only = abstained(answers), abstained(twin) if twin else None
    rows = []
    for measure, chosen in (("abstained, rightly", unanswerable), ("abstained, wrongly", answerable)):
        row = {"measure": measure, "how": how, "category": "cannot tell is offered"}
        rows.append(row | _fraction_row(abstentions, text_only, chosen, resampled))
    if how == "likelihood":
        rows.append(_abstention_auroc(questions, predictions, np.concatenate([unanswerable, answerable]), resampled))
    return rows


def _abstention_auroc(
    questions: Sequence[VQAQuestion],
    predictions: Sequence[VQAPrediction | None],
    chosen: NDArray[np.int64],
    resampled: PatientBootstrap,
) -> dict[str, Any]:
    """How well the probability of "cannot be determined" tells unanswerable from answerable questions."""
    scores = np.zeros(len(questions))
    for i in chosen:
        prediction, letter = predictions[i], questions[i].cannot_tell
        if prediction is not None and prediction.probabilities is not None and letter:
            scores[i] = prediction.probabilities[ascii_uppercase.index(letter)]
    truth = np.array([not question.answerable for question in questions])
    drawn = [metrics.auroc(truth[rows], scores[rows]) for rows in islice(resampled.cohorts(chosen), AUROC_COHORTS)]
    low, high = bounds(np.array(drawn))
    return {
        "measure": "abstention AUROC",
        "how": "likelihood",
        "category": "cannot tell is offered",
        "questions": len(chosen),
        "value": metrics.auroc(truth[chosen], scores[chosen]),
        "low": low,
        "high": high,
        "baselines": {"chance": metrics.AUROC_CHANCE},
    }
