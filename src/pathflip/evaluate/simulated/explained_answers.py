"""Answers with their evidence, tested: taken away, and held against the painted truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathflip.assistant import LoadedAssistant, answer, build_prompt, refusal_logit
from pathflip.data.question_files import VQAQuestion
from pathflip.evaluate.answering import views_with_questions
from pathflip.evaluate.faithfulness import Deletion, Pointing, delete_evidence, point_at
from pathflip.simulate import truth as slide_truth
from pathflip.types import Answer

__all__ = ["Faithfulness", "explain_answers"]


@dataclass(frozen=True)
class Faithfulness:
    """What the deletion test and the pointing game found, and the answers they were played on."""

    deletions: tuple[Deletion, ...]
    pointings: tuple[Pointing, ...]
    answers: tuple[tuple[VQAQuestion, Answer], ...]


def explain_answers(
    assistant: LoadedAssistant,
    questions: Sequence[VQAQuestion],
    files: Mapping[str, Path],
    cohort: Path,
    evidence: Mapping[str, str],
    rng: np.random.Generator,
) -> Faithfulness:
    """Answer questions with their evidence, take it away, and hold it against the painted truth.

    Args:
        assistant, questions, files: as for :func:`answer_questions`.
        cohort: the simulated cohort's folder, for its truth.
        evidence: question id -> the concept whose tissue shows the answer.
        rng: draws the random tiles of the deletion test.
    """
    deletions: list[Deletion] = []
    pointings: list[Pointing] = []
    answers: list[tuple[VQAQuestion, Answer]] = []
    for view, own in views_with_questions(assistant, questions, files):
        labels = slide_truth.read_labels(cohort / "truth" / f"{view.slide_id}.png")
        for one in own:
            prompt = build_prompt(assistant, one.question, view, one.options)
            reply = answer(
                assistant, prompt, (view,), refusal_logit(assistant, build_prompt(assistant, one.question, view))
            )
            answers.append((one, reply))
            lost = delete_evidence(assistant, view, one.question, one.options, reply, one.patient, rng)
            if lost is not None:
                deletions.append(lost)
            concept = evidence.get(one.question_id)
            if concept is not None:
                fractions = slide_truth.concept_fractions(labels, view.features.grid, [concept])[:, 0]
                hit = point_at(reply, view, fractions, one.patient)
                pointings += [hit] if hit is not None else []
    return Faithfulness(tuple(deletions), tuple(pointings), tuple(answers))
