"""Which sentences of a caption a training step sees. Numpy only; every draw comes from the generator passed in."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pathflip.arguments import as_texts
from pathflip.errors import ConfigError

__all__ = ["merge_sentences", "sample_merges", "sample_published", "sample_sentences"]


def sample_sentences(n: int, k: int, rng: np.random.Generator, *, repeat: bool = False) -> NDArray[np.int64]:
    """Single sentences without replacement: indices of ``min(n, k)`` of ``n`` sentences, in random order.

    Args:
        repeat: fill up to ``k`` with uniform draws where there are fewer sentences, as the published second variant
            does; the repeats follow the distinct ones.
    """
    if n < 1 or k < 1:
        raise ConfigError(f"cannot sample {k} of {n} sentences: expected at least one of each")
    chosen = rng.permutation(n)[:k]
    if repeat and n < k:
        chosen = np.concatenate([chosen, rng.integers(n, size=k - n)])
    return chosen.astype(np.int64)


def sample_merges(
    n: int, num: int, rng: np.random.Generator, *, max_merge: int = 3, skip_last_window: bool = False
) -> list[tuple[int, ...]]:
    """``num`` independent sub-captions of the published sampler, as tuples of sentence indices in joining order.

    One draw: m uniform on 1..``max_merge``. m = 1: one sentence. Otherwise by a fair coin either *consecutive*, a run
    of m sentences (all of them if there are no more than m), or *scattered*, an ordered sample of m sentences, with
    replacement only if there are fewer than m. (arXiv 2512.17621, K = 8, ``max_merge`` = 3.)

    Args:
        skip_last_window: the published code never draws the run that ends at the last sentence. False gives every run
            the same chance; True reproduces the published distribution.
    """
    if n < 1:
        raise ConfigError("cannot sample sub-captions of a caption without a sentence")
    if num < 1 or max_merge < 1:
        raise ConfigError(f"num and max_merge must be at least 1, got {num} and {max_merge}")
    return [_merge(n, rng, max_merge, skip_last_window) for _ in range(num)]


def _merge(n: int, rng: np.random.Generator, max_merge: int, skip_last_window: bool) -> tuple[int, ...]:
    m = 1 + int(rng.integers(max_merge))
    if m == 1:
        return (int(rng.integers(n)),)
    if int(rng.integers(2)):
        if m >= n:
            return tuple(range(n))
        start = int(rng.integers(n - m if skip_last_window else n - m + 1))
        return tuple(range(start, start + m))
    if n < m:
        return tuple(int(rng.integers(n)) for _ in range(m))
    left = list(range(n))
    return tuple(left.pop(int(rng.integers(len(left)))) for _ in range(m))


def merge_sentences(sentences: Sequence[str], indices: Sequence[int]) -> str:
    """Join the named sentences in the order given: ". " between them, or a space where a stop is already there."""
    merged = sentences[indices[0]]
    for index in indices[1:]:
        merged += (" " if merged[-1:] in ".!?;。" else ". ") + sentences[index]
    return merged


def sample_published(
    sentences: Sequence[str],
    num: int,
    rng: np.random.Generator,
    *,
    max_merge: int = 3,
    skip_last_window: bool = False,
) -> list[str]:
    """``num`` sub-captions as text: :func:`sample_merges`, then :func:`merge_sentences`. Repeats are possible."""
    sentences = as_texts(sentences, "sentences")
    merges = sample_merges(len(sentences), num, rng, max_merge=max_merge, skip_last_window=skip_last_window)
    return [merge_sentences(sentences, merge) for merge in merges]
