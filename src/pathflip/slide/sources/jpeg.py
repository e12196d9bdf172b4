"""JPEG tiles as TIFF stores them: tables kept apart, the colour space stated by the TIFF.

Decoded by libjpeg-turbo in strict mode: libjpeg alone only warns of a stream that ends early, and paints the rest grey.
"""

import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["JPEGDecoder", "canonical_header", "decode_strictly", "stated_colours"]

_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_PADDING = 64
"""Some writers fill tiles up with a few zeros before the end mark, which a strict decoder takes for lost data."""


class JPEGDecoder:
    """JPEG tiles, with the tables TIFF keeps apart, in the colour space TIFF states.

    Args:
        tables: TIFF tag 347, or None where every tile has its own.
        tile: columns and rows of a tile.
        ycbcr: whether three components are YCbCr (rather than RGB).
        components: numbers a pixel has: 1, 3, or 4 (as stored: CMYK, or colour and alpha).
    """

    def __init__(self, tables: bytes | None, tile: tuple[int, int], ycbcr: bool, components: int = 3) -> None:
        self.tables = tables
        self.tile = tile
        self.ycbcr = ycbcr
        self.components = components
        self._seen = (b"", b"", 0, 0)  # the last header: all tiles of a level usually begin alike

    def __call__(self, data: bytes, halvings: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """A whole tile, halved ``halvings`` times: uint8 (rows, columns, components); in ``out`` where it fits.

        Raises:
            ValueError: the stream is damaged, ends early, or is not of the tile's size.
        """
        return self.decode(data, self.tile[1], halvings, out)

    def decode(self, data: bytes, rows: int, halvings: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """As a call; a strip may have ``rows`` or more rows, up to those of a whole one."""
        seen, head, width, height = self._seen
        if not (seen and data.startswith(seen)):
            seen, head, width, height = self._seen = canonical_header(data, self.tables, self.ycbcr)
        columns, full = self.tile
        if width != columns or not rows <= height <= full:  # before decoding: a damaged header may claim gigabytes
            raise ValueError(f"a JPEG of {width} × {height} px, expected {columns} × {rows}")
        stream = head + data[len(seen) :]
        shape = height >> halvings, width >> halvings
        fits = out is not None and out.shape == (*shape, self.components) and not (height | width) % (1 << halvings)
        pixels = decode_strictly(
            stream, _SPACES[self.components], *(shape if halvings else (0, 0)), out if fits else None
        )
        return pixels.reshape(*pixels.shape[:2], -1)


def decode_strictly(
    stream: bytes, space: str, height: int = 0, width: int = 0, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """A whole JPEG, or a ValueError; shrunk while decoding to at least ``height × width`` where these are given.

    Where ``out`` is given, the pixels are written there; it must have exactly their shape.
    """
    import simplejpeg

    options: dict[str, Any] = {"colorspace": space, "min_factor": 1, "strict": True}
    options |= {"min_height": height, "min_width": width} if height else {}
    options |= {"buffer": out} if out is not None else {}
    try:
        return np.asarray(simplejpeg.decode_jpeg(stream, **options))
    except ValueError as error:
        end = stream.rfind(b"\xff\xd9")
        whole = stream[: max(0, end)].rstrip(b"\x00")
        if not re.search("extraneous bytes before marker 0xd9", str(error)) or end - len(whole) > _PADDING:
            raise
        return np.asarray(simplejpeg.decode_jpeg(whole + b"\xff\xd9", **options))


def stated_colours(data: bytes, tables: bytes | None) -> tuple[bool | None, bool]:
    """What a stream of three colours says of itself, which need not be what the TIFF says.

    Returns:
        Whether they are YCbCr (True) or RGB (False) by its markers or names, None where it does not say; and whether
        its colours are stored coarser than its brightness, which only YCbCr can be.
    """
    adobe = jfif = None
    for stream in (tables, data):
        for kind, content in _segments(stream or b""):
            if kind == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
                adobe = content[11] != 0
            elif kind == 0xE0 and content.startswith(b"JFIF"):
                jfif = True
            elif kind in _FRAMES and len(content) >= 15 and content[5] == 3:
                names, steps = content[6:15:3], content[7:15:3]
                if steps[0] != steps[1]:
                    return True, True
                adobe = False if adobe is None and names == b"RGB" else adobe
    return (jfif if adobe is None else adobe), False


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of the segments before the scan."""
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at + 1] not in (0xD9, 0xDA):
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        yield stream[at + 1], stream[at + 4 : at + 2 + length]
        at += 2 + max(2, length)


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"


def canonical_header(data: bytes, tables: bytes | None, ycbcr: bool) -> tuple[bytes, bytes, int, int]:
    """What comes before the scan, as one self-contained header.

    Tables first; application markers are replaced by one that states the colour space. Four inks stay what the stream
    says: as they are, or transformed (YCCK).

    Returns:
        The header as found in ``data``, the header to use instead, and the width and height it states.

    Raises:
        ValueError: not a JPEG stream.
    """
    parts: list[bytes] = []
    transform = b"\x01" if ycbcr else b"\x00"
    width = height = components = 0
    is_ycck = False
    for stream in (tables, data):
        if stream is None:
            continue
        if stream[:2] != b"\xff\xd8":
            raise ValueError("not a JPEG stream")
        at = 2
        while at + 4 <= len(stream):
            kind, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
            if stream[at] != 0xFF or kind == 0xD9:
                break
            if kind == 0xDA:  # the scan: entropy-coded data from here to the end
                space = b"\x02" if is_ycck and components == 4 else transform
                return data[:at], b"".join([b"\xff\xd8", _ADOBE, space, *parts]), width, height
            if kind in _FRAMES and at + 10 <= len(stream):
                height, width, components = struct.unpack(">HHB", stream[at + 5 : at + 10])
            is_ycck |= kind == 0xEE and stream[at + 4 : at + 9] == b"Adobe" and stream[at + 15 : at + 16] == b"\x02"
            if not (0xE0 <= kind <= 0xEF or kind == 0xFE):
                parts.append(stream[at : at + 2 + length])
            at += 2 + max(2, length)
    raise ValueError("a JPEG stream without a scan")
