"""Microns per pixel, from what a file says about itself.

Headers are wrong in few ways: nanometres or millimetres for microns, centimetres for millimetres, a screen's dots per
inch, zero, "nan", a unit written behind the number. What no scanner has is not believed: it is either unknown, and the
error says what the file stated, or it is taken and questioned.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pathflip.errors import SlideError

__all__ = [
    "Resolution",
    "contradiction",
    "number_of_microns",
    "ome_resolution",
    "resolution_from_properties",
    "resolution_from_tags",
]

PLAUSIBLE_MPP = (0.05, 20.0)
"""Outside it lie unit slips and a printer's or a screen's dots per inch (72 dpi = 353 µm)."""
COARSEST_SCAN_MPP = 2.0
"""The finest level of no scanner is coarser (2 µm: a 5x objective); exports of a lower level are, so it is asked."""
NOT_SQUARE = 0.02
"""Width and height of a pixel differ by a per mille on real scanners; from 2 % on shapes would be distorted."""
SAME_MPP = 0.1
"""Two statements of one file may differ by this fraction: nominal and measured values do."""
_UNITS = {"": 1.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
_UNITS |= {"micrometer": 1.0, "micrometers": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4}
_UNITS |= {"m": 1e6, "pm": 1e-6, "Å": 1e-4, "in": 25400.0, "inch": 25400.0, "µm/pixel": 1.0, "um/pixel": 1.0}
MICRONS_A_TAG_UNIT = {2: 25400.0, 3: 1e4}
"""Microns per unit of TIFF tag 296: inch, centimetre; 1 is no unit."""
_TAG_UNITS = {"inch": 2, "centimeter": 3}


@dataclass(frozen=True)
class Resolution:
    """Microns per pixel along x and y as a file states them, believed or not.

    Attributes:
        x, y: microns per level-0 pixel, or None where nothing is stated that could be one.
        stated: what the file says, in its own words, to be shown where it is not believed.
        coarsest: the largest value to believe.
    """

    x: float | None = None
    y: float | None = None
    stated: str = ""
    coarsest: float = PLAUSIBLE_MPP[1]

    @property
    def is_plausible(self) -> bool:
        """Whether both values are a microscope's."""
        low, high = PLAUSIBLE_MPP[0], self.coarsest
        return self.x is not None and self.y is not None and low <= self.x <= high and low <= self.y <= high

    def mpp(self, slide: str) -> float | None:
        """Microns per pixel (the mean over x and y), or None where what is stated cannot be.

        Raises:
            SlideError: pixels are not square.
        """
        if self.x is None or self.y is None or not self.is_plausible:
            return None
        if abs(self.x - self.y) > NOT_SQUARE * min(self.x, self.y):
            raise SlideError(
                f"slide '{slide}': its pixels are {self.x:.4g} µm wide and {self.y:.4g} µm high, expected square ones; "
                "resample it to square pixels, or, if the header is wrong, give the true size with --slide-mpp"
            )
        return (self.x + self.y) / 2

    @property
    def question(self) -> str:
        """What to ask the user, or nothing: a value that is possible, but not a scanner's finest level."""
        mpp = ((self.x or 0.0) + (self.y or 0.0)) / 2
        if not self.is_plausible or mpp <= COARSEST_SCAN_MPP * 1.01:
            return ""
        return (
            f"the file says {mpp:.4g} µm a pixel, coarser than a scanner's finest level (at most "
            f"{COARSEST_SCAN_MPP:g}); if a unit slipped (it may be {mpp / 10:.3g}), give the true one with --slide-mpp"
        )


