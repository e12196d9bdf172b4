"""A look at a TIFF's directories before any library trusts them.

A damaged header that lists fewer tiles than its sizes need makes OpenSlide divide by zero, one that claims a tile of
two gigabytes makes it run out of memory, and both end the process; so what contradicts itself is refused here (found by
``tests/test_fuzz.py``). Tag numbers: TIFF 6.0, BigTIFF design notes.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathflip.errors import SlideError

__all__ = ["check_tiff_header"]

MAX_PAGES = 20_000
MAX_SIDE = 2**22
"""Pixels: two metres at 0.5 µm."""
_WIDTH, _LENGTH, _SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS = 256, 257, 277, 284, 322, 323, 324
_BYTE_COUNTS = (279, 325)
"""Of strips and of tiles."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


class _DamagedError(Exception):
    """What the header says that cannot be."""


@dataclass(frozen=True)
class _Layout:
    """How a TIFF writes its numbers."""

    order: str
    big: bool

    @property
    def entry(self) -> str:
        """Tag, type, count of an entry."""
        return self.order + ("HHQ" if self.big else "HHI")

    @property
    def pointer(self) -> str:
        """A place in the file, and the width of a value held in its entry."""
        return self.order + ("Q" if self.big else "I")

    @property
    def number(self) -> str:
        """Read how many entries follow."""
        return self.order + ("Q" if self.big else "H")


def check_tiff_header(path: Path) -> bool:
    """Refuse a TIFF whose directories contradict themselves; other files pass.

    Returns:
        Whether it is a TIFF.

    Raises:
        SlideError: the directories run in a circle or leave the file, or a page's sizes and tiles do not agree.
    """
    with open(path, "rb", buffering=0) as file:
        head = os.pread(file.fileno(), 16, 0)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            return False
        (version,) = struct.unpack_from(f"{order}H", head, 2)
        if version not in (42, 43):
            return False
        if version == 42 and os.fstat(file.fileno()).st_size >= 2**32:
            return True  # Hamamatsu writes larger files with 64-bit places under the old version number
        layout = _Layout(order, version == 43)
        (start,) = struct.unpack_from(layout.pointer, head, 8 if layout.big else 4)
        try:
            for number, page in enumerate(_pages(file.fileno(), layout, start)):
                _check_page(number, page)
        except _DamagedError as why:
            raise SlideError(f"slide '{path}': its TIFF header is damaged: {why}; copy or export it again") from None
    return True


def _pages(file: int, layout: _Layout, start: int) -> Iterator[dict[int, int]]:
    """Tags of every directory: the first value of those held in place, the count of the tile table."""
    seen: set[int] = set()
    end = os.fstat(file).st_size
    while start:
        if start in seen or len(seen) >= MAX_PAGES:
            raise _DamagedError(f"its directories run in a circle (at byte {start})")
        seen.add(start)
        width = struct.calcsize(layout.number)
        if start + width > end:
            raise _DamagedError(f"a directory lies beyond its end (byte {start} of {end})")
        (count,) = _unpack(file, layout.number, start)
        step = struct.calcsize(layout.entry) + struct.calcsize(layout.pointer)
        after = start + width + count * step
        if count > 4096 or after + struct.calcsize(layout.pointer) > end:
            raise _DamagedError(f"directory {len(seen)} leaves the file ({count} entries at byte {start} of {end})")
        table = os.pread(file, count * step, start + width)
        yield dict(_entry(file, table[i * step : (i + 1) * step], layout, end) for i in range(count))
        (start,) = _unpack(file, layout.pointer, after)


def _unpack(file: int, form: str, at: int) -> tuple[int, ...]:
    return struct.unpack(form, os.pread(file, struct.calcsize(form), at))


def _entry(file: int, data: bytes, layout: _Layout, end: int) -> tuple[int, int]:
    """A tag and its number: how many tiles are listed, for the tile table; otherwise the value, -1 where not held."""
    tag, kind, count = struct.unpack_from(layout.entry, data)
    at = struct.calcsize(layout.entry)
    if count * _SIZES.get(kind, 1) > end:
        raise _DamagedError(f"tag {tag} claims {count} values in a file of {end} bytes")
    if tag == _TILE_OFFSETS:
        return tag, count
    if tag in _BYTE_COUNTS and kind in _NUMBERS and count:
        (place,) = struct.unpack_from(layout.pointer, data, at)
        size = count * _SIZES[kind]
        inside = size <= len(data) - at
        if not inside and place + size > end:
            raise _DamagedError(f"the values of tag {tag} lie beyond its end (byte {place} of {end})")
        values = data[at : at + size] if inside else os.pread(file, size, place)
        largest = int(np.frombuffer(values, f"{layout.order}u{_SIZES[kind]}").max(initial=0))
        if largest > end:
            raise _DamagedError(f"tag {tag} claims a tile of {largest} bytes in a file of {end}")
    if count != 1 or kind not in _NUMBERS or _SIZES[kind] > len(data) - at:
        return tag, -1
    return tag, struct.unpack_from(layout.order + _NUMBERS[kind], data, at)[0]


def _check_page(number: int, page: dict[int, int]) -> None:
    width, length = page.get(_WIDTH, -1), page.get(_LENGTH, -1)
    if not (0 < width <= MAX_SIDE and 0 < length <= MAX_SIDE):
        raise _DamagedError(f"page {number} is {width} × {length} px")
    if _TILE_OFFSETS not in page and _TILE_WIDTH not in page:
        return
    tile_w, tile_l = page.get(_TILE_WIDTH, -1), page.get(_TILE_LENGTH, -1)
    if not (0 < tile_w <= 2**16 and 0 < tile_l <= 2**16):
        raise _DamagedError(f"page {number} has tiles of {tile_w} × {tile_l} px")
    planes = page.get(_SAMPLES, 1) if page.get(_PLANAR, 1) == 2 else 1
    expected, listed = -(-width // tile_w) * -(-length // tile_l) * planes, page.get(_TILE_OFFSETS, 0)
    if listed < expected:
        raise _DamagedError(f"page {number} lists {listed} tiles where its size needs {expected}")
