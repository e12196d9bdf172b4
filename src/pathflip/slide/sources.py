"""Where a slide's pixels come from: OpenSlide, or a plain image held in memory."""

import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import SlideError, SlideLostError
from pathflip.geometry import Box, SlideInfo

__all__ = ["ImageSource", "OpenSlideSource", "Pixels", "Source", "open_image", "open_openslide", "read_error"]

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]

MAX_IMAGE_PIXELS = 150_000_000
"""Plain images are held in memory whole; larger ones (450 MB) must be made pyramids first."""
TAG_MPP = (0.05, 20.0)
"""Resolution tags outside this range are a printer's or a screen's dots per inch (72 dpi = 353 µm), not a scanner's."""
PROPERTY_MPP = (0.01, 1000.0)
_OME_UNITS = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3}  # micro sign and Greek mu both occur
_MICRONS = {"centimeter": 1e4, "inch": 25400.0}


class Source(ABC):
    """Pixels by pyramid level. Reads are thread-safe and raise SlideError, for that read only."""

    info: SlideInfo
    sizes: tuple[tuple[int, int], ...]
    background: Color

    @abstractmethod
    def read(
        self, level: int, x: int, y: int, width: int, height: int, halvings: int = 0
    ) -> tuple[Pixels, float, float]:
        """A rectangle of a level (halved ``halvings`` times), and where it really starts.

        Args:
            level: pyramid level.
            x, y, width, height: the rectangle, in pixels of the level divided by ``2 ** halvings``.
            halvings: how often the source should halve while decoding; at most what :meth:`halvings` returned.

        Returns:
            uint8 (height, width, 3), background beyond the edge; and by how much (x, y) the first pixel's corner
            lies beyond the corner asked for, in those pixels (0 for sources that store exact levels).
        """

    def halvings(self, level: int, downsample: float) -> int:
        """How often this source can halve a level while decoding, when it is wanted ``downsample`` times smaller."""
        return 0

    def close(self) -> None:
        """Release the file."""
        return None


class OpenSlideSource(Source):
    """Any format OpenSlide reads."""

    def __init__(self, path: Path, handle: Any, info: SlideInfo, background: Color) -> None:
        self.info = info
        self.sizes = handle.level_dimensions
        self.background = background
        self._path = path
        self._handle = handle
        self._lock = threading.Lock()

    def read(
        self, level: int, x: int, y: int, width: int, height: int, halvings: int = 0
    ) -> tuple[Pixels, float, float]:
        # OpenSlide takes level-0 corners and divides by its own downsample (the mean ratio of sizes, 3.9996 for a
        # true 4): the rectangle starts at a fraction of a level pixel, which is handed on rather than lost.
        handle = self._opened()
        ratio = handle.level_downsamples[level]
        x0, y0 = round(x * ratio), round(y * ratio)
        try:
            region = handle.read_region((x0, y0), level, (width, height))
        except Exception as error:
            self._forget(handle)
            where = f"level {level}, x {x}, y {y}, {width} × {height} px"
            raise read_error(self._path, f"slide '{self.info.slide_id}': cannot decode {where}: {error}") from None
        return flatten(np.asarray(region), self.background), x0 / ratio - x, y0 / ratio - y

    def _opened(self) -> Any:
        with self._lock:
            if self._handle is None:
                self._handle = _openslide_handle(self._path)
            return self._handle

    def _forget(self, handle: Any) -> None:
        """After one failed read OpenSlide refuses all others on that handle: drop it, reopen at the next read."""
        with self._lock:
            if self._handle is handle:
                self._handle = None

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()


class ImageSource(Source):
    """A plain image, decoded whole at the first read."""

    def __init__(self, path: Path, info: SlideInfo, background: Color) -> None:
        self.info = info
        self.sizes = (info.size0,)
        self.background = background
        self._path = path
        self._lock = threading.Lock()
        self._pixels: Pixels | None = None

    def read(
        self, level: int, x: int, y: int, width: int, height: int, halvings: int = 0
    ) -> tuple[Pixels, float, float]:
        pixels = self._decoded()
        canvas = np.empty((height, width, 3), np.uint8)
        canvas[:] = self.background
        left, top = max(0, x), max(0, y)
        right, bottom = min(pixels.shape[1], x + width), min(pixels.shape[0], y + height)
        if left < right and top < bottom:
            canvas[top - y : bottom - y, left - x : right - x] = pixels[top:bottom, left:right]
        return canvas, 0.0, 0.0

    def _decoded(self) -> Pixels:
        from PIL import Image

        with self._lock:
            if self._pixels is None:
                try:
                    with warnings.catch_warnings(action="ignore"), Image.open(self._path) as image:
                        self._pixels = flatten(np.asarray(image.convert("RGBA")), self.background)
                except Exception as error:
                    raise read_error(self._path, f"slide '{self._path}': cannot decode the image: {error}") from None
            return self._pixels

    def close(self) -> None:
        self._pixels = None


def read_error(path: Path, message: str) -> SlideError:
    """The error for a read that failed: ``message``, or that the file itself can no longer be reached."""
    try:
        with open(path, "rb") as handle:
            handle.read(1)
    except OSError as error:
        return SlideLostError(f"slide '{path}': could be read, and now no longer: {error.strerror or error}")
    return SlideError(" ".join(message.split()))


