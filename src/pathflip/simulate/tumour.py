"""Tumour swatches: a cell type (cytology), a grade and an architecture (pattern).

The three are painted independently of each other, so that a type, a grade or a pattern can be recognised in
combinations never seen in training.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pathflip.simulate.fields import Plane, cells, fibres, fractal, noise, sample, stamp
from pathflip.simulate.swatches import BROWN, EOSIN, HAEMATOXYLIN, RED, Brush, Swatch

__all__ = ["CYTOLOGY", "Cytology", "tumour_sheet", "tumour_swatch"]


@dataclass(frozen=True)
class Cytology:
    """How the cells of a tumour type look at grade 2.

    Attributes:
        spacing: distance between neighbouring nuclei, microns.
        radius: mean nuclear radius, microns.
        aspect: length over width of a nucleus.
        nucleus: haematoxylin of the chromatin.
        hollow: vesicular nuclei: how much paler the centre is.
        haematoxylin, eosin: of the cytoplasm.
        membrane: eosin added at cell borders (negative: pale borders with bridges).
        vacuoles: fraction of cells with a clear vacuole.
        nucleoli: fraction of nuclei with a prominent nucleolus.
        pigment: fraction of cells with brown pigment.
        spread: pleomorphism: relative deviation of nuclear size.
    """

    spacing: float
    radius: float
    aspect: float
    nucleus: float
    hollow: float
    haematoxylin: float
    eosin: float
    membrane: float = 0.0
    vacuoles: float = 0.0
    nucleoli: float = 0.0
    pigment: float = 0.0
    spread: float = 0.15


CYTOLOGY = {
    "adenocarcinoma": Cytology(11.0, 3.9, 1.45, 1.0, 0.3, 0.34, 0.20, vacuoles=0.32),
    "squamous_cell_carcinoma": Cytology(13.0, 4.1, 1.15, 1.0, 0.3, 0.06, 1.15, membrane=-0.5),
    "small_cell_carcinoma": Cytology(7.2, 3.2, 1.35, 1.60, 0.0, 0.26, 0.20),
    "clear_cell_carcinoma": Cytology(17.0, 3.3, 1.05, 1.0, 0.1, 0.01, 0.05, membrane=0.42),
    "melanoma": Cytology(14.0, 5.2, 1.2, 0.85, 0.6, 0.08, 0.44, nucleoli=0.85, pigment=0.34),
}
_RADIUS, _SPREAD, _NUCLEUS, _SPACING = (0.80, 1.05, 1.42), (0.04, 0.17, 0.38), (0.80, 1.0, 1.22), (1.10, 1.0, 0.94)


def graded(tumour: str, grade: int) -> Cytology:
    """The cells of ``tumour`` at ``grade`` 1 to 3: larger, darker, more crowded and less alike as it rises."""
    plain, index = CYTOLOGY[tumour], grade - 1
    return replace(
        plain,
        radius=plain.radius * _RADIUS[index],
        spread=_SPREAD[index],
        nucleus=plain.nucleus * _NUCLEUS[index],
        spacing=plain.spacing * _SPACING[index],
    )


@dataclass(frozen=True)
class _Plan:
    """An architecture: where tumour cells are, how deep in them, where it is empty, which way cells point."""

    epithelium: NDArray[np.bool_]
    empty: NDArray[np.bool_]
    basal: Plane
    theta: Plane | None
    septa: NDArray[np.bool_]


def tumour_swatch(brush: Brush, tumour: str, grade: int, pattern: str) -> Swatch:
    """A swatch of one tumour: its pattern, filled with its cells, over the stroma already on the brush."""
    cytology = graded(tumour, grade)
    if pattern == "single_files":
        _single_files(brush, cytology)
        return brush.swatch()
    plan = {"glandular": _glandular, "papillary": _papillary, "solid_nests": _solid_nests}[pattern](
        brush, cytology, grade
    )
    brush.lay(plan.empty, (0.04, 0.15, 0.0, 0.0) if pattern == "glandular" else (0.0, 0.02, 0.0, 0.0))  # secretion
    _cytoplasm(brush, cytology, plan.epithelium)
    if tumour == "clear_cell_carcinoma":
        _delicate_vessels(brush, plan)
    chance = plan.epithelium * plan.basal
    x, y = brush.scatter(cytology.spacing, chance, jitter=0.65)
    _tumour_nuclei(brush, cytology, x, y, grade, plan.theta)
    return brush.swatch()


def tumour_sheet(brush: Brush, tumour: str, grade: int) -> Swatch:
    """The same cells without any architecture: what grows in vessels and around nerves."""
    cytology = graded(tumour, grade)
    everywhere = np.ones((brush.size, brush.size), bool)
    _cytoplasm(brush, cytology, everywhere)
    x, y = brush.scatter(cytology.spacing, jitter=0.65)
    _tumour_nuclei(brush, cytology, x, y, grade, None)
    return brush.swatch()


def _glandular(brush: Brush, cytology: Cytology, grade: int) -> _Plan:
    """Acini with lumens; back to back, irregular and with smaller lumens as the grade rises."""
    spacing, septum = (100, 96, 92)[grade - 1], (17, 13, 9)[grade - 1]
    wall = max((19, 20, 21)[grade - 1], 1.45 * cytology.spacing)
    glands = cells(brush.rng, brush.size, brush.px(spacing), jitter=0.6, warp=brush.px((5, 7, 10)[grade - 1]))
    ragged = 1 + 0.18 * grade * 0.5 * fractal(brush.rng, brush.size, brush.px(25), 2)
    depth = (glands.border - brush.px(septum / 2)) * ragged
    inside = depth > 0
    lumen = depth > brush.px(wall)
    basal = np.where(depth < brush.px(wall * 0.62), 1.0, 0.12).astype(np.float32)
    return _Plan(inside & ~lumen, lumen, basal, _outward(glands.border), ~inside)


def _papillary(brush: Brush, cytology: Cytology, grade: int) -> _Plan:
    """Fronds with fibrovascular cores, standing in clear space."""
    gap, wall = (15, 12, 9)[grade - 1], max(17.0, 1.3 * cytology.spacing)
    fronds = cells(brush.rng, brush.size, brush.px(112), jitter=0.8, warp=brush.px(12), stretch=1.8)
    depth = fronds.border - brush.px(gap / 2)
    inside = depth > 0
    core = depth > brush.px(wall)
    brush.lay(core, (0.05, 0.34, 0.0, 0.0))
    vessel = depth > brush.px(wall + 7)
    brush.lay(vessel & (noise(brush.rng, brush.size, brush.px(7)) > 0.1), (0.0, 0.2, 0.7, 0.0))
    x, y = brush.scatter(10, core * 0.45)
    brush.nuclei(x, y, 2.5, aspect=2.6, value=0.9)
    basal = np.where(depth > brush.px(wall * 0.25), 1.0, 0.35).astype(np.float32)
    return _Plan(inside & ~core, ~inside, basal, _outward(fronds.border), core)


def _solid_nests(brush: Brush, cytology: Cytology, grade: int) -> _Plan:
    """Nests of cells packed without lumens between thin septa."""
    septum = (15, 12, 9)[grade - 1]
    nests = cells(brush.rng, brush.size, brush.px(125), jitter=0.8, warp=brush.px(15))
    depth = nests.border - brush.px(septum / 2)
    inside = depth > 0
    return _Plan(inside, np.zeros_like(inside), np.ones_like(depth), None, ~inside)


def _outward(border: Plane) -> Plane:
    """Direction in which the distance to the border grows, radians: columnar cells point that way."""
    down, right = np.gradient(border)
    return np.arctan2(down, right).astype(np.float32)


def _cytoplasm(brush: Brush, cytology: Cytology, where: NDArray[np.bool_]) -> None:
    rng, size = brush.rng, brush.size
    clouds = fractal(rng, size, brush.px(30), 3)
    eosin = np.clip(cytology.eosin * (1 + 0.14 * clouds), 0, 1.5)
    brush.lay(where, (np.clip(cytology.haematoxylin * (1 + 0.15 * clouds), 0, 1), eosin, 0.0, 0.0))
    if not (cytology.membrane or cytology.vacuoles or cytology.pigment):
        return
    bodies = cells(rng, size, brush.px(cytology.spacing))
    if cytology.membrane:
        line = np.clip(1.3 - bodies.border / brush.px(1.7), 0, 1) * where
        brush.stains[..., EOSIN] = np.clip(brush.stains[..., EOSIN] + cytology.membrane * line, 0, 2.5)
        if cytology.membrane > 0:
            brush.stains[..., HAEMATOXYLIN] += 0.05 * line
    if cytology.vacuoles:
        holes = np.concatenate([[False], rng.random(len(bodies.x)) < cytology.vacuoles])[bodies.ids]
        brush.lay(holes & where & (bodies.reach < brush.px(4.2)), (0.03, 0.03, 0.0, 0.0))
    if cytology.pigment:
        heavy = np.concatenate([[False], rng.random(len(bodies.x)) < cytology.pigment])[bodies.ids]
        granules = np.clip(0.7 + 0.5 * noise(rng, size, brush.px(2.4)), 0.1, 1.8) * (heavy & where)
        granules += 0.10 * where
        brush.stains[..., BROWN] = np.maximum(brush.stains[..., BROWN], granules * (0.6 + 0.3 * np.clip(clouds, -1, 1)))


def _delicate_vessels(brush: Brush, plan: _Plan) -> None:
    """The thin-walled branching vessels that divide clear cells into packets."""
    net = cells(brush.rng, brush.size, brush.px(48), warp=brush.px(7))
    line = (net.border < brush.px(2.6)) & plan.epithelium
    brush.lay(line, (0.05, 0.50, 0.12, 0.0))
    brush.lay(line & (noise(brush.rng, brush.size, brush.px(9)) > 0.7), (0.0, 0.2, 0.85, 0.0))


def _tumour_nuclei(brush: Brush, cytology: Cytology, x: NDArray, y: NDArray, grade: int, theta: Plane | None) -> None:
    rng = brush.rng
    angles = None if theta is None else sample(theta, x, y)
    brush.nuclei(
        x,
        y,
        cytology.radius,
        aspect=cytology.aspect,
        spread=cytology.spread,
        theta=angles,
        value=cytology.nucleus,
        hollow=cytology.hollow,
    )
    if cytology.nucleoli:
        shown = rng.random(len(x)) < cytology.nucleoli
        spot = stamp(brush.size, x[shown], y[shown], brush.px(1.7), brush.px(1.7), 0.0, 1.0)
        brush.lay(np.clip(spot, 0, 1), (1.05, 1.0, 0.15, 0.0))
    mitotic = rng.random(len(x)) < (0.002, 0.008, 0.03)[grade - 1]
    brush.nuclei(x[mitotic], y[mitotic], 3.6, aspect=2.4, spread=0.2, value=1.9, hollow=0.0)


def _single_files(brush: Brush, cytology: Cytology) -> None:
    """Cells one behind the other between collagen bundles (the stroma's own waves steer them)."""
    rng, size = brush.rng, brush.size
    line = max(22.0, 2.1 * cytology.spacing)
    rows = max(4, round(size / brush.px(line)))
    steps = max(8, round(size / brush.px(cytology.spacing * 0.86)))
    waves = fibres(rng, size, brush.px(8), brush.px(90), brush.px(26))
    row, step = (g.ravel().astype(np.float32) for g in np.mgrid[0:rows, 0:steps])
    x = (step + rng.random(rows)[row.astype(int)] + 0.18 * rng.standard_normal(len(row))) * size / steps
    level = (row + 0.25 * rng.standard_normal(rows)[row.astype(int)]) * size / rows
    y = level - sample(waves.shift, x, level) + brush.px(0.8) * rng.standard_normal(len(row))
    in_strand = sample(noise(rng, size, (brush.px(line), brush.px(60))), x, y) > -0.25
    x, y = (x[in_strand] % size).astype(np.float32), (y[in_strand] % size).astype(np.float32)
    theta = waves.angle(x, y)
    half = max(cytology.spacing * 0.62, cytology.radius * 1.25)
    body = stamp(size, x, y, brush.px(half), brush.px(half * 0.72), theta) > 0.3
    _cytoplasm(brush, cytology, body)
    brush.stains[..., RED][body] = 0
    _tumour_nuclei(brush, cytology, x, y, 2, None if cytology.aspect < 1.1 else _as_plane(theta, x, y, size))


def _as_plane(theta: NDArray, x: NDArray, y: NDArray, size: int) -> Plane:
    plane = np.zeros((size, size), np.float32)
    plane[np.rint(y).astype(np.int64) % size, np.rint(x).astype(np.int64) % size] = theta
    return plane
