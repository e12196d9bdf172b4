"""Captions against reference captions: BLEU-1 to 4, ROUGE-L, METEOR and CIDEr as published numbers are made.

The published tool is pycocoevalcap, which needs Java. BLEU, ROUGE-L and CIDEr here give its numbers to 1e-4 (tests
compare with numbers stored from it). METEOR 1.5 also matches synonyms and paraphrases from tables that come with its
Java program; without that program METEOR is counted with fewer matchers, under another name
(:mod:`pathflip.evaluate.meteor`).

Captions made without a slide (:mod:`pathflip.evaluate.caption_baselines`) stand beside every score, because a constant
one beats published systems in BLEU-1 (docs/language-metrics.md).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from pathflip.errors import CaptionError
from pathflip.evaluate.meteor import meteor_counts, meteor_exact_stem, meteor_java
from pathflip.evaluate.ptb_words import ptb_words

__all__ = ["BertScores", "CaptionScores", "Words", "caption_scores", "cider", "rouge_l"]

_ORDERS = 4
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0

_BERT = ("BERTScore P", "BERTScore R", "BERTScore F")

Words = Sequence[str]
BertScores = Callable[[Sequence[str], Sequence[Sequence[str]]], NDArray[Any]]
"""From captions and their references to precision, recall and F, a row each."""


def _ngrams(words: Words) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDERS + 1) for i in range(len(words) - n + 1))


# --- BLEU ------------------------------------------------------------------------------------------------------------


def bleu_counts(hypothesis: Words, references: Sequence[Words]) -> Int[np.ndarray, " 10"]:
    """What corpus BLEU adds up: hypothesis length, closest reference length, then matches and totals of n = 1…4."""
    guess = _ngrams(hypothesis)
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= _ngrams(reference)
    right = [0] * _ORDERS
    for ngram, count in guess.items():
        right[len(ngram) - 1] += min(count, most[ngram])
    length = len(hypothesis)
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    return np.array([length, closest, *right, *(max(0, length - n) for n in range(_ORDERS))])


def bleu(counts: Int[np.ndarray, "n 10"]) -> Float[np.ndarray, " 4"]:
    """Corpus BLEU-1…4 (Papineni et al. 2002) of counts of segments, closest reference length, no smoothing to speak of.

    The two tiny constants are those of the published scorer: they keep a zero count from being a division by zero.
    """
    total = counts.sum(axis=0).astype(np.float64)
    length, wanted, right, guessed = total[0], total[1], total[2:6], total[6:10]
    precision = (right + 1e-15) / (guessed + 1e-9)
    scores = np.cumprod(precision) ** (1 / np.arange(1, _ORDERS + 1))
    ratio = (length + 1e-15) / (wanted + 1e-9)
    return scores * (exp(1 - 1 / ratio) if ratio < 1 else 1.0)


# --- ROUGE-L ---------------------------------------------------------------------------------------------------------


def rouge_l(hypothesis: Words, references: Sequence[Words]) -> float:
    """F-score (β 1.2) of the longest common subsequence (Lin 2004), best precision and recall of the references."""
    lengths = [_common_subsequence(hypothesis, reference) for reference in references]
    precision = max(n / len(hypothesis) for n in lengths) if hypothesis else 0.0
    recall = max(n / len(reference) for n, reference in zip(lengths, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _common_subsequence(first: Words, second: Words) -> int:
    """Length of the longest common subsequence (Hyyrö 2004: a row of the table is one integer of bits)."""
    places: dict[str, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        hits = row & places.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(first) - row.bit_count()


# --- CIDEr -----------------------------------------------------------------------------------------------------------


def cider(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> Float[np.ndarray, " n"]:
    """CIDEr-D of each segment (Vedantam et al. 2015; 0 to 10), n-gram rarity taken from these references.

    So the number depends on the set it is measured on: scores of different sets cannot be compared.
    """
    frequency: Counter[tuple[str, ...]] = Counter()
    counts = [[_ngrams(reference) for reference in segment] for segment in references]
    for segment in counts:
        frequency.update(set().union(*segment))
    rarity = _Rarity(frequency, log(len(references)))
    scores = []
    for hypothesis, segment in zip(hypotheses, counts, strict=True):
        guess = rarity.vector(_ngrams(hypothesis))
        scores.append(10 * float(np.mean([rarity.similarity(guess, rarity.vector(c)) for c in segment])))
    return np.array(scores)


class _Rarity:
    """Turns n-gram counts into weighted vectors, and compares them."""

    def __init__(self, frequency: Mapping[tuple[str, ...], int], log_segments: float) -> None:
        self.frequency, self.log_segments = frequency, log_segments

    def vector(self, counts: Counter[tuple[str, ...]]) -> tuple[dict[tuple[str, ...], float], NDArray[Any], int]:
        """Weights, norm per order, and length (in bigrams, as the published scorer counts it)."""
        weights = {
            ngram: count * (self.log_segments - log(max(1.0, self.frequency.get(ngram, 0))))
            for ngram, count in counts.items()
        }
        squares, length = np.zeros(_ORDERS), 0
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
            length += counts[ngram] if len(ngram) == 2 else 0
        return weights, np.sqrt(squares), length

    def similarity(self, guess: tuple[Any, ...], truth: tuple[Any, ...]) -> float:
        """Clipped cosine, mean over orders, times a Gaussian of the difference in length."""
        weights, norm, length = guess
        true_weights, true_norm, true_length = truth
        dots = np.zeros(_ORDERS)
        for ngram, weight in weights.items():
            true_weight = true_weights.get(ngram, 0.0)
            dots[len(ngram) - 1] += min(weight, true_weight) * true_weight
        scale = norm * true_norm
        cosines = np.divide(dots, scale, out=np.zeros(_ORDERS), where=scale > 0)
        return float(cosines.mean() * exp(-((length - true_length) ** 2) / (2 * _CIDER_SIGMA**2)))


# --- All of them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CaptionScores:
    """What is needed to score any resample of a set of captions.

    ``names`` are the measures; :meth:`of` gives one for some segments. METEOR stands under "METEOR" only where the
    Java program counted it.
    """

    bleu: Int[np.ndarray, "n 10"] = field(repr=False)
    rouge: Float[np.ndarray, " n"] = field(repr=False)
    cider: Float[np.ndarray, " n"] = field(repr=False)
    meteor: Int[np.ndarray, "n 5"] = field(repr=False)
    java: tuple[Any, Any] | None = field(default=None, repr=False)
    bert: Float[np.ndarray, "n 3"] | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Measures in the order reports print them."""
        extra = ("METEOR",) if self.java else ()
        last = _BERT if self.bert is not None else ()
        return ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "METEOR exact+stem", *extra, "CIDEr", *last)

    def of(self, name: str, samples: Sequence[Int[np.ndarray, " _"]]) -> list[float]:
        """One measure of each sample of segments (row numbers)."""
        if name.startswith("BLEU"):
            return [float(bleu(self.bleu[rows])[int(name[-1]) - 1]) for rows in samples]
        if name == "METEOR exact+stem":
            return [meteor_exact_stem(self.meteor[rows]) for rows in samples]
        if name == "METEOR":
            assert self.java is not None
            counts, scores = self.java
            of_samples: list[float] = scores(np.stack([counts[rows].sum(axis=0) for rows in samples]))
            return of_samples
        if name in _BERT:
            assert self.bert is not None
            values = self.bert[:, _BERT.index(name)]
        else:
            values = self.rouge if name == "ROUGE-L" else self.cider
        return [float(values[rows].mean()) for rows in samples]


