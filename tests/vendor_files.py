"""Small slides in the formats of single vendors, and DICOM, with known pixels."""

import io
import struct
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

_SHORT, _LONG, _SLONG, _FLOAT, _RATIONAL, _ASCII = 3, 4, 9, 11, 5, 2


def write_ndpi(
    path: Path, levels: list[Pixels], *, columns: int = 1, subsampling: str = "4:4:4", quality: int = 90
) -> Path:
    """Levels as Hamamatsu stores them: one JPEG each, ``columns`` restart intervals a row of blocks, listed in 65426.

    Directories are those of NDPI: places in 64 bits, their upper halves after the directory. A macro image
    (magnification -1) and a second focal plane follow.
    """
    unit = {"4:4:4": 8, "4:2:2": 16, "4:2:0": 16}[subsampling]
    pages = []
    for number, level in enumerate(levels):
        blocks = -(-level.shape[1] // unit)
        pages.append((level, 20.0 / 2**number, 0, blocks // columns))
    pages += [(levels[-1][::-1], 20.0, 1, 0), (levels[-1][:40, :60], -1.0, 0, 0)]
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHII", b"II", 42, 0, 0))
        link = 4
        for pixels, lens, plane, restart in pages:
            stream = io.BytesIO()
            image = Image.fromarray(np.ascontiguousarray(pixels))
            image.save(stream, "JPEG", quality=quality, subsampling=subsampling, restart_marker_blocks=restart)
            link = _ndpi_page(file, link, pixels.shape[:2], stream.getvalue(), lens, plane, restart > 0)
    return path


def _ndpi_page(file, link, shape, data, lens, plane, listed) -> int:
    """Append a page; returns where the place of the next directory is written."""
    start = file.tell()
    file.write(data + bytes(len(data) % 2))
    entries = [
        (256, _LONG, [shape[1]]),
        (257, _LONG, [shape[0]]),
        (258, _SHORT, [8, 8, 8]),
        (259, _SHORT, [7]),
        (262, _SHORT, [6]),
        (271, _ASCII, b"Hamamatsu\0"),
        (273, _LONG, [start]),
        (277, _SHORT, [3]),
        (278, _LONG, [shape[0]]),
        (279, _LONG, [len(data)]),
        (282, _RATIONAL, [20000, 1]),
        (283, _RATIONAL, [20000, 1]),
        (296, _SHORT, [3]),
        (65420, _LONG, [1]),
        (65421, _FLOAT, [lens]),
        (65424, _SLONG, [plane]),
    ]
    if listed:
        scan = data.index(b"\xff\xda")
        first = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
        marks = [i + 2 for i in range(first, len(data) - 1) if data[i] == 0xFF and 0xD0 <= data[i + 1] <= 0xD7]
        entries.append((65426, _LONG, [first, *marks]))
    formats = {_SHORT: "H", _LONG: "I", _SLONG: "i", _FLOAT: "f", _RATIONAL: "I"}
    packed = []
    for tag, kind, values in entries:
        raw = values if kind == _ASCII else struct.pack(f"<{len(values)}{formats[kind]}", *values)
        count = len(values) // 2 if kind == _RATIONAL else len(values)
        if len(raw) > 4:
            place = file.tell()
            file.write(raw + bytes(len(raw) % 2))
            raw = struct.pack("<I", place)
        packed.append(struct.pack("<HHI", tag, kind, count) + raw.ljust(4, b"\0"))
    directory = file.tell()
    file.write(struct.pack("<H", len(packed)) + b"".join(packed))
    next_link = file.tell()
    file.write(bytes(8 + 4 * len(packed)))
    end = file.tell()
    file.seek(link)
    file.write(struct.pack("<I", directory))
    file.seek(end)
    return next_link


def write_dicom(
    path: Path,
    level: Pixels,
    *,
    kind: str = "jpeg",
    tile: int = 128,
    mpp: float = 0.5,
    series: str = "1.2.3.4",
    table: str = "basic",
    fragments: int = 1,
    part: tuple[int, int, int] | None = None,
    **attributes: object,
) -> Path:
    """One level of a DICOM slide.

    Args:
        kind: "jpeg" (YBR_FULL_422), "jpeg-rgb", "jpeg2000" (lossless), "jpeg2000-lossy", "native".
        table: "basic", "extended" or "none".
        fragments: items a frame is split into.
        part: (number of this part, first frame, frames) of a concatenation.
        attributes: further ones, by keyword.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate, encapsulate_extended
    from pydicom.uid import generate_uid

    syntaxes = {"jpeg": ".4.50", "jpeg-rgb": ".4.50", "jpeg2000": ".4.90", "jpeg2000-lossy": ".4.91", "native": ".1"}
    colours = {
        "jpeg": "YBR_FULL_422",
        "jpeg-rgb": "RGB",
        "jpeg2000": "YBR_RCT",
        "jpeg2000-lossy": "YBR_ICT",
        "native": "RGB",
    }
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = "1.2.840.10008.1.2" + syntaxes[kind]
    header = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    height, width = level.shape[:2]
    frames = [_encoded(frame, kind) for frame in _frames(level, tile)]
    if part is not None:
        number, first, count = part
        frames = frames[first : first + count]
        header.ConcatenationUID = f"{series}.7"
        header.InConcatenationNumber = number
        header.ConcatenationFrameOffsetNumber = first
    values = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": series,
        "StudyInstanceUID": "1.2.3",
        "Modality": "SM",
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        "Rows": tile,
        "Columns": tile,
        "TotalPixelMatrixColumns": width,
        "TotalPixelMatrixRows": height,
        "TotalPixelMatrixFocalPlanes": 1,
        "NumberOfOpticalPaths": 1,
        "NumberOfFrames": len(frames),
        "DimensionOrganizationType": "TILED_FULL",
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": colours[kind],
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        **attributes,
    }
    for name, value in values.items():
        setattr(header, name, value)
    measures, groups = Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    groups.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [groups]
    if kind == "native":
        header.PixelData = b"".join(frames)
    elif table == "extended":
        header.PixelData, header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        header.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=table == "basic")
    header["PixelData"].VR = "OB"
    header.save_as(path, enforce_file_format=True)
    return path


def _frames(level: Pixels, tile: int) -> list[Pixels]:
    height, width = level.shape[:2]
    padded = np.pad(level, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    return [np.ascontiguousarray(padded[y : y + tile, x : x + tile]) for y, x in corners]


def _encoded(frame: Pixels, kind: str) -> bytes:
    if kind == "native":
        return frame.tobytes()
    if kind.startswith("jpeg2000"):
        lossless = kind == "jpeg2000"
        level = 0 if lossless else 40
        return bytes(imagecodecs.jpeg2k_encode(frame, level=level, codecformat="J2K", mct=True, reversible=lossless))
    colours = "RGB" if kind == "jpeg-rgb" else "YCBCR"
    sampling = "444" if kind == "jpeg-rgb" else "422"
    return bytes(imagecodecs.jpeg8_encode(frame, level=90, outcolorspace=colours, subsampling=sampling))
