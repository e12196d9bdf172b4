"""Paired comparisons and skills of probabilities, against scipy, scikit-learn and arithmetic."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import brier_score_loss, f1_score
from sklearn.metrics import log_loss as sklearn_log_loss

from pathflip.benchmarks.measured import mean_over_groups, mean_score
from pathflip.benchmarks.protocol import Inputs
from pathflip.errors import PathFLIPError
from pathflip.evaluate.class_scores import macro_f1
from pathflip.evaluate.paired import mcnemar, paired_difference
from pathflip.evaluate.probability_scores import (
    brier_score,
    brier_skill,
    log_loss,
    log_loss_skill,
    skills_of_binary,
)

INPUTS = Inputs(Path("x.csv"), resamples=200)


def range_of(num):
    return [str(i) for i in range(num)]


def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_items():
    first = np.array([1] * 9 + [0] * 2 + [1] * 50)
    second = np.array([0] * 9 + [1] * 2 + [1] * 50)
    assert mcnemar(first, second) == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert mcnemar(first, first) == 1.0
    with pytest.raises(PathFLIPError, match="right"):
        mcnemar([0.5, 1], [1, 0])


def test_a_paired_interval_is_narrower_than_two_apart(rng):
    skill = rng.normal(size=200)
    score = mean_score("skill", "all", skill + 0.1, range_of(200), 0.0, INPUTS, rivals={"other": skill})
    row = score.paired["other"]
    assert row["difference"] == pytest.approx(0.1)
    assert row["high"] - row["low"] < 1e-9
    assert row["p_value"] is None  # no right and wrong


def test_the_paired_interval_is_that_of_the_bootstrap_written_out(rng):
    """Patients drawn by hand, one by one, from the same stream of numbers."""
    patients = [f"p{i // 3}" for i in range(30)]
    ours, theirs = rng.integers(0, 2, 30), rng.integers(0, 2, 30)
    row = mean_score("accuracy", "all", ours, patients, 0.5, INPUTS, rivals={"other": theirs}).paired["other"]
    names = sorted(set(patients))
    drawn = np.random.default_rng(INPUTS.seed).multinomial(10, [0.1] * 10, size=INPUTS.resamples)
    gaps = []
    for cohort in drawn:
        times = [cohort[names.index(patient)] for patient in patients]
        gaps.append(np.average(ours, weights=times) - np.average(theirs, weights=times))
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.percentile(gaps, [2.5, 97.5])))
    assert row["p_value"] == mcnemar(ours, theirs)


def test_whole_patients_are_drawn(rng):
    """Ten copies of each patient must not make an interval narrower."""
    values = rng.normal(size=30)
    once = mean_score("x", "all", values, range_of(30), 0.0, INPUTS, rivals={"zero": np.zeros(30)})
    tenfold = mean_score(
        "x",
        "all",
        np.repeat(values, 10),
        np.repeat(range_of(30), 10).tolist(),
        0.0,
        INPUTS,
        rivals={"zero": np.zeros(300)},
    )
    wide = [score.paired["zero"]["high"] - score.paired["zero"]["low"] for score in (once, tenfold)]
    assert wide[1] == pytest.approx(wide[0], rel=1e-9)


def test_systems_of_other_cohorts_are_not_paired():
    with pytest.raises(PathFLIPError, match="3 and 2 cohorts"):
        paired_difference((0.5, 0.4), ([1, 2, 3], [1, 2]))


def test_a_mean_over_groups_leaves_out_what_was_not_drawn():
    mean = mean_over_groups([(2, lambda rows: float(rows.sum())), (3, lambda rows: float(10 * len(rows)))])
    assert mean(np.array([0, 1, 2, 3, 4])) == (1 + 30) / 2
    assert mean(np.array([1, 1])) == 2
    assert np.isnan(mean_over_groups([(1, lambda rows: float("nan"))])(np.array([0])))


def test_macro_f1_is_scikit_learns(rng):
    for _ in range(50):
        truth, guess = rng.integers(0, 4, 12), rng.integers(0, 6, 12)  # 4 and 5 are no class
        expected = f1_score(truth, guess, labels=[0, 1, 2, 3], average="macro", zero_division=0.0)
        assert macro_f1(truth, guess, 4) == pytest.approx(expected)


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
