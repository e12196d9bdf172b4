"""Questions, answers and evidence of a painted cohort, for the demo's page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pathflip.assistant import AnswerCalibration, LoadedAssistant, caption, prepare_slide
from pathflip.data.question_files import VQAQuestion, read_questions
from pathflip.evaluate.estimates import Estimate, Measure, estimate_all
from pathflip.evaluate.faithfulness import deletion_measures, pointing_measures
from pathflip.evaluate.predictions import VQAPrediction
from pathflip.evaluate.simulated.explained_answers import Faithfulness
from pathflip.evaluate.simulated.yes_or_no import OpenAnswer, yes_or_no_estimates
from pathflip.evaluate.vqa import vqa_measures
from pathflip.features import read_features
from pathflip.geometry import Box
from pathflip.io.tables import read_table
from pathflip.slide import open_slide
from pathflip.types import Answer

__all__ = [
    "AnsweredExample",
    "AssistantStudy",
    "CaptionExample",
    "caption_examples",
    "cohort_questions",
    "questions_to_explain",
    "study_assistant",
]

PICTURE_PX = 420

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class AnsweredExample:
    """A question with its truth, the assistant's answer and evidence, and what the text-only baseline said.

    ``true_boxes`` are where the truth shows the answer, in level-0 pixels of a slide ``size0`` large.
    """

    question: VQAQuestion
    answer: Answer
    text_only: str
    thumbnail: NDArray[np.uint8] = field(repr=False)
    size0: tuple[int, int]
    true_boxes: tuple[Box, ...]

    @property
    def truth(self) -> str:
        """The right option."""
        return self.question.options["ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(self.question.answer)]

    @property
    def right(self) -> bool:
        """Whether the assistant gave it."""
        return self.answer.text == self.truth


@dataclass(frozen=True, eq=False)
class CaptionExample:
    """A caption the assistant wrote, with the places of its sentences, and the true report."""

    slide_id: str
    answer: Answer
    report: str
    thumbnail: NDArray[np.uint8] = field(repr=False)
    size0: tuple[int, int]


@dataclass(frozen=True, eq=False)
class AssistantStudy:
    """Everything a report page tells of an assistant."""

    rows: Sequence[Mapping[str, Any]]
    """Of :func:`~pathflip.evaluate.vqa.vqa_measures`."""
    faithfulness: Mapping[str, Estimate]
    calibration: AnswerCalibration
    examples: Sequence[AnsweredExample]
    captions: Sequence[CaptionExample]
    yes_or_no: Mapping[str, Estimate] = field(default_factory=dict)
    """Of open questions (:mod:`pathflip.evaluate.simulated.yes_or_no`)."""


def cohort_questions(cohort: Path, split: str) -> tuple[list[VQAQuestion], dict[str, dict[str, Any]]]:
    """The questions of one split, and, by their ids, the lines of ``questions.jsonl`` they come from."""
    path = cohort / "questions.jsonl"
    everything = read_questions(path)
    lines = {one.question_id: row for one, row in zip(everything, read_table(path), strict=True)}
    return read_questions(path, split), lines


def questions_to_explain(
    questions: Sequence[VQAQuestion], lines: Mapping[str, Mapping[str, Any]], num: int
) -> list[VQAQuestion]:
    """``num`` questions at even steps among those whose answer can be pointed at, none picked by hand."""
    shown = [one for one in questions if one.answerable and lines[one.question_id].get("evidence")]
    return _even_steps(shown, num)


def study_assistant(
    cohort: Path,
    predictions: Sequence[VQAPrediction],
    text_only: Sequence[VQAPrediction],
    explained: Faithfulness,
    calibration: AnswerCalibration,
    captions: Sequence[CaptionExample] = (),
    yes_or_no: Sequence[OpenAnswer] = (),
    *,
    num_examples: int = 6,
    num: int = 1000,
) -> AssistantStudy:
    """Put together what was measured on the test patients of a painted cohort.

    Args:
        cohort: written by ``pathflip simulate``.
        predictions, text_only: answers to all test questions, with the slide and without it.
        explained: some answers with evidence (:func:`~pathflip.evaluate.simulated.explained_answers.explain_answers`).
        calibration: of the assistant.
        captions: examples. yes_or_no: answers to open questions.
        num_examples: questions to show, at even steps of those explained. num: bootstrap resamples.
    """
    questions, lines = cohort_questions(cohort, "test")
    train, _ = cohort_questions(cohort, "train")
    rows = vqa_measures(questions, predictions, text_only=text_only, train=train, num=num)
    faithful = {
        **_estimates(deletion_measures(explained.deletions), [one.patient for one in explained.deletions], num),
        **_estimates(pointing_measures(explained.pointings), [one.patient for one in explained.pointings], num),
    }
    text_only_answers = {one.question_id: one for one in text_only}
    shown = _even_steps(explained.answers, num_examples)
    examples = [_example(cohort, question, answer, lines, text_only_answers) for question, answer in shown]
    return AssistantStudy(rows, faithful, calibration, examples, captions, yes_or_no_estimates(yes_or_no, num))


def caption_examples(
    assistant: LoadedAssistant, cohort: Path, files: Mapping[str, Path], slide_ids: Sequence[str]
) -> list[CaptionExample]:
    """Captions the assistant writes, beside the true reports."""
    reports = {row["slide"]: row["text"] for row in read_table(cohort / "captions.jsonl")}
    examples = []
    for slide_id in slide_ids:
        view = prepare_slide(assistant.aligned, read_features(files[slide_id]))
        written = caption(assistant, view, most_evidence=1)
        examples.append(CaptionExample(slide_id, written, reports[slide_id], *_picture(cohort, slide_id)))
    return examples


def _even_steps(items: Sequence[Item], num: int) -> list[Item]:
    """``num`` of the items, evenly spread, first and last among them."""
    places = np.linspace(0, len(items) - 1, min(num, len(items))).round().astype(int).tolist() if items else []
    return [items[place] for place in dict.fromkeys(places)]


def _estimates(measures: Sequence[Measure], patients: Sequence[str], num: int) -> dict[str, Estimate]:
    """Measures with intervals over patients; none where nothing was found."""
    if not patients:
        return {}
    estimates = estimate_all({"assistant": measures}, np.array(patients), "assistant", num=num)
    return {name: entry["assistant"] for name, entry in estimates.items()}


def _example(
    cohort: Path,
    question: VQAQuestion,
    answer: Answer,
    lines: Mapping[str, Mapping[str, Any]],
    text_only: Mapping[str | None, VQAPrediction],
) -> AnsweredExample:
    boxes = tuple(Box(*box) for box in lines[question.question_id].get("evidence_boxes") or ())
    guess = text_only[question.question_id].probabilities
    answered = question.options[int(np.argmax(guess))] if guess else ""
    return AnsweredExample(question, answer, answered, *_picture(cohort, question.slide_id), boxes)


def _picture(cohort: Path, slide_id: str) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """A painted slide, small, and how large it is."""
    with open_slide(cohort / "slides" / f"{slide_id}.tif") as slide:
        return slide.thumbnail(PICTURE_PX), slide.info.size0
