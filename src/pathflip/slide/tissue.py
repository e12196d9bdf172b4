"""Find the tissue of a stained slide: by colour relative to the glass, and fat by its walls; never by darkness.

Darkness is what glass edges, scanner bands, dust and shadows share with tissue; colour is what they lack. Each pixel
is compared with the slide's own glass in optical density (Beer–Lambert), and the *spread* of that density over
red, green and blue is the evidence: zero for anything grey, whatever its darkness; large for eosin, haematoxylin and
DAB, faint or strong. Fat averages to nearly nothing: it is found by the thin coloured walls that span it
(:mod:`pathflip.slide.walls`), where these touch other tissue or are large enough to stand alone.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError
from pathflip.geometry import SlideInfo
from pathflip.slide.masks import GREY_TINT, Mask, closed, disk, extremes, fill_holes, grown, hysteresis, without_small
from pathflip.slide.overview_quality import poor_overview
from pathflip.slide.reader import Slide
from pathflip.slide.walls import line_contrast, spanned_by_walls, without_smears

if TYPE_CHECKING:
    from shapely import Polygon

__all__ = [
    "ASSUMED_MPP",
    "DOUBTS",
    "TissueMask",
    "TissueSpec",
    "area_fractions",
    "find_tissue",
    "glass_colour",
    "is_dark_field",
    "pen_strokes",
]

ASSUMED_MPP = 0.5
"""Only sets the scale of the search on slides without a known resolution; never used for tiles."""
_VERY_PALE = "very pale: tissue may be missed"
_POOR = "overview too poor: pale tissue may be missed"
_COLOURLESS = "hardly any colour: pale tissue may be missed"
DOUBTS = (_VERY_PALE, _POOR, _COLOURLESS)
"""How warnings of tissue that may be missed begin."""
_LEAST_COLOUR = 0.34
"""Median colour spread of stained pixels over their density: 23 real slides have .43 to .77, .21 to .39 where half of
their colour is taken away."""
_WEAKLY_STAINED = 0.6
"""Optical density of the densest tissue below which walls may be too faint to count;"""
_FAINT_FRACTION = 0.025
"""they are where walls half as strong would span this fraction more (slides as they are: below .02)."""
_BRIGHTEST = np.float32(-0.03)
"""What is brighter than the glass by more (the white of what was not scanned) has no colour."""
_STAINED, _FEWEST_STAINED = 0.1, 100
_HARDLY_STAINED = 0.2
"""Of stained tissue the densest fiftieth absorbs at least this much green (natural-log density); usual are 0.5 to 2."""


@dataclass(frozen=True)
class TissueSpec:
    """How tissue is searched for. Lengths in microns, so that one setting fits every scanner.

    Attributes:
        mask_mpp: resolution of the mask.
        smooth_um: standard deviation of the average over which colour is judged.
        faint: colour spread (natural-log optical density) above which a pixel may be tissue.
        clear: colour spread that some pixel of a fragment must reach.
        wall: density in green by which the walls of fat stand out from what is beside them.
        wall_gap_um: half the widest gap between walls of the same fat.
        wall_fraction: walls cover at least this fraction of fat.
        alone_um2: fat that touches no other tissue counts from this area.
        close_um: gaps up to twice this width, such as fat cells, belong to the tissue around them.
        hole_um2: enclosed holes up to this area belong to the tissue.
        fragment_um2: smaller fragments are dust or debris.
        max_mask_px: longest side of the mask; beyond it the mask gets coarser.
    """

    mask_mpp: float = 8.0
    smooth_um: float = 12.0
    faint: float = 0.028
    clear: float = 0.06
    wall: float = 0.02
    wall_gap_um: float = 56.0
    wall_fraction: float = 0.12
    alone_um2: float = 50_000.0
    close_um: float = 28.0
    hole_um2: float = 60_000.0
    fragment_um2: float = 10_000.0
    max_mask_px: int = 4096

    def __post_init__(self) -> None:
        for name in ("mask_mpp", "smooth_um", "faint", "clear", "wall", "wall_gap_um", "close_um", "max_mask_px"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"TissueSpec.{name}: got {getattr(self, name)}, expected a positive number")


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Where the tissue is.

    Attributes:
        info: the slide.
        mask: bool (rows, columns); True is tissue. Pixel (i, j) covers level-0 ``[j, j + 1) × [i, i + 1)`` times
            ``downsample``, exactly.
        downsample: level-0 pixels per mask pixel.
        warnings: what a person should know, for example that the slide is not brightfield.
    """

    info: SlideInfo
    mask: Mask = field(repr=False)
    downsample: float
    warnings: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """Tissue as a fraction of the slide's area."""
        return float(self.mask.mean())

    @property
    def area_mm2(self) -> float | None:
        """Tissue area, or None where the slide's resolution is unknown."""
        if self.info.mpp0 is None:
            return None
        return float(self.mask.sum()) * (self.downsample * self.info.mpp0 / 1000) ** 2

    @property
    def polygons(self) -> "tuple[Polygon, ...]":
        """Outlines of the fragments with their holes, shapely polygons in level-0 pixels, largest first."""
        return _polygons(self.mask, self.downsample, self.info.size0)

    def fractions(self, corners: NDArray[np.int64], side0: int) -> NDArray[np.float64]:
        """The exact fraction of tissue in squares of ``side0`` level-0 pixels at ``corners`` (N, 2); (N,)."""
        return _shares(self._sums, self.downsample, corners, side0)

    @cached_property
    def _sums(self) -> NDArray[np.float64]:
        return _corner_sums(self.mask)


