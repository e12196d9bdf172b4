"""Feature files: one HDF5 per slide, readable by TRIDENT's readers, carrying what TRIDENT leaves unsaid.

The format is specified in ``docs/formats.md``. Layout::

    <out>/features_<encoder>/<slide>.h5
        features  float32 (N, D)   attributes name, savetodir, encoder
        coords    int64   (N, 2)   attributes patch_size, patch_size_level0, overlap, level0_width, ...
        valid     bool    (N,)     False: the tile could not be read; its feature row is zero
        /         attributes format, format_version, slide_id, encoder, dim, tile_px, mpp, mpp0, ...
"""

import hashlib
import json
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pathflip.arguments import Paths, as_paths
from pathflip.errors import FeatureError
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.io.files import atomic_hdf5
from pathflip.io.grid_attributes import grid_attributes, read_grid_attributes, trident_attributes
from pathflip.io.hdf5 import dataset, opened, plain_attributes, read_array
from pathflip.io.slide_id import check_name, join_ids, slide_id
from pathflip.io.storage import exists, shown
from pathflip.processes import CountedWarning
from pathflip.types import SlideFeatures

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "FeatureKind",
    "check_cohort",
    "describe",
    "features_path",
    "read_counts",
    "read_description",
    "read_features",
    "read_kind",
    "read_settings",
    "rows_named",
    "write_features",
]

FORMAT = "pathflip-features"
FORMAT_VERSION = "1.0"


def features_path(out: str | Path, encoder: str, slide_id: str) -> Path:
    """Where the features of a slide live: ``out/features_<encoder>/<slide>.h5`` (TRIDENT's layout)."""
    return Path(out) / f"features_{encoder}" / f"{slide_id}.h5"


def write_features(path: str | Path, features: SlideFeatures, *, settings: Mapping[str, Any] | None = None) -> None:
    """Write one slide's features atomically.

    Args:
        path: the ``.h5`` file; its folder is made.
        features: what to write; valid rows must be finite.
        settings: everything the rows depend on (JSON values); stored, with its hash, so that a later run can
            tell whether the file is still what was asked for.

    Raises:
        FeatureError: lengths disagree, a valid row holds NaN or infinity, or no file can be named after slide or
            encoder.
    """
    path = Path(path)
    _check_arrays(path, features.features, features.coords, features.valid)
    check_name(features.slide_id, "slide_id", path)
    check_name(features.encoder, "encoder", path)
    with atomic_hdf5(path) as file:
        _dataset(file, "features", features.features.astype(np.float32, copy=False))
        _dataset(file, "coords", features.coords.astype(np.int64, copy=False))
        _dataset(file, "valid", features.valid.astype(bool, copy=False))
        file["features"].attrs.update({"name": features.slide_id, "savetodir": str(path.parent)})
        file["features"].attrs["encoder"] = features.encoder
        file["coords"].attrs.update(trident_attributes(features.info, features.spec, path.parent))
        file.attrs.update({**describe(features.info, features.spec), "encoder": features.encoder})
        file.attrs["dim"] = features.features.shape[1]
        if settings is not None:
            file.attrs["settings"] = json.dumps(settings, sort_keys=True)
            file.attrs["settings_hash"] = settings_hash(settings)


