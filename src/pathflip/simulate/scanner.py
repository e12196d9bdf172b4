"""From stain amounts to what a scanner stores: Beer–Lambert with a laboratory's own stains, light and optics."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pathflip.simulate.fields import noise

__all__ = ["REFERENCE_STAINS", "Scan", "develop", "draw_scan"]

REFERENCE_STAINS = np.array(
    [
        [0.62, 0.70, 0.31],  # haematoxylin, close to what Ruifrok & Johnston (2001) measured (0.65, 0.70, 0.29)
        [0.16, 0.64, 0.33],  # eosin (theirs, 0.07, 0.99, 0.11, is purer than what bright-field scanners see)
        [0.14, 0.74, 0.66],  # erythrocytes
        [0.36, 0.55, 0.75],  # melanin and haemosiderin
    ],
    np.float32,
)
"""Optical density of one unit of each absorber in red, green and blue."""


_STRIP = 64
"""Rows developed at a time: they stay in the cache."""


@dataclass(frozen=True, eq=False)
class Scan:
    """How one slide was stained and scanned.

    Attributes:
        stains: optical densities of a unit of each absorber, (4, 3).
        white: grey values of empty glass, (3,).
        blur: optical blur, pixels.
        noise: sensor noise, grey values.
        unevenness: how much thickness and staining vary over the slide.
        falloff: darkening of the light towards the slide's edges.
    """

    stains: NDArray[np.float32]
    white: NDArray[np.float32]
    blur: float
    noise: float
    unevenness: float
    falloff: float


def draw_scan(lab: np.random.Generator, rng: np.random.Generator) -> Scan:
    """A slide's staining and scanner: the laboratory's habit (``lab``) and this slide's deviation (``rng``)."""
    stains = REFERENCE_STAINS.copy()
    for source, turn, strength in ((lab, 0.035, 0.16), (rng, 0.012, 0.07)):
        stains *= 1 + turn * 2 * source.standard_normal(stains.shape).astype(np.float32)
        stains *= np.exp(strength * source.standard_normal((4, 1))).astype(np.float32)
    white = 243 + 4 * lab.standard_normal() + 2.5 * lab.standard_normal(3) + 1.0 * rng.standard_normal(3)
    return Scan(
        stains=np.clip(stains, 0.02, 2.0),
        white=np.clip(white, 228, 253).astype(np.float32),
        blur=float(np.clip(0.45 + 0.12 * lab.standard_normal() + 0.05 * rng.standard_normal(), 0.3, 0.85)),
        noise=float(np.clip(1.6 + 0.5 * lab.standard_normal(), 0.8, 3.0)),
        unevenness=float(rng.uniform(0.04, 0.10)),
        falloff=float(rng.uniform(0.0, 0.03)),
    )


def develop(amounts: NDArray[np.uint8], scan: Scan, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Stain amounts (hundredths, (H, W, 4)) to RGB (H, W, 3) by Beer–Lambert, with light, blur and noise.

    ``I = I0 · exp(-c · OD)`` per channel, as in Ruifrok & Johnston (2001).
    """
    height, width = amounts.shape[:2]
    matrix = -np.ascontiguousarray(scan.stains.T) / 100
    thickness = 1 + scan.unevenness * noise(rng, 120, 40)
    thick: NDArray = cv2.resize(thickness, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = np.float32(scan.noise) * rng.standard_normal((_STRIP, width, 3), dtype=np.float32)
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP):
        rows = slice(top, min(top + _STRIP, height))
        values = _light(rows, height, width, scan)
        columns = _columns_with_tissue(amounts[rows])
        # Planes merged to three channels: numpy broadcasts over a last axis of 3 several times slower.
        density: NDArray = cv2.transform(amounts[rows, columns].astype(np.float32), matrix)
        density *= cv2.merge([thick[rows, columns]] * 3)
        values[:, columns] *= np.exp(density, out=density)
        shift = int(rng.integers(width))
        values[:, shift:] += grain[: len(values), : width - shift]
        values[:, :shift] += grain[: len(values), width - shift :]
        rgb[rows] = np.clip(values, 0, 255, out=values)
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), scan.blur), np.uint8)


def _light(rows: slice, height: int, width: int, scan: Scan) -> NDArray[np.float32]:
    """What empty glass would look like in some rows, (rows, width, 3)."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[rows]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    light = 1 - np.float32(scan.falloff / 2) * (y[:, None] ** 2 + x[None, :] ** 2)
    return np.asarray(cv2.merge([light * white for white in scan.white]), np.float32)


def _columns_with_tissue(amounts: NDArray[np.uint8]) -> slice:
    """From the first to the last column with any stain (at least one column: OpenCV knows no empty pictures)."""
    stained = np.flatnonzero(amounts.view(np.uint32)[..., 0].any(axis=0))
    return slice(int(stained[0]), int(stained[-1]) + 1) if len(stained) else slice(0, 1)
