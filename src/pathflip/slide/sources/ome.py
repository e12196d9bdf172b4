"""What the XML of an OME-TIFF says: which pages are one image, and whether its channels are red, green and blue."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pathflip.errors import SlideError

__all__ = ["OMEImage", "ome_images"]

_COLOUR_NAMES = {"red": 0, "r": 0, "green": 1, "g": 1, "blue": 2, "b": 2, "rot": 0, "grün": 1, "blau": 2}
_COLOUR_NAMES |= {"rouge": 0, "vert": 1, "bleu": 2, "rojo": 0, "verde": 1, "azul": 2}
_NO_NAME = re.compile(
    r"(?:(?:ch(?:annel)?|c|colou?r|plane|sample|band)?[\s:_#-]*\d*(?::\d+)*|rgb.*|bright ?field.*|bf|tl)"
)
_FLUORESCENCE = ("Fluor", "EmissionWavelength", "ExcitationWavelength")
_NOT_THE_SLIDE = re.compile(r"\b(label|macro|thumbnail|overview)\b")


@dataclass(frozen=True)
class OMEImage:
    """One image of an OME-TIFF.

    Attributes:
        pages: the numbers of its pages: one, or one each for red, green and blue.
        significant_bits: used bits of a sample, or 0 where it is not said.
        xml: the image's own XML.
        name: how it is called.
    """

    pages: tuple[int, ...]
    significant_bits: int
    xml: str
    name: str


def ome_images(path: Path, description: str, page_count: int) -> list[OMEImage]:
    """The images of an OME-TIFF but for labels, macros and thumbnails; none where the XML cannot be read.

    Raises:
        SlideError: channels are not red, green and blue; there are focal planes or time points; pages lie elsewhere.
    """
    try:
        root = ElementTree.fromstring(_without_doctype(description).encode())
    except (ElementTree.ParseError, ValueError, LookupError):
        return []
    files = {e.text for e in _each(root, "UUID") if e.get("FileName")}
    if len(files) > 1:
        raise SlideError(
            f"slide '{path}': its OME header spreads the image over {len(files)} files, expected one; convert it to a "
            "single file"
        )
    images, first_page = [], 0
    for image in _each(root, "Image"):
        pixels = next(_each(image, "Pixels"), None)
        if pixels is None:
            continue
        channels = list(_each(pixels, "Channel"))
        planes = [(int(c.get("SamplesPerPixel", "1")), c) for c in channels] or [(1, ElementTree.Element("Channel"))]
        depth = int(pixels.get("SizeZ", "1")) * int(pixels.get("SizeT", "1"))
        count = len(planes) * depth
        name = image.get("Name") or ""
        if not _NOT_THE_SLIDE.search(name.lower()):
            pages = _pages(pixels, count, first_page)
            images.append(_image(path, image, pixels, planes, depth, pages))
        first_page += count
    return [image for image in images if all(0 <= number < page_count for number in image.pages)]


def _without_doctype(text: str) -> str:
    """Entities of a document type could expand without end; OME-XML needs none."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("a document type in OME-XML")
    return text[: text.rfind(">") + 1].strip("\x00 \r\n\t\ufeff")


def _each(element: ElementTree.Element, name: str) -> Any:
    return (e for e in element.iter() if e.tag.rpartition("}")[2] == name)


def _pages(pixels: ElementTree.Element, count: int, first_page: int) -> dict[int, int]:
    """Page number by channel: as TiffData says, or in order."""
    pages = {channel: first_page + channel for channel in range(count)}
    for block in _each(pixels, "TiffData"):
        page, channel = int(block.get("IFD", "0")), int(block.get("FirstC", "0"))
        length = int(block.get("PlaneCount", "1" if "IFD" in block.attrib else str(count)))
        for step in range(min(length, count)):
            pages[channel + step] = page + step
    return pages


def _image(
    path: Path,
    image: ElementTree.Element,
    pixels: ElementTree.Element,
    planes: Sequence[tuple[int, ElementTree.Element]],
    depth: int,
    pages: dict[int, int],
) -> OMEImage:
    if depth > 1:
        raise SlideError(
            f"slide '{path}': an OME-TIFF of {depth} focal planes or time points, expected one; export a single plane"
        )
    name, bits = image.get("Name") or "", int(pixels.get("SignificantBits") or 0)
    xml = ElementTree.tostring(image, encoding="unicode")
    channels = [channel for _, channel in planes]
    order: Sequence[int] | None = None
    if len(planes) == 1 and (planes[0][0] > 1 or not _says_fluorescence(channels)):
        order = (0,)
    elif len(planes) == 3 and all(samples == 1 for samples, _ in planes):
        order = colour_order(channels)
    if order is None:
        names = ", ".join(f"'{c.get('Name') or number}'" for number, c in enumerate(channels))[:120]
        raise SlideError(
            f"slide '{path}': a multichannel image ({len(planes)} channel{'s' * (len(planes) > 1)}: {names}), expected "
            "one in red, green and blue; PathFLIP reads brightfield slides: export it as RGB"
        )
    return OMEImage(tuple(pages[channel] for channel in order), bits, xml, name)


def colour_order(channels: Sequence[ElementTree.Element]) -> tuple[int, int, int] | None:
    """Which of three channels are red, green and blue; None where they are anything else.

    Names decide where they name something; colours where channels have no names, as fluorescence too is shown in red,
    green and blue.
    """
    if _says_fluorescence(channels, names=False):
        return None
    names = [(c.get("Name") or "").strip().lower() for c in channels]
    named = [_COLOUR_NAMES.get(name) for name in names]
    if sorted(v for v in named if v is not None) == [0, 1, 2]:
        order = [named.index(k) for k in range(3)]
        return order[0], order[1], order[2]
    if not all(_NO_NAME.fullmatch(name) for name in names):
        return None
    pure = [_pure_colour(c.get("Color")) for c in channels]
    if sorted(v for v in pure if v is not None) == [0, 1, 2]:
        order = [pure.index(k) for k in range(3)]
        return order[0], order[1], order[2]
    return None


def _says_fluorescence(channels: Sequence[ElementTree.Element], names: bool = True) -> bool:
    """Whether a channel states a fluorophore or its light, or has a name that is no colour's."""
    for channel in channels:
        fluorescent = "fluor" in (channel.get("ContrastMethod") or "").lower()
        name = (channel.get("Name") or "").strip().lower()
        foreign = names and not (_NO_NAME.fullmatch(name) or name in _COLOUR_NAMES or name in ("grey", "gray"))
        if fluorescent or foreign or any(channel.get(key) for key in _FLUORESCENCE):
            return True
    return False


def _pure_colour(text: str | None) -> int | None:
    """0, 1, 2 for red, green, blue; OME writes RGBA as a signed 32-bit number, some writers ARGB or without alpha."""
    try:
        value = int(text or "") & 0xFFFFFFFF
    except ValueError:
        return None
    rgba = {0xFF000000: 0, 0x00FF0000: 1, 0x0000FF00: 2}
    return rgba.get(value & 0xFFFFFF00)
