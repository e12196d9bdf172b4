"""Open a slide and read tiles of one physical size from it, whatever the scanner.

A :class:`Slide` joins what is known about the file (:class:`~pathflip.geometry.SlideInfo`) with a *source* of
pixels. Sources know pyramid levels only; everything about microns, tiles and resampling is here, once.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from math import ceil, floor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError, PathFLIPError, SlideError
from pathflip.geometry import Box, SlideInfo, TileSpec, best_level
from pathflip.io.slide_id import slide_id
from pathflip.slide.batch import Job, images_in_order, run_job
from pathflip.slide.resolution_table import SlideResolution, mpp_of
from pathflip.slide.sources import Pixels, Reader, Rectangle, Source, is_ome_zarr, open_source
from pathflip.slide.sources.dicom_series import file_of_folder, file_of_list

__all__ = ["Slide", "open_slide", "slide_info_row"]

SLIDE_SUFFIXES = {
    ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm", ".tif", ".tiff",
    ".png", ".jpg", ".jpeg", ".qptiff", ".dicom", ".vsi", ".isyntax", ".i2syntax",
}  # fmt: skip
"""How slide files end; what a file is, its content says."""
WHITE = (255, 255, 255)
_BLOCK = 1536
"""Side of the source blocks a thumbnail is assembled from: bounds its memory on slides without a pyramid."""


class Slide:
    """An open slide. Use as a context manager, or call :meth:`close`.

    Reading is thread-safe; a pickled Slide reopens its file where it lands, so it can be handed to worker
    processes.

    Attributes:
        path: the file.
        info: what is known without reading pixels; ``info.reader`` says how pixels are read, and why.
    """

    def __init__(
        self, path: Path, source: Source, slide_mpp: float | None, reader: Reader, files: Sequence[Path] = ()
    ) -> None:
        self.path = path
        self._source = source
        self._reopen = (list(files) or path, slide_mpp, source.background, reader, source.info.slide_id)
        self.info: SlideInfo = source.info

    def __enter__(self) -> "Slide":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, self._reopen

    def close(self) -> None:
        """Release the file."""
        self._source.close()

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of every pyramid level as stored."""
        return self._source.sizes

    def stored_tile_px(self, level: int) -> tuple[int, int] | None:
        """Width and height of a level's stored JPEG tiles; None where they cannot be handed on as they are."""
        return self._source.stored_tile_px(level)

    def stored_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """One stored JPEG tile, whole (at the edge it is padded), without a loss of quality; None where there is none.

        Raises:
            SlideError: it cannot be decoded.
        """
        return self._source.stored_jpeg(level, column, row)

    def absent_boxes(self) -> list[Box]:
        """Rectangles of level 0, in its pixels, that the file leaves out: shown as background, but not white glass."""
        return self._source.absent_boxes()

    def read_region_px(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Pixels of one pyramid level as stored: uint8 (height, width, 3), background beyond the edge.

        ``x``, ``y``, ``width``, ``height`` are pixels of that level (unlike OpenSlide, where x and y are level 0).

        Raises:
            SlideError: the file's data there cannot be decoded.
        """
        return self._source.read(level, x, y, width, height)[0]

    def read_regions(
        self,
        level: int,
        corners: Iterable[tuple[int, int]] | NDArray[np.int64],
        width: int,
        height: int,
        *,
        workers: int | None = None,
    ) -> Iterator[Pixels]:
        """:meth:`read_region_px` at many corners, in their order, by several threads.

        Stored tiles that several regions need are decoded once; a few regions at most wait in memory.

        Args:
            level: pyramid level.
            corners: (x, y) of every region, in pixels of that level.
            width, height: of every region, in pixels of that level.
            workers: threads; None takes one for every processor this process may use, 8 at most.

        Raises:
            SlideError: at the first region that cannot be decoded.
            ConfigError: ``workers`` is below 1.
        """
        rectangles = (Rectangle(level, int(x), int(y), width, height) for x, y in corners)
        jobs = (Job(rectangle, None, (width, height)) for rectangle in rectangles)
        return images_in_order(jobs, self._source.reader_of, workers)

    def read_box(self, x0: float, y0: float, width0: float, height0: float, out: tuple[int, int]) -> Pixels:
        """Any rectangle of level 0, resampled to ``out = (columns, rows)`` pixels from the best level.

        Raises:
            SlideError: the file's data there cannot be decoded.
        """
        return run_job(self._box(x0, y0, width0, height0, out), lambda rectangle: self._source.read(*rectangle))

    def _box(self, x0: float, y0: float, width0: float, height0: float, out: tuple[int, int]) -> Job:
        """Which pixels :meth:`read_box` reads, and what it makes of them."""
        downsample = min(width0 / out[0], height0 / out[1])
        level = best_level(self.info.downsamples, downsample)
        scale = self.info.downsamples[level]
        x, y, width, height = x0 / scale, y0 / scale, width0 / scale, height0 / scale
        halvings = self._source.halvings(level, downsample / scale)
        full_w, full_h = self._source.sizes[level]
        if x < 0 or y < 0 or x + width > full_w - full_w % 8 or y + height > full_h - full_h % 8:
            halvings = 0  # at the edge a halved pixel would mix the slide with what lies beyond
        step = 1 << halvings
        left, top = floor(x / step), floor(y / step)
        right, bottom = ceil((x + width) / step - 1e-9), ceil((y + height) / step - 1e-9)
        rectangle = Rectangle(level, left, top, right - left, bottom - top, halvings)
        return Job(rectangle, (x / step - left, y / step - top, width / step, height / step), out)

    def read_tile(self, x0: int, y0: int, spec: TileSpec) -> Pixels:
        """One tile: uint8 (tile_px, tile_px, 3), its top-left corner at level-0 pixel ``(x0, y0)``.

        The tile spans ``spec.tile_px0(info)`` level-0 pixels, the same microns on every slide; what lies beyond
        the slide is background.

        Raises:
            SlideError: this tile cannot be decoded (others may still be readable).
            MissingMPPError: the slide's own resolution is unknown.
            ResolutionError: the tile is finer than the slide.
        """
        side0 = spec.tile_px0(self.info)
        return self.read_box(x0, y0, side0, side0, (spec.tile_px, spec.tile_px))

    def read_tiles(
        self, coords: Iterable[tuple[int, int]] | NDArray[np.int64], spec: TileSpec, *, workers: int | None = None
    ) -> Iterator[Pixels]:
        """:meth:`read_tile` at many corners, in their order, by several threads; neighbours share decoding work.

        Args:
            coords: (x0, y0) of every tile, level-0 pixels.
            spec: side and resolution of the tiles.
            workers: threads; None takes one for every processor this process may use, 8 at most.

        Raises:
            SlideError: at the first tile that cannot be decoded. Use :meth:`read_tile` to go on past it.
            MissingMPPError, ResolutionError: as :meth:`read_tile`.
            ConfigError: ``workers`` is below 1.
        """
        side0 = spec.tile_px0(self.info)
        out = (spec.tile_px, spec.tile_px)
        jobs = (self._box(int(x0), int(y0), side0, side0, out) for x0, y0 in coords)
        return images_in_order(jobs, self._source.reader_of, workers)

    def thumbnail(self, max_px: int) -> Pixels:
        """The whole slide in uint8 RGB, its longer side at most ``max_px`` pixels (never enlarged)."""
        if max_px < 1:
            raise ConfigError(f"Slide.thumbnail: got max_px {max_px}, expected 1 or more")
        width0, height0 = self.info.size0
        scale = max(1.0, max(width0, height0) / max_px)
        out = max(1, round(width0 / scale)), max(1, round(height0 / scale))
        return self._in_blocks(out, width0 / out[0], height0 / out[1])

    def overview(self, downsample: float) -> Pixels:
        """The whole slide with each pixel spanning exactly ``downsample`` level-0 pixels; uint8 RGB.

        The last row and column may reach beyond the slide, into background.
        """
        width0, height0 = self.info.size0
        return self._in_blocks((ceil(width0 / downsample), ceil(height0 / downsample)), downsample, downsample)

    def _in_blocks(self, out: tuple[int, int], fx: float, fy: float) -> Pixels:
        """``out`` columns and rows of ``fx × fy`` level-0 pixels each, from the top-left corner."""
        scale = self.info.downsamples[best_level(self.info.downsamples, min(fx, fy))]
        step = max(1, int(_BLOCK / (max(fx, fy) / scale)))
        whole = np.empty((out[1], out[0], 3), np.uint8)
        for top in range(0, out[1], step):
            for left in range(0, out[0], step):
                columns, rows = min(step, out[0] - left), min(step, out[1] - top)
                block = self.read_box(left * fx, top * fy, columns * fx, rows * fy, (columns, rows))
                whole[top : top + rows, left : left + columns] = block
        return whole


def _reopen(
    path: Path | list[Path], slide_mpp: float | None, background: tuple[int, int, int], reader: Reader, name: str
) -> Slide:
    return open_slide(path, slide_mpp=slide_mpp, background=background, reader=reader, name=name)


def open_slide(
    path: str | Path | Sequence[str | Path],
    *,
    slide_mpp: SlideResolution | None = None,
    background: tuple[int, int, int] = WHITE,
    reader: Reader = "auto",
    name: str | None = None,
) -> Slide:
    """Open a whole-slide file of any scanner, or a plain PNG, JPEG or TIFF image.

    Args:
        path: the file; its format is found from its content, and a wrong extension does no harm. Of a DICOM slide: any
            of its files, the list of them, or the folder that holds them and no other DICOM slide. An OME-Zarr is a
            folder.
        slide_mpp: microns per level-0 pixel, for files that do not say or say it wrongly; overrides the file. A table
            (:func:`~pathflip.slide.resolution_table.read_slide_mpp`) says it slide by slide.
        background: colour (R, G, B) of transparent pixels and of what lies beyond the slide.
        reader: "auto" takes the fastest path that gives the right pixels; "openslide" goes through OpenSlide
            wherever it can; "fastslide" goes through fastslide (an extra), whose pixels are not exactly OpenSlide's.
        name: the slide's name (``info.slide_id``); by default the file's, or the folder's of a folder or list.

    Raises:
        SlideError: the file is missing, empty, truncated, or no image that can be read.
        MissingExtraError: only fastslide reads the format, and it is not installed.
    """
    files: list[Path] = []
    if isinstance(path, (str, Path)):
        path = Path(path)
    else:
        files = [Path(file) for file in path]
        path = file_of_list(files)
    name = name or slide_id(path.absolute().parent if len(files) > 1 else path.absolute())
    mpp = mpp_of(slide_mpp, name)
    if mpp is not None and not 0.01 <= mpp <= 1000:
        raise ConfigError(f"slide_mpp: got {mpp}, expected 0.01 to 1000 microns per level-0 pixel")
    file = path
    if not is_ome_zarr(path):
        file = file_of_folder(path) if path.is_dir() else path
        _check_file(file)
    mpp = None if mpp is None else float(mpp)
    source = open_source(file, name, background, reader, mpp)
    for question in (note for note in source.info.notes if "--slide-mpp" in note):
        warnings.warn(f"slide '{source.info.slide_id}': {question}", stacklevel=2)
    return Slide(path, source, mpp, reader, files)


def _check_file(path: Path) -> None:
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise SlideError(f"slide '{path}': no such file; check the path") from None
    except OSError as error:  # a symlink loop, an unreadable share, a name too long
        raise SlideError(f"slide '{path}': cannot be reached: {error.strerror or error}") from None
    if size == 0:
        raise SlideError(f"slide '{path}': the file is empty (0 bytes); copy it again")
    try:  # not os.access: a share may allow what it then does not do
        with open(path, "rb") as handle:
            handle.read(1)
    except OSError as error:
        raise SlideError(f"slide '{path}': cannot be read: {error.strerror or error}") from None


def slide_info_row(
    path: str | Path, *, slide_mpp: SlideResolution | None = None, name: str | None = None
) -> dict[str, Any]:
    """One slide as plain data for ``pathflip info``.

    Returns:
        slide_id, vendor, size0, mpp0, levels (sizes), reader, notes; and, where the slide cannot be opened, ``error``
        with the other values None.
    """
    try:
        with open_slide(path, slide_mpp=slide_mpp, name=name) as slide:
            info, sizes = slide.info, slide.level_sizes
    except PathFLIPError as error:
        empty = dict.fromkeys(("vendor", "size0", "mpp0", "levels", "reader", "notes"))
        return {"slide_id": name or slide_id(Path(path).absolute()), **empty, "error": str(error)}
    unbelieved = [f"'{info.mpp_stated}' is no scanner's resolution"] if info.mpp0 is None and info.mpp_stated else []
    return {
        "slide_id": info.slide_id,
        "vendor": info.vendor,
        "size0": list(info.size0),
        "mpp0": info.mpp0,
        "levels": [list(size) for size in sizes],
        "reader": info.reader,
        "notes": [*info.notes, *unbelieved],
    }
