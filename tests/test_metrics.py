import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from pathflip.errors import PathFLIPError
from pathflip.evaluate import metrics
from pathflip.evaluate.bootstrap import PatientBootstrap, bootstrap_interval


def naive_hit(scores, right, k):
    """Probability of a right one among the first k, over every order of the candidates that respects the scores."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return np.mean([any(right[i] for i in order[:k]) for order in orders])


def naive_rank(scores, right):
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return np.mean([1 + min(place for place, i in enumerate(order) if right[i]) for order in orders])


def naive_average_precision(truth, scores):
    precisions = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            labels = truth[list(order)]
            precisions.append(np.mean([labels[: i + 1].mean() for i in np.flatnonzero(labels)]))
    return np.mean(precisions)


@pytest.mark.parametrize("seed", range(6))
def test_retrieval_against_every_order(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.integers(0, 3, size=(5, 5)).astype(float)
    positives = rng.random((5, 5)) < 0.3
    positives[np.arange(5), rng.integers(5, size=5)] = True
    for right in (None, positives):
        mask = np.eye(5, dtype=bool) if right is None else right
        for k in (1, 2, 3, 5, 9):
            expected = [naive_hit(row, truth, k) for row, truth in zip(similarity, mask, strict=True)]
            np.testing.assert_allclose(metrics.hits_at_k(similarity, k, right), expected, atol=1e-12)
            assert metrics.recall_at_k(similarity, k, right) == pytest.approx(np.mean(expected))
        ranks = [naive_rank(row, truth) for row, truth in zip(similarity, mask, strict=True)]
        np.testing.assert_allclose(metrics.expected_ranks(similarity, right), ranks, atol=1e-12)


def test_retrieval_without_ties_is_the_sorted_matrix(rng):
    similarity = rng.normal(size=(60, 60)) + 2 * np.eye(60)
    for matrix in (similarity, similarity.T):
        order = np.argsort(-matrix, axis=1)
        ranks = np.argmax(order == np.arange(60)[:, None], axis=1) + 1
        np.testing.assert_array_equal(metrics.expected_ranks(matrix), ranks)
        for k in (1, 5, 10):
            assert metrics.recall_at_k(matrix, k) == np.mean(ranks <= k)


@pytest.mark.parametrize("value", [0.0, -np.inf])
def test_a_constant_score_earns_exactly_chance(value):
    """An optimistic count would call this recall 1."""
    constant = np.full((7, 7), value)
    for k in (1, 3, 7, 20):
        assert metrics.recall_at_k(constant, k) == pytest.approx(metrics.chance_recall_at_k(k, 7))
    assert metrics.chance_recall_at_k(3, 7) == pytest.approx(3 / 7)
    positives = np.zeros((7, 7), dtype=bool)
    positives[:, :2] = True
    assert metrics.recall_at_k(constant, 3, positives) == pytest.approx(metrics.chance_recall_at_k(3, 7, 2))
    assert np.all(metrics.expected_ranks(constant) == 4)
    truth = np.array([1, 0, 0, 1, 0])
    assert metrics.auroc(truth, np.ones(5)) == metrics.AUROC_CHANCE
    assert metrics.average_precision(truth, np.ones(5)) == pytest.approx(metrics.chance_average_precision(truth))


def test_padded_scores_lose():
    similarity = np.array([[-np.inf, 0.0], [0.0, -np.inf]])
    assert metrics.recall_at_k(similarity, 1) == 0


def test_several_slides_of_a_patient():
    keys = ["p1", "p1", "p2"]
    positives = metrics.positives_from_keys(keys, keys)
    similarity = np.array([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5], [0.9, 0.8, 0.1]])
    assert metrics.hits_at_k(similarity, 1, positives).tolist() == [1, 1, 0]
    assert metrics.hits_at_k(similarity, 1).tolist() == [0, 0, 0]


def test_chance_average_precision_exceeds_the_prevalence_and_falls_to_it(rng):
    short = np.array([1, 0, 0, 0, 0])
    assert metrics.chance_average_precision(short) == pytest.approx(np.mean(1 / np.arange(1, 6)))
    long = np.zeros(20_000)
    long[:2000] = 1
    assert metrics.chance_average_precision(long) == pytest.approx(0.1, abs=1e-3)
    drawn = [metrics.average_precision(short, rng.random(5)) for _ in range(4000)]
    assert metrics.chance_average_precision(short) == pytest.approx(np.mean(drawn), abs=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_ranking_against_sklearn_and_every_order(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random(300) < 0.2
    scores = rng.normal(size=300) + truth
    assert metrics.average_precision(truth, scores) == pytest.approx(sk.average_precision_score(truth, scores))
    assert metrics.auroc(truth, scores) == pytest.approx(sk.roc_auc_score(truth, scores))
    tied = np.round(scores)
    assert metrics.auroc(truth, tied) == pytest.approx(sk.roc_auc_score(truth, tied))
    few, few_truth = rng.integers(0, 3, size=7), rng.random(7) < 0.5
    few_truth[0] = True
    assert metrics.average_precision(few_truth, few) == pytest.approx(naive_average_precision(few_truth, few))
    shuffled = rng.permutation(300)
    assert metrics.average_precision(truth[shuffled], tied[shuffled]) == pytest.approx(
        metrics.average_precision(truth, tied)
    )


def test_undefined_is_nan():
    assert np.isnan(metrics.auroc([1, 1], [0.1, 0.2]))
    assert np.isnan(metrics.auroc([0, 0], [0.1, 0.2]))
    assert np.isnan(metrics.average_precision([0, 0], [0.1, 0.2]))
    assert np.isnan(metrics.balanced_accuracy([], []))
    assert metrics.average_precision([1, 1], [0.1, 0.1]) == 1


@pytest.mark.parametrize("names", [["a", "b", "c"], [0, 1, 2]])
def test_classification_against_sklearn(rng, names):
    truth, guess = rng.choice(names, 80, p=[0.6, 0.3, 0.1]), rng.choice(names, 80)
    assert metrics.balanced_accuracy(truth, guess) == pytest.approx(sk.balanced_accuracy_score(truth, guess))
    never = np.full(80, names[0])  # two classes are never guessed
    assert metrics.balanced_accuracy(truth, never) == pytest.approx(1 / 3)
    # A class that is guessed and never true does not count.
    two = truth != names[2]
    expected = np.mean([(guess[two & (truth == name)] == name).mean() for name in names[:2]])
    assert metrics.balanced_accuracy(truth[two], guess[two]) == pytest.approx(expected)


def test_calibration_against_a_loop(rng):
    confidence = np.concatenate([rng.random(500), [0.0, 1.0, 0.2, 0.4]])
    correct = rng.random(504) < confidence**2
    total = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1 + 1e-12) | ((low == 0) & (confidence == 0))
        if inside.any():
            total += abs(correct[inside].mean() - confidence[inside].mean()) * inside.mean()
    assert metrics.expected_calibration_error(confidence, correct, num_bins=10) == pytest.approx(total)
    assert metrics.expected_calibration_error(np.full(4, 0.75), [1, 1, 1, 0]) == 0


def test_wilson_against_scipy_and_the_published_numbers():
    """335 of the 389 SlideBench Microscopy questions: 82.3 to 89.2 %."""
    interval = metrics.wilson_interval(335, 389)
    assert (round(100 * interval.low, 1), round(100 * interval.high, 1)) == (82.3, 89.2)
    for successes, total in [(0, 10), (10, 10), (3, 7), (50, 100)]:
        theirs = stats.binomtest(successes, total).proportion_ci(method="wilson")
        ours = metrics.wilson_interval(successes, total)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_bootstrap_of_a_mean_has_the_width_of_theory(rng):
    values = rng.normal(size=400)
    interval = bootstrap_interval(np.mean, values, rng=rng, num=2000)
    half = 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.2 * half)


def test_bootstrap_draws_patients(rng):
    """Eight copies of each value are no more evidence than one."""
    values, patients = np.repeat(rng.normal(size=50), 8), np.repeat(np.arange(50), 8)
    shuffled = rng.permutation(400)
    by_patient = bootstrap_interval(np.mean, values[shuffled], patients=patients[shuffled], rng=rng)
    by_slide = bootstrap_interval(np.mean, values, rng=rng)
    ratio = (by_patient.high - by_patient.low) / (by_slide.high - by_slide.low)
    assert ratio == pytest.approx(np.sqrt(8), rel=0.2)
    again = [bootstrap_interval(np.mean, values, rng=np.random.default_rng(3), num=50) for _ in range(2)]
    assert again[0] == again[1]


def test_bootstrap_of_two_arrays_leaves_out_undefined_resamples(rng):
    truth = np.array([1, 0, 0, 0, 0, 0])
    interval = bootstrap_interval(metrics.auroc, truth, np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.5]), rng=rng, num=200)
    assert interval == (1, 1, 1)


def test_a_cohort_holds_all_items_of_every_patient_drawn_as_often_as_drawn():
    patients = np.array(["b", "a", "b", "c", "a", "b"])
    cohorts = PatientBootstrap(patients, 200, 0)
    values = np.arange(6.0)
    chosen = np.array([0, 1, 3])
    by_hand = []
    for rows in cohorts.cohorts():
        counts = np.bincount(rows, minlength=6)
        assert len({counts[0], counts[2], counts[5]}) == len({counts[1], counts[4]}) == 1
        assert counts[[0, 1, 3]].sum() == 3
        by_hand.append(np.average(values[chosen], weights=counts[chosen]))
    np.testing.assert_allclose(cohorts.means(values, chosen), by_hand)
    np.testing.assert_allclose(cohorts.values(lambda rows: len(rows)), [len(rows) for rows in cohorts.cohorts()])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.recall_at_k(np.zeros((2, 3)), 1), "square"),
        (lambda: metrics.recall_at_k(np.zeros((2, 2)), 0), "at least 1"),
        (lambda: metrics.recall_at_k(np.full((2, 2), np.nan), 1), "nan"),
        (lambda: metrics.recall_at_k(np.zeros((2, 2)), 1, np.zeros((2, 2), bool)), "query 0 has no right"),
        (lambda: metrics.recall_at_k(np.zeros((2, 2)), 1, np.zeros((2, 3), bool)), "positives"),
        (lambda: metrics.recall_at_k(np.zeros((0, 0)), 1), "shape"),
        (lambda: metrics.auroc([0, 1], [0.1]), "equal lists"),
        (lambda: metrics.auroc([0, 2], [0.1, 0.2]), "expected 0 and 1"),
        (lambda: metrics.average_precision([0, 1], [0.1, np.nan]), "nan"),
        (lambda: metrics.balanced_accuracy(["a"], ["b", "c"]), "equal lists"),
        (lambda: metrics.expected_calibration_error([1.2], [1]), "0 to 1"),
        (lambda: metrics.wilson_interval(3, 2), "successes"),
        (lambda: metrics.chance_recall_at_k(1, 5, 0), "right of"),
        (lambda: bootstrap_interval(np.mean, [], rng=np.random.default_rng()), "not empty"),
        (lambda: bootstrap_interval(np.mean, [1, 2], patients=[1], rng=np.random.default_rng()), "patients"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("annotations_off")
def test_refusals(call, message):
    with pytest.raises(PathFLIPError, match=message):
        call()


def test_no_torch():
    code = "import sys, pathflip.evaluate.metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
