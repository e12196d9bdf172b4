"""Drawn regions as QuPath's GeoJSON, in and out: valid rings, holes, points, classes by name, QuPath's origin.

QuPath's origin is the corner of the scanned bounds, so they are added on the way in and subtracted on the way out.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from pathflip.errors import FeatureError
from pathflip.geometry import SlideInfo
from pathflip.io import geojson
from pathflip.workbench.annotations import Region

__all__ = ["export_regions", "import_regions", "valid_geometry"]

KINDS = ("Polygon", "MultiPolygon", "Point", "MultiPoint")
MOST_POINTS = 200_000
FARTHEST = 1e8
MOST_NAME_CHARACTERS = 500


def valid_geometry(geometry: Any, what: str = "region") -> dict[str, Any]:
    """A GeoJSON geometry with closed, valid rings: an outline that crosses itself becomes its parts.

    Raises:
        FeatureError: no area and no point, not finite, too many corners; the message begins with ``what``.
    """
    shape = _shape(geometry, what)
    if not shape.is_valid:
        shape = _areas(shapely.make_valid(shape))
    if shape.is_empty or (shape.geom_type.endswith("Polygon") and shape.area == 0):
        raise FeatureError(f"{what}: its outline encloses nothing")
    if shapely.get_num_coordinates(shape) > MOST_POINTS:
        raise FeatureError(f"{what}: {shapely.get_num_coordinates(shape)} corners, expected at most {MOST_POINTS}")
    return dict(json.loads(shapely.to_geojson(shapely.set_precision(shape, 0.01, mode="pointwise"))))


def _shape(geometry: Any, what: str) -> BaseGeometry:
    try:
        _check_numbers(geometry["coordinates"])
        kind = geometry["type"]
        if kind not in KINDS:
            raise FeatureError(f"{what}: got a {kind}, expected {', '.join(KINDS)}")
        return shapely.geometry.shape(geometry)
    except FeatureError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, shapely.errors.ShapelyError):
        raise FeatureError(
            f"{what}: a geometry that cannot be read; expected GeoJSON with closed rings of four corners or more and "
            "finite numbers"
        ) from None


def _check_numbers(coordinates: Any) -> None:
    if isinstance(coordinates, list):
        for part in coordinates:
            _check_numbers(part)
    elif isinstance(coordinates, bool) or not math.isfinite(coordinates) or abs(coordinates) > FARTHEST:
        raise ValueError("not a place on a slide")


def _areas(shape: BaseGeometry) -> BaseGeometry:
    """What of a mended outline has an area (mending may leave lines)."""
    parts = [part for part in getattr(shape, "geoms", [shape]) if part.geom_type.endswith("Polygon")]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def import_regions(text: str, info: SlideInfo) -> tuple[list[Region], int]:
    """Regions of a QuPath export, level-0 pixels, and how many objects were left out (lines, no geometry).

    Raises:
        FeatureError: not GeoJSON, or a broken geometry; the object is named.
    """
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FeatureError(f"not GeoJSON ({error}); export it from QuPath again") from None
    if isinstance(loaded, dict):
        loaded = loaded.get("features", [loaded])
    if not isinstance(loaded, list) or not all(isinstance(item, dict) and "geometry" in item for item in loaded):
        raise FeatureError("not GeoJSON as QuPath writes it; expected a FeatureCollection or its features")
    dx, dy = _origin(info)
    regions, left_out = [], 0
    for number, item in enumerate(loaded):
        properties = item.get("properties") or {}
        if not isinstance(properties, dict):
            raise FeatureError(f"object {number}: its properties are no object; export it from QuPath again")
        geometry = item["geometry"]
        if geometry is None or (isinstance(geometry, dict) and str(geometry.get("type")).endswith("LineString")):
            left_out += 1
            continue
        name = str(properties.get("name") or "")[:MOST_NAME_CHARACTERS]
        shape = valid_geometry(geometry, f"object {number}" + (f" '{name}'" if name else ""))
        regions.append(
            Region("", _moved(shape, dx, dy), name, _class_name(properties), _color(properties) or Region.color)
        )
    return regions, left_out


def _class_name(properties: Mapping[str, Any]) -> str:
    """The class as QuPath shows it; derived classes come as a list of names."""
    kind = properties.get("classification")
    if isinstance(kind, dict):
        names = kind.get("names")
        kind = ": ".join(map(str, names)) if isinstance(names, list) else kind.get("name")
    return str(kind or "")[:MOST_NAME_CHARACTERS]


def _color(properties: Mapping[str, Any]) -> str | None:
    kind = properties.get("classification")
    for color in (properties.get("color"), kind.get("color") if isinstance(kind, dict) else None):
        if isinstance(color, list) and len(color) >= 3 and all(isinstance(c, int) and 0 <= c < 256 for c in color[:3]):
            return "#" + "".join(f"{c:02x}" for c in color[:3])
    return None


def export_regions(regions: Sequence[Region], info: SlideInfo) -> dict[str, Any]:
    """A FeatureCollection that QuPath opens."""
    dx, dy = _origin(info)
    features = []
    for region in regions:
        red, green, blue = (int(region.color[at : at + 2], 16) for at in (1, 3, 5))
        item = geojson.feature(
            [],
            name=region.name,
            info=info,
            classification=region.classification or None,
            color=(red, green, blue),
        )
        features.append(item | {"id": region.id, "geometry": _moved(region.geometry, -dx, -dy)})
    return {"type": "FeatureCollection", "features": features}


def _origin(info: SlideInfo) -> tuple[float, float]:
    return (float(info.bounds0.x), float(info.bounds0.y)) if info.bounds0 else (0.0, 0.0)


def _moved(geometry: dict[str, Any], dx: float, dy: float) -> dict[str, Any]:
    if not dx and not dy:
        return geometry
    moved = shapely.transform(shapely.geometry.shape(geometry), lambda points: points + np.array([dx, dy]))
    return dict(json.loads(shapely.to_geojson(moved)))
