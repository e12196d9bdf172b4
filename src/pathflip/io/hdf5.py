"""Reading HDF5 files without trusting them: the one reader for feature files, coordinates and neighbours' files.

What a file stores elsewhere (external links, external storage, virtual datasets) is refused, never followed: another
file's bytes would come along, and a pipe would hang. So are soft links, claimed sizes that the file does not hold,
and pipes and devices in place of files.
"""

import importlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pathflip.errors import FeatureError, MissingExtraError, PathFLIPError
from pathflip.io.hdf5_reads import WholeReads
from pathflip.io.storage import as_url, filesystem, shown

__all__ = ["File", "attribute_json", "dataset", "opened", "plain_attributes", "read_array", "read_file", "whole"]

_PLAUSIBLE_BYTES = 2**28
"""Larger arrays must take at least a hundredth of their size in the file; a damaged header can claim terabytes."""
_MOST_ATTRIBUTES = 1000
_DEEPEST_TYPE = 8
_ENCODED_BITS = 3
"""Where an encoded type has its class's bits: behind two bytes of the encoding, and the byte of class and version."""
_LONGEST_BEGIN = 8
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as .npz and .pt files are", b"\x93NUMPY": "a NumPy array",
    b"PAR1": "a Parquet table", b"ARROW1": "an Arrow file", b"\x1f\x8b": "compressed with gzip",
    b"CDF": "an old netCDF file", b"MATLAB": "a MATLAB file",
    **{bytes([0x80, number]): "a pickle" for number in (2, 3, 4, 5)},
}  # fmt: skip
"""What feature files of other formats begin with, and what they are."""
_FILTERS = {
    307: "bzip2", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd",
    32017: "sz", 32019: "fcidecomp", 32026: "blosc2", 32028: "zfp", 32029: "bitshuffle",
}  # fmt: skip
"""Registered filters of HDF5 (portal.hdfgroup.org, registered filter plugins) by number."""


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file to read, of this machine or an object store; whatever damage makes the library raise is one line.

    Raises:
        FeatureError: absent, no regular file, truncated, damaged, or not HDF5.
    """
    path, url = Path(path), as_url(path)
    if url is None:
        _check_regular(path)
    try:
        with filesystem(url).open(url, "rb") if url else path.open("rb") as handle:
            _check_begin(path, handle)
            with h5py.File(reads := WholeReads(handle), "r") as file:
                _check_types(path, file, reads)
                yield file
    except PathFLIPError:
        raise
    except Exception as error:  # damage shows as OSError, KeyError, RuntimeError, MemoryError, UnicodeDecodeError, …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FeatureError(f"{shown(path)}: not a readable HDF5 file ({reason}); copy or extract it again") from error


def _check_begin(path: Path, handle: Any) -> None:
    """Refuse a file of another format by its first bytes; only behind a user block HDF5 begins elsewhere.

    Raises:
        FeatureError: it is one, or empty.
    """
    begin = handle.read(_LONGEST_BEGIN)
    handle.seek(0)
    if not begin:
        raise FeatureError(f"{shown(path)}: is empty (0 bytes); copy or extract it again")
    for start, name in _OTHER_FORMATS.items():
        if begin.startswith(start):
            raise FeatureError(
                f"{shown(path)}: is {name}, expected HDF5 (.h5) with 'features' and 'coords' (also read: a bare tensor "
                "in .pt, SlideChat's .csv, a LazySlide .zarr, QuPath's .geojson); save it as HDF5"
            )


def _check_regular(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be reached ({error})"
        raise FeatureError(f"{path}: {reason}; check the path") from None
    if stat.S_ISDIR(mode):
        raise FeatureError(f"{path}: is a folder, expected a feature file; give the files inside it")
    if not stat.S_ISREG(mode):
        raise FeatureError(f"{path}: is no regular file (a pipe or device), expected a feature file")


def _check_types(path: Path, file: h5py.File, reads: WholeReads) -> None:
    """Refuse what the library must not be let to read: types that do not exist, and texts longer than the file.

    The former end the process, the latter take the memory that they claim.

    Raises:
        FeatureError: there is one.
    """
    items: list[h5py.Group | h5py.Dataset] = [file]
    for key in islice(file, _MOST_ATTRIBUTES):
        if isinstance(file.get(key, getlink=True), h5py.HardLink):
            with suppress(Exception):  # whoever wants a damaged one is told so
                items.append(file[key])
    for item in items:
        own = [item.id.get_type()] if isinstance(item, h5py.Dataset) else []
        count = min(h5py.h5a.get_num_attrs(item.id), _MOST_ATTRIBUTES + 1)
        attributes = [h5py.h5a.open(item.id, index=index) for index in range(count)]
        if any(map(_is_no_type, own + [attribute.get_type() for attribute in attributes])):
            raise FeatureError(f"{path}: an attribute or dataset of '{item.name}' has no type of HDF5; copy it again")
        for attribute in filter(_is_listed, attributes):
            _check_texts(path, file, item, attribute, reads)
    reads.forget()


def _check_texts(path: Path, file: h5py.File, item: Any, attribute: h5py.h5a.AttrID, reads: WholeReads) -> None:
    places, size = file.id.get_create_plist().get_sizes()[0], file.id.get_filesize()
    texts = reads.texts(attribute.name, attribute.get_storage_size(), places)
    name = attribute.name.decode("utf-8", "backslashreplace")
    for length in {length for length, _ in texts if length > size}:
        raise FeatureError(
            f"{path}: attribute '{name}' of '{item.name}' claims a text of {length} bytes in a file of {size}; it is "
            "damaged: copy it again"
        )
    if not all(map(reads.ends, {place + file.userblock_size for length, place in texts if length and place < size})):
        raise FeatureError(f"{path}: the text of attribute '{name}' of '{item.name}' is damaged: copy it again")


def _is_listed(attribute: h5py.h5a.AttrID) -> bool:
    """Whether an attribute is texts or lists of variable length."""
    kind = attribute.get_type()
    return kind.get_class() == h5py.h5t.VLEN or (kind.get_class() == h5py.h5t.STRING and kind.is_variable_str())


def _is_plain(kind: Any) -> bool:
    """Whether a type is numbers, texts, or lists of numbers: of anything else the lengths cannot be looked at first."""
    what = kind.get_class()
    if what in (h5py.h5t.VLEN, h5py.h5t.ARRAY, h5py.h5t.ENUM):
        inner = kind.get_super().get_class()
        return inner in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.BITFIELD)
    return what in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.BITFIELD)


def _is_no_type(kind: Any, depth: int = 0) -> bool:
    """Whether a type, or one inside it, is of variable length and neither a sequence nor text.

    The library takes all sixteen numbers that its header can hold, and then calls functions that it has for two only.
    """
    if depth > _DEEPEST_TYPE:
        return True
    what = kind.get_class()
    if what == h5py.h5t.VLEN:
        number = kind.encode()[_ENCODED_BITS] & 0x0F  # "Datatype message", class 9, of HDF5's file format
        return number > 1 or _is_no_type(kind.get_super(), depth + 1)
    if what == h5py.h5t.ARRAY:
        return _is_no_type(kind.get_super(), depth + 1)
    if what == h5py.h5t.COMPOUND:
        return any(_is_no_type(kind.get_member_type(i), depth + 1) for i in range(kind.get_nmembers()))
    return False


def dataset(path: Path, file: h5py.Group, key: str) -> h5py.Dataset | None:
    """A dataset whose data lie in this file; None where there is nothing of that name, or a group.

    Raises:
        FeatureError: it is a link, or its data lie in other files.
    """
    link = file.get(key, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise FeatureError(f"{path}: '{key}' is a link to other data; expected the data themselves: refused")
    item = file[key]
    if not isinstance(item, h5py.Dataset):
        return None
    if item.is_virtual or item.external:
        raise FeatureError(f"{path}: dataset '{key}' lies in other files; expected it in this one: refused")
    return item


def read_array(path: Path, file: h5py.File, key: str) -> NDArray[Any]:
    """A dataset, whole.

    Raises:
        FeatureError: there is none, it is a link or lies elsewhere, it is compressed with a filter that is not here,
            or it claims more than the file holds.
    """
    item = dataset(path, file, key)
    if item is None:
        raise FeatureError(f"{path}: no dataset '{key}'; got {sorted(file)}")
    _check_filters(path, key, item)
    if item.dtype.hasobject:
        raise FeatureError(f"{path}: dataset '{key}' holds texts or lists, expected numbers")
    stored, ends = item.id.get_storage_size(), file.id.get_filesize()
    if item.size and not (0 < stored <= ends and item.nbytes <= max(_PLAUSIBLE_BYTES, 100 * stored)):
        raise FeatureError(  # HDF5 itself may crash on it
            f"{path}: dataset '{key}' claims {item.nbytes} bytes, {stored} of them stored in a file of {ends}; "
            "it is damaged: extract it again"
        )
    return np.asarray(item[...])


def _check_filters(path: Path, key: str, item: h5py.Dataset) -> None:
    """Refuse, by name, a compression that this machine's HDF5 does not know; ``hdf5plugin`` brings the usual ones."""
    properties = item.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code = properties.get_filter(number)[0]
        if h5py.h5z.filter_avail(code) or (_load_plugins() and h5py.h5z.filter_avail(code)):
            continue
        name = _FILTERS.get(code, "an unknown filter")
        wanted = MissingExtraError("hdf5plugin", "hdf5", "reading it")
        raise FeatureError(
            f"{path}: dataset '{key}' is compressed with {name} (HDF5 filter {code}), which is not here; {wanted}  "
            "(or pip install hdf5plugin)"
        )


