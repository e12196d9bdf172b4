"""Numbers with their intervals: what every benchmark makes its scores with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathflip.benchmarks.protocol import Inputs, Score
from pathflip.evaluate.bootstrap import PatientBootstrap, bounds

__all__ = ["mean_score", "metric_score"]


def mean_score(
    measure: str,
    group: str,
    values: ArrayLike,
    patients: Sequence[str],
    chance: float,
    inputs: Inputs,
    *,
    baselines: Mapping[str, float] | None = None,
    note: str = "",
) -> Score:
    """The mean of a value an item, with its interval over patients."""
    numbers = np.asarray(values, np.float64)

    def mean(rows: NDArray[Any]) -> float:
        return float(numbers[rows].mean())

    return metric_score(measure, group, mean, patients, chance, inputs, baselines=baselines, note=note)


def metric_score(
    measure: str,
    group: str,
    of: Callable[[NDArray[Any]], float],
    patients: Sequence[str],
    chance: float,
    inputs: Inputs,
    *,
    baselines: Mapping[str, float] | None = None,
    note: str = "",
) -> Score:
    """What ``of`` makes of row numbers, with its interval over patients; cohorts where it is nan are left out."""
    cohorts = PatientBootstrap(np.asarray(patients), inputs.resamples, inputs.seed)
    low, high = bounds(cohorts.values(of))
    value = float(of(np.arange(len(patients))))
    return Score(measure, group, value, low, high, len(patients), chance, baselines=dict(baselines or {}), note=note)
