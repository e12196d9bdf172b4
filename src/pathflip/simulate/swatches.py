"""Swatches of tissue in stain-concentration space: host tissue and the findings.

A swatch is a seamless square of stain amounts; the painter lays it into a slide. Lengths are given in microns, so a
world may have any resolution.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathflip.simulate.fields import Cells, Plane, cells, fibres, fractal, noise, sample, scatter, stamp

__all__ = ["BROWN", "EOSIN", "FINDING_SWATCHES", "HAEMATOXYLIN", "NUM_STAINS", "RED", "Brush", "Swatch", "stroma"]

HAEMATOXYLIN, EOSIN, RED, BROWN = range(4)
NUM_STAINS = 4
"""Absorbers: haematoxylin, eosin, erythrocyte red, brown pigment (melanin, haemosiderin)."""


@dataclass(frozen=True)
class Swatch:
    """Stain amounts of a seamless square of tissue.

    Attributes:
        stains: hundredths of a stain unit, uint8 (size, size, 4).
        objects: for overlays, which object a pixel belongs to (0: the tissue below shows); None covers everything.
        whole: objects are kept or dropped as a whole instead of being cut at the finding's border.
        insert: where the slide's own tumour cells go (in a vessel, around a nerve), or None.
    """

    stains: NDArray[np.uint8]
    objects: NDArray[np.int32] | None = None
    whole: bool = False
    insert: NDArray[np.bool_] | None = None


class Brush:
    """A swatch being painted: four float planes, a random stream, and microns made pixels.

    Args:
        rng: drives everything.
        size: side of the swatch, pixels.
        mpp: microns per pixel.
    """

    def __init__(self, rng: np.random.Generator, size: int, mpp: float) -> None:
        self.rng, self.size, self.mpp = rng, size, mpp
        self.stains = np.zeros((size, size, NUM_STAINS), np.float32)

    def px(self, microns: float) -> float:
        """Microns in pixels, never below what a pixel can show."""
        return max(0.6, microns / self.mpp)

    def start_from(self, swatch: Swatch) -> None:
        """Paint over a finished swatch of the same size."""
        np.multiply(swatch.stains, np.float32(0.01), out=self.stains)

    def lay(self, where: NDArray, amounts: tuple[float | NDArray, ...]) -> None:
        """Replace what is there by ``amounts`` of the stains; ``where`` is a mask or an opacity in [0, 1]."""
        if where.dtype == np.bool_:
            for stain, amount in enumerate(amounts):
                plane = self.stains[..., stain]
                plane[where] = amount[where] if isinstance(amount, np.ndarray) else amount
            return
        for stain, amount in enumerate(amounts):
            plane = self.stains[..., stain]
            plane += where * (amount - plane)

    def scatter(self, spacing: float, keep: NDArray | float = 1.0, jitter: float = 0.75) -> tuple[Plane, Plane]:
        """Points ``spacing`` microns apart, thinned by a probability (number or plane)."""
        x, y = scatter(self.rng, self.size, self.px(spacing), jitter)
        chance = sample(keep, x, y) if isinstance(keep, np.ndarray) else keep
        drawn = self.rng.random(len(x)) < chance
        return x[drawn], y[drawn]

    def nuclei(
        self,
        x: NDArray,
        y: NDArray,
        radius: float,
        *,
        aspect: float = 1.0,
        spread: float = 0.1,
        theta: NDArray | None = None,
        value: float = 1.0,
        hollow: float = 0.1,
    ) -> Plane:
        """Stamp nuclei of ``radius`` microns and return their coverage; chromatin replaces the cytoplasm's eosin."""
        rng, n = self.rng, len(x)
        size = self.px(radius) * np.exp(spread * np.clip(rng.standard_normal(n), -2, 2))
        ratio = np.sqrt(aspect * np.exp(spread * rng.standard_normal(n)))
        angle = rng.random(n) * np.pi if theta is None else theta + 0.2 * rng.standard_normal(n)
        strength = value * np.clip(1 + 0.5 * spread * rng.standard_normal(n), 0.5, 1.5)
        chromatin = stamp(self.size, x, y, size * ratio, size / ratio, angle, strength, hollow)
        chromatin *= 1 + 0.12 * rng.standard_normal(chromatin.shape, dtype=np.float32)
        cover = np.clip(chromatin / max(value * 0.6, 1e-3), 0, 1)
        haematoxylin, eosin = self.stains[..., HAEMATOXYLIN], self.stains[..., EOSIN]
        np.maximum(haematoxylin, chromatin, out=haematoxylin)
        eosin *= 1 - 0.4 * cover
        self.stains[..., RED] *= 1 - cover
        return cover

    def swatch(
        self, objects: NDArray | None = None, whole: bool = False, insert: NDArray[np.bool_] | None = None
    ) -> Swatch:
        """The painted tissue as a :class:`Swatch`."""
        stains = np.clip(self.stains * 100, 0, 255).astype(np.uint8)
        ids = None if objects is None else objects.astype(np.int32)
        return Swatch(stains, ids, whole, insert)

    def round_objects(self, spacing: float, radius: float, rough: float = 0.12) -> tuple[Cells, Plane, NDArray]:
        """Roundish bodies, one to a Voronoi cell: cells, relative radius (1 at the rim), ids (0 outside).

        Args:
            spacing: microns between bodies.
            radius: mean radius, microns; sizes vary by a quarter.
            rough: irregularity of the outline.
        """
        tessellation = cells(self.rng, self.size, self.px(spacing), jitter=0.5, warp=self.px(spacing * 0.05))
        sizes = self.px(radius) * np.clip(1 + 0.22 * self.rng.standard_normal(len(tessellation.x) + 1), 0.55, 1.4)
        outline = 1 + rough * fractal(self.rng, self.size, self.px(radius), 2)
        relative = tessellation.reach * outline / sizes[tessellation.ids].astype(np.float32)
        relative = np.maximum(relative, 1.02 - np.minimum(tessellation.border / self.px(3.0), 0.5) * 2.0)
        return tessellation, relative, np.where(relative < 1, tessellation.ids, 0)


