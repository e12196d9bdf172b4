"""DICOM whole-slide images: the frames of a series are the stored tiles of its levels, decoded directly.

A level is one instance of the series, or several where it was split into a concatenation. Part 3 of the standard,
C.8.12.4 (whole slide microscopy image), and part 5, A.4 (encapsulated frames).
"""

import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import SlideError
from pathflip.geometry import SlideInfo
from pathflip.slide.sources.jpeg import JPEGDecoder
from pathflip.slide.sources.jpeg_colours import believed_ycbcr
from pathflip.slide.sources.openslide import OpenSlideSource
from pathflip.slide.sources.same_pixels import check_same_pixels
from pathflip.slide.sources.source import Color, NotHereError, Pixels
from pathflip.slide.sources.stored_tiles import StoredLevel, StoredTiles
from pathflip.slide.sources.tiff_codecs import decode_jpeg2000

__all__ = ["DICOMSource", "check_dicom", "open_dicom"]

_JPEG, _JPEG2000, _NATIVE = "JPEG", "JPEG 2000", "uncompressed"
_KINDS = {
    "1.2.840.10008.1.2.1": _NATIVE,  # explicit VR, little endian
    "1.2.840.10008.1.2.4.50": _JPEG,
    "1.2.840.10008.1.2.4.90": _JPEG2000,
    "1.2.840.10008.1.2.4.91": _JPEG2000,
}
_COLOURS = {
    _JPEG: ("RGB", "YBR_FULL_422", "YBR_FULL"),
    _JPEG2000: ("RGB", "YBR_RCT", "YBR_ICT"),
    _NATIVE: ("RGB",),
}
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns", "TotalPixelMatrixRows"]
_TAGS += ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "PlanarConfiguration"]
_TAGS += ["PhotometricInterpretation", "DimensionOrganizationType", "TotalPixelMatrixFocalPlanes"]
_TAGS += ["PatientID", "NumberOfOpticalPaths", "ConcatenationUID", "ConcatenationFrameOffsetNumber"]
_TAGS += ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"]
Header = dict[str, Any]
"""The attributes above by keyword, None where a file has none; ``syntax`` is the transfer syntax."""
Decode = Callable[[bytes, int, Pixels | None], Pixels]
_PLACES = "PerFrameFunctionalGroupsSequence"
_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_MAX_FILES = 2000
_SAMPLED_FRAMES = 9
"""How many frames of the coarsest level are looked at to learn whether they have the colours that the header says."""
_MAX_FRAME_BYTES = 2**28


