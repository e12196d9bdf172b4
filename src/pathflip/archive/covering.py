"""The few patch embeddings of a slide that stand for all of them, as small integers.

Patches are chosen by farthest-point sampling (Gonzalez 1985): each next one is the patch least similar to those chosen,
so that what is rare on a slide is not lost. Each patch then belongs to the most similar one chosen; a group is stood
for by its patch nearest the group's mean, and by how many patches it has.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

__all__ = ["CoveringPatches", "cover", "from_int8", "to_int8"]


@dataclass(frozen=True, eq=False)
class CoveringPatches:
    """Rows of a slide's patch embeddings that stand for all.

    ``weight``: how many patches each stands for. ``mean_cosine``, ``min_cosine``: of every patch with the one that
    stands for it; 1 where nothing was left out.
    """

    rows: Int[np.ndarray, " K"]
    weight: Int[np.ndarray, " K"]
    mean_cosine: float
    min_cosine: float


def cover(patches: Float[np.ndarray, "M E"], most: int) -> CoveringPatches:
    """Choose at most ``most`` patches that stand for all M; the same patches always give the same choice."""
    unit = patches / np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-12)
    if len(unit) <= most:
        return CoveringPatches(np.arange(len(unit)), np.ones(len(unit), np.int64), 1.0, 1.0)
    group = _groups(unit, most)
    count = np.bincount(group)
    sums = np.zeros((len(count), unit.shape[1]), np.float64)
    np.add.at(sums, group, unit)
    to_mean = np.einsum(
        "me,me->m", unit, (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12))[group]
    )
    order = np.lexsort((-to_mean, group))
    rows = order[np.r_[0, np.cumsum(count)[:-1]]]  # the first of each group: nearest to its mean
    cosine = np.einsum("me,me->m", unit, unit[rows[group]])
    return CoveringPatches(rows, count, float(cosine.mean()), float(cosine.min()))


def _groups(unit: Float[np.ndarray, "M E"], most: int) -> Int[np.ndarray, " M"]:
    """The group of every patch, by farthest-point sampling that starts at the patch nearest the mean."""
    best = np.full(len(unit), -np.inf)
    group = np.zeros(len(unit), np.int64)
    chosen = int(np.argmax(unit @ unit.mean(axis=0)))
    for number in range(most):
        cosine = unit @ unit[chosen]
        closer = cosine > best
        closer[chosen] = True  # among equal patches too, so that no group is empty
        group[closer], best = number, np.maximum(best, cosine)
        best[chosen] = np.inf  # it stays where it is
        chosen = int(np.argmin(best))
    return np.asarray(np.unique(group, return_inverse=True)[1], np.int64)


def to_int8(vectors: Float[np.ndarray, "K E"]) -> tuple[Int[np.ndarray, "K E"], Float[np.ndarray, " K"]]:
    """Vectors as integers from -127 to 127 and a scale for each: an error of 0.4 % of its largest component at most."""
    scale = np.maximum(np.abs(vectors).max(axis=1), 1e-12) / 127
    return np.rint(vectors / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def from_int8(numbers: Int[np.ndarray, "K E"], scale: Float[np.ndarray, " K"]) -> Float[np.ndarray, "K E"]:
    """Float32 vectors of :func:`to_int8`'s integers."""
    return np.asarray(numbers, np.float32) * scale[:, None]
