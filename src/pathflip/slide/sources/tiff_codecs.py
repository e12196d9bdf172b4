"""Compressed tiles and strips of a TIFF to their samples, and nothing that is not whole.

Decoders forgive: a JPEG that ends early becomes grey below, a short LZW stream zeros. Here every one must give exactly
the samples its tile needs, JPEG is decoded in strict mode, and formats that have an end mark must have it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.slide.sources.jpeg import JPEGDecoder

__all__ = ["CODEC_NAMES", "JPEG2000", "Codec", "Samples", "decode_jpeg2000", "is_subsampled", "uses_colour_transform"]

Samples = NDArray[Any]
"""Unsigned integers (rows, columns, samples)."""

_STREAMS = {1: "uncompressed", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits", 34925: "LZMA"}
_STREAMS |= {50000: "Zstandard", 34926: "Zstandard"}
JPEG2000 = {33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000"}
_IMAGES = {50001: "WebP", 34927: "WebP", 34933: "PNG", 50002: "JPEG XL", 52546: "JPEG XL", 34887: "LERC"}
CODEC_NAMES = {7: "JPEG", **_STREAMS, **JPEG2000, **_IMAGES}
"""What can be decoded, by TIFF tag 259."""


@dataclass(frozen=True, eq=False)
class Codec:
    """How the tiles of one page are stored.

    Attributes:
        compression: TIFF tag 259.
        tile: columns and rows of a tile.
        samples: how many numbers a pixel has in one tile (1 where colours are stored apart).
        bits: of a sample.
        order: "<" or ">".
        predictor: TIFF tag 317.
        jpeg: the decoder of JPEG tiles, which needs their tables and colour space.
    """

    compression: int
    tile: tuple[int, int]
    samples: int
    bits: int
    order: str
    predictor: int
    jpeg: JPEGDecoder | None = None

    def decode(self, data: bytes, rows: int, halvings: int = 0, out: NDArray[np.uint8] | None = None) -> Samples:
        """The samples of one tile: (``rows``, columns, samples), or all rows of the tile where it stores them.

        A JPEG is decoded into ``out`` where it has its shape.

        Raises:
            ValueError: the data are damaged or end early (or whatever a library raises).
        """
        if self.jpeg is not None:
            pixels = self.jpeg.decode(data, rows, halvings, out)
        elif self.compression in _STREAMS:
            return self._from_stream(data, rows)
        elif self.compression in JPEG2000:
            pixels = decode_jpeg2000(data)
        else:
            pixels = np.asarray(_image_decoder(self.compression, self.samples)(data))
        pixels = pixels.reshape(pixels.shape[0], -1, 1) if pixels.ndim == 2 else pixels
        columns, full, least = self.tile[0] >> halvings, self.tile[1] >> halvings, rows >> halvings
        kind = np.uint8 if self.bits <= 8 else np.uint16
        shape = pixels.shape
        if shape[1:] != (columns, self.samples) or not least <= shape[0] <= full or pixels.dtype != kind:
            raise ValueError(
                f"it holds {pixels.dtype} {shape[1]} × {shape[0]} px of {shape[2]} samples, "
                f"expected {np.dtype(kind)} {columns} × {rows} px of {self.samples}"
            )
        return pixels

    def _from_stream(self, data: bytes, rows: int) -> Samples:
        columns, full = self.tile
        row_bytes = -(-columns * self.samples * self.bits // 8)
        raw = _unpacked(self.compression, data, row_bytes * full)
        if len(raw) < row_bytes * rows:
            raise ValueError(f"it ends after {len(raw)} of {row_bytes * rows} bytes")
        stored = full if len(raw) >= row_bytes * full else rows
        flat = np.frombuffer(raw, np.uint8, count=row_bytes * stored).reshape(stored, row_bytes)
        values: Samples = flat
        if self.bits == 16:
            values = flat.view(f"{self.order}u2").astype(np.uint16)
        elif self.bits < 8:
            values = _unpack_bits(flat, self.bits)[:, : columns * self.samples]
        pixels = values.reshape(stored, columns, self.samples)
        return np.add.accumulate(pixels, axis=1, dtype=pixels.dtype) if self.predictor == 2 else pixels


def _unpack_bits(rows: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Samples of 1, 2 or 4 bits, most significant first."""
    single = np.unpackbits(rows, axis=1).reshape(len(rows), -1, bits)
    weights = (1 << np.arange(bits)[::-1]).astype(np.uint8)
    return (single * weights).sum(axis=2, dtype=np.uint8)


def _unpacked(compression: int, data: bytes, size: int) -> bytes:
    """A byte stream unpacked to at most ``size`` bytes and a few more, whatever it claims."""
    import imagecodecs

    if compression == 1:
        return data
    if compression in (8, 32946):
        return _inflate(data, size)
    decoders: dict[int, Callable[..., Any]] = {
        5: imagecodecs.lzw_decode,
        32773: imagecodecs.packbits_decode,
        34925: imagecodecs.lzma_decode,
        50000: imagecodecs.zstd_decode,
        34926: imagecodecs.zstd_decode,
    }
    return bytes(decoders[compression](data, out=size))


def _inflate(data: bytes, size: int) -> bytes:
    """Zlib data with their checksum; at most a little more than ``size`` bytes, which some writers fill up tiles to."""
    import zlib

    import imagecodecs

    try:
        return bytes(imagecodecs.deflate_decode(data, out=size))
    except imagecodecs.DeflateError:  # damaged, or longer than needed
        stream = zlib.decompressobj()
        raw = stream.decompress(data, size + 2**16)
        if not stream.eof or len(raw) < size:
            raise
        return raw


def _image_decoder(compression: int, samples: int) -> Callable[[bytes], Any]:
    import imagecodecs

    decoders: dict[str, Callable[[bytes], Any]] = {
        "WebP": lambda data: _decode_webp(data, samples == 4),
        "PNG": imagecodecs.png_decode,
        "JPEG XL": imagecodecs.jpegxl_decode,
        "LERC": imagecodecs.lerc_decode,
    }
    return decoders[_IMAGES[compression]]


def _decode_webp(data: bytes, has_alpha: bool) -> Any:
    """WebP leaves out an alpha that is opaque, and has no checksum and no end mark: a run of zeros was lost data."""
    import imagecodecs

    if bytes(128) in data or data[: 8 + int.from_bytes(data[4:8], "little")].endswith(bytes(16)):
        raise ValueError("a WebP stream with its data zeroed")
    return imagecodecs.webp_decode(data, hasalpha=has_alpha)


def decode_jpeg2000(data: bytes) -> Samples:
    """A JPEG 2000 codestream or file; OpenJPEG alone would make up what is missing at its end."""
    import imagecodecs

    if not data.rstrip(b"\x00").endswith(b"\xff\xd9"):
        raise ValueError("a JPEG 2000 stream without its end mark")
    return np.asarray(imagecodecs.jpeg2k_decode(data))


def uses_colour_transform(data: bytes) -> bool:
    """Whether a JPEG 2000 codestream was transformed from RGB, which its decoder undoes (marker COD, ISO 15444-1)."""
    at = data.find(b"\xff\x52")
    return at > 0 and len(data) > at + 8 and data[at + 8] == 1


def is_subsampled(data: bytes) -> bool:
    """Whether the components of a JPEG 2000 codestream differ in resolution (marker SIZ, ISO 15444-1)."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 42:
        return False
    count = int.from_bytes(data[at + 40 : at + 42], "big")
    steps = [data[at + 43 + 3 * i : at + 45 + 3 * i] for i in range(min(count, 8))]
    return any(step != b"\x01\x01" for step in steps if len(step) == 2)