def stroma(
    brush: Brush,
    *,
    density: float = 1.0,
    cellularity: float = 1.0,
    wave: float = 70.0,
    blue: float = 0.0,
    vessels: bool = True,
) -> None:
    """Fibrous tissue over the whole brush: wavy collagen, spindle nuclei, a few lymphocytes and capillaries."""
    rng, size = brush.rng, brush.size
    bundle = fibres(rng, size, brush.px(7), brush.px(80), brush.px(wave))
    loose = fractal(rng, size, brush.px(120), 3)
    eosin = density * np.clip(0.50 + 0.13 * bundle.strands + 0.07 * loose, 0.03, 1.2)
    gaps = np.clip((-bundle.strands - 1.45) * 1.6, 0, 1) * np.clip(0.5 - 0.4 * loose, 0, 1)
    eosin *= 1 - 0.85 * gaps
    haze = np.clip(blue + 0.05 + 0.025 * loose, 0, 1) * (1 - gaps)
    brush.lay(np.ones((size, size), np.float32), (haze, eosin, 0.0, 0.0))
    x, y = brush.scatter(17, np.clip(cellularity * (0.45 + 0.18 * loose), 0, 1))
    brush.nuclei(x, y, 3.1, aspect=3.4, spread=0.25, theta=bundle.angle(x, y), value=0.85)
    x, y = brush.scatter(30, 0.12 * cellularity)
    brush.nuclei(x, y, 2.9, spread=0.1, value=1.1)
    if vessels:
        _capillaries(brush)


