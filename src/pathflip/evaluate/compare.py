"""Intervals and differences over patients: how sure a number is, and whether one model really beats another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from pathflip.evaluate.simulated.measures import Measure

__all__ = ["Estimate", "estimate_all", "patient_resamples"]


@dataclass(frozen=True)
class Estimate:
    """A measured value, its 95 % interval over patients, and how it differs from a reference model's.

    ``difference`` and its interval are paired: both models on the same resampled patients.
    """

    value: float
    low: float
    high: float
    floor: float
    note: str
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


def patient_resamples(patients: NDArray[np.str_], num: int, rng: np.random.Generator) -> list[Int[np.ndarray, " n"]]:
    """Row numbers of ``num`` bootstrap cohorts, patients drawn with replacement, all slides of each."""
    names = np.unique(patients)
    rows_of = {name: np.flatnonzero(patients == name) for name in names}
    return [np.concatenate([rows_of[name] for name in rng.choice(names, len(names), replace=True)]) for _ in range(num)]


def estimate_all(
    models: Mapping[str, Sequence[Measure]],
    patients: NDArray[np.str_],
    reference: str,
    *,
    num: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Every measure of every model, on the same resamples: measure -> model -> estimate.

    Args:
        models: measures by model name, in the same order for all.
        patients: patient of each slide.
        reference: the model that differences are taken from (reference minus model).
    """
    resamples = patient_resamples(patients, num, np.random.default_rng(seed))
    everyone = np.arange(len(patients))
    drawn = {
        name: {m.name: np.array([m.of(rows) for rows in resamples]) for m in found} for name, found in models.items()
    }
    values = {name: {m.name: m.of(everyone) for m in found} for name, found in models.items()}
    out: dict[str, dict[str, Estimate]] = {}
    for name, found in models.items():
        for measure in found:
            low, high = _interval(drawn[name][measure.name])
            difference: tuple[float, float, float] | tuple[None, None, None] = (None, None, None)
            if name != reference and measure.name in values[reference]:
                gaps = drawn[reference][measure.name] - drawn[name][measure.name]
                difference = (values[reference][measure.name] - values[name][measure.name], *_interval(gaps))
            entry = Estimate(values[name][measure.name], low, high, measure.floor, measure.note, *difference)
            out.setdefault(measure.name, {})[name] = entry
    return out


def _interval(values: NDArray[np.floating]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)
