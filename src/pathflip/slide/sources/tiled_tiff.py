"""The fast reader: tiles of a TIFF pyramid, decoded straight from the file.

OpenSlide's ``read_region`` spends most of its time outside the JPEG decoder: painting, premultiplying, converting. Here
a stored tile is decoded once, by libjpeg-turbo through imagecodecs, at half or quarter size in the DCT domain where no
more is wanted (through OpenCV), and kept while its neighbours are read. The pixels are OpenSlide's: same decoder
settings, and the colour space is taken from the TIFF photometric tag, whatever markers the stream carries.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import SlideError, SlideLostError
from pathflip.geometry import SlideInfo
from pathflip.slide.sources.jpeg import JPEGDecoder
from pathflip.slide.sources.source import Color, Pixels, Source, read_error, snapped_downsamples

__all__ = ["TiledTIFFSource", "open_tiled_tiff"]

CACHE_BYTES = 96 * 2**20
"""Decoded tiles kept: a few rows of stored tiles across a slide, so that reading row by row decodes each once."""
MAX_HALVINGS = 3
FINER_BY = 0.05
"""A level is halved while decoding if what is left is at most this much coarser than wanted (then enlarged, cubic)."""
VENDORS = ("aperio", "generic-tiff", "philips")
_MAX_PAGES = 64
_MAX_TILE_BYTES = 2**28


class _UnsupportedError(Exception):
    """Why a file must go through OpenSlide; the text is shown by ``pathflip info``."""


@dataclass(frozen=True, eq=False)
class Level:
    """One stored level: where its tiles lie in the file, and how they are decoded."""

    size: tuple[int, int]
    tile: tuple[int, int]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    decode: Callable[[bytes, int], Pixels]
    can_halve: bool

    @property
    def columns(self) -> int:
        """Stored tiles per row."""
        return -(-self.size[0] // self.tile[0])


class TiledTIFFSource(Source):
    """Stored tiles of a TIFF, decoded once each."""

    def __init__(self, path: Path, levels: tuple[Level, ...], info: SlideInfo, background: Color) -> None:
        self.info = info
        self.sizes = tuple(level.size for level in levels)
        self.background = background
        self._levels = levels
        self._path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by close(), or with the source
        self._lock = threading.Lock()
        self._tiles: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()
        self._pending: dict[tuple[int, int, int], threading.Lock] = {}

    def close(self) -> None:
        self._file.close()
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
            pixels = self._decoded(level, index, halvings)
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

    def _decoded(self, level: int, index: int, halvings: int) -> Pixels:
        stored = self._levels[level]
        offset, count = int(stored.offsets[index]), int(stored.counts[index])
        data = os.pread(self._file.fileno(), count, offset)
        if len(data) < count:
            raise ValueError(f"the file ends inside it ({len(data)} of {count} bytes)")
        pixels = stored.decode(data, halvings)
        expected = (stored.tile[1] >> halvings, stored.tile[0] >> halvings, 3)
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise ValueError(f"got {pixels.dtype} {pixels.shape}, expected uint8 {expected}")
        return pixels


def open_tiled_tiff(path: Path, through_openslide: Source) -> tuple[TiledTIFFSource | None, str]:
    """The fast source for a slide that OpenSlide has opened, or None and the reason.

    The levels are those OpenSlide found, so that nothing but the way of reading changes; OME-TIFF gains the levels
    OpenSlide does not see.
    """
    info = through_openslide.info
    try:
        if info.vendor not in VENDORS:
            raise _UnsupportedError(f"{info.vendor} files are not plain tiled TIFFs")
        levels = _levels(path, through_openslide.sizes)
    except _UnsupportedError as why:
        return None, str(why)
    except Exception as error:  # tifffile raises many kinds on headers OpenSlide accepts
        return None, f"its TIFF structure is unusual ({type(error).__name__}: {' '.join(str(error).split())[:80]})"
    codecs = ", ".join(dict.fromkeys(kind for _, kind in levels))
    reader = f"tiled-tiff: {codecs} tiles of {info.vendor} files are decoded directly, each once"
    stored = tuple(level for level, _ in levels)
    downsamples = snapped_downsamples(tuple(level.size for level in stored))
    known = replace(info, reader=reader, downsamples=downsamples)
    return TiledTIFFSource(path, stored, known, through_openslide.background), reader


def _levels(path: Path, sizes: tuple[tuple[int, int], ...]) -> list[tuple[Level, str]]:
    import tifffile

    found: dict[tuple[int, int], tuple[Level, str]] = {}
    file_size = path.stat().st_size
    with tifffile.TiffFile(path) as file:
        for number in range(_MAX_PAGES):
            try:
                page: Any = file.pages[number]
            except IndexError:
                break
            size = (int(page.imagewidth), int(page.imagelength))
            if size in sizes and size not in found and page.is_tiled:
                found[size] = _level(page, file_size)
        if len(set(sizes)) < len(sizes) or set(sizes) - set(found):
            raise _UnsupportedError("its levels are not one tiled page each")
        levels = [found[size] for size in sizes]
        return levels + (_ome_levels(file, sizes[0], file_size) if file.is_ome and len(sizes) == 1 else [])


def _ome_levels(file: Any, size0: tuple[int, int], file_size: int) -> list[tuple[Level, str]]:
    """OME-TIFF keeps the smaller levels as sub-directories of the first page, where OpenSlide does not look."""
    levels: list[tuple[Level, str]] = []
    width, height = size0
    for page in file.pages[0].pages or ():
        same_shape = abs(page.imagewidth * size0[1] / (page.imagelength * size0[0]) - 1) < 0.02
        if page.is_tiled and same_shape and page.imagewidth < width and page.imagelength < height:
            levels.append(_level(page, file_size))
            width, height = int(page.imagewidth), int(page.imagelength)
    return levels


def _level(page: Any, file_size: int) -> tuple[Level, str]:
    if page.samplesperpixel != 3 or page.bitspersample != 8 or int(page.planarconfig) != 1 or int(page.imagedepth) != 1:
        raise _UnsupportedError("it holds other pixels than interleaved 8-bit RGB")
    size, tile = (int(page.imagewidth), int(page.imagelength)), (int(page.tilewidth), int(page.tilelength))
    offsets, counts = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    expected = -(-size[0] // tile[0]) * -(-size[1] // tile[1])
    if len(offsets) != expected or len(counts) != expected:
        raise _UnsupportedError(f"it lists {len(offsets)} tiles where {expected} are needed")
    if (counts <= 0).any() or (offsets <= 0).any():
        raise _UnsupportedError("it leaves out tiles")
    if tile[0] * tile[1] * 3 > _MAX_TILE_BYTES or counts.max() > min(file_size, _MAX_TILE_BYTES):
        raise _UnsupportedError("its tiles are too large")
    decode, kind = _decoder(page, tile)
    can_halve = kind == "JPEG" and tile[0] % 8 == 0 and tile[1] % 8 == 0
    return Level(size, tile, offsets, counts, decode, can_halve), kind


def _decoder(page: Any, tile: tuple[int, int]) -> tuple[Callable[[bytes, int], Pixels], str]:
    compression, photometric, predictor = int(page.compression), int(page.photometric), int(page.predictor)
    if compression == 7 and photometric in (2, 6):
        return JPEGDecoder(page.jpegtables, tile, ycbcr=photometric == 6), "JPEG"
    if photometric != 2:
        raise _UnsupportedError(f"its colours are stored as {page.photometric.name}")
    if compression == 33005:
        return _decode_jpeg2000, "JPEG 2000"
    if predictor not in (1, 2):
        raise _UnsupportedError(f"its pixels are predicted by rule {predictor}")
    kinds = {1: "uncompressed", 5: "LZW", 8: "deflate", 32946: "deflate"}
    if compression not in kinds:
        raise _UnsupportedError(f"its tiles are compressed as {page.compression.name}")
    return _PlainDecoder(kinds[compression], tile, predictor == 2), kinds[compression]


@dataclass(frozen=True)
class _PlainDecoder:
    """Lossless tiles; ``size`` bounds what a damaged stream can unpack to."""

    kind: str
    tile: tuple[int, int]
    differences: bool

    def __call__(self, data: bytes, halvings: int) -> Pixels:
        import imagecodecs

        size = self.tile[0] * self.tile[1] * 3
        unpack = {"LZW": imagecodecs.lzw_decode, "deflate": imagecodecs.zlib_decode}.get(self.kind)
        raw = unpack(data, out=size) if unpack else data
        pixels = np.frombuffer(raw, np.uint8, count=size).reshape(self.tile[1], self.tile[0], 3)
        return np.add.accumulate(pixels, axis=1, dtype=np.uint8) if self.differences else pixels


def _decode_jpeg2000(data: bytes, halvings: int) -> Pixels:
    import imagecodecs

    return np.asarray(imagecodecs.jpeg2k_decode(data))
