"""A model against a cohort whose truth is known: retrieval, presence, absence, grounding, classification.

Numbers come with 95 % intervals from resampling patients (never slides: two slides of a patient are not two
witnesses), with the chance level, and models are compared on the same resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from pathflip.errors import CaptionError
from pathflip.evaluate import metrics
from pathflip.evaluate.estimates import Measure, mean_of
from pathflip.inference import (
    Aligned,
    EncodedSlide,
    Retrieval,
    ZeroShot,
    encode_slide,
    ground,
    presence_scores,
    retrieve,
    zero_shot,
)
from pathflip.io.tables import read_table
from pathflip.simulate import truth as slide_truth
from pathflip.simulate.cases import HELD_OUT_COMBINATIONS
from pathflip.simulate.phrases import GRADE_CLASSNAMES, PATTERN_CLASSNAMES, TEMPLATES, TYPE_CLASSNAMES, prompts
from pathflip.simulate.world import FINDINGS
from pathflip.types import SlideFeatures

__all__ = ["Cohort", "CohortScores", "measures", "read_cohort", "score_model"]

TILE_FRACTION = 0.25
"""A tile counts as showing a finding when at least this fraction of it does."""
SMALL = 0.02
"""Findings below this fraction of the tissue are reported apart."""


@dataclass(frozen=True)
class CohortSlide:
    """One slide with everything known about it."""

    slide_id: str
    patient: str
    row: dict[str, str]
    text: str
    paraphrase: str
    features: SlideFeatures
    fractions: Float[np.ndarray, "N F"] = field(repr=False)
    """Fraction of every tile that each finding covers."""
    extents: Float[np.ndarray, " F"] = field(repr=False)
    """Fraction of the tissue's tiles-area that each finding covers on the slide."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which findings the painted slide shows, (F,)."""
        return np.array([self.row[f] == "1" for f in FINDINGS])


@dataclass(frozen=True)
class Cohort:
    """Slides of one split."""

    slides: tuple[CohortSlide, ...]

    @property
    def patients(self) -> NDArray[np.str_]:
        """Patient of each slide."""
        return np.array([slide.patient for slide in self.slides])


@dataclass(frozen=True)
class CohortScores:
    """A model's scores of a cohort; everything the measures and the report need."""

    name: str
    retrieval: Retrieval
    paraphrased: Retrieval
    present: dict[str, Float[np.ndarray, "B F"]]
    """Presence scores by wording: "seen" in training, and "held out"."""
    absent: dict[str, Float[np.ndarray, "B F"]]
    grounding: list[tuple[int, int, float, float]]
    """(slide, finding, average precision, the same by chance)."""
    classes: dict[str, ZeroShot]


def read_cohort(folder: Path, features: Path, split: str) -> Cohort:
    """Read one split of a simulated cohort together with its features.

    Args:
        folder: written by ``pathflip simulate``. features: folder of feature files. split: "train", "val", "test".

    Raises:
        CaptionError: the folder holds no cohort.
    """
    if not (folder / "labels.csv").is_file():
        raise CaptionError(f"'{folder}' holds no labels.csv; expected a cohort written by `pathflip simulate`")
    from pathflip.features import read_features

    labels = read_table(folder / "labels.csv")
    rows = [{name: value or "" for name, value in row.items()} for row in labels if row["split"] == split]
    captions = {row["slide"]: row for row in read_table(folder / "captions.jsonl")}
    slides = []
    for row in rows:
        slide_features = read_features(features / f"{row['slide']}.h5")
        painted = slide_truth.read_labels(folder / "truth" / f"{row['slide']}.png")
        fractions = slide_truth.concept_fractions(painted, slide_features.grid, FINDINGS)
        caption = captions[row["slide"]]
        extents = slide_truth.concept_extents(painted, FINDINGS)
        slides.append(
            CohortSlide(
                slide_id=row["slide"],
                patient=row["patient"],
                row=row,
                text=caption["text"],
                paraphrase=caption.get("paraphrase") or caption["text"],
                features=slide_features,
                fractions=fractions,
                extents=extents,
            )
        )
    return Cohort(tuple(slides))


