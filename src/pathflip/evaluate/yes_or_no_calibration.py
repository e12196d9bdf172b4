"""From where on an assistant says yes, and up to where no: fitted on questions about slides it was not trained on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from pathflip.assistant import (
    AnswerCalibration,
    LoadedAssistant,
    YesOrNoCalibration,
    YesOrNoScores,
    build_prompt,
    denies,
    prepare_slide,
    yes_or_no_scores,
)
from pathflip.data.question_files import read_questions
from pathflip.data.splits import read_split_rows, read_splits
from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate.answering import calibrate_assistant
from pathflip.evaluate.metrics import auroc
from pathflip.features import read_features
from pathflip.io.slide_id import join_ids
from pathflip.io.tables import PLAIN, TableOptions
from pathflip.text.captions import patient_of
from pathflip.text.question_tables import read_question_rows
from pathflip.text.questions import asks_whether

__all__ = [
    "PresenceQuestion",
    "calibrate_on_files",
    "calibrate_yes_or_no",
    "read_presence_questions",
    "thresholds",
]

SIDED_WRONGLY = 0.05
"""Of the questions with one answer, at most this fraction may be given the other."""
FEWEST = 10
"""Questions of each answer, and patients, without which nothing is fitted."""


@dataclass(frozen=True)
class PresenceQuestion:
    """A yes-or-no question ("Is there necrosis?") about a slide, and whether the answer is yes."""

    slide_id: str
    patient: str
    question: str
    present: bool


def read_presence_questions(
    path: Path, splits: Path | None = None, split: str = "val", options: TableOptions = PLAIN
) -> list[PresenceQuestion]:
    """The yes-or-no questions of a file about one slide each that are answered so; others are passed over.

    Args:
        path: columns slide, question, answer (options, where there are any, are yes and no).
        splits: slide, split; only slides of ``split`` are taken. None takes all.
        options: columns and encoding, where the file does not say.

    Raises:
        CaptionError: the file cannot be read, or a row is no question.
    """
    rows = read_question_rows(path, options)
    about, split_of = ({}, {}) if splits is None else (read_split_rows(splits), read_splits(splits, asked=split))
    for name, own in join_ids(split_of, [row.slide_ids[0] for row in rows]).items():
        split_of[own], about[own] = split_of[name], about.get(name, {})
    questions = []
    for row in rows:
        slide = row.slide_ids[0]
        answer = row.options[row.answer] if row.answer >= 0 else row.answer_text
        side = re.match(r"\W*(yes|no)\b", answer, re.IGNORECASE)
        wanted = splits is None or split_of.get(slide) == split
        if wanted and side and len(row.slide_ids) == 1 and asks_whether(row.question) and not denies(row.question):
            patient = row.patient or about.get(slide, {}).get("patient") or patient_of(slide)
            questions.append(PresenceQuestion(slide, patient, row.question, side[1].lower() == "yes"))
    return questions


def calibrate_yes_or_no(
    assistant: LoadedAssistant, questions: Sequence[PresenceQuestion], files: Mapping[str, Path], fitted_on: str
) -> YesOrNoCalibration:
    """Fit when yes-or-no questions are answered with yes, with no, or not at all.

    What the alignment model measured for a question (its presence, and what tells how high this text scores on any
    slide) becomes log-odds by a logistic regression, and these with the language model's by another; both answers weigh
    the same. The thresholds bound each of the two errors by itself, as conformal prediction does class by class
    (Sadinle, Lei and Wasserman 2019, arXiv 1609.00451): see :func:`thresholds`; on patients left out of the fit.

    Args:
        assistant: who is asked. questions: about slides it was not trained on. files: feature file of every slide.
        fitted_on: in words, kept in the calibration.

    Raises:
        CaptionError: fewer than ``FEWEST`` questions of an answer, or patients; or a slide without features.
        ConfigError: an assistant that is shown no slide.
    """
    if assistant.model.config.text_only:
        raise ConfigError("calibrate: this assistant is shown no slide; there is nothing to hold its yes against")
    present = np.array([one.present for one in questions], bool)
    patients = np.array([one.patient for one in questions])
    counts = (int(present.sum()), int((~present).sum()), len(set(patients.tolist())))
    if min(counts) < FEWEST:
        raise CaptionError(
            f"calibrate: {counts[0]} questions answered with yes and {counts[1]} with no, of {counts[2]} patients; "
            f"expected at least {FEWEST} of each"
        )
    scores = _weighed(assistant, questions, files)
    left_out = np.zeros(len(questions))
    for train, rest in GroupKFold(min(5, counts[2])).split(left_out, present, patients):
        fitted = _fit([scores[i] for i in train], present[train])
        left_out[rest] = [fitted.log_odds(scores[i]) for i in rest]
    no_below, yes_from = thresholds(left_out, present)
    measured = {
        "questions": float(len(questions)),
        "patients": float(counts[2]),
        "auroc": auroc(present, left_out),
        "auroc_language_model": auroc(present, np.array([one.words for one in scores])),
        "yes_said_of_yes": float((left_out >= yes_from)[present].mean()),
        "no_said_of_yes": float((left_out < no_below)[present].mean()),
        "no_said_of_no": float((left_out < no_below)[~present].mean()),
        "yes_said_of_no": float((left_out >= yes_from)[~present].mean()),
    }
    limits = {"yes_from": yes_from, "no_below": no_below, "fitted_on": fitted_on, "measured": measured}
    return _fit(scores, present).model_copy(update=limits)


def calibrate_on_files(
    assistant: LoadedAssistant,
    questions: Sequence[Path],
    files: Mapping[str, Path],
    splits: Path,
    split: str = "val",
    options: TableOptions = PLAIN,
) -> tuple[AnswerCalibration, list[str]]:
    """Fit all of an assistant's calibration that files of questions allow; the rest keeps what is stored.

    Args:
        assistant: who is asked. questions: files of multiple-choice questions, yes-or-no questions, or both.
        files: feature file of every slide. splits: slide, split. split: which slides, none that it was trained on.
        options: columns and encoding, where a file does not say.

    Returns:
        The calibration, and why a part was not fitted.

    Raises:
        CaptionError: no part could be.
    """
    fitted_on = f"questions about {split} slides of {', '.join(path.name for path in questions)}"
    split_of = read_splits(splits, asked=split)
    every = [one for path in questions for one in read_questions(path, labelled=False, options=options)]
    split_of |= {own: split_of[name] for name, own in join_ids(split_of, [one.slide_id for one in every]).items()}
    named = join_ids([one.slide_id for one in every], files)
    files = {**files, **{name: files[own] for name, own in named.items()}}
    choices = [one for one in every if one.answer and not one.slide_ids and split_of.get(one.slide_id) == split]
    sided = [one for path in questions for one in read_presence_questions(path, splits, split, options)]
    calibration, lacking = assistant.calibration, []
    try:
        calibration = calibrate_assistant(assistant, choices, files, fitted_on).model_copy(
            update={"yes_or_no": calibration.yes_or_no}
        )
    except CaptionError as error:
        lacking.append(f"temperature and refusals ({error})")
    try:
        calibration = calibration.model_copy(
            update={"yes_or_no": calibrate_yes_or_no(assistant, sided, files, fitted_on)}
        )
    except CaptionError as error:
        lacking.append(f"yes and no ({error})")
    if len(lacking) == 2:
        raise CaptionError(f"calibrate: nothing can be fitted on {fitted_on}: {'; '.join(lacking)}")
    return calibration, lacking


def thresholds(odds: Float[np.ndarray, " n"], present: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """From which log-odds on yes, and below which no: ``(no_below, yes_from)``; the first is not above the second.

    At most ``SIDED_WRONGLY`` of those present lie below the one, of those absent at or above the other, counted as for
    one more question of each. Where both would hold for a whole range, the cut in it with the fewest errors.
    """
    of_yes, of_no = np.sort(odds[present]), np.sort(odds[~present])[::-1]
    no_below = float(of_yes[max(0, int(SIDED_WRONGLY * (len(of_yes) + 1)) - 1)])
    yes_from = float(np.nextafter(of_no[max(0, int(SIDED_WRONGLY * (len(of_no) + 1)) - 1)], np.inf))
    if no_below <= yes_from:
        return no_below, yes_from
    inside = np.sort(odds[(odds >= yes_from) & (odds <= no_below)])
    ends = np.array([yes_from, *inside, no_below])
    cuts = (ends[1:] + ends[:-1]) / 2
    wrong = [(of_yes < cut).mean() + (of_no >= cut).mean() for cut in cuts]
    best = float(cuts[int(np.argmin(wrong))])
    return best, best


def _weighed(
    assistant: LoadedAssistant, questions: Sequence[PresenceQuestion], files: Mapping[str, Path]
) -> list[YesOrNoScores]:
    """What speaks for a yes to every question; each slide is encoded once."""
    out: dict[int, YesOrNoScores] = {}
    order = sorted(range(len(questions)), key=lambda i: questions[i].slide_id)
    for slide_id, own in groupby(order, key=lambda i: questions[i].slide_id):
        if slide_id not in files:
            raise CaptionError(f"slide '{slide_id}': questions but no feature file")
        view, places = prepare_slide(assistant.aligned, read_features(files[slide_id])), list(own)
        prompts = [build_prompt(assistant, questions[i].question, view) for i in places]
        out |= dict(zip(places, yes_or_no_scores(assistant, prompts), strict=True))
    return [out[i] for i in range(len(questions))]


def _fit(scores: Sequence[YesOrNoScores], present: Bool[np.ndarray, " n"]) -> YesOrNoCalibration:
    """Both regressions; the thresholds stand at even odds."""
    seen = np.array([[one.presence, one.gate, one.margin] for one in scores])
    weights, bias = _logistic(seen, present)
    evidence = seen @ weights + bias
    words = np.array([one.words for one in scores])
    (of_words, of_evidence), intercept = _logistic(np.stack([words, evidence], 1), present)
    if of_words < 0:  # what the language model says is then worth nothing beside what is seen
        (of_evidence,), intercept = _logistic(evidence[:, None], present)
        of_words = 0.0
    return YesOrNoCalibration(
        presence=weights[0], gate=weights[1], margin=weights[2], evidence_intercept=bias,
        words=of_words, evidence=of_evidence, intercept=intercept, yes_from=0.0, no_below=0.0, fitted_on="",
    )  # fmt: skip


def _logistic(
    columns: Float[np.ndarray, "n F"], present: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " F"], float]:
    """Weights and intercept of a logistic regression, both answers weighing the same; 0 for a constant."""
    deviation = columns.std(0)
    scale = np.where(deviation > 1e-9, deviation, np.inf)
    fit = LogisticRegression(class_weight="balanced").fit((columns - columns.mean(0)) / scale, present)
    weights = fit.coef_[0] / scale
    return weights, float(fit.intercept_[0] - weights @ columns.mean(0))
