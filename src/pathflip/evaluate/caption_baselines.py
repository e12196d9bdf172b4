"""Captions made without a slide, which a model must beat: one constant caption, and a bag of frequent words."""

from collections import Counter
from collections.abc import Sequence
from math import exp

import numpy as np

from pathflip.arguments import as_texts
from pathflip.evaluate.ptb_words import ptb_words

__all__ = ["bag_of_words", "constant_caption"]


def constant_caption(captions: Sequence[str]) -> str:
    """The caption that, given to every slide, has the best corpus BLEU-1 on ``captions``."""
    captions = as_texts(captions, "captions")
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
    counts = [Counter(ptb_words(text)) for text in as_texts(captions, "captions")]
    captions_with: Counter[tuple[str, int]] = Counter()
    for count in counts:
        captions_with.update((word, copy) for word, copies in count.items() for copy in range(copies))
    length = round(sum(count.total() for count in counts) / len(counts))
    ordered = sorted(captions_with.items(), key=lambda item: (-item[1], item[0]))
    return " ".join(word for (word, _), _ in ordered[:length])
