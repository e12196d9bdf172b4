"""An assistant against questions with known answers: its answers to all, and its calibration."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression

from pathflip.assistant import (
    AnswerCalibration,
    LoadedAssistant,
    PreparedSlide,
    build_prompt,
    generate_many,
    option_probabilities,
    places_of_yes_and_no,
    prepare_slide,
    refusal_logits,
    verdicts,
    with_verdict,
)
from pathflip.data.question_files import VQAQuestion
from pathflip.errors import CaptionError
from pathflip.evaluate import metrics
from pathflip.evaluate.predictions import VQAPrediction
from pathflip.evaluate.probability_scores import skills_of_binary
from pathflip.features import read_features

__all__ = ["answer_questions", "calibrate_assistant", "views_with_questions"]

TEMPERATURES = np.geomspace(0.2, 5.0, 161)
WITHHELD = 0.1
"""Of answerable questions asked openly, at most this fraction may be refused."""


def answer_questions(
    assistant: LoadedAssistant,
    questions: Sequence[VQAQuestion],
    files: Mapping[str, Path],
    progress: Callable[..., None] = lambda done, total, note="": None,
) -> list[VQAPrediction]:
    """Every question answered both ways: what the assistant writes, and the probabilities of the options.

    Args:
        assistant: who is asked (one that is shown no slide, too).
        questions: multiple choice.
        files: feature file of every slide. progress: called with questions answered and all, slide by slide.
    """
    predictions: dict[str, VQAPrediction] = {}
    for view, own in views_with_questions(assistant, questions, files):
        prompts = [build_prompt(assistant, one.question, view, one.options) for one in own]
        chances = _as_decided(assistant, view, own, option_probabilities(assistant, prompts))
        answers = generate_many(assistant, prompts, max_new_tokens=6)
        for one, written, row in zip(own, answers, chances, strict=True):
            predictions[one.question_id] = VQAPrediction(
                text=written, probabilities=tuple(map(float, row)), question_id=one.question_id
            )
        progress(len(predictions), len(questions), own[0].slide_id)
    return [predictions[one.question_id] for one in questions]


def _as_decided(
    assistant: LoadedAssistant, view: PreparedSlide, questions: Sequence[VQAQuestion], chances: list[np.ndarray]
) -> list[np.ndarray]:
    """Options that say yes and no, weighed as the calibration weighs the question asked openly. A benchmark wants one
    of them, so the likelier one counts where neither would be said."""
    chosen = [i for i, one in enumerate(questions) if places_of_yes_and_no(one.question, one.options) is not None]
    openly = [build_prompt(assistant, questions[i].question, view) for i in chosen]
    for i, verdict in zip(chosen, verdicts(assistant, openly), strict=True):
        if verdict is not None:
            chances[i] = with_verdict(questions[i].question, questions[i].options, chances[i], verdict)
    return chances


def calibrate_assistant(
    assistant: LoadedAssistant, questions: Sequence[VQAQuestion], files: Mapping[str, Path], fitted_on: str
) -> AnswerCalibration:
    """Fit an assistant's calibration on questions of slides it was not trained on.

    The temperature minimises the options' negative log-likelihood (Guo et al. 2017, arXiv 1706.04599); the
    probability that the slide cannot tell is a logistic regression on the log-odds of saying so (Platt 1999), fitted
    with both kinds of questions weighing the same. An open answer is withheld from even odds on, or later, so that no
    more than ``WITHHELD`` of the answerable questions are refused.

    Args:
        assistant, questions, files: as for :func:`answer_questions`.
        fitted_on: in words, kept in the calibration.

    Raises:
        CaptionError: not both answerable and unanswerable questions.
    """
    unanswerable = np.array([not one.answerable for one in questions])
    if unanswerable.all() or not unanswerable.any():
        raise CaptionError(
            f"calibrate: {unanswerable.sum()} of {len(questions)} questions cannot be answered from a slide; "
            "expected some of both kinds"
        )
    logits, chances, right = _weighed(assistant, questions, files)
    before = np.array([row.max() for row in chances])
    temperature = float(TEMPERATURES[int(np.argmin([_loss(chances, questions, t) for t in TEMPERATURES]))])
    plain = AnswerCalibration(temperature=temperature)
    after = np.array([plain.scaled(row).max() for row in chances])
    fit = LogisticRegression(C=1e3, class_weight="balanced").fit(logits[:, None], unanswerable)
    slope, intercept = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    fitted = plain.model_copy(update={"refusal_slope": slope, "refusal_intercept": intercept, "fitted_on": fitted_on})
    chance = np.array([fitted.refusal(logit) for logit in logits])
    limit = float(np.quantile(chance[~unanswerable], 1 - WITHHELD, method="higher"))
    fitted = fitted.model_copy(update={"refuse_above": min(1.0, max(fitted.refuse_above, limit))})
    withheld = chance >= fitted.refuse_above
    skills = skills_of_binary(before, right), skills_of_binary(after, right)
    measured = {
        "questions": float(len(questions)),
        "calibration_error_before": metrics.expected_calibration_error(before, right),
        "calibration_error_after": metrics.expected_calibration_error(after, right),
        "brier_skill_before": skills[0][0],
        "brier_skill_after": skills[1][0],
        "log_loss_skill_before": skills[0][1],
        "log_loss_skill_after": skills[1][1],
        "withheld_of_unanswerable": float(withheld[unanswerable].mean()),
        "withheld_of_answerable": float(withheld[~unanswerable].mean()),
        "refusal_auroc": metrics.auroc(unanswerable, logits),
    }
    return fitted.model_copy(update={"measured": {name: v for name, v in measured.items() if np.isfinite(v)}})


def _weighed(
    assistant: LoadedAssistant, questions: Sequence[VQAQuestion], files: Mapping[str, Path]
) -> tuple[Float[np.ndarray, " n"], list[np.ndarray], Bool[np.ndarray, " n"]]:
    """For every question: log-odds of not being told, option probabilities, whether the likeliest is right."""
    logits: dict[str, float] = {}
    chances: dict[str, np.ndarray] = {}
    for view, own in views_with_questions(assistant, questions, files):
        rows = option_probabilities(
            assistant, [build_prompt(assistant, one.question, view, one.options) for one in own]
        )
        refusals = refusal_logits(assistant, [build_prompt(assistant, one.question, view) for one in own])
        for one, row, refusal in zip(own, rows, refusals, strict=True):
            chances[one.question_id], logits[one.question_id] = row, refusal
    ordered = [chances[one.question_id] for one in questions]
    right = np.array([int(row.argmax()) == _place(one) for row, one in zip(ordered, questions, strict=True)])
    return np.array([logits[one.question_id] for one in questions]), ordered, right


def _loss(chances: Sequence[np.ndarray], questions: Sequence[VQAQuestion], temperature: float) -> float:
    """Mean negative log-likelihood of the right options at a temperature."""
    scaled = AnswerCalibration(temperature=temperature).scaled
    return -float(
        np.mean([np.log(scaled(row)[_place(one)] + 1e-12) for row, one in zip(chances, questions, strict=True)])
    )


def _place(question: VQAQuestion) -> int:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(question.answer)


def views_with_questions(
    assistant: LoadedAssistant, questions: Sequence[VQAQuestion], files: Mapping[str, Path]
) -> Iterator[tuple[PreparedSlide, list[VQAQuestion]]]:
    """Slides, each encoded once, with their questions."""
    for slide_id, own in groupby(sorted(questions, key=lambda one: one.slide_id), key=lambda one: one.slide_id):
        if slide_id not in files:
            raise CaptionError(f"slide '{slide_id}': questions but no feature file")
        yield prepare_slide(assistant.aligned, read_features(files[slide_id])), list(own)
