import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from pathflip.errors import ConfigError
from pathflip.text.sampling import merge_sentences, sample_merges, sample_published, sample_sentences

TABLE = json.loads((Path(__file__).parent / "fixtures" / "sampling" / "subcaption_distribution.json").read_text())


class Script(np.random.Generator):
    """A generator that answers ``integers`` from a script, so that every branch can be walked with its probability."""

    def __init__(self, answers):
        super().__init__(np.random.PCG64(0))
        self.answers, self.asked, self.probability = list(answers), 0, 1.0
        self.widths = []

    def integers(self, high):
        self.widths.append(high)
        self.probability /= high
        answer = self.answers[self.asked] if self.asked < len(self.answers) else 0
        self.asked += 1
        return answer


def exact_distribution(n, **options):
    """Probability of every outcome of one draw, by walking the whole tree of choices."""
    probability, open_paths = defaultdict(float), [[]]
    while open_paths:
        path = open_paths.pop()
        script = Script(path)
        (outcome,) = sample_merges(n, 1, script, **options)
        probability[outcome] += script.probability
        for depth in range(len(path), script.asked):  # the siblings not yet walked
            for answer in range(1, script.widths[depth]):
                open_paths.append(path + [0] * (depth - len(path)) + [answer])
    return dict(probability)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_published_distribution(n):
    expected = {tuple(map(int, key.split("-"))): value for key, value in TABLE[str(n)].items()}
    probability = exact_distribution(n, skip_last_window=True)
    assert probability.keys() == expected.keys()
    for key, value in expected.items():
        assert probability[key] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_default_reaches_the_last_sentence_as_often_as_the_first(n):
    probability = exact_distribution(n)
    assert sum(probability.values()) == pytest.approx(1)
    for m in (2, 3):
        runs = [probability[tuple(range(start, start + m))] for start in range(n - m + 1)]
        assert np.ptp(runs) < 1e-12
    last = tuple(range(n - 2, n))
    assert probability[last] > 5 * exact_distribution(n, skip_last_window=True)[last] or n == 3


def test_seeded_draws_follow_the_distribution():
    draws = sample_merges(5, 20_000, np.random.default_rng(0))
    counts = defaultdict(int)
    for draw in draws:
        counts[draw] += 1
    for outcome, probability in exact_distribution(5).items():
        assert counts[outcome] / len(draws) == pytest.approx(probability, abs=5 * (probability / len(draws)) ** 0.5)
    assert draws[:50] == sample_merges(5, 50, np.random.default_rng(0))


def test_merging_texts():
    assert merge_sentences(["Tumor is 3", "5 cm", "Free"], (0, 1)) == "Tumor is 3. 5 cm"
    assert merge_sentences(["A is seen.", "B is not.", "C"], (2, 0, 1)) == "C. A is seen. B is not."
    texts = sample_published(["A.", "B.", "C."], 8, np.random.default_rng(1))
    merges = sample_merges(3, 8, np.random.default_rng(1))
    assert texts == [" ".join("ABC"[index] + "." for index in merge) for merge in merges]


def test_single_sentences():
    rng = np.random.default_rng(0)
    for n, k in [(1, 8), (5, 8), (8, 8), (20, 8)]:
        chosen = sample_sentences(n, k, rng)
        assert chosen.dtype == np.int64
        assert len(chosen) == len(set(chosen.tolist())) == min(n, k)
        assert chosen.max() < n
    repeated = sample_sentences(3, 8, rng, repeat=True)
    assert len(repeated) == 8
    assert set(repeated[:3].tolist()) == {0, 1, 2}
    counts = np.bincount(np.concatenate([sample_sentences(6, 2, rng) for _ in range(3000)]), minlength=6)
    assert np.all(abs(counts - 1000) < 150)


def test_refusals():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="without a sentence"):
        sample_merges(0, 8, rng)
    with pytest.raises(ConfigError, match="at least"):
        sample_sentences(3, 0, rng)
    with pytest.raises(ConfigError, match="at least 1"):
        sample_merges(3, 8, rng, max_merge=0)