def number_of_microns(text: str | None, unit: str = "") -> float | None:
    """The length written in ``text``, in microns: "0.25", "0,25", "0.25 um", "250 nm"; None for anything else.

    Args:
        text: a number, with or without a unit behind it.
        unit: the unit where ``text`` has none; none at all means microns.
    """
    match = re.fullmatch(r"\s*([-+]?[0-9.,]+(?:[eE][-+]?[0-9]+)?)\s*([^\d\s]*)\s*", text or "")
    if not match:
        return None
    digits = match[1].replace(",", ".") if match[1].count(",") == 1 and "." not in match[1] else match[1]
    factor = _UNITS.get(match[2] or unit.strip())
    try:
        value = float(digits) * factor if factor is not None else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) and value > 0 else None


def resolution_from_description(description: str) -> Resolution:
    """``MPP = 0.25`` among the fields of an Aperio header."""
    match = re.search(r"\bMPP\s*=\s*([^|;\r\n\x00]*)", description)
    if not match:
        return Resolution()
    mpp = number_of_microns(match[1])
    return Resolution(mpp, mpp, f"MPP = {match[1].strip()[:40]}")


def resolution_from_tags(x: float | None, y: float | None, unit: int) -> Resolution:
    """Pixels per unit of TIFF tags 282 and 283; ``unit`` is tag 296. A zero or missing axis takes the other's."""
    microns = MICRONS_A_TAG_UNIT.get(unit)
    sides = [microns / v if microns and v and math.isfinite(v) and v > 0 else None for v in (x, y)]
    if microns is None or sides == [None, None]:
        return Resolution()
    name = "inch" if unit == 2 else "cm"
    stated = f"a resolution of {' × '.join(f'{v:.6g}' for v in (x, y) if v)} pixels a {name}"
    return Resolution(sides[0] or sides[1], sides[1] or sides[0], stated)


def ome_resolution(description: str) -> Resolution:
    """Microns per pixel from the attributes of the first image in the XML of an OME-TIFF."""
    sides = []
    for axis in "XY":
        size = re.search(rf'PhysicalSize{axis}="([^"]+)"', description)
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', description)
        sides.append(number_of_microns(size[1], unit[1] if unit else "") if size else None)
    if sides == [None, None]:
        return Resolution()
    return Resolution(sides[0] or sides[1], sides[1] or sides[0], f"PhysicalSizeX = {sides[0]} µm")


def first_plausible(*candidates: Resolution) -> Resolution:
    """The first that a microscope can have; otherwise the first that states anything."""
    plausible = [c for c in candidates if c.is_plausible]
    stated = [c for c in candidates if c.stated]
    return (plausible or stated or [Resolution()])[0]


def contradiction(chosen: Resolution, other: Resolution) -> str:
    """What to say where two statements of one resolution, both possible, are not the same; "" where they agree."""
    if not (chosen.is_plausible and other.is_plausible):
        return ""
    assert chosen.x is not None
    assert other.x is not None
    if abs(chosen.x - other.x) <= SAME_MPP * other.x:
        return ""
    return (
        f"its header says {chosen.x:.4g} µm a pixel, its resolution tags {other.x:.4g}: {chosen.x:.4g} is used; if "
        "that is wrong, give the true one with --slide-mpp"
    )


def resolution_from_properties(properties: Mapping[str, str]) -> Resolution:
    """From OpenSlide's properties: the vendor's own value first, then the TIFF resolution tags, then OME-XML."""
    sides: Sequence[float | None] = [number_of_microns(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    vendor = Resolution()
    if sides[0] or sides[1]:
        # DICOM has one unit, and overviews of 30 µm a pixel are slides of their own there.
        coarsest = 1000.0 if properties.get("openslide.vendor") == "dicom" else PLAUSIBLE_MPP[1]
        stated = f"{sides[0] or sides[1]} µm a pixel"
        vendor = Resolution(sides[0] or sides[1], sides[1] or sides[0], stated, coarsest)
    x, y = (number_of_microns(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    tags = resolution_from_tags(x, y, _TAG_UNITS.get(properties.get("tiff.ResolutionUnit", ""), 1))
    comment = properties.get("openslide.comment", "")
    described = resolution_from_description(comment)
    return first_plausible(vendor, described, ome_resolution(comment) if "<OME" in comment else Resolution(), tags)
