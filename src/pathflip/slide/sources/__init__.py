"""Ways of reading a slide, one file each, and the choice among them.

A way of reading is a :class:`Source`. :func:`open_source` asks OpenSlide what the file is, takes a faster way where one
gives the same pixels, and falls back to a plain image.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pathflip.slide.sources.openslide import open_openslide
from pathflip.slide.sources.plain_image import open_image
from pathflip.slide.sources.source import Color, Pixels, Rectangle, Source
from pathflip.slide.sources.tiff_header import check_tiff_header

__all__ = ["Pixels", "Reader", "Rectangle", "Source", "open_source"]

Reader = Literal["auto", "openslide"]


def open_source(path: Path, name: str, background: Color, reader: Reader) -> Source:
    """The way of reading that suits the file at ``path``, for the slide called ``name``.

    Raises:
        SlideError: nothing can read it.
    """
    check_tiff_header(path)
    through_openslide = open_openslide(path, name, background)
    if through_openslide is None:
        return open_image(path, name, background)
    if reader == "openslide":
        return through_openslide
    from pathflip.slide.sources.tiled_tiff import open_tiled_tiff

    fast, why = open_tiled_tiff(path, through_openslide)
    if fast is not None:
        through_openslide.close()
        return fast
    info = through_openslide.info
    through_openslide.info = replace(info, reader=f"{info.reader.split(':')[0]}: {why}")
    return through_openslide