@dataclass(frozen=True)
class _Instance:
    """One file of a series: its attributes, and where each of its frames lies.

    Attributes:
        path: the file.
        header: the attributes read.
        starts, ends: of the items of each frame (of its pixels where they are not encapsulated).
    """

    path: Path
    header: Header
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the level it belongs to."""
        return int(self.header["TotalPixelMatrixColumns"]), int(self.header["TotalPixelMatrixRows"])

    @property
    def first_frame(self) -> int:
        """Frames of the level in the parts before this one."""
        return int(self.header["ConcatenationFrameOffsetNumber"] or 0)


@dataclass(frozen=True, eq=False)
class Level(StoredLevel):
    """A level whose stored tiles are frames.

    Attributes:
        files: number of the file that holds each frame.
        starts, ends: of its items in that file.
        decode: compressed bytes, halvings, where to put the pixels if possible → pixels.
        encapsulated: whether frames are wrapped in items.
    """

    files: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    decode: Decode
    encapsulated: bool


class DICOMSource(StoredTiles):
    """Frames of a DICOM series, decoded once each."""

    _levels: tuple[Level, ...]

    def __init__(
        self, path: Path, files: Sequence[Path], levels: Sequence[Level], info: SlideInfo, background: Color
    ) -> None:
        super().__init__(path, levels, info, background)
        self._files: list[BinaryIO] = []
        for file in files:
            self._files.append(open(file, "rb", buffering=0))  # noqa: SIM115  # closed by close()

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()

    def _decoded(self, level: int, index: int, halvings: int, out: Pixels | None = None) -> Pixels:
        return self._levels[level].decode(self.frame(level, index), halvings, out)

    def frame(self, level: int, index: int) -> bytes:
        """The compressed bytes of a frame.

        Raises:
            ValueError: the file ends inside it, or its items are damaged.
        """
        stored = self._levels[level]
        start, end = int(stored.starts[index]), int(stored.ends[index])
        data = os.pread(self._files[int(stored.files[index])].fileno(), end - start, start)
        if len(data) < end - start:
            raise ValueError(f"the file ends inside it ({len(data)} of {end - start} bytes)")
        return b"".join(_fragments(data)) if stored.encapsulated else data


def _fragments(data: bytes) -> Iterator[bytes]:
    """The contents of the items in ``data``; a frame is usually one item."""
    at = 0
    while at + 8 <= len(data) and data[at : at + 4] == _ITEM:
        (length,) = struct.unpack_from("<I", data, at + 4)
        if at + 8 + length > len(data):
            raise ValueError(f"an item of {length} bytes reaches beyond its frame")
        yield data[at + 8 : at + 8 + length]
        at += 8 + length
    if at == 0:
        raise ValueError("no item where its frame should begin")


def check_dicom(path: Path) -> None:
    """Refuse, by name, a series that OpenSlide 4.0.1 reads wrongly, ends the process on, or calls damaged.

    Raises:
        SlideError: frames have no places (an instance is not ``TILED_FULL`` and has no sequence that says them);
            several focal planes or optical paths, whose frames would be mixed; grey; two files of one level; two
            patients.
    """
    levels: dict[tuple[Any, Any, Any], Path] = {}
    patients: dict[str, Path] = {}
    for file, header, _ in _instances(path):
        if header["DimensionOrganizationType"] != "TILED_FULL" and not _has_places(file):
            raise SlideError(
                f"slide '{path}': '{file.name}' does not say where its frames lie (it is not TILED_FULL, and has no "
                f"{_PLACES}); export it again"
            )
        if list(header["ImageType"] or ())[2:3] != ["VOLUME"]:
            continue
        _check_planes(path, file, header)
        if header["PatientID"]:
            patients.setdefault(str(header["PatientID"]), file)
        size = (header["TotalPixelMatrixColumns"], header["TotalPixelMatrixRows"])
        part = (*size, header["ConcatenationFrameOffsetNumber"] if header["ConcatenationUID"] else None)
        if part in levels:
            raise SlideError(
                f"slide '{path}': '{levels[part].name}' and '{file.name}' are both its level of {size[0]} × {size[1]} "
                "px; expected one file a level: take the other out of the folder"
            )
        levels[part] = file
    if len(patients) > 1:
        one, other = list(patients.values())[:2]
        raise SlideError(
            f"slide '{path}': '{one.name}' and '{other.name}' are of one series and of two patients; expected one "
            "slide: export them again"
        )


def _check_planes(path: Path, file: Path, header: Header) -> None:
    for name, what in (("TotalPixelMatrixFocalPlanes", "focal planes"), ("NumberOfOpticalPaths", "optical paths")):
        if str(header[name] or 1) != "1":
            raise SlideError(
                f"slide '{path}': '{file.name}' holds {header[name]} {what}, whose frames lie over one another; "
                "expected one: export a single one"
            )
    if str(header["SamplesPerPixel"] or 3) != "3":
        raise SlideError(
            f"slide '{path}': '{file.name}' holds {header['PhotometricInterpretation']} pixels of "
            f"{header['SamplesPerPixel']} sample, expected red, green and blue; PathFLIP reads brightfield slides"
        )


def _has_places(file: Path) -> bool:
    import pydicom

    try:
        return bool(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[_PLACES]).get(_PLACES))
    except Exception:  # pydicom raises many kinds on damaged files
        return False


def open_dicom(path: Path, through_openslide: OpenSlideSource) -> DICOMSource:
    """The slide that OpenSlide has opened, with its levels and properties, decoded directly.

    Args:
        path: one file of the series; the others lie in the same folder.
        through_openslide: the slide through OpenSlide.

    Raises:
        NotHereError: it is not stored in a way that is read here.
    """
    try:
        series = _series(path)
        by_size: defaultdict[tuple[int, int], list[_Instance]] = defaultdict(list)
        for instance in series:
            by_size[instance.size].append(instance)
        files = [instance.path for instance in series]
        levels = [_level(by_size.get(size, []), files) for size in through_openslide.sizes]
    except NotHereError:
        raise
    except Exception as error:  # pydicom raises many kinds on files OpenSlide accepts
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise NotHereError(f"its DICOM structure is unusual ({why})") from None
    kinds = ", ".join(dict.fromkeys(kind for _, kind in levels))
    info = replace(through_openslide.info, reader=f"dicom: {kinds} frames are decoded directly, each once")
    source = DICOMSource(path, files, [level for level, _ in levels], info, through_openslide.background)
    _check_colours(path, source)
    check_same_pixels(source, through_openslide)
    return source


def _check_colours(path: Path, source: DICOMSource) -> None:
    """Refuse JPEG frames of other colours than the header says; OpenSlide too would show them green and pink."""
    level = len(source.sizes) - 1
    stored = source._levels[level]
    as_stated = stored.decode
    if not isinstance(as_stated, JPEGDecoder):
        return
    frames: list[bytes] = []
    for index in range(min(len(stored.starts), _SAMPLED_FRAMES)):
        with suppress(ValueError):  # whoever reads it is told so
            frames.append(source.frame(level, index))

    def tiles(ycbcr: bool) -> Iterator[Pixels]:
        decode = JPEGDecoder(None, as_stated.tile, ycbcr)
        for frame in frames:
            with suppress(ValueError):
                yield decode(frame, 0)

    if frames and believed_ycbcr(as_stated, frames[0], tiles)[1]:
        source.close()
        said, are = ("YBR", "RGB") if as_stated.ycbcr else ("RGB", "YCbCr")
        raise SlideError(
            f"slide '{path}': its PhotometricInterpretation is {said}, but its JPEG frames are {are}; expected them to "
            "agree: correct the header, or export it again"
        )


def _series(path: Path) -> list[_Instance]:
    """All pyramid levels of the series that ``path`` belongs to, in the order of their file names."""
    levels = []
    for file, header, pixel_data in _instances(path):
        if list(header["ImageType"] or ())[2:3] == ["VOLUME"]:  # the others are labels, overviews and thumbnails
            starts, ends = _frames(file, header, pixel_data)
            levels.append(_Instance(file, header, starts, ends))
    return levels


def _instances(path: Path) -> Iterator[tuple[Path, Header, int]]:
    """Files of the folder that belong to the series of ``path``, their attributes, and where pixel data begins."""
    first = _header(path)
    if first is None:
        raise NotHereError("not a DICOM slide")
    files = [file for file in sorted(path.parent.iterdir()) if file == path or file.is_file()]
    if len(files) > _MAX_FILES:
        raise NotHereError(f"its folder holds more than {_MAX_FILES} files")
    for file in files:
        header, pixel_data = _header(file) or (None, 0)
        if header is not None and header["SeriesInstanceUID"] == first[0]["SeriesInstanceUID"]:
            yield file, header, pixel_data


def _header(path: Path) -> tuple[Header, int] | None:
    """Attributes of a DICOM slide, and where its pixel data begins; None for any other file."""
    import pydicom

    try:
        with open(path, "rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
            file.seek(0)
            stored = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
            pixel_data = file.tell()
        header: Header = {tag: stored.get(tag) for tag in _TAGS}
        header["syntax"] = stored.file_meta.TransferSyntaxUID
    except Exception:  # pydicom raises many kinds on damaged files, some only here; OpenSlide is left to name them
        return None
    return (header, pixel_data) if header["SOPClassUID"] == _SLIDE_CLASS else None


def _frames(path: Path, header: Header, pixel_data: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each frame begins and ends, from the pixel data element at byte ``pixel_data``."""
    count = int(header["NumberOfFrames"] or 1)
    with open(path, "rb") as file:
        file.seek(pixel_data)
        tag, length = struct.unpack("<4s4xI", file.read(12))
        if tag != _PIXEL_DATA:
            raise NotHereError("it holds no pixel data where it should")
        if length != 0xFFFFFFFF:
            size = int(header["Rows"]) * int(header["Columns"]) * 3
            starts = pixel_data + 12 + np.arange(count, dtype=np.int64) * size
            if length < count * size:
                raise NotHereError("its pixel data is shorter than its frames")
            return starts, starts + size
        item, length = struct.unpack("<4sI", file.read(8))
        if item != _ITEM:
            raise NotHereError("its frames do not begin with an offset table")
        table = np.frombuffer(file.read(length), "<u4").astype(np.int64)
        return _encapsulated(file, header, table, count)


