"""Levels made of stored tiles: each is decoded once, and kept while its neighbours are read.

What the ways of reading that decode a file's own tiles have in common. A subclass says how one tile is decoded.
"""

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathflip.errors import SlideError, SlideLostError
from pathflip.geometry import SlideInfo
from pathflip.slide.sources.source import Color, Pixels, Source, read_error

__all__ = ["StoredLevel", "StoredTiles"]

CACHE_BYTES = 96 * 2**20
"""Decoded tiles kept: a few rows of stored tiles across a slide, so that reading row by row decodes each once."""
MAX_HALVINGS = 3
FINER_BY = 0.05
"""A level is halved while decoding if what is left is at most this much coarser than wanted (then enlarged, cubic)."""


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
        self._lock = threading.Lock()
        self._tiles: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()
        self._pending: dict[tuple[int, int, int], threading.Lock] = {}

    @abstractmethod
    def _decoded(self, level: int, index: int, halvings: int) -> Pixels:
        """One stored tile, halved ``halvings`` times: uint8 (rows, columns, 3).

        Raises:
            OSError: the file can no longer be read.
            Exception: anything else, as the decoder raises it: the tile is damaged.
        """

    def close(self) -> None:
        with self._lock:
            self._tiles.clear()

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
        stored = self._levels[level]
        tile_w, tile_h = stored.tile[0] >> halvings, stored.tile[1] >> halvings
        full_w, full_h = stored.size[0] >> halvings, stored.size[1] >> halvings
        left, top, right, bottom = max(0, x), max(0, y), min(full_w, x + width), min(full_h, y + height)
        canvas = np.empty((height, width, 3), np.uint8)
        if right - left < width or bottom - top < height:
            canvas[:] = self.background
        if left >= right or top >= bottom:
            return canvas, 0.0, 0.0
        for row in range(top // tile_h, (bottom - 1) // tile_h + 1):
            y0, y1 = max(top, row * tile_h), min(bottom, (row + 1) * tile_h)
            for column in range(left // tile_w, (right - 1) // tile_w + 1):
                x0, x1 = max(left, column * tile_w), min(right, (column + 1) * tile_w)
                pixels = self._tile(level, row * stored.columns + column, halvings)
                part = pixels[y0 - row * tile_h : y1 - row * tile_h, x0 - column * tile_w : x1 - column * tile_w]
                canvas[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return canvas, 0.0, 0.0

    def _tile(self, level: int, index: int, halvings: int) -> Pixels:
        """One stored tile; if another thread is decoding it, its result is awaited rather than made twice."""
        key = (level, index, halvings)
        while True:
            with self._lock:
                known = self._tiles.get(key)
                if known is not None:
                    self._tiles.move_to_end(key)
                    return known
                busy = self._pending.get(key)
                if busy is None:
                    mine = self._pending[key] = threading.Lock()
                    mine.acquire()
                    break
            with busy:  # then look again: what failed there is tried again here, as a share may come back
                pass
        try:
            pixels = self._checked(level, index, halvings)
        except Exception as error:
            raise self._failure(level, index, error) from None
        else:
            with self._lock:
                self._tiles[key] = pixels
                self._forget_oldest(level, halvings)
        finally:
            with self._lock:
                del self._pending[key]
            mine.release()
        return pixels

    def _failure(self, level: int, index: int, error: Exception) -> SlideError:
        if isinstance(error, OSError):  # the share or the disk, not the tile
            return SlideLostError(f"slide '{self._path}': can no longer be read: {error.strerror or error}")
        message = f"slide '{self.info.slide_id}': cannot decode tile {index} of level {level}: {error}"
        return read_error(self._path, message)

    def _forget_oldest(self, level: int, halvings: int) -> None:
        tile_w, tile_h = self._levels[level].tile
        keep = max(16, CACHE_BYTES // (3 * tile_w * tile_h >> 2 * halvings))
        while len(self._tiles) > keep:
            self._tiles.popitem(last=False)

    def _checked(self, level: int, index: int, halvings: int) -> Pixels:
        tile_w, tile_h = self._levels[level].tile
        pixels = self._decoded(level, index, halvings)
        expected = (tile_h >> halvings, tile_w >> halvings, 3)
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise ValueError(f"got {pixels.dtype} {pixels.shape}, expected uint8 {expected}")
        return pixels
