"""One slide of a training store: a safetensors file whose patches can be read row by row (``docs/formats.md``).

A row of ``patches`` holds a patch's features and, beside them, its neighbourhood mean: what a step draws is one piece
of the file. ``neighbours`` says which rows that mean is over, for stores that leave it out.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from pathflip.data.patches import FeatureSums, Neighbourhood, relative_positions, rows_in_reading_order
from pathflip.errors import FeatureError
from pathflip.features.store import describe, read_description
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.io.byte_ranges import RowRequest, read_rows
from pathflip.io.storage import as_url, filesystem, shown, state
from pathflip.types import SlideFeatures

__all__ = ["FORMAT", "FORMAT_VERSION", "DType", "PackedSlide", "Source", "mean_of_neighbours", "read_packed_header",
           "write_packed"]  # fmt: skip

FORMAT = "pathflip-packed"
FORMAT_VERSION = "1.0"

DType = Literal["float16", "float32"]

_PAGE = 4096
_BLOCK_ROWS = 2048
_MOST_HEADER_BYTES = 1 << 20
_NAMES = {"float16": "F16", "float32": "F32", "int32": "I32", "int64": "I64", "float64": "F64"}


@dataclass(frozen=True)
class Source:
    """The feature file a packed slide was made from: size, what changes when it is written to, SHA-256."""

    size: int
    changed: str
    sha256: str

    def same_state(self, seen: tuple[int, str] | None) -> bool:
        """Whether size and time are still those; nothing is read."""
        return seen == (self.size, self.changed)


@dataclass(frozen=True, eq=False)
class PackedSlide:
    """A packed slide, as its header describes it.

    Attributes:
        rows: valid patches, in reading order. dim: of a feature vector. parts: 2 with neighbourhood means, else 1.
        most_neighbours: columns of ``neighbours``.
        start: where each tensor begins in the file, in bytes.
    """

    path: Path
    slide_id: str
    source: Source
    dtype: DType
    rows: int
    dim: int
    parts: int
    most_neighbours: int
    start: Mapping[str, int]
    info: SlideInfo
    spec: TileSpec
    encoder: str

    def request(self, name: str, rows: Int[np.ndarray, " n"]) -> RowRequest:
        """What to read for some rows of a tensor."""
        dtype, shape = _tensors(self.rows, self.dim, self.parts, self.most_neighbours, self.dtype)[name]
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
        return RowRequest(self.path, self.start[name], row_bytes, rows.astype(np.int64, copy=False))

    def array(self, name: str, data: NDArray[np.uint8]) -> NDArray[Any]:
        """Rows of a tensor, from their bytes."""
        dtype, shape = _tensors(self.rows, self.dim, self.parts, self.most_neighbours, self.dtype)[name]
        return data.view(dtype).reshape(len(data), *shape[1:])

    def whole(self, *names: str) -> list[NDArray[Any]]:
        """Read tensors, whole."""
        tensors = _tensors(self.rows, self.dim, self.parts, self.most_neighbours, self.dtype)
        data = read_rows([self.request(name, np.arange(tensors[name][1][0])) for name in names])
        return [self.array(name, part) for name, part in zip(names, data, strict=True)]

    def sums(self) -> FeatureSums:
        """Sums over all patches, of the features before they were rounded."""
        total, squares = self.whole("total", "squares")
        return FeatureSums(self.rows, total[:, 0], squares[:, 0])


def _tensors(rows: int, dim: int, parts: int, most: int, dtype: DType) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor, in the order they stand in the file: by row first, then whole."""
    return {
        "patches": (dtype, (rows, parts, dim)),
        "total": ("float64", (dim, 1)),
        "squares": ("float64", (dim, 1)),
        "error_squares": ("float64", (dim, 1)),
        "coords": ("int64", (rows, 2)),
        "position": ("float32", (rows, 2)),
        "neighbours": ("int32", (rows, most)),
        "file_row": ("int32", (rows, 1)),
    }


def write_packed(
    handle: BinaryIO, features: SlideFeatures, source: Source, dtype: DType = "float16", context: bool = True
) -> None:
    """Write one slide.

    Args:
        handle: a file open for writing.
        source: the feature file it comes from.
        dtype: of the patches. context: also store every patch's neighbourhood mean, so that a step reads one row a
            patch; without it the file is half as large and a step reads up to nine.

    Raises:
        FeatureError: no valid patch, or a value that float16 cannot hold.
    """
    rows = rows_in_reading_order(features)
    cells = Neighbourhood(features.grid.cells(), features.valid)
    neighbours = _neighbour_table(cells, rows)
    dim, parts = features.features.shape[1], 2 if context else 1
    tensors = _tensors(len(rows), dim, parts, neighbours.shape[1], dtype)
    handle.write(_header(features, source, tensors))
    sums, error = FeatureSums.of(features.features[rows]), np.zeros(dim)
    for block in _blocks(features, rows, cells, context):
        packed = _rounded(block, dtype, features.slide_id)
        error += ((packed[:, 0].astype(np.float32) - block[:, 0]).astype(np.float64) ** 2).sum(0)
        handle.write(packed.tobytes())
    position = relative_positions(features.coords, features.valid, features.grid.tile_px0)
    rest = {
        "total": sums.total,
        "squares": sums.squares,
        "error_squares": error,
        "coords": features.coords[rows],
        "position": position[rows],
        "neighbours": neighbours,
        "file_row": rows,
    }
    for name, values in rest.items():
        handle.write(np.ascontiguousarray(values, tensors[name][0]).tobytes())


