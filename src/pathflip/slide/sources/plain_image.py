"""Plain PNG, JPEG and TIFF images, held in memory whole."""

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.errors import SlideError
from pathflip.geometry import SlideInfo
from pathflip.slide.sources.resolution import MICRONS, mpp_from_resolution
from pathflip.slide.sources.source import Color, Pixels, Source, flatten, read_error

__all__ = ["ImageSource", "open_image"]

MAX_IMAGE_PIXELS = 150_000_000
"""Plain images are held in memory whole; larger ones (450 MB) must be made pyramids first."""


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
        microns = {2: MICRONS["inch"], 3: MICRONS["centimeter"]}.get(image.tag_v2.get(296, 2))
        tags = [image.tag_v2.get(tag) for tag in (282, 283)]
    else:
        microns, tags = MICRONS["inch"], list(image.info.get("dpi", ()))
    return mpp_from_resolution([float(t) for t in tags if t], microns)
