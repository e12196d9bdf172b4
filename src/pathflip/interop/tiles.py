"""The tiles of one slide between two tools, and how their physical size was settled.

A neighbour's file says some of: tile side in encoded pixels, tile side in level-0 pixels, microns. The caller may
say the rest (:class:`ReadOptions`), and the slide itself knows its own resolution. :func:`settle` makes one answer of
these, says what it had to assume, and refuses what cannot be true.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError, FeatureError, SlideError
from pathflip.features.store import rows_named
from pathflip.geometry import SlideInfo, TileGrid, TileSpec
from pathflip.interop.tile_steps import check_step, commonest_step
from pathflip.io.slide_id import check_name, join_ids, slide_id
from pathflip.slide import open_slide
from pathflip.slide.resolution_table import SlideResolution, mpp_of
from pathflip.types import SlideFeatures

__all__ = ["ReadOptions", "Stated", "Tiles", "encoder_of", "join", "level0_coords", "numeric", "settle", "unbatched"]

_FARTHEST_PX0 = 2**40
AGREE = 0.01
"""Two statements of one resolution may differ by this fraction before a person is told."""


@dataclass(frozen=True)
class ReadOptions:
    """What the caller knows that files do not say.

    Attributes:
        mpp: microns per pixel the tiles were encoded at.
        tile_px: side of a tile at that resolution, pixels.
        slide_mpp: microns per level-0 pixel, of all slides.
        encoder: name of the encoder, for files that do not say.
        slides: folder of the slides themselves: level-0 size, resolution and scanned bounds come from them.
        coords: folder of coordinate files, for features that have none (CLAM ``.pt``, SlideChat).
        drop_invalid: leave out rows with NaN or infinity, instead of refusing the file.
    """

    mpp: float | None = None
    tile_px: int | None = None
    slide_mpp: SlideResolution | None = None
    encoder: str | None = None
    slides: Path | None = None
    coords: Path | None = None
    drop_invalid: bool = False

    def __post_init__(self) -> None:
        for name in ("mpp", "tile_px", "slide_mpp"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise ConfigError(f"convert: --{name.replace('_', '-')} is {value}, expected a positive number")
        for name in ("slides", "coords"):
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise ConfigError(f"convert: --{name} {folder}: no such folder")

    def slide(self, name: str) -> SlideInfo | None:
        """The slide of this id, found in ``slides``; None where there is none that opens."""
        if self.slides is None:
            return None
        by_id = _by_stem(self.slides, self.slides.stat().st_mtime_ns)
        own = name if name in by_id else join_ids([name], by_id).get(name, name)
        for path in by_id.get(own, ()):
            try:
                with open_slide(path, slide_mpp=self.slide_mpp) as slide:
                    return slide.info
            except SlideError:  # a file beside the slide that shares its stem: annotations, a picture
                continue
        return None


@lru_cache(maxsize=4)
def _by_stem(folder: Path, changed: int) -> dict[str, list[Path]]:
    """Files of a folder by slide, listed once while it does not change: not once for each of ten thousand slides."""
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            by_stem.setdefault(slide_id(path), []).append(path)
    return by_stem


@dataclass(frozen=True)
class Stated:
    """What a neighbour's file says of its tiles; None where it does not.

    Attributes:
        tile_px, mpp: side of a tile as encoded, and that resolution.
        stride_px: step between tiles in the same pixels; None means no overlap.
        tile_px0: side of a tile in level-0 pixels.
        mpp0, size0: of the slide; ``info`` where the file knows all of it.
        own: slide and tiles in full, where PathFLIP wrote the file.
        step_tells_side: without ``tile_px0`` and the slide's resolution, the step of the coordinates may stand in.
    """

    slide_id: str
    tile_px: int | None = None
    mpp: float | None = None
    stride_px: int | None = None
    tile_px0: int | None = None
    mpp0: float | None = None
    size0: tuple[int, int] | None = None
    info: SlideInfo | None = None
    own: tuple[SlideInfo, TileSpec] | None = None
    step_tells_side: bool = False


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of one slide, with features or without, and what a person should know of how they were read."""

    grid: TileGrid
    encoder: str | None = None
    features: NDArray[np.float32] | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def slide_id(self) -> str:
        """The slide's id."""
        return self.grid.info.slide_id

    def with_features(self, wanted_by: str) -> tuple[NDArray[np.float32], str]:
        """Features and encoder.

        Raises:
            FeatureError: there are only coordinates.
        """
        if self.features is None or self.encoder is None:
            raise FeatureError(
                f"slide '{self.slide_id}': coordinates without features; {wanted_by} holds features: "
                "expected a feature file, or --to pathflip, trident, clam or qupath"
            )
        return self.features, self.encoder

    def slide_features(self) -> SlideFeatures:
        """The tiles as :class:`~pathflip.types.SlideFeatures`, which the rest of PathFLIP takes."""
        features, encoder = self.with_features("a PathFLIP feature file")
        grid, valid = self.grid, np.ones(len(features), bool)
        return SlideFeatures(self.slide_id, features, grid.coords, valid, grid.info, grid.spec, encoder)


