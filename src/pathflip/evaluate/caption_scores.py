"""Captions against reference captions: BLEU-1 to 4, ROUGE-L, METEOR and CIDEr as published numbers are made.

The published tool is pycocoevalcap, which needs Java. BLEU, ROUGE-L and CIDEr here give its numbers to 1e-4 (tests
compare with numbers stored from it). METEOR 1.5 also matches synonyms and paraphrases from tables that come with its
Java program: :func:`meteor_java` calls that program where there is one; :func:`meteor_exact_stem` needs nothing and is
METEOR 1.5 with the matchers "exact" and "stem" and without its list of function words. The two are different metrics
and bear different names.

Floors stand beside every score, because a constant caption beats published systems in BLEU-1
(docs/language-metrics.md).
"""

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import exp, log
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate.ptb_words import ptb_words

__all__ = [
    "CaptionScores",
    "bag_of_words",
    "caption_scores",
    "cider",
    "constant_caption",
    "meteor_exact_stem",
    "meteor_java",
    "rouge_l",
]

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


# --- METEOR ----------------------------------------------------------------------------------------------------------
# METEOR 1.5's English parameters (Denkowski and Lavie 2014), for the two matchers that need no tables.
_ALPHA, _BETA, _GAMMA = 0.85, 0.2, 0.6
_STEM_WEIGHT = 0.6
_BEAM = 12
_METEOR_WORD = re.compile(r"[a-z\d]+(?:[.,][a-z\d]+)+|(?:[a-z]\.){2,}|\.\d+|[^\W_]+|[^\w\s]")


class MeteorCounts(NamedTuple):
    """What METEOR adds up over segments."""

    hypothesis: int
    reference: int
    exact: int
    stem: int
    chunks: int
    """Runs of matches contiguous in both; 0 where the two are the same words in the same order."""


def meteor_exact_stem(counts: Int[np.ndarray, "n 5"]) -> float:
    """METEOR 1.5 from exact and stem matches, all words alike (δ = 0.5), of the counts of one or more segments.

    Equal to the Java program run with ``-m "exact stem" -w "1.0 0.6" -p "0.85 0.2 0.6 0.5"``.
    """
    total = MeteorCounts(*(int(number) for number in counts.sum(axis=0)))
    matched = total.exact + total.stem
    if not matched:
        return 0.0
    weight = total.exact + _STEM_WEIGHT * total.stem
    precision, recall = weight / total.hypothesis, weight / total.reference
    mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
    return float(mean * (1 - _GAMMA * (total.chunks / matched) ** _BETA))


def meteor_counts(hypothesis: Words, references: Sequence[Words]) -> MeteorCounts:
    """Counts against the reference that scores best."""
    found = [_aligned(_meteor_words(hypothesis), _meteor_words(reference)) for reference in references]
    return max(found, key=lambda counts: meteor_exact_stem(np.array([counts])))


def _meteor_words(words: Words) -> list[str]:
    """METEOR's own normalisation of ready tokens: brackets back, hyphens and other marks apart."""
    text = " ".join(words)
    for word, mark in (("-lrb-", "("), ("-rrb-", ")"), ("-lsb-", "["), ("-rsb-", "]"), ("-lcb-", "{"), ("-rcb-", "}")):
        text = text.replace(word, mark)
    return _METEOR_WORD.findall(text.replace("-", " "))


@lru_cache(maxsize=1)
def _stemmer() -> Callable[[str], str]:
    import snowballstemmer

    stem = snowballstemmer.stemmer("english").stemWord
    return lru_cache(maxsize=65536)(stem)


class _Partial(NamedTuple):
    """An alignment of the first words of a hypothesis: better ones sort first."""

    lost: int
    """Words that could have had an exact partner only elsewhere and got no stem partner either."""
    chunks: int
    distance: int
    exact: int
    stems: int
    used: int
    """Bits of the reference words that have a partner."""
    last: int
    """Place in the reference of the previous hypothesis word's partner; -2 where it has none."""


def _aligned(hypothesis: Words, reference: Words) -> MeteorCounts:
    """Most exact matches, then most stem matches, fewest chunks, shortest distances.

    The number of exact matches is known beforehand (common copies of each word), so only choices that reach it are
    walked; among these a beam search over the hypothesis keeps the best :data:`_BEAM`.
    """
    words = _SharedWords(hypothesis, reference)
    beam = [_Partial(0, 0, 0, 0, 0, 0, -2)]
    for i, word in enumerate(hypothesis):
        words.seen[word] += 1
        grown = []
        for p in beam:
            for j, is_exact in words.partners(word, p.used):
                if j < 0:
                    grown.append(_Partial(p.lost + 1, p.chunks, p.distance, p.exact, p.stems, p.used, -2))
                    continue
                chunks, distance = p.chunks + (j != p.last + 1), p.distance + abs(i - j)
                exact, stems = p.exact + is_exact, p.stems + (not is_exact)
                grown.append(_Partial(p.lost, chunks, distance, exact, stems, p.used | 1 << j, j))
        beam = sorted(grown)[:_BEAM]
    best = min(beam)
    whole = best.exact + best.stems == len(hypothesis) == len(reference) and best.chunks == 1
    return MeteorCounts(len(hypothesis), len(reference), best.exact, best.stems, 0 if whole else best.chunks)


