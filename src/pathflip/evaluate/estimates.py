"""Measures and estimates: what is measured of a model, how sure the number is, and whether one model beats another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from pathflip.evaluate.bootstrap import PatientBootstrap, bounds
from pathflip.evaluate.paired import paired_difference

__all__ = ["Estimate", "Measure", "estimate_all", "mean_of"]


@dataclass(frozen=True)
class Measure:
    """A number, how it varies over patients, and what chance gives.

    ``of`` computes it from row numbers of the slides, so that every model sees the same bootstrap cohorts.
    """

    name: str
    of: Callable[[Int[np.ndarray, " n"]], float] = field(repr=False)
    chance: float
    note: str = ""
    right: NDArray[np.floating] | None = field(default=None, repr=False, compare=False)
    """Of an accuracy: what of each slide is right (1 or 0), for McNemar's test against another model's."""


@dataclass(frozen=True)
class Estimate:
    """A measured value, its 95 % interval over patients, and how it differs from a reference model's.

    ``difference`` and its interval are paired: both models on the same resampled patients; ``p_value`` is of McNemar's
    exact test, for accuracies. ``chance`` is the level that knowing nothing gives.
    """

    value: float
    low: float
    high: float
    chance: float
    note: str
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None


def mean_of(values: NDArray[np.floating]) -> Callable[[Int[np.ndarray, " n"]], float]:
    """The mean of the values of some rows."""
    return lambda rows: float(values[rows].mean())


def estimate_all(
    models: Mapping[str, Sequence[Measure]],
    patients: NDArray[np.str_],
    reference: str,
    *,
    num: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Every measure of every model, on the same bootstrap cohorts: measure -> model -> estimate.

    Args:
        models: measures by model name, in the same order for all.
        patients: patient of each slide.
        reference: the model that differences are taken from (reference minus model).
    """
    cohorts = PatientBootstrap(patients, num, seed)
    everyone = np.arange(len(patients))
    drawn = {name: {m.name: cohorts.values(m.of) for m in measures} for name, measures in models.items()}
    values = {name: {m.name: m.of(everyone) for m in measures} for name, measures in models.items()}
    right = {measure.name: measure.right for measure in models[reference]}
    out: dict[str, dict[str, Estimate]] = {}
    for name, measures in models.items():
        for measure in measures:
            low, high = _interval(drawn[name][measure.name])
            estimate = Estimate(values[name][measure.name], low, high, measure.chance, measure.note)
            if name != reference and measure.name in values[reference]:
                compared = paired_difference(
                    (values[reference][measure.name], estimate.value),
                    (drawn[reference][measure.name], drawn[name][measure.name]),
                    (right[measure.name], measure.right),
                )
                estimate = Estimate(
                    value=estimate.value,
                    low=low,
                    high=high,
                    chance=measure.chance,
                    note=measure.note,
                    difference=compared.difference,
                    difference_low=np.nan if compared.low is None else compared.low,
                    difference_high=np.nan if compared.high is None else compared.high,
                    p_value=compared.p_value,
                )
            out.setdefault(measure.name, {})[name] = estimate
    return out


def _interval(values: NDArray[np.floating]) -> tuple[float, float]:
    low, high = bounds(values)
    return (np.nan if low is None else low), (np.nan if high is None else high)