def join(path: Path, tiles: Tiles, features: NDArray[Any], encoder: str, options: ReadOptions) -> Tiles:
    """Tiles with their features.

    Raises:
        FeatureError: another number of rows, or rows that are not finite (named) and ``options`` does not drop them.
    """
    features = unbatched(features)
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise FeatureError(f"{path}: features are {features.dtype} {features.shape}, expected numbers (N, D)")
    if len(features) != len(tiles.grid):
        raise FeatureError(
            f"{path}: {len(features)} feature rows, but {len(tiles.grid)} coordinates; expected one row a tile"
        )
    is_whole = features.dtype.kind in "iu"
    with np.errstate(over="ignore"):  # too large for single precision is infinity, and seen below
        features = features.astype(np.float32, copy=False)
    finite = np.isfinite(features).all(axis=1)
    notes = tiles.warnings
    if is_whole:
        notes = (
            *notes,
            "its features are whole numbers, taken as they are: were they quantised, their scale is missing",
        )
    if not finite.all():
        bad = rows_named(np.flatnonzero(~finite))
        if not options.drop_invalid or not finite.any():
            raise FeatureError(
                f"{path}: features hold NaN or infinity in {bad} of {len(features)}; expected finite values; extract "
                "it again, or leave them out with --drop-invalid"
            )
        notes = (*notes, f"left out, not finite: {bad} of {len(features)}")
        tiles, features = replace(tiles, grid=replace(tiles.grid, coords=tiles.grid.coords[finite])), features[finite]
    return replace(tiles, features=features, encoder=encoder, warnings=notes)


def encoder_of(path: Path, options: ReadOptions, *stated: str | None) -> str:
    """The encoder of a file: what the file says, in one place or several; else what the caller says.

    Raises:
        FeatureError: nobody says, two places disagree, or the caller contradicts the file.
    """
    names = list(dict.fromkeys(name for name in stated if name and name != "None"))
    if len(names) > 1:
        raise FeatureError(
            f"{path}: says its encoder is '{names[0]}', and '{names[1]}'; expected one: extract it again"
        )
    if names and options.encoder and options.encoder != names[0]:
        raise FeatureError(
            f"{path}: says its encoder is '{names[0]}', --encoder says '{options.encoder}'; leave --encoder out"
        )
    if not names and not options.encoder:
        raise FeatureError(f"{path}: does not say which encoder made it; give --encoder NAME")
    return check_name(names[0] if names else str(options.encoder), "encoder", path)


def unbatched(values: NDArray[Any]) -> NDArray[Any]:
    """An array without the batch axis of length 1 that some pipelines leave: (1, N, D) or (N, 1, D) as (N, D)."""
    if values.ndim == 3 and 1 in values.shape[:2]:
        return values[0] if values.shape[0] == 1 else values[:, 0]
    return values


