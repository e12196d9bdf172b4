"""Bootstrap cohorts of patients, drawn once and used for every measure, so that differences are paired."""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

__all__ = ["PatientBootstrap", "bounds"]


class PatientBootstrap:
    """Patients drawn with replacement (Efron 1979), with all that belongs to them.

    Args:
        patients: the patient of every item (question, caption). num: cohorts. seed: of the draws.
    """

    def __init__(self, patients: NDArray[np.str_], num: int, seed: int) -> None:
        names, self.place = np.unique(patients, return_inverse=True)
        rng = np.random.default_rng(seed)
        self.drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num)

    def means(self, values: Float[np.ndarray, " n"], chosen: Int[np.ndarray, " m"]) -> Float[np.ndarray, " num"]:
        """The mean over the chosen items in every cohort (nan where it holds none)."""
        width = self.drawn.shape[1]
        total = self.drawn @ np.bincount(self.place[chosen], weights=values[chosen], minlength=width)
        count = self.drawn @ np.bincount(self.place[chosen], minlength=width)
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)

    def items(self, cohort: int, chosen: Int[np.ndarray, " m"]) -> Int[np.ndarray, " k"]:
        """The chosen items of one cohort, as often as their patient was drawn."""
        return np.repeat(chosen, self.drawn[cohort][self.place[chosen]])


def bounds(values: Float[np.ndarray, " num"]) -> tuple[float | None, float | None]:
    """The middle 95 % of bootstrap values, nan left out; None where nothing is left."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