class _SharedWords:
    """Which reference words a hypothesis word may still take, so that no exact match is lost."""

    def __init__(self, hypothesis: Words, reference: Words) -> None:
        stem = _stemmer()
        self.wanted, self.offered = Counter(hypothesis), Counter(reference)
        self.places: dict[str, list[int]] = {}
        for j, word in enumerate(reference):
            self.places.setdefault(word, []).append(j)
        self.bits = {word: sum(1 << j for j in places) for word, places in self.places.items()}
        kin: dict[str, list[str]] = {}
        for word in self.offered:
            kin.setdefault(stem(word), []).append(word)
        # Copies of a reference word beyond those the hypothesis has are free for words of the same stem.
        self.spare = {
            word: [o for o in kin.get(stem(word), ()) if o != word and self.offered[o] > self.wanted[o]]
            for word in self.wanted
        }
        self.seen: Counter[str] = Counter()

    def partners(self, word: str, used: int) -> list[tuple[int, bool]]:
        """(place in the reference, exact?) of each partner ``word`` may take; place -1 is none."""
        found = [(j, True) for j in self.places.get(word, ()) if not used >> j & 1]
        surplus = self.wanted[word] - self.offered[word]
        if surplus <= 0:
            return found
        to_come = self.wanted[word] - self.seen[word]
        if to_come < self.offered[word] - (used & self.bits.get(word, 0)).bit_count():
            return found
        for other in self.spare[word]:
            taken = (used & self.bits[other]).bit_count() - self.seen[other]
            if taken < self.offered[other] - self.wanted[other]:
                found += [(j, False) for j in self.places[other] if not used >> j & 1]
        return [*found, (-1, False)]


def meteor_java(
    hypotheses: Sequence[Words],
    references: Sequence[Sequence[Words]],
    jar: Path,
) -> tuple[Float[np.ndarray, "n 23"], Callable[[Float[np.ndarray, "m 23"]], list[float]]]:
    """METEOR 1.5 itself, with synonyms and paraphrases, through its Java program, as pycocoevalcap runs it.

    Args:
        jar: ``meteor-1.5.jar``, with ``data/paraphrase-en.gz`` beside it.

    Returns:
        The program's statistics, a row a segment (rows add up to those of a corpus), and the function that has it turn
        rows into scores.

    Raises:
        ConfigError: no such file, no Java, or the program fails.
    """
    if not jar.is_file():
        raise ConfigError(f"no file '{jar}': expected meteor-1.5.jar (it comes with the package pycocoevalcap)")
    ask = [
        "SCORE ||| " + " ||| ".join(" ".join(words) for words in [*segment, hypothesis])
        for hypothesis, segment in zip(hypotheses, references, strict=True)
    ]
    counts = np.array([[float(number) for number in line.split()] for line in _java(jar, ask, len(ask))])
    whole = (counts[:, -3] == 1) & (counts[:, [1, -2, -1]] == counts[:, :1]).all(axis=1)
    counts[whole, -3] = 0  # the program does so itself when it adds segments up: a whole match is in no pieces

    def scores(rows: Float[np.ndarray, "m 23"]) -> list[float]:
        line = "EVAL ||| " + " ||| ".join(" ".join(str(number) for number in row) for row in rows)
        return [float(number) for number in _java(jar, [line], len(rows))]

    return counts, scores


def _java(jar: Path, lines: Sequence[str], num_answers: int) -> list[str]:
    command = ["java", "-jar", "-Xmx2G", str(jar.resolve()), "-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ConfigError(
            "METEOR's program needs Java, and there is no 'java' here: install Java, or do without --meteor-jar"
        ) from None
    answers = done.stdout.splitlines()
    if len(answers) < num_answers:
        said = " ".join((done.stderr or done.stdout).split())[:200]
        raise ConfigError(f"'{jar.name}' gave {len(answers)} of {num_answers} answers: {said}")
    return answers[:num_answers]


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

    def of(self, name: str, samples: Sequence[Int[np.ndarray, " m"]]) -> list[float]:
        """One measure of each sample of segments (row numbers)."""
        if name.startswith("BLEU"):
            return [float(bleu(self.bleu[rows])[int(name[-1]) - 1]) for rows in samples]
        if name == "METEOR exact+stem":
            return [meteor_exact_stem(self.meteor[rows]) for rows in samples]
        if name == "METEOR":
            assert self.java is not None
            counts, scores = self.java
            found: list[float] = scores(np.stack([counts[rows].sum(axis=0) for rows in samples]))
            return found
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
    """
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


# --- Floors ----------------------------------------------------------------------------------------------------------


def constant_caption(captions: Sequence[str]) -> str:
    """The caption that, given to every slide, has the best corpus BLEU-1 on ``captions``."""
    words = [ptb_words(text) for text in captions]
    place = {word: i for i, word in enumerate(sorted({w for caption in words for w in caption}))}
    counts = np.zeros((len(words), len(place)), dtype=np.int32)
    for row, caption in zip(counts, words, strict=True):
        np.add.at(row, [place[word] for word in caption], 1)
    lengths = counts.sum(axis=1)
    best, chosen = -1.0, 0
    for i, row in enumerate(counts):
        used = np.flatnonzero(row)
        right = np.minimum(counts[:, used], row[used]).sum()
        guessed = lengths[i] * len(words)
        brevity = min(1.0, exp(1 - lengths.sum() / max(guessed, 1)))
        score = brevity * right / max(guessed, 1)
        if score > best:
            best, chosen = score, i
    return captions[chosen]


def bag_of_words(captions: Sequence[str]) -> str:
    """Frequent words in order of frequency, as many as a caption has in the mean: word salad that BLEU-1 likes."""
    counts = [Counter(ptb_words(text)) for text in captions]
    share: Counter[tuple[str, int]] = Counter()
    for count in counts:
        share.update((word, copy) for word, copies in count.items() for copy in range(copies))
    length = round(sum(count.total() for count in counts) / len(counts))
    return " ".join(word for (word, _), _ in sorted(share.items(), key=lambda item: (-item[1], item[0]))[:length])