def numeric(path: Path, name: str, values: NDArray[Any], width: int | None = None) -> NDArray[Any]:
    """An array as it must be: numbers, two axes, of this width.

    Raises:
        FeatureError: it is not (named, with its shape).
    """
    values = unbatched(values)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or (width is not None and values.shape[1] != width):
        raise FeatureError(
            f"{path}: '{name}' is {values.dtype} {values.shape}, expected numbers of shape (N, {width or 'D'})"
        )
    if len(values) == 0:
        raise FeatureError(f"{path}: '{name}' holds no tile; nothing to convert")
    if values.shape[1] == 0:
        raise FeatureError(f"{path}: '{name}' holds no number a tile (shape {values.shape}); extract it again")
    return values


def level0_coords(path: Path, values: NDArray[Any]) -> NDArray[np.int64]:
    """Coordinates that claim to be level-0 pixels, as int64 (N, 2).

    Raises:
        FeatureError: wrong shape, not whole numbers (another unit), negative, or the same tile twice.
    """
    values = numeric(path, "coords", values, 2)
    if not np.isfinite(values).all() or np.abs(values).max() >= _FARTHEST_PX0:
        raise FeatureError(f"{path}: 'coords' reaches beyond any slide, or is not finite; extract it again")
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        row = int(np.flatnonzero((values != np.rint(values)).any(axis=1))[0])
        raise FeatureError(
            f"{path}: coordinates are not whole pixels (row {row}: {values[row].tolist()}); expected level-0 pixels; "
            "are they microns, or of a scaled image?"
        )
    coords = values.astype(np.int64)
    return _sane(path, coords)


