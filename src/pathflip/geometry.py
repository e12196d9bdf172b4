"""Where things are on a slide: pixels, microns, pyramid levels, tiles. Numpy only.

Conventions, everywhere in the project:

* ``(x, y)`` order, origin top-left; ``*_px0`` are level-0 pixels, ``*_px`` pixels at the working resolution.
* Resolution is ``mpp``, microns per pixel; magnification ("20x") never enters a computation, because a
  "40x" pixel is 0.23 µm on one scanner and 0.27 µm on another.
"""

from dataclasses import dataclass, field
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError, MissingMPPError, ResolutionError

MPP_TOLERANCE = 0.05
"""A target resolution may be finer than the slide's own by this fraction; beyond it pixels would be invented."""


@dataclass(frozen=True)
class Box:
    """An axis-aligned rectangle in level-0 pixels: top-left corner, width, height."""

    x: int
    y: int
    width: int
    height: int

    @property
    def center(self) -> tuple[float, float]:
        """The centre, (x, y), in level-0 pixels."""
        return self.x + self.width / 2, self.y + self.height / 2


@dataclass(frozen=True)
class SlideInfo:
    """What is known about a slide without reading its pixels.

    Attributes:
        slide_id: the file's stem; joins slides, features, captions and splits.
        size0: width and height of level 0, pixels.
        mpp0: microns per level-0 pixel (mean of x and y), or None where the file does not say.
        downsamples: level-0 pixels per pixel of each level, ascending, first entry 1.
        vendor: OpenSlide's vendor name, or the image format ("png", "jpeg", "tiff").
        reader: how pixels are read, and why that way; shown by ``pathflip info``.
        bounds0: the scanned part of level 0 (MRXS and others leave black space around it). Viewers such as
            QuPath put their origin at its corner.
        notes: what a person should know of how the slide is read; shown by ``pathflip info``.
        mpp_stated: the resolution in the file's own words, for the error where it is not believed.
    """

    slide_id: str
    size0: tuple[int, int]
    mpp0: float | None
    downsamples: tuple[float, ...] = (1.0,)
    vendor: str = "unknown"
    reader: str = ""
    bounds0: Box | None = None
    notes: tuple[str, ...] = ()
    mpp_stated: str = field(default="", compare=False)  # words, and no feature file keeps them

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Width and height of every pyramid level, pixels (rounded from the downsamples)."""
        return tuple((max(1, round(self.size0[0] / d)), max(1, round(self.size0[1] / d))) for d in self.downsamples)

    def require_mpp(self) -> float:
        """Microns per level-0 pixel.

        Raises:
            MissingMPPError: the file does not say; the message names ``--slide-mpp``.
        """
        if self.mpp0 is None:
            says = (
                f"says '{self.mpp_stated}', which is no scanner's resolution" if self.mpp_stated else "does not say it"
            )
            raise MissingMPPError(
                f"slide '{self.slide_id}': how many microns does a pixel span? The file {says}; expected a vendor "
                "property or a TIFF resolution tag; give the slide's own resolution with --slide-mpp "
                "(for example --slide-mpp 0.5 for a 20x scan)"
            )
        return self.mpp0


@dataclass(frozen=True)
class TileSpec:
    """Which tiles to cut, by physical size.

    Attributes:
        tile_px: side of a tile at the working resolution, pixels.
        mpp: working resolution, microns per pixel.
        stride_px: step between tiles at the working resolution, pixels; 0 (default) means ``tile_px``.
        min_tissue: smallest fraction of a tile that must be tissue.
    """

    tile_px: int = 256
    mpp: float = 0.5
    stride_px: int = 0
    min_tissue: float = 0.25

    def __post_init__(self) -> None:
        if self.stride_px == 0:
            object.__setattr__(self, "stride_px", self.tile_px)
        for name, low, high in (("tile_px", 8, 8192), ("stride_px", 1, 65536), ("mpp", 0.01, 200.0)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"TileSpec.{name}: got {value}, expected {low} to {high}")
        if not 0.0 <= self.min_tissue <= 1.0:
            raise ConfigError(f"TileSpec.min_tissue: got {self.min_tissue}, expected a fraction from 0 to 1")

    @property
    def tile_um(self) -> float:
        """Side of a tile, microns."""
        return self.tile_px * self.mpp

    def tile_px0(self, info: SlideInfo) -> int:
        """Side of a tile in level-0 pixels of this slide (a 512 px tile at 0.5 mpp is 966 px on a 0.265 mpp slide)."""
        return max(1, round(self.tile_px * self.downsample(info)))

    def stride_px0(self, info: SlideInfo) -> int:
        """Step between tiles in level-0 pixels of this slide."""
        return max(1, round(self.stride_px * self.downsample(info)))

    def downsample(self, info: SlideInfo) -> float:
        """Level-0 pixels per working pixel on this slide.

        Raises:
            MissingMPPError: the slide's own resolution is unknown.
            ResolutionError: the target is finer than the slide by more than ``MPP_TOLERANCE``.
        """
        mpp0 = info.require_mpp()
        if self.mpp < mpp0 * (1 - MPP_TOLERANCE):
            raise ResolutionError(
                f"slide '{info.slide_id}': tiles at {self.mpp:g} mpp asked, but its finest level has {mpp0:.4g} mpp; "
                f"expected --mpp {mpp0:.3g} or coarser (up to {MPP_TOLERANCE:.0%} finer is accepted); if the file is "
                "wrong about it, give the slide's own resolution with --slide-mpp"
            )
        return self.mpp / mpp0


@dataclass(frozen=True, eq=False)
class TileGrid:
    """The tiles of one slide: level-0 top-left corners, int64, ``(x, y)``, row by row."""

    info: SlideInfo
    spec: TileSpec
    coords: NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        if self.coords.ndim != 2 or self.coords.shape[1] != 2 or self.coords.dtype != np.int64:
            raise ConfigError(f"TileGrid.coords: got {self.coords.dtype} {self.coords.shape}, expected int64 (N, 2)")

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def tile_px0(self) -> int:
        """Side of a tile, level-0 pixels."""
        return self.spec.tile_px0(self.info)

    def cells(self) -> NDArray[np.int64]:
        """Column and row of every tile on the slide's stride lattice, (N, 2): neighbours differ by 1."""
        return lattice_cells(self.coords, self.spec.stride_px0(self.info))

    def box(self, row: SupportsIndex) -> Box:
        """The rectangle of one tile."""
        x, y = (int(v) for v in self.coords[row])
        return Box(x, y, self.tile_px0, self.tile_px0)


def lattice_cells(coords: NDArray[np.int64], stride_px0: float) -> NDArray[np.int64]:
    """Round level-0 corners to the lattice of step ``stride_px0``, anchored at the smallest corner; (N, 2)."""
    if len(coords) == 0:
        return np.zeros((0, 2), np.int64)
    return np.rint((coords - coords.min(axis=0)) / stride_px0).astype(np.int64)


def best_level(downsamples: tuple[float, ...], downsample: float) -> int:
    """The coarsest pyramid level that is still at least as fine as ``downsample`` (1 % slack for rounded sizes)."""
    fine = [i for i, d in enumerate(downsamples) if d <= downsample * 1.01]
    return max(fine, key=lambda i: downsamples[i]) if fine else 0
