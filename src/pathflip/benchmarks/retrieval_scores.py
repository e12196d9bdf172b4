"""Recall of retrieval both ways, each with its interval, chance, and what knowing the organ alone gives."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pathflip.benchmarks.measured import mean_score
from pathflip.benchmarks.protocol import Inputs, Score
from pathflip.evaluate import metrics

__all__ = ["organ_level", "recall_scores"]


def organ_level(organs: Sequence[str], k: int) -> float:
    """R@k of knowing the organ of every item perfectly, and nothing else: candidates of the organ in random order."""
    size = Counter(organs)
    return float(np.mean([min(1.0, k / size[organ]) for organ in organs]))


def recall_scores(
    matrix: NDArray[np.floating],
    texts: Sequence[str],
    patients: Sequence[str],
    ks: Sequence[int],
    inputs: Inputs,
    *,
    what: str,
    item: str,
    organs: Sequence[str] | None = None,
) -> list[Score]:
    """R@k in both directions. Items with word for word the same text are all right answers.

    Args:
        matrix: a row an item, a column a text, in the same order. what: which score it is, for the group.
        item: "slide" or "crop". organs: of each item, for the organ-only level.
    """
    same = metrics.positives_from_keys(texts, texts)
    scores = []
    for direction, scored in ((f"{item} → text", matrix), (f"text → {item}", matrix.T)):
        for k in ks:
            if k > len(texts):
                continue
            chance = float(np.mean([metrics.chance_recall_at_k(k, len(texts), int(row.sum())) for row in same]))
            baselines = {"knowing the organ": organ_level(organs, k)} if organs else {}
            hits = metrics.hits_at_k(scored, k, same)
            group = f"{direction}, {what}"
            scores.append(mean_score(f"R@{k}", group, hits, patients, chance, inputs, baselines=baselines))
    return scores
