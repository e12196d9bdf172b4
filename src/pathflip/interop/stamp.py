"""STAMP: ``<extractor>/<slide>.h5`` with ``feats`` in half precision and ``coords`` in microns."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import FeatureError
from pathflip.interop.own_attribute import OWN, own_attribute, read_own
from pathflip.interop.tile_steps import SAME_STEP, smallest_step
from pathflip.interop.tiles import ReadOptions, Stated, Tiles, encoder_of, join, numeric, settle, unbatched
from pathflip.io.files import atomic_hdf5, path_inside
from pathflip.io.hdf5 import File, whole
from pathflip.io.slide_id import slide_id

__all__ = ["is_stamp", "read_stamp", "write_stamp"]

LAYOUT_VERSION = "2.1.0"
"""The release that introduced ``tile_size_um``; STAMP refuses files of a release newer than itself."""
_ATTRIBUTES = frozenset(("stamp_version", "extractor", "unit", "tile_size", "tile_size_um", "feat_type"))
"""What tells a file of STAMP from another with the same two datasets."""
_HISTORIC_UM, _HISTORIC_PX = 256.0, 224
"""Files of STAMP 1 count in pixels of 256/224 µm and carry no unit."""


def is_stamp(attributes: Iterable[str], coords: NDArray[Any]) -> bool:
    """Whether a file with ``feats`` and ``coords`` is STAMP's: by its attributes; of STAMP 1, by its steps of 224."""
    coords = unbatched(coords)
    step = smallest_step(coords) if coords.ndim == 2 and coords.shape[1] == 2 and coords.dtype.kind in "fiu" else None
    return not _ATTRIBUTES.isdisjoint(attributes) or (step is not None and round(step) == _HISTORIC_PX)


def read_stamp(file: File, options: ReadOptions) -> Tiles:
    """Microns become level-0 pixels by the slide's own resolution, so that must be known."""
    root = file.attributes[""]
    if str(root.get("feat_type", "tile")) != "tile":
        raise FeatureError(f"{file.path}: feat_type is '{root['feat_type']}', expected 'tile' (one row a tile)")
    own, own_encoder = read_own(file.path, root.get(OWN))
    tile_um, tile_px, microns = _tile_size(file)
    name = slide_id(file.path)
    stated = Stated(name, tile_px=tile_px, mpp=tile_um / tile_px if tile_px else None, own=own)
    if own is None and tile_px is None and options.tile_px:
        stated = Stated(name, mpp=tile_um / options.tile_px)
    coords_um = numeric(file.path, "coords", file.array("coords"), 2) * microns
    tiles = settle(file.path, stated, options, coords_um, "um")
    if own is None:
        note = _check_step(file.path, smallest_step(coords_um), tile_um, tiles.grid.info.require_mpp())
        tiles = Tiles(tiles.grid, warnings=tiles.warnings + note)
    by_folder = None if options.encoder else file.path.parent.name  # a folder may be called anything
    encoder = encoder_of(file.path, options, str(root.get("extractor", "")) or by_folder, own_encoder)
    return join(file.path, tiles, numeric(file.path, "features", file.array("features")), encoder, options)


def _check_step(path: Path, step: float | None, tile_um: float, mpp0: float) -> tuple[str, ...]:
    """What to tell of tiles that do not stand side by side, as STAMP cuts them.

    Raises:
        FeatureError: the step is the tile's side in pixels of the slide: the coordinates are no microns.
    """
    if step is not None and abs(mpp0 - 1) > SAME_STEP and abs(step * mpp0 / tile_um - 1) < SAME_STEP:
        raise FeatureError(
            f"{path}: says its coordinates are microns, but its tiles of {tile_um:g} µm stand {step:g} apart, which is "
            f"{tile_um:g} µm in pixels of {mpp0:g} µm: they are pixels; extract it again"
        )
    if step is None or step >= (1 - SAME_STEP) * tile_um:
        return ()
    return (
        f"its tiles are {tile_um:g} µm wide but stand {step:g} µm apart: they overlap, which STAMP's do not, or one of "
        "the two numbers is wrong: look at them (--to qupath) before you use them",
    )


def _tile_size(file: File) -> tuple[float, int | None, float]:
    """Side of a tile in microns and in encoded pixels, and microns per coordinate unit."""
    root = file.attributes[""]
    tile_px = whole(root.get("tile_size_px"))
    unit = str(root.get("unit", "um" if "tile_size_um" in root else ""))
    if unit == "um" and ("tile_size_um" in root or "tile_size" in root):
        return float(root.get("tile_size_um", root.get("tile_size"))), tile_px, 1.0
    step = smallest_step(numeric(file.path, "coords", file.array("coords"), 2))
    stated = root.get("tile_size", _HISTORIC_PX if step is None else step)
    if unit == "" and round(float(stated)) == _HISTORIC_PX:
        return _HISTORIC_UM, _HISTORIC_PX, _HISTORIC_UM / _HISTORIC_PX
    apart = "" if step is None else f", {step:g} apart,"
    raise FeatureError(
        f"{file.path}: coordinates{apart} are in unit '{unit or 'unknown'}' with attributes {sorted(root)}; expected "
        "microns ('unit' um and 'tile_size_um'), or the steps of 224 of STAMP 1"
    )


def write_stamp(tiles: Tiles, out: Path) -> list[Path]:
    """One file; features lose everything beyond half precision.

    Raises:
        FeatureError: only coordinates, or a feature too large for half precision.
    """
    features, encoder = tiles.with_features("STAMP")
    grid, largest = tiles.grid, float(np.finfo(np.float16).max)
    if np.abs(features).max() > largest:
        raise FeatureError(
            f"slide '{tiles.slide_id}': features reach {np.abs(features).max():g}, STAMP's half precision ends at "
            f"{largest:g}; expected features within it"
        )
    target = path_inside(out, encoder, f"{tiles.slide_id}.h5")
    with atomic_hdf5(target) as file:
        file["coords"] = (grid.coords * grid.info.require_mpp()).astype(np.float32)
        file["feats"] = features.astype(np.float16)
        file.attrs.update({"stamp_version": LAYOUT_VERSION, "extractor": encoder, "unit": "um", "feat_type": "tile"})
        file.attrs.update({"tile_size_um": grid.spec.tile_um, "tile_size_px": grid.spec.tile_px, "code_hash": OWN})
        file.attrs[OWN] = own_attribute(grid, encoder)
    return [target]
