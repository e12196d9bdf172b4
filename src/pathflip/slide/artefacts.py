"""What preparation and scanning did to a slide: blur, folds, pen, dark bands, air bubbles, dust; found by rule.

Focus is judged by physics rather than by a fixed number of grey levels: defocus is a low-pass filter, so it lowers the
energy of fine structure (2–4 µm) relative to that of coarse structure (8–16 µm) in the same place, whatever the stain,
the contrast or the scanner. A fold is tissue lying double: both stains at once are stronger than in the solid tissue
around it, while cellular or haemorrhagic tissue has more of one stain only. Pen, bands, bubbles and dust lie on the
glass and lack the colours of stains.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError
from pathflip.geometry import SlideInfo
from pathflip.slide.masks import Mask, closed, disk, extremes, grown, hysteresis, opened, without_small
from pathflip.slide.reader import Slide
from pathflip.slide.tissue import (
    ASSUMED_MPP,
    TissueMask,
    area_fractions,
    glass_colour,
    is_dark_field,
    optical_density,
    pen_strokes,
)

__all__ = ["KINDS", "ArtefactMask", "ArtefactSpec", "find_artefacts"]

KINDS = ("clean", "dust", "blur", "fold", "bubble", "dark", "pen")
"""``KINDS[i]`` names value i of an artefact mask. Where two lie over each other, the later one is kept."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_BLOCK = 128
"""Cells on a side of the blocks focus is measured in: bounds its memory."""
_HALO = 8
"""Cells read beyond a block, so that its edge is filtered like its middle."""
_COARSEST_FOCUS_MPP = 2.2
_STRUCTURELESS = 0.6
"""Strong defocus takes the coarse structure too and leaves noise: there the limit of the ratio is 1/0.6 as high."""
_FOLD_DENSITY = 0.8
"""Optical density in green that the core of a fold reaches: two layers of what is pale already prove nothing."""
_FOLD_BALANCE = 1.35
"""In a fold haematoxylin gains at most this much more than eosin."""
_FINE_MPP = 1.3
"""Up to this resolution structure below 2 µm is there to be judged as well."""


@dataclass(frozen=True)
class ArtefactSpec:
    """How artefacts are searched for, and when they cost a tile its place. Lengths in microns.

    Attributes:
        max_share: a tile is excluded when more than this fraction of what lies on its glass is artefact.
        focus_mpp: resolution focus is judged at (coarser slides at their own, up to 2.2).
        fine: least amplitude of structure below 2 µm relative to that of 4–8 µm.
        coarse: least amplitude of structure of 2–4 µm relative to that of 8–16 µm.
        faint: fine contrast, relative to the slide's median, below which strong defocus is suspected.
        window_um: standard deviation of the average over which focus is judged.
        blur_um2: smaller blurred areas are left.
        fold: both stains this many times those of the solid tissue around make the core of a fold.
        fold_rim: and this many times, beside a core, its rim.
        fold_um2: smaller folds are left.
        around_um: standard deviation of the average that says what is around.
    """

    max_share: float = 0.5
    focus_mpp: float = 1.1
    fine: float = 0.7
    coarse: float = 0.5
    faint: float = 0.35
    window_um: float = 32.0
    blur_um2: float = 15_000.0
    fold: float = 1.8
    fold_rim: float = 1.45
    fold_um2: float = 5_000.0
    around_um: float = 320.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_share < 1:
            raise ConfigError(f"ArtefactSpec.max_share: got {self.max_share}, expected 0 up to (not including) 1")
        for name in ("focus_mpp", "window_um", "around_um", "fold", "fold_rim"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"ArtefactSpec.{name}: got {getattr(self, name)}, expected a positive number")


