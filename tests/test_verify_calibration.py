"""Calibration: logistic fits against their gradient and hand computation, thresholds, made examples."""

import numpy as np
import pytest

from keyword_world import encoded, keyword_cohort, keyword_model
from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate import metrics
from pathflip.evaluate.verifier_calibration import (
    PENALTY,
    calibrate,
    fit_logistic,
    safe_thresholds,
    sub_caption_examples,
)
from pathflip.verify.calibration import Logistic
from pathflip.verify.lexicon import learn_lexicon


def test_probability_is_the_sigmoid_by_hand():
    logistic = Logistic(scores=("a", "b"), weights=(0.5, -2.0), bias=0.25)
    rows = np.array([[1.0, 0.5], [-3.0, 1.0], [900.0, 0.0], [-9000.0, 0.0]])
    expected = [1 / (1 + np.exp(0.25)), 1 / (1 + np.exp(3.25)), 1.0, 0.0]
    np.testing.assert_allclose(logistic.probability(rows), expected, atol=1e-12)


def test_the_fit_stands_at_the_minimum_of_the_penalised_likelihood(rng):
    rows = rng.standard_normal((300, 3)) * (1.0, 10.0, 0.1)
    truth = rng.random(300) < 1 / (1 + np.exp(-(rows @ (1.0, -0.2, 5.0) + 0.3)))
    fitted = fit_logistic(("a", "b", "c"), rows, truth)
    left = fitted.probability(rows) - truth
    deviation = rows.std(0)
    gradient = rows.T @ left / deviation + PENALTY * np.array(fitted.weights) * deviation
    np.testing.assert_allclose([left.sum(), *gradient], 0, atol=1e-2)


def test_a_column_that_never_varies_weighs_nothing(rng):
    rows = np.column_stack([rng.standard_normal(100), np.zeros(100)])
    assert fit_logistic(("a", "b"), rows, rows[:, 0] > 0).weights[1] == 0


def test_an_overconfident_score_is_cooled_and_its_error_falls(rng):
    logit = 4 * rng.standard_normal(4000)
    truth = rng.random(4000) < 1 / (1 + np.exp(-logit / 2.5))
    fitted = fit_logistic(("logit",), logit[:, None], truth)
    assert 1 / fitted.weights[0] == pytest.approx(2.5, rel=0.1)
    before = metrics.expected_calibration_error(1 / (1 + np.exp(-logit)), truth)
    assert metrics.expected_calibration_error(fitted.probability(logit[:, None]), truth) < before / 3


def test_thresholds_by_hand():
    probability = np.repeat([0.05, 0.3, 0.6, 0.95], 50)
    truth = np.concatenate([np.arange(50) < k for k in (2, 20, 30, 49)])
    low, high = safe_thresholds(truth, probability, 0.9)
    assert (low, high) == (pytest.approx(0.05), 0.95)  # with .6: 79 of 100 right, too few
    low, high = safe_thresholds(truth, probability, 0.75)
    assert (low, high) == (pytest.approx(0.3), 0.6)  # with .3: 78 of 100 false
    assert safe_thresholds(truth[::-1], probability, 0.9) == (None, None)
    assert safe_thresholds(np.ones(19, bool), np.full(19, 0.99), 0.9) == (None, None)  # too few to tell


@pytest.fixture(scope="module")
def cohort():
    return keyword_cohort(80)


def test_made_false_sub_captions_are_false(cohort):
    _, captions, _ = cohort["val"]
    lexicon = learn_lexicon(cohort["train"][1])
    examples = sub_caption_examples(captions, lexicon, np.random.default_rng(0))
    assert examples.truth.mean() == 0.5
    for sub_caption, row, true in zip(examples.sub_captions, examples.slide, examples.truth, strict=True):
        own = {(s.content, s.negated) for s in captions[row].sub_captions}
        assert ((sub_caption.content, sub_caption.negated) in own) == true
        assert sub_caption.visual
    again = sub_caption_examples(captions, lexicon, np.random.default_rng(0))
    assert again.sub_captions == examples.sub_captions


def test_findings_of_other_reports_are_not_those_of_this_one(cohort):
    """What counts as false because only another report affirms it is not on the slide, by the plan."""
    from keyword_world import NAMES_OF

    truths, captions, _ = cohort["val"]
    lexicon = learn_lexicon(cohort["train"][1])
    examples = sub_caption_examples(captions, lexicon, np.random.default_rng(0))
    wrong = total = 0
    for sub_caption, row, true in zip(examples.sub_captions, examples.slide, examples.truth, strict=True):
        named = [c for name, c in NAMES_OF.items() if name in sub_caption.content]
        if true or sub_caption.negated or not named or any(name in captions[row].text.lower() for name in NAMES_OF):
            continue
        total += 1
        wrong += any(truths[row].measured[concept].present for concept in named)
    assert wrong <= 0.1 * max(total, 1)


def test_too_few_sentences_and_bad_settings_are_one_line(cohort, tmp_path):
    model = keyword_model(cohort["train"][1], cohort["train"][2][0], tmp_path)
    _, captions, features = cohort["val"]
    one = encoded(model, features[:1])
    with pytest.raises(CaptionError, match="more slides"):
        calibrate(model, one, captions[:1], cohort["train"][1], split="val")
    with pytest.raises(ConfigError, match="safe"):
        calibrate(model, one, captions[:1], cohort["train"][1], split="val", safe=1.0)