def area_fractions(mask: Mask, downsample: float, corners: NDArray[np.int64], side0: int) -> NDArray[np.float64]:
    """The exact fraction of any mask of ``downsample`` in squares of ``side0`` level-0 pixels at ``corners``; (N,)."""
    return _shares(_corner_sums(mask), downsample, corners, side0)


def _corner_sums(mask: Mask) -> NDArray[np.float64]:
    """What of the mask lies above and left of every corner of its pixels."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    sums[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    return sums


def _shares(
    sums: NDArray[np.float64], downsample: float, corners: NDArray[np.int64], side0: int
) -> NDArray[np.float64]:
    low = corners / downsample
    high = (corners + side0) / downsample
    total = (
        _at(sums, high[:, 0], high[:, 1])
        - _at(sums, low[:, 0], high[:, 1])
        - _at(sums, high[:, 0], low[:, 1])
        + _at(sums, low[:, 0], low[:, 1])
    )
    return np.asarray(total / (side0 / downsample) ** 2)


def _at(sums: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The integral of the mask over ``[0, x) × [0, y)``: bilinear in its corner sums, hence exact."""
    rows, columns = sums.shape
    x, y = np.clip(x, 0, columns - 1), np.clip(y, 0, rows - 1)
    j, i = np.minimum(x.astype(int), columns - 2), np.minimum(y.astype(int), rows - 2)
    u, v = x - j, y - i
    top = sums[i, j] * (1 - u) + sums[i, j + 1] * u
    bottom = sums[i + 1, j] * (1 - u) + sums[i + 1, j + 1] * u
    return top * (1 - v) + bottom * v


def find_tissue(slide: Slide, spec: TissueSpec | None = None) -> TissueMask:
    """Find the tissue of a brightfield slide (H&E, IHC and other coloured stains).

    Fat, pale and dark fragments are tissue; glass, grey scanner bands, dust, shadows, air bubbles and pen are not.
    A fluorescence slide gives an empty mask and a warning.

    Raises:
        SlideError: the slide's overview cannot be decoded.
    """
    spec = spec or TissueSpec()
    warnings: list[str] = []
    mpp0 = slide.info.mpp0
    if mpp0 is None:
        mpp0 = ASSUMED_MPP
        warnings.append(f"resolution unknown: tissue was searched for as if level 0 had {ASSUMED_MPP} mpp")
    downsample = max(1.0, spec.mask_mpp / mpp0, max(slide.info.size0) / spec.max_mask_px)
    overview = slide.overview(downsample)
    if is_dark_field(overview):
        warnings.append("not a brightfield slide (dark background, fluorescence?): no tissue can be found by colour")
        return TissueMask(slide.info, np.zeros(overview.shape[:2], bool), downsample, tuple(warnings))
    mask = _tissue(overview, downsample * mpp0, spec)
    warnings += _doubts(overview, mask, downsample * mpp0, spec)
    return TissueMask(slide.info, mask, downsample, tuple(warnings))