def _blocks(
    features: SlideFeatures, rows: Int[np.ndarray, " V"], cells: Neighbourhood, context: bool
) -> Iterator[Float[np.ndarray, "n parts D"]]:
    """Patches in reading order, some thousand at a time."""
    for start in range(0, len(rows), _BLOCK_ROWS):
        some = rows[start : start + _BLOCK_ROWS]
        own = features.features[some]
        yield np.stack([own, cells.mean(features.features, some)], axis=1) if context else own[:, None]


def _rounded(block: Float[np.ndarray, "n parts D"], dtype: DType, slide_id: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        packed = block.astype(dtype, copy=False)
    if not np.isfinite(packed).all():
        if np.isfinite(block).all():
            raise FeatureError(
                f"slide '{slide_id}': features reach {np.abs(block).max():.4g}, and float16 holds values up to 65504; "
                "pack them as float32 (--dtype float32; for a training --store-dtype float32)"
            )
        raise FeatureError(f"slide '{slide_id}': features hold NaN or infinity; extract it again")
    return packed


def _neighbour_table(cells: Neighbourhood, rows: Int[np.ndarray, " V"]) -> Int[np.ndarray, "V K"]:
    """Places of the neighbours of every place, -1 where there is none, in the order means are summed."""
    place = np.full(int(rows.max()) + 1, -1, np.int64)
    place[rows] = np.arange(len(rows))
    pieces = list(cells.pairs(rows))
    count = np.zeros(len(rows), np.int64)
    for places, _ in pieces:
        count[places] += 1
    table = np.full((len(rows), int(count.max())), -1, np.int32)
    count[:] = 0
    for places, others in pieces:
        table[places, count[places]] = place[others]
        count[places] += 1
    return table


def mean_of_neighbours(features: Float[np.ndarray, "M D"], table: Int[np.ndarray, "n K"]) -> Float[np.ndarray, "n D"]:
    """Mean over each row of a neighbour table (-1: none), summed in the order of :meth:`Neighbourhood.mean`."""
    total = np.zeros((len(table), features.shape[1]), np.float32)
    for column in table.T:
        there = np.flatnonzero(column >= 0)
        total[there] += features[column[there]]
    return total / np.maximum((table >= 0).sum(axis=1, dtype=np.float32), 1)[:, None]


def _header(features: SlideFeatures, source: Source, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The head of a safetensors file, padded with spaces so that the tensors begin on a page of the disk."""
    about = {**describe(features.info, features.spec), "encoder": features.encoder, "slide_id": features.slide_id}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "slide_id": features.slide_id,
        "source_size": str(source.size),
        "source_changed": source.changed,
        "source_sha256": source.sha256,
        "description": json.dumps(about),
    }
    entries: dict[str, Any] = {"__metadata__": metadata}
    for name, (begin, end) in _offsets(tensors).items():
        dtype, shape = tensors[name]
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-(len(text) + 8) % _PAGE)
    return struct.pack("<Q", len(text)) + text


def _offsets(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, int]]:
    """First byte of every tensor and the one after its last, counted from the end of the header."""
    out, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        out[name] = (at, at + size)
        at += size
    return out


def read_packed_header(path: Path) -> PackedSlide:
    """What a packed slide's header says; its length is checked, its rows are not read.

    Raises:
        FeatureError: no packed slide, of another version, or not whole.
    """
    try:
        size = (state(path) or (0, ""))[0]
        with _open(path) as handle:
            length = struct.unpack("<Q", handle.read(8))[0]
            if not 2 <= length <= min(_MOST_HEADER_BYTES, size):
                raise ValueError(f"a header of {length} bytes")
            entries = json.loads(handle.read(length))
        metadata = entries.pop("__metadata__")
        if metadata["format"] != FORMAT:
            raise ValueError(f"format '{metadata['format']}'")
        if metadata["format_version"].split(".")[0] != FORMAT_VERSION.split(".")[0]:
            raise ValueError(f"format_version '{metadata['format_version']}', this PathFLIP reads {FORMAT_VERSION}")
        return _parsed(path, entries, metadata, length + 8, size)
    except FeatureError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FeatureError(f"{shown(path)}: no packed slide ({reason}); delete it, and it is packed again") from None


def _open(path: Path) -> Any:
    url = as_url(path)
    return open(path, "rb") if url is None else filesystem(url).open(url, "rb", block_size=2 * _PAGE)


def _parsed(path: Path, entries: Any, metadata: Any, begin: int, size: int) -> PackedSlide:
    patches, neighbours = entries["patches"], entries["neighbours"]
    rows, parts, dim = (int(v) for v in patches["shape"])
    most = int(neighbours["shape"][1])
    dtype: DType = "float16" if patches["dtype"] == "F16" else "float32"
    tensors = _tensors(rows, dim, parts, most, dtype)
    offsets = _offsets(tensors)
    expected = {
        name: {"dtype": _NAMES[tensors[name][0]], "shape": list(tensors[name][1]), "data_offsets": list(place)}
        for name, place in offsets.items()
    }
    if entries != expected or parts not in (1, 2) or rows < 1:
        raise ValueError("its tensors are not those of a packed slide")
    if size != begin + max(end for _, end in offsets.values()):
        raise ValueError(f"{size} bytes, expected {begin + max(end for _, end in offsets.values())}")
    about = json.loads(metadata["description"])
    info, spec = read_description(path, about)
    source = Source(int(metadata["source_size"]), metadata["source_changed"], metadata["source_sha256"])
    start = {name: begin + first for name, (first, _) in offsets.items()}
    slide_id, encoder = str(metadata["slide_id"]), str(about["encoder"])
    return PackedSlide(path, slide_id, source, dtype, rows, dim, parts, most, start, info, spec, encoder)
