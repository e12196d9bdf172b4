"""Painting one slide: the ground plan filled with tissue swatches, spoilt by artefacts, stained and scanned."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError
from pathflip.simulate.artefact_painting import spoil_glass, spoil_tissue
from pathflip.simulate.fields import cells, fractal, noise
from pathflip.simulate.layout import Layout, lay_out
from pathflip.simulate.scanner import develop, draw_scan
from pathflip.simulate.swatches import FINDING_SWATCHES, Brush, Swatch, stroma
from pathflip.simulate.tumour import tumour_sheet, tumour_swatch
from pathflip.simulate.world import FINDINGS, LABELS, CasePlan, World

__all__ = ["Painting", "paint"]

NUM_LABS = 8
"""Laboratories a world has; each stains and scans in its own way."""

NUM_VARIANTS = 4
"""Swatches drawn of every finding and of the host stroma; tumours are drawn anew for every slide."""

SWATCH_UM = 960.0
"""Side of a swatch, microns."""


@dataclass(frozen=True, eq=False)
class Painting:
    """A painted slide: ``rgb`` uint8 (H, W, 3) at level 0 and ``labels`` uint8, one pixel per ``World.label_px``."""

    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def paint(plan: CasePlan, world: World) -> Painting:
    """Paint the slide a plan describes; the same plan and world give the same bytes anywhere.

    Raises:
        ConfigError: the slide is not a whole number of label-map pixels.
    """
    if world.slide_px % world.label_px or world.slide_px < 256:
        raise ConfigError(
            f"World.slide_px: got {world.slide_px}, expected a multiple of label_px ({world.label_px}), at least 256"
        )
    rng = np.random.default_rng(plan.seed)
    layout = lay_out(plan, world, rng)
    canvas = _Canvas(world, rng)
    canvas.cover(_host_swatch(world.name, world.seed, _swatch_px(world), world.mpp, _variant(rng)))
    if plan.tumour is not None and plan.pattern is not None:
        brush = _brush(rng, world)
        brush.start_from(_tumour_stroma(world.name, world.seed, brush.size, world.mpp, _variant(rng)))
        canvas.region(tumour_swatch(brush, plan.tumour, plan.grade, plan.pattern), layout.tumour)
    _findings(canvas, plan, layout, world, rng)
    canvas.cut(layout.tissue, layout.labels)
    labels = layout.labels.copy()
    hidden = spoil_tissue(canvas.stains, layout.labels, world, rng)
    labels[hidden] = LABELS.index("artefact")
    lab = world.rng("lab", int(world.rng("lab of", plan.patient).integers(NUM_LABS)))
    rgb = develop(canvas.stains, draw_scan(lab, rng), rng)
    spoil_glass(rgb, layout.tissue, hidden, world, rng)
    return Painting(rgb, labels)


def _swatch_px(world: World) -> int:
    """Pixels of a swatch: many divisors (seamless noise), and small enough to paint at any resolution."""
    return int(np.clip(round(SWATCH_UM / world.mpp / 120), 2, 16)) * 120


def _brush(rng: np.random.Generator, world: World) -> Brush:
    return Brush(rng, _swatch_px(world), world.mpp)


def _variant(rng: np.random.Generator) -> int:
    return int(rng.integers(NUM_VARIANTS))


def _bank(name: str, seed: int, kind: str, variant: int) -> np.random.Generator:
    return World(name=name, seed=seed, num_cases=0).rng("swatch", kind, variant)


@lru_cache(maxsize=8)
def _host_swatch(name: str, seed: int, size: int, mpp: float, variant: int) -> Swatch:
    """The fibrous tissue of a slide, twice as wide as other swatches because there is so much of it."""
    brush = Brush(_bank(name, seed, "stroma", variant), 2 * size, mpp)
    stroma(brush, density=(0.85, 1.0, 1.12, 0.95)[variant % 4], cellularity=(0.8, 1.0, 1.25, 1.1)[variant % 4])
    return brush.swatch()


@lru_cache(maxsize=8)
def _tumour_stroma(name: str, seed: int, size: int, mpp: float, variant: int) -> Swatch:
    """What lies between tumour cells: a little more cellular than the host's own."""
    brush = Brush(_bank(name, seed, "tumour stroma", variant), size, mpp)
    stroma(brush, density=0.95, cellularity=1.2, wave=20)
    return brush.swatch()


@lru_cache(maxsize=128)
def _finding_swatch(name: str, seed: int, size: int, mpp: float, finding: str, variant: int) -> Swatch:
    return FINDING_SWATCHES[finding](Brush(_bank(name, seed, finding, variant), size, mpp))