def score_model(name: str, model: Aligned, cohort: Cohort) -> CohortScores:
    """Score a whole cohort with a model, once."""
    encoded = [encode_slide(model, slide.features) for slide in cohort.slides]
    wordings = {"seen": "train", "held out": "test"}
    present, absent = {}, {}
    for wording, split in wordings.items():
        queries = [prompts(finding, split) for finding in FINDINGS]
        present[wording] = _mean_over_prompts(model, encoded, [states for states, _ in queries])
        absent[wording] = _mean_over_prompts(model, encoded, [denials for _, denials in queries])
    return CohortScores(
        name=name,
        retrieval=retrieve(model, encoded, [slide.text for slide in cohort.slides]),
        paraphrased=retrieve(model, encoded, [slide.paraphrase for slide in cohort.slides]),
        present=present,
        absent=absent,
        grounding=_grounding(model, encoded, cohort),
        classes={
            "type": zero_shot(model, encoded, TYPE_CLASSNAMES, TEMPLATES),
            "grade": zero_shot(model, encoded, GRADE_CLASSNAMES, TEMPLATES),
            "pattern": zero_shot(model, encoded, PATTERN_CLASSNAMES, TEMPLATES),
        },
    )


def _mean_over_prompts(
    model: Aligned, slides: Sequence[EncodedSlide], wordings: Sequence[Sequence[str]]
) -> Float[np.ndarray, "B F"]:
    scores = presence_scores(model, slides, [text for texts in wordings for text in texts])
    ends = np.cumsum([0, *(len(texts) for texts in wordings)])
    return np.stack([scores[:, a:b].mean(1) for a, b in pairwise(ends)], axis=1)


def _grounding(model: Aligned, encoded: Sequence[EncodedSlide], cohort: Cohort) -> list[tuple[int, int, float, float]]:
    precisions = []
    for place, (slide, known) in enumerate(zip(encoded, cohort.slides, strict=True)):
        for finding in np.flatnonzero(known.present):
            truth = known.fractions[:, finding] >= TILE_FRACTION
            valid = known.features.valid
            if not truth[valid].any() or truth[valid].all():
                continue
            scores = ground(model, slide, prompts(FINDINGS[finding], "train")[0][0]).scores
            precision = metrics.average_precision(truth[valid], scores[valid])
            precisions.append((place, int(finding), precision, metrics.chance_average_precision(truth[valid])))
    return precisions


def measures(scores: CohortScores, cohort: Cohort) -> list[Measure]:
    """All measures of one model, in the order the report shows them."""
    return [
        *_retrieval_measures(scores, len(cohort.slides)),
        *_presence_measures(scores, cohort),
        *_grounding_measures(scores, cohort),
        *_class_measures(scores, cohort),
    ]


def _retrieval_measures(scores: CohortScores, count: int) -> list[Measure]:
    def hits(matrix: NDArray[np.floating]) -> NDArray[np.floating]:
        """Both ways, per slide: does its own caption (slide) come first, ties counted as their expected rank."""
        return (metrics.hits_at_k(matrix, 1) + metrics.hits_at_k(matrix.T, 1)) / 2

    kinds = {
        "R@1 whole slide": scores.retrieval.whole,
        "R@1 sub-captions": scores.retrieval.sub_captions,
        "R@1 combined": scores.retrieval.scores,
        "R@1 combined, gallery-normalised": scores.retrieval.gallery_normalised,
        "R@1 combined, held-out wording": scores.paraphrased.scores,
        "R@1 combined, held-out wording, gallery-normalised": scores.paraphrased.gallery_normalised,
    }
    both = [
        Measure(name, mean_of(hits(matrix)), 1 / count, "mean of both directions") for name, matrix in kinds.items()
    ]
    ways = {"slide to report": scores.retrieval.scores, "report to slide": scores.retrieval.scores.T}
    apart = [
        Measure(f"R@1 combined, {way}", mean_of(first), 1 / count, "one direction", first)
        for way, first in ((way, metrics.hits_at_k(matrix, 1)) for way, matrix in ways.items())
    ]
    return [*both, *apart]


