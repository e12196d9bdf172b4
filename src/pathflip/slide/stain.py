"""How a slide is stained: the colours of haematoxylin and eosin on it, and how much of each there is."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["REFERENCE_VECTORS", "StainMeasure", "macenko_vectors", "measure_stains"]

Vectors = NDArray[np.float64]

REFERENCE_VECTORS: Vectors = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
"""Haematoxylin and eosin of the reference of Macenko et al. (2009), (2, 3), unit length to three digits."""
_FAINTEST = 0.12
"""Optical density of a stained pixel, in every channel."""
_FEWEST = 500


@dataclass(frozen=True, eq=False)
class StainMeasure:
    """Staining of one slide, natural-log optical density throughout.

    Attributes:
        vectors: haematoxylin and eosin, (2, 3) for red, green, blue, unit length.
        amounts: mean density of each over the stained pixels, (2,).
        degrees_off: the larger of the angles between ``vectors`` and :data:`REFERENCE_VECTORS`.
        pixels: stained pixels looked at.
    """

    vectors: Vectors = field(repr=False)
    amounts: tuple[float, float]
    degrees_off: float
    pixels: int


def measure_stains(pixels: NDArray[np.uint8]) -> StainMeasure | None:
    """Measure staining on RGB pixels (n, 3) of tiles; None where fewer than 500 of them are stained.

    Vectors after Macenko et al. (2009); amounts by least squares on them. White is the 99.5th percentile of each
    channel, between 215 and 255.
    """
    values = pixels.reshape(-1, 3).astype(np.float64)
    if len(values) == 0:
        return None
    white = np.clip(np.percentile(values, 99.5, axis=0), 215, 255)
    density = np.maximum(np.log((white + 1) / (values + 1)), 0)
    stained = density[(density > _FAINTEST).all(axis=1)]
    if len(stained) < _FEWEST:
        return None
    vectors = macenko_vectors(stained)
    amounts = np.maximum(np.einsum("ni,ij->nj", stained, np.linalg.pinv(vectors)), 0).mean(axis=0)
    cosines = np.clip((vectors * REFERENCE_VECTORS).sum(axis=1), -1, 1)
    off = float(np.degrees(np.arccos(cosines.min())))
    return StainMeasure(vectors, (float(amounts[0]), float(amounts[1])), off, len(stained))


def macenko_vectors(density: Vectors) -> Vectors:
    """Haematoxylin and eosin, rows of unit length, from the optical densities (n, 3) of tissue pixels.

    Macenko et al. (2009): the 1st and 99th percentile angles in the plane of the two largest principal components.
    The sums over pixels are einsum's: a matrix product would wake the threads of numpy's linear algebra, which then
    spin on the processors that read and encode.
    """
    centred = density - density.mean(axis=0)
    _, vectors = np.linalg.eigh(np.einsum("ni,nj->ij", centred, centred) / (len(density) - 1))
    plane = vectors[:, [2, 1]]
    plane = plane * np.where(plane[0] < 0, -1.0, 1.0)
    angle = np.arctan2(*np.einsum("ni,ij->jn", density, plane)[::-1])
    low, high = np.percentile(angle, [1, 99])
    ends = np.stack([np.cos([low, high]), np.sin([low, high])], axis=1) @ plane.T
    ends = np.abs(ends) / np.linalg.norm(ends, axis=1, keepdims=True)
    return np.asarray(ends if ends[0, 0] > ends[1, 0] else ends[::-1])  # haematoxylin absorbs more red
