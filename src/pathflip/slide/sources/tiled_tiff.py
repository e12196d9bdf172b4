"""The TIFF reader: tiles and strips of a TIFF pyramid, decoded straight from the file.

OpenSlide's ``read_region`` spends most of its time outside the JPEG decoder: painting, premultiplying, converting. Here
a stored tile is decoded once, at half or quarter size in the DCT domain where no more is wanted, and kept while its
neighbours are read. The pixels are OpenSlide's: same decoder settings, and the colour space is taken from the TIFF
photometric tag, whatever markers the stream carries.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.errors import SlideError
from pathflip.geometry import Box, SlideInfo
from pathflip.slide.sources.finer_level import DamageNotes
from pathflip.slide.sources.jpeg import canonical_header
from pathflip.slide.sources.jpeg_colours import believed_ycbcr
from pathflip.slide.sources.oriented import oriented
from pathflip.slide.sources.resolution import (
    Resolution,
    contradiction,
    first_plausible,
    ome_resolution,
    resolution_from_description,
    resolution_from_tags,
)
from pathflip.slide.sources.same_picture import seems_the_same, shows_the_same
from pathflip.slide.sources.source import Color, NotHereError, Pixels, Source
from pathflip.slide.sources.stored_tiles import StoredTiles
from pathflip.slide.sources.tiff_codecs import CODEC_NAMES, Samples
from pathflip.slide.sources.tiff_colours import CMYK, RGB, UNSPECIFIED
from pathflip.slide.sources.tiff_layout import IncompleteError, Level, level_of
from pathflip.slide.sources.tiff_pages import Pyramid, find_levels, known_levels, text_of

__all__ = ["NotHereError", "TiledTIFFSource", "open_tiled_tiff"]

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # its remarks on odd headers are no user's concern

_SAMPLED_TILES = 48
"""How many tiles of the coarsest level are looked at to learn whether alpha and all bits are used."""
_SAMPLED_FOR_COLOURS = 9
"""And to learn whether JPEG tiles have the colours that the header says, and inks are stored as they should."""
_DARK, _LIGHT = 64.0, 128.0
"""Mean brightness of tiles of a slide that cannot be one of transmitted light, and that can."""


class TiledTIFFSource(StoredTiles):
    """Stored tiles or strips of a TIFF, decoded once each."""

    _levels: tuple[Level, ...]

    def __init__(self, path: Path, levels: tuple[Level, ...], info: SlideInfo, background: Color) -> None:
        super().__init__(path, levels, info, background)
        self._absent = [level.is_absent for level in levels]
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by close(), or with the source

    def close(self) -> None:
        self._file.close()
        super().close()

    def samples(self, level: int, index: int, halvings: int = 0, out: Pixels | None = None) -> Samples:
        """One stored tile before its colours are made: (rows, columns, samples); in ``out`` where it fits.

        Raises:
            ValueError: it is damaged (or whatever its decoder raises).
        """
        stored, planes = self._levels[level], []
        for offset, count in zip(stored.offsets[:, index].tolist(), stored.counts[:, index].tolist(), strict=True):
            data = os.pread(self._file.fileno(), count, offset)
            if len(data) < count:
                raise ValueError(f"the file ends inside it ({len(data)} of {count} bytes)")
            planes.append(stored.codec.decode(data, stored.rows_of(index), halvings, out))
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)

    def absent_boxes(self) -> list[Box]:
        stored = self._levels[0]
        (tile_w, tile_h), (width, height) = stored.tile, stored.size
        corners = ((int(c) * tile_w, int(r) * tile_h) for r, c in np.argwhere(self._absent[0]))
        return [
            Box(x, y, min(tile_w, width - x), min(tile_h, height - y)) for x, y in corners if x < width and y < height
        ]

    def _is_absent(self, level: int, index: int) -> bool:
        return bool(self._absent[level].flat[index])

    def _is_empty(self, level: int, index: int) -> bool:
        """No tile of any finer level is stored under this one."""
        stored = self._levels[level]
        row, column = divmod(index, stored.columns)
        for finer in range(level):
            scale = self.info.downsamples[level] / self.info.downsamples[finer]
            (tile_w, tile_h), (step_w, step_h) = self._levels[finer].tile, (v * scale for v in stored.tile)
            rows = slice(int(row * step_h / tile_h), ceil((row + 1) * step_h / tile_h))
            columns = slice(int(column * step_w / tile_w), ceil((column + 1) * step_w / tile_w))
            if not self._absent[finer][rows, columns].all():
                return False
        return True

    def _decoded(self, level: int, index: int, halvings: int, out: Pixels | None = None) -> Pixels:
        stored = self._levels[level]
        samples = self.samples(level, index, halvings, out)
        pixels = stored.colours.to_rgb(samples)
        rows = stored.tile[1] >> halvings
        if len(pixels) == rows:
            return pixels
        below = np.broadcast_to(np.asarray(self.background, np.uint8), (rows - len(pixels), pixels.shape[1], 3))
        return np.concatenate([pixels, below])  # the last strip

    def stored_tile_px(self, level: int) -> tuple[int, int] | None:
        stored = self._levels[level]
        plain = stored.colours.photometric == RGB and stored.sample_count == 3 and len(stored.offsets) == 1
        return stored.tile if stored.codec.jpeg is not None and plain and not stored.image_rows else None

    def stored_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """A tile that cannot be decoded raises SlideError as :meth:`read` does: a viewer would show it as grey."""
        stored = self._levels[level]
        index = row * stored.columns + column
        if self.stored_tile_px(level) is None or stored.codec.jpeg is None or self._is_absent(level, index):
            return None
        try:
            self._decoded(level, index, 0)
        except Exception as error:
            if level and not isinstance(error, OSError):
                return None  # it is made from the next finer level
            raise self._failure(level, index, error) from None
        data = os.pread(self._file.fileno(), int(stored.counts[0, index]), int(stored.offsets[0, index]))
        seen, header, _, _ = canonical_header(data, stored.codec.jpeg.tables, stored.codec.jpeg.ycbcr)
        return header + data[len(seen) :]


def open_tiled_tiff(
    path: Path, name: str, vendor: str, background: Color, slide_mpp: float | None, known: Source | None = None
) -> Source:
    """The slide in a TIFF of tiles or strips.

    Args:
        path: the file.
        name: the slide's name.
        vendor: as OpenSlide names it, or "tiff".
        background: what lies beyond the slide and shows through transparent pixels.
        slide_mpp: microns per pixel where the user says it, which overrules the file.
        known: the slide through OpenSlide, which knows this vendor's levels and resolution better (Philips).

    Raises:
        SlideError: it holds no slide, or one stored in a way that is not read, which the line names.
        NotHereError: OpenSlide is to be tried.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            first: Any = file.pages[0]
            description = text_of(first.tags.get(270))
            pyramid = known_levels(file, known) if known else find_levels(path, file, vendor, description)
            levels, downsamples, doubtful, notes = _levels(path, file, pyramid, background, vendor)
            stated, contradicted = _stated_resolution(pyramid, description)
            orientation = _orientation(pyramid.levels[0].pages[0])
    except IncompleteError as error:
        raise SlideError(str(error)) from None
    except (SlideError, NotHereError, OSError):
        raise
    except Exception as error:  # tifffile raises many kinds on headers OpenSlide accepts
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise NotHereError(f"its TIFF structure is unusual ({what})") from None
    info = SlideInfo(
        slide_id=name,
        size0=levels[0].size,
        mpp0=slide_mpp or (known.info.mpp0 if known else stated.mpp(name)),
        downsamples=downsamples,
        vendor=vendor,
        reader=_reader(levels, vendor),
        notes=pyramid.notes + notes + tuple(said for said in (stated.question, contradicted) if said and not slide_mpp),
        mpp_stated=stated.stated,
    )
    source = _with_known_samples(path, levels, info, background)
    source = _without_strangers(path, source, doubtful)
    return oriented(source, orientation)


