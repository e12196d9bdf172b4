"""GeoJSON as QuPath reads it: polygons and tiles, in the coordinates of QuPath's bounds-cropped image."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pathflip.geometry import Box, SlideInfo
from pathflip.io.files import write_json

__all__ = ["box_ring", "feature", "write_features"]

Ring = Sequence[tuple[float, float]]


def box_ring(box: Box) -> list[tuple[float, float]]:
    """The closed ring of a rectangle, level-0 pixels."""
    x0, y0, x1, y1 = box.x, box.y, box.x + box.width, box.y + box.height
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]


def feature(
    rings: Sequence[Ring],
    *,
    name: str,
    info: SlideInfo,
    object_type: str = "annotation",
    classification: str | None = None,
    color: tuple[int, int, int] = (220, 40, 40),
    measurements: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """One QuPath object from a polygon's rings (outer first, then holes), given in level-0 pixels.

    QuPath's origin is the corner of the scanned bounds, so ``info.bounds0`` is subtracted here. Identifiers are
    derived from the content, so that the same result gives the same file.
    """
    dx, dy = (info.bounds0.x, info.bounds0.y) if info.bounds0 else (0, 0)
    coordinates = [[[round(x - dx, 2), round(y - dy, 2)] for x, y in ring] for ring in rings]
    properties: dict[str, Any] = {"objectType": object_type, "name": name, "isLocked": False}
    if classification is not None:
        properties["classification"] = {"name": classification, "color": list(color)}
    else:
        properties["color"] = list(color)
    if measurements:
        properties["measurements"] = {key: float(value) for key, value in measurements.items()}
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{info.slide_id}/{object_type}/{name}/{classification}/{coordinates}")
    geometry = {"type": "Polygon", "coordinates": coordinates}
    return {"type": "Feature", "id": str(identity), "geometry": geometry, "properties": properties}


def write_features(target: str | Path, features: Sequence[Mapping[str, Any]]) -> None:
    """Write a FeatureCollection atomically (no ``crs`` member: QuPath refuses it)."""
    write_json(target, {"type": "FeatureCollection", "features": list(features)}, indent=None)
