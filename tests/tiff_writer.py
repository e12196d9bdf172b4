"""TIFF files of every layout, written from their definition: no library that reads them took part.

TIFF 6.0, its Technical Note 2 (JPEG), BigTIFF; only compression comes from imagecodecs.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.uint8] | NDArray[np.uint16]
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8, IFD = 1, 2, 3, 4, 5, 7, 16, 13
_SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1, LONG8: 8, IFD: 4}


@dataclass
class Page:
    """One directory: its tags as {number: (type, values)}, its tiles or strips, the directories under it."""

    tags: dict[int, tuple[int, object]]
    segments: list[bytes]
    tiled: bool
    below: list["Page"] = field(default_factory=list)


def write_tiff(path: Path, pages: list[Page], *, big: bool = False, order: str = "<") -> Path:
    """Write pages in order."""
    body = bytearray(struct.pack(f"{order}2sH", b"II" if order == "<" else b"MM", 43 if big else 42))
    body += struct.pack(f"{order}HHQ", 8, 0, 0) if big else struct.pack(f"{order}I", 0)
    pointer, link = f"{order}{'Q' if big else 'I'}", 8 if big else 4
    for page in pages:
        place = _write_page(body, page, big, order)
        body[link : link + struct.calcsize(pointer)] = struct.pack(pointer, place[0])
        link = place[1]
    path.write_bytes(bytes(body))
    return path


def _write_page(body: bytearray, page: Page, big: bool, order: str) -> tuple[int, int]:
    """Append a page; its place, and where the link to the next is to be written."""
    below = [_write_page(body, inner, big, order)[0] for inner in page.below]
    offsets = []
    for data in page.segments:
        offsets.append(len(body) if data else 0)
        body += data + bytes(len(data) % 2)
    wide = LONG8 if big else LONG
    tags = dict(page.tags)
    tags[324 if page.tiled else 273] = (wide, offsets)
    tags[325 if page.tiled else 279] = (wide, [len(data) for data in page.segments])
    if below:
        tags[330] = (wide, below)
    inline, entries = 8 if big else 4, []
    for number in sorted(tags):
        kind, values = tags[number]
        data, count = _packed(kind, values, order)
        if len(data) > inline:
            body += bytes(len(body) % 2)
            data, place = struct.pack(f"{order}{'Q' if big else 'I'}", len(body)), data
            body += place
        entries.append(struct.pack(f"{order}HH{'Q' if big else 'I'}", number, kind, count) + data.ljust(inline, b"\0"))
    body += bytes(len(body) % 2)
    start = len(body)
    body += struct.pack(f"{order}{'Q' if big else 'H'}", len(entries)) + b"".join(entries)
    link = len(body)
    body += bytes(8 if big else 4)
    return start, link


def _packed(kind: int, values: object, order: str) -> tuple[bytes, int]:
    if isinstance(values, bytes):
        return values, len(values)
    flat = list(np.ravel(values)) if not isinstance(values, int) else [values]
    letters = {BYTE: "B", SHORT: "H", LONG: "I", RATIONAL: "I", LONG8: "Q", IFD: "I"}
    data = struct.pack(f"{order}{len(flat)}{letters[kind]}", *(int(v) for v in flat))
    return data, len(data) // _SIZES[kind]


def cut(samples: Samples, tile: tuple[int, int] | None, rows: int) -> list[Samples]:
    """Tiles of ``tile = (width, height)``, padded by their edge; or strips of ``rows``, the last shorter."""
    if tile is None:
        return [samples[y : y + rows] for y in range(0, len(samples), rows)]
    width, height = tile
    below, right = -len(samples) % height, -samples.shape[1] % width
    padded = np.pad(samples, ((0, below), (0, right), (0, 0)), mode="edge")
    return [
        padded[y : y + height, x : x + width]
        for y in range(0, len(padded), height)
        for x in range(0, padded.shape[1], width)
    ]


def differences(samples: Samples) -> Samples:
    """Predictor 2: each sample less its left neighbour."""
    before = np.concatenate([np.zeros_like(samples[:, :1]), samples[:, :-1]], axis=1)
    return samples - before


def stream(samples: Samples, compression: int, order: str, predictor: int) -> bytes:
    """A tile as bytes, compressed."""
    samples = differences(samples) if predictor == 2 else samples
    raw = samples.astype(f"{order}u{samples.dtype.itemsize}").tobytes()
    pack = {
        1: lambda: raw,
        5: lambda: imagecodecs.lzw_encode(raw),
        8: lambda: imagecodecs.zlib_encode(raw),
        32946: lambda: imagecodecs.zlib_encode(raw),
        32773: lambda: imagecodecs.packbits_encode(samples.astype(f"{order}u{samples.dtype.itemsize}")),
        34925: lambda: imagecodecs.lzma_encode(raw),
        50000: lambda: imagecodecs.zstd_encode(raw),
    }
    return bytes(pack[compression]())


def image(samples: Samples, compression: int, *, transform: bool = True) -> bytes:
    """A tile in an image format of its own."""
    plain = np.ascontiguousarray(samples[..., 0] if samples.shape[-1] == 1 else samples)
    pack = {
        33003: lambda: imagecodecs.jpeg2k_encode(plain, level=0, mct=transform),
        50001: lambda: imagecodecs.webp_encode(plain, lossless=True),
        34933: lambda: imagecodecs.png_encode(plain),
        50002: lambda: imagecodecs.jpegxl_encode(plain, lossless=True),
        34887: lambda: imagecodecs.lerc_encode(plain),
    }
    return bytes(pack[33003 if compression in (33004, 33005, 34712) else compression]())


def jpeg(samples: Samples, subsampling: str | None) -> bytes:
    """A JPEG: ``subsampling`` "444", "422", "420" makes RGB samples YCbCr; None stores samples as they are."""
    count = samples.shape[-1]
    if count == 1:
        return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(samples[..., 0]), level=95))
    if count == 4:
        return bytes(imagecodecs.jpeg8_encode(samples, level=95, colorspace="CMYK", outcolorspace="CMYK"))
    options = {"outcolorspace": "YCBCR", "subsampling": subsampling} if subsampling else {"outcolorspace": "RGB"}
    return bytes(imagecodecs.jpeg8_encode(samples, level=95, colorspace="RGB", **options))


def split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """Its tables as a stream of their own (tag 347), and the stream without them or application markers."""
    tables, rest, at = b"", b"", 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] in (0xDB, 0xC4):
            tables += data[at:end]
        elif not 0xE0 <= data[at + 1] <= 0xEF:
            rest += data[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + data[at:]


def rgb_to_ycbcr(rgb: Samples) -> Samples:
    """JFIF."""
    r, g, b = (rgb[..., i].astype(float) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    ycbcr = np.stack([y, 128 + (b - y) * 0.564334, 128 + (r - y) * 0.713267], axis=-1)
    return np.clip(np.rint(ycbcr), 0, 255).astype(np.uint8)


def in_data_units(ycbcr: Samples, across: int, down: int) -> bytes:
    """Subsampled YCbCr as TIFF 6.0 stores it without JPEG: so many Y, then one Cb and one Cr."""
    rows, columns = ycbcr.shape[0] // down, ycbcr.shape[1] // across
    units = ycbcr[: rows * down, : columns * across].reshape(rows, down, columns, across, 3).transpose(0, 2, 1, 3, 4)
    luma = units[..., 0].reshape(rows, columns, -1)
    chroma = np.rint(units[..., 1:].astype(float).mean(axis=(2, 3))).astype(np.uint8)
    return np.concatenate([luma, chroma], axis=-1).astype(np.uint8).tobytes()