def flatten(rgba: NDArray[np.uint8], background: Color) -> Pixels:
    """RGBA (rows, columns, 4) over a background colour: uint8 RGB."""
    alpha = rgba[..., 3]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    share = alpha[..., None].astype(np.float32) / 255
    mixed = rgba[..., :3] * share + np.asarray(background, np.float32) * (1 - share)
    return np.rint(mixed).astype(np.uint8)


def snapped_downsamples(sizes: tuple[tuple[int, int], ...]) -> tuple[float, ...]:
    """Level-0 pixels per level pixel, whole numbers wherever the sizes allow.

    Scanners and converters shrink by whole factors and round the size up or down; dividing the rounded sizes gives
    3.9994 for a true 4, which is half a pixel off at the far edge. Registering level 1 and 2 on level 0 at the far
    corner of seven real slides from two vendors confirmed the whole numbers.
    """
    (width0, height0), factors = sizes[0], []
    for width, height in sizes:
        whole = max(1, round((width0 / width + height0 / height) / 2))
        fits = abs(width0 - whole * width) < whole and abs(height0 - whole * height) < whole
        factors.append(float(whole) if fits else (width0 / width + height0 / height) / 2)
    return tuple(factors)


def open_openslide(path: Path, slide_id: str, background: Color) -> OpenSlideSource | None:
    """The slide through OpenSlide, or None where OpenSlide does not know the format.

    Raises:
        SlideError: OpenSlide knows the format, but the file is damaged.
    """
    import openslide

    try:
        handle = _openslide_handle(path)
    except openslide.OpenSlideUnsupportedFormatError:
        return None
    properties = handle.properties
    vendor = properties.get("openslide.vendor", "unknown")
    info = SlideInfo(
        slide_id=slide_id,
        size0=handle.dimensions,
        mpp0=_mpp(properties),
        downsamples=snapped_downsamples(handle.level_dimensions),
        vendor=vendor,
        reader=f"openslide {openslide.__library_version__}: {vendor} files are read through OpenSlide",
        bounds0=_bounds(properties),
    )
    return OpenSlideSource(path, handle, info, background)


def _openslide_handle(path: Path) -> Any:
    import openslide

    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        raise
    except (openslide.OpenSlideError, OSError) as error:
        reason = " ".join(str(error).split())
        raise SlideError(f"slide '{path}': damaged or incomplete: {reason}; copy or export it again") from None


def _mpp(properties: Mapping[str, str]) -> float | None:
    """Microns per level-0 pixel: the vendor's own value first, then the TIFF resolution tags."""
    vendor = properties.get("openslide.vendor", "")
    limits = TAG_MPP if vendor == "generic-tiff" else PROPERTY_MPP  # there OpenSlide itself reads the tags
    values = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    known = [v for v in values if v is not None and limits[0] <= v <= limits[1]]
    if known:
        return sum(known) / len(known)
    microns = _MICRONS.get(properties.get("tiff.ResolutionUnit", ""))
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


def _bounds(properties: Mapping[str, str]) -> Box | None:
    keys = ("x", "y", "width", "height")
    try:
        return Box(*(int(properties[f"openslide.bounds-{key}"]) for key in keys))
    except (KeyError, ValueError):
        return None


def open_image(path: Path, slide_id: str, background: Color) -> ImageSource:
    """A plain PNG, JPEG or TIFF image (found from its content).

    Raises:
        SlideError: no such image, damaged, 16-bit, or too large to hold in memory.
    """
    from PIL import Image, UnidentifiedImageError

    try:  # Pillow warns of large images; their size is checked below
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
            (width, height), mode, kind, mpp = image.size, image.mode, str(image.format).lower(), _image_mpp(image)
    except Image.DecompressionBombError:
        raise SlideError(
            f"slide '{path}': a plain image too large to hold in memory; convert it to a pyramidal TIFF, "
            "for example with  vips tiffsave IN OUT --tile --pyramid --compression jpeg"
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        size = path.stat().st_size
        raise SlideError(
            f"slide '{path}': neither OpenSlide nor Pillow can read it ({size} bytes); expected a whole-slide format "
            "or a PNG, JPEG or TIFF image; the file may be truncated or carry a wrong extension"
        ) from None
    if width * height > MAX_IMAGE_PIXELS:
        raise SlideError(
            f"slide '{path}': got a plain image of {width} × {height} px, expected at most {MAX_IMAGE_PIXELS} px; "
            "convert it to a pyramidal TIFF, for example with  vips tiffsave IN OUT --tile --pyramid --compression jpeg"
        )
    if mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise SlideError(f"slide '{path}': got pixels of kind '{mode}', expected 8-bit grey or colour")
    reader = f"pillow: a plain {kind} image, held in memory whole"
    info = SlideInfo(slide_id, (width, height), mpp, vendor=kind, reader=reader)
    return ImageSource(path, info, background)


def _image_mpp(image: Any) -> float | None:
    """Microns per pixel from TIFF tags 282, 283, 296, or from the dots per inch of PNG and JPEG."""
    if image.format == "TIFF":
        microns = {2: _MICRONS["inch"], 3: _MICRONS["centimeter"]}.get(image.tag_v2.get(296, 2))
        tags = [image.tag_v2.get(tag) for tag in (282, 283)]
    else:
        microns, tags = _MICRONS["inch"], list(image.info.get("dpi", ()))
    return mpp_from_resolution([float(t) for t in tags if t], microns)
