"""Patches of a slide: neighbourhoods, positions, which of them a step draws, and who reads these."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from pathflip.errors import FeatureError
from pathflip.types import RegionGrid, SlideFeatures

__all__ = [
    "DrawnPatches",
    "FeatureSums",
    "Neighbourhood",
    "PatchReader",
    "PatchRows",
    "relative_positions",
    "rows_in_reading_order",
]


class Neighbourhood:
    """Which tiles are near which on the tile lattice. Made once a slide; means are computed for the rows asked for.

    Several tiles may round to one lattice cell (grids cut contour by contour do): all of them count. Invalid tiles
    are nobody's neighbours.

    Args:
        cells: column and row of every tile.
        valid: tiles that may be looked at.
        radius: 1 is the 3×3 neighbourhood.
    """

    def __init__(self, cells: Int[np.ndarray, "N 2"], valid: Bool[np.ndarray, " N"], radius: int = 1) -> None:
        shifted = cells - (cells.min(axis=0) if len(cells) else 0) + radius
        width = int(shifted[:, 0].max(initial=0)) + radius + 1
        self._key = shifted[:, 1] * width + shifted[:, 0]
        rows = np.flatnonzero(valid)
        self._order = rows[np.argsort(self._key[rows], kind="stable")]
        self._sorted = self._key[self._order]
        self._steps = [dy * width + dx for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]

    def pairs(self, rows: Int[np.ndarray, " V"]) -> Iterator[tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]]:
        """Neighbours of ``rows``, each row's own tile included, piece by piece: (places in ``rows``, rows of the tiles
        there). Within a piece every place stands once at most.
        """
        here = self._key[rows]
        for step in self._steps:
            first = np.searchsorted(self._sorted, here + step, side="left")
            count = np.searchsorted(self._sorted, here + step, side="right") - first
            for nth in range(int(count.max(initial=0))):
                places = np.flatnonzero(count > nth)
                yield places, self._order[first[places] + nth]

    def mean(self, features: Float[np.ndarray, "N D"], rows: Int[np.ndarray, " V"]) -> Float[np.ndarray, "V D"]:
        """Mean feature of the valid tiles around each of ``rows``, itself included.

        Missing and invalid neighbours are left out of the mean, so the tissue's border is not diluted with zeros.
        Rows of invalid tiles that have no valid neighbour are zero.
        """
        total = np.zeros((len(rows), features.shape[1]), np.float32)
        count = np.zeros(len(rows), np.float32)
        for places, neighbours in self.pairs(rows):
            total[places] += features[neighbours]
            count[places] += 1
        return total / np.maximum(count, 1)[:, None]


def relative_positions(
    coords: Int[np.ndarray, "N 2"], valid: Bool[np.ndarray, " N"], tile_px0: int
) -> Float[np.ndarray, "N 2"]:
    """Centre of each tile in the bounding box of the valid tiles: x and y in [0, 1], (0, 0) top-left."""
    if not valid.any():
        return np.zeros(coords.shape, np.float32)
    low = coords[valid].min(axis=0)
    extent = np.maximum(coords[valid].max(axis=0) + tile_px0 - low, 1)
    return np.clip((coords + tile_px0 / 2 - low) / extent, 0, 1).astype(np.float32)


def rows_in_reading_order(features: SlideFeatures) -> Int[np.ndarray, " V"]:
    """Rows of the valid patches, left to right and top to bottom, whatever their order in the file.

    Raises:
        FeatureError: none is valid.
    """
    rows = np.flatnonzero(features.valid)
    if len(rows) == 0:
        raise FeatureError(
            f"slide '{features.slide_id}': no valid patch among {len(features.valid)}; expected at least one; "
            "look at its QC thumbnail, or leave the slide out"
        )
    cells = features.grid.cells()[rows]
    return rows[np.lexsort((cells[:, 0], cells[:, 1]))]


@dataclass(frozen=True, eq=False)
class DrawnPatches:
    """The patches of one slide that a step sees, and which of them form which region.

    Attributes:
        rows: of the features they are drawn from (in training: places in reading order, see :class:`PatchReader`).
        regions: indices into ``rows`` (-1: an empty slot); None where no regions were asked for.
    """

    rows: Int[np.ndarray, " n"]
    regions: Int[np.ndarray, "l S"] | None = None

    @classmethod
    def of_regions(cls, grid: RegionGrid, picked: Int[np.ndarray, " l"] | slice) -> "DrawnPatches":
        """All patches of the picked regions."""
        index, mask = grid.index[picked], grid.mask[picked]
        regions = np.full(index.shape, -1, np.int64)
        regions[mask] = np.arange(int(mask.sum()))
        return cls(index[mask], regions)


@dataclass(frozen=True, eq=False)
class PatchRows:
    """Some patches of one slide.

    Attributes:
        features: as the encoder gave them, or rounded to float16.
        position: see :func:`relative_positions`.
        context: mean feature of the valid tiles around each, itself included; None where nobody asked for it.
    """

    features: Float[np.ndarray, "n D"]
    position: Float[np.ndarray, "n 2"]
    context: Float[np.ndarray, "n D"] | None = None


@dataclass(frozen=True, eq=False)
class FeatureSums:
    """Number of patches, and the sums of their features and of the squares, in float64: what statistics need."""

    count: int
    total: Float[np.ndarray, " D"]
    squares: Float[np.ndarray, " D"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "n D"]) -> "FeatureSums":
        """Over the rows of a slide."""
        rows = features.astype(np.float64)
        return cls(len(rows), rows.sum(0), (rows**2).sum(0))


@runtime_checkable
class PatchReader(Protocol):
    """Where training gets patches from. Slides are named by their feature files, patches by their place in reading
    order (:func:`rows_in_reading_order`). Several threads may call it at once.
    """

    def count(self, file: Path) -> int:
        """Valid patches of a slide."""
        ...

    def regions(self, file: Path) -> RegionGrid | None:
        """Which places form which region; None where the reader was made without regions."""
        ...

    def announce(self, wanted: Sequence[tuple[Path, Int[np.ndarray, " _"]]]) -> None:
        """Say what will be read in a moment, so that the disk can begin."""
        ...

    def read(self, wanted: Sequence[tuple[Path, Int[np.ndarray, " _"]]], context: bool) -> list[PatchRows]:
        """Some patches of each of several slides.

        Args:
            wanted: (slide, places) pairs; the answer is in their order. A slide may stand there more than once.
            context: also give each patch's neighbourhood mean.
        """
        ...

    def sums(self, file: Path) -> FeatureSums:
        """Over all valid patches of a slide."""
        ...
