"""Any format OpenSlide reads, through OpenSlide."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.errors import SlideError, SlideLostError
from pathflip.geometry import Box, SlideInfo
from pathflip.slide.sources.finer_level import DamageNotes, from_finer_level
from pathflip.slide.sources.resolution import resolution_from_properties
from pathflip.slide.sources.source import Color, Pixels, Source, flatten, read_error
from pathflip.slide.sources.tiff_pages import level_factor

__all__ = ["OpenSlideSource", "open_openslide", "openslide_vendor"]


class OpenSlideSource(Source):
    """Any format OpenSlide reads."""

    def __init__(self, path: Path, handle: Any, info: SlideInfo, background: Color, levels: tuple[int, ...]) -> None:
        self.info = info
        self.sizes = tuple(handle.level_dimensions[level] for level in levels)
        self._levels = levels
        self.background = background
        self._path = path
        self._handle = handle
        self.damage = DamageNotes()
        self._lock = threading.Lock()

    def read(
        self, level: int, x: int, y: int, width: int, height: int, halvings: int = 0
    ) -> tuple[Pixels, float, float]:
        try:
            return self._stored(level, x, y, width, height)
        except SlideLostError:
            raise
        except SlideError as error:
            if level == 0:
                raise
            try:
                pixels = from_finer_level(self, level, x, y, width, height)
            except SlideError:
                raise error from None
            self.damage.say(self.info.slide_id, level, str(error).partition(": ")[2])
            return pixels, 0.0, 0.0

    def _stored(self, level: int, x: int, y: int, width: int, height: int) -> tuple[Pixels, float, float]:
        # OpenSlide takes level-0 corners and divides by its own downsample (the mean ratio of sizes, 3.9996 for a
        # true 4): the rectangle starts at a fraction of a level pixel, which is handed on rather than lost.
        handle = self._opened()
        stored = self._levels[level]
        ratio = handle.level_downsamples[stored]
        x0, y0 = round(x * ratio), round(y * ratio)
        try:
            region = handle.read_region((x0, y0), stored, (width, height))
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


def openslide_vendor(path: Path) -> str | None:
    """What OpenSlide calls the format of a file; None where it does not know it."""
    import openslide

    try:
        return openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None


def open_openslide(path: Path, slide_id: str, background: Color, slide_mpp: float | None) -> OpenSlideSource:
    """The slide through OpenSlide, which must know the format.

    Raises:
        SlideError: OpenSlide knows the format, but the file is damaged.
    """
    import openslide

    handle = _openslide_handle(path)
    properties = handle.properties
    vendor = properties.get("openslide.vendor", "unknown")
    stated = resolution_from_properties(properties)
    levels = {0: 1.0}
    for level, size in enumerate(handle.level_dimensions):
        factor = level_factor(handle.dimensions, size)
        if level and factor is not None:
            levels[level] = factor
    left_out = len(handle.level_dimensions) - len(levels)
    notes: tuple[str, ...] = (stated.question,) if stated.question and not slide_mpp else ()
    if left_out:
        notes += (f"leaves out {left_out} levels that are no whole level of the slide",)
    info = SlideInfo(
        slide_id=slide_id,
        size0=handle.dimensions,
        mpp0=slide_mpp or stated.mpp(slide_id),
        downsamples=tuple(levels.values()),
        vendor=vendor,
        reader=f"openslide {openslide.__library_version__}: {vendor} files are read through OpenSlide",
        bounds0=_bounds(properties),
        notes=notes,
        mpp_stated=stated.stated,
    )
    return OpenSlideSource(path, handle, info, background, tuple(levels))


def _openslide_handle(path: Path) -> Any:
    import openslide

    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        reason = " ".join(str(error).split())
        raise SlideError(f"slide '{path}': damaged or incomplete: {reason}; copy or export it again") from None


def _bounds(properties: Mapping[str, str]) -> Box | None:
    keys = ("x", "y", "width", "height")
    try:
        return Box(*(int(properties[f"openslide.bounds-{key}"]) for key in keys))
    except (KeyError, ValueError):
        return None