def _reader(levels: Sequence[Level], vendor: str) -> str:
    codecs = ", ".join(dict.fromkeys(CODEC_NAMES[level.codec.compression] for level in levels))
    parts = "tiles" if not levels[0].image_rows else "strips"
    return f"tiled-tiff: {codecs} {parts} of {vendor} files are decoded directly, each once"


def _levels(
    path: Path, file: Any, pyramid: Pyramid, background: Color, vendor: str
) -> tuple[tuple[Level, ...], tuple[float, ...], set[int], tuple[str, ...]]:
    """The levels that can be read, their downsamples, which are doubtful, what is left out; the first must be read."""
    levels: list[Level] = []
    downsamples, notes, doubtful = [], [], set()
    orientation = _orientation(pyramid.levels[0].pages[0])
    for picture, size, downsample in zip(pyramid.levels, pyramid.sizes, pyramid.downsamples, strict=True):
        bits = picture.image.significant_bits if picture.image else 0
        try:
            level = level_of(path, picture.pages, file.byteorder, size, bits, background, vendor)
            if _orientation(picture.pages[0]) != orientation:
                raise SlideError("turned otherwise than the full resolution")
            if levels and level.colours.is_grey != levels[0].colours.is_grey:
                raise SlideError("grey where the full resolution is coloured, or the other way round")
        except SlideError as error:
            if not levels or isinstance(error, IncompleteError):
                raise
            notes.append(f"leaves out {picture.name}: {str(error).partition(': ')[2] or error}")
            continue
        doubtful |= {len(levels)} if picture in pyramid.doubtful else set()
        levels.append(level)
        downsamples.append(downsample)
    absent = int(levels[0].is_absent.sum())
    if absent:
        notes.append(f"leaves out {absent} of {levels[0].is_absent.size} tiles (background is shown there)")
    return tuple(levels), tuple(downsamples), doubtful, tuple(notes)


