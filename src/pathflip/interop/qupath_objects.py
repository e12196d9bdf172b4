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
_PIXELS = ("", "px", "pixel", "pixels")


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
        loaded = json.loads(text, object_pairs_hook=_named_once)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise FeatureError(f"{begin}not readable GeoJSON ({reason}); export it from QuPath again") from None
    if isinstance(loaded, dict):
        _check_coordinate_system(begin, loaded)
        loaded = loaded.get("features", [loaded])
    if not isinstance(loaded, list) or not all(isinstance(item, dict) and "geometry" in item for item in loaded):
        raise FeatureError(f"{begin}not GeoJSON as QuPath writes it; expected a FeatureCollection or its features")
    offset = np.asarray(origin(info))
    for number, item in enumerate(loaded):
        yield _object(begin, number, item, offset)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's values by name; Python itself would keep the last of two in silence."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)[:60]}' stands twice in one object")
    return entry


def _check_coordinate_system(begin: str, collection: Mapping[str, Any]) -> None:
    """Refuse a collection that says its numbers are no pixels: of a map, or in a unit of length.

    Raises:
        FeatureError: it does.
    """
    crs, properties = collection.get("crs"), collection.get("properties")
    if crs:
        named = crs.get("properties") if isinstance(crs, dict) else None
        name = named.get("name", crs) if isinstance(named, dict) else crs
        raise FeatureError(
            f"{begin}states a coordinate system ({str(name)[:80]}), expected level-0 pixels of the slide; if they are, "
            "delete 'crs' from the file"
        )
    for holder in (collection, properties if isinstance(properties, dict) else {}):
        unit = holder.get("unit", holder.get("units"))
        if isinstance(unit, str) and unit.strip().lower() not in _PIXELS:
            raise FeatureError(
                f"{begin}says its coordinates are in '{unit[:40]}'; expected level-0 pixels of the slide"
            )


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
        shape = shapely.geometry.shape(_flat(geometry))
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
    if "Polygon" in shape.geom_type and not shape.is_valid:
        shape = _areas(shape)  # hand-drawn outlines cross themselves
    if "Polygon" in shape.geom_type and shape.area == 0:
        raise FeatureError(f"{which} is an outline without an area; draw it again")
    return shape


class _NoNumberError(ValueError):
    """A coordinate that is none."""


def _check_geometry(geometry: Any, depth: int = 0) -> None:
    """Numbers of a geometry, and of those inside a collection."""
    if depth > _DEEPEST:
        raise ValueError("collections inside collections without end")
    if not isinstance(geometry, dict) or not isinstance(geometry.get("type"), str):
        raise ValueError("it has no type")
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


def _flat(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """The geometry in two dimensions: some positions of it may have a third."""

    def cut(coordinates: Any) -> Any:
        if not isinstance(coordinates, list) or not coordinates or not isinstance(coordinates[0], list):
            return coordinates[:2] if isinstance(coordinates, list) else coordinates
        return [cut(part) for part in coordinates]

    flat = {**geometry, "coordinates": cut(geometry["coordinates"])} if "coordinates" in geometry else dict(geometry)
    return {**flat, "geometries": [_flat(one) for one in geometry["geometries"]]} if "geometries" in geometry else flat


def _areas(shape: BaseGeometry) -> BaseGeometry:
    """What of a shape, or of a collection and those inside it, has an area; what crosses itself in its parts.

    Holes take away, wherever they lie, and polygons of one object that overlap are one area: mending all rings
    together would take an overlap, and a hole that leaves its outline, for the opposite.
    """
    if shape.geom_type in ("GeometryCollection", "MultiPolygon"):
        return _united([_areas(part) for part in shape.geoms])
    if shape.geom_type != "Polygon" or shape.is_valid:
        return shape if shape.geom_type == "Polygon" else shapely.Polygon()
    area = _mended(shape.exterior)
    for hole in shape.interiors:
        area = area.difference(_mended(hole))
    return _united([part for part in getattr(area, "geoms", [area]) if part.geom_type == "Polygon"])


def _mended(ring: BaseGeometry) -> BaseGeometry:
    """The area inside one ring, which may cross itself; mending may leave lines."""
    mended = shapely.make_valid(shapely.Polygon(ring))
    parts = getattr(mended, "geoms", [mended])
    return _united([part for part in parts if part.geom_type in ("Polygon", "MultiPolygon")])


def _united(parts: list[BaseGeometry]) -> BaseGeometry:
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
