"""Hamamatsu NDPI: each level is one long JPEG; its restart intervals are decoded directly, band by band.

A restart marker ends every few macroblocks of the stream, and the file lists where each interval begins (TIFF tag
65426), so any of them can be decoded alone. OpenSlide reads them one by one; here those of a band of rows are joined to
one stream, which gives the same pixels as long as no chroma is interpolated across rows.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.geometry import SlideInfo
from pathflip.slide.sources.jpeg import decode_strictly
from pathflip.slide.sources.openslide import OpenSlideSource
from pathflip.slide.sources.same_pixels import check_same_pixels
from pathflip.slide.sources.source import Color, NotHereError, Pixels
from pathflip.slide.sources.stored_tiles import StoredLevel, StoredTiles

__all__ = ["NDPISource", "open_ndpi"]

BAND_ROWS = 64
"""Rows decoded together: less overhead than 8 rows each, and a band of a wide level stays below a megabyte."""
_SOURCE_LENS, _FOCAL_PLANE = 65421, 65424
_JPEG = 7
_MAX_PAGES = 512
_MAX_INTERVAL_BYTES = 2**24
_CHECKED_INTERVALS = 64


@dataclass(frozen=True)
class _Layout:
    """What a level's JPEG header says: the size of an interval in pixels, and where the height is stated.

    Attributes:
        interval: width and height of a restart interval.
        height_at: place of the height (two bytes, then two of the width) in the header.
    """

    interval: tuple[int, int]
    height_at: int


@dataclass(frozen=True, eq=False)
class Level(StoredLevel):
    """A level whose stored tiles are bands of restart intervals, one column of them each.

    Attributes:
        offsets, ends: where each interval begins and ends in the file, row by row.
        header: JPEG header up to the scan, for one column.
        layout: of the header.
        band: intervals a stored tile holds, from top to bottom.
        halved: how often the level is halved while decoding: OpenSlide lists such levels beside the stored ones.
    """

    offsets: NDArray[np.int64]
    ends: NDArray[np.int64]
    header: bytes
    layout: _Layout
    band: int
    halved: int

    def intervals(self, index: int) -> range:
        """The restart intervals of stored tile ``index``."""
        row, column = divmod(index, self.columns)
        first = row * self.band * self.columns + column
        return range(first, min(len(self.offsets), first + self.band * self.columns), self.columns)


class NDPISource(StoredTiles):
    """Bands of restart intervals, decoded once each."""

    _levels: tuple[Level, ...]

    def __init__(self, path: Path, levels: Sequence[Level], info: SlideInfo, background: Color) -> None:
        super().__init__(path, levels, info, background)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by close(), or with the source

    def close(self) -> None:
        self._file.close()
        super().close()

    def _decoded(self, level: int, index: int, halvings: int, out: Pixels | None = None) -> Pixels:
        stored = self._levels[level]
        halvings += stored.halved
        scans = [_scan(self._file.fileno(), stored, interval) for interval in stored.intervals(index)]
        pixels = _decode(stored, scans, halvings, out if len(scans) == stored.band else None)
        missing = (stored.band * stored.layout.interval[1] >> halvings) - len(pixels)
        return np.pad(pixels, ((0, missing), (0, 0), (0, 0))) if missing else pixels  # below the slide


def _scan(file: int, stored: Level, interval: int) -> bytes:
    """The entropy-coded data of one interval, without the marker that ends it.

    Raises:
        ValueError: the file ends inside it, or no restart marker ends it.
    """
    start, end = int(stored.offsets[interval]), int(stored.ends[interval])
    data = os.pread(file, end - start, start)
    if len(data) < end - start:
        raise ValueError(f"the file ends inside it ({len(data)} of {end - start} bytes)")
    if interval == len(stored.offsets) - 1:
        last = data.rfind(b"\xff\xd9")
        return data[:last] if last >= 0 else data
    marker = bytes((0xFF, 0xD0 + interval % 8))
    if data[-2:] != marker:
        raise ValueError(f"restart interval {interval} ends with {data[-2:].hex()}, expected {marker.hex()}")
    return data[:-2]


def _decode(stored: Level, scans: list[bytes], halvings: int, out: Pixels | None) -> Pixels:
    """Intervals one below the other as one JPEG: their markers are numbered anew."""
    (width, height), at = stored.layout.interval, stored.layout.height_at
    height *= len(scans)
    stream = bytearray(stored.header)
    stream[at : at + 4] = struct.pack(">HH", height, width)
    for number, scan in enumerate(scans):
        stream += scan
        stream += bytes((0xFF, 0xD0 + number % 8 if number < len(scans) - 1 else 0xD9))
    wanted = (height >> halvings, width >> halvings) if halvings else (0, 0)
    return decode_strictly(bytes(stream), "RGB", *wanted, out)


def open_ndpi(path: Path, through_openslide: OpenSlideSource) -> NDPISource:
    """The slide that OpenSlide has opened, with its levels and properties, decoded directly.

    Raises:
        NotHereError: it is not stored in a way that is read here.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            if not file.is_ndpi:
                raise NotHereError("Hamamatsu files other than NDPI are read through OpenSlide")
            levels = _levels(file, through_openslide.sizes)
    except NotHereError:
        raise
    except Exception as error:  # tifffile raises many kinds on headers OpenSlide accepts
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise NotHereError(f"its NDPI structure is unusual ({why})") from None
    reader = "ndpi: restart intervals of JPEG are decoded directly, each once"
    info = replace(through_openslide.info, reader=reader)
    source = NDPISource(path, levels, info, through_openslide.background)
    check_same_pixels(source, through_openslide)
    return source