def caption_scores(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    meteor_jar: Path | None = None,
    bert: BertScores | None = None,
) -> CaptionScores:
    """Score captions.

    Args:
        hypotheses: a caption a slide. references: one or more true captions of each.
        meteor_jar: METEOR's Java program, for METEOR proper.
        bert: what gives precision, recall and F of each caption (:class:`~pathflip.evaluate.bertscore.BertScorer`).

    Raises:
        CaptionError: numbers differ, or a slide has no reference with a word in it. (An empty hypothesis scores 0.)
        TypeError: a text where a list of texts belongs; its letters would be scored as captions.
    """
    if isinstance(hypotheses, str):
        raise TypeError("hypotheses: got one text, expected a list of captions, one a slide")
    for place, texts in enumerate(references):
        if isinstance(texts, str):
            raise TypeError(f"reference {place + 1}: got the text {texts[:30]!r}, expected a list of texts")
    if len(hypotheses) != len(references) or not hypotheses:
        raise CaptionError(f"got {len(hypotheses)} captions and {len(references)} references, expected as many, not 0")
    guesses = [ptb_words(text) for text in hypotheses]
    truths = [[words for text in segment if (words := ptb_words(text))] for segment in references]
    for place, segment in enumerate(truths):
        if not segment:
            raise CaptionError(f"reference {place + 1} holds no word; expected one caption or more")
    pairs = list(zip(guesses, truths, strict=True))
    return CaptionScores(
        bleu=np.stack([bleu_counts(guess, segment) for guess, segment in pairs]),
        rouge=np.array([rouge_l(guess, segment) for guess, segment in pairs]),
        cider=cider(guesses, truths),
        meteor=np.array([meteor_counts(guess, segment) for guess, segment in pairs]),
        java=meteor_java(guesses, truths, meteor_jar) if meteor_jar else None,
        bert=bert(hypotheses, [[t for t in segment if t.strip()] for segment in references]) if bert else None,
    )
