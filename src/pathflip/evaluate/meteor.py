"""METEOR 1.5 of captions: its Java program where there is one, and what can be counted without it.

METEOR also matches synonyms and paraphrases, from tables that come with its Java program, which :func:`meteor_java`
calls. :func:`meteor_exact_stem` needs nothing and is METEOR 1.5 with the matchers "exact" and "stem" and without its
list of function words. The two are different metrics and bear different names.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pathflip.errors import ConfigError

__all__ = ["MeteorCounts", "meteor_counts", "meteor_exact_stem", "meteor_java"]

Words = Sequence[str]

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
    alignments = [_aligned(_meteor_words(hypothesis), _meteor_words(reference)) for reference in references]
    return max(alignments, key=lambda counts: meteor_exact_stem(np.array([counts])))


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
        partners = [(j, True) for j in self.places.get(word, ()) if not used >> j & 1]
        surplus = self.wanted[word] - self.offered[word]
        if surplus <= 0:
            return partners
        to_come = self.wanted[word] - self.seen[word]
        if to_come < self.offered[word] - (used & self.bits.get(word, 0)).bit_count():
            return partners
        for other in self.spare[word]:
            taken = (used & self.bits[other]).bit_count() - self.seen[other]
            if taken < self.offered[other] - self.wanted[other]:
                partners += [(j, False) for j in self.places[other] if not used >> j & 1]
        return [*partners, (-1, False)]


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
        message = " ".join((done.stderr or done.stdout).split())[:200]
        raise ConfigError(f"'{jar.name}' gave {len(answers)} of {num_answers} answers: {message}")
    return answers[:num_answers]