def _load_plugins() -> bool:
    """Register the filters of the package ``hdf5plugin``, where it is installed."""
    try:
        importlib.import_module("hdf5plugin")
    except ImportError:
        return False
    return True


def plain_attributes(path: Path, item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """The attributes of a file or dataset that are numbers, texts or lists of numbers; others are left out.

    Raises:
        FeatureError: there are thousands.
    """
    if len(item.attrs) > _MOST_ATTRIBUTES:
        raise FeatureError(f"{path}: has {len(item.attrs)} attributes; it is damaged or no feature file")
    plain = (name for name in item.attrs if _is_plain(item.attrs.get_id(name).get_type()))
    return {name: _as_text(item.attrs[name]) for name in plain}


def _as_text(value: Any) -> Any:
    """Text of any kind as str: bytes and arrays of one text, as other tools write it; "" for an empty attribute."""
    if isinstance(value, h5py.Empty):
        return ""
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO" and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@dataclass(frozen=True, eq=False)
class File:
    """Datasets and attributes of one HDF5 file: root attributes under "", a dataset's under its name."""

    path: Path
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    attributes: Mapping[str, Mapping[str, Any]]

    def array(self, key: str) -> NDArray[Any]:
        """A dataset that must be there."""
        if key not in self.arrays:
            raise FeatureError(f"{self.path}: no dataset '{key}'; got {sorted(self.arrays)}")
        return self.arrays[key]


def read_file(path: Path, names: Mapping[str, str]) -> File:
    """Some datasets of an HDF5 file, whole.

    Args:
        names: name in the file -> name to give it.

    Raises:
        FeatureError: see :func:`opened` and :func:`read_array`.
    """
    with opened(path) as file:
        arrays = {
            own: read_array(path, file, name) for name, own in names.items() if dataset(path, file, name) is not None
        }
        attributes = {"": plain_attributes(path, file)}
        attributes |= {own: plain_attributes(path, file[name]) for name, own in names.items() if own in arrays}
    return File(path, arrays, attributes)


def whole(value: Any) -> int | None:
    """An attribute as a whole number, or an array of equal ones; TRIDENT writes unknown ones as the string 'None'."""
    try:
        numbers = {float(number) for number in np.asarray(value).reshape(-1)[:_MOST_ATTRIBUTES]}
    except (TypeError, ValueError):
        return None
    number = numbers.pop() if len(numbers) == 1 else np.nan
    return int(number) if np.isfinite(number) and number == int(number) else None


def attribute_json(path: Path, text: Any, name: str) -> Any:
    """An attribute that holds JSON.

    Raises:
        FeatureError: it does not.
    """
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise FeatureError(f"{path}: attribute '{name}' is not JSON ({error}); delete it, or convert again") from error
