"""Patches to regions: blocks of neighbouring tiles, which only the published models read."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from pydantic import BaseModel, ConfigDict, Field

from pathflip.errors import FeatureError
from pathflip.geometry import lattice_cells
from pathflip.types import RegionGrid, SlideFeatures

__all__ = ["RegionSpec", "group_regions"]


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
    # Several tiles may round to one cell (grids cut contour by contour): a later one takes the next free slot of its
    # block, and those that a full block has no room for form a region of their own.
    left = []
    for row, target, wanted in zip(rows, region, slot, strict=True):
        place = wanted if not mask[target, wanted] else int(np.argmin(mask[target]))
        if mask[target, place]:
            left.append(row)
        else:
            index[target, place], mask[target, place] = row, True
    if not left:
        return index, mask
    more_index, more_mask = _spatial_blocks(features, np.array(left), spec)
    return np.concatenate([index, more_index]), np.concatenate([mask, more_mask])


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
