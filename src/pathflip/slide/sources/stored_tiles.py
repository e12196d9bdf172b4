"""Levels made of stored tiles: each is decoded once, and kept while its neighbours are read.

What the ways of reading that decode a file's own tiles have in common. A subclass says how one tile is decoded.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathflip.errors import SlideError, SlideLostError
from pathflip.geometry import SlideInfo
from pathflip.slide.sources.finer_level import DamageNotes, from_finer_level
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
        self.damage = DamageNotes()

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
            self.damage.say(self.info.slide_id, level, f"tile {index}: {error}")
            return pixels

    def _is_absent(self, level: int, index: int) -> bool:
        """Whether the file leaves this tile out."""
        return False

    def _is_empty(self, level: int, index: int) -> bool:
        """Whether the file leaves out this tile and everything finer under it."""
        return level == 0

    def _from_finer(self, level: int, index: int, halvings: int) -> Pixels:
        """A tile made from the next finer level."""
        stored = self._levels[level]
        tile_w, tile_h = stored.tile[0] >> halvings, stored.tile[1] >> halvings
        row, column = divmod(index, stored.columns)
        if self._is_empty(level, index):
            return np.broadcast_to(np.asarray(self.background, np.uint8), (tile_h, tile_w, 3))
        return from_finer_level(self, level, column * tile_w, row * tile_h, tile_w, tile_h, halvings)

    def _failure(self, level: int, index: int, error: Exception) -> SlideError:
        if isinstance(error, OSError):  # the share or the disk, not the tile
            return SlideLostError(f"slide '{self._path}': can no longer be read: {error.strerror or error}")
        message = f"slide '{self.info.slide_id}': cannot decode tile {index} of level {level}: {error}"
        return read_error(self._path, message)
