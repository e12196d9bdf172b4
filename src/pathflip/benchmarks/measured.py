"""Numbers with their intervals: what every benchmark makes its scores with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathflip.benchmarks.protocol import Inputs, Score
from pathflip.evaluate.bootstrap import PatientBootstrap, bounds
from pathflip.evaluate.paired import paired_difference

__all__ = ["mean_over_groups", "mean_score", "metric_score", "paired_row", "paired_scores"]


def mean_score(
    measure: str,
    group: str,
    values: ArrayLike,
    patients: Sequence[str],
    chance: float,
    inputs: Inputs,
    *,
    baselines: Mapping[str, float] | None = None,
    rivals: Mapping[str, ArrayLike] | None = None,
    note: str = "",
) -> Score:
    """The mean of a value an item, with its interval over patients.

    Args:
        baselines: levels that look at no slide. rivals: baselines and systems of which a value an item is known; each
            is a baseline too, and is compared item by item.
    """
    numbers = np.asarray(values, np.float64)
    theirs = {name: np.asarray(own, np.float64) for name, own in (rivals or {}).items()}
    cohorts = PatientBootstrap(np.asarray(patients), inputs.resamples, inputs.seed)
    everyone = np.arange(len(numbers))
    drawn, value = cohorts.means(numbers, everyone), float(numbers.mean())
    low, high = bounds(drawn)
    known = dict(baselines or {}) | {name: float(own.mean()) for name, own in theirs.items()}
    paired = {
        name: paired_row(value, known[name], drawn, cohorts.means(own, everyone), numbers, own)
        for name, own in theirs.items()
    }
    return Score(
        measure, group, value, low, high, len(numbers), chance, baselines=known, note=note, paired=paired,
        drawn=drawn, right=numbers,
    )  # fmt: skip


def metric_score(
    measure: str,
    group: str,
    of: Callable[[NDArray[Any]], float],
    patients: Sequence[str],
    chance: float,
    inputs: Inputs,
    *,
    baselines: Mapping[str, float] | None = None,
    rivals: Mapping[str, Callable[[NDArray[Any]], float]] | None = None,
    note: str = "",
) -> Score:
    """What ``of`` makes of row numbers, with its interval over patients; cohorts where it is nan are left out.

    Args:
        rivals: the same measure of baselines on the same rows; each is compared on the same cohorts.
    """
    cohorts = PatientBootstrap(np.asarray(patients), inputs.resamples, inputs.seed)
    everyone = np.arange(len(patients))
    drawn, value = cohorts.values(of), float(of(everyone))
    low, high = bounds(drawn)
    known, paired = dict(baselines or {}), {}
    for name, rival in (rivals or {}).items():
        known[name] = float(rival(everyone))
        paired[name] = paired_row(value, known[name], drawn, cohorts.values(rival))
    return Score(
        measure, group, value, low, high, len(patients), chance, baselines=known, note=note, paired=paired, drawn=drawn
    )


def mean_over_groups(
    groups: Sequence[tuple[int, Callable[[NDArray[Any]], float]]],
) -> Callable[[NDArray[Any]], float]:
    """The mean over groups (tasks, organs, parts) of a measure, for items that stand group after group.

    A group without drawn items, or in which the measure is nan, is left out of that cohort.

    Args:
        groups: number of items of each, and its measure as a function of row numbers within the group.
    """
    ends = np.cumsum([size for size, _ in groups])

    def mean(rows: NDArray[Any]) -> float:
        values = []
        for (size, of), end in zip(groups, ends, strict=True):
            own = rows[(rows >= end - size) & (rows < end)] - (end - size)
            values.append(of(own) if len(own) else np.nan)
        defined = [value for value in values if np.isfinite(value)]
        return float(np.mean(defined)) if defined else float("nan")

    return mean


def paired_row(
    value: float,
    other: float,
    drawn: ArrayLike,
    other_drawn: ArrayLike,
    right: ArrayLike | None = None,
    other_right: ArrayLike | None = None,
) -> dict[str, float | None]:
    """An entry of :attr:`~pathflip.benchmarks.protocol.Score.paired`: the other's value, and this minus that."""
    compared = paired_difference((value, other), (drawn, other_drawn), (right, other_right))
    return {"value": other, **compared._asdict()}


def paired_scores(first: Score, second: Score) -> dict[str, float | None]:
    """:func:`paired_row` of two scores of one measure on the same items and cohorts."""
    assert first.drawn is not None
    assert second.drawn is not None
    return paired_row(first.value, second.value, first.drawn, second.drawn, first.right, second.right)