def _orientation(page: Any) -> int:
    value = getattr(page.tags.get(274), "value", 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _stated_resolution(pyramid: Pyramid, description: str) -> tuple[Resolution, str]:
    """In the header's words first, then in the tags of the full resolution, then in those of a smaller level.

    Returns:
        It, and what to say where words and tags of the full resolution contradict each other, or "".
    """
    described = [resolution_from_description(text_of(pyramid.levels[0].pages[0].tags.get(270)))]
    described.append(resolution_from_description(description))
    image = pyramid.levels[0].image
    if image is not None:
        described.append(ome_resolution(image.xml))
    tags = []
    for picture, downsample in zip(pyramid.levels, pyramid.downsamples, strict=True):
        x, y = (rational(picture.pages[0].tags.get(tag)) for tag in (282, 283))
        unit = getattr(picture.pages[0].tags.get(296), "value", 2)
        tags.append(resolution_from_tags(x and x * downsample, y and y * downsample, int(unit)))
    chosen = first_plausible(*described, *tags)
    return chosen, contradiction(chosen, tags[0])


def rational(tag: Any) -> float | None:
    """A tag's fraction, or None where it has none that is a number."""
    value = getattr(tag, "value", None)
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0] / value[1])
    return float(value) if isinstance(value, (int, float)) else None


def _with_known_samples(path: Path, levels: tuple[Level, ...], info: SlideInfo, background: Color) -> TiledTIFFSource:
    """The source, after a look at some tiles where the header does not say all: is alpha used, are all 16 bits?"""
    levels, info = _with_believed_colours(path, levels, info, background)
    source = TiledTIFFSource(path, levels, info, background)
    colours = levels[0].colours
    if colours.photometric == CMYK:
        _refuse_inverted_inks(path, source)
    has_alpha = colours.alpha != UNSPECIFIED
    notes = list(info.notes)
    if not has_alpha and colours.palette is None and colours.has_further(levels[0].sample_count):
        notes.append("its fourth sample is not marked as alpha and is ignored")
    if has_alpha or colours.largest == 65535:
        seen = list(_sampled(source))
        if has_alpha and seen and not any(s[..., -1].any() for s in seen) and any(s[..., :-1].any() for s in seen):
            levels = tuple(replace(level, colours=level.colours.without_alpha()) for level in levels)
            notes.append("its alpha is 0 everywhere, so it is ignored")
        largest = max((int(s.max()) for s in seen), default=65535)
        if colours.largest == 65535 and 0 < largest < 2**15:
            source.close()
            raise SlideError(
                f"slide '{path}': 16-bit samples that reach {largest} only (fewer bits are used, and the file does not "
                "say how many), expected the full range, or MaxSampleValue or SignificantBits; export it in 8 bits"
            )
    source.close()
    return TiledTIFFSource(path, levels, replace(info, notes=tuple(notes)), background)


