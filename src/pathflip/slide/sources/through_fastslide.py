"""Formats that only fastslide reads, an optional package: Zeiss CZI where OpenSlide fails, OME-Zarr, VSI, iSyntax.

It is the last way tried, and never takes a file that another way reads: fastslide decodes JPEG by faster, coarser rules
(up to 23 grey levels from OpenSlide's pixels on real slides), and shows tiles that it cannot decode as white, without
an error. OME-Zarr is the exception: there it reports them.
"""

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.errors import MissingExtraError, SlideError
from pathflip.geometry import SlideInfo
from pathflip.slide.sources.resolution import PLAUSIBLE_MPP, Resolution
from pathflip.slide.sources.source import Color, Pixels, Source, flatten, read_error
from pathflip.slide.sources.tiff_pages import level_factor

__all__ = ["AS_ASKED", "FastslideSource", "fastslide_format", "is_ome_zarr", "open_fastslide"]

CACHE_BYTES = 96 * 2**20
_MAGIC = ((b"ZISRAWFILE", "Zeiss CZI"), (b"SIS\0", "Olympus ETS"), (b"<DataObject ObjectType=", "Philips iSyntax"))
_SUFFIXES = {
    "Zeiss CZI": (".czi",),
    "Olympus ETS": (".ets",),
    "Philips iSyntax": (".isyntax", ".i2syntax"),
    "Olympus VSI": (".vsi",),
    "OME-Zarr": (".zarr",),
}
"""It tells formats by the ending of the name."""
_NOT_REPORTED = "is read through fastslide, which shows tiles that it cannot decode as white and does not say so"
AS_ASKED = "it, as asked,"
_RGB = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def is_ome_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any((path / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup"))


def fastslide_format(path: Path) -> str | None:
    """The format of a file or folder that fastslide may be asked for, told by content; else None."""
    if path.is_dir():
        return "OME-Zarr" if is_ome_zarr(path) else None
    with open(path, "rb") as file:
        head = file.read(64)
    kinds = [kind for magic, kind in _MAGIC if head.startswith(magic)]
    # a VSI is a TIFF of previews, whose pixels lie in the folder beside it; an iSyntax begins with any XML
    kinds += [kind for kind in ("Olympus VSI", "Philips iSyntax") if path.suffix.lower() in _SUFFIXES[kind]]
    return kinds[0] if kinds else None


class FastslideSource(Source):
    """Any format fastslide reads."""

    def __init__(
        self, path: Path, handle: Any, picture: Any, info: SlideInfo, background: Color, levels: Sequence[int]
    ) -> None:
        self.info = info
        self.sizes = tuple(tuple(picture.level_dimensions[level]) for level in levels)
        self.background = background
        self._levels = tuple(levels)
        self._path = path / "zarr.json" if path.is_dir() else path
        self._handle = handle
        self._picture = picture

    def read(
        self, level: int, x: int, y: int, width: int, height: int, halvings: int = 0
    ) -> tuple[Pixels, float, float]:
        full_w, full_h = self.sizes[level]
        left, top, right, bottom = max(0, x), max(0, y), min(full_w, x + width), min(full_h, y + height)
        canvas = np.empty((height, width, 3), np.uint8)
        canvas[:] = self.background
        if left < right and top < bottom:
            pixels = self._region(level, left, top, right - left, bottom - top)
            canvas[top - y : bottom - y, left - x : right - x] = pixels
        return canvas, 0.0, 0.0

    def _region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        where = f"level {level}, x {x}, y {y}, {width} × {height} px"
        try:
            image = self._picture.read_region((x, y), self._levels[level], (width, height))
            stored = np.asarray(image.to_interleaved().numpy())
        except Exception as error:
            raise self._failure(f"cannot decode {where}: {_reason(error)}") from None
        if stored.dtype != np.uint8 or stored.shape[:2] != (height, width) or stored.shape[2] not in (3, 4):
            got = f"{stored.dtype} {stored.shape}"
            raise self._failure(f"{where}: fastslide gave {got}, expected uint8 ({height}, {width}, 3)")
        return flatten(stored, self.background) if stored.shape[2] == 4 else stored

    def _failure(self, what: str) -> SlideError:
        return read_error(self._path, f"slide '{self.info.slide_id}': {what}")

    def close(self) -> None:
        self._handle.close()


def open_fastslide(path: Path, name: str, background: Color, slide_mpp: float | None, kind: str) -> FastslideSource:
    """The slide through fastslide.

    Args:
        path: a file, or the folder of an OME-Zarr.
        name: the slide's name.
        background: what lies beyond the slide.
        slide_mpp: microns per pixel where the user says it.
        kind: its format, as :func:`fastslide_format` names it, or :data:`AS_ASKED`.

    Raises:
        MissingExtraError: the package is not installed.
        SlideError: fastslide cannot open it, or it holds no brightfield slide.
    """
    try:
        import fastslide
    except ImportError:
        raise MissingExtraError("fastslide", "fastslide", f"slide '{path}': reading {kind}") from None
    endings = _SUFFIXES.get(kind, ())
    if endings and path.suffix.lower() not in endings:
        raise SlideError(
            f"slide '{path}': holds {kind}, which fastslide knows by its name's ending {endings[0]}; rename it"
        )
    if path.is_dir() and not (path / "zarr.json").is_file():
        raise SlideError(f"slide '{path}': an OME-Zarr older than version 0.5 (no zarr.json in it); convert it")
    try:
        handle = fastslide.FastSlide.from_file_path(str(path), cache=CACHE_BYTES)
    except Exception as error:
        raise SlideError(f"slide '{path}': {kind} that fastslide cannot read: {_reason(error)}") from None
    try:
        source = _source(path, name, background, slide_mpp, handle)
    except SlideError:
        handle.close()
        raise
    why = "as asked" if kind == AS_ASKED else f"no other reader opens this {source.info.vendor}"
    reader = f"fastslide {fastslide.__version__}: {why}; its JPEG pixels are not exactly OpenSlide's"
    notes = source.info.notes
    if source.info.vendor != "OME-Zarr":
        notes += (_NOT_REPORTED,)
        warnings.warn(f"slide '{name}': {_NOT_REPORTED}", stacklevel=2)
    source.info = replace(source.info, reader=reader, notes=notes)
    return source


def _source(path: Path, name: str, background: Color, slide_mpp: float | None, handle: Any) -> FastslideSource:
    picture = max(handle.images, key=lambda image: image.dimensions[0] * image.dimensions[1])
    notes = _check_colours(path, handle.dtype, picture)
    size0 = tuple(picture.dimensions)
    levels = {0: 1.0}
    for level, size in enumerate(picture.level_dimensions):
        factor = level_factor(size0, tuple(size))
        if level and factor is not None:
            levels[level] = factor
    if len(levels) < picture.level_count:
        notes.append(f"leaves out {picture.level_count - len(levels)} levels that are no whole level of the slide")
    if handle.num_images > 1:
        notes.append(f"holds {handle.num_images} pictures, of which only the largest ('{picture.name}') is read")
    stated = _resolution(path, picture, dicom=handle.format == "DICOM")
    if stated.question and not slide_mpp:
        notes.append(stated.question)
    vendor = {"OME-ZARR": "OME-Zarr"}.get(handle.format, handle.format)
    info = SlideInfo(
        slide_id=name,
        size0=size0,
        mpp0=slide_mpp or stated.mpp(name),
        downsamples=tuple(levels.values()),
        vendor=vendor,
        reader="fastslide",
        notes=tuple(notes),
        mpp_stated=stated.stated,
    )
    return FastslideSource(path, handle, picture, info, background, tuple(levels))


def _check_colours(path: Path, dtype: str, picture: Any) -> list[str]:
    """What is to be said of its channels.

    Raises:
        SlideError: they are not red, green and blue of 8 bits.
    """
    channels = picture.channel_metadata
    names = ", ".join(str(channel.get("name", "")) for channel in channels[:6])
    holds = f"{picture.num_channels} channels of {dtype} ({names})"
    if dtype != "uint8" or picture.num_channels not in (3, 4) or _is_stack(picture):
        raise SlideError(f"slide '{path}': holds {holds}, expected 8-bit red, green and blue; export it as colour")
    colours = tuple(tuple(channel.get("color", ())) for channel in channels[:3])
    if colours == _RGB or len(channels) < 3:  # TIFF has one channel, "RGB"
        return []
    unnamed = all(re.fullmatch(r"(Channel )?\d*", str(channel.get("name", ""))) for channel in channels)
    if unnamed and set(colours) <= {(0, 0, 0), (255, 255, 255)}:
        return ["does not name its three channels, which are taken for red, green and blue"]
    raise SlideError(f"slide '{path}': holds {holds}, expected red, green and blue; export it as colour")


def _is_stack(picture: Any) -> bool:
    """Whether its channels are stains of their own: fastslide calls such pictures spectral."""
    image = picture.read_region((0, 0), picture.level_count - 1, (1, 1))
    return image.format.name not in ("RGB", "RGBA")


def _resolution(path: Path, picture: Any, dicom: bool) -> Resolution:
    x, y = (float(value) for value in picture.mpp)
    if not (x > 0 and y > 0):
        return Resolution()
    unit = _zarr_unit(path) if path.is_dir() else "micrometer"
    factor = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "": 1.0}.get(unit)
    if factor is None:
        return Resolution(stated=f"{x:.6g} {unit} a pixel")
    coarsest = 1000.0 if dicom else PLAUSIBLE_MPP[1]  # DICOM has one unit, and overviews are slides of their own there
    return Resolution(x * factor, y * factor, f"{x:.6g} × {y:.6g} {unit or 'µm'} a pixel", coarsest)


def _zarr_unit(path: Path) -> str:
    """The unit of the x axis of an OME-Zarr, which fastslide takes for micrometres."""
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]["ome"]
        axes = attributes["multiscales"][0]["axes"]
        return str(next(axis for axis in axes if axis["name"] == "x").get("unit", ""))
    except (OSError, ValueError, LookupError, TypeError, StopIteration, AttributeError):
        return ""


def _reason(error: Exception) -> str:
    """The first line of fastslide's report, without the places in its source."""
    return " ".join(re.split(r"\n\s*at |\(src/", str(error))[0].split())[:200]