@lru_cache(maxsize=4)
def _edges(name: str, seed: int) -> NDArray[np.uint8]:
    """Ragged thresholds around 128 that turn smooth outlines into torn ones; (960, 960)."""
    rng = _bank(name, seed, "edges", 0)
    return np.clip(128 + 34 * fractal(rng, 960, 48, 5, 0.72), 25, 230).astype(np.uint8)


@lru_cache(maxsize=4)
def _cracks(name: str, seed: int, size: int, mpp: float) -> NDArray[np.uint8]:
    """Shrinkage clefts: 255 where the tissue is torn."""
    rng = _bank(name, seed, "cracks", 0)
    net = cells(rng, size, 150 / mpp, warp=14 / mpp, stretch=1.8)
    width = (1.5 + 1.4 * noise(rng, size, 60 / mpp)) * 2 / mpp
    return np.where((net.border < width) & (fractal(rng, size, 320 / mpp, 2) > 0.9), 255, 0).astype(np.uint8)


def _findings(canvas: "_Canvas", plan: CasePlan, layout: Layout, world: World, rng: np.random.Generator) -> None:
    sheet = None
    if plan.tumour is not None and {"vascular_invasion", "perineural_invasion", "mucin_pools"} & {
        f.name for f in plan.findings
    }:
        sheet = tumour_sheet(Brush(rng, _swatch_px(world) // 2, world.mpp), plan.tumour, plan.grade)
    for name in FINDINGS:
        where = layout.labels == LABELS.index(name)
        if not where.any():
            continue
        swatch = _finding_swatch(world.name, world.seed, _swatch_px(world), world.mpp, name, _variant(rng))
        count, parts, stats, _ = cv2.connectedComponentsWithStats(where.astype(np.uint8), connectivity=8)
        for part in range(1, count):
            canvas.blob(swatch, parts == part, _as_box(stats[part]), sheet)


def _as_box(stats: NDArray[np.int32]) -> tuple[int, int, int, int]:
    x, y, width, height = (int(v) for v in stats[:4])
    return x, y, width, height


class _Canvas:
    """The slide in stain amounts, (H, W, 4) uint8, and the ways to lay swatches on it."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        self.side, self.step = world.slide_px, world.label_px
        self.stains = np.empty((self.side, self.side, 4), np.uint8)
        edges = _edges(world.name, world.seed)
        self._edges = _repeat(np.roll(edges, tuple(int(v) for v in rng.integers(960, size=2)), axis=(0, 1)), self.side)

    def cover(self, swatch: Swatch) -> None:
        """Fill the whole slide."""
        turned = self._turned(swatch.stains)
        for window, part in _blocks(self.side, len(turned)):
            self.stains[window] = turned[part]

    def region(self, swatch: Swatch, cells: NDArray[np.bool_]) -> None:
        """Fill a region of label cells, cut at its outline."""
        if not cells.any():
            return
        mask = self._mask(cells, (0, 0, cells.shape[1], cells.shape[0]))
        turned = self._turned(swatch.stains)
        for window, part in _blocks(self.side, len(turned)):
            if mask[window].any():
                cv2.copyTo(turned[part], mask[window], self.stains[window])

    def blob(
        self, swatch: Swatch, cells: NDArray[np.bool_], box: tuple[int, int, int, int], sheet: Swatch | None
    ) -> None:
        """Lay one blob of a finding: whole objects where the swatch has such, else cut at the outline."""
        pad = 5
        x0, y0 = max(0, box[0] - pad), max(0, box[1] - pad)
        x1, y1 = min(cells.shape[1], box[0] + box[2] + pad), min(cells.shape[0], box[1] + box[3] + pad)
        mask = self._mask(cells[y0:y1, x0:x1], (x0, y0, x1 - x0, y1 - y0))
        view = self.stains[y0 * self.step : y1 * self.step, x0 * self.step : x1 * self.step]
        pick = self._picker(swatch, mask)
        if swatch.objects is not None:
            objects = pick(swatch.objects)
            if swatch.whole:
                mask = _whole_objects(objects, mask)
            else:
                mask = np.where(objects > 0, mask, 0).astype(np.uint8)
        cv2.copyTo(pick(swatch.stains), mask, view)
        if swatch.insert is not None and sheet is not None:
            cv2.copyTo(pick(sheet.stains), np.where(pick(swatch.insert), mask, 0).astype(np.uint8), view)

    def _picker(self, swatch: Swatch, mask: NDArray[np.uint8]) -> Callable[[NDArray], NDArray]:
        """A random orientation and offset; with whole objects, one object is centred on the blob."""
        turns, flip = int(self.rng.integers(4)), bool(self.rng.integers(2))
        size = len(swatch.stains)
        dy, dx = (int(v) for v in self.rng.integers(size, size=2))
        if swatch.whole and swatch.objects is not None:
            turned = _turn(swatch.objects, turns, flip)
            ids = np.unique(turned)[1:]
            ys, xs = np.nonzero(turned == ids[self.rng.integers(len(ids))])
            my, mx = np.nonzero(mask)
            if len(my) and np.ptp(xs) < size // 2 and np.ptp(ys) < size // 2:
                dy, dx = int(ys.mean() - my.mean()), int(xs.mean() - mx.mean())
        rows, columns = np.arange(mask.shape[0]) + dy, np.arange(mask.shape[1]) + dx

        def pick(plane: NDArray) -> NDArray:
            taken = _turn(plane, turns, flip).take(rows % len(plane), axis=0)
            return np.ascontiguousarray(taken.take(columns % len(plane), axis=1))

        return pick

    def _turned(self, plane: NDArray) -> NDArray:
        turned = _turn(plane, int(self.rng.integers(4)), bool(self.rng.integers(2)))
        return np.roll(turned, tuple(int(v) for v in self.rng.integers(len(plane), size=2)), axis=(0, 1))

    def cut(self, tissue: NDArray[np.bool_], labels: NDArray[np.uint8]) -> None:
        """Leave glass outside the tissue, and tear stroma and tumour a little, as cutting and drying do."""
        solid = np.isin(labels, (LABELS.index("fibrous_stroma"), LABELS.index("tumour"))).astype(np.uint8) * 255
        cracks = _cracks(self.world.name, self.world.seed, 2 * _swatch_px(self.world), self.world.mpp)
        torn = _repeat(self._turned(cracks), self.side)
        here = cv2.resize(noise(self.rng, 60, 12), (labels.shape[1], labels.shape[0])) > self.rng.uniform(-0.2, 1.2)
        torn &= cv2.resize(solid * here, (self.side, self.side), interpolation=cv2.INTER_NEAREST)
        mask = self._mask(tissue, (0, 0, tissue.shape[1], tissue.shape[0]), soft=0.5) & ~torn
        self.stains = np.asarray(cv2.copyTo(self.stains, mask), np.uint8)

    def _mask(self, cells: NDArray[np.bool_], box: tuple[int, int, int, int], soft: float = 0.9) -> NDArray[np.uint8]:
        """Label cells as a level-0 mask (0 or 255) with a ragged outline; ``box`` is where the cells lie.

        ``soft`` (label cells) is how far the two sides of an outline reach into each other.
        """
        x, y, width, height = (v * self.step for v in box)
        blurred = cv2.GaussianBlur(cells.astype(np.uint8) * 255, (0, 0), soft, borderType=cv2.BORDER_REPLICATE)
        ramp = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
        edges = np.ascontiguousarray(self._edges[y : y + height, x : x + width])
        return np.asarray(cv2.compare(ramp, edges, cv2.CMP_GT), np.uint8)


def _blocks(side: int, size: int) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Windows of a slide that swatches of ``size`` fill one after the other, and the part of the swatch to use."""
    for y in range(0, side, size):
        for x in range(0, side, size):
            height, width = min(size, side - y), min(size, side - x)
            yield (slice(y, y + height), slice(x, x + width)), (slice(0, height), slice(0, width))


def _turn(plane: NDArray, turns: int, flip: bool) -> NDArray:
    return np.rot90(plane[:, ::-1] if flip else plane, turns)


def _repeat(plane: NDArray, side: int) -> NDArray:
    """A seamless square repeated to ``side`` pixels."""
    count = -(-side // len(plane))
    return np.ascontiguousarray(np.tile(plane, (count, count) + (1,) * (plane.ndim - 2))[:side, :side])


def _whole_objects(objects: NDArray[np.int32], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Objects that lie mostly inside the mask (at least the one that lies in it best), complete; 0 or 255."""
    _, parts = cv2.connectedComponents((objects > 0).astype(np.uint8), connectivity=4)
    # A swatch repeats, so the same id may stand for two objects: they are told apart by being apart.
    key = (parts * (objects.max() + 1) + objects) * (objects > 0)
    area = np.bincount(key.ravel())
    inside = np.bincount(key.ravel()[mask.ravel() > 0], minlength=len(area)) / np.maximum(area, 1)
    inside[0] = 0
    keep = (inside >= min(0.5, float(inside.max()))) & (area > 0)
    keep[0] = False
    return np.where(keep[key], 255, 0).astype(np.uint8)
