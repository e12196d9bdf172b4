"""The one bootstrap: cohorts of patients drawn with replacement, and the intervals and differences they give.

Whole patients are drawn (Efron 1979), with all that belongs to them: two slides of one patient are not two witnesses.
A comparison of two models uses the same cohorts for both, which is what makes small differences visible.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray

from pathflip.errors import PathFLIPError
from pathflip.evaluate.metrics import Interval

__all__ = ["PatientBootstrap", "bootstrap_interval", "bounds"]


class PatientBootstrap:
    """Bootstrap cohorts, drawn once and used for every measure.

    Args:
        patients: the patient of every item (slide, question, caption).
        num: cohorts.
        rng: where the draws come from, or a seed.
    """

    def __init__(self, patients: ArrayLike, num: int, rng: np.random.Generator | int) -> None:
        names, self.place = np.unique(np.asarray(patients), return_inverse=True)
        if not len(names):
            raise PathFLIPError("bootstrap: got no patient, expected at least one; the arrays must be not empty")
        rng = np.random.default_rng(rng)
        self.drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num)
        self._everything = np.arange(len(self.place))

    def __len__(self) -> int:
        """Cohorts."""
        return len(self.drawn)

    def items(self, cohort: int, chosen: Int[np.ndarray, " m"] | None = None) -> Int[np.ndarray, " k"]:
        """Row numbers of the items of one cohort (or of those chosen), as often as their patient was drawn."""
        rows = self._everything if chosen is None else chosen
        return np.repeat(rows, self.drawn[cohort][self.place[rows]])

    def cohorts(self, chosen: Int[np.ndarray, " m"] | None = None) -> Iterator[Int[np.ndarray, " k"]]:
        """:meth:`items` of every cohort."""
        return (self.items(cohort, chosen) for cohort in range(len(self)))

    def values(self, of: Callable[[Int[np.ndarray, " k"]], float]) -> Float[np.ndarray, " num"]:
        """What ``of`` makes of the row numbers of every cohort."""
        return np.array([float(of(rows)) for rows in self.cohorts()])

    def means(self, values: Float[np.ndarray, " n"], chosen: Int[np.ndarray, " m"]) -> Float[np.ndarray, " num"]:
        """The mean over the chosen items in every cohort (nan where it holds none)."""
        width = self.drawn.shape[1]
        total = self.drawn @ np.bincount(self.place[chosen], weights=values[chosen], minlength=width)
        count = self.drawn @ np.bincount(self.place[chosen], minlength=width)
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def bounds(values: Float[np.ndarray, " num"], confidence: float = 0.95) -> tuple[float | None, float | None]:
    """The middle ``confidence`` of bootstrap values, nan left out; None where nothing is left."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None, None
    tail = 50 * (1 - confidence)
    low, high = np.percentile(finite, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_interval(
    metric: Callable[..., float],
    *arrays: ArrayLike,
    rng: np.random.Generator,
    patients: ArrayLike | None = None,
    num: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """``metric(*arrays)`` with a percentile bootstrap interval.

    Args:
        metric: a function of the arrays; cohorts where it is nan (no positive drawn) are left out.
        arrays: aligned along their first axis, one entry a slide.
        patients: the patient of each entry; None makes every entry its own.
        rng: where the draws come from.

    A similarity matrix cannot be resampled by rows alone (its columns are the candidates): resample
    ``hits_at_k(...)`` with ``np.mean``.
    """
    columns = [np.asarray(array) for array in arrays]
    cohorts = PatientBootstrap(_patients(columns, patients), num, rng)
    drawn = cohorts.values(lambda rows: metric(*(column[rows] for column in columns)))
    return _interval(float(metric(*columns)), drawn, confidence)


def _patients(columns: Sequence[NDArray[Any]], patients: ArrayLike | None) -> NDArray[Any]:
    lengths = {len(column) for column in columns}
    if len(lengths) != 1 or 0 in lengths:
        raise PathFLIPError(f"bootstrap: got arrays of lengths {sorted(lengths)}, expected equal ones, not empty")
    count = lengths.pop()
    if patients is None:
        return np.arange(count)
    names = np.asarray(patients)
    if names.shape != (count,):
        raise PathFLIPError(f"patients: got {names.shape[0] if names.ndim else 0}, expected one for each of {count}")
    return names


def _interval(value: float, drawn: Float[np.ndarray, " num"], confidence: float) -> Interval:
    low, high = bounds(drawn, confidence)
    return Interval(value, float("nan") if low is None else low, float("nan") if high is None else high)