def _doubts(overview: NDArray[np.uint8], mask: Mask, um: float, spec: TissueSpec) -> list[str]:
    """What speaks for tissue that was missed: hardly stained tissue, scattered cells, structure too faint to count."""
    glass, noise = glass_colour(overview)
    density = np.maximum(optical_density(overview, glass), _BRIGHTEST)
    density[pen_strokes(density, um)] = 0
    low, high = extremes(density)
    wall = max(spec.wall, noise)
    poor = poor_overview(overview, density, mask, noise, um)
    doubts = [f"{_POOR} ({poor})"] if poor else []
    specks = (line_contrast(np.ascontiguousarray(density[..., 1]), um) > wall) & ~grown(mask, 40 / um)
    cells = float((specks & (high - low > spec.faint + 2 * GREY_TINT * low)).sum()) * (um / 1000) ** 2
    area = float(mask.sum()) * (um / 1000) ** 2
    stain = float(np.percentile(density[..., 1][mask], 98)) if mask.any() else 0.0
    if _colour_of_stain(low, high, mask) < _LEAST_COLOUR:
        doubts.append(_COLOURLESS)
    if mask.any() and stain < _HARDLY_STAINED:
        return [*doubts, f"{_VERY_PALE} (hardly stained)"]
    if cells > max(0.02, 0.1 * area):
        return [*doubts, f"{_VERY_PALE} ({cells:.2g} mm² of scattered cells or specks outside what was found)"]
    if (area < 1 or stain < _WEAKLY_STAINED) and max(0.5 * wall, noise) < wall:
        spanned = spanned_by_walls(
            density, mask, um, wall=max(0.5 * wall, noise), gap_um=spec.wall_gap_um, hole_um2=spec.hole_um2,
            fraction=spec.wall_fraction,
        )  # fmt: skip
        faint = float(spanned.sum()) * (um / 1000) ** 2
        if faint > (0.2 if area < 1 else _FAINT_FRACTION * area):
            return [*doubts, f"{_VERY_PALE} ({faint:.2g} mm² of faint structure)"]
    if mask.any():
        return doubts
    return [
        *doubts,
        "no tissue found, only dust or debris" if specks.any() else "no tissue found: the slide looks empty",
    ]


def _colour_of_stain(low: NDArray[np.float32], high: NDArray[np.float32], mask: Mask) -> float:
    """How coloured the tissue is: median of spread over density of its stained pixels; 1 where there are hardly any."""
    stained = mask & (high > _STAINED)
    if int(stained.sum()) < _FEWEST_STAINED:
        return 1.0
    return float(np.median((high[stained] - low[stained]) / high[stained]))


def is_dark_field(overview: NDArray[np.uint8]) -> bool:
    """Fluorescence: hardly anything as bright as glass, and mostly near black."""
    light = overview @ np.array([0.299, 0.587, 0.114], np.float32)
    return bool((light > 150).mean() < 0.05 and np.median(light) < 60)


