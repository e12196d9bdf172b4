"""SlideChat: one CSV a slide, a header, the first 512 columns a CONCH feature. Further columns are not looked at
by SlideChat; ours hold the coordinates.
"""

import csv
from pathlib import Path

import numpy as np

from pathflip.errors import FeatureError
from pathflip.interop.clam import COORDS, coords_beside
from pathflip.interop.tiles import ReadOptions, Stated, Tiles, join, settle
from pathflip.io.files import atomic_path, path_inside
from pathflip.io.hdf5 import read_file
from pathflip.io.slide_id import slide_id

__all__ = ["DIM", "read_slidechat", "write_slidechat"]

DIM = 512
ENCODER = "conch_v1"
PLACE = ("x", "y", "tile_px0")
"""Our columns after the feature: level-0 pixels."""


def read_slidechat(path: Path, options: ReadOptions) -> Tiles:
    """Features of the first 512 columns; coordinates from columns ``x`` and ``y``, else from ``--coords``.

    Raises:
        FeatureError: no header, fewer than 512 columns, a cell that is no number (its line is named), no coordinates.
    """
    columns = _header(path)
    places = [columns.index(name) for name in PLACE if name in columns[DIM:]]
    try:
        table = np.loadtxt(
            path, delimiter=",", skiprows=1, usecols=[*range(DIM), *places], ndmin=2, encoding="utf-8-sig"
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise FeatureError(f"{path}: not a table of numbers ({error}); expected {DIM} feature columns") from error
    if len(table) == 0:
        raise FeatureError(f"{path}: a header and no row; nothing to convert")
    features, extra = table[:, :DIM].astype(np.float32), table[:, DIM:]
    if len(places) >= 2:
        side0 = round(float(extra[0, 2])) if len(places) == 3 else None
        coords, source = extra[:, :2], path
    else:
        source, side0 = coords_beside(path, options), None
        coords = read_file(source, COORDS).array("coords")
    stated = Stated(slide_id(path), tile_px0=side0, step_tells_side=True)
    return join(path, settle(source, stated, options, coords), features, options.encoder or ENCODER, options)


def _header(path: Path) -> list[str]:
    if not path.is_file():
        raise FeatureError(f"{path}: no such file")
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            columns = [name.strip().lower() for name in next(csv.reader(handle), [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FeatureError(f"{path}: not a CSV file ({error})") from error
    if len(columns) < DIM:
        raise FeatureError(f"{path}: {len(columns)} columns, expected a header and {DIM} of a CONCH feature")
    if all("." in name and _is_number(name) for name in columns[:DIM]):
        raise FeatureError(f"{path}: its first line holds features; expected a header (SlideChat would lose that row)")
    return columns


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_slidechat(tiles: Tiles, out: Path) -> list[Path]:
    """Columns ``0`` … ``511``, then ``x``, ``y`` and ``tile_px0``; nine digits keep single precision exactly.

    Raises:
        FeatureError: only coordinates, or features of another width than SlideChat reads.
    """
    features, encoder = tiles.with_features("SlideChat")
    if features.shape[1] != DIM:
        raise FeatureError(
            f"slide '{tiles.slide_id}': features of {encoder} are {features.shape[1]} wide; SlideChat reads the first "
            f"{DIM} columns as a CONCH feature; extract with --encoder {ENCODER}"
        )
    grid, target = tiles.grid, path_inside(out, f"{tiles.slide_id}.csv")
    side = np.full((len(features), 1), grid.tile_px0)
    with atomic_path(target) as temporary:
        np.savetxt(
            temporary,
            np.hstack([features.astype(np.float64), grid.coords, side]),
            fmt=["%.9g"] * DIM + ["%d"] * len(PLACE),
            delimiter=",",
            header=",".join([*map(str, range(DIM)), *PLACE]),
            comments="",
        )
    return [target]
