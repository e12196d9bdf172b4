"""JPEG tiles as TIFF stores them: tables kept apart, the colour space stated by the TIFF."""

import struct

import numpy as np

from pathflip.slide.sources.source import Pixels

__all__ = ["JPEGDecoder", "canonical_header"]


class JPEGDecoder:
    """JPEG tiles, with the tables TIFF keeps apart, in the colour space TIFF states."""

    def __init__(self, tables: bytes | None, tile: tuple[int, int], ycbcr: bool) -> None:
        self.tables = tables
        self.tile = tile
        self.ycbcr = ycbcr
        self._seen = (b"", b"", 0, 0)  # the last header: all tiles of a level usually begin alike

    def __call__(self, data: bytes, halvings: int) -> Pixels:
        seen, head, width, height = self._seen
        if not (seen and data.startswith(seen)):
            seen, head, width, height = self._seen = canonical_header(data, self.tables, self.ycbcr)
        stream = head + data[len(seen) :]
        if (width, height) != self.tile:  # before decoding: a damaged header may claim gigabytes
            raise ValueError(f"a JPEG of {width} × {height} px, expected {self.tile[0]} × {self.tile[1]}")
        if halvings == 0:
            import imagecodecs

            space = "YCBCR" if self.ycbcr else "RGB"
            return np.asarray(imagecodecs.jpeg8_decode(stream, colorspace=space, outcolorspace="RGB"))
        import cv2

        flags = (0, cv2.IMREAD_REDUCED_GRAYSCALE_2, cv2.IMREAD_REDUCED_GRAYSCALE_4, cv2.IMREAD_REDUCED_GRAYSCALE_8)
        pixels = cv2.imdecode(np.frombuffer(stream, np.uint8), flags[halvings] | cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise ValueError("not a JPEG stream")
        return np.asarray(pixels, np.uint8)


_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"


def canonical_header(data: bytes, tables: bytes | None, ycbcr: bool) -> tuple[bytes, bytes, int, int]:
    """What comes before the scan, as one self-contained header.

    Tables first; application markers are replaced by one that states the colour space.

    Returns:
        The header as found in ``data``, the header to use instead, and the width and height it states.

    Raises:
        ValueError: not a JPEG stream.
    """
    parts = [b"\xff\xd8", _ADOBE, b"\x01" if ycbcr else b"\x00"]
    width = height = 0
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
                return data[:at], b"".join(parts), width, height
            if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and at + 9 <= len(stream):
                height, width = struct.unpack(">HH", stream[at + 5 : at + 9])
            if not (0xE0 <= kind <= 0xEF or kind == 0xFE):
                parts.append(stream[at : at + 2 + length])
            at += 2 + max(2, length)
    raise ValueError("a JPEG stream without a scan")
