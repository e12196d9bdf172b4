"""What the report shows before any number: phrases on slides, retrieved cases, confusions, findings one by one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from pathflip.evaluate import metrics
from pathflip.evaluate.report.content import Confusion, FindingRow, GroundingExample, RetrievalExample, RetrievedSlide
from pathflip.evaluate.simulated.measures import TILE_FRACTION, Cohort, CohortScores, CohortSlide
from pathflip.inference import Aligned, ground
from pathflip.simulate import truth as slide_truth
from pathflip.simulate.phrases import prompts
from pathflip.simulate.world import FINDINGS
from pathflip.slide import open_slide

__all__ = ["confusions", "finding_rows", "grounding_examples", "retrieval_examples", "thumbnail"]

GROUNDING_PX = 640
RETRIEVAL_PX = 224


def thumbnail(folder: Path, slide_id: str, most_px: int) -> NDArray[np.uint8]:
    """A painted slide, small."""
    with open_slide(folder / "slides" / f"{slide_id}.tif") as slide:
        return slide.thumbnail(most_px)


def grounding_examples(
    folder: Path, cohort: Cohort, scores: CohortScores, model: Aligned, baseline: Aligned, num: int = 6
) -> list[GroundingExample]:
    """Phrases over the whole range of success, one a finding, and one phrase that denies a finding and is true.

    Pairs are taken at even steps of the model's average precision, best first, so that the page shows what is
    typical and what fails, not the best only.
    """
    ordered = sorted(scores.grounding, key=lambda entry: -entry[2])
    wanted = [ordered[round(i * (len(ordered) - 1) / max(1, num - 1))] for i in range(num)] if ordered else []
    examples, seen = [], set[tuple[int, int]]()
    for place, finding, _, _ in wanted:
        if (place, finding) not in seen:
            seen.add((place, finding))
            phrase = prompts(FINDINGS[finding], "train")[0][0]
            examples.append(_grounding_example(folder, cohort.slides[place], finding, phrase, model, baseline))
    for place, slide in enumerate(cohort.slides):
        absent = FINDINGS.index("necrosis")
        if not slide.present[absent] and all(place != shown for shown, _ in seen):
            phrase = prompts("necrosis", "train")[1][0]
            examples.append(_grounding_example(folder, slide, absent, phrase, model, baseline))
            break
    return examples


def _grounding_example(
    folder: Path, slide: CohortSlide, finding: int, phrase: str, model: Aligned, baseline: Aligned
) -> GroundingExample:
    labels = slide_truth.read_labels(folder / "truth" / f"{slide.slide_id}.png")
    maps = [ground(aligned, slide.features, phrase) for aligned in (model, baseline)]
    valid = slide.features.valid
    tiles = slide.fractions[valid, finding] >= TILE_FRACTION
    precision = [metrics.average_precision(tiles, m.scores[valid]) if tiles.any() else float("nan") for m in maps]
    return GroundingExample(
        slide_id=slide.slide_id,
        phrase=phrase,
        negated=maps[0].negated,
        thumbnail=thumbnail(folder, slide.slide_id, GROUNDING_PX),
        heatmap=maps[0],
        baseline=maps[1],
        truth=slide_truth.concept_mask(labels, FINDINGS[finding]),
        average_precision=precision[0],
        presence=maps[0].presence,
        baseline_average_precision=precision[1],
    )


def retrieval_examples(
    folder: Path, cohort: Cohort, scores: CohortScores, num: int = 3, k: int = 4
) -> list[RetrievalExample]:
    """Reports and the slides found for them: one found first, one found later, and so on at even steps of rank."""
    matrix = scores.retrieval.scores
    ranks = metrics.expected_ranks(matrix.T)
    order = np.argsort(ranks, kind="stable")
    chosen = [int(order[round(i * (len(order) - 1) / max(1, num - 1))]) for i in range(min(num, len(order)))]
    examples = []
    for column in chosen:
        best = np.argsort(-matrix[:, column], kind="stable")[:k]
        ranked = [
            RetrievedSlide(
                slide_id=cohort.slides[row].slide_id,
                thumbnail=thumbnail(folder, cohort.slides[row].slide_id, RETRIEVAL_PX),
                score=float(matrix[row, column]),
                is_own=bool(row == column),
                excerpt=cohort.slides[row].text[:160],
            )
            for row in best
        ]
        own = cohort.slides[column]
        examples.append(RetrievalExample(own.text, own.slide_id, thumbnail(folder, own.slide_id, RETRIEVAL_PX), ranked))
    return examples


def confusions(cohort: Cohort, scores: CohortScores) -> list[Confusion]:
    """Zero-shot type, grade and pattern of the tumour slides."""
    tables = []
    for task, column in (("type", "tumour"), ("grade", "grade"), ("pattern", "pattern")):
        answer = scores.classes[task]
        truth = [slide.row[column] for slide in cohort.slides]
        rows = [i for i, value in enumerate(truth) if value in answer.classes]
        counts = confusion_matrix([truth[i] for i in rows], [answer.best[i] for i in rows], labels=list(answer.classes))
        tables.append(Confusion(task, answer.classes, counts))
    return tables


def finding_rows(cohort: Cohort, scores: CohortScores) -> list[FindingRow]:
    """Presence, absence and grounding of every finding, prompts in the wording seen in training."""
    present = np.stack([slide.present for slide in cohort.slides])
    rows = []
    for index, finding in enumerate(FINDINGS):
        entries = [entry for entry in scores.grounding if entry[1] == index]
        rows.append(
            FindingRow(
                finding=finding,
                present=int(present[:, index].sum()),
                presence_auroc=metrics.auroc(present[:, index], scores.present["seen"][:, index]),
                absence_auroc=metrics.auroc(~present[:, index], scores.absent["seen"][:, index]),
                average_precision=_mean([entry[2] for entry in entries]),
                prevalence=_mean([entry[3] for entry in entries]),
            )
        )
    return rows


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
