"""Ways to damage files: TIFF headers entry by entry, HDF5 by byte and by content."""

import io
import json
import os
import select
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import tifffile
from hypothesis import strategies as st

from cohort_run import tissue_picture
from slide_files import halved
from slide_matrix import Case, known_picture, write_case

WILD = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    255,
    256,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 16,
    2**32 - 1,
    2**40,
    2**63,
    2**64 - 1,
)


class Child:
    """A reading process; replaced when it dies or hangs."""

    def __init__(self):
        self._process = None

    def ask(self, kind, path, seconds=20.0):
        """Its answer; {"verdict": "died" or "hung"} where it gives none."""
        self.start()
        self._process.stdin.write(f"{kind} {path}\n")
        self._process.stdin.flush()
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if readable else ""
        if line:
            return json.loads(line)
        self.close()
        return {"verdict": "died" if readable else "hung"}

    def start(self):
        """Start the process if there is none, and wait until it is ready."""
        if self._process is not None:
            return
        command = [sys.executable, str(Path(__file__).with_name("fuzz_child.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, text=True, **pipes)
        assert json.loads(self._process.stdout.readline())["verdict"] == "ready"

    def close(self):
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def tiff_bases():
    """Small pyramids as scanners and converters write them."""
    picture = tissue_picture(px=256)
    kinds = (
        {"compression": "jpeg"},
        {"compression": "deflate", "predictor": 2},
        {"compression": "lzw", "bigtiff": True},
        {"compression": "jpeg", "description": "Aperio Image Library v12\n256x256 |AppMag = 5|MPP = 2.0"},
        {"compression": None, "rowsperstrip": 16},
        {"compression": "jpeg", "ome": True},
    )
    return [_tiff(picture, **kind) for kind in kinds]


def _tiff(picture, *, compression, bigtiff=False, ome=False, rowsperstrip=None, **options):
    image = io.BytesIO()
    layout = {"rowsperstrip": rowsperstrip} if rowsperstrip else {"tile": (64, 64)}
    with tifffile.TiffWriter(image, bigtiff=bigtiff, ome=ome) as writer:
        for number, level in enumerate([picture, halved(picture, 4)]):
            more = {"subifds": 1} if ome and number == 0 else {"subfiletype": 1} if number else {}
            more |= {} if ome else {"metadata": None}
            writer.write(level, photometric="rgb", compression=compression, resolution=(5e3, 5e3),
                         resolutionunit="CENTIMETER", **layout, **options, **more)  # fmt: skip
    return image.getvalue()


def tiff_fields(data):
    """(position, width) of every number in the header and the directories: types, counts, values, next pointers."""
    big = data[2] == 43
    width, count_width = (8, 8) if big else (4, 2)
    entry = 20 if big else 12
    read = {2: "<H", 4: "<I", 8: "<Q"}
    fields, at = [(8, 8) if big else (4, 4)], struct.unpack_from(read[width], data, 8 if big else 4)[0]
    while at:
        number = struct.unpack_from(read[count_width], data, at)[0]
        fields.append((at, count_width))
        for i in range(number):
            start = at + count_width + i * entry
            fields += [(start, 2), (start + 2, 2), (start + 4, width), (start + 4 + width, width)]
        end = at + count_width + number * entry
        fields.append((end, width))
        at = struct.unpack_from(read[width], data, end)[0]
    return fields


def tiff_entries(data):
    """(position, tag) of every entry of the directories."""
    width = 20 if data[2] == 43 else 12
    entries = [position for position, _ in tiff_fields(data)]
    numbers = ((at, int.from_bytes(data[at : at + 2], "little")) for at in entries)
    return [(at, tag) for at, tag in numbers if 254 <= tag <= 532 and at + width <= len(data)]


@st.composite
def damaged_tiffs(draw, bases):
    """A pyramid with one to four fields overwritten, bytes changed, or its end missing."""
    data = bytearray(draw(st.sampled_from(bases)))
    fields = tiff_fields(data)
    starts = [position for position, width in fields if width in (2, 8)]
    for _ in range(draw(st.integers(1, 4))):
        what = draw(st.sampled_from(("field", "field", "field", "pointer", "byte", "cut")))
        if what in ("field", "pointer"):
            position, width = draw(st.sampled_from(fields))
            wild = st.sampled_from(WILD) | st.integers(0, 2**64 - 1) | st.integers(0, len(data))
            value = draw(st.sampled_from(starts) if what == "pointer" else wild)
            data[position : position + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        elif what == "byte":
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        elif len(data) > 200:
            del data[draw(st.integers(len(data) // 2, len(data) - 1)) :]
            fields = [(position, width) for position, width in fields if position + width <= len(data)]
    return bytes(data)


@st.composite
def nudged_tiffs(draw, data):
    """One value of one directory entry a little off, or another small number: headers that still make sense."""
    entries = tiff_entries(data)
    position, _ = entries[draw(st.integers(0, len(entries) - 1))]
    at, width = (position + 12, 8) if data[2] == 43 else (position + 8, 4)
    value = int.from_bytes(data[at : at + width], "little")
    value = max(0, draw(st.sampled_from((value - 1, value + 1, value * 2, value // 2)) | st.integers(0, 9)))
    return data[:at] + (value % 2 ** (8 * width)).to_bytes(width, "little") + data[at + width :]


PIXEL_CASES = (
    Case(), Case("LZW, predictor", levels="2, 4"), Case("JPEG, own tables", "YCbCr 4:2:0"),
    Case("none", parts="strips"), Case("JPEG, shared tables", "YCbCr 4:2:2", levels="3"),
    Case("JPEG, own tables", "RGB", parts="strips"), Case("JPEG 2000 33005"), Case("deflate", planes="apart"),
    Case("PackBits", levels="unmarked"), Case("deflate", levels="smallest first"),
    Case("deflate", levels="in sub-directories"), Case("none", levels="padded"), Case("LZW", file="BigTIFF, little"),
    Case("Zstandard", parts="strips"), Case("JPEG, own tables", "grey"),
)  # fmt: skip
"""Slides of which libraries of others can read most."""


def pixel_bases(folder):
    """Their bytes."""
    picture = known_picture()
    return [write_case(Path(folder) / "base.tif", case, picture).read_bytes() for case in PIXEL_CASES]


@st.composite
def damaged_slides(draw, bases):
    """A slide with a tile spoilt, its header damaged, or both; and in words what was done to it."""
    base = draw(st.integers(0, len(bases) - 1))
    data, words = bases[base], [PIXEL_CASES[base].odd]
    if draw(st.booleans()):
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[draw(st.integers(0, len(file.pages) - 1))]
            tile = draw(st.integers(0, len(page.dataoffsets) - 1))
            offset, count = page.dataoffsets[tile], page.databytecounts[tile]
        half = offset + count // draw(st.sampled_from((1, 2, 3, 8)))
        how = draw(st.sampled_from(("zeros", "noise", "one byte")))
        length = offset + count - half if how != "one byte" else 1
        noise = np.random.default_rng(draw(st.integers(0, 999))).bytes(length)
        data = data[:half] + (bytes(length) if how == "zeros" else noise) + data[half + length :]
        words.append(f"tile {tile} of page {page.index}: {how} from byte {half - offset} of {count}")
        if draw(st.booleans()):
            return data, words
    damaged = draw(damaged_tiffs([data]) | nudged_tiffs(data))
    changed = [(at, b) for at, (a, b) in enumerate(zip(data, damaged, strict=False)) if a != b]
    tags = {tag for at, _ in changed for start, tag in tiff_entries(data) if start <= at < start + 20}
    return damaged, [*words, f"{changed[:12]} in entries of tags {sorted(tags)}, {len(damaged)} of {len(data)} bytes"]


def write_feature_file(path):
    """A small feature file of ours."""
    from pathflip.features import write_features
    from pathflip.geometry import Box, SlideInfo, TileSpec
    from pathflip.types import SlideFeatures

    rng = np.random.default_rng(0)
    info = SlideInfo("s", (4096, 4096), 0.5, (1.0, 4.0), "aperio", "test", Box(0, 0, 4096, 4096))
    coords = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2) * 256
    rows = rng.normal(size=(64, 16)).astype(np.float32)
    features = SlideFeatures("s", rows, coords.astype(np.int64), np.ones(64, bool), info, TileSpec(256, 0.5), "e")
    write_features(path, features, settings={"encoder": "e"})
    return path


ODD = st.one_of(
    st.sampled_from(["", "None", "nan", "\x00", "é" * 50, "9" * 400, "{", "[1]", "null"]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=64),
    st.binary(min_size=1, max_size=8).map(np.void),
    st.sampled_from(
        [np.zeros(0), np.zeros((2, 2)), np.array([1e300, -1]), np.array([np.nan, 5.0]), np.bytes_(b"\xff\xfe")]
    ),
)
"""Attribute values nobody expects."""


def odd_dataset(file, name, kind):
    """Replace a dataset by something else of that name."""
    if name in file:
        del file[name]
    if kind == "group":
        file.create_group(name)
    elif kind == "loop":
        file[name] = h5py.SoftLink(f"/{name}")
    elif kind == "elsewhere":
        file[name] = h5py.ExternalLink("/dev/zero", "/x")
    elif kind == "outside":
        file.create_dataset(name, shape=(64, 16), dtype="f4", external=[("/dev/zero", 0, 64 * 64)])
    elif kind == "never written":
        file.create_dataset(name, shape=(10**9, 1536), dtype="f4", chunks=(1024, 1536))
    elif kind == "bomb":
        part = file.create_dataset(name, shape=(10**7, 1536), dtype="f4", chunks=(8192, 1536), compression="gzip")
        part[:8192] = 0
    elif kind == "words":
        file[name] = np.array([b"a", b"b"])
    elif kind == "compound":
        file[name] = np.zeros(64, [("a", "f4"), ("b", "i8")])
    elif kind == "ragged":
        file.create_dataset(name, (4, 2), h5py.vlen_dtype(np.float32))
    elif kind == "empty":
        file[name] = h5py.Empty("f4")
    else:
        file[name] = ODD_ARRAYS[kind]


ODD_ARRAYS = {
    "scalar": np.float32(1),
    "flat": np.zeros(64),
    "deep": np.zeros((2, 2, 2)),
    "none": np.zeros((0, 2)),
    "complex": np.zeros((64, 2), complex),
    "huge": np.full((64, 2), 2**62),
    "nan": np.full((64, 2), np.nan),
    "wide": np.zeros((1, 10**5)),
    "unsigned": np.full((64, 2), 2**64 - 1, np.uint64),
}
OTHER_KINDS = (
    "group", "loop", "elsewhere", "outside", "never written", "bomb", "words", "compound", "ragged", "empty",
)  # fmt: skip
DATASET_KINDS = (*OTHER_KINDS, *ODD_ARRAYS)
ATTRIBUTES = (
    "format", "format_version", "slide_id", "encoder", "dim", "tile_px", "mpp", "stride_px", "min_tissue", "mpp0",
    "size0", "downsamples", "vendor", "reader", "bounds0", "settings",
)  # fmt: skip


@st.composite
def damaged_feature_files(draw, base):
    """A function that writes a damaged feature file: bytes changed, attributes or datasets replaced."""
    how = draw(st.sampled_from(("bytes", "attributes", "datasets")))
    if how == "bytes":
        data = bytearray(base)
        for _ in range(draw(st.integers(1, 6))):
            position = draw(st.integers(0, min(len(data), 6000) - 1) | st.integers(0, len(data) - 1))
            width = draw(st.sampled_from((1, 1, 4, 8)))
            value = draw(st.sampled_from(WILD) | st.integers(0, 255))
            data[position : position + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        cut = draw(st.integers(0, len(data)) | st.just(len(data)))
        return lambda path: Path(path).write_bytes(data[:cut])
    names = {"attributes": st.dictionaries(st.sampled_from(ATTRIBUTES), ODD | st.none(), min_size=1, max_size=3)}
    names["datasets"] = st.dictionaries(
        st.sampled_from(("features", "coords", "valid")), st.sampled_from(DATASET_KINDS), min_size=1, max_size=3
    )
    changes = draw(names[how])
    foreign = draw(st.booleans())

    def write(path):
        Path(path).write_bytes(base)
        with h5py.File(path, "r+") as file:
            if foreign:
                file.attrs.pop("format", None)
            for name, value in changes.items():
                if how == "datasets":
                    odd_dataset(file, name, value)
                    continue
                if value is None:
                    file.attrs.pop(name, None)
                elif not (isinstance(value, str) and "\x00" in value):
                    file.attrs[name] = value

    return write


def scratch(folder, suffix):
    """One file name, used again and again."""
    return os.path.join(folder, f"damaged{suffix}")
