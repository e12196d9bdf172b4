"""Paired comparisons and skills of probabilities, against scipy, scikit-learn and arithmetic."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from pathflip.errors import PathFLIPError
from pathflip.evaluate.paired import compare_paired, mcnemar
from pathflip.evaluate.probability_scores import (
    brier_score,
    brier_skill,
    log_loss,
    log_loss_skill,
    skills_of_binary,
)


def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_items():
    first = np.array([1] * 9 + [0] * 2 + [1] * 50)
    second = np.array([0] * 9 + [1] * 2 + [1] * 50)
    assert mcnemar(first, second) == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert mcnemar(first, first) == 1.0
    with pytest.raises(PathFLIPError, match="right"):
        mcnemar([0.5, 1], [1, 0])


def test_a_paired_interval_is_narrower_than_two_apart(rng):
    skill = rng.normal(size=200)
    first, second = skill + 0.1, skill
    comparison = compare_paired(lambda v: float(v.mean()), [first], [second], np.arange(200))
    assert comparison.difference == pytest.approx(0.1)
    assert comparison.high - comparison.low < 1e-9
    assert comparison.p_value is None


def test_whole_patients_are_drawn(rng):
    """Ten copies of each patient must not make an interval narrower."""
    values = rng.normal(size=30)
    once = compare_paired(lambda v: float(v.mean()), [values], [np.zeros(30)], np.arange(30))
    tenfold = compare_paired(
        lambda v: float(v.mean()), [np.repeat(values, 10)], [np.zeros(300)], np.repeat(np.arange(30), 10)
    )
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=1e-9)


def test_scores_of_probabilities_equal_scikit_learns(rng):
    chances = rng.dirichlet(np.ones(3), 60)
    truth = rng.integers(0, 3, 60)
    assert log_loss(chances, truth) == pytest.approx(sklearn_log_loss(truth, chances, labels=[0, 1, 2]))
    two = chances[:, :2] / chances[:, :2].sum(1, keepdims=True)
    label = rng.integers(0, 2, 60)
    assert brier_score(two, label) == pytest.approx(2 * brier_score_loss(label, two[:, 1]))


def test_skill_is_zero_for_the_constant_and_one_for_certainty():
    truth = np.array([0, 1, 1, 2])
    constant = np.tile([0.25, 0.5, 0.25], (4, 1))
    assert brier_skill(constant, truth) == log_loss_skill(constant, truth) == 0
    assert brier_skill(np.eye(3)[truth], truth) == log_loss_skill(np.eye(3)[truth], truth) == 1
    assert brier_skill(np.eye(3)[[1, 2, 0, 0]], truth) < 0
    assert np.isnan(skills_of_binary([0.2, 0.4], [1, 1])[0])
    with pytest.raises(PathFLIPError, match="sum to 1"):
        brier_score(np.ones((4, 3)), truth)