@dataclass(frozen=True, eq=False)
class ArtefactMask:
    """What is wrong where, on the lattice of the tissue mask it was found with.

    Attributes:
        info: the slide.
        kinds: uint8 (rows, columns), indices of :data:`KINDS`.
        sharpness: float32 (rows, columns); 1 is the limit below which tissue counts as blurred, sharp tissue has 1.5
            to 5. NaN where there is no tissue, too little structure to judge, or the slide is coarser than 2.2 mpp.
        downsample: level-0 pixels per mask pixel.
        warnings: what a person should know.
    """

    info: SlideInfo
    kinds: NDArray[np.uint8] = field(repr=False)
    sharpness: NDArray[np.float32] = field(repr=False)
    downsample: float
    warnings: tuple[str, ...] = ()

    def mask(self, kind: str) -> Mask:
        """Where one kind is; "any" means all of them."""
        return np.asarray(self.kinds > 0 if kind == "any" else self.kinds == KINDS.index(kind))

    def share_of_tissue(self, kind: str, tissue: TissueMask) -> float:
        """The fraction of the tissue mask that a kind covers; 0 where there is no tissue."""
        area = int(tissue.mask.sum())
        return float((self.mask(kind) & tissue.mask).sum()) / area if area else 0.0

    @cached_property
    def _kinds_found(self) -> tuple[str, ...]:
        return tuple(KINDS[i] for i in np.unique(self.kinds) if i)

    def shares(self, corners: NDArray[np.int64], side0: int) -> dict[str, NDArray[np.float64]]:
        """Fraction of squares of ``side0`` level-0 pixels at ``corners`` (N, 2) that each kind on the slide covers."""
        return {kind: area_fractions(self.mask(kind), self.downsample, corners, side0) for kind in self._kinds_found}


def find_artefacts(slide: Slide, tissue: TissueMask, spec: ArtefactSpec | None = None) -> ArtefactMask:
    """Find artefacts of a brightfield slide.

    Args:
        slide: the slide.
        tissue: its tissue, from :func:`~pathflip.slide.find_tissue`; blur and folds are looked for in it, dust and
            bubbles around it.
        spec: how.

    Raises:
        SlideError: the slide's pixels cannot be decoded.
    """
    spec = spec or ArtefactSpec()
    overview = slide.overview(tissue.downsample)
    kinds = np.zeros(tissue.mask.shape, np.uint8)
    nowhere = np.full(kinds.shape, np.nan, np.float32)
    if is_dark_field(overview):
        return ArtefactMask(slide.info, kinds, nowhere, tissue.downsample, ("not brightfield: no artefacts sought",))
    um = tissue.downsample * (slide.info.mpp0 or ASSUMED_MPP)
    density = optical_density(overview, glass_colour(overview)[0])
    sharpness, warnings = _sharpness(slide, tissue, overview, um, spec) if tissue.mask.any() else (nowhere, ())
    for kind, mask in (
        ("blur", _blurred(sharpness, tissue.mask, um, spec)),
        ("fold", _folds(density, tissue.mask, um, spec)),
        *_on_glass(density, tissue.mask, um).items(),
    ):
        index = KINDS.index(kind)
        kinds[mask & (kinds < index)] = index
    return ArtefactMask(slide.info, kinds, sharpness, tissue.downsample, warnings)


