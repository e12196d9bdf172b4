"""QuPath GeoJSON in and out. QuPath's origin is the corner of the scanned bounds (MRXS and others declare them),
so the bounds are added on the way in and subtracted on the way out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pathflip.errors import FeatureError
from pathflip.geometry import SlideInfo, TileGrid, TileSpec
from pathflip.interop.tiles import ReadOptions, Stated, Tiles, settle
from pathflip.io import geojson
from pathflip.io.files import path_inside
from pathflip.io.slide_id import slide_id

__all__ = ["Region", "read_qupath", "read_regions", "tiles_inside", "write_qupath"]


@dataclass(frozen=True)
class Region:
    """One QuPath object.

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
    bounds = info.bounds0 if info else None
    offset = (float(bounds.x), float(bounds.y)) if bounds else (0.0, 0.0)
    regions = []
    for number, item in enumerate(_features(path)):
        region = _region(path, number, item, offset)
        if region is not None:
            regions.append(region)
    return regions


def _features(path: Path) -> list[Any]:
    try:
        if path.exists() and not path.is_file():
            raise FeatureError(f"{path}: is no regular file, expected GeoJSON")
        loaded = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise FeatureError(f"{path}: not readable GeoJSON ({reason}); export it from QuPath again") from error
    if isinstance(loaded, dict):
        loaded = loaded.get("features", [loaded])
    if not isinstance(loaded, list) or not all(isinstance(item, dict) and "geometry" in item for item in loaded):
        raise FeatureError(f"{path}: not GeoJSON as QuPath writes it; expected a FeatureCollection or its features")
    return loaded


def _region(path: Path, number: int, item: Mapping[str, Any], offset: tuple[float, float]) -> Region | None:
    properties = item.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    name = properties.get("name")
    which = f"{path}: object {number}" + (f" ('{str(name)[:60]}')" if name else "")
    shape = _shape(which, item["geometry"])
    if shape is None:
        return None
    return Region(
        shapely.transform(shape, lambda points: points + np.asarray(offset)),
        str(properties.get("objectType") or properties.get("object_type") or "annotation").lower(),
        str(name or ""),
        class_name(properties.get("classification")),
        _measurements(properties.get("measurements")),
    )


def _shape(which: str, geometry: Any) -> BaseGeometry | None:
    """The area of a geometry; None where it has none: no geometry, points, lines.

    Raises:
        FeatureError: it is broken; ``which`` names the object.
    """
    if geometry is None:
        return None
    try:
        shape = shapely.geometry.shape(geometry)
        parts = [part for part in getattr(shape, "geoms", [shape]) if part.geom_type in ("Polygon", "MultiPolygon")]
        shape = shapely.union_all(parts) if shape.geom_type == "GeometryCollection" else shape
    except Exception as error:  # coordinates that are no numbers, too few, too deep: shapely raises many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FeatureError(f"{which} has a geometry that cannot be read ({reason})") from error
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise FeatureError(f"{which} has a corner that is no number (NaN or infinity); draw it again")
    if shape.geom_type not in ("Polygon", "MultiPolygon") or shape.is_empty:
        return None
    if not shape.is_valid:
        shape = shapely.make_valid(shape)  # hand-drawn outlines cross themselves
    if shape.area == 0:
        raise FeatureError(f"{which} is an outline without an area; draw it again")
    return shape


def class_name(value: Any) -> str:
    """A QuPath class as QuPath shows it: of a name, an object with a name, or the list of a derived class."""
    if isinstance(value, dict):
        value = value.get("names", value.get("name"))
    if isinstance(value, list):
        return ": ".join(str(part) for part in value if part is not None)
    return "" if value is None else str(value)


def _measurements(measured: Any) -> dict[str, float]:
    if isinstance(measured, list):  # QuPath before 0.4: [{"name": …, "value": …}]
        measured = {entry.get("name"): entry.get("value") for entry in measured if isinstance(entry, dict)}
    if not isinstance(measured, dict):
        return {}
    return {str(k): float(v) for k, v in measured.items() if isinstance(v, (int, float)) and abs(v) < 1e300}


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