def _capillaries(brush: Brush) -> None:
    """Small vessels with a few red cells: the ordinary thing that is neither haemorrhage nor vascular invasion."""
    body, relative, _ = brush.round_objects(190, 13, rough=0.2)
    shown = np.concatenate([[False], brush.rng.random(len(body.x)) < 0.45])[body.ids]
    brush.lay(shown & (relative < 1), (0.06, 0.62, 0.0, 0.0))
    inside = shown & (relative < 0.62)
    brush.lay(inside, (0.0, 0.05, 0.0, 0.0))
    red = inside & (noise(brush.rng, brush.size, brush.px(6)) > 0.25)
    brush.lay(red, (0.0, 0.15, 0.75, 0.0))
    x, y = brush.scatter(7, (shown & (np.abs(relative - 0.85) < 0.12)) * 0.5)
    brush.nuclei(x, y, 2.4, aspect=1.8, value=0.95)


def _keratin_pearls(brush: Brush) -> Swatch:
    body, relative, ids = brush.round_objects(104, 41, rough=0.12)
    lamellae = np.sin(
        relative * brush.px(43) / brush.px(6.5) * 2 * np.pi + 2.5 * noise(brush.rng, brush.size, brush.px(25))
    )
    core = np.clip(1.2 - relative * 1.5, 0, 1)
    eosin = 0.95 + 0.28 * lamellae + 0.45 * core
    brush.lay(ids > 0, (0.06 + 0.05 * lamellae, eosin, 0.10 + 0.12 * core, 0.0))
    x, y = brush.scatter(11, ((ids > 0) & (relative > 0.72)).astype(np.float32) * 0.75)
    owner = sample(body.ids, x, y)
    brush.nuclei(x, y, 3.2, aspect=2.2, theta=_around(body, owner, x, y, brush.size), value=0.9, spread=0.2)
    return brush.swatch(ids, whole=True)


def _around(body: Cells, owner: NDArray, x: NDArray, y: NDArray, size: int) -> NDArray:
    """Tangent directions of points about the centre of their body, radians."""
    dx = (x - body.x[owner - 1] + size / 2) % size - size / 2
    dy = (y - body.y[owner - 1] + size / 2) % size - size / 2
    return np.arctan2(dy, dx) + np.pi / 2


