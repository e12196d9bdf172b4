"""Which stored tiles lie under a rectangle, and how often the rectangles of a batch need each of them."""

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pathflip.slide.sources.source import Rectangle

__all__ = ["BatchNeeds", "TileKey", "TilePart", "parts_under"]

TileKey = tuple[int, int, int]
"""Level, index of the stored tile (row by row), halvings."""


class TilePart(NamedTuple):
    """The part of one stored tile that lies in a rectangle.

    Attributes:
        key: the tile.
        target: rows and columns of the part in the rectangle.
        source: its rows and columns in the tile.
        area: pixels of the part.
        tile_area: pixels the tile has within its level.
    """

    key: TileKey
    target: tuple[slice, slice]
    source: tuple[slice, slice]
    area: int
    tile_area: int


def parts_under(rectangle: Rectangle, size: tuple[int, int], tile: tuple[int, int], columns: int) -> list[TilePart]:
    """The stored tiles under a rectangle, row by row.

    Args:
        rectangle: in pixels of its level, halved as often as it says.
        size: width and height of the level as stored.
        tile: width and height of its tiles as stored.
        columns: stored tiles per row, padding included.
    """
    level, x, y, width, height, halvings = rectangle
    across = _spans(x, width, size[0] >> halvings, tile[0] >> halvings)
    parts = []
    for row, target_rows, source_rows, rows, tile_rows in _spans(y, height, size[1] >> halvings, tile[1] >> halvings):
        for column, target_columns, source_columns, count, tile_columns in across:
            key = level, row * columns + column, halvings
            targets, sources = (target_rows, target_columns), (source_rows, source_columns)
            parts.append(TilePart(key, targets, sources, rows * count, tile_rows * tile_columns))
    return parts


def _spans(start: int, length: int, full: int, tile: int) -> list[tuple[int, slice, slice, int, int]]:
    """Along one side: number of the tile, its pixels in the rectangle and in the tile, how many, and of how many."""
    low, high = max(0, start), min(full, start + length)
    spans = []
    for number in range(low // tile, -(-high // tile) if low < high else 0):
        corner = number * tile
        begin, end = max(low, corner), min(high, corner + tile)
        target, source = slice(begin - start, end - start), slice(begin - corner, end - corner)
        spans.append((number, target, source, end - begin, min(full - corner, tile)))
    return spans


class BatchNeeds:
    """The parts of every rectangle of a batch, how often it still needs each tile, and how much it leaves unread."""

    def __init__(self, rectangles: Sequence[Rectangle], parts: Iterable[list[TilePart]]) -> None:
        self.parts = dict(zip(rectangles, parts, strict=True))
        self.area = 0
        self._lock = threading.Lock()
        self._reads: dict[TileKey, int] = {}
        self._unread: dict[TileKey, int] = {}
        for rectangle in rectangles:
            for key, _, _, area, tile_area in self.parts[rectangle]:
                self.area += area
                self._reads[key] = self._reads.get(key, 0) + 1
                self._unread[key] = self._unread.get(key, tile_area) - area

    @property
    def keys(self) -> Iterable[TileKey]:
        """The tiles that the rectangles of the batch need."""
        return self._reads

    def done_with(self, key: TileKey) -> bool:
        """After a part of a tile was read: whether the batch does not need it again and has read all of it.

        A tile read in part is kept: its other part may be asked for by the next batch.
        """
        with self._lock:
            self._reads[key] -= 1
            return self._reads[key] == 0 and self._unread[key] <= 0
