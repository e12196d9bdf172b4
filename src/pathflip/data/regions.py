"""Patches to regions, neighbourhood context and positions: all that a slide's geometry tells the model."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field

from pathflip.errors import FeatureError
from pathflip.geometry import lattice_cells
from pathflip.types import RegionGrid, SlideFeatures

__all__ = ["Neighbourhood", "RegionSpec", "group_regions", "neighbour_context", "relative_positions"]

CHUNK_ROWS = 16_384


class RegionSpec(BaseModel):
    """How patches form regions.

    Attributes:
        side: a region is a block of ``side × side`` lattice cells, so S = side².
        order: "space" groups neighbours. "file" is the published cut: runs of S rows in file order, the tail of
            N mod S patches dropped; kept for parity only (published_defects: regions are then no neighbourhoods).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: int = Field(4, ge=1, le=64)
    order: Literal["space", "file"] = "space"


def group_regions(features: SlideFeatures, spec: RegionSpec | None = None) -> RegionGrid:
    """Group the valid patches of a slide into regions of neighbouring tiles.

    Every valid patch is in exactly one region (order "space"); unused slots of a block are masked.

    Raises:
        FeatureError: the slide has no valid patch (or, in order "file", fewer than S).
    """
    spec = spec or RegionSpec()
    rows = np.flatnonzero(features.valid)
    if len(rows) == 0:
        raise FeatureError(
            f"slide '{features.slide_id}': no valid patch among {len(features.valid)}; expected at least one; "
            "look at its QC thumbnail, or leave the slide out"
        )
    index, mask = _spatial_blocks(features, rows, spec) if spec.order == "space" else _file_runs(features, rows, spec)
    return RegionGrid(index=index, mask=mask, boxes=_boxes(features, index, mask))


def _spatial_blocks(
    features: SlideFeatures, rows: Int[np.ndarray, " V"], spec: RegionSpec
) -> tuple[Int[np.ndarray, "L S"], Bool[np.ndarray, "L S"]]:
    cells = lattice_cells(features.coords[rows], features.spec.stride_px0(features.info))
    block = cells // spec.side
    slot = (cells[:, 1] % spec.side) * spec.side + cells[:, 0] % spec.side
    block_key = block[:, 1] * (block[:, 0].max() + 1) + block[:, 0]
    _, region = np.unique(block_key, return_inverse=True)
    index = np.zeros((region.max() + 1, spec.side**2), np.int64)
    mask = np.zeros(index.shape, bool)
    # Two tiles in one cell (overlapping strides rounded together) would overwrite each other: give the later one
    # the next free slot of its own region instead of losing it.
    for row, target, wanted in zip(rows, region, slot, strict=True):
        place = wanted if not mask[target, wanted] else int(np.argmin(mask[target]))
        if mask[target, place]:
            raise FeatureError(
                f"slide '{features.slide_id}': more tiles than lattice cells around {features.coords[row].tolist()}; "
                "expected one tile a stride step; were two extractions joined in one file?"
            )
        index[target, place], mask[target, place] = row, True
    return index, mask


def _file_runs(
    features: SlideFeatures, rows: Int[np.ndarray, " V"], spec: RegionSpec
) -> tuple[Int[np.ndarray, "L S"], Bool[np.ndarray, "L S"]]:
    slots = spec.side**2
    if len(rows) < slots:
        raise FeatureError(
            f"slide '{features.slide_id}': {len(rows)} patches, but file-order regions need at least {slots}; "
            "use order='space'"
        )
    index = rows[: len(rows) // slots * slots].reshape(-1, slots).astype(np.int64)
    return index, np.ones(index.shape, bool)


def _boxes(
    features: SlideFeatures, index: Int[np.ndarray, "L S"], mask: Bool[np.ndarray, "L S"]
) -> Int[np.ndarray, "L 4"]:
    corners = features.coords[index]
    low = np.where(mask[..., None], corners, np.iinfo(np.int64).max).min(axis=1)
    high = np.where(mask[..., None], corners, -1).max(axis=1) + features.grid.tile_px0
    return np.concatenate([low, high - low], axis=1)


class Neighbourhood:
    """Who is near whom on the tile lattice, found once a slide, so that context can be computed chunk by chunk.

    Args:
        cells: column and row of every tile.
        valid: tiles that may be looked at.
        radius: 1 is the 3×3 neighbourhood.
    """

    def __init__(self, cells: Int[np.ndarray, "N 2"], valid: Bool[np.ndarray, " N"], radius: int = 1) -> None:
        shifted = cells - (cells.min(axis=0) if len(cells) else 0) + radius
        width = int(shifted[:, 0].max(initial=0)) + radius + 1
        self._key = shifted[:, 1] * width + shifted[:, 0]
        self._order = np.argsort(self._key, kind="stable")
        self._sorted = self._key[self._order]
        self._valid = valid
        self._steps = [dy * width + dx for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]

    def mean(
        self, features: Float[np.ndarray, "N D"], rows: Int[np.ndarray, " V"] | slice = slice(None)
    ) -> Float[np.ndarray, "V D"]:
        """Mean feature of the valid tiles around each of ``rows``, itself included.

        Missing and invalid neighbours are left out of the mean, so the tissue's border is not diluted with zeros.
        Rows of invalid tiles that have no valid neighbour are zero.
        """
        here = self._key[rows]
        total = np.zeros((len(here), features.shape[1]), np.float32)
        count = np.zeros(len(here), np.float32)
        for step in self._steps:
            place = np.minimum(np.searchsorted(self._sorted, here + step), len(self._sorted) - 1)
            neighbour = self._order[place]
            found = (self._sorted[place] == here + step) & self._valid[neighbour]
            total[found] += features[neighbour[found]]
            count += found
        return total / np.maximum(count, 1)[:, None]


def neighbour_context(
    features: Float[np.ndarray, "N D"],
    cells: Int[np.ndarray, "N 2"],
    valid: Bool[np.ndarray, " N"],
    radius: int = 1,
) -> Float[np.ndarray, "N D"]:
    """:meth:`Neighbourhood.mean` of every row; memory: a chunk of rows beyond the result."""
    near = Neighbourhood(cells, valid, radius)
    out = np.zeros(features.shape, np.float32)
    for start in range(0, len(features), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        out[part] = near.mean(features, part)
    return out


def relative_positions(
    coords: Int[np.ndarray, "N 2"], valid: Bool[np.ndarray, " N"], tile_px0: int
) -> Float[np.ndarray, "N 2"]:
    """Centre of each tile in the bounding box of the valid tiles: x and y in [0, 1], (0, 0) top-left."""
    if not valid.any():
        return np.zeros(coords.shape, np.float32)
    low = coords[valid].min(axis=0)
    extent = np.maximum(coords[valid].max(axis=0) + tile_px0 - low, 1)
    return np.clip((coords + tile_px0 / 2 - low) / extent, 0, 1).astype(np.float32)
