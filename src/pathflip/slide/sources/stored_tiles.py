"""Levels made of stored tiles: each is decoded once, and kept while its neighbours are read.

What the ways of reading that decode a file's own tiles have in common. A subclass says how one tile is decoded.
"""

import threading
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pathflip.errors import SlideError, SlideLostError
from pathflip.geometry import SlideInfo
from pathflip.slide.resample import resample
from pathflip.slide.sources.source import Color, Pixels, Read, Rectangle, Source, read_error
from pathflip.slide.sources.tile_cache import CachedTile, TileCache

__all__ = ["StoredLevel", "StoredTiles"]

CACHE_BYTES = 96 * 2**20
"""Decoded tiles kept: a few rows of stored tiles across a slide, so that reading row by row decodes each once."""
MAX_HALVINGS = 3
FINER_BY = 0.05
"""A level is halved while decoding if what is left is at most this much coarser than wanted (then enlarged, cubic)."""
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
    def _decoded(self, level: int, index: int, halvings: int) -> Pixels:
        """One stored tile, halved ``halvings`` times: uint8 (rows, columns, 3).

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
        return self._painted(Rectangle(level, x, y, width, height, halvings), None), 0.0, 0.0

    def reader_of(self, rectangles: Sequence[Rectangle]) -> Read:
        needs = _BatchNeeds()
        for rectangle in rectangles:
            for part in self._parts(rectangle):
                needs.add(part)
        return lambda rectangle: (self._painted(rectangle, needs), 0.0, 0.0)

    def _parts(self, rectangle: Rectangle) -> Iterator["_Part"]:
        """The stored tiles under a rectangle, and which part of each."""
        level, x, y, width, height, halvings = rectangle
        stored = self._levels[level]
        tile_w, tile_h = stored.tile[0] >> halvings, stored.tile[1] >> halvings
        full_w, full_h = stored.size[0] >> halvings, stored.size[1] >> halvings
        left, top, right, bottom = max(0, x), max(0, y), min(full_w, x + width), min(full_h, y + height)
        if left >= right or top >= bottom:
            return
        for row in range(top // tile_h, (bottom - 1) // tile_h + 1):
            y0, y1 = max(top, row * tile_h), min(bottom, (row + 1) * tile_h)
            seen_h = min(full_h - row * tile_h, tile_h)
            for column in range(left // tile_w, (right - 1) // tile_w + 1):
                x0, x1 = max(left, column * tile_w), min(right, (column + 1) * tile_w)
                key = level, row * stored.columns + column, halvings
                num_pixels = seen_h * min(full_w - column * tile_w, tile_w)
                yield _Part(key, (x0, y0, x1, y1), (column * tile_w, row * tile_h), num_pixels)

    def _painted(self, rectangle: Rectangle, needs: "_BatchNeeds | None") -> Pixels:
        _, x, y, width, height, _ = rectangle
        canvas = np.empty((height, width, 3), np.uint8)
        parts = list(self._parts(rectangle))
        if sum(part.area for part in parts) < width * height:
            canvas[:] = self.background
        for part in parts:
            x0, y0, x1, y1 = part.box
            left, top = part.corner
            tile = self._tile(*part.key)
            try:
                canvas[y0 - y : y1 - y, x0 - x : x1 - x] = tile.pixels[y0 - top : y1 - top, x0 - left : x1 - left]
            finally:
                self._cache.let_go(tile, forget=needs is not None and needs.done_with(part))
        return canvas

    def _tile(self, level: int, index: int, halvings: int) -> CachedTile:
        tile_w, tile_h = self._levels[level].tile
        shape = (tile_h >> halvings, tile_w >> halvings, 3)

        def decode(out: Pixels) -> None:
            pixels = self._whole(level, index, halvings)
            if pixels.shape != shape or pixels.dtype != np.uint8:
                raise ValueError(f"got {pixels.dtype} {pixels.shape}, expected uint8 {shape}")
            out[:] = pixels

        try:
            return self._cache.hold((level, index, halvings), shape, decode)
        except Exception as error:
            raise self._failure(level, index, error) from None

    def _whole(self, level: int, index: int, halvings: int) -> Pixels:
        """A tile as stored; or, where it is left out or damaged, from the next finer level."""
        if self._is_absent(level, index):
            return self._from_finer(level, index, halvings)
        try:
            return self._decoded(level, index, halvings)
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


_Key = tuple[int, int, int]


class _Part(NamedTuple):
    """The part of one stored tile that lies in a rectangle.

    Attributes:
        key: level, index, halvings of the tile.
        box: left, top, right, bottom of the part, in pixels of the (halved) level.
        corner: the tile's own corner there.
        num_pixels: pixels the tile has within the level.
    """

    key: _Key
    box: tuple[int, int, int, int]
    corner: tuple[int, int]
    num_pixels: int

    @property
    def area(self) -> int:
        """Pixels of the part."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


class _BatchNeeds:
    """How often the rectangles of a batch still need each stored tile, and how much of it they leave unread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: Counter[_Key] = Counter()
        self._unread: dict[_Key, int] = {}

    def add(self, part: _Part) -> None:
        """Before reading: one more rectangle needs this part."""
        self._reads[part.key] += 1
        self._unread[part.key] = self._unread.get(part.key, part.num_pixels) - part.area

    def done_with(self, part: _Part) -> bool:
        """After a part was read: whether the batch does not need its tile again and has read all of it.

        A tile read in part is kept: its other part may be asked for by the next batch.
        """
        with self._lock:
            self._reads[part.key] -= 1
            return self._reads[part.key] == 0 and self._unread[part.key] <= 0
