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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pathflip import __version__
from pathflip.errors import FeatureError
from pathflip.files import atomic_path
from pathflip.geometry import Box, SlideInfo, TileSpec
from pathflip.slide.tiling import magnification
from pathflip.types import SlideFeatures

__all__ = ["FORMAT", "FORMAT_VERSION", "features_path", "read_features", "read_settings", "write_features"]

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
        FeatureError: lengths disagree, or a valid row holds NaN or infinity.
    """
    path = Path(path)
    _check_arrays(path, features.features, features.coords, features.valid)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        _dataset(file, "features", features.features.astype(np.float32, copy=False))
        _dataset(file, "coords", features.coords.astype(np.int64, copy=False))
        _dataset(file, "valid", features.valid.astype(bool, copy=False))
        file["features"].attrs.update({"name": features.slide_id, "savetodir": str(path.parent)})
        file["features"].attrs["encoder"] = features.encoder
        file["coords"].attrs.update(_trident_coords_attributes(features, path))
        file.attrs.update(_attributes(features))
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


def _attributes(features: SlideFeatures) -> dict[str, Any]:
    info, spec = features.info, features.spec
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "pathflip_version": __version__,
        "slide_id": features.slide_id,
        "encoder": features.encoder,
        "dim": features.features.shape[1],
        "tile_px": spec.tile_px,
        "mpp": spec.mpp,
        "stride_px": spec.stride_px,
        "min_tissue": spec.min_tissue,
        "mpp0": info.require_mpp(),
        "size0": np.array(info.size0, np.int64),
        "downsamples": np.array(info.downsamples, np.float64),
        "vendor": info.vendor,
        "reader": info.reader,
    }
    if (bounds := info.bounds0) is not None:
        attributes["bounds0"] = np.array([bounds.x, bounds.y, bounds.width, bounds.height], np.int64)
    return attributes


def _trident_coords_attributes(features: SlideFeatures, path: Path) -> dict[str, Any]:
    """What TRIDENT writes on ``coords``. Magnifications are its buckets of mpp; nothing here reads them."""
    info, spec = features.info, features.spec
    return {
        "patch_size": spec.tile_px,
        "patch_size_level0": spec.tile_px0(info),
        "level0_magnification": magnification(info.require_mpp()),
        "target_magnification": magnification(spec.mpp),
        "overlap": spec.tile_px - spec.stride_px,
        "name": features.slide_id,
        "savetodir": str(path.parent),
        "level0_width": info.size0[0],
        "level0_height": info.size0[1],
    }


def read_features(
    path: str | Path,
    *,
    mpp: float | None = None,
    tile_px: int | None = None,
    slide_mpp: float | None = None,
    encoder: str | None = None,
) -> SlideFeatures:
    """Read one slide's features.

    Our own files describe themselves. A plain TRIDENT file says neither the resolution of its tiles nor the
    slide's: give ``mpp`` (of the tiles); its ``patch_size`` and ``patch_size_level0`` give the rest. A file
    without those attributes also needs ``tile_px`` and ``slide_mpp``.

    Args:
        path: an ``.h5`` file with ``features`` (N, D) and ``coords`` (N, 2).
        mpp: microns per pixel the tiles were encoded at, where the file does not say.
        tile_px: side of a tile at that resolution, pixels, where the file does not say.
        slide_mpp: microns per level-0 pixel, where the file does not say.
        encoder: name of the encoder, where neither the file nor its folder (``features_<encoder>``) says.

    Raises:
        FeatureError: not HDF5, damaged, a missing or misshapen dataset (named), non-finite valid rows (named),
            or a resolution nobody told us.
    """
    path = Path(path)
    if not path.is_file():
        raise FeatureError(f"{path}: no such feature file; make it with  pathflip extract")
    try:
        with h5py.File(path, "r") as file:
            arrays = {key: _read_array(path, file, key) for key in ("features", "coords")}
            valid = np.asarray(file["valid"][...], bool) if "valid" in file else np.ones(len(arrays["coords"]), bool)
            root = dict(file.attrs)
            on_coords, on_features = dict(file["coords"].attrs), dict(file["features"].attrs)
    except OSError as error:  # h5py reports truncation, foreign files and failed checksums this way
        raise FeatureError(f"{path}: not a readable HDF5 feature file ({error}); extract it again") from error
    matrix = arrays["features"].astype(np.float32, copy=False)
    coords = arrays["coords"].astype(np.int64, copy=False)
    _check_arrays(path, matrix, coords, valid)
    if root.get("format") == FORMAT:
        info, spec, name, slide_id = _describe_ours(path, root)
        if "dim" in root and int(root["dim"]) != matrix.shape[1]:
            raise FeatureError(f"{path}: attribute 'dim' is {root['dim']}, but 'features' is {matrix.shape}")
    else:
        info, spec = _describe_foreign(path, coords, on_coords, mpp=mpp, tile_px=tile_px, slide_mpp=slide_mpp)
        name, slide_id = encoder or _foreign_encoder(path, on_features), path.stem
    if not valid.all():
        matrix = np.where(valid[:, None], matrix, np.float32(0))
    return SlideFeatures(slide_id, matrix, coords, valid, info, spec, name)


def read_settings(path: str | Path) -> dict[str, Any] | None:
    """The settings a feature file was made with; None where it does not say (files made elsewhere)."""
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("settings")
    except OSError as error:
        raise FeatureError(f"{path}: not a readable HDF5 feature file ({error}); extract it again") from error
    return None if text is None else json.loads(str(text))


def _read_array(path: Path, file: h5py.File, key: str) -> NDArray[Any]:
    if key not in file or not isinstance(file[key], h5py.Dataset):
        raise FeatureError(f"{path}: no dataset '{key}'; got {sorted(file)}, expected 'features' and 'coords'")
    dataset = file[key]
    width = "D" if key == "features" else "2"
    if dataset.ndim != 2 or (key == "coords" and dataset.shape[1] != 2) or dataset.dtype.kind not in "fiu":
        raise FeatureError(
            f"{path}: dataset '{key}' is {dataset.dtype} {dataset.shape}, expected numbers of shape (N, {width})"
        )
    return np.asarray(dataset[...])


def _check_arrays(path: Path, matrix: NDArray[Any], coords: NDArray[Any], valid: NDArray[Any]) -> None:
    if not len(matrix) == len(coords) == len(valid):
        raise FeatureError(
            f"{path}: 'features' has {len(matrix)} rows, 'coords' {len(coords)}, 'valid' {len(valid)}; "
            "expected one row a tile in each"
        )
    bad = np.flatnonzero(valid & ~np.isfinite(matrix).all(axis=1))
    if len(bad):
        shown = ", ".join(str(row) for row in bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise FeatureError(
            f"{path}: 'features' holds NaN or infinity in {len(bad)} of {len(matrix)} rows ({shown}); "
            "expected finite values, or these rows marked False in 'valid'; extract it again"
        )


def _describe_ours(path: Path, root: Mapping[str, Any]) -> tuple[SlideInfo, TileSpec, str, str]:
    version = str(root.get("format_version", ""))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise FeatureError(
            f"{path}: format_version is '{version}', this PathFLIP reads {FORMAT_VERSION.split('.')[0]}.x; "
            "update PathFLIP or extract again"
        )
    try:
        bounds = Box(*(int(v) for v in root["bounds0"])) if "bounds0" in root else None
        info = SlideInfo(
            slide_id=str(root["slide_id"]),
            size0=(int(root["size0"][0]), int(root["size0"][1])),
            mpp0=float(root["mpp0"]),
            downsamples=tuple(float(v) for v in root["downsamples"]),
            vendor=str(root["vendor"]),
            reader=str(root["reader"]),
            bounds0=bounds,
        )
        spec = TileSpec(int(root["tile_px"]), float(root["mpp"]), int(root["stride_px"]), float(root["min_tissue"]))
        return info, spec, str(root["encoder"]), str(root["slide_id"])
    except KeyError as error:
        raise FeatureError(f"{path}: attribute {error} is missing; extract it again") from error


def _describe_foreign(
    path: Path,
    coords: NDArray[np.int64],
    attributes: Mapping[str, Any],
    *,
    mpp: float | None,
    tile_px: int | None,
    slide_mpp: float | None,
) -> tuple[SlideInfo, TileSpec]:
    """Geometry of a file made elsewhere, from TRIDENT's attributes on ``coords`` and what the caller knows."""
    tile_px = tile_px or _int_or_none(attributes.get("patch_size"))
    tile_px0 = _int_or_none(attributes.get("patch_size_level0"))
    missing = [flag for flag, value in (("--mpp", mpp), ("--tile-px", tile_px)) if value is None]
    if slide_mpp is None and tile_px0 is None:
        missing.append("--slide-mpp")
    if missing or mpp is None or tile_px is None:
        raise FeatureError(
            f"{path}: made elsewhere and does not say how large its tiles are; give {', '.join(missing)} "
            "(microns per pixel and side of the encoded tiles)"
        )
    mpp0 = slide_mpp if slide_mpp is not None else mpp * tile_px / float(tile_px0 or 1)
    overlap = _int_or_none(attributes.get("overlap")) or 0
    side0 = tile_px0 or round(tile_px * mpp / mpp0)
    reach = coords.max(axis=0) + side0 if len(coords) else np.array([side0, side0])
    width = _int_or_none(attributes.get("level0_width")) or int(reach[0])
    height = _int_or_none(attributes.get("level0_height")) or int(reach[1])
    info = SlideInfo(path.stem, (width, height), mpp0, vendor="unknown", reader="features made elsewhere")
    return info, TileSpec(tile_px, mpp, tile_px - overlap, 0.0)


def _int_or_none(value: Any) -> int | None:
    """An attribute as a whole number; TRIDENT writes unknown ones as the string 'None'."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _foreign_encoder(path: Path, attributes: Mapping[str, Any]) -> str:
    if "encoder" in attributes:
        return str(attributes["encoder"])
    folder = path.parent.name
    if folder.startswith("features_"):
        return folder.removeprefix("features_")
    raise FeatureError(f"{path}: does not say which encoder made it, nor does its folder; give --encoder NAME")