def settings_hash(settings: Mapping[str, Any]) -> str:
    """The first 16 hex digits of SHA-256 over the settings as sorted JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _dataset(file: h5py.File, key: str, values: NDArray[Any]) -> None:
    """A dataset with checksums (fletcher32), so that a damaged file is noticed when it is read."""
    chunks = (min(len(values), 1024), *values.shape[1:]) if values.size else None
    file.create_dataset(key, data=values, chunks=chunks, fletcher32=bool(values.size))


def describe(info: SlideInfo, spec: TileSpec) -> dict[str, Any]:
    """Slide and tiles as attributes; plain values and lists, so that JSON can hold them too."""
    return {"format": FORMAT, "format_version": FORMAT_VERSION, **grid_attributes(info, spec)}


def read_features(path: str | Path, *, drop_invalid: bool = False) -> SlideFeatures:
    """Read one slide's features.

    The slide's id is the file's name, as everywhere: renaming a file renames its slide. Where the file itself names
    another slide a warning says so.

    Args:
        path: a file of our own. Those of TRIDENT, CLAM, STAMP, … go through ``pathflip convert`` once: most of
            them do not say how large their tiles are, and a guess would be wrong by a scanner's difference.
        drop_invalid: take rows with NaN or infinity as invalid, with a warning, instead of refusing the file.

    Raises:
        FeatureError: not HDF5, damaged, made elsewhere, a missing or misshapen dataset (named), non-finite
            valid rows (named), or tiles that cannot be true: negative corners, the same tile twice.
    """
    path = Path(path)
    if not exists(path) and not path.exists():
        raise FeatureError(f"{shown(path)}: no such feature file; make it with  pathflip extract")
    with opened(path) as file:
        root = plain_attributes(path, file)
        _refuse_foreign(path, file, root)
        matrix = _array(path, file, "features").astype(np.float32, copy=False)
        coords = _array(path, file, "coords").astype(np.int64, copy=False)
        stored = dataset(path, file, "valid") is not None
        valid = _array(path, file, "valid").astype(bool) if stored else np.ones(len(coords), bool)
        if "dim" in root and int(root["dim"]) != matrix.shape[1]:
            raise FeatureError(f"{path}: attribute 'dim' is {root['dim']}, but 'features' is {matrix.shape}")
    if drop_invalid and len(matrix) == len(valid):
        valid = _finite_rows(path, matrix, valid)
    rows_left_out = (
        f"or leave them out:  pathflip convert {shlex.quote(str(path))} --drop-invalid --to pathflip --out DIR"
    )
    _check_arrays(path, matrix, coords, valid, f"extract it again, {rows_left_out}")
    _check_coords(path, coords)
    info, spec = read_description(path, root)
    info = replace(info, slide_id=_id_by_name(path, info.slide_id))
    if not valid.all():
        matrix = np.where(valid[:, None], matrix, np.float32(0))
    encoder = check_name(str(root["encoder"]), "encoder", path)
    return SlideFeatures(info.slide_id, matrix, coords, valid, info, spec, encoder)


def _id_by_name(path: Path, inside: str) -> str:
    """The slide's id, from the file's name."""
    name = check_name(slide_id(path), "name", path)
    if inside != name and not join_ids([inside], [name]):
        message = (
            f"{path.name}: the file says it is of another slide than its name does; '{name}' is used everywhere. If it "
            "was not renamed on purpose, it may be the wrong file"
        )
        kind = "files that say they are of another slide than their name does"
        warnings.warn(CountedWarning(message, kind), stacklevel=3)
    return name


def _finite_rows(path: Path, matrix: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    bad = valid & ~np.isfinite(matrix).all(axis=1)
    if bad.any():
        warnings.warn(f"{path.name}: {rows_named(np.flatnonzero(bad))} not finite: taken as invalid", stacklevel=3)
    return valid & ~bad


def rows_named(rows: NDArray[np.int64]) -> str:
    """Rows as a person reads them: "2 rows (3, 7)"."""
    listed = ", ".join(str(row) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} ({listed})"


def _check_coords(path: Path, coords: NDArray[np.int64]) -> None:
    """Refuse corners that no slide has, and tiles that stand there twice."""
    if len(coords) == 0:
        return
    if not -_FARTHEST_PX0 < coords.min() <= coords.max() < _FARTHEST_PX0:
        raise FeatureError(f"{path}: 'coords' reaches from {coords.min()} to {coords.max()}; expected level-0 pixels")
    if coords.min() < 0:
        row = int(np.flatnonzero((coords < 0).any(axis=1))[0])
        raise FeatureError(f"{path}: row {row} lies at {coords[row].tolist()}; expected level-0 pixels from (0, 0) on")
    order = np.lexsort((coords[:, 1], coords[:, 0]))
    again = (np.diff(coords[order], axis=0) == 0).all(axis=1)
    if again.any():
        first = coords[order[:-1][again][0]].tolist()
        raise FeatureError(
            f"{path}: {int(again.sum())} of {len(coords)} tiles stand there twice (the first at {first}); expected "
            "every tile once: extract it again"
        )


def _refuse_foreign(path: Path, file: h5py.File, root: Mapping[str, Any]) -> None:
    if str(root.get("format")) != FORMAT:
        raise FeatureError(
            f"{path}: made elsewhere (attribute 'format' is {root.get('format')!r}, expected '{FORMAT}'; it holds "
            f"{sorted(file)}); convert it first:  pathflip convert {path} --to pathflip --out DIR"
        )


def read_settings(path: str | Path) -> dict[str, Any] | None:
    """The settings a feature file was made with; None where it does not say (files made elsewhere)."""
    with opened(path) as file:
        text = plain_attributes(Path(path), file).get("settings")
        settings = None if text is None else json.loads(str(text))
    if not isinstance(settings, dict | None):
        raise FeatureError(f"{path}: attribute 'settings' is no JSON object; extract it again")
    return settings


_SHAPES = {"features": (2, "fiu", "(N, D)"), "coords": (2, "fiu", "(N, 2)"), "valid": (1, "biu", "(N,)")}
"""Dimensions, kinds of numbers, and how a person writes it."""
_FARTHEST_PX0 = 2**40


def read_counts(path: str | Path) -> tuple[int, int]:
    """How many rows a feature file holds, and how many of them are invalid; features are not read.

    Raises:
        FeatureError: not a feature file.
    """
    path = Path(path)
    with opened(path) as file:
        valid = _array(path, file, "valid")
    return len(valid), len(valid) - int(valid.astype(bool).sum())


def _array(path: Path, file: h5py.File, key: str) -> NDArray[Any]:
    item = dataset(path, file, key)
    if item is None:
        raise FeatureError(f"{path}: no dataset '{key}'; got {sorted(file)}, expected 'features' and 'coords'")
    ndim, kinds, shape = _SHAPES[key]
    is_wide = key == "valid" or (item.ndim == 2 and (item.shape[1] == 2 if key == "coords" else item.shape[1] > 0))
    if item.ndim != ndim or not is_wide or item.dtype.kind not in kinds:
        raise FeatureError(f"{path}: dataset '{key}' is {item.dtype} {item.shape}, expected numbers of shape {shape}")
    return read_array(path, file, key)


def _check_arrays(
    path: Path, matrix: NDArray[Any], coords: NDArray[Any], valid: NDArray[Any], remedy: str = "extract it again"
) -> None:
    if not len(matrix) == len(coords) == len(valid):
        raise FeatureError(
            f"{path}: 'features' has {len(matrix)} rows, 'coords' {len(coords)}, 'valid' {len(valid)}; "
            "expected one row a tile in each"
        )
    bad = np.flatnonzero(valid & ~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise FeatureError(
            f"{path}: 'features' holds NaN or infinity in {rows_named(bad)} of {len(matrix)}; "
            f"expected finite values, or these rows marked False in 'valid'; {remedy}"
        )


def read_description(path: Path, root: Mapping[str, Any]) -> tuple[SlideInfo, TileSpec]:
    """Slide and tiles from what :func:`describe` wrote.

    Raises:
        FeatureError: another major version, or an attribute is missing (named).
    """
    version = str(root.get("format_version", ""))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise FeatureError(
            f"{path}: format_version is '{version}', this PathFLIP reads {FORMAT_VERSION.split('.')[0]}.x; "
            "update PathFLIP or extract again"
        )
    if "encoder" not in root:
        raise FeatureError(f"{path}: attribute 'encoder' is missing; extract it again")
    return read_grid_attributes(path, root, "extract it again")


_ALIKE = 0.02
"""Features may be cut at a resolution or stride this fraction away and still count as the same kind."""


@dataclass(frozen=True)
class FeatureKind:
    """What must agree between the slides of one cohort: encoder, width, tile side (pixels at ``mpp``), µm per pixel,
    step between tiles (pixels at ``mpp``; None: unknown, agrees with any).
    """

    encoder: str
    dim: int
    tile_px: int
    mpp: float
    stride_px: int | None = None

    def __str__(self) -> str:
        step = "" if self.stride_px in (None, self.tile_px) else f" every {self.stride_px} px"
        return f"{self.encoder}, {self.dim} wide, {self.tile_px} px{step} at {self.mpp:.4g} mpp"

    @classmethod
    def of(cls, features: SlideFeatures) -> "FeatureKind":
        """What these features are."""
        spec = features.spec
        return cls(features.encoder, features.features.shape[1], spec.tile_px, spec.mpp, spec.stride_px)

    def difference(self, other: "FeatureKind") -> str | None:
        """The first field in which the two differ; None where they agree: resolutions and strides may be 2 % apart."""
        for name in ("encoder", "dim", "tile_px"):
            if getattr(self, name) != getattr(other, name):
                return name
        if abs(self.mpp - other.mpp) > _ALIKE * other.mpp:
            return "mpp"
        if self.stride_px is None or other.stride_px is None:
            return None
        return None if abs(self.stride_px - other.stride_px) <= _ALIKE * other.stride_px else "stride_px"


def read_kind(path: str | Path) -> FeatureKind:
    """The kind of a feature file, from its attributes alone: a cohort of thousands is checked in seconds.

    Raises:
        FeatureError: not a feature file of ours.
    """
    path = Path(path)
    with opened(path) as file:
        root = plain_attributes(path, file)
        _refuse_foreign(path, file, root)
        dim = _read_shape(path, file)[1]
    _, spec = read_description(path, root)
    encoder = check_name(str(root["encoder"]), "encoder", path)
    return FeatureKind(encoder, dim, spec.tile_px, spec.mpp, spec.stride_px)


def _read_shape(path: Path, file: h5py.File) -> tuple[int, int]:
    shape = getattr(dataset(path, file, "features"), "shape", None)
    if shape is None or len(shape) != 2:
        raise FeatureError(f"{path}: 'features' has shape {shape}, expected (N, D); extract it again")
    return int(shape[0]), int(shape[1])


def check_cohort(files: Paths) -> FeatureKind:
    """The one kind all these feature files are of.

    Raises:
        FeatureError: they are of several kinds; the message lists the files of each, fewest first.
    """
    kinds: dict[FeatureKind, list[str]] = {}
    files = as_paths(files, "files")
    for path in files:
        kind = read_kind(path)
        known = next((other for other in kinds if kind.difference(other) is None), kind)
        kinds.setdefault(known, []).append(str(path))
    if not kinds:
        raise FeatureError("a cohort of no feature file; expected at least one")
    if len(kinds) > 1:
        by_size = sorted(kinds.items(), key=lambda item: len(item[1]))
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in by_size)
        raise FeatureError(
            f"{len(files)} feature files of {len(kinds)} kinds ({listed}); expected one encoder, tile size, "
            "stride and resolution in a cohort: leave the odd ones out or extract them again"
        )
    return next(iter(kinds))


def _listed(names: Sequence[str], shown: int = 20) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
