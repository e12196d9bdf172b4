"""QuPath GeoJSON as regions and tiles, in and out."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pathflip.errors import FeatureError
from pathflip.geometry import SlideInfo, TileGrid, TileSpec
from pathflip.interop.qupath_objects import read_objects
from pathflip.interop.tiles import ReadOptions, Stated, Tiles, settle
from pathflip.io import geojson
from pathflip.io.files import path_inside
from pathflip.io.slide_id import slide_id

__all__ = ["Region", "read_qupath", "read_regions", "tiles_inside", "write_qupath"]

_SMALLEST_PX = 2.0
"""No file is of areas that are all smaller."""


@dataclass(frozen=True)
class Region:
    """An area of a QuPath export.

    Attributes:
        shape: polygon or polygons, level-0 pixels.
        object_type: annotation, detection, tile or cell.
        name, classification: as QuPath shows them; "" where it has none.
        measurements: numbers by name.
    """

    shape: BaseGeometry = field(repr=False)
    object_type: str
    name: str
    classification: str
    measurements: Mapping[str, float] = field(default_factory=dict)


def read_regions(path: str | Path, info: SlideInfo | None = None) -> list[Region]:
    """Every area object of a QuPath export, in level-0 pixels; points and lines are left out.

    Args:
        path: a FeatureCollection, an array of features, or one feature.
        info: the slide, whose ``bounds0`` is QuPath's origin; None means a slide without bounds.

    Raises:
        FeatureError: not such a file, or a broken geometry (the object is named).
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise FeatureError(f"{path}: is no regular file, expected GeoJSON")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise FeatureError(f"{path}: not readable GeoJSON ({error}); export it from QuPath again") from error
    regions = [
        Region(one.shape, one.object_type, one.name, one.classification, one.measurements)
        for one in read_objects(text, info, str(path))
        if one.shape is not None and "Polygon" in one.shape.geom_type
    ]
    _check_places(path, regions, info)
    return regions


def _check_places(path: Path, regions: Sequence[Region], info: SlideInfo | None) -> None:
    """Refuse areas that cannot be in level-0 pixels of the slide, and say where some of them lie beside it.

    Raises:
        FeatureError: all are smaller than a pixel or two (fractions, millimetres), or all lie outside the slide.
    """
    if not regions:
        return
    bounds = shapely.bounds([region.shape for region in regions])
    widest = float(np.max(bounds[:, 2:] - bounds[:, :2]))
    if widest <= _SMALLEST_PX:
        raise FeatureError(
            f"{path}: its areas are at most {widest:.3g} px wide; expected level-0 pixels of the slide; are they "
            "fractions of it, or millimetres?"
        )
    if info is None:
        return
    width, height = info.size0
    outside = (bounds[:, 2] <= 0) | (bounds[:, 3] <= 0) | (bounds[:, 0] >= width) | (bounds[:, 1] >= height)
    line = (
        f"{path}: {int(outside.sum())} of {len(regions)} areas lie outside the slide of {width} × {height} px (area "
        f"{int(np.argmax(outside))} begins at x {bounds[np.argmax(outside), 0]:g}, y {bounds[np.argmax(outside), 1]:g})"
    )
    if outside.all():
        raise FeatureError(f"{line}; expected level-0 pixels of this slide: is it the right one?")
    if outside.any():
        warnings.warn(f"{line}: is it the right one?", stacklevel=3)


def tiles_inside(grid: TileGrid, regions: Sequence[Region], min_share: float = 0.25) -> NDArray[np.bool_]:
    """Which tiles have at least ``min_share`` of their area in the regions, by exact areas; (N,)."""
    union = shapely.union_all([region.shape for region in regions])
    shapely.prepare(union)
    x, y = grid.coords[:, 0], grid.coords[:, 1]
    boxes = shapely.box(x, y, x + grid.tile_px0, y + grid.tile_px0)
    touching = shapely.intersects(union, boxes)
    share = np.zeros(len(boxes))
    share[touching] = shapely.area(shapely.intersection(boxes[touching], union)) / grid.tile_px0**2
    return (share >= min_share - 1e-9) & (share > 0)


def read_qupath(path: Path, options: ReadOptions) -> Tiles:
    """Tile objects as they stand; where there are none, the tiles of our lattice inside the annotations.

    Raises:
        FeatureError: no area objects, tiles of different sizes, or annotations without a slide to lay tiles on.
    """
    name = slide_id(path)
    info = options.slide(name)
    regions = read_regions(path, info)
    tiles = [region for region in regions if region.object_type == "tile"]
    if not regions:
        raise FeatureError(f"{path}: no area in it; expected annotations or tiles")
    if tiles:
        settled = _tile_objects(path, name, tiles, options)
        note = (
            () if info else (f"QuPath's origin was taken as level-0 (0, 0): wrong if '{name}' declares bounds (MRXS)",)
        )
        return Tiles(settled.grid, warnings=settled.warnings + note)
    if info is None or options.mpp is None or options.tile_px is None:
        raise FeatureError(
            f"{path}: {len(regions)} annotations; to lay tiles on them give --slides DIR (with slide '{name}'), --mpp "
            "and --tile-px"
        )
    grid = _lattice(info, TileSpec(options.tile_px, options.mpp), shapely.union_all([r.shape for r in regions]).bounds)
    grid = TileGrid(grid.info, grid.spec, grid.coords[tiles_inside(grid, regions, grid.spec.min_tissue)])
    if len(grid) == 0:
        raise FeatureError(f"{path}: no tile of {grid.spec.tile_um:g} µm has a quarter of its area in the annotations")
    return Tiles(grid)


def _tile_objects(path: Path, name: str, tiles: Sequence[Region], options: ReadOptions) -> Tiles:
    boxes = np.array([region.shape.bounds for region in tiles])
    sides = np.unique(np.rint(boxes[:, 2:] - boxes[:, :2]))
    square = np.array(
        [abs(region.shape.area / np.prod(b[2:] - b[:2]) - 1) < 1e-3 for region, b in zip(tiles, boxes, strict=True)]
    )
    if len(sides) > 1 or not square.all():
        raise FeatureError(f"{path}: tile objects with sides {sides[:5].tolist()} px; expected squares of one size")
    return settle(path, Stated(name, tile_px0=int(sides[0])), options, np.rint(boxes[:, :2]))


def _lattice(info: SlideInfo, spec: TileSpec, bounds: tuple[float, ...]) -> TileGrid:
    """The tiles of our lattice (anchored at level-0 (0, 0)) that may touch these bounds and begin on the slide."""
    step, side = spec.stride_px0(info), spec.tile_px0(info)
    axes = []
    for low, high, size in zip(bounds[:2], bounds[2:], info.size0, strict=True):
        first = max(0, int((low - side) // step))
        axes.append(np.arange(first * step, min(high, size), step, dtype=np.int64))
    x, y = np.meshgrid(*axes)
    return TileGrid(info, spec, np.stack([x.ravel(), y.ravel()], axis=1))


def write_qupath(tiles: Tiles, out: Path) -> list[Path]:
    """One tile object a tile, named by its row. (Scores as measurements: ``pathflip ground``.)"""
    grid, target = tiles.grid, path_inside(out, f"{tiles.slide_id}.geojson")
    rings = (geojson.box_ring(grid.box(row)) for row in range(len(grid)))
    rows = [
        geojson.feature([ring], name=f"tile {row}", info=grid.info, object_type="tile")
        for row, ring in enumerate(rings)
    ]
    geojson.write_features(target, rows)
    return [target]
