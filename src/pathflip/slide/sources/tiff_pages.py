"""Which pages of a TIFF are the levels of one slide, and by how much each is smaller.

Writers agree on little: the full resolution need not come first, smaller levels need not be marked, may lie in
sub-directories, may be padded to whole tiles; labels, macros and thumbnails lie between them. A page is a level only if
its two sides say the same factor; everything else is left out, and said.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from pathflip.errors import SlideError
from pathflip.slide.sources.ome import OMEImage, ome_images
from pathflip.slide.sources.source import NotHereError, Source

__all__ = ["Picture", "Pyramid", "find_levels", "known_levels", "level_factor", "text_of"]

MAX_PAGES = 1000
_ASSOCIATED = re.compile(r"\b(label|macro|thumbnail|overview)\b")
_QPTIFF = re.compile(r"<ImageType>\s*(\w+)\s*</ImageType>")


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a TIFF: a page, or three that hold a colour each; ``is_below`` in a sub-directory."""

    pages: tuple[Any, ...]
    name: str
    image: OMEImage | None = None
    is_below: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return int(self.pages[0].imagewidth), int(self.pages[0].imagelength)

    @property
    def is_tiled(self) -> bool:
        """Whether the page is stored in tiles rather than strips."""
        return all(page.is_tiled for page in self.pages)

    @property
    def is_marked_reduced(self) -> bool:
        """Marked as a smaller version of another page."""
        return bool(int(self.pages[0].subfiletype or 0) & 1)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True, eq=False)
class Pyramid:
    """The levels of a slide, finest first.

    Attributes:
        levels: their pages.
        downsamples: level-0 pixels per pixel of each.
        sizes: width and height of each without padding.
        notes: what a person should know of what was left out.
        doubtful: the levels that neither their place nor their header calls levels, or whose size had to be guessed.
    """

    levels: tuple[Picture, ...]
    downsamples: tuple[float, ...]
    sizes: tuple[tuple[int, int], ...]
    notes: tuple[str, ...] = ()
    doubtful: frozenset[Picture] = frozenset()


def find_levels(path: Path, file: Any, vendor: str, description: str) -> Pyramid:
    """The pyramid in an open tifffile.TiffFile.

    Args:
        path: the file, for messages.
        file: a ``tifffile.TiffFile``.
        vendor: as OpenSlide names it; Aperio keeps what is no level in strips.
        description: tag 270 of the first page.

    Raises:
        SlideError: there is no picture of one slide in it: channels, focal planes, or several of one size.
    """
    top = list(_top_pages(file))
    if not top:
        raise SlideError(f"slide '{path}': a TIFF without a page; copy or export it again")
    images = ome_images(path, description, len(top)) if "<OME" in description else []
    if images:
        whole = [Picture(tuple(top[n] for n in i.pages), f"page {i.pages[0]}", i) for i in images]
    else:
        _refuse_image_stacks(path, description)
        whole = [Picture((page,), f"page {number}") for number, page in enumerate(top)]
    pictures = [p for picture in whole for p in _with_sub_images(picture)]
    pictures = [p for p in pictures if not _is_associated(p, vendor)]
    if vendor == "aperio" and any(p.is_tiled for p in pictures):
        pictures = [p for p in pictures if p.is_tiled]
    if not pictures:
        raise SlideError(f"slide '{path}': a TIFF of label, macro or thumbnail images only; expected a slide")
    return _pyramid(path, pictures, sure=vendor == "aperio")


def known_levels(file: Any, known: Source) -> Pyramid:
    """The pyramid whose levels another way of reading has found: the tiled pages, from large to small."""
    pages = sorted((p for p in _top_pages(file) if p.is_tiled), key=lambda p: -int(p.imagewidth))
    fits = [p.imagewidth >= w and p.imagelength >= h for p, (w, h) in zip(pages, known.sizes, strict=False)]
    if len(pages) != len(known.sizes) or not all(fits):
        raise NotHereError("its levels are not one tiled page each")
    pictures = tuple(Picture((page,), f"level {number}") for number, page in enumerate(pages))
    return Pyramid(pictures, known.info.downsamples, known.sizes)


def _top_pages(file: Any) -> Iterator[Any]:
    for number in range(MAX_PAGES):
        try:
            yield file.pages[number]
        except IndexError:
            return


def _with_sub_images(picture: Picture) -> Iterator[Picture]:
    """A picture, and those in the sub-directories of its pages, where OME-TIFF keeps smaller levels."""
    yield picture
    below = [list(page.pages or ()) for page in picture.pages]
    for index in range(min(map(len, below))):
        pages = tuple(inner[index] for inner in below)
        yield Picture(pages, f"sub-image {index} of {picture.name}", picture.image, True)


def _refuse_image_stacks(path: Path, description: str) -> None:
    match = re.match(r"ImageJ=.*?\bimages=(\d+)", description, re.DOTALL)
    if match and int(match[1]) > 1:
        raise SlideError(
            f"slide '{path}': an ImageJ stack of {match[1]} images (channels or focal planes), expected one in red, "
            "green and blue; export it as RGB"
        )


