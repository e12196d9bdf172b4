"""Two systems on the same items: the paired difference over patients, and McNemar's test for accuracies."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from pathflip.errors import PathFLIPError
from pathflip.evaluate.bootstrap import bounds

__all__ = ["PairedComparison", "are_right_or_wrong", "mcnemar", "paired_difference"]


class PairedComparison(NamedTuple):
    """First system minus second, its 95 % interval over patients, and for right/wrong items McNemar's p-value."""

    difference: float
    low: float | None
    high: float | None
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
    if not (are_right_or_wrong(ours) and are_right_or_wrong(theirs)):
        raise PathFLIPError("mcnemar: got values other than right (1) and wrong (0); expected one of them an item")
    wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def are_right_or_wrong(values: ArrayLike) -> bool:
    """Whether every value is 1 or 0: McNemar's test knows no halves (a tie that shares the credit)."""
    array = np.asarray(values)
    return bool(array.dtype == bool or np.isin(array, (0, 1)).all())


def paired_difference(
    values: tuple[float, float],
    drawn: tuple[ArrayLike, ArrayLike],
    right: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
) -> PairedComparison:
    """First minus second, of numbers that were measured on the same bootstrap cohorts of the same items.

    Args:
        values: of both systems on all items. drawn: of both on every cohort, in the same order; what is nan in either
            is left out. right: what each system has right, item by item; McNemar's p-value needs both as 1 and 0.
    """
    ours, theirs = (np.asarray(own, np.float64) for own in drawn)
    if ours.shape != theirs.shape:
        raise PathFLIPError(
            f"paired difference: got {ours.size} and {theirs.size} cohorts, expected the same ones for both systems"
        )
    low, high = bounds(ours - theirs)
    first, second = right
    p_value = None
    if first is not None and second is not None and are_right_or_wrong(first) and are_right_or_wrong(second):
        p_value = mcnemar(first, second)
    return PairedComparison(values[0] - values[1], low, high, p_value)