def _sharpness(
    slide: Slide, tissue: TissueMask, overview: NDArray[np.uint8], um: float, spec: ArtefactSpec
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Fine over coarse structure in every cell of the tissue, in units of the least that counts as sharp."""
    shape, mpp0 = tissue.mask.shape, slide.info.mpp0 or ASSUMED_MPP
    if mpp0 > _COARSEST_FOCUS_MPP:
        warning = f"focus not judged: the slide's {mpp0:.3g} mpp are coarser than {_COARSEST_FOCUS_MPP}"
        return np.full(shape, np.nan, np.float32), (warning,)
    side = max(1, int(um / max(spec.focus_mpp, mpp0) + 1e-6))  # working pixels a cell
    energy = np.full((4, *shape), np.nan, np.float32)
    for rows, columns in _blocks(tissue.mask):
        energy[:, rows, columns] = _block_energy(slide, tissue, rows, columns, side, um)
    glass = ~grown(tissue.mask, 60 / um) & np.isfinite(energy[0])
    noise = np.median(energy[:, glass], axis=1) if glass.sum() >= 50 else np.zeros(4, np.float32)
    weight = (tissue.mask & np.isfinite(energy[0])).astype(np.float32)
    mean = [_average(np.nan_to_num(e), weight, spec.window_um / um) for e in energy]
    finest, fine, middle, coarse = (np.maximum(m - n, 0) for m, n in zip(mean, noise, strict=True))
    sharp = np.sqrt(fine / (coarse + 0.1)) / spec.coarse
    light = _average(overview @ _LUMA, weight, spec.window_um / um)
    contrast = np.sqrt(fine) / np.maximum(light * np.log(glass_colour(overview)[0] @ _LUMA / np.maximum(light, 1)), 1)
    faint = contrast / (spec.faint * float(np.median(contrast[weight > 0])))
    sharp = np.minimum(sharp, np.maximum(sharp * _STRUCTURELESS, faint))
    if um / side <= _FINE_MPP:
        sharp = np.minimum(sharp, np.sqrt(finest / (middle + 0.1)) / spec.fine)
    judged = tissue.mask & (weight > 0) & (coarse > 0.25)  # half a grey level of structure, or nothing can be said
    return np.where(judged, sharp, np.nan).astype(np.float32), ()


def _blocks(mask: Mask) -> Iterator[tuple[slice, slice]]:
    """Windows of the mask that hold tissue."""
    for top in range(0, mask.shape[0], _BLOCK):
        for left in range(0, mask.shape[1], _BLOCK):
            window = slice(top, top + _BLOCK), slice(left, left + _BLOCK)
            if mask[window].any():
                yield window


def _block_energy(
    slide: Slide, tissue: TissueMask, rows: slice, columns: slice, side: int, um: float
) -> NDArray[np.float32]:
    """Mean squared band-passed light per cell, (4, rows, columns): below 2 µm, 2–4, 4–8 and 8–16 µm.

    The bands are differences of Gaussians with these standard deviations.
    """
    import cv2

    height, width = tissue.mask[rows, columns].shape
    down, across = height + 2 * _HALO, width + 2 * _HALO
    step = tissue.downsample
    corner = (columns.start - _HALO) * step, (rows.start - _HALO) * step
    pixels = slide.read_box(*corner, across * step, down * step, (across * side, down * side))
    light = np.asarray(pixels @ _LUMA, np.float32)
    wide = max(1, min(side, round(um / 2)))  # two-micron pixels are fine enough for the wider bands
    small = np.asarray(cv2.resize(light, (across * wide, down * wide), interpolation=cv2.INTER_AREA), np.float32)
    soft = [_blurred_light(light, s * side / um) for s in (2, 4)]
    softer = [_blurred_light(small, s * wide / um) for s in (4, 8, 16)]
    bands = (light - soft[0], soft[0] - soft[1], softer[0] - softer[1], softer[1] - softer[2])
    cells = [cv2.resize(b * b, (across, down), interpolation=cv2.INTER_AREA) for b in bands]
    return np.stack(cells).astype(np.float32)[:, _HALO:-_HALO, _HALO:-_HALO]


def _blurred_light(light: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    import cv2

    return np.asarray(cv2.GaussianBlur(light, (0, 0), sigma), np.float32)


def _average(values: NDArray[np.float32], weight: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """The weighted Gaussian mean."""
    import cv2

    total = cv2.GaussianBlur(values * weight, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    share = cv2.GaussianBlur(weight, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(total / np.maximum(share, 1e-6), np.float32)


def _blurred(sharpness: NDArray[np.float32], tissue: Mask, um: float, spec: ArtefactSpec) -> Mask:
    """Coherent areas below the limit; specks are the statistics of few structures, not blur."""
    import cv2

    low = (np.nan_to_num(sharpness, nan=9.0) < 1).astype(np.uint8)
    core = cv2.morphologyEx(low, cv2.MORPH_OPEN, disk(max(1, round(24 / um)))).astype(bool)
    return without_small(core & tissue, spec.blur_um2 / um**2)


def _folds(density: NDArray[np.float32], tissue: Mask, um: float, spec: ArtefactSpec) -> Mask:
    """Tissue in which every stain is stronger than around, and by about the same factor.

    Red light is absorbed by haematoxylin nearly alone; what green exceeds red by is eosin (Ruifrok & Johnston 2001).
    The slide's pale parts (fat, lumina) are left out of what is around: beside them anything solid looks double.
    """
    import cv2

    soft = np.asarray(cv2.GaussianBlur(density, (0, 0), max(0.6, 10 / um)), np.float32)
    red, green, blue = (soft[..., i] for i in range(3))
    if not tissue.any():
        return tissue
    typical = float(np.median(green[tissue]))
    solid = (tissue & (green > 0.6 * typical)).astype(np.float32)
    factors = []
    for stain in (red, np.maximum(green - 1.05 * red, 0), blue):
        around = np.maximum(_average(stain, solid, spec.around_um / um), float(np.median(stain[tissue])))
        factors.append(stain / np.maximum(around, 0.04))
    haematoxylin, eosin, dark_blue = factors
    both = np.minimum(haematoxylin, eosin)
    brown = dark_blue > 1.6 * both  # DAB, pigment
    usual = float(np.percentile(green[solid > 0], 90))  # folds are rare, and denser than dense tissue
    rim = tissue & (both > spec.fold_rim) & (green > 1.1 * usual) & (green > 0.6) & ~brown
    alike = haematoxylin < _FOLD_BALANCE * eosin  # epidermis and cellular septa gain haematoxylin above all
    core = opened(rim & alike & (both > spec.fold) & (green > max(_FOLD_DENSITY, 1.3 * usual)), 8 / um)
    core = without_small(core, 0.25 * spec.fold_um2 / um**2)
    return without_small(hysteresis(rim, core), spec.fold_um2 / um**2)


def _on_glass(density: NDArray[np.float32], tissue: Mask, um: float) -> dict[str, Mask]:
    """Dust, bubbles, dark bands and pen."""
    low, high = extremes(density)
    colourless = high - low < 0.15 * low + 0.06
    free = ~grown(tissue, 16 / um)
    grey = (low > 0.12) & colourless & free
    ink = colourless & (low > 1.2)  # black to the eye: over tissue as well
    broad = opened(grey | ink, 20 / um)
    band = _along_the_edge(grey | ink, um)
    black = hysteresis((grey & (low > 0.35)) | ink, broad & (low > 0.6)) & ~band
    bubble = _bubbles(low, colourless, tissue, um)
    return {
        "dust": grey & ~bubble,
        "bubble": bubble,
        "dark": band,
        "pen": without_small(black, 8_000 / um**2) | pen_strokes(density, um),
    }


def _along_the_edge(grey: Mask, um: float) -> Mask:
    """Grey parts that run along the slide's edge for at least half a millimetre: bands, slide edges, shadows."""
    import cv2

    _, labels, _, _ = cv2.connectedComponentsWithStats(closed(grey, 24 / um).astype(np.uint8), connectivity=8)
    keep = np.zeros(int(labels.max()) + 1, bool)
    for side in (labels[:2], labels[-2:], labels[:, :2].T, labels[:, -2:].T):
        touching = np.bincount(side.max(axis=0), minlength=len(keep))
        keep |= touching * um >= 500
    keep[0] = False
    return np.asarray(keep[labels])


def _bubbles(low: NDArray[np.float32], colourless: Mask, tissue: Mask, um: float) -> Mask:
    """Round areas closed in by a thin colourless outline, with what they hold."""
    import cv2

    pad = round(48 / um) + 1
    floor = cv2.morphologyEx(low, cv2.MORPH_OPEN, disk(pad))  # lines are thin: what survives is background
    line = (low - floor > 0.04) & colourless & ~tissue
    outline = closed(line, 12 / um).astype(np.uint8)
    contours, tree = cv2.findContours(outline, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    bubbles = np.zeros(low.shape, np.uint8)
    for index, contour in enumerate(contours):
        hollow: Any = tree[0][index][2]
        if tree[0][index][3] != -1 or hollow == -1:
            continue
        area, hull = cv2.contourArea(contour), cv2.contourArea(cv2.convexHull(contour))
        holes = 0.0
        while hollow != -1:
            holes += cv2.contourArea(contours[hollow])
            hollow = tree[0][hollow][0]
        around = cv2.arcLength(contour, True)
        if holes > 0.4 * area and holes * um**2 > 6_000 and area > 0.9 * hull and 4 * np.pi * area > 0.6 * around**2:
            cv2.drawContours(bubbles, [contour], 0, 1, -1)
    return bubbles.astype(bool)