def _is_associated(picture: Picture, vendor: str) -> bool:
    """Whether the header calls it a label, macro, thumbnail or overview, or a mask of transparency."""
    page = picture.pages[0]
    if int(page.subfiletype or 0) & 4:
        return True
    text = text_of(page.tags.get(270))
    kind = _QPTIFF.search(text)
    if kind:
        return kind[1].lower() in ("label", "macro", "thumbnail", "overview")
    if vendor == "aperio":  # the name follows the program's on the first line, or begins the second
        text = text.partition("|")[0]
    elif len(text) > 80:
        text = ""
    names = f"{text} {text_of(page.tags.get(285))}".lower().replace("_", " ")
    return bool(_ASSOCIATED.search(names))


def text_of(tag: Any) -> str:
    """The text of a tag, whatever bytes it holds: UTF-8, otherwise Latin-1; no NUL (which leaves UTF-16 readable)."""
    value = getattr(tag, "value", tag)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            value = value.decode("latin-1")
    return value.replace("\x00", "") if isinstance(value, str) else ""


def _pyramid(path: Path, pictures: Sequence[Picture], sure: bool) -> Pyramid:
    """``sure``: its kind of file keeps nothing but levels as such pages."""
    tiled = [p for p in pictures if p.is_tiled]
    largest = _full_resolution(tiled or pictures)
    same = [p for p in pictures if p.size == largest.size and p.is_tiled == largest.is_tiled]
    if len(same) > 1:
        raise SlideError(
            f"slide '{path}': {len(same)} pages of {largest.size[0]} × {largest.size[1]} px (channels, focal planes or "
            "several slides), expected one full resolution; export a single RGB image"
        )
    larger = [p for p in tiled if p.area > largest.area]
    pictures = [p for p in pictures if p not in larger]
    levels, notes, doubtful = {1.0: (largest, largest.size)}, [], set()
    for picture in sorted(pictures, key=lambda p: (-p.area, not p.is_marked_reduced)):
        if picture is largest or not (picture.is_tiled or not largest.is_tiled or picture.is_marked_reduced):
            continue
        factor = level_factor(largest.size, picture.size, _tile_of(picture))
        if factor is None:
            width, height = picture.size
            notes.append(f"leaves out {picture.name} ({width} × {height} px, no whole level of the slide)")
        elif factor not in levels:
            levels[factor] = picture, _true_size(largest.size, picture.size, factor)
            if levels[factor][1] != picture.size or not (sure or picture.is_marked_reduced or picture.is_below):
                doubtful.add(picture)
    notes += [f"leaves out {p.name} ({p.size[0]} × {p.size[1]} px, larger than the slide)" for p in larger]
    if largest is not pictures[0]:
        notes.append(f"the full resolution is {largest.name}")
    factors = sorted(levels)
    sizes = tuple(levels[f][1] for f in factors)
    return Pyramid(tuple(levels[f][0] for f in factors), tuple(factors), sizes, tuple(notes), frozenset(doubtful))


def _full_resolution(pictures: Sequence[Picture]) -> Picture:
    """The largest; but where only a smaller page has levels that are marked, that one: a label may be larger."""
    largest = max(pictures, key=lambda p: p.area)

    def has_levels(picture: Picture) -> bool:
        marked = (p for p in pictures if p.is_marked_reduced and p is not largest and p is not picture)
        return any(level_factor(picture.size, p.size, _tile_of(p)) is not None for p in marked)

    if has_levels(largest):
        return largest
    others = sorted((p for p in pictures if not p.is_marked_reduced and p is not largest), key=lambda p: -p.area)
    no_levels = (p for p in others if level_factor(largest.size, p.size, _tile_of(p)) is None)
    return next(filter(has_levels, no_levels), largest)


def _tile_of(picture: Picture) -> tuple[int, int] | None:
    page = picture.pages[0]
    return (int(page.tilewidth), int(page.tilelength)) if page.is_tiled else None


def _true_size(size0: tuple[int, int], size: tuple[int, int], factor: float) -> tuple[int, int]:
    return min(size[0], ceil(size0[0] / factor)), min(size[1], ceil(size0[1] / factor))


def level_factor(size0: tuple[int, int], size: tuple[int, int], tile: tuple[int, int] | None = None) -> float | None:
    """By how much a picture of ``size`` is smaller than one of ``size0``, where both its sides agree; else None.

    Whole factors first, rounded up or down; then levels that are padded to whole tiles of ``tile``; then any factor
    that both sides allow.
    """
    ratios = [size0[axis] / size[axis] for axis in (0, 1)]
    whole = max(1, round(sum(ratios) / 2))
    if whole > 1 and all(abs(size0[axis] - whole * size[axis]) < whole for axis in (0, 1)):
        return float(whole)
    padded = _padded_factors(size0, size, tile) if tile else []
    if len(padded) == 1:
        return float(padded[0])
    low = max(size0[axis] / (size[axis] + 1) for axis in (0, 1))
    high = min(size0[axis] / max(1, size[axis] - 1) for axis in (0, 1))
    if padded or low >= high or low <= 1.05 or min(size) < 2:
        return None
    return (size0[0] / size[0] + size0[1] / size[1]) / 2


def _padded_factors(size0: tuple[int, int], size: tuple[int, int], tile: tuple[int, int]) -> list[int]:
    """Whole factors that give ``size`` when the level is filled up to whole tiles."""
    if any(size[axis] % tile[axis] for axis in (0, 1)):
        return []
    likely = range(2, max(3, round(max(size0[0] / size[0], size0[1] / size[1]) * 1.5) + 2))
    return [f for f in likely if all(ceil(ceil(size0[a] / f) / tile[a]) * tile[a] == size[a] for a in (0, 1))]
