"""SlideBench VQA on BCNB: 7,274 questions on 1,058 slides, seven attributes of early breast cancer.

An attribute has one question and one set of options, so the most frequent answer of each attribute is the baseline that
counts. Chen et al. 2024, arXiv 2410.11761.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

import numpy as np

from pathflip.benchmarks.choice_questions import choice_outcome, content_rows
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Published
from pathflip.benchmarks.test_sets import KnownSet, recognise
from pathflip.data.question_files import VQAQuestion, read_questions

__all__ = ["PROTOCOL"]

NAME = "slidebench-vqa-bcnb"
SETS = (KnownSet(7274, "SlideBench-VQA (BCNB)"),)
TASKS = 7
_NO_CATEGORY = "all questions"


def run(inputs: Inputs) -> Outcome:
    """Score answers to the questions of ``inputs.data``, attribute by attribute."""
    questions = [_by_task(one) for one in read_questions(inputs.data, with_problems=True)]
    test_set = recognise(inputs.data.name, content_rows(questions), SETS, inputs.other_set)
    outcome = choice_outcome(NAME, questions, inputs, test_set, extra_baselines=_constants)
    tasks = len({q.category for q in questions})
    note = () if tasks == TASKS else (f"{tasks} attribute tasks in the file; the published set has {TASKS}",)
    return replace(outcome, notes=(*outcome.notes, *note))


def _by_task(question: VQAQuestion) -> VQAQuestion:
    """The attribute as the category: the narrow category where the file has one, else the question's own words."""
    task = question.subcategory or (question.question if question.category == _NO_CATEGORY else question.category)
    return replace(question, category=task, subcategory="")


def _constants(questions: Sequence[VQAQuestion]) -> dict[str, np.ndarray]:
    """Credit of always giving the most frequent answer (by its text) of each attribute."""
    answers = [q.options[ascii_uppercase.index(q.answer)].lower() for q in questions]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question, answer in zip(questions, answers, strict=True):
        counts[question.category][answer] += 1
    right = [
        answer == counts[question.category].most_common(1)[0][0]
        for question, answer in zip(questions, answers, strict=True)
    ]
    return {"most frequent of the attribute": np.array(right, dtype=np.float64)}


PROTOCOL = Protocol(
    name=NAME,
    title="SlideBench VQA (BCNB)",
    metric="accuracy, by attribute",
    needs="SlideBench-VQA-BCNB.csv (7,274 rows); an assistant and features, or predictions",
    run=run,
    published=(
        Published("PathFLIP", "accuracy (written)", "all", 0.5865),
        Published("SlideChat", "accuracy (written)", "all", 0.541),
        Published("PathNavigate", "accuracy (written)", "all", 0.5942, "from notes"),
        Published("MLLM-HWSI", "accuracy (written)", "all", 0.687, "from notes"),
    ),
    table="questions",
    source="arXiv 2410.11761",
)