def _tissue(overview: NDArray[np.uint8], um: float, spec: TissueSpec) -> Mask:
    """The mask of an overview whose pixels span ``um`` microns."""
    import cv2

    glass, noise = glass_colour(overview)
    density = np.maximum(optical_density(overview, glass), _BRIGHTEST)
    pen = pen_strokes(density, um)
    density[pen] = 0
    low, high = extremes(density)
    spread = np.minimum(np.maximum(high - low - GREY_TINT * np.maximum(low, 0), 0), 1)
    sigma = max(0.6, spec.smooth_um / um)
    colour = cv2.GaussianBlur(spread, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    faint = max(spec.faint, min(noise, 2.5 * spec.faint))
    near = cv2.blur(spread, (3, 3)) > faint
    clear = colour > max(spec.clear, 1.5 * faint)
    solid = closed(hysteresis((colour > faint) & near, clear), spec.close_um / um)  # near: no halo of the average
    fat = spanned_by_walls(
        density,
        solid,
        um,
        wall=max(spec.wall, noise),
        gap_um=spec.wall_gap_um,
        hole_um2=spec.hole_um2,
        fraction=spec.wall_fraction,
    )
    mask = hysteresis(solid | fat, clear | without_small(fat, spec.alone_um2 / um**2))
    mask = fill_holes(mask & ~pen, spec.hole_um2 / um**2) & ~pen
    return without_smears(mask, density[..., 1], um, spec.fragment_um2)


def optical_density(overview: NDArray[np.uint8], glass: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural-log optical density relative to the glass, (rows, columns, 3); below zero where brighter than it."""
    import cv2

    levels = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1)[:, None] / glass)
    return np.asarray(cv2.LUT(overview, np.ascontiguousarray(levels[None], np.float32)))


def glass_colour(overview: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """The colour of bare glass, and how much optical density its noise alone reaches.

    Glass is even: of the bright pixels, the flattest are looked at (next to fat most bright pixels are no glass, but
    what lies between its walls is as bright), and of those the commonest brightness. Pure white is left out where
    something else is flat as well: scanners fill with it what they did not scan.
    """
    import cv2

    around = np.ones((3, 3), np.uint8)
    uneven = extremes(cv2.dilate(overview, around) - cv2.erode(overview, around))[1]  # to the neighbours, at most
    low, high = extremes(overview)
    bright = (low > 150) & (high - low < 45)
    count = int(bright.sum())
    if count < 0.002 * low.size:  # tissue from edge to edge
        return np.full(3, 245, np.float32), 0.0
    flattest = np.searchsorted(np.bincount(uneven[bright], minlength=256).cumsum(), 0.05 * count)
    noise = max(1.0, float(flattest))
    flat = bright & (uneven <= max(3.0, noise))
    scanned = flat & (low < 255)
    flat = scanned if scanned.sum() >= 0.002 * low.size else flat
    pixels = overview[flat]
    common = np.convolve(np.bincount(pixels[:, 1], minlength=256), np.ones(5), "same").argmax()
    glass = np.median(pixels[np.abs(pixels[:, 1] - np.float32(common)) <= 4][::7], axis=0)
    return glass.astype(np.float32), 2 * noise / float(glass[1])


def pen_strokes(density: NDArray[np.float32], um: float) -> Mask:
    """Marker strokes: broad areas whose density no histological stain has.

    Haematoxylin, eosin and DAB absorb green at least nearly as much as red. Blue, cyan and green ink absorb red far
    more; red ink absorbs green and blue alike, strongly, and leaves red untouched.
    """
    import cv2

    red, green, blue = (density[..., i] for i in range(3))
    cold = (red > 1.3 * green + 0.05) & (red > 0.15)
    cold |= (red > 1.05 * green + 0.05) & (blue < 0.45 * red) & (red > 0.3)  # dilute blue ink
    hot = (green > 1.2) & (blue > 0.6 * green) & (red < 0.08 * green)  # blood stays darker in red
    stroke = (cold | hot).astype(np.uint8)
    radius = max(1, round(20 / um))
    core = cv2.morphologyEx(stroke, cv2.MORPH_OPEN, disk(radius))
    if not core.any():
        return core.astype(bool)
    whole = hysteresis(stroke.astype(bool), core.astype(bool)).astype(np.uint8)  # thin ends of the stroke as well
    return cv2.dilate(whole, disk(radius + 1)).astype(bool)


def _polygons(mask: Mask, downsample: float, size0: tuple[int, int]) -> "tuple[Polygon, ...]":
    """Outlines along the pixels' outer edges, smoothed by half a mask pixel, clipped to the slide."""
    import cv2
    from shapely import MultiPolygon, Polygon, box, make_valid

    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons: list[Polygon] = []
    for index, contour in enumerate(contours):
        if tree[0][index][3] != -1 or len(contour) < 3:
            continue
        holes, child = [], tree[0][index][2]
        while child != -1:
            if len(contours[child]) >= 3:
                holes.append(contours[child][:, 0, :] + 0.5)
            child = tree[0][child][0]
        # OpenCV's outline runs through pixel centres; half a pixel outwards it runs along their edges.
        outline = make_valid(Polygon(contour[:, 0, :] + 0.5, holes)).buffer(0.5, join_style="mitre").simplify(0.5)
        scaled = _scaled(outline, downsample).intersection(box(0, 0, *size0))
        parts = scaled.geoms if isinstance(scaled, MultiPolygon) else [scaled]
        polygons.extend(part for part in parts if isinstance(part, Polygon) and not part.is_empty)
    return tuple(sorted(polygons, key=lambda polygon: -polygon.area))


def _scaled(geometry: "Polygon", factor: float) -> "Polygon":
    from shapely import transform

    return transform(geometry, lambda points: points * factor)
