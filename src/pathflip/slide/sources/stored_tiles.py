"""Levels made of stored tiles: each is decoded once, and kept while its neighbours are read.

What the ways of reading that decode a file's own tiles have in common. A subclass says how one tile is decoded.
"""

import threading
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

import numpy as np

from pathflip.errors import SlideError, SlideLostError
from pathflip.geometry import SlideInfo
from pathflip.slide.resample import resample
from pathflip.slide.sources.source import BatchReader, Color, Pixels, Rectangle, Source, read_error
from pathflip.slide.sources.tile_cache import CachedTile, TileCache
from pathflip.slide.sources.tile_parts import BatchNeeds, TileKey, TilePart, parts_under

__all__ = ["StoredLevel", "StoredTiles"]

CACHE_BYTES = 96 * 2**20
"""Decoded tiles kept: a few rows of stored tiles across a slide, so that reading row by row decodes each once."""
MAX_HALVINGS = 3
FINER_BY = 0.05
"""A level is halved while decoding if what is left is at most this much coarser than wanted (then enlarged, cubic)."""
MUCH_TO_DECODE = 0.1
"""With fewer pixels to decode for each pixel to copy, a batch is read by one thread: copies wait for each other."""
_FINER_BLOCK = 2048
"""Side of the blocks of a finer level that a left-out or damaged tile is made from: bounds their memory."""


