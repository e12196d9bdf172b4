"""How one level of a TIFF is stored: where its tiles lie, how they are decoded, what their samples mean.

What cannot be read rightly is refused by name: ``NotHereError`` says that OpenSlide can, ``SlideError`` that nothing
does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import SlideError
from pathflip.slide.sources.jpeg import JPEGDecoder
from pathflip.slide.sources.source import Color, NotHereError
from pathflip.slide.sources.stored_tiles import StoredLevel
from pathflip.slide.sources.tiff_codecs import CODEC_NAMES, JPEG2000, Codec, is_subsampled, uses_colour_transform
from pathflip.slide.sources.tiff_colours import COLOURS_OF, RGB, UNSPECIFIED, YCBCR, Colours, palette_of

__all__ = ["IncompleteError", "Level", "level_of"]

_MAX_TILE_BYTES = 2**28
_PHOTOMETRIC = {4: "transparency mask", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "colour filter array"}
_STRIP_BYTES = 2**20
"""Uncompressed strips are read in pieces of about this size: some files are one strip."""
_WITHOUT_PREDICTOR = (1, 32773)
"""Uncompressed, PackBits: libtiff takes no notice of tag 317 there, others do."""
_SAMPLE_NAMES = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}


class IncompleteError(SlideError):
    """The file ends before its tiles do: a copy that was interrupted, whose levels are not to be trusted one by one."""


@dataclass(frozen=True, eq=False)
class Level(StoredLevel):
    """One stored level.

    Attributes:
        stored_columns: tiles per row, padding included.
        image_rows: rows of the page where it is in strips, of which the last may be lower; 0 where it is in tiles.
        offsets, counts: where tiles lie in the file and how long they are, int64 (planes, tiles); count 0: left out.
        codec: how a tile is decoded.
        colours: what its samples mean.
    """

    stored_columns: int
    image_rows: int
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    codec: Codec
    colours: Colours

    @property
    def columns(self) -> int:
        return self.stored_columns

    def with_ycbcr(self, ycbcr: bool) -> "Level":
        """The same with JPEG tiles of three colours taken as YCbCr, or as RGB."""
        jpeg = self.codec.jpeg
        if jpeg is None or jpeg.components != 3:
            return self
        return replace(self, codec=replace(self.codec, jpeg=JPEGDecoder(jpeg.tables, jpeg.tile, ycbcr)))

    @property
    def is_absent(self) -> NDArray[np.bool_]:
        """Which tiles are left out of the file, (rows, columns)."""
        return np.asarray((self.counts == 0).any(axis=0)).reshape(-1, self.stored_columns)

    @property
    def sample_count(self) -> int:
        """Samples a pixel has, over all planes."""
        return self.codec.samples * len(self.offsets)

    def rows_of(self, index: int) -> int:
        """How many rows a tile or strip must have."""
        rows = self.tile[1]
        return min(rows, self.image_rows - index // self.columns * rows) if self.image_rows else rows


def level_of(
    path: Path, pages: Sequence[Any], order: str, size: tuple[int, int], bits: int, background: Color, vendor: str
) -> Level:
    """A level from its page, or from three pages with a colour each.

    Args:
        path: the file.
        pages: as tifffile has them.
        order: "<" or ">".
        size: width and height without padding.
        bits: used bits of a sample, 0 for all.
        background: what shows through transparent pixels.
        vendor: as OpenSlide names it.

    Raises:
        SlideError: it is stored in a way that is not read, which the line names.
        NotHereError: OpenSlide reads it.
    """
    page = pages[0]
    if len(pages) > 1 and any(_kind(p) != _kind(page) for p in pages):
        raise _refusal(path, page, "its colour planes are stored in different ways")
    _check_samples(path, page)
    tile, stored_columns, rows = _grid(path, page)
    apart = len(pages) > 1 or int(page.planarconfig) == 2
    colours = _colours(path, page, len(pages), bits, background)
    codec = _codec(path, page, tile, 1 if apart else int(page.samplesperpixel), order)
    if codec.compression in JPEG2000:
        colours = replace(colours, photometric=_jpeg2000_photometric(path, page, colours.photometric, vendor))
    offsets, counts = _tables(path, pages, stored_columns * rows)
    if codec.compression == 1 and not page.is_tiled:
        tile, offsets, counts = _in_pieces(page, codec, tile, offsets, counts)
        codec = _codec(path, page, tile, codec.samples, order)
    can_halve = (
        codec.jpeg is not None
        and page.is_tiled
        and not apart
        and codec.samples in (1, 3)
        and tile[0] % 8 == 0
        and tile[1] % 8 == 0
        and colours.photometric == RGB
    )
    image_rows = 0 if page.is_tiled else int(page.imagelength)
    return Level(size, tile, can_halve, stored_columns, image_rows, offsets, counts, codec, colours)


def _kind(page: Any) -> tuple[Any, ...]:
    sizes = ("imagewidth", "imagelength", "is_tiled", "tilewidth", "tilelength", "rowsperstrip")
    samples = ("bitspersample", "samplesperpixel", "predictor", "planarconfig", "compression")
    return tuple(getattr(page, name) for name in sizes + samples)


def _refusal(path: Path, page: Any, what: str) -> SlideError:
    return SlideError(
        f"slide '{path}': {what} ({int(page.imagewidth)} × {int(page.imagelength)} px), which PathFLIP does not read; "
        "expected RGB, YCbCr, CMYK, grey or palette colours of up to 16 bits; convert it, for example with  "
        "vips tiffsave IN OUT --tile --pyramid --compression jpeg"
    )


def _check_samples(path: Path, page: Any) -> None:
    bits, photometric, samples = page.bitspersample, int(page.photometric), int(page.samplesperpixel)
    compression = int(page.compression)
    if compression not in CODEC_NAMES:
        name = getattr(page.compression, "name", "")
        raise _refusal(path, page, f"its tiles are compressed as {name or 'kind'} ({compression})")
    sample_format = page.tags.get(339)
    formats = sample_format.value if sample_format is not None else 1
    for value in formats if isinstance(formats, tuple) else (formats,):
        if int(value) not in (1, 4):
            raise _refusal(path, page, f"its samples are {_SAMPLE_NAMES.get(int(value), 'of an unknown kind')} numbers")
    if bits not in (8, 16) and not (bits in (1, 2, 4) and samples == 1 and compression in (1, 5, 8, 32946, 32773)):
        raise _refusal(path, page, f"its samples have {bits} bits")
    if photometric not in COLOURS_OF:
        name = _PHOTOMETRIC.get(photometric, getattr(page.photometric, "name", "an unknown colour space"))
        raise _refusal(path, page, f"its colours are stored as {name} (photometric {photometric})")
    if int(page.imagedepth) != 1:
        raise _refusal(path, page, f"its pages are {int(page.imagedepth)} planes deep")
    if int(page.planarconfig) not in (1, 2):
        raise _refusal(
            path, page, f"its colours are arranged in an unknown way (PlanarConfiguration {page.planarconfig})"
        )
    if int(page.predictor) not in (1, 2):
        raise _refusal(path, page, f"its pixels are predicted by rule {int(page.predictor)}")
    if int(page.predictor) == 2 and compression in _WITHOUT_PREDICTOR:
        raise _refusal(
            path, page, "it says that pixels without compression are predicted, which readers take differently"
        )
    if int(getattr(page.tags.get(266), "value", 1)) == 2:
        raise _refusal(path, page, "its bits are stored from the lowest (FillOrder 2)")


def _grid(path: Path, page: Any) -> tuple[tuple[int, int], int, int]:
    """Width and height of a tile or strip, how many stand in a row, and how many rows there are."""
    width, length = int(page.imagewidth), int(page.imagelength)
    tile = (int(page.tilewidth), int(page.tilelength)) if page.is_tiled else (width, _strip_rows(page))
    return tile, -(-width // tile[0]), -(-length // tile[1])


def _strip_rows(page: Any) -> int:
    return max(1, min(int(page.rowsperstrip or 2**32), int(page.imagelength)))


def _colours(path: Path, page: Any, pages: int, bits: int, background: Color) -> Colours:
    photometric, stored = int(page.photometric), int(page.bitspersample)
    samples = int(page.samplesperpixel)
    if pages == 3:
        photometric, samples = RGB, 3
    further = samples - COLOURS_OF[photometric]
    if further < 0:
        raise _refusal(path, page, f"it has {samples} samples a pixel where its colours need {COLOURS_OF[photometric]}")
    extras = [int(e) for e in page.extrasamples][:further] if pages == 1 else []
    if further > 1 or (further == 1 and photometric in (0, 1) and (extras or [0])[0] == UNSPECIFIED):
        raise _refusal(path, page, f"it has {samples} samples a pixel (channels beyond colour and alpha)")
    if photometric == 5 and int(getattr(page.tags.get(332), "value", 1)) != 1:
        raise _refusal(path, page, "its inks are not cyan, magenta, yellow and black")
    if int(page.compression) == 7:
        photometric = _jpeg_photometric(path, page, photometric)
    elif photometric == YCBCR:
        _check_ycbcr(path, page)
    palette = palette_of(page) if photometric == 3 else None
    largest = (1 << bits) - 1 if 0 < bits < stored else _largest(page, stored)
    return Colours(photometric, largest, (extras or [UNSPECIFIED])[0] if further else UNSPECIFIED, background, palette)


def _largest(page: Any, bits: int) -> int:
    """The value of full intensity: tag 281 where it says less than the bits allow, as of 12-bit samples in 16."""
    stated = getattr(page.tags.get(281), "value", None)
    values = stated if isinstance(stated, tuple) else (stated,)
    full = (1 << bits) - 1
    return int(values[0]) if bits == 16 and all(isinstance(v, int) and 255 <= v < full for v in values) else full


def _jpeg_photometric(path: Path, page: Any, photometric: int) -> int:
    """A JPEG decoder hands out RGB for YCbCr, unless the colours lie apart."""
    if int(page.bitspersample) != 8:
        raise _refusal(path, page, f"its JPEG tiles have {int(page.bitspersample)} bits")
    if photometric == YCBCR and int(page.planarconfig) == 2:
        if tuple(getattr(page.tags.get(530), "value", (2, 2))) != (1, 1):
            raise _refusal(path, page, "its colours are JPEG planes of different sizes")
        return YCBCR
    return RGB if photometric == YCBCR else photometric


def _check_ycbcr(path: Path, page: Any) -> None:
    """YCbCr that is not JPEG: only as JFIF has it, full range and not subsampled."""
    jpeg2000 = int(page.compression) in JPEG2000
    subsampling = tuple(getattr(page.tags.get(530), "value", (2, 2)))
    if subsampling != (1, 1) and not jpeg2000:
        raise _refusal(path, page, f"its YCbCr colours are subsampled {subsampling} without JPEG")
    weights = _fractions(page.tags.get(529))
    if not jpeg2000 and any(abs(a - b) > 0.003 for a, b in zip(weights, (0.299, 0.587, 0.114), strict=False)):
        listed = ", ".join(f"{weight:.4g}" for weight in weights)
        raise _refusal(path, page, f"its YCbCr colours have other coefficients than JPEG's ({listed})")
    ends = _fractions(page.tags.get(532))
    if not jpeg2000 and any(abs(a - b) > 0.5 for a, b in zip(ends, (0, 255, 128, 255, 128, 255), strict=False)):
        raise _refusal(path, page, "its YCbCr colours do not use the full range (ReferenceBlackWhite)")


def _fractions(tag: Any) -> list[float]:
    """The numbers of a tag of fractions; none where it is not there."""
    values = getattr(tag, "value", None) or ()
    return [values[i] / max(1, values[i + 1]) for i in range(0, len(values) - 1, 2)]


def _jpeg2000_photometric(path: Path, page: Any, photometric: int, vendor: str) -> int:
    """33003 holds YCbCr and 33005 RGB whatever the photometric tag says; otherwise the codestream tells.

    Where it was transformed from RGB, its decoder hands out RGB, though the tag may say YCbCr.
    """
    first = next((i for i, n in enumerate(page.databytecounts) if n), None)
    head = b""
    if first is not None:
        with open(path, "rb") as file:
            file.seek(page.dataoffsets[first])
            head = file.read(min(4096, page.databytecounts[first]))
    if is_subsampled(head):
        if vendor == "aperio":
            raise NotHereError("its JPEG 2000 tiles have subsampled colours")
        raise _refusal(path, page, "its JPEG 2000 tiles have subsampled colours")
    compression = int(page.compression)
    if compression == 33003 and photometric in (RGB, YCBCR) and int(page.samplesperpixel) == 3:
        return YCBCR
    if compression == 33005 or uses_colour_transform(head):
        return RGB if photometric == YCBCR else photometric
    return photometric


def _codec(path: Path, page: Any, tile: tuple[int, int], samples: int, order: str) -> Codec:
    compression, bits = int(page.compression), int(page.bitspersample)
    if tile[0] * tile[1] * samples * -(-bits // 8) > _MAX_TILE_BYTES and compression != 1:
        raise _refusal(path, page, f"its tiles or strips are too large ({tile[0]} × {tile[1]} px)")
    jpeg = None
    if compression == 7:
        if samples not in (1, 3, 4):
            raise _refusal(path, page, f"its JPEG tiles have {samples} samples a pixel")
        ycbcr = int(page.photometric) == YCBCR
        jpeg = JPEGDecoder(page.jpegtables, tile, ycbcr and samples == 3, samples)
    predictor = int(page.predictor) if compression in (5, 8, 32946, 34925, 50000, 34926) else 1
    return Codec(compression, tile, samples, bits, order, predictor, jpeg)


def _tables(path: Path, pages: Sequence[Any], tiles: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets and counts, int64 (planes, tiles)."""
    planes = int(pages[0].samplesperpixel) if int(pages[0].planarconfig) == 2 else 1
    offsets = [np.asarray(page.dataoffsets, np.int64) for page in pages]
    counts = [np.asarray(page.databytecounts, np.int64) for page in pages]
    file_size = path.stat().st_size
    for table, lengths in zip(offsets, counts, strict=True):
        if len(table) != planes * tiles or len(lengths) != planes * tiles:
            raise _refusal(path, pages[0], f"it lists {len(table)} tiles where {planes * tiles} are needed")
        if min(table.min(initial=0), lengths.min(initial=0)) < 0:
            raise _refusal(path, pages[0], "it lists tiles of negative length")
    ends = [table + lengths for table, lengths in zip(offsets, counts, strict=True)]
    beyond = sum(int(((end > file_size) & (n > 0)).sum()) for end, n in zip(ends, counts, strict=True))
    if beyond:
        raise IncompleteError(
            f"slide '{path}': incomplete: {beyond} of its {planes * tiles} tiles lie beyond its end (byte {file_size});"
            " copy or export it again"
        )
    counts = [np.where(table == 0, 0, lengths) for table, lengths in zip(offsets, counts, strict=True)]
    return np.concatenate(offsets).reshape(-1, tiles), np.concatenate(counts).reshape(-1, tiles)


def _in_pieces(
    page: Any, codec: Codec, tile: tuple[int, int], offsets: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[tuple[int, int], NDArray[np.int64], NDArray[np.int64]]:
    """Large uncompressed strips as smaller ones, which need not be read whole."""
    width, rows = tile
    length, row_bytes = int(page.imagelength), -(-width * codec.samples * codec.bits // 8)
    piece = max(1, _STRIP_BYTES // row_bytes)
    if piece >= rows or (counts == 0).any():
        return tile, offsets, counts
    if offsets.shape[1] > 1:  # the pieces of all strips must be equally high
        piece = next(n for n in range(piece, 0, -1) if rows % n == 0)
    number = np.arange(-(-length // piece))
    strip = number * piece // rows
    top = number * piece % rows
    wanted = np.minimum(piece, length - number * piece) * row_bytes
    left = counts[:, strip] - top * row_bytes
    return (width, piece), offsets[:, strip] + top * row_bytes, np.clip(left, 1, wanted)
