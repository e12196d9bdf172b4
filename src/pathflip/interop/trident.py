"""TRIDENT: coordinates ``patches/<slide>_patches.h5`` and features ``features_<encoder>/<slide>.h5``.

TRIDENT cuts by magnification, which it buckets from the slide's mpp: two slides of "20x" tiles can differ by
10 % and more in microns. ``patch_size_level0`` is what was cut, so that decides; magnifications are labels.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pathflip.errors import FeatureError
from pathflip.features.store import trident_attributes
from pathflip.interop.hdf5 import OWN, File, own_attribute, read_own, whole
from pathflip.interop.tiles import Asked, Stated, Tiles, join, numeric, settle
from pathflip.io.files import atomic_hdf5
from pathflip.slide.tiling import magnification

__all__ = ["read_trident", "slide_name", "write_trident"]

COORDS_SUFFIX = "_patches"


def slide_name(path: Path) -> str:
    """The slide a TRIDENT file is of."""
    return path.stem.removesuffix(COORDS_SUFFIX)


def read_trident(file: File, asked: Asked) -> Tiles:
    """A features file, or a coordinates file (then without features)."""
    on_coords = file.attributes.get("coords", {})
    own, own_encoder = read_own(file.path, file.attributes[""].get(OWN))
    tile_px, overlap = whole(on_coords.get("patch_size")), whole(on_coords.get("overlap")) or 0
    width, height = whole(on_coords.get("level0_width")), whole(on_coords.get("level0_height"))
    stated = Stated(
        slide_name(file.path),
        tile_px=tile_px,
        stride_px=None if tile_px is None else tile_px - overlap,
        tile_px0=whole(on_coords.get("patch_size_level0")),
        size0=(width, height) if width and height else None,
        own=own,
    )
    tiles = settle(file.path, stated, asked, file.array("coords"))
    note = _bucket_note(on_coords, tiles)
    tiles = Tiles(tiles.grid, warnings=tiles.warnings + note)
    if "features" not in file.arrays:
        return tiles
    encoder = asked.encoder or own_encoder or _encoder(file)
    return join(file.path, tiles, numeric(file.path, "features", file.arrays["features"]), encoder)


def _bucket_note(on_coords: Any, tiles: Tiles) -> tuple[str, ...]:
    """A warning where the settled resolution does not fall in the bucket the file was cut in."""
    stated, mpp0 = whole(on_coords.get("level0_magnification")), tiles.grid.info.require_mpp()
    if stated is None or stated == magnification(mpp0):
        return ()
    return (
        f"the file says the slide is {stated}x, but at {mpp0:.4g} mpp it would be {magnification(mpp0)}x: "
        "check --mpp, --slide-mpp or the slide",
    )


def _encoder(file: File) -> str:
    on_features = file.attributes.get("features", {})
    if str(on_features.get("encoder", "None")) != "None":
        return str(on_features["encoder"])
    folder = file.path.parent.name
    if folder.startswith("features_"):
        return folder.removeprefix("features_")
    raise FeatureError(f"{file.path}: neither the file nor its folder says which encoder made it; give --encoder NAME")


def write_trident(tiles: Tiles, out: Path) -> list[Path]:
    """``<mag>x_<px>px_<overlap>px_overlap/patches/`` and, with features, ``…/features_<encoder>/``."""
    spec = tiles.grid.spec
    job = out / f"{magnification(spec.mpp)}x_{spec.tile_px}px_{spec.tile_px - spec.stride_px}px_overlap"
    written = [_write(tiles, job / "patches" / f"{tiles.slide_id}{COORDS_SUFFIX}.h5", with_features=False)]
    if tiles.features is not None:
        folder = job / f"features_{tiles.encoder}"
        written.append(_write(tiles, folder / f"{tiles.slide_id}.h5", with_features=True))
    return written


def _write(tiles: Tiles, target: Path, *, with_features: bool) -> Path:
    grid, folder = tiles.grid, target.parent if with_features else target.parent.parent
    with atomic_hdf5(target) as file:
        file.create_dataset("coords", data=grid.coords.astype(np.int64), maxshape=(None, 2), chunks=True)
        file["coords"].attrs.update(trident_attributes(grid.info, grid.spec, folder))
        if with_features:
            features, encoder = tiles.with_features("a TRIDENT features file")
            file.create_dataset("features", data=features, maxshape=(None, features.shape[1]), chunks=True)
            file["features"].attrs.update({"name": tiles.slide_id, "savetodir": str(folder), "encoder": encoder})
        file.attrs[OWN] = own_attribute(grid, tiles.encoder)
    return target
