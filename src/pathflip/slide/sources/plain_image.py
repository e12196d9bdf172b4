"""Plain PNG and JPEG images, held in memory whole."""

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.errors import SlideError
from pathflip.geometry import SlideInfo
from pathflip.slide.sources.jpeg import decode_strictly
from pathflip.slide.sources.oriented import turned
from pathflip.slide.sources.resolution import Resolution, resolution_from_tags
from pathflip.slide.sources.source import Color, Pixels, Source, flatten, read_error

__all__ = ["ImageSource", "open_image"]

MAX_IMAGE_PIXELS = 150_000_000
"""Plain images are held in memory whole; larger ones (450 MB) must be made pyramids first."""
_ORIENTATION = 0x0112


class ImageSource(Source):
    """A plain image, decoded whole at the first read."""

    def __init__(self, path: Path, info: SlideInfo, background: Color, orientation: int = 1) -> None:
        self.info = info
        self._orientation = orientation
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
        with self._lock:
            if self._pixels is None:
                try:
                    self._pixels = turned(self._read(), self._orientation)
                except Exception as error:
                    raise read_error(self._path, f"slide '{self._path}': cannot decode the image: {error}") from None
            return self._pixels

    def _read(self) -> Pixels:
        from PIL import Image

        with warnings.catch_warnings(action="ignore"), Image.open(self._path) as image:
            if image.format == "JPEG" and image.mode in ("L", "RGB"):  # Pillow paints over what is damaged
                return np.asarray(decode_strictly(self._path.read_bytes(), "RGB"))
            rgba = np.asarray(image.convert("RGBA"))
        if not rgba[..., 3].any() and rgba[..., :3].any():  # an alpha channel that was never filled
            rgba = np.concatenate([rgba[..., :3], np.full_like(rgba[..., :1], 255)], axis=-1)
            warnings.warn(f"slide '{self.info.slide_id}': its alpha is 0 everywhere, so it is ignored", stacklevel=2)
        return flatten(rgba, self.background)

    def close(self) -> None:
        self._pixels = None


def open_image(path: Path, slide_id: str, background: Color, slide_mpp: float | None) -> ImageSource:
    """A plain PNG or JPEG image (found from its content).

    Raises:
        SlideError: no such image, damaged, 16-bit, or too large to hold in memory.
    """
    from PIL import Image, UnidentifiedImageError

    try:  # Pillow warns of large images; their size is checked below
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=("PNG", "JPEG")) as image:
            (width, height), mode, kind = image.size, image.mode, str(image.format).lower()
            stated, orientation = _density(image), int(image.getexif().get(_ORIENTATION, 1))
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
    mpp = slide_mpp or stated.mpp(slide_id)
    notes: tuple[str, ...] = (stated.question,) if stated.question and not slide_mpp else ()
    size0 = (height, width) if 5 <= orientation <= 8 else (width, height)
    if 2 <= orientation <= 8:
        notes += (f"turned as its orientation tag says ({orientation})",)
    reader = f"pillow: a plain {kind} image, held in memory whole"
    info = SlideInfo(slide_id, size0, mpp, vendor=kind, reader=reader, notes=notes, mpp_stated=stated.stated)
    return ImageSource(path, info, background, orientation)


def _density(image: Any) -> Resolution:
    """Microns per pixel from the dots per inch of PNG and JPEG."""
    values = [float(v) for v in image.info.get("dpi", ())] or [0.0]
    return resolution_from_tags(values[0], values[-1], 2)