def _levels(file: Any, sizes: Sequence[tuple[int, int]]) -> list[Level]:
    """One level for each of OpenSlide's: as stored, or halved from the next larger one."""
    stored: dict[tuple[int, int], Level] = {}
    for number in range(_MAX_PAGES):
        try:
            page = file.pages[number]
        except IndexError:
            break
        size = int(page.imagewidth), int(page.imagelength)
        if size not in stored and _is_level(page):
            stored[size] = _stored_level(file.filehandle, page, size)
    return [stored[size] if size in stored else _halved_level(stored, size) for size in sizes]


def _is_level(page: Any) -> bool:
    """A page with a magnification (macro images and maps have a negative one) in the middle focal plane."""
    lens, plane = page.tags.get(_SOURCE_LENS), page.tags.get(_FOCAL_PLANE)
    return lens is not None and lens.value > 0 and (plane is None or plane.value == 0)


def _stored_level(handle: Any, page: Any, size: tuple[int, int]) -> Level:
    if int(page.compression) != _JPEG or page.samplesperpixel != 3 or page.bitspersample != 8:
        raise NotHereError("it holds other pixels than 8-bit colour in JPEG")
    if page.jpegheader is None or not page.is_tiled:
        raise NotHereError(f"its level of {size[0]} × {size[1]} px has no list of restart intervals")
    header = bytes(page.jpegheader)
    layout = _layout(header, size)
    offsets = np.asarray(page.dataoffsets, np.int64)
    ends = offsets + np.asarray(page.databytecounts, np.int64)
    expected = ceil(size[0] / layout.interval[0]) * ceil(size[1] / layout.interval[1])
    if len(offsets) != expected or len(ends) != expected:
        raise NotHereError(f"it lists {len(offsets)} restart intervals where {expected} are needed")
    sizes = ends - offsets
    if sizes.min() < 2 or sizes.max() > _MAX_INTERVAL_BYTES or offsets.min() < 0 or ends.max() > handle.size:
        raise NotHereError("its list of restart intervals is damaged")
    _check_markers(handle, ends)
    band = max(1, BAND_ROWS // layout.interval[1])
    tile = layout.interval[0], layout.interval[1] * band
    return Level(size, tile, True, offsets, ends, header, layout, band, 0)


def _check_markers(handle: Any, ends: NDArray[np.int64]) -> None:
    """Lists are known that point beside the markers; OpenSlide then searches for them."""
    for interval in np.linspace(0, len(ends) - 2, min(_CHECKED_INTERVALS, len(ends) - 1)).astype(int).tolist():
        handle.seek(int(ends[interval]) - 2)
        if handle.read(2) != bytes((0xFF, 0xD0 + interval % 8)):
            raise NotHereError("its list of restart intervals does not fit its markers")


def _layout(header: bytes, size: tuple[int, int]) -> _Layout:
    """Size of the restart intervals, from the frame (SOF0, SOF1) and restart (DRI) segments of a JPEG header."""
    restart = height_at = 0
    factors: list[tuple[int, int]] = []
    at = 2
    while at + 4 <= len(header) and header[at] == 0xFF:
        kind, length = header[at + 1], int.from_bytes(header[at + 2 : at + 4], "big")
        if kind == 0xDD:
            restart = int.from_bytes(header[at + 4 : at + 6], "big")
        elif kind in (0xC0, 0xC1):
            height_at = at + 5
            packed = header[at + 11 : at + 2 + length : 3]
            factors = [(value >> 4, value & 15) for value in packed]
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            raise NotHereError("its JPEG is not a sequential one")
        at += 2 + max(2, length)
    if restart == 0 or len(factors) != 3:
        raise NotHereError("its JPEG has no restart intervals")
    unit_w, unit_h = 8 * max(h for h, _ in factors), 8 * max(v for _, v in factors)
    per_row = ceil(size[0] / unit_w)
    if per_row % restart or size[0] % unit_w or size[1] % unit_h:
        raise NotHereError(f"its size of {size[0]} × {size[1]} px is no whole number of restart intervals")
    if len({v for _, v in factors}) > 1:
        raise NotHereError("its chroma is stored for every second row")
    return _Layout((restart * unit_w, unit_h), height_at)


def _halved_level(stored: dict[tuple[int, int], Level], size: tuple[int, int]) -> Level:
    width, height = size
    for halved in (1, 2, 3):
        level = stored.get((width << halved, height << halved))
        if level is not None:
            tile = level.tile[0] >> halved, level.tile[1] >> halved
            return replace(level, size=size, tile=tile, can_halve=False, halved=halved)
    raise NotHereError(f"its level of {width} × {height} px is not stored")
