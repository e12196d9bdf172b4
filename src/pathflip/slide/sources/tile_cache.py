"""Decoded tiles in memory: each made once, whichever threads want it, in buffers that are used again."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable

import numpy as np

from pathflip.slide.sources.source import Pixels

__all__ = ["CachedTile", "TileCache"]

MIN_TILES = 16
"""Tiles kept however large they are: those under one region and its neighbours."""
_BLOCK_BYTES = 2**23
"""Buffers are cut from blocks this large, which the system hands out in pages of 2 MB instead of 4 kB. In small pages,
fresh memory for a tile of 256 px costs as long as decoding it (0.1 ms)."""

Shape = tuple[int, int, int]
Decode = Callable[[Pixels], None]


class _Block:
    """Memory for tiles of one shape."""

    __slots__ = ("bytes", "free", "num_tiles", "shape")

    def __init__(self, shape: Shape, num_tiles: int) -> None:
        memory = np.empty((num_tiles, *shape), np.uint8)
        self.shape = shape
        self.num_tiles = num_tiles
        self.bytes = memory.nbytes
        self.free = list(memory[::-1])


class CachedTile:
    """A tile decoded or being decoded, and how many readers copy from it.

    Attributes:
        pixels: uint8 (rows, columns, 3); not to be read after :meth:`TileCache.let_go`.
    """

    __slots__ = ("_block", "_busy", "_failed", "_key", "_ready", "_removed", "_users", "pixels")

    def __init__(self, key: Hashable, block: _Block) -> None:
        self.pixels = block.free.pop()
        self._key = key
        self._block = block
        self._users = 1
        self._ready = self._failed = self._removed = False
        self._busy = threading.Lock()
        self._busy.acquire()


class TileCache:
    """The tiles used last, in a bounded number of bytes. Thread-safe: every :meth:`hold` ends with a :meth:`let_go`."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._tiles: OrderedDict[Hashable, CachedTile] = OrderedDict()
        self._blocks: defaultdict[Shape, list[_Block]] = defaultdict(list)
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._tiles)

    @property
    def bytes(self) -> int:
        """Memory in use, free buffers included."""
        return self._bytes

    def clear(self) -> None:
        """Forget every tile, and free its memory."""
        with self._lock:
            for tile in list(self._tiles.values()):
                self._remove(tile)
            self._blocks.clear()
            self._bytes = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tiles

    def hold(self, key: Hashable, shape: Shape, decode: Decode, wait: bool = True) -> CachedTile | None:
        """The tile ``key``; if another thread is decoding it, its result is awaited rather than made twice.

        Args:
            key: names the tile.
            shape: rows, columns, 3.
            decode: fills an empty tile of that shape; what it raises is raised here.
            wait: whether to wait for another thread; else None is returned, and nothing is held.
        """
        while True:
            with self._lock:
                tile = self._tiles.get(key)
                if tile is None:
                    tile = self._tiles[key] = CachedTile(key, self._block_with_room(shape))
                    break
                if not (wait or tile._ready):
                    return None
                tile._users += 1
                self._tiles.move_to_end(key)
            if not tile._ready:
                with tile._busy:
                    pass
            if not tile._failed:
                return tile
            self.let_go(tile)  # what failed there is tried again here, as a share may come back
        try:
            decode(tile.pixels)
        except BaseException:
            tile._failed = True
            self.let_go(tile, forget=True)
            raise
        finally:
            tile._ready = True
            tile._busy.release()
        return tile

    def let_go(self, tile: CachedTile, forget: bool = False) -> None:
        """Say that a tile from :meth:`hold` is no longer read; with ``forget``, that nobody will ask for it again."""
        with self._lock:
            tile._users -= 1
            if forget:
                self._remove(tile)
            elif tile._removed and tile._users == 0:
                tile._block.free.append(tile.pixels)

    def _remove(self, tile: CachedTile) -> None:
        """Take a tile out; its buffer is free once nobody copies from it."""
        if not tile._removed:
            tile._removed = True
            del self._tiles[tile._key]
        if tile._users == 0:
            tile._block.free.append(tile.pixels)

    def _block_with_room(self, shape: Shape) -> _Block:
        size = shape[0] * shape[1] * shape[2]
        num_tiles = max(1, min(_BLOCK_BYTES, self._capacity // 8) // size)
        while True:
            block = next((block for block in reversed(self._blocks[shape]) if block.free), None)
            if block is not None:
                return block
            if self._bytes + num_tiles * size > self._capacity:
                self._drop_free_blocks()
            if self._bytes + num_tiles * size <= self._capacity or len(self._tiles) < MIN_TILES:
                block = _Block(shape, num_tiles)
                self._blocks[shape].append(block)
                self._bytes += block.bytes
                return block
            self._remove(next(iter(self._tiles.values())))

    def _drop_free_blocks(self) -> None:
        """Free the memory of blocks without a tile, so that it can serve tiles of another shape."""
        for shape, blocks in self._blocks.items():
            self._blocks[shape] = [block for block in blocks if len(block.free) < block.num_tiles]
        self._bytes = sum(block.bytes for blocks in self._blocks.values() for block in blocks)
