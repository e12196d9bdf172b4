"""Two systems on the same items: the paired difference over patients, and McNemar's test for accuracies."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from pathflip.errors import PathFLIPError
from pathflip.evaluate.bootstrap import PatientBootstrap, bounds

__all__ = ["PairedComparison", "compare_paired", "mcnemar"]


class PairedComparison(NamedTuple):
    """First system minus second, its 95 % interval over patients, and for right/wrong items McNemar's p-value."""

    difference: float
    low: float
    high: float
    p_value: float | None


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """The exact two-sided p-value of McNemar's test (1947): are two systems right equally often on the same items?

    Only items on which one is right and the other wrong count; without any, the p-value is 1.

    Args:
        first, second: whether each is right, item by item (True and False, or 1 and 0).
    """
    ours, theirs = np.asarray(first), np.asarray(second)
    if ours.shape != theirs.shape or ours.ndim != 1:
        raise PathFLIPError(
            f"mcnemar: got shapes {ours.shape} and {theirs.shape}, expected two lists of the same items"
        )
    for values in (ours, theirs):
        if values.dtype != bool and not np.isin(values, (0, 1)).all():
            raise PathFLIPError("mcnemar: got values other than right (1) and wrong (0); expected one of them an item")
    wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def compare_paired(
    metric: Callable[..., float],
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    patients: ArrayLike,
    *,
    right: tuple[ArrayLike, ArrayLike] | None = None,
    num: int = 1000,
    seed: int = 0,
) -> PairedComparison:
    """``metric(*first) - metric(*second)`` on the same resampled patients.

    Args:
        metric: a function of the arrays. first, second: arrays of the two systems, an entry an item, same order.
        patients: of the items. right: whether each system is right, where the metric is an accuracy.
        num, seed: of the bootstrap.
    """
    ours, theirs = [np.asarray(a) for a in first], [np.asarray(a) for a in second]
    cohorts = PatientBootstrap(patients, num, seed)
    drawn = cohorts.values(lambda rows: metric(*(a[rows] for a in ours)) - metric(*(a[rows] for a in theirs)))
    low, high = bounds(drawn)
    return PairedComparison(
        float(metric(*ours)) - float(metric(*theirs)),
        np.nan if low is None else low,
        np.nan if high is None else high,
        None if right is None else mcnemar(*right),
    )