@dataclass(frozen=True, eq=False)
class StoredLevel:
    """One level as a grid of stored tiles, row by row from the top-left corner.

    Attributes:
        size: width and height of the level, in pixels.
        tile: width and height of a stored tile; those of the last column and row may reach beyond the level.
        can_halve: whether a tile can be decoded at a half, a quarter or an eighth of its size.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    can_halve: bool

    @property
    def columns(self) -> int:
        """Stored tiles per row."""
        return -(-self.size[0] // self.tile[0])


class StoredTiles(Source):
    """Levels of stored tiles, decoded once each."""

    def __init__(self, path: Path, levels: Sequence[StoredLevel], info: SlideInfo, background: Color) -> None:
        self.info = info
        self.sizes = tuple(level.size for level in levels)
        self.background = background
        self._levels = tuple(levels)
        self._path = path
        self._cache = TileCache(CACHE_BYTES)
        self._lock = threading.Lock()
        self._replaced: set[int] = set()

    @abstractmethod
    def _decoded(self, level: int, index: int, halvings: int, out: Pixels | None = None) -> Pixels:
        """One stored tile, halved ``halvings`` times: uint8 (rows, columns, 3).

        Args:
            level, index, halvings: which tile.
            out: an array of the tile's shape that it may be decoded into, and returned.

        Raises:
            OSError: the file can no longer be read.
            Exception: anything else, as the decoder raises it: the tile is damaged.
        """

    def close(self) -> None:
        self._cache.clear()

    def halvings(self, level: int, downsample: float) -> int:
        if not self._levels[level].can_halve:
            return 0
        wanted = 0
        while wanted < MAX_HALVINGS and 2 ** (wanted + 1) * (1 - FINER_BY) <= downsample:
            wanted += 1
        return wanted

    def read(
        self, level: int, x: int, y: int, width: int, height: int, halvings: int = 0
    ) -> tuple[Pixels, float, float]:
        rectangle = Rectangle(level, x, y, width, height, halvings)
        return self._painted(rectangle, self._parts(rectangle), None), 0.0, 0.0

    def reader_of(self, rectangles: Sequence[Rectangle]) -> BatchReader:
        needs = BatchNeeds(rectangles, map(self._parts, rectangles))
        fresh = sum(self._tile_area(key) for key in needs.keys if key not in self._cache)

        def read(rectangle: Rectangle) -> tuple[Pixels, float, float]:
            return self._painted(rectangle, needs.parts[rectangle], needs), 0.0, 0.0

        return BatchReader(read, shared=fresh > MUCH_TO_DECODE * needs.area)

    def _parts(self, rectangle: Rectangle) -> list[TilePart]:
        stored = self._levels[rectangle.level]
        return parts_under(rectangle, stored.size, stored.tile, stored.columns)

    def _tile_area(self, key: TileKey) -> int:
        level, _, halvings = key
        tile_w, tile_h = self._levels[level].tile
        return tile_w * tile_h >> 2 * halvings

    def _painted(self, rectangle: Rectangle, parts: Sequence[TilePart], needs: BatchNeeds | None) -> Pixels:
        canvas = np.empty((rectangle.height, rectangle.width, 3), np.uint8)
        if sum(part.area for part in parts) < rectangle.width * rectangle.height:
            canvas[:] = self.background
        waiting = [part for part in parts if not self._paint(canvas, part, needs, wait=False)]
        for part in waiting:  # another thread was decoding these; meanwhile the others were made
            self._paint(canvas, part, needs, wait=True)
        return canvas

    def _paint(self, canvas: Pixels, part: TilePart, needs: BatchNeeds | None, wait: bool) -> bool:
        """Copy the part of a tile; False where it would have to be waited for."""
        key, target, source, _, _ = part
        tile = self._tile(key, wait)
        if tile is None:
            return False
        try:
            canvas[target] = tile.pixels[source]
        finally:
            self._cache.let_go(tile, forget=needs is not None and needs.done_with(key))
        return True

    def _tile(self, key: TileKey, wait: bool) -> CachedTile | None:
        level, index, halvings = key
        tile_w, tile_h = self._levels[level].tile
        shape = (tile_h >> halvings, tile_w >> halvings, 3)

        def decode(out: Pixels) -> None:
            pixels = self._whole(level, index, halvings, out)
            if pixels.shape != shape or pixels.dtype != np.uint8:
                raise ValueError(f"got {pixels.dtype} {pixels.shape}, expected uint8 {shape}")
            if not np.may_share_memory(pixels, out):
                out[:] = pixels

        try:
            return self._cache.hold(key, shape, decode, wait)
        except Exception as error:
            raise self._failure(level, index, error) from None

    def _whole(self, level: int, index: int, halvings: int, out: Pixels) -> Pixels:
        """A tile as stored; or, where it is left out or damaged, from the next finer level."""
        if self._is_absent(level, index):
            return self._from_finer(level, index, halvings)
        try:
            return self._decoded(level, index, halvings, out)
        except OSError:
            raise
        except Exception as error:
            if level == 0:
                raise
            try:
                pixels = self._from_finer(level, index, halvings)
            except SlideError:
                raise error from None
            self._say_once(level, index, error)
            return pixels

    def _is_absent(self, level: int, index: int) -> bool:
        """Whether the file leaves this tile out."""
        return False

    def _is_empty(self, level: int, index: int) -> bool:
        """Whether the file leaves out this tile and everything finer under it."""
        return level == 0

    def _say_once(self, level: int, index: int, error: Exception) -> None:
        with self._lock:
            if level in self._replaced:
                return
            self._replaced.add(level)
        reason = " ".join(str(error).split())
        warnings.warn(
            f"slide '{self.info.slide_id}': level {level} is damaged (tile {index}: {reason}); "
            f"where it is, pixels come from level {level - 1}",
            stacklevel=2,
        )

    def _from_finer(self, level: int, index: int, halvings: int) -> Pixels:
        """A tile made from the next finer level, by the mean over each pixel's area; background where nothing is."""
        stored = self._levels[level]
        tile_w, tile_h = stored.tile[0] >> halvings, stored.tile[1] >> halvings
        canvas = np.empty((tile_h, tile_w, 3), np.uint8)
        canvas[:] = self.background
        if self._is_empty(level, index):
            return canvas
        row, column = divmod(index, stored.columns)
        scale = self.info.downsamples[level] / self.info.downsamples[level - 1] * 2**halvings
        x, y = column * tile_w, row * tile_h
        width = min(tile_w, -(-stored.size[0] >> halvings) - x)
        height = min(tile_h, -(-stored.size[1] >> halvings) - y)
        step = max(1, int(_FINER_BLOCK / scale))
        for top in range(0, height, step):
            for left in range(0, width, step):
                out = min(step, width - left), min(step, height - top)
                canvas[top : top + out[1], left : left + out[0]] = self._shrunk(
                    level - 1, x + left, y + top, out, scale
                )
        return canvas

    def _shrunk(self, level: int, x: int, y: int, out: tuple[int, int], scale: float) -> Pixels:
        """``out`` columns and rows, each over ``scale`` pixels of ``level``, from the corner ``(x, y)`` so counted."""
        full_w, full_h = self.sizes[level]
        left, top = min(floor(x * scale), full_w - 1), min(floor(y * scale), full_h - 1)
        right = max(left + 1, min(full_w, ceil((x + out[0]) * scale - 1e-9)))
        bottom = max(top + 1, min(full_h, ceil((y + out[1]) * scale - 1e-9)))
        pixels, dx, dy = self.read(level, left, top, right - left, bottom - top)
        return resample(pixels, x * scale - left - dx, y * scale - top - dy, out[0] * scale, out[1] * scale, out)

    def _failure(self, level: int, index: int, error: Exception) -> SlideError:
        if isinstance(error, OSError):  # the share or the disk, not the tile
            return SlideLostError(f"slide '{self._path}': can no longer be read: {error.strerror or error}")
        message = f"slide '{self.info.slide_id}': cannot decode tile {index} of level {level}: {error}"
        return read_error(self._path, message)
