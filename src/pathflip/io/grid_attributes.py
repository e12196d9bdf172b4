"""How every file format here describes a slide and its tiles: one set of attributes, written and read by one pair.

Coordinate files, feature files, packed slides and what is written for other tools all hold these; TRIDENT's nine
attributes stand beside them where its readers shall open the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathflip import __version__
from pathflip.errors import ConfigError, FeatureError
from pathflip.geometry import Box, SlideInfo, TileSpec
from pathflip.io.slide_id import check_name

__all__ = ["grid_attributes", "magnification", "read_grid_attributes", "trident_attributes"]

_MAGNIFICATIONS = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))


def grid_attributes(info: SlideInfo, spec: TileSpec) -> dict[str, Any]:
    """Slide and tiles as attributes: plain values and lists, so that HDF5 and JSON can hold them alike.

    Raises:
        MissingMPPError: the slide's own resolution is unknown.
    """
    attributes: dict[str, Any] = {
        "pathflip_version": __version__,
        "slide_id": info.slide_id,
        "tile_px": spec.tile_px,
        "mpp": spec.mpp,
        "stride_px": spec.stride_px,
        "min_tissue": spec.min_tissue,
        "mpp0": info.require_mpp(),
        "size0": list(info.size0),
        "downsamples": list(info.downsamples),
        "vendor": info.vendor,
        "reader": info.reader,
    }
    if (bounds := info.bounds0) is not None:
        attributes["bounds0"] = [bounds.x, bounds.y, bounds.width, bounds.height]
    return attributes


def read_grid_attributes(path: Path, attributes: Mapping[str, Any], remedy: str) -> tuple[SlideInfo, TileSpec]:
    """Slide and tiles from what :func:`grid_attributes` wrote.

    Args:
        path: the file they stand in, for messages. remedy: what to do where they are damaged, for messages.

    Raises:
        FeatureError: an attribute is missing (named), or they describe no slide.
    """
    a = attributes
    try:
        info = SlideInfo(
            slide_id=check_name(str(a["slide_id"]), "slide_id", path),
            size0=(int(a["size0"][0]), int(a["size0"][1])),
            mpp0=float(a["mpp0"]),
            downsamples=tuple(float(v) for v in a["downsamples"]),
            vendor=str(a["vendor"]),
            reader=str(a["reader"]),
            bounds0=Box(*(int(v) for v in a["bounds0"])) if "bounds0" in a else None,
        )
        spec = TileSpec(int(a["tile_px"]), float(a["mpp"]), int(a["stride_px"]), float(a["min_tissue"]))
    except KeyError as error:
        raise FeatureError(f"{path}: attribute {error} is missing; {remedy}") from error
    except (TypeError, ValueError, IndexError, OverflowError, ConfigError) as error:
        raise FeatureError(f"{path}: its attributes describe no slide ({error}); {remedy}") from error
    if not (0 < (info.mpp0 or 0) < 1000 and min(info.size0) > 0 and all(0.5 < d < 1e6 for d in info.downsamples)):
        raise FeatureError(
            f"{path}: its attributes describe no slide: {info.size0} px, {info.mpp0} mpp, downsamples "
            f"{info.downsamples}; {remedy}"
        )
    return info, spec


def trident_attributes(info: SlideInfo, spec: TileSpec, folder: Path) -> dict[str, Any]:
    """What TRIDENT writes on ``coords``. Magnifications are its buckets of mpp; nothing here reads them."""
    return {
        "patch_size": spec.tile_px,
        "patch_size_level0": spec.tile_px0(info),
        "level0_magnification": magnification(info.require_mpp()),
        "target_magnification": magnification(spec.mpp),
        "overlap": spec.tile_px - spec.stride_px,
        "name": info.slide_id,
        "savetodir": str(folder),
        "level0_width": info.size0[0],
        "level0_height": info.size0[1],
    }


def magnification(mpp: float) -> int:
    """The objective TRIDENT's bucketing gives a resolution (below 5×, the nearest whole number); labels only."""
    for limit, power in _MAGNIFICATIONS:
        if mpp < limit:
            return power
    return max(1, round(10 / mpp))
