"""The objects of a QuPath export: shape, name, class, colour, kind and measurements of each, in level-0 pixels.

One reader for all that takes QuPath's GeoJSON: tiles, annotations, and regions drawn in the workbench. QuPath's origin
is the corner of the scanned bounds (MRXS and others declare them), so they are added here.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from pathflip.errors import FeatureError
from pathflip.geometry import SlideInfo

__all__ = ["QuPathObject", "class_name", "origin", "read_objects", "sound_shape"]

FARTHEST = 1e8
"""Pixels: beyond it lies no place on a slide."""
_DEEPEST = 20


@dataclass(frozen=True)
class QuPathObject:
    """One object.

    Attributes:
        shape: polygons or points, level-0 pixels; None where there is no geometry, or a line.
        object_type: annotation, detection, tile or cell.
        name, classification: as QuPath shows them; "" where it has none.
        color: "#rrggbb", its own or its class's; "" where it has none.
        measurements: numbers by name.
    """

    shape: BaseGeometry | None = field(repr=False)
    object_type: str
    name: str
    classification: str
    color: str
    measurements: Mapping[str, float] = field(default_factory=dict)


def origin(info: SlideInfo | None) -> tuple[float, float]:
    """QuPath's origin, level-0 pixels."""
    bounds = None if info is None else info.bounds0
    return (0.0, 0.0) if bounds is None else (float(bounds.x), float(bounds.y))


def read_objects(text: str, info: SlideInfo | None, source: str = "") -> Iterator[QuPathObject]:
    """Every object of a FeatureCollection, an array of features, or one feature, in order.

    Args:
        info: the slide; None means one without bounds. source: what error messages begin with, such as a file's name.

    Raises:
        FeatureError: not such a text, or a broken geometry (the object is named).
    """
    begin = f"{source}: " if source else ""
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise FeatureError(f"{begin}not readable GeoJSON ({reason}); export it from QuPath again") from None
    if isinstance(loaded, dict):
        loaded = loaded.get("features", [loaded])
    if not isinstance(loaded, list) or not all(isinstance(item, dict) and "geometry" in item for item in loaded):
        raise FeatureError(f"{begin}not GeoJSON as QuPath writes it; expected a FeatureCollection or its features")
    offset = np.asarray(origin(info))
    for number, item in enumerate(loaded):
        yield _object(begin, number, item, offset)


def _object(begin: str, number: int, item: Mapping[str, Any], offset: np.ndarray) -> QuPathObject:
    properties = item.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    name = properties.get("name")
    which = f"{begin}object {number}" + (f" ('{str(name)[:60]}')" if name else "")
    shape = sound_shape(item["geometry"], which)
    if shape is not None and offset.any():
        shape = shapely.transform(shape, lambda points: points + offset)
    return QuPathObject(
        shape,
        str(properties.get("objectType") or properties.get("object_type") or "annotation").lower(),
        str(name or ""),
        class_name(properties.get("classification")),
        _color(properties),
        _measurements(properties.get("measurements")),
    )


def sound_shape(geometry: Any, which: str) -> BaseGeometry | None:
    """Valid polygons or points of a GeoJSON geometry; None where there is none, or a line.

    Rings are closed, outlines that cross themselves become their parts, of a collection the areas count.

    Raises:
        FeatureError: it is broken, or an outline without an area; ``which`` names the object.
    """
    if geometry is None:
        return None
    try:
        _check_geometry(geometry)
        shape = shapely.geometry.shape(geometry)
        if shape.geom_type == "GeometryCollection" and not shape.is_empty:
            shape = _areas(shape)
            if shape.is_empty:
                return None  # points and lines only
    except _NoNumberError:
        raise FeatureError(f"{which} has a corner that is no place on a slide (no number, or too far)") from None
    except Exception as error:  # coordinates that are no numbers, too few, too deep: shapely raises many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FeatureError(f"{which} has a geometry that cannot be read ({reason[:120]})") from None
    if shape.is_empty:
        raise FeatureError(f"{which} has a geometry that cannot be read (it is empty)")
    if shape.geom_type not in ("Polygon", "MultiPolygon", "Point", "MultiPoint") or shape.is_empty:
        return None
    if not shape.is_valid:
        shape = _areas(shapely.make_valid(shape))  # hand-drawn outlines cross themselves
    if "Polygon" in shape.geom_type and shape.area == 0:
        raise FeatureError(f"{which} is an outline without an area; draw it again")
    return shape


class _NoNumberError(ValueError):
    """A coordinate that is none."""


def _check_geometry(geometry: Any, depth: int = 0) -> None:
    """Numbers of a geometry, and of those inside a collection."""
    if depth > _DEEPEST:
        raise ValueError("collections inside collections without end")
    _check_numbers(geometry.get("coordinates"))
    for inner in geometry.get("geometries") or ():
        _check_geometry(inner, depth + 1)


def _check_numbers(coordinates: Any) -> None:
    if isinstance(coordinates, list | tuple):
        for part in coordinates:
            _check_numbers(part)
    elif coordinates is not None and (isinstance(coordinates, bool) or not isinstance(coordinates, int | float)):
        raise ValueError("coordinates that are no numbers")
    elif coordinates is not None and not (math.isfinite(coordinates) and abs(coordinates) <= FARTHEST):
        raise _NoNumberError


def _areas(shape: BaseGeometry) -> BaseGeometry:
    """What of a mended outline (mending may leave lines) or of a collection, and those inside it, has an area."""
    parts = [_areas(part) for part in shape.geoms] if shape.geom_type == "GeometryCollection" else []
    if shape.geom_type in ("Polygon", "MultiPolygon"):
        if shape.is_valid:
            return shape
        parts = [_areas(shapely.make_valid(shape))]  # what crosses itself cannot be united
    parts = [part for part in parts if not part.is_empty]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def class_name(value: Any) -> str:
    """A QuPath class as QuPath shows it: of a name, an object with a name, or the list of a derived class."""
    if isinstance(value, dict):
        value = value.get("names", value.get("name"))
    if isinstance(value, list):
        return ": ".join(str(part) for part in value if part is not None)
    return "" if value is None else str(value)


def _color(properties: Mapping[str, Any]) -> str:
    """Of three numbers, or of one signed number (QuPath before 0.4)."""
    kind = properties.get("classification")
    for holder in (properties, kind if isinstance(kind, dict) else {}):
        color, packed = holder.get("color"), holder.get("colorRGB")
        if isinstance(packed, int) and not isinstance(packed, bool):
            color = [packed >> 16 & 255, packed >> 8 & 255, packed & 255]
        if isinstance(color, list) and len(color) >= 3 and all(isinstance(c, int) and 0 <= c < 256 for c in color[:3]):
            return "#" + "".join(f"{c:02x}" for c in color[:3])
    return ""


def _measurements(measured: Any) -> dict[str, float]:
    if isinstance(measured, list):  # QuPath before 0.4: [{"name": …, "value": …}]
        measured = {entry.get("name"): entry.get("value") for entry in measured if isinstance(entry, dict)}
    if not isinstance(measured, dict):
        return {}
    return {str(k): float(v) for k, v in measured.items() if isinstance(v, (int, float)) and abs(v) < 1e300}
