"""How good stated probabilities are: Brier score and log loss, and their skill over a constant forecast.

A calibration error alone rewards saying the same for everything; a skill is 0 for that, and 1 for certainty that is
always right.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from pathflip.errors import PathFLIPError

__all__ = ["brier_score", "brier_skill", "log_loss", "log_loss_skill", "skills_of_binary"]

_LEAST = 1e-12


def brier_score(probabilities: Float[np.ndarray, "n C"], truth: Int[np.ndarray, " n"]) -> float:
    """Mean squared distance between probabilities and what was true (Brier 1950), summed over the classes."""
    chances, right = _checked(probabilities, truth)
    return float(((chances - np.eye(chances.shape[1])[right]) ** 2).sum(1).mean())


def log_loss(probabilities: Float[np.ndarray, "n C"], truth: Int[np.ndarray, " n"]) -> float:
    """Mean negative log-probability of what was true, in nats; probabilities below 1e-12 count as 1e-12."""
    chances, right = _checked(probabilities, truth)
    return float(-np.log(np.maximum(chances[np.arange(len(right)), right], _LEAST)).mean())


def brier_skill(probabilities: Float[np.ndarray, "n C"], truth: Int[np.ndarray, " n"]) -> float:
    """1 - score / score of always stating the classes' own frequencies; nan where one class is all there is."""
    constant = brier_score(_constant(probabilities, truth), truth)
    return 1 - brier_score(probabilities, truth) / constant if constant > 0 else float("nan")


def log_loss_skill(probabilities: Float[np.ndarray, "n C"], truth: Int[np.ndarray, " n"]) -> float:
    """As :func:`brier_skill`, of the log loss."""
    constant = log_loss(_constant(probabilities, truth), truth)
    return 1 - log_loss(probabilities, truth) / constant if constant > 1e-9 else float("nan")


def skills_of_binary(probabilities: ArrayLike, truth: ArrayLike) -> tuple[float, float]:
    """Brier and log-loss skill of the probability of one event."""
    positive = np.asarray(probabilities, np.float64)
    both, right = np.stack([1 - positive, positive], axis=1), np.asarray(truth).astype(np.int64)
    return brier_skill(both, right), log_loss_skill(both, right)


def _constant(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    width = np.asarray(probabilities).shape[1]
    frequency = np.bincount(np.asarray(truth, np.int64), minlength=width) / max(len(truth), 1)
    return np.tile(frequency, (len(truth), 1))


def _checked(probabilities: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    chances, right = np.asarray(probabilities, np.float64), np.asarray(truth, np.int64)
    if chances.ndim != 2 or chances.shape[0] != len(right) or not len(right):
        raise PathFLIPError(
            f"probabilities: got shape {chances.shape} for {len(right)} items, expected items × classes"
        )
    if not np.isfinite(chances).all() or (chances < 0).any() or np.abs(chances.sum(1) - 1).max() > 1e-3:
        raise PathFLIPError("probabilities: expected numbers from 0 to 1 that sum to 1 for every item")
    if right.min() < 0 or right.max() >= chances.shape[1]:
        raise PathFLIPError(f"truth: got classes {right.min()} to {right.max()}, expected 0 to {chances.shape[1] - 1}")
    return chances, right
