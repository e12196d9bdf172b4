"""DeepZoom tiles of a slide: stored JPEG tiles as they are where they fit the grid, else resampled and compressed.

DeepZoom halves the image level by level, the last level being the slide itself. The tile side is that of the slide's
own level 0 where it is square, so that every level the scanner stored at a power of two is passed on unchanged.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import SlideError
from pathflip.slide import Slide

__all__ = ["ByteCache", "DeepZoom", "encode_jpeg", "unreadable_tile"]

JPEG_QUALITY = 90
TILE_PX = 256
TILE_RANGE = (128, 1024)
OVERVIEW_PX = 1024
"""Levels up to this size are made from one image kept in memory: a slide without a pyramid is read once for them."""


@dataclass(frozen=True, eq=False)
class DeepZoom:
    """The DeepZoom pyramid of an open slide."""

    slide: Slide
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _overviews: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    @cached_property
    def tile_px(self) -> int:
        """Side of a tile, pixels."""
        stored = self.slide.stored_tile_px(0)
        if stored is not None and stored[0] == stored[1] and TILE_RANGE[0] <= stored[0] <= TILE_RANGE[1]:
            return stored[0]
        return TILE_PX

    @property
    def levels(self) -> int:
        """How many levels there are; level 0 is 1 × 1 px."""
        return (max(self.slide.info.size0) - 1).bit_length() + 1

    def size(self, level: int) -> tuple[int, int]:
        """Width and height of a level, pixels."""
        shrink = 2 ** (self.levels - 1 - level)
        width, height = self.slide.info.size0
        return ceil(width / shrink), ceil(height / shrink)

    def description(self) -> str:
        """The ``.dzi`` file."""
        width, height = self.slide.info.size0
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" '
            f'Format="jpeg" Overlap="0" TileSize="{self.tile_px}"><Size Width="{width}" Height="{height}"/></Image>\n'
        )

    def has_tile(self, level: int, column: int, row: int) -> bool:
        """Whether there is such a tile."""
        if not 0 <= level < self.levels:
            return False
        width, height = self.size(level)
        return 0 <= column * self.tile_px < width and 0 <= row * self.tile_px < height

    def tile(self, level: int, column: int, row: int) -> tuple[bytes, bool]:
        """One tile (of those that are there) as JPEG, and whether it is the stored one.

        Raises:
            SlideError: it cannot be decoded.
        """
        width, height = self.size(level)
        left, top = column * self.tile_px, row * self.tile_px
        out = min(self.tile_px, width - left), min(self.tile_px, height - top)
        shrink = 2 ** (self.levels - 1 - level)
        if out == (self.tile_px, self.tile_px):
            try:
                stored = self._stored(shrink, column, row)
            except SlideError:
                stored = None  # a finer level may still hold the place
            if stored is not None:
                return stored, True
        if max(width, height) <= OVERVIEW_PX:
            return encode_jpeg(self.overview(level)[top : top + out[1], left : left + out[0]]), False
        pixels = self.slide.read_box(left * shrink, top * shrink, out[0] * shrink, out[1] * shrink, out)
        return encode_jpeg(pixels), False

    def overview(self, level: int) -> NDArray[np.uint8]:
        """A whole level of at most ``OVERVIEW_PX``: RGB, halved from the largest such level."""
        with self._lock:
            if not self._overviews:
                finest = max(n for n in range(self.levels) if max(self.size(n)) <= OVERVIEW_PX)
                pixels = self.slide.overview(2 ** (self.levels - 1 - finest))
                for number in range(finest, -1, -1):
                    self._overviews[number] = pixels
                    pixels = _halved(pixels)
            return self._overviews[level]

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """The whole slide, its longer side at most ``max_px`` pixels."""
        import cv2

        fitting = [n for n in range(self.levels) if max(self.size(n)) <= OVERVIEW_PX]
        wanted = min((n for n in fitting if max(self.size(n)) >= max_px), default=fitting[-1])
        pixels = self.overview(wanted)
        scale = max_px / max(pixels.shape[:2])
        if scale >= 1:
            return pixels
        out = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        return np.asarray(cv2.resize(pixels, out, interpolation=cv2.INTER_AREA), np.uint8)

    def _stored(self, shrink: int, column: int, row: int) -> bytes | None:
        """The slide's own JPEG of a whole tile, if it has this level in tiles of this size."""
        if shrink not in self.slide.info.downsamples:
            return None
        level = self.slide.info.downsamples.index(shrink)
        if self.slide.stored_tile_px(level) != (self.tile_px, self.tile_px):
            return None
        width, height = self.slide.level_sizes[level]
        if (column + 1) * self.tile_px > width or (row + 1) * self.tile_px > height:
            return None  # at the edge a stored tile is padded
        return self.slide.stored_jpeg(level, column, row)


def _halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each 2 × 2 pixels as their mean; at an odd edge the slide continues as white."""
    height, width = pixels.shape[:2]
    even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255).astype(np.uint16)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def encode_jpeg(pixels: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """RGB (height, width, 3) as JPEG, colours not subsampled."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR), options)
    if not done:
        raise SlideError(f"a tile of {pixels.shape} cannot be compressed")
    return data.tobytes()


def unreadable_tile(side: int) -> bytes:
    """A hatched grey tile: a place that cannot be read must not look like glass or like its blurred neighbour."""
    rows, columns = np.indices((side, side))
    shade = np.where((rows + columns) % 32 < 4, 120, 205).astype(np.uint8)
    return encode_jpeg(np.repeat(shade[..., None], 3, axis=2))


class ByteCache:
    """Recently used bytes by key, up to a total size. Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._size = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[object, ...], bytes] = OrderedDict()

    def get(self, key: tuple[object, ...]) -> bytes | None:
        """The cached bytes of a tile, or None."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: tuple[object, ...], data: bytes) -> None:
        """Keep the bytes; what was used longest ago makes room."""
        with self._lock:
            self._size += len(data) - len(self._entries.pop(key, b""))
            self._entries[key] = data
            while self._size > self._most:
                _, old = self._entries.popitem(last=False)
                self._size -= len(old)