def _mucin_pools(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    streaks = fibres(rng, size, brush.px(9), brush.px(60), brush.px(45)).strands
    brush.lay(np.ones((size, size), np.float32), (np.clip(0.15 + 0.05 * streaks, 0.04, 1), 0.045, 0.0, 0.0))
    pools = cells(rng, size, brush.px(190), warp=brush.px(22))
    septa = np.clip(1.4 - pools.border / brush.px(6), 0, 1) * (fractal(rng, size, brush.px(110), 2) > -0.4)
    brush.lay(septa, (0.12, 0.55, 0.0, 0.0))
    _, relative, _ = brush.round_objects(85, 15, rough=0.35)
    return brush.swatch(insert=(relative < 1) & (fractal(rng, size, brush.px(90), 1) > 0.1))


def _necrosis(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    clumps, grain = fractal(rng, size, brush.px(40), 3), noise(rng, size, brush.px(4))
    eosin = np.clip(0.66 + 0.14 * clumps + 0.11 * grain, 0.12, 1.2)
    brush.lay(np.ones((size, size), np.float32), (np.clip(0.13 + 0.05 * grain, 0, 1), eosin, 0.0, 0.0))
    ghosts = cells(rng, size, brush.px(13))
    brush.lay(np.clip(1 - ghosts.border / brush.px(2), 0, 1) * 0.25, (0.05, 0.3, 0.0, 0.0))
    x, y = brush.scatter(6.5, np.clip(0.22 + 0.22 * clumps, 0, 0.8))
    brush.nuclei(x, y, 1.3, spread=0.45, aspect=1.3, value=1.15)
    x, y = brush.scatter(14, 0.3)
    brush.nuclei(x, y, 3.3, spread=0.2, value=0.38)
    return brush.swatch()


def _lymphoid_aggregates(brush: Brush) -> Swatch:
    size = brush.size
    brush.lay(np.ones((size, size), np.float32), (0.10, 0.28, 0.0, 0.0))
    _, relative, _ = brush.round_objects(300, 62, rough=0.12)
    centre = np.clip((1 - relative) * 4, 0, 1)
    x, y = brush.scatter(6.6, 0.97 - 0.55 * centre, jitter=0.9)
    pale = sample(centre, x, y) > 0.5
    brush.nuclei(x[~pale], y[~pale], 2.7, spread=0.08, value=1.3, hollow=0.15)
    brush.nuclei(x[pale], y[pale], 3.6, spread=0.15, value=0.75, hollow=0.45)
    return brush.swatch()


def _infiltrating_lymphocytes(brush: Brush) -> Swatch:
    crowd = fractal(brush.rng, brush.size, brush.px(60), 2)
    x, y = brush.scatter(9.5, np.clip(0.62 + 0.22 * crowd, 0.15, 1), jitter=0.95)
    halo = stamp(brush.size, x, y, brush.px(4.4), brush.px(4.4), 0.0)
    brush.lay(np.ones_like(halo), (0.04, 0.12, 0.0, 0.0))
    brush.nuclei(x, y, 2.75, spread=0.07, value=1.35, hollow=0.1)
    return brush.swatch(halo > 0.35)


def _vascular_invasion(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    body, relative, ids = brush.round_objects(98, 43, rough=0.10)
    brush.lay(ids > 0, (0.10, 0.85, 0.0, 0.0))
    x, y = brush.scatter(8, ((ids > 0) & (np.abs(relative - 0.9) < 0.12)) * 0.7)
    theta = _around(body, sample(body.ids, x, y), x, y, size)
    brush.nuclei(x, y, 2.8, aspect=3, theta=theta, value=0.9)
    lumen = relative < 0.78
    brush.lay(lumen, (0.0, 0.02, 0.0, 0.0))
    brush.lay(lumen & (noise(rng, size, brush.px(7)) > 0.5), (0.0, 0.2, 0.85, 0.0))
    plug = relative + 0.22 * fractal(rng, size, brush.px(40), 1) < 0.55
    return brush.swatch(ids, whole=True, insert=plug & lumen)


def _perineural_invasion(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    _, relative, ids = brush.round_objects(102, 46, rough=0.08)
    ring = (ids > 0) & (relative > 0.60)
    nerve = (ids > 0) & (relative < 0.66)
    bundle = fibres(rng, size, brush.px(4.5), brush.px(40), brush.px(26))
    brush.lay(ids > 0, (0.05, 0.2, 0.0, 0.0))
    brush.lay(nerve, (0.13 + 0.03 * bundle.strands, 0.34 + 0.10 * bundle.strands, 0.0, 0.0))
    x, y = brush.scatter(11, nerve * 0.45)
    brush.nuclei(x, y, 2.2, aspect=4, theta=bundle.angle(x, y), value=0.75)
    brush.lay((ids > 0) & (np.abs(relative - 0.63) < 0.045), (0.08, 0.75, 0.0, 0.0))
    gap = fractal(rng, size, brush.px(45), 1) > -1.1
    return brush.swatch(ids, whole=True, insert=ring & (relative > 0.67) & gap)


def _desmoplastic_stroma(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    bundle = fibres(rng, size, brush.px(11), brush.px(75), brush.px(38))
    blue = np.clip(0.20 + 0.05 * bundle.strands, 0.05, 1)
    brush.lay(np.ones((size, size), np.float32), (blue, np.clip(0.25 + 0.12 * bundle.strands, 0.03, 1), 0.0, 0.0))
    x, y = brush.scatter(12, 0.72)
    brush.nuclei(x, y, 4.2, aspect=2.7, spread=0.2, theta=bundle.angle(x, y), value=0.80, hollow=0.35)
    return brush.swatch()


def _hyalinised_collagen(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    bundle = fibres(rng, size, brush.px(26), brush.px(170), brush.px(26))
    eosin = np.clip(0.98 + 0.07 * bundle.strands, 0.6, 1.3)
    brush.lay(np.ones((size, size), np.float32), (0.03, eosin, 0.03, 0.0))
    cracks = np.clip((np.abs(bundle.strands) < 0.05) * 1.0, 0, 1).astype(np.float32)
    brush.lay(cracks * 0.6, (0.0, 0.35, 0.0, 0.0))
    x, y = brush.scatter(34, 0.35)
    brush.nuclei(x, y, 2.2, aspect=4, theta=bundle.angle(x, y), value=0.8)
    return brush.swatch()


def _smooth_muscle(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    fascicles = cells(rng, size, brush.px(150), warp=brush.px(12), stretch=1.6)
    along = fibres(rng, size, brush.px(4.5), brush.px(110), brush.px(9))
    across = fibres(rng, size, brush.px(4.5), brush.px(110), brush.px(9))
    turned = np.concatenate([[False], rng.random(len(fascicles.x)) < 0.3])[fascicles.ids]
    strands = np.where(turned, across.strands.T, along.strands)
    brush.lay(np.ones((size, size), np.float32), (0.12, np.clip(0.76 + 0.12 * strands, 0.3, 1.2), 0.06, 0.0))
    brush.lay(np.clip(1.2 - fascicles.border / brush.px(3), 0, 1), (0.02, 0.12, 0.0, 0.0))
    x, y = brush.scatter(13, 0.62)
    across_here = sample(turned, x, y)
    theta = np.where(across_here, np.pi / 2 - across.angle(y, x), along.angle(x, y))
    brush.nuclei(x, y, 2.7, aspect=4.6, spread=0.15, theta=theta, value=0.85)
    return brush.swatch()


def _adipose_tissue(brush: Brush) -> Swatch:
    fat = cells(brush.rng, brush.size, brush.px(62), jitter=0.55, warp=brush.px(3))
    membrane = np.clip(1.5 - fat.border / brush.px(2.3), 0, 1)
    brush.lay(np.ones_like(membrane), (0.0, 0.02, 0.0, 0.0))
    brush.lay(membrane, (0.06, 0.42, 0.0, 0.0))
    x, y = brush.scatter(22, (fat.border < brush.px(3)) * 0.5)
    brush.nuclei(x, y, 2.3, aspect=2, value=0.9)
    return brush.swatch()


def _normal_glands(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    stroma(brush, density=0.72, cellularity=1.3, vessels=False)
    body, relative, ids = brush.round_objects(88, 36, rough=0.05)
    brush.lay(ids > 0, (0.10, 0.36, 0.0, 0.0))
    mucous = cells(rng, size, brush.px(9))
    goblet = (relative > 0.30) & (relative < 0.72) & (mucous.border > brush.px(1.6))
    brush.lay(goblet, (0.07, 0.02, 0.0, 0.0))
    brush.lay(relative < 0.24, (0.0, 0.03, 0.0, 0.0))
    x, y = _ring_points(brush, body, 36 * 0.86, 6.2)
    on_wall = np.abs(sample(relative, x, y) - 0.86) < 0.14
    x, y = x[on_wall], y[on_wall]
    theta = _around(body, sample(body.ids, x, y), x, y, size) + np.pi / 2
    brush.nuclei(x, y, 2.8, aspect=1.5, spread=0.06, theta=theta, value=0.95)
    return brush.swatch()


def _ring_points(brush: Brush, body: Cells, radius: float, step: float) -> tuple[NDArray, NDArray]:
    """Points evenly around every body, ``radius`` microns out and ``step`` microns apart."""
    around = max(6, round(2 * np.pi * radius / step))
    phase = brush.rng.random(len(body.x))[:, None] + np.arange(around)[None, :]
    angle = phase * 2 * np.pi / around
    x = body.x[:, None] + brush.px(radius) * np.cos(angle)
    y = body.y[:, None] + brush.px(radius) * np.sin(angle)
    return (x % brush.size).ravel(), (y % brush.size).ravel()


def _haemorrhage(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    pools = fractal(rng, size, brush.px(70), 3)
    brush.lay(np.ones((size, size), np.float32), (0.0, 0.22 + 0.04 * pools, np.clip(0.38 + 0.12 * pools, 0.05, 1), 0.0))
    x, y = brush.scatter(6.0, np.clip(0.85 + 0.3 * pools, 0.25, 1))
    cell = stamp(size, x, y, brush.px(3.3), brush.px(3.3), 0.0, 1.0, 0.35)
    brush.lay(np.clip(cell, 0, 1), (0.0, 0.25, 0.95, 0.0))
    x, y = brush.scatter(40, 0.4)
    brush.nuclei(x, y, 2.6, value=1.1)
    return brush.swatch()


def _calcification(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    _, relative, ids = brush.round_objects(62, 23, rough=0.16)
    rings = np.sin(relative * brush.px(23) / brush.px(4.5) * 2 * np.pi)
    depth = 1.55 + 0.28 * rings + 0.18 * noise(rng, size, brush.px(4))
    brush.lay(ids > 0, (depth, 0.25, 0.0, 0.0))
    brush.lay((ids > 0) & (relative > 0.9), (0.02, 0.05, 0.0, 0.0))
    chipped = (ids > 0) & (np.abs(noise(rng, size, brush.px(28))) < 0.05)
    brush.lay(chipped, (0.0, 0.02, 0.0, 0.0))
    return brush.swatch(ids, whole=True)


def _giant_cells(brush: Brush) -> Swatch:
    _, relative, ids = brush.round_objects(78, 32, rough=0.16)
    grain = noise(brush.rng, brush.size, brush.px(4))
    brush.lay(ids > 0, (0.16 + 0.02 * grain, 0.74 + 0.07 * grain, 0.05, 0.0))
    brush.lay((ids > 0) & (relative > 0.92), (0.02, 0.08, 0.0, 0.0))
    x, y = brush.scatter(7.6, ((ids > 0) & (relative < 0.82) & (relative > 0.28)) * 0.62, jitter=0.9)
    brush.nuclei(x, y, 3.3, aspect=1.2, spread=0.1, value=0.95, hollow=0.4)
    return brush.swatch(ids, whole=True)


def _foamy_macrophages(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    sheet = cells(rng, size, brush.px(21), warp=brush.px(1.5))
    foam = noise(rng, size, brush.px(3.6)) + 0.6 * noise(rng, size, brush.px(2.2))
    eosin = np.clip(0.21 + 0.10 * foam, 0.02, 0.6)
    brush.lay(np.ones((size, size), np.float32), (np.clip(0.09 + 0.045 * foam, 0, 1), eosin, 0.0, 0.0))
    brush.lay(np.clip(1.2 - sheet.border / brush.px(1.8), 0, 1) * 0.7, (0.08, 0.40, 0.0, 0.0))
    x, y = sheet.x + brush.px(4) * rng.standard_normal(len(sheet.x)), sheet.y + brush.px(3)
    brush.nuclei(x, y, 2.9, spread=0.1, value=0.85, hollow=0.3)
    return brush.swatch()


def _eosinophil_infiltrate(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    crowd = fractal(rng, size, brush.px(60), 2)
    x, y = brush.scatter(12.5, np.clip(0.82 + 0.2 * crowd, 0.3, 1), jitter=0.9)
    body = stamp(size, x, y, brush.px(5.4), brush.px(5.0), rng.random(len(x)) * np.pi)
    grain = 1 + 0.25 * rng.standard_normal((size, size), dtype=np.float32)
    brush.lay(np.ones_like(body), (0.02, 0.50 * grain, 0.78 * grain, 0.0))
    angle = rng.random(len(x)) * 2 * np.pi
    for side in (-1, 1):
        brush.nuclei(
            x + side * brush.px(2.1) * np.cos(angle),
            y + side * brush.px(2.1) * np.sin(angle),
            1.9,
            value=1.15,
            spread=0.1,
        )
    return brush.swatch(body > 0.4)


def _neutrophil_abscess(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    slough = fractal(rng, size, brush.px(50), 3)
    brush.lay(np.ones((size, size), np.float32), (0.10, np.clip(0.40 + 0.10 * slough, 0.05, 1), 0.04, 0.0))
    x, y = brush.scatter(8.6, np.clip(0.85 + 0.15 * slough, 0.3, 1), jitter=0.95)
    angle = rng.random(len(x)) * 2 * np.pi
    for lobe in range(3):
        turn = angle + lobe * 2.1
        brush.nuclei(x + brush.px(2.0) * np.cos(turn), y + brush.px(2.0) * np.sin(turn), 1.25, value=1.45, spread=0.2)
    return brush.swatch()


def _cystic_spaces(brush: Brush) -> Swatch:
    body, relative, ids = brush.round_objects(138, 64, rough=0.09)
    fluid = 0.12 + 0.02 * fractal(brush.rng, brush.size, brush.px(50), 2)
    brush.lay(ids > 0, (0.06, 0.50, 0.0, 0.0))
    brush.lay(relative < 0.88, (0.015, fluid, 0.0, 0.0))
    x, y = brush.scatter(6.0, ((ids > 0) & (relative > 0.88) & (relative < 0.97)) * 0.8)
    theta = _around(body, sample(body.ids, x, y), x, y, brush.size)
    brush.nuclei(x, y, 2.4, aspect=1.9, theta=theta, value=0.95)
    return brush.swatch(ids, whole=True)


def _haemosiderin_pigment(brush: Brush) -> Swatch:
    rng, size = brush.rng, brush.size
    clumps = fractal(rng, size, brush.px(70), 2)
    x, y = brush.scatter(15, np.clip(0.6 + 0.3 * clumps, 0.1, 0.95), jitter=0.95)
    body = stamp(
        size, x, y, brush.px(7) * np.exp(0.2 * rng.standard_normal(len(x))), brush.px(5.5), rng.random(len(x)) * 3
    )
    granules = np.clip(0.80 + 0.40 * noise(rng, size, brush.px(2.4)), 0.2, 1.6)
    brush.lay(np.ones_like(body), (0.0, 0.15, 0.22, granules))
    return brush.swatch(body > 0.45)


FINDING_SWATCHES: dict[str, Callable[[Brush], Swatch]] = {
    "keratin_pearls": _keratin_pearls,
    "mucin_pools": _mucin_pools,
    "necrosis": _necrosis,
    "lymphoid_aggregates": _lymphoid_aggregates,
    "tumour_infiltrating_lymphocytes": _infiltrating_lymphocytes,
    "vascular_invasion": _vascular_invasion,
    "perineural_invasion": _perineural_invasion,
    "desmoplastic_stroma": _desmoplastic_stroma,
    "hyalinised_collagen": _hyalinised_collagen,
    "smooth_muscle": _smooth_muscle,
    "adipose_tissue": _adipose_tissue,
    "normal_glands": _normal_glands,
    "haemorrhage": _haemorrhage,
    "calcification": _calcification,
    "multinucleated_giant_cells": _giant_cells,
    "foamy_macrophages": _foamy_macrophages,
    "eosinophil_infiltrate": _eosinophil_infiltrate,
    "neutrophil_abscess": _neutrophil_abscess,
    "cystic_spaces": _cystic_spaces,
    "haemosiderin_pigment": _haemosiderin_pigment,
}
"""Each finding's look. Overlays let the tissue show that they lie in (tumour cells between lymphocytes)."""
