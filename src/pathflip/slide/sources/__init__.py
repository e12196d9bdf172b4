"""Ways of reading a slide, one file each, and the choice among them.

A way of reading is a :class:`Source`. :func:`open_source` asks OpenSlide what the file is, takes a faster way where one
gives the same pixels, and falls back to a plain image.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pathflip.errors import MissingExtraError, SlideError
from pathflip.slide.sources.openslide import OpenSlideSource, open_openslide, openslide_vendor
from pathflip.slide.sources.oriented import OrientedSource
from pathflip.slide.sources.plain_image import open_image
from pathflip.slide.sources.source import Color, NotHereError, Pixels, Rectangle, Source
from pathflip.slide.sources.through_fastslide import AS_ASKED, fastslide_format, is_ome_zarr, open_fastslide
from pathflip.slide.sources.tiff_header import check_tiff_header

__all__ = ["Pixels", "Reader", "Rectangle", "Source", "is_ome_zarr", "open_source"]

Reader = Literal["auto", "openslide", "fastslide"]


_TIFF_VENDORS = ("aperio", "generic-tiff", "philips")
"""TIFFs of these kinds, and those OpenSlide does not know, hold their levels as plain pages."""


def open_source(path: Path, name: str, background: Color, reader: Reader, slide_mpp: float | None = None) -> Source:
    """The way of reading that suits the file at ``path``, for the slide called ``name``.

    Raises:
        SlideError: nothing can read it, or it would be read wrongly.
    """
    kind = fastslide_format(path)
    if reader == "fastslide" or kind == "Olympus VSI" or path.is_dir():
        return open_fastslide(path, name, background, slide_mpp, AS_ASKED if reader == "fastslide" else kind or "")
    is_tiff = check_tiff_header(path)
    vendor = openslide_vendor(path)
    if kind is not None and vendor is None:
        return open_fastslide(path, name, background, slide_mpp, kind)
    if kind is not None and reader == "auto":
        return _openslide_else_fastslide(path, name, background, slide_mpp, kind)
    if not is_tiff and vendor is None:
        return open_image(path, name, background, slide_mpp)
    if vendor == "dicom":
        _check_dicom(path)
    through_openslide = None
    if vendor is not None and (vendor == "philips" or vendor not in _TIFF_VENDORS or not is_tiff):
        through_openslide = open_openslide(path, name, background, slide_mpp)
    if not is_tiff or vendor not in (None, *_TIFF_VENDORS):
        assert through_openslide is not None
        return through_openslide if reader == "openslide" else _directly(path, through_openslide)
    from pathflip.slide.sources.tiled_tiff import open_tiled_tiff

    try:
        source = open_tiled_tiff(path, name, vendor or "tiff", background, slide_mpp, through_openslide)
    except NotHereError as reason:
        why = str(reason)
    else:
        if reader == "auto" or vendor is None or isinstance(source, OrientedSource):
            return source
        source.close()
        why = "as asked"
    if vendor is None:
        raise SlideError(f"slide '{path}': a TIFF that cannot be read: {why}; copy or export it again")
    return _because(why, through_openslide or open_openslide(path, name, background, slide_mpp))


def _openslide_else_fastslide(path: Path, name: str, background: Color, slide_mpp: float | None, kind: str) -> Source:
    """OpenSlide reads only part of what its formats allow (CZI without a third dimension)."""
    try:
        return open_openslide(path, name, background, slide_mpp)
    except SlideError as error:
        try:
            return open_fastslide(path, name, background, slide_mpp, kind)
        except MissingExtraError as missing:
            raise SlideError(f"{error}; another reader may open it: {missing}") from None


def _check_dicom(path: Path) -> None:
    from pathflip.slide.sources.dicom import check_dicom

    with suppress(NotHereError):  # a folder that cannot be looked through
        check_dicom(path)


def _directly(path: Path, through_openslide: OpenSlideSource) -> Source:
    """A faster way that takes levels and properties from OpenSlide and gives its pixels, where there is one."""
    from pathflip.slide.sources.dicom import open_dicom
    from pathflip.slide.sources.ndpi import open_ndpi

    ways = {"hamamatsu": open_ndpi, "dicom": open_dicom}
    way = ways.get(through_openslide.info.vendor)
    if way is None:
        return through_openslide
    try:
        source = way(path, through_openslide)
    except NotHereError as reason:
        return _because(str(reason), through_openslide)
    through_openslide.close()
    return source


def _because(why: str, through_openslide: OpenSlideSource) -> Source:
    """OpenSlide, with the reason in ``info.reader``."""
    info = through_openslide.info
    through_openslide.info = replace(info, reader=f"{info.reader.partition(':')[0]}: {why}")
    return through_openslide
