"""What kind of feature file or outline a file is, by what it holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from pathflip.errors import FeatureError
from pathflip.features.store import FORMAT
from pathflip.interop.stamp import is_stamp
from pathflip.io.hdf5 import dataset, opened, plain_attributes, read_array

__all__ = ["COORDS_NAMES", "FEATURE_NAMES", "detect", "named_dataset"]

FEATURE_NAMES = (
    "features", "feats", "feat", "embeddings", "embedding", "embeds", "tile_embeds", "tile_embeddings", "tile_features",
    "patch_embeddings", "patch_embeds", "patch_features", "tile_feats", "patch_feats",
)  # fmt: skip
COORDS_NAMES = (
    "coords",
    "coordinates",
    "coord",
    "tile_coords",
    "tile_coordinates",
    "patch_coords",
    "patch_coordinates",
)
"""Names that pipelines give one row a tile, and where the tiles are."""
_PLACE_COLUMNS = 4
"""A tile's place has two numbers, a box four."""


def detect(path: Path) -> str:
    """What a file is, by what it holds (its suffix only where that decides).

    Raises:
        FeatureError: unreadable, or none of the known formats; the message says what was found.
    """
    suffix = path.suffix.lower()
    by_suffix = {".pt": "clam pt", ".csv": "slidechat", ".geojson": "qupath", ".json": "qupath"}
    if suffix in by_suffix:
        return by_suffix[suffix]
    if path.is_dir():
        if any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs")):
            return "lazyslide"
        raise FeatureError(f"{path}: a folder, and no zarr store; expected feature files or folders of them")
    with opened(path) as file:
        return _detect_hdf5(path, file)


def named_dataset(path: Path, file: h5py.File, names: Sequence[str], what: str) -> str | None:
    """The one dataset with any of these names, or None.

    Raises:
        FeatureError: there are two.
    """
    present = [name for name in names if dataset(path, file, name) is not None]
    if len(present) > 1:
        raise FeatureError(f"{path}: holds '{present[0]}' and '{present[1]}'; expected one dataset of {what}")
    return present[0] if present else None


def _shape(file: h5py.File, name: str | None) -> tuple[int, ...] | None:
    """Of a dataset, without a batch axis."""
    if name is None:
        return None
    shape = tuple(int(n) for n in file[name].shape)
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _detect_hdf5(path: Path, file: h5py.File) -> str:
    if plain_attributes(path, file).get("format") == FORMAT:
        return "pathflip"
    features = named_dataset(path, file, FEATURE_NAMES, "features")
    coords = named_dataset(path, file, COORDS_NAMES, "coordinates")
    shape, at = _shape(file, features), _shape(file, coords)
    if shape is not None and len(shape) > 1 and at is None:
        raise FeatureError(
            f"{path}: '{features}' {shape} and no coordinates (it holds {sorted(file)}); expected one of "
            f"{', '.join(COORDS_NAMES)}: (N, 2), level-0 pixels"
        )
    if shape is not None and len(shape) <= 1:
        raise FeatureError(f"{path}: '{features}' {shape}: one vector a slide; expected one row a tile, and 'coords'")
    if at is None:
        raise FeatureError(f"{path}: holds {sorted(file)}; expected 'coords' with 'features' or 'feats'")
    on_coords = file[coords].attrs
    if (
        features == "feats"
        and "patch_size_level0" not in on_coords
        and is_stamp(file.attrs, read_array(path, file, str(coords)))
    ):
        return "stamp"
    if features is None:
        _refuse_unknown_features(path, file)
        if "settings_hash" in on_coords:
            return "pathflip coordinates"
        return "clam coordinates" if "patch_level" in on_coords else "trident coordinates"
    is_trident = "patch_size_level0" in on_coords or "encoder" in file[features].attrs
    return "trident" if is_trident else "clam"


def _refuse_unknown_features(path: Path, file: h5py.File) -> None:
    """A table of numbers beside the coordinates, under a name nobody knows or in a group, is not passed over."""
    for name in sorted(file):
        item = None if name in COORDS_NAMES else dataset(path, file, name)
        if item is not None and _may_be_features(item):
            raise FeatureError(
                f"{path}: holds '{name}' {item.shape} beside its coordinates; if these are features, rename "
                f"the dataset: expected one of {', '.join(FEATURE_NAMES)}"
            )
        inside = _tables_inside(file[name]) if item is None else []
        if inside:
            raise FeatureError(
                f"{path}: holds {', '.join(repr(f'{name}/{key}') for key in inside[:4])} beside its coordinates; "
                "expected features as a dataset of the file itself: take it out of its group"
            )


def _tables_inside(item: Any) -> list[str]:
    """Names of what may be features in a group of the file; none of anything but a group."""
    if not isinstance(item, h5py.Group):
        return []
    hard = [key for key in item if isinstance(item.get(key, getlink=True), h5py.HardLink)]
    return [key for key in hard if isinstance(item[key], h5py.Dataset) and _may_be_features(item[key])]


def _may_be_features(item: h5py.Dataset) -> bool:
    """Numbers with several columns; whole ones (quantised features) only where they are too many for a place."""
    columns = int(item.shape[-1]) if item.ndim > 1 else 0
    return columns > (0 if item.dtype.kind == "f" else _PLACE_COLUMNS) and item.dtype.kind in "fiu"