def _encapsulated(
    file: BinaryIO, header: Header, table: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """From the extended offset table, else from the items themselves: the basic one cannot say where frames end."""
    first = file.tell()
    offsets, sizes = header["ExtendedOffsetTable"], header["ExtendedOffsetTableLengths"]
    if offsets is not None and sizes is not None:
        starts = first + np.frombuffer(offsets, "<u8").astype(np.int64)
        lengths = np.frombuffer(sizes, "<u8").astype(np.int64)
        if len(starts) == len(lengths) == count:
            return starts, starts + 8 + lengths + lengths % 2
    items, at = [first], first
    while (head := file.read(8))[:4] == _ITEM:
        at += 8 + int.from_bytes(head[4:], "little")
        items.append(at)
        file.seek(at)
    if head[:4] != _SEQUENCE_END:
        raise NotHereError("its pixel data does not end where it should")
    ends = np.array(items[1:], np.int64)
    starts = np.array(items[:-1], np.int64) if len(ends) == count else first + table
    if len(starts) != count or (np.diff(starts) <= 0).any():
        raise NotHereError(f"it holds {len(ends)} items for {count} frames, and no table that tells them apart")
    return starts, np.append(starts[1:], ends[-1])


def _level(parts: list[_Instance], files: list[Path]) -> tuple[Level, str]:
    """One level from its instance, or from the parts of its concatenation."""
    if not parts:
        raise NotHereError("a level has no instance of its own in the folder")
    parts = sorted(parts, key=lambda part: part.first_frame)
    if len(parts) > 1 and len({part.header["ConcatenationUID"] for part in parts} | {None}) != 2:
        raise NotHereError("several instances of its series are of one size")
    header = parts[0].header
    kind = _checked_kind(header)
    if any(_layout(part.header) != _layout(header) for part in parts):
        raise NotHereError("the parts of a level are stored differently")
    tile = int(header["Columns"]), int(header["Rows"])
    size = parts[0].size
    count = -(-size[0] // tile[0]) * -(-size[1] // tile[1])
    lengths = [len(part.starts) for part in parts]
    begins = [sum(lengths[:number]) for number in range(len(parts))]
    if sum(lengths) != count or begins != [part.first_frame for part in parts]:
        raise NotHereError(f"it holds {sum(lengths)} frames where {count} are needed")
    starts, ends = (np.concatenate([getattr(part, name) for part in parts]) for name in ("starts", "ends"))
    if (starts >= ends).any() or (ends - starts).max() > _MAX_FRAME_BYTES or tile[0] * tile[1] * 3 > _MAX_FRAME_BYTES:
        raise NotHereError("its frames are empty or too large")
    owner = np.repeat([files.index(part.path) for part in parts], lengths)
    decode = _decoder(kind, header, tile)
    can_halve = kind == _JPEG and tile[0] % 8 == 0 and tile[1] % 8 == 0
    return Level(size, tile, can_halve, owner, starts, ends, decode, kind != _NATIVE), kind


def _layout(header: Header) -> tuple[Any, ...]:
    names = ("Rows", "Columns", "TotalPixelMatrixColumns", "TotalPixelMatrixRows", "PhotometricInterpretation")
    return tuple(header[name] for name in (*names, "syntax"))


def _checked_kind(header: Header) -> str:
    """How its frames are compressed.

    Raises:
        NotHereError: they are placed, coloured or compressed in another way than is read here.
    """
    syntax = header["syntax"]
    kind = _KINDS.get(str(syntax))
    if kind is None:
        raise NotHereError(f"its frames are compressed as {syntax.name}")
    if header["DimensionOrganizationType"] != "TILED_FULL":
        raise NotHereError("its frames are placed one by one, not row by row")
    if int(header["TotalPixelMatrixFocalPlanes"] or 1) != 1 or int(header["NumberOfOpticalPaths"] or 1) != 1:
        raise NotHereError("it holds several focal planes or optical paths")
    if int(header["SamplesPerPixel"]) != 3 or int(header["BitsAllocated"]) != 8:
        raise NotHereError("it holds other pixels than 8-bit colour")
    if header["PhotometricInterpretation"] not in _COLOURS[kind]:
        raise NotHereError(f"its colours are stored as {header['PhotometricInterpretation']}")
    if kind == _NATIVE and int(header["PlanarConfiguration"] or 0) != 0:
        raise NotHereError("its colours are stored in planes")
    return kind


def _decoder(kind: str, header: Header, tile: tuple[int, int]) -> Decode:
    if kind == _JPEG:
        return JPEGDecoder(None, tile, ycbcr=header["PhotometricInterpretation"] != "RGB")
    if kind == _JPEG2000:
        return lambda data, halvings, out: decode_jpeg2000(data)
    return lambda data, halvings, out: np.frombuffer(data, np.uint8).reshape(tile[1], tile[0], 3)
