"""LazySlide / wsidata: a SpatialData zarr a slide, ``shapes/tiles`` and ``tables/<encoder>_tiles``.

Read and written with the ``spatialdata`` library itself; images in the store are neither read nor written.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import FeatureError, MissingExtraError, OutputError
from pathflip.geometry import Box, SlideInfo, best_level
from pathflip.interop.own_attribute import OWN, own_attribute, read_own
from pathflip.interop.tiles import ReadOptions, Stated, Tiles, join, settle
from pathflip.io.files import atomic_directory, path_inside
from pathflip.io.slide_id import check_name, slide_id

__all__ = ["read_lazyslide", "write_lazyslide"]

SPECS, PROPERTIES = "tile_spec", "slide_properties"
KEY = "tiles"


def _library() -> Any:
    try:
        import spatialdata
    except ImportError as error:
        raise MissingExtraError("spatialdata", "lazyslide", "reading and writing LazySlide stores") from error
    return spatialdata


def read_lazyslide(path: Path, options: ReadOptions) -> Tiles:
    """Tiles of the store, and their features where a table holds them.

    Raises:
        MissingExtraError: the package ``spatialdata`` is absent.
        FeatureError: not such a store, no tiles, several tables and no ``--encoder`` to choose, rows without a tile.
    """
    library = _library()
    try:
        store = library.read_zarr(path, selection=("shapes", "tables"))
    except Exception as error:  # the store is a tree of files: anything in it may be missing or broken
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FeatureError(f"{path}: not a readable SpatialData store ({reason}); write it again") from error
    key, spec = _tile_spec(path, store)
    shapes = store.shapes[key]
    own, own_encoder = read_own(path, store.attrs.get(OWN))
    info = _slide_info(path, store.attrs.get(PROPERTIES) or {})
    stated = Stated(
        slide_id(path),
        tile_px=int(spec["width"]),
        mpp=spec.get("mpp"),
        stride_px=int(spec["stride_width"]),
        tile_px0=_side0(path, shapes),
        mpp0=info.mpp0 if info else None,
        size0=info.size0 if info else None,
        info=info,
        own=own,
    )
    tiles = settle(path, stated, options, np.asarray(shapes[["x", "y"]]))
    table = _table(path, store, key, options.encoder or own_encoder)
    if table is None:
        return tiles
    name, rows = table
    return join(path, tiles, _in_order(path, rows, shapes), check_name(name, "encoder", path), options)


def _tile_spec(path: Path, store: Any) -> tuple[str, Mapping[str, Any]]:
    specs = store.attrs.get(SPECS) or {}
    known = [key for key in specs if key in store.shapes]
    if len(known) != 1 and KEY not in known:
        raise FeatureError(
            f"{path}: tile sets {sorted(known)} (shapes {sorted(store.shapes)}); expected one, or one named '{KEY}'"
        )
    key = KEY if KEY in known else known[0]
    spec = specs[key]
    missing = {"width", "height", "stride_width", "stride_height"} - set(spec)
    if missing or spec["width"] != spec["height"] or spec["stride_width"] != spec["stride_height"]:
        raise FeatureError(f"{path}: {SPECS}['{key}'] is {dict(spec)}; expected square tiles and a square step")
    return key, spec


def _side0(path: Path, shapes: Any) -> int:
    bounds = np.asarray(shapes.geometry.bounds)
    sides = np.unique(np.rint(bounds[:, 2:] - bounds[:, :2]).astype(int))
    if len(sides) != 1:
        raise FeatureError(f"{path}: tiles with sides {sides[:5].tolist()} px; expected squares of one size")
    return int(sides[0])


def _slide_info(path: Path, properties: Mapping[str, Any]) -> SlideInfo | None:
    """The slide as wsidata describes it: shapes are (height, width)."""
    if not properties.get("shape"):
        return None
    height, width = (int(v) for v in properties["shape"])
    bounds = properties.get("bounds")
    box = Box(*(int(v) for v in bounds)) if bounds else None
    whole_slide = Box(0, 0, width, height)
    return SlideInfo(
        slide_id(path),
        (width, height),
        properties.get("mpp"),
        tuple(float(v) for v in properties.get("level_downsample") or (1.0,)),
        reader="features made elsewhere",
        bounds0=None if box == whole_slide else box,
    )


def _table(path: Path, store: Any, key: str, encoder: str | None) -> tuple[str, Any] | None:
    """The feature table of a tile set, and its encoder."""
    suffix = f"_{key}"
    tables = {name.removesuffix(suffix): name for name in store.tables if name.endswith(suffix)}
    if encoder is not None and encoder in tables:
        return encoder, store.tables[tables[encoder]]
    if not tables and encoder is None:
        return None
    if len(tables) == 1 and encoder is None:
        name = next(iter(tables))
        return name, store.tables[tables[name]]
    raise FeatureError(f"{path}: features of {sorted(tables)}; give --encoder with one of them (got {encoder!r})")


def _in_order(path: Path, table: Any, shapes: Any) -> NDArray[Any]:
    """Rows of the table in the order of the tiles, joined by ``tile_id``."""
    matrix = table.X.toarray() if hasattr(table.X, "toarray") else np.asarray(table.X)
    if "tile_id" not in table.obs or "tile_id" not in shapes:
        return matrix
    wanted, tile_ids = np.asarray(shapes["tile_id"]), np.asarray(table.obs["tile_id"])
    order = np.argsort(tile_ids, kind="stable")
    place = np.minimum(np.searchsorted(tile_ids[order], wanted), len(tile_ids) - 1)
    if len(tile_ids) != len(wanted) or not np.array_equal(tile_ids[order][place], wanted):
        raise FeatureError(
            f"{path}: {len(wanted)} tiles and {len(tile_ids)} feature rows whose tile_id do not match; expected one "
            "row a tile"
        )
    return np.asarray(matrix[order][place])


def write_lazyslide(tiles: Tiles, out: Path) -> list[Path]:
    """``<slide>.zarr``; wsidata opens it beside the slide as its own.

    Raises:
        MissingExtraError: the package ``spatialdata`` is absent.
    """
    library = _library()
    attributes = {
        SPECS: {KEY: _spec_attributes(tiles)},
        PROPERTIES: _properties(tiles.grid.info),
        OWN: own_attribute(tiles.grid, tiles.encoder),
    }
    tables = {} if tiles.features is None else {f"{tiles.encoder}_{KEY}": _feature_table(tiles)}
    store = library.SpatialData(shapes={KEY: _shapes(tiles)}, tables=tables, attrs=attributes)
    target = path_inside(out, f"{tiles.slide_id}.zarr")
    if target.exists() and not is_ours(target):
        raise OutputError(
            f"{target}: is there already, and not written by pathflip convert; it is not replaced: choose another --out"
        )
    with atomic_directory(target) as temporary:
        store.write(temporary / "store")  # the library writes to a path that does not exist yet
        for child in list((temporary / "store").iterdir()):
            child.rename(temporary / child.name)
        (temporary / "store").rmdir()
    return [target]


def is_ours(store: Path) -> bool:
    """Whether a zarr store bears our own attribute, so that an earlier conversion may be replaced."""
    for name in ("zarr.json", ".zattrs"):
        try:
            root = json.loads((store / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        attributes = root.get("attributes", root) if isinstance(root, dict) else {}
        if isinstance(attributes, dict) and OWN in json.dumps(attributes)[: 1 << 20]:
            return True
    return False


def _shapes(tiles: Tiles) -> Any:
    import geopandas
    import shapely
    from spatialdata.models import ShapesModel

    x, y, side = tiles.grid.coords[:, 0], tiles.grid.coords[:, 1], tiles.grid.tile_px0
    columns = {"tile_id": np.arange(len(x)), "x": x, "y": y, "tissue_id": np.zeros(len(x), np.int64)}
    return ShapesModel.parse(geopandas.GeoDataFrame(columns, geometry=shapely.box(x, y, x + side, y + side)))


def _feature_table(tiles: Tiles) -> Any:
    import anndata
    import pandas
    from spatialdata.models import TableModel

    number = np.arange(len(tiles.grid))
    observed = pandas.DataFrame(
        {"tile_id": number, "library_id": pandas.Categorical([KEY] * len(number))}, index=number.astype(str)
    )
    table = anndata.AnnData(X=tiles.features, obs=observed)
    return TableModel.parse(table, region=KEY, region_key="library_id", instance_key="tile_id")


def _spec_attributes(tiles: Tiles) -> dict[str, Any]:
    """wsidata's TileSpec. It truncates ``width × base_downsample`` to whole pixels, hence the millionth."""
    grid, spec = tiles.grid, tiles.grid.spec
    level = best_level(grid.info.downsamples, spec.downsample(grid.info))
    base = (grid.tile_px0 + 1e-6) / spec.tile_px
    return {
        "height": spec.tile_px,
        "width": spec.tile_px,
        "stride_height": spec.stride_px,
        "stride_width": spec.stride_px,
        "mpp": spec.mpp,
        "ops_level": level,
        "ops_downsample": base / grid.info.downsamples[level],
        "base_level": 0,
        "base_downsample": base,
        "tissue_name": None,
    }


def _properties(info: SlideInfo) -> dict[str, Any]:
    """wsidata's SlideProperties; shapes are (height, width)."""
    bounds = info.bounds0 or Box(0, 0, *info.size0)
    return {
        "shape": [info.size0[1], info.size0[0]],
        "n_level": len(info.downsamples),
        "level_shape": [[height, width] for width, height in info.levels],
        "level_downsample": list(info.downsamples),
        "mpp": info.mpp0,
        "magnification": None,
        "bounds": [bounds.x, bounds.y, bounds.width, bounds.height],
        "scene": 0,
        "n_scenes": 1,
        "scene_names": ["Image 0"],
        "raw": None,
    }
