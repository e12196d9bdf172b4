"""CLAM: ``patches/<slide>.h5``, ``h5_files/<slide>.h5`` and ``pt_files/<slide>.pt``.

Feature files say nothing but numbers: encoder, tile side and resolution come from the caller, level-0 side from
the coordinates file beside them, from the slide, or, said aloud, from the step of the coordinates.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import FeatureError
from pathflip.interop.own_attribute import OWN, own_attribute, read_own
from pathflip.interop.tiles import ReadOptions, Stated, Tiles, encoder_of, join, numeric, settle, unbatched
from pathflip.io.files import atomic_hdf5, atomic_path, path_inside
from pathflip.io.hdf5 import File, read_file, whole
from pathflip.io.slide_id import slide_id

COORDS = {"coords": "coords"}
"""What is read of a coordinates file."""
__all__ = ["COORDS", "coords_beside", "read_clam", "read_clam_coords", "read_clam_pt", "write_clam"]


def read_clam(file: File, options: ReadOptions) -> Tiles:
    """``h5_files``: features and coordinates without attributes."""
    own, encoder = read_own(file.path, file.attributes[""].get(OWN))
    patches = None if own else _patches_of(file.path, options)
    stated = Stated(slide_id(file.path), own=own, step_tells_side=True, tile_px0=_side0(patches) if patches else None)
    tiles = settle(file.path, stated, options, file.array("coords"))
    features = numeric(file.path, "features", file.array("features"))
    encoder_in_file = str(file.attributes.get("features", {}).get("encoder", "None"))
    return join(file.path, tiles, features, encoder_of(file.path, options, encoder, encoder_in_file), options)


def read_clam_coords(file: File, options: ReadOptions) -> Tiles:
    """``patches``: where the tiles are, and how large at level 0."""
    own, _ = read_own(file.path, file.attributes[""].get(OWN))
    stated = Stated(slide_id(file.path), own=own, tile_px0=_side0(file.attributes["coords"]))
    return settle(file.path, stated, options, file.array("coords"))


def read_clam_pt(path: Path, options: ReadOptions) -> Tiles:
    """``pt_files``: a bare tensor; coordinates from ``h5_files`` or ``patches`` beside it, or ``--coords``."""
    features = _load_tensor(path)
    coords_file = read_file(coords_beside(path, options), COORDS)
    own, encoder = read_own(path, coords_file.attributes[""].get(OWN))
    on_coords = coords_file.attributes.get("coords", {})
    if own is None and "patch_level" not in on_coords:
        on_coords = _patches_of(coords_file.path, options) or {}
    stated = Stated(slide_id(path), own=own, tile_px0=_side0(on_coords) if on_coords else None, step_tells_side=True)
    tiles = settle(coords_file.path, stated, options, coords_file.array("coords"))
    return join(path, tiles, numeric(path, "tensor", features), encoder_of(path, options, encoder), options)


def coords_beside(path: Path, options: ReadOptions) -> Path:
    """The coordinates file of features that have none of their own.

    Raises:
        FeatureError: there is none; the places looked in are named.
    """
    folders = [options.coords] if options.coords else [path.parent.parent / "h5_files", path.parent.parent / "patches"]
    names = (f"{path.stem}.h5", f"{path.stem}_patches.h5")
    places = [folder / name for folder in folders for name in names]
    for place in places:
        if place.is_file():
            return place
    raise FeatureError(
        f"{path}: features without coordinates, and none in {', '.join(str(f) for f in folders)}; expected "
        f"{names[0]} there; give --coords DIR"
    )


def _patches_of(path: Path, options: ReadOptions) -> Mapping[str, Any] | None:
    """Attributes of the CLAM coordinates file of this slide, where it is at hand."""
    for folder in (options.coords, path.parent.parent / "patches"):
        place = folder / f"{path.stem}.h5" if folder else None
        if place is not None and place.is_file():
            on_coords = read_file(place, COORDS).attributes.get("coords", {})
            if "patch_level" in on_coords:
                return on_coords
    return None


def _side0(on_coords: Mapping[str, Any]) -> int | None:
    """Side of a tile at level 0: ``patch_size`` counts pixels of ``patch_level``, ``downsample`` wide each."""
    size, extra = whole(on_coords.get("patch_size")), whole(on_coords.get("custom_downsample")) or 1
    if size is None or "downsample" not in on_coords:
        return None
    return round(size * extra * float(np.asarray(on_coords["downsample"], np.float64).reshape(-1)[0]))


def _load_tensor(path: Path) -> NDArray[Any]:
    """A bare tensor; a file that holds any other object is refused before anything in it runs."""
    import torch

    if not path.is_file():
        raise FeatureError(f"{path}: no such file, or no regular one")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FeatureError(
            f"{path}: holds pickled objects, which could run code when read; refused; expected a bare tensor (N, D)"
        ) from error
    except Exception as error:  # torch raises many kinds on damage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FeatureError(f"{path}: not a readable .pt file ({reason}); copy it again") from error
    if not isinstance(loaded, torch.Tensor):
        what = f"a {type(loaded).__name__}" + (
            f" of {sorted(map(str, loaded))[:5]}" if isinstance(loaded, dict) else ""
        )
        raise FeatureError(f"{path}: holds {what}, expected a bare tensor (N, D)")
    if loaded.is_meta:
        raise FeatureError(f"{path}: holds a tensor without its numbers (device 'meta'); save it again")
    if loaded.is_sparse or loaded.is_quantized or loaded.layout != torch.strided:
        raise FeatureError(f"{path}: holds a sparse or quantised tensor, expected a plain one (N, D)")
    loaded = loaded.detach()
    return unbatched(np.asarray(loaded.float() if loaded.is_floating_point() else loaded))


def write_clam(tiles: Tiles, out: Path) -> list[Path]:
    """``patches/`` (exact at level 0, whatever the resolution), and with features ``h5_files/`` and ``pt_files/``."""
    name = f"{tiles.slide_id}.h5"
    written = [_write_patches(tiles, path_inside(out, "patches", name))]
    if tiles.features is None:
        return written
    import torch

    target = path_inside(out, "h5_files", name)
    with atomic_hdf5(target) as file:
        file.create_dataset("features", data=tiles.features, maxshape=(None, tiles.features.shape[1]), chunks=True)
        file.create_dataset("coords", data=tiles.grid.coords.astype(np.int32), maxshape=(None, 2), chunks=True)
        file.attrs[OWN] = own_attribute(tiles.grid, tiles.encoder)
    tensor = path_inside(out, "pt_files", f"{tiles.slide_id}.pt")
    with atomic_path(tensor) as temporary:
        torch.save(torch.from_numpy(np.array(tiles.features)), temporary)
    return [*written, target, tensor]


def _write_patches(tiles: Tiles, target: Path) -> Path:
    grid = tiles.grid
    attributes = {
        "patch_size": grid.tile_px0,
        "patch_level": 0,
        "downsample": (1.0, 1.0),
        "downsampled_level_dim": grid.info.size0,
        "level_dim": grid.info.size0,
        "name": tiles.slide_id,
        "save_path": str(target.parent),
    }
    with atomic_hdf5(target) as file:
        file.create_dataset("coords", data=grid.coords, maxshape=(None, 2), chunks=True)
        file["coords"].attrs.update(attributes)
        file.attrs[OWN] = own_attribute(grid, tiles.encoder)
    return target
