"""Is the evidence what the answer stands on? Take it away and see; and hold it against the truth.

- Deletion: without the tiles named as evidence the answer must become less likely than without as many random tiles
  (after DeYoung et al. 2020, "ERASER", arXiv 1911.03429, comprehensiveness).
- Pointing game: the best place shows what the question is about (Zhang et al. 2016, arXiv 1608.00507).
- Overlap: intersection over union of the places and the tiles that show it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from pathflip.assistant import LoadedAssistant, PreparedSlide, build_prompt, log_likelihood, tiles_of
from pathflip.evaluate.estimates import Measure, mean_of
from pathflip.types import Answer

__all__ = ["Deletion", "Pointing", "delete_evidence", "deletion_measures", "point_at", "pointing_measures"]


@dataclass(frozen=True)
class Deletion:
    """What one answer loses, in nats, without its evidence and (mean of some draws) without as many random tiles."""

    patient: str
    evidence: float
    random: float


@dataclass(frozen=True)
class Pointing:
    """One answer's places against the truth: a hit of the best one, what a random tile would score, overlap, and the
    overlap of as many random tiles."""

    patient: str
    hit: float
    chance: float
    overlap: float
    random_overlap: float


def delete_evidence(
    assistant: LoadedAssistant,
    view: PreparedSlide,
    question: str,
    options: Sequence[str],
    answer: Answer,
    patient: str,
    rng: np.random.Generator,
    *,
    draws: int = 3,
) -> Deletion | None:
    """The deletion test of one answer; None where there is no evidence, or nothing but evidence.

    Args:
        assistant: who answered. view: the slide. question, options: what was asked.
        answer: what was said; of a multiple-choice question the option's letter is weighed.
        patient: whose slide.
        rng: draws the random tiles.
        draws: how many times.
    """
    evidence = tiles_of(answer, view) & view.features.valid
    others = np.flatnonzero(view.features.valid & ~evidence)
    count = int(evidence.sum())
    if count == 0 or len(others) < count:
        return None
    answer_words = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[options.index(answer.text)] if options else answer.text

    def likely(removed: NDArray[np.int64]) -> float:
        keep = np.ones(len(evidence), bool)
        keep[removed] = False
        return float(
            log_likelihood(assistant, build_prompt(assistant, question, view, options, keep=[keep]), [answer_words])[0]
        )

    whole = likely(np.zeros(0, np.int64))
    without = likely(np.flatnonzero(evidence))
    random = [likely(rng.choice(others, count, replace=False)) for _ in range(draws)]
    return Deletion(patient, whole - without, whole - float(np.mean(random)))


def point_at(answer: Answer, view: PreparedSlide, fractions: Float[np.ndarray, " N"], patient: str) -> Pointing | None:
    """The places of an answer against the fraction of every tile that shows what was asked about.

    A tile shows it from a quarter of its area. None where there is no evidence or no such tile.
    """
    chosen = tiles_of(answer, view)
    shows = (fractions >= 0.25) & view.features.valid
    if not chosen.any() or not shows.any():
        return None
    valid = view.features.valid
    best = answer.evidence[0].box
    row = int(np.flatnonzero((view.features.coords == (best.x, best.y)).all(axis=1))[0])
    chance = float(shows.sum() / valid.sum())
    return Pointing(patient, float(shows[row]), chance, _overlap(chosen, shows), _random_overlap(chosen, shows, valid))


def deletion_measures(deletions: Sequence[Deletion]) -> list[Measure]:
    """Mean loss without the evidence beyond that without random tiles, by chance 0, and how often it is larger, .5."""
    gain = np.array([one.evidence - one.random for one in deletions])
    larger = np.array([(one.evidence > one.random) + 0.5 * (one.evidence == one.random) for one in deletions])
    return [
        Measure("deletion: nats lost beyond random tiles", mean_of(gain), 0.0),
        Measure("deletion: evidence matters more than random tiles", mean_of(larger), 0.5),
    ]


def pointing_measures(pointings: Sequence[Pointing]) -> list[Measure]:
    """Fraction of hits of the best place, and mean overlap, each with the level of random tiles."""
    hits, overlaps = np.array([one.hit for one in pointings]), np.array([one.overlap for one in pointings])
    return [
        Measure("pointing game", mean_of(hits), _mean([one.chance for one in pointings])),
        Measure("evidence overlap (mIoU)", mean_of(overlaps), _mean([one.random_overlap for one in pointings])),
    ]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _overlap(chosen: Bool[np.ndarray, " N"], shows: Bool[np.ndarray, " N"]) -> float:
    return float((chosen & shows).sum() / (chosen | shows).sum())


def _random_overlap(
    chosen: Bool[np.ndarray, " N"], shows: Bool[np.ndarray, " N"], valid: Bool[np.ndarray, " N"]
) -> float:
    """Overlap of as many tiles drawn at random, by expected hits."""
    hits = chosen.sum() * shows.sum() / valid.sum()
    return float(hits / (chosen.sum() + shows.sum() - hits))
