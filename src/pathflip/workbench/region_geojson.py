"""Drawn regions as QuPath's GeoJSON, in and out: valid rings, holes, points, classes by name, QuPath's origin."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from pathflip.errors import FeatureError
from pathflip.geometry import SlideInfo
from pathflip.interop.qupath_objects import origin, read_objects, sound_shape
from pathflip.io import geojson
from pathflip.workbench.annotations import Region

__all__ = ["export_regions", "import_regions", "valid_geometry"]

MOST_POINTS = 200_000
MOST_NAME_CHARACTERS = 500


def valid_geometry(geometry: Any, what: str = "region") -> dict[str, Any]:
    """A GeoJSON geometry with closed, valid rings: an outline that crosses itself becomes its parts.

    Raises:
        FeatureError: no area and no point, not finite, too many corners; the message begins with ``what``.
    """
    shape = sound_shape(geometry, what)
    if shape is None:
        raise FeatureError(f"{what} has no area and no point; expected a polygon or points")
    return _geometry(shape, what)


def _geometry(shape: BaseGeometry, what: str) -> dict[str, Any]:
    corners = shapely.get_num_coordinates(shape)
    if corners > MOST_POINTS:
        raise FeatureError(f"{what} has {corners} corners, expected at most {MOST_POINTS}")
    return dict(json.loads(shapely.to_geojson(shapely.set_precision(shape, 0.01, mode="pointwise"))))


def import_regions(text: str, info: SlideInfo) -> tuple[list[Region], int]:
    """Regions of a QuPath export, level-0 pixels, and how many objects were left out (lines, no geometry).

    Raises:
        FeatureError: not GeoJSON, or a broken geometry; the object is named.
    """
    regions, left_out = [], 0
    for number, one in enumerate(read_objects(text, info)):
        if one.shape is None:
            left_out += 1
            continue
        name, kind = one.name[:MOST_NAME_CHARACTERS], one.classification[:MOST_NAME_CHARACTERS]
        geometry = _geometry(one.shape, f"object {number}")
        regions.append(Region("", geometry, name, kind, one.color or Region.color))
    return regions, left_out


def export_regions(regions: Sequence[Region], info: SlideInfo) -> dict[str, Any]:
    """A FeatureCollection that QuPath opens."""
    dx, dy = origin(info)
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


def _moved(geometry: dict[str, Any], dx: float, dy: float) -> dict[str, Any]:
    if not dx and not dy:
        return geometry
    moved = shapely.transform(shapely.geometry.shape(geometry), lambda points: points + np.array([dx, dy]))
    return dict(json.loads(shapely.to_geojson(moved)))
