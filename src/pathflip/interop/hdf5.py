"""Reading a neighbour's HDF5 file without trusting it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pathflip.errors import FeatureError, PathFLIPError
from pathflip.features.store import describe, read_description
from pathflip.geometry import SlideInfo, TileGrid, TileSpec

__all__ = ["OWN", "File", "opened", "own_attribute", "read_file", "read_own", "whole"]

OWN = "pathflip"
"""File attribute in which we say what the neighbour's layout cannot; their readers do not look at it."""
_PLAUSIBLE_BYTES = 2**28


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


def read_file(path: Path, keys: tuple[str, ...] = ("features", "feats", "coords", "valid")) -> File:
    """Whole datasets of an HDF5 file.

    Raises:
        FeatureError: absent, truncated, damaged, or not HDF5.
    """
    with opened(path) as file:
        found = [key for key in keys if isinstance(file.get(key), h5py.Dataset)]
        arrays = {key: _whole_dataset(path, key, file[key]) for key in found}
        attributes = {"": dict(file.attrs)} | {key: dict(file[key].attrs) for key in found}
    return File(path, arrays, attributes)


def _whole_dataset(path: Path, key: str, dataset: h5py.Dataset) -> NDArray[Any]:
    if dataset.nbytes > max(_PLAUSIBLE_BYTES, 100 * path.stat().st_size):
        raise FeatureError(
            f"{path}: '{key}' claims {dataset.nbytes / 2**30:.0f} GiB in a file of {path.stat().st_size} bytes; damaged"
        )
    return np.asarray(dataset[...])


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read; whatever the library makes of a damaged one becomes one line.

    Raises:
        FeatureError: absent, truncated, damaged, or not HDF5.
    """
    if not path.is_file():
        raise FeatureError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except PathFLIPError:
        raise
    except Exception as error:  # damage shows as OSError, KeyError, RuntimeError, MemoryError, UnicodeDecodeError, …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FeatureError(f"{path}: not a readable HDF5 file ({reason}); copy or extract it again") from error


def own_attribute(grid: TileGrid, encoder: str | None) -> str:
    """Slide and tiles in full, as JSON."""
    return json.dumps({**describe(grid.info, grid.spec), "encoder": encoder or ""}, sort_keys=True)


def read_own(path: Path, text: Any) -> tuple[tuple[SlideInfo, TileSpec], str | None] | tuple[None, None]:
    """What :func:`own_attribute` wrote, and the encoder; (None, None) where the file was made elsewhere."""
    if text is None:
        return None, None
    try:
        root = json.loads(str(text))
    except ValueError as error:
        raise FeatureError(f"{path}: attribute '{OWN}' is not JSON ({error}); delete it, or convert again") from error
    return read_description(path, root), str(root["encoder"]) or None


def whole(value: Any) -> int | None:
    """An attribute as a whole number; TRIDENT writes unknown ones as the string 'None'."""
    try:
        number = float(np.asarray(value).reshape(-1)[0])
    except (TypeError, ValueError, IndexError):
        return None
    return int(number) if np.isfinite(number) and number == int(number) else None
