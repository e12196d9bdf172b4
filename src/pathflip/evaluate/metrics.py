"""Metrics and the levels that chance gives them. Pure numpy; confusion matrices and the like are scikit-learn's.

Three habits keep the numbers honest. **Ties earn what a coin would earn**: where scores are equal, a metric is its
expected value over random orders, so a constant score gets exactly the chance level and never more. **Undefined is
nan** (an AUROC without negatives), not 0 or 1. **Patients are resampled, not slides**
(:mod:`pathflip.evaluate.bootstrap`): two slides of one patient are not two witnesses.
"""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike, NDArray

from pathflip.errors import PathFLIPError

__all__ = [
    "AUROC_CHANCE",
    "Interval",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "chance_average_precision",
    "chance_of_hits",
    "chance_recall_at_k",
    "expected_calibration_error",
    "expected_ranks",
    "hits_at_k",
    "positives_from_keys",
    "recall_at_k",
    "wilson_interval",
]

AUROC_CHANCE = 0.5
"""AUROC of scores that know nothing, whatever the prevalence."""


class Interval(NamedTuple):
    """A value with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


# --- Retrieval -------------------------------------------------------------------------------------------------------


def positives_from_keys(rows: Sequence[Any], columns: Sequence[Any]) -> Bool[np.ndarray, "Q C"]:
    """Which candidate is right for which query: those with the same key (a patient, a caption's text)."""
    return np.asarray(rows)[:, None] == np.asarray(columns)[None, :]


def hits_at_k(
    similarity: Float[np.ndarray, "Q C"], k: int, positives: Bool[np.ndarray, "Q C"] | None = None
) -> Float[np.ndarray, " Q"]:
    """For each query, the probability that a right candidate is among the first k, equal scores in random order.

    Without ties that is 0 or 1. With p right and e wrong candidates at the best right score and g wrong ones above
    it, it is 1 - C(e, k - g) / C(e + p, k - g).

    Args:
        similarity: a row per query, a column per candidate; higher is better. ``similarity.T`` asks the other way.
        positives: which candidates are right; by default the diagonal.

    Raises:
        PathFLIPError: a query without a right candidate, or scores that are not numbers.
    """
    above, wrong_tied, right_tied = _tie_counts(similarity, positives)
    if k < 1:
        raise PathFLIPError(f"k: got {k}, expected at least 1")
    hits = np.empty(len(above))
    for query, (g, e, p) in enumerate(zip(above.tolist(), wrong_tied.tolist(), right_tied.tolist(), strict=True)):
        places = min(max(k - g, 0), e + p)
        hits[query] = 1.0 - comb(e, places) / comb(e + p, places)
    return hits


def recall_at_k(
    similarity: Float[np.ndarray, "Q C"], k: int, positives: Bool[np.ndarray, "Q C"] | None = None
) -> float:
    """Fraction of queries with a right candidate among the first k (see :func:`hits_at_k`)."""
    return float(hits_at_k(similarity, k, positives).mean())


def expected_ranks(
    similarity: Float[np.ndarray, "Q C"], positives: Bool[np.ndarray, "Q C"] | None = None
) -> Float[np.ndarray, " Q"]:
    """For each query, the expected rank (1 is best) of its first right candidate, equal scores in random order."""
    above, wrong_tied, right_tied = _tie_counts(similarity, positives)
    return above + (wrong_tied + right_tied + 1) / (right_tied + 1)


def chance_recall_at_k(k: int, num_candidates: int, num_positives: int = 1) -> float:
    """Recall@k of a random order: k / N for one right candidate, more if several are right."""
    if not 1 <= num_positives <= num_candidates:
        raise PathFLIPError(f"got {num_positives} right of {num_candidates} candidates, expected 1 to all of them")
    k = min(k, num_candidates)
    return 1.0 - comb(num_candidates - num_positives, k) / comb(num_candidates, k)


def chance_of_hits(k: int, positives: Bool[np.ndarray, "Q C"]) -> float:
    """Recall@k of a random order, mean over the queries: each has its own number of right candidates."""
    counts = np.asarray(positives, dtype=bool).sum(axis=1)
    return float(np.mean([chance_recall_at_k(k, positives.shape[1], int(count)) for count in counts]))


def _tie_counts(
    similarity: Float[np.ndarray, "Q C"], positives: Bool[np.ndarray, "Q C"] | None
) -> tuple[Int[np.ndarray, " Q"], Int[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """Per query: wrong candidates above the best right score, wrong ones at it, right ones at it."""
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or 0 in similarity.shape:
        raise PathFLIPError(f"similarity: got shape {similarity.shape}, expected queries × candidates")
    if np.isnan(similarity).any():
        raise PathFLIPError(f"similarity: {int(np.isnan(similarity).sum())} of its scores are nan, expected numbers")
    if positives is None:
        if similarity.shape[0] != similarity.shape[1]:
            raise PathFLIPError(f"similarity: got shape {similarity.shape}, expected a square; or name the positives")
        positives = np.eye(len(similarity), dtype=bool)
    positives = np.asarray(positives, dtype=bool)
    if positives.shape != similarity.shape:
        raise PathFLIPError(f"positives: got shape {positives.shape}, expected {similarity.shape}")
    if not positives.any(axis=1).all():
        raise PathFLIPError(f"query {int(np.argmin(positives.any(axis=1)))} has no right candidate; leave it out")
    # Compare in the scores' own precision: -inf is a lawful score, so right ones are picked by mask, not by value.
    best = np.max(similarity, axis=1, where=positives, initial=-np.inf)[:, None]
    wrong, tied = ~positives, similarity == best
    above = ((similarity > best) & wrong).sum(axis=1)
    return above, (tied & wrong).sum(axis=1), (tied & positives).sum(axis=1)


# --- Ranking of one list ---------------------------------------------------------------------------------------------


def auroc(truth: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    nan where there is no positive or no negative.
    """
    positive, values = _labelled(truth, scores)
    right, wrong = values[positive], np.sort(values[~positive])
    if not len(right) or not len(wrong):
        return float("nan")
    below = np.searchsorted(wrong, right, side="left") + np.searchsorted(wrong, right, side="right")
    return float(below.mean() / (2 * len(wrong)))


def average_precision(truth: ArrayLike, scores: ArrayLike) -> float:
    """Mean over the positives of the precision at their rank, in expectation over random orders of equal scores.

    Without ties this is scikit-learn's ``average_precision_score``. With ties that one depends on the whole tied
    block's precision; here a block earns what shuffling it would. nan where there is no positive.
    """
    positive, values = _labelled(truth, scores)
    total = int(positive.sum())
    if not total:
        return float("nan")
    order = np.argsort(-values, kind="stable")
    positive, values = positive[order], values[order]
    first = np.concatenate([[True], values[1:] != values[:-1]])
    starts = np.flatnonzero(first)
    block = np.cumsum(first) - 1
    size = np.diff([*starts, len(values)])[block]
    right = np.add.reduceat(positive.astype(np.int64), starts)[block]
    before: NDArray[np.int64] = (np.cumsum(positive) - positive)[starts][block]
    place = np.arange(len(values)) - starts[block]
    # At a place of its block an item is positive with probability right/size; if so, of the items placed before it in
    # the block a fraction (right - 1)/(size - 1) is expected to be positive.
    fraction = (right - 1) / np.maximum(size - 1, 1)
    precision = (before + 1 + place * fraction) / (starts[block] + place + 1)
    return float((right / size * precision).sum() / total)


def chance_average_precision(truth: ArrayLike) -> float:
    """Average precision of a random order, exactly. It falls to the prevalence only as the list grows long."""
    labels = np.asarray(truth)
    return average_precision(labels, np.zeros(len(labels)))


def _labelled(truth: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    labels, values = np.asarray(truth), np.asarray(scores)
    if labels.shape != values.shape or labels.ndim != 1:
        raise PathFLIPError(f"truth and scores: got shapes {labels.shape} and {values.shape}, expected two equal lists")
    if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
        raise PathFLIPError(f"truth: got values {np.unique(labels)[:5].tolist()}, expected 0 and 1 or False and True")
    if np.isnan(values).any():
        raise PathFLIPError(f"scores: {int(np.isnan(values).sum())} of {len(values)} are nan, expected numbers")
    return labels.astype(bool), values


# --- Classification --------------------------------------------------------------------------------------------------


def balanced_accuracy(truth: ArrayLike, guess: ArrayLike) -> float:
    """Mean over the classes present in ``truth`` of the fraction of each that is guessed right. Chance: 1 / classes.

    Equal to scikit-learn's, but nan where there is nothing, and vectorised: a bootstrap asks for it thousands of times.
    """
    labels, guesses = np.asarray(truth), np.asarray(guess)
    if labels.shape != guesses.shape or labels.ndim != 1:
        raise PathFLIPError(f"truth and guess: got shapes {labels.shape} and {guesses.shape}, expected two equal lists")
    names, place = np.unique(labels, return_inverse=True)
    if not len(names):
        return float("nan")
    right = np.bincount(place, weights=labels == guesses, minlength=len(names))
    return float((right / np.bincount(place, minlength=len(names))).mean())


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, num_bins: int = 15) -> float:
    """Mean gap between stated confidence and fraction right, over equal-width bins (Guo et al. 2017, arXiv 1706.04599).

    Args:
        confidence: probability given to the answer chosen, in [0, 1].
        correct: whether the answer was right.
    """
    right, stated = _labelled(correct, confidence)
    if not len(stated):
        return float("nan")
    if stated.min() < 0 or stated.max() > 1:
        raise PathFLIPError(f"confidence: got values from {stated.min()} to {stated.max()}, expected 0 to 1")
    bins = np.clip(np.ceil(stated * num_bins).astype(int) - 1, 0, num_bins - 1)  # (low, high], as in the paper
    gaps = np.bincount(bins, weights=right, minlength=num_bins) - np.bincount(bins, weights=stated, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(stated))


# --- Intervals -------------------------------------------------------------------------------------------------------


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> Interval:
    """A fraction with Wilson's score interval (1927): right also near 0 and 1 and for few trials."""
    if total < 1 or not 0 <= successes <= total:
        raise PathFLIPError(f"got {successes} successes of {total}, expected 0 to all of at least one")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    fraction = successes / total
    middle = (fraction + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * sqrt(fraction * (1 - fraction) / total + z * z / (4 * total * total))
    return Interval(fraction, max(0.0, middle - half), min(1.0, middle + half))