def _sane(path: Path, coords: NDArray[np.int64]) -> NDArray[np.int64]:
    if (coords < 0).any():
        row = int(np.flatnonzero((coords < 0).any(axis=1))[0])
        raise FeatureError(f"{path}: row {row} lies at {coords[row].tolist()}; expected level-0 pixels from (0, 0) on")
    _, first, counts = np.unique(coords, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        again = coords[first[counts > 1][0]].tolist()
        raise FeatureError(
            f"{path}: {int((counts - 1).sum())} of {len(coords)} tiles stand there twice (the first at {again}); "
            "expected every tile once; were two extractions joined in one file?"
        )
    return coords


def settle(path: Path, stated: Stated, options: ReadOptions, coords: NDArray[Any], unit: str = "px0") -> Tiles:
    """Slide, tile size and level-0 coordinates from what file, caller and slide say.

    Args:
        path: for messages.
        stated: what the file says.
        options: what the caller and the slides say.
        coords: (N, 2), top-left corners in ``unit``: level-0 pixels ("px0") or microns ("um").

    Raises:
        FeatureError: something is missing (the options that give it are named), statements contradict each
            other, or tiles lie outside the slide.
        ResolutionError: the tiles are finer than the slide.
    """
    slide = options.slide(stated.slide_id)
    notes: list[str] = []
    if slide is None and options.slides is not None:
        notes.append(f"no slide '{stated.slide_id}' that opens in {options.slides}")
    if stated.own is not None:
        info, spec = stated.own
        info = replace(info, slide_id=stated.slide_id)
        notes += _contradictions(spec, info, options, slide)
    else:
        spec, mpp0, more = _sizes(path, stated, options, slide, coords if unit == "px0" else None)
        notes += more
        unknown = SlideInfo(stated.slide_id, stated.size0 or (0, 0), mpp0, reader="features made elsewhere")
        info = replace(slide or stated.info or unknown, slide_id=stated.slide_id, mpp0=mpp0)
    notes += _check_bits(path, coords, info.size0 if unit == "px0" else (0, 0))
    coords0 = level0_coords(path, coords) if unit == "px0" else _from_microns(path, coords, info.require_mpp())
    if stated.own is None:
        spec, on_step = _with_step(path, info, spec, coords0, stated.stride_px is not None)
        notes += on_step if unit == "px0" else ()
    info = _inside(path, info, coords0, spec.tile_px0(info), notes)
    return Tiles(TileGrid(info, spec, coords0), warnings=tuple(notes))


def _check_bits(path: Path, coords: NDArray[Any], size0: tuple[int, int]) -> list[str]:
    """What to tell of coordinates in numbers that a slide's places do not fit into.

    Raises:
        FeatureError: they cannot be what was meant: half precision counts in steps from 2048 on, 16 bits end at 65535.
    """
    if coords.dtype == np.float16 and coords.size and np.nanmax(np.abs(coords)) > _EXACT_HALF:
        raise FeatureError(
            f"{path}: 'coords' are in half precision, which rounds places beyond {_EXACT_HALF}; extract it again with "
            "coordinates of 32 bits"
        )
    if coords.dtype.kind not in "iu" or coords.dtype.itemsize > 2 or not coords.size:
        return []
    largest = int(np.iinfo(coords.dtype).max)
    if max(size0) > largest:
        raise FeatureError(
            f"{path}: 'coords' are {coords.dtype}, which ends at {largest}, on a slide of {size0[0]} × {size0[1]} px: "
            "places beyond it were lost; extract it again with coordinates of 32 bits"
        )
    if size0 == (0, 0) and int(coords.max()) > _NEAR_END * largest:
        return [
            f"its coordinates are {coords.dtype} and reach {int(coords.max())}: on a larger slide they would be wrong"
        ]
    return []


_EXACT_HALF = 2048
_NEAR_END = 0.9


def _with_step(
    path: Path, info: SlideInfo, spec: TileSpec, coords: NDArray[np.int64], is_stated: bool
) -> tuple[TileSpec, tuple[str, ...]]:
    """The tiles with the step that their coordinates have, where the file does not state one."""
    side0, stride0 = spec.tile_px0(info), spec.stride_px0(info) if is_stated else None
    step, notes = check_step(path, coords, side0, info.require_mpp(), stride0)
    if step is None:
        return spec, notes
    return replace(spec, stride_px=max(1, round(step / side0 * spec.tile_px))), notes


def _from_microns(path: Path, values: NDArray[Any], mpp0: float) -> NDArray[np.int64]:
    values = numeric(path, "coords", values, 2)
    if not np.isfinite(values).all():
        raise FeatureError(f"{path}: 'coords' holds NaN or infinity; extract it again")
    pixels = np.rint(values.astype(np.float64) / mpp0)
    if np.abs(pixels).max() >= _FARTHEST_PX0:
        raise FeatureError(f"{path}: 'coords' reaches beyond any slide; extract it again")
    return _sane(path, pixels.astype(np.int64))


def _contradictions(spec: TileSpec, info: SlideInfo, options: ReadOptions, slide: SlideInfo | None) -> list[str]:
    """Where PathFLIP wrote the file, what it says stands; a person is told what was asked in vain."""
    notes = []
    if options.mpp is not None and _differ(options.mpp, spec.mpp):
        notes.append(f"--mpp {options.mpp:g} ignored: the file says {spec.mpp:g}")
    if options.tile_px is not None and options.tile_px != spec.tile_px:
        notes.append(f"--tile-px {options.tile_px} ignored: the file says {spec.tile_px}")
    mpp0 = mpp_of(options.slide_mpp, info.slide_id) or (slide.mpp0 if slide else None)
    if mpp0 is not None and _differ(mpp0, info.require_mpp()):
        notes.append(f"the slide has {mpp0:.4g} mpp, the file was made at {info.mpp0:.4g}: is it the same slide?")
    return notes


def _differ(first: float, second: float) -> bool:
    return abs(first - second) > AGREE * second


def _sizes(
    path: Path, stated: Stated, options: ReadOptions, slide: SlideInfo | None, coords: NDArray[Any] | None
) -> tuple[TileSpec, float, list[str]]:
    """Tile size and the slide's resolution: (spec, mpp0, what to tell)."""
    notes: list[str] = []
    tile_px = stated.tile_px or options.tile_px
    if stated.tile_px and options.tile_px and stated.tile_px != options.tile_px:
        raise FeatureError(
            f"{path}: says its tiles are {stated.tile_px} px, --tile-px says {options.tile_px}; drop one"
        )
    known = mpp_of(options.slide_mpp, stated.slide_id) or (slide.mpp0 if slide else None)
    if known and stated.mpp0 and _differ(known, stated.mpp0):
        notes.append(f"the file says the slide has {stated.mpp0:.4g} mpp, the slide {known:.4g}; the slide's is used")
    mpp0, mpp = known or stated.mpp0, stated.mpp or options.mpp
    side0 = stated.tile_px0
    for what, value in (("tiles", tile_px), ("tiles at level 0", side0)):
        if value is not None and value <= 0:
            raise FeatureError(f"{path}: says its {what} are {value} px wide; expected a positive number")
    if mpp0 is None and side0 is None and tile_px and mpp and stated.step_tells_side and coords is not None:
        side0 = _step(path, coords)
        notes.append(
            f"the slide's resolution was taken from the step of the coordinates: {side0} px = one tile of "
            f"{tile_px * mpp:g} µm without overlap, so {mpp * tile_px / side0:.4g} mpp; give --slides or --slide-mpp"
            " to be sure"
        )
    missing = [] if tile_px else ["--tile-px (side of a tile as encoded, pixels)"]
    if mpp is None and not (side0 and mpp0):
        missing.append("--mpp (µm per pixel of the encoded tiles)" + (" or --slides DIR" if side0 else ""))
    if mpp0 is None and side0 is None:
        missing.append("--slides DIR or --slide-mpp (µm per level-0 pixel)")
    if missing or tile_px is None:
        raise FeatureError(f"{path}: does not say how large its tiles are; give {', '.join(missing)}")
    mpp, mpp0, more = _agree(tile_px, side0, mpp, mpp0)
    return TileSpec(tile_px, mpp, stated.stride_px or tile_px, 0.0), mpp0, notes + more


def _agree(tile_px: int, side0: int | None, mpp: float | None, mpp0: float | None) -> tuple[float, float, list[str]]:
    """Resolution of tiles and slide. Where the level-0 side is stated it decides: those pixels were encoded."""
    if side0 is None:
        assert mpp is not None
        assert mpp0 is not None
        return mpp, mpp0, []
    if mpp0 is None:
        assert mpp is not None
        return mpp, mpp * tile_px / side0, []
    true = mpp0 * side0 / tile_px
    if mpp is not None and round(tile_px * mpp / mpp0) == side0:
        return mpp, mpp0, []
    if mpp is None or not _differ(true, mpp):
        return true, mpp0, []
    note = (
        f"its tiles are {side0} level-0 px, on this slide of {mpp0:.4g} mpp {true:.4g} mpp and not the {mpp:g} asked "
        f"({abs(true / mpp - 1):.0%} off: cut by magnification, not by size); written as {true:.4g}"
    )
    return true, mpp0, [note]


def _step(path: Path, values: NDArray[Any]) -> int:
    step = commonest_step(level0_coords(path, values))
    if step is None:
        raise FeatureError(f"{path}: too few tiles to tell their step; give --slides DIR or --slide-mpp")
    return int(step)


def _inside(path: Path, info: SlideInfo, coords: NDArray[np.int64], side0: int, notes: list[str]) -> SlideInfo:
    """The slide with a size; tiles must begin on it."""
    if len(coords) == 0:
        return info
    if info.size0 == (0, 0):
        width, height = (int(v) for v in coords.max(axis=0) + side0)
        notes.append(f"level-0 size unknown: taken as {width} × {height} px, as far as tiles reach; give --slides DIR")
        return replace(info, size0=(width, height))
    beyond = (coords >= np.array(info.size0)).any(axis=1)
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        raise FeatureError(
            f"{path}: {int(beyond.sum())} of {len(coords)} tiles begin beyond the slide of {info.size0[0]} × "
            f"{info.size0[1]} px (row {row}: {coords[row].tolist()}); expected level-0 pixels of this slide"
        )
    return info
