"""The fast reader: tiles of a TIFF pyramid, decoded straight from the file.

OpenSlide's ``read_region`` spends most of its time outside the JPEG decoder: painting, premultiplying, converting. Here
a stored tile is decoded once, by libjpeg-turbo through imagecodecs, at half or quarter size in the DCT domain where no
more is wanted (through OpenCV), and kept while its neighbours are read. The pixels are OpenSlide's: same decoder
settings, and the colour space is taken from the TIFF photometric tag, whatever markers the stream carries.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.geometry import SlideInfo
from pathflip.slide.sources.jpeg import JPEGDecoder, canonical_header
from pathflip.slide.sources.source import Color, Pixels, Source, snapped_downsamples
from pathflip.slide.sources.stored_tiles import StoredLevel, StoredTiles

__all__ = ["TiledTIFFSource", "open_tiled_tiff"]

VENDORS = ("aperio", "generic-tiff", "philips")
_MAX_PAGES = 64
_MAX_TILE_BYTES = 2**28


class _UnsupportedError(Exception):
    """Why a file must go through OpenSlide; the text is shown by ``pathflip info``."""


@dataclass(frozen=True, eq=False)
class Level(StoredLevel):
    """One stored level: where its tiles lie in the file, and how they are decoded."""

    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    decode: Callable[[bytes, int], Pixels]


class TiledTIFFSource(StoredTiles):
    """Stored tiles of a TIFF, decoded once each."""

    _levels: tuple[Level, ...]

    def __init__(self, path: Path, levels: tuple[Level, ...], info: SlideInfo, background: Color) -> None:
        super().__init__(path, levels, info, background)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by close(), or with the source

    def close(self) -> None:
        self._file.close()
        super().close()

    def _decoded(self, level: int, index: int, halvings: int) -> Pixels:
        stored = self._levels[level]
        offset, count = int(stored.offsets[index]), int(stored.counts[index])
        data = os.pread(self._file.fileno(), count, offset)
        if len(data) < count:
            raise ValueError(f"the file ends inside it ({len(data)} of {count} bytes)")
        return stored.decode(data, halvings)

    def stored_tile_px(self, level: int) -> tuple[int, int] | None:
        return self._levels[level].tile if isinstance(self._levels[level].decode, JPEGDecoder) else None

    def stored_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """A tile that cannot be decoded raises SlideError as :meth:`read` does: a viewer would show it as grey."""
        stored = self._levels[level]
        if not isinstance(stored.decode, JPEGDecoder):
            return None
        index = row * stored.columns + column
        try:
            self._decoded(level, index, 0)
            data = os.pread(self._file.fileno(), int(stored.counts[index]), int(stored.offsets[index]))
            seen, header, _, _ = canonical_header(data, stored.decode.tables, stored.decode.ycbcr)
        except Exception as error:
            raise self._failure(level, index, error) from None
        return header + data[len(seen) :]


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
    return Level(size, tile, can_halve, offsets, counts, decode), kind


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
