"""TRIDENT: coordinates ``patches/<slide>_patches.h5`` and features ``features_<encoder>/<slide>.h5``.

TRIDENT cuts by magnification, which it buckets from the slide's mpp: two slides of "20x" tiles can differ by
10 % and more in microns. ``patch_size_level0`` is what was cut, so that decides; magnifications are labels.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pathflip.interop.own_attribute import OWN, own_attribute, read_own
from pathflip.interop.tiles import ReadOptions, Stated, Tiles, encoder_of, join, numeric, settle
from pathflip.io.files import atomic_hdf5, path_inside
from pathflip.io.grid_attributes import magnification, trident_attributes
from pathflip.io.hdf5 import File, whole
from pathflip.io.slide_id import slide_id

__all__ = ["read_trident", "slide_name", "write_trident"]

COORDS_SUFFIX = "_patches"


def slide_name(path: Path) -> str:
    """The slide a TRIDENT file is of."""
    return slide_id(path).removesuffix(COORDS_SUFFIX)


def read_trident(file: File, options: ReadOptions) -> Tiles:
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
    tiles = settle(file.path, stated, options, file.array("coords"))
    note = _bucket_note(on_coords, tiles)
    tiles = Tiles(tiles.grid, warnings=tiles.warnings + note)
    if "features" not in file.arrays:
        return tiles
    encoder_in_file = str(file.attributes.get("features", {}).get("encoder", "None"))
    folder = file.path.parent.name
    by_folder = folder.removeprefix("features_") if folder.startswith("features_") else None
    encoder = encoder_of(
        file.path, options, own_encoder, encoder_in_file, by_folder if encoder_in_file == "None" else None
    )
    if by_folder not in (None, encoder):
        line = f"the file says its encoder is '{encoder}', its folder '{folder}'; the file's is used"
        tiles = Tiles(tiles.grid, warnings=(*tiles.warnings, line))
    return join(file.path, tiles, numeric(file.path, "features", file.arrays["features"]), encoder, options)


def _bucket_note(on_coords: Any, tiles: Tiles) -> tuple[str, ...]:
    """A warning where the settled resolution does not fall in the bucket the file was cut in."""
    stated, mpp0 = whole(on_coords.get("level0_magnification")), tiles.grid.info.require_mpp()
    if stated is None or stated == magnification(mpp0):
        return ()
    return (
        f"the file says the slide is {stated}x, but at {mpp0:.4g} mpp it would be {magnification(mpp0)}x: "
        "check --mpp, --slide-mpp or the slide",
    )


def write_trident(tiles: Tiles, out: Path) -> list[Path]:
    """``<mag>x_<px>px_<overlap>px_overlap/patches/`` and, with features, ``…/features_<encoder>/``."""
    spec = tiles.grid.spec
    job = f"{magnification(spec.mpp)}x_{spec.tile_px}px_{spec.tile_px - spec.stride_px}px_overlap"
    coords = path_inside(out, job, "patches", f"{tiles.slide_id}{COORDS_SUFFIX}.h5")
    written = [_write(tiles, coords, with_features=False)]
    if tiles.features is not None:
        target = path_inside(out, job, f"features_{tiles.encoder}", f"{tiles.slide_id}.h5")
        written.append(_write(tiles, target, with_features=True))
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
