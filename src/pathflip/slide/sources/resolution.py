"""Microns per pixel, from what a file says about itself."""

import re
from collections.abc import Mapping

import numpy as np

__all__ = ["MICRONS", "mpp_from_properties", "mpp_from_resolution"]

TAG_MPP = (0.05, 20.0)
"""Resolution tags outside this range are a printer's or a screen's dots per inch (72 dpi = 353 µm), not a scanner's."""
PROPERTY_MPP = (0.01, 1000.0)
_OME_UNITS = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3}  # micro sign and Greek mu both occur
MICRONS = {"centimeter": 1e4, "inch": 25400.0}


def mpp_from_properties(properties: Mapping[str, str]) -> float | None:
    """Microns per level-0 pixel: the vendor's own value first, then the TIFF resolution tags."""
    vendor = properties.get("openslide.vendor", "")
    limits = TAG_MPP if vendor == "generic-tiff" else PROPERTY_MPP  # there OpenSlide itself reads the tags
    values = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    known = [v for v in values if v is not None and limits[0] <= v <= limits[1]]
    if known:
        return sum(known) / len(known)
    microns = MICRONS.get(properties.get("tiff.ResolutionUnit", ""))
    tags = [_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    return mpp_from_resolution([t for t in tags if t], microns) or _ome_mpp(properties.get("openslide.comment", ""))


def _ome_mpp(description: str) -> float | None:
    """Microns per pixel from the OME-XML of an OME-TIFF, which OpenSlide passes on unread."""
    if "<OME" not in description:
        return None
    sizes = []
    for axis in "XY":
        size = re.search(rf'PhysicalSize{axis}="([^"]+)"', description)
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', description)
        factor = _OME_UNITS.get(unit[1] if unit else "µm")
        value = _number(size[1]) if size else None
        if value is not None and factor is not None:
            sizes.append(value * factor)
    mpp = sum(sizes) / len(sizes) if sizes else None
    return mpp if mpp is not None and PROPERTY_MPP[0] <= mpp <= PROPERTY_MPP[1] else None


def mpp_from_resolution(per_unit: list[float], microns: float | None) -> float | None:
    """Microns per pixel from pixels per unit, or None where unit or value are not a scanner's."""
    if not per_unit or microns is None or min(per_unit) <= 0:
        return None
    mpp = microns * len(per_unit) / sum(per_unit)
    return mpp if TAG_MPP[0] <= mpp <= TAG_MPP[1] else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and np.isfinite(value) and value > 0 else None