def _presence_measures(scores: CohortScores, cohort: Cohort) -> list[Measure]:
    present = np.stack([slide.present for slide in cohort.slides])

    def macro(presence: NDArray[np.floating], truth: NDArray[np.bool_]) -> Callable[[NDArray[np.int64]], float]:
        def of(rows: NDArray[np.int64]) -> float:
            usable = [f for f in range(truth.shape[1]) if 0 < truth[rows, f].sum() < len(rows)]
            return float(np.mean([metrics.auroc(truth[rows, f], presence[rows, f]) for f in usable]))

        return of

    out = []
    for wording in scores.present:
        suffix = "" if wording == "seen" else ", held-out wording"
        out.append(Measure(f"presence AUROC{suffix}", macro(scores.present[wording], present), 0.5, "20 findings"))
        out.append(Measure(f"absence AUROC{suffix}", macro(scores.absent[wording], ~present), 0.5, "prompts that deny"))
    return out


def _grounding_measures(scores: CohortScores, cohort: Cohort) -> list[Measure]:
    small = np.stack([slide.extents for slide in cohort.slides]) < SMALL

    def mean_precision(entries: list[tuple[int, int, float, float]]) -> Callable[[NDArray[np.int64]], float]:
        total = np.zeros(len(cohort.slides))
        number = np.zeros(len(cohort.slides))
        for place, _, precision, _ in entries:
            total[place] += precision
            number[place] += 1
        return lambda rows: float(total[rows].sum() / max(number[rows].sum(), 1))

    little = [entry for entry in scores.grounding if small[entry[0], entry[1]]]
    return [
        Measure(
            name, mean_precision(entries), float(np.mean([entry[3] for entry in entries])) if entries else 0.0, note
        )
        for name, entries, note in (
            ("grounding AP", scores.grounding, f"{len(scores.grounding)} slide-finding pairs"),
            ("grounding AP, small findings", little, f"{len(little)} pairs under {SMALL:.0%} of the tissue"),
        )
    ]


def _class_measures(scores: CohortScores, cohort: Cohort) -> list[Measure]:
    column = {"type": "tumour", "grade": "grade", "pattern": "pattern"}
    out = []
    for task, answer in scores.classes.items():
        truth = np.array([slide.row[column[task]] for slide in cohort.slides])
        guess = np.array(answer.best)
        tumour, chance = np.isin(truth, answer.classes), 1 / len(answer.classes)
        if not tumour.any():  # of composed slides neither grade nor pattern is known
            continue
        of = _balanced(truth, guess, tumour)
        right = (truth == guess)[tumour].astype(np.float64)
        out.append(Measure(f"{task}, balanced accuracy", of, chance, "zero-shot, tumour slides", right))
        if task != "grade":
            known = np.array([(s.row["tumour"], s.row["pattern"]) not in HELD_OUT_COMBINATIONS for s in cohort.slides])
            name = f"{task}, balanced accuracy, type-pattern pairs seen in training"
            out.append(Measure(name, _balanced(truth, guess, tumour & known), chance, "zero-shot, tumour slides"))
    return out


def _balanced(
    truth: NDArray[np.str_], guess: NDArray[np.str_], counted: NDArray[np.bool_]
) -> Callable[[NDArray[np.int64]], float]:
    def of(rows: NDArray[np.int64]) -> float:
        counted_rows = rows[counted[rows]]
        return (
            metrics.balanced_accuracy(truth[counted_rows], guess[counted_rows]) if len(counted_rows) else float("nan")
        )

    return of