def _refuse_inverted_inks(path: Path, source: TiledTIFFSource) -> None:
    """Refuse four inks that are dark as stored and light the other way round: some writers store no ink as 255."""
    colours = source._levels[0].colours
    tiles = list(_sampled(source, _SAMPLED_FOR_COLOURS))
    if not tiles:
        return
    stated = float(np.mean([colours.to_rgb(tile).mean() for tile in tiles]))
    inverted = float(np.mean([colours.to_rgb(colours.largest - tile).mean() for tile in tiles]))
    if stated < _DARK and inverted > _LIGHT:
        source.close()
        raise SlideError(
            f"slide '{path}': CMYK that is dark as stored (mean {stated:.0f} of 255) and light with its inks inverted "
            f"({inverted:.0f}), expected 0 for no ink; export it as RGB"
        )


def _with_believed_colours(
    path: Path, levels: tuple[Level, ...], info: SlideInfo, background: Color
) -> tuple[tuple[Level, ...], SlideInfo]:
    """Levels and slide with the JPEG tiles in the colours that they have, where the header is wrong about them."""
    stored = levels[0]
    jpeg, present = stored.codec.jpeg, np.flatnonzero(stored.counts[0])
    if jpeg is None or jpeg.components != 3 or not len(present):
        return levels, info
    with open(path, "rb") as file:
        file.seek(int(stored.offsets[0, present[0]]))
        stream = file.read(int(stored.counts[0, present[0]]))

    def taken_as(ycbcr: bool) -> tuple[Level, ...]:
        return tuple(level.with_ycbcr(ycbcr) for level in levels)

    def tiles(ycbcr: bool) -> list[Samples]:
        source = TiledTIFFSource(path, taken_as(ycbcr), info, background)
        sampled = list(_sampled(source, _SAMPLED_FOR_COLOURS))
        source.close()
        return sampled

    ycbcr, note = believed_ycbcr(jpeg, stream, tiles)
    return (taken_as(ycbcr), replace(info, notes=(*info.notes, note))) if note else (levels, info)


def _without_strangers(path: Path, source: TiledTIFFSource, doubtful: set[int]) -> TiledTIFFSource:
    """The source without levels that show something else: a label of the right shape, a padded or a foreign level."""
    kept, notes = [0], []
    for level in range(1, len(source.sizes)):
        with closing(_with_levels(path, source, [*kept, level])) as glance:
            glance.damage = DamageNotes(silent=True)  # said when it is read
            if (shows_the_same if level in doubtful else seems_the_same)(glance, len(kept)):
                kept.append(level)
                continue
        width, height = source.sizes[level]
        notes.append(f"leaves out a page of {width} × {height} px, which shows something else than the slide")
    if not notes:
        return source
    source.close()
    return _with_levels(path, source, kept, tuple(notes))


def _with_levels(
    path: Path, source: TiledTIFFSource, levels: Sequence[int], notes: tuple[str, ...] = ()
) -> TiledTIFFSource:
    """The slide with these of its levels."""
    downsamples = tuple(source.info.downsamples[level] for level in levels)
    info = replace(source.info, downsamples=downsamples, notes=source.info.notes + notes)
    return TiledTIFFSource(path, tuple(source._levels[level] for level in levels), info, source.background)


def _sampled(source: TiledTIFFSource, most: int = _SAMPLED_TILES) -> Iterator[Samples]:
    """Some tiles of the coarsest level that can be decoded."""
    for level in reversed(range(len(source.sizes))):
        present = np.flatnonzero(~source._absent[level].ravel())
        chosen = present[np.linspace(0, len(present) - 1, min(len(present), most)).astype(int)]
        decoded = 0
        for index in chosen.tolist():
            try:
                yield source.samples(level, index)
            except OSError:
                raise
            except Exception:  # a damaged tile is named when it is read; here it only has no say
                continue
            decoded += 1
        if decoded:
            return
