"""``pathflip convert``: any of the formats in, any out, one slide at a time, none able to stop the others."""

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pathflip.arguments import Paths, as_paths
from pathflip.errors import ConfigError, FeatureError, PathFLIPError
from pathflip.features.store import FeatureKind, check_cohort, read_features, write_features
from pathflip.geometry import TileGrid
from pathflip.interop.clam import read_clam, read_clam_coords, read_clam_pt, write_clam
from pathflip.interop.detection import COORDS_NAMES, FEATURE_NAMES, detect, named_dataset
from pathflip.interop.lazyslide import read_lazyslide, write_lazyslide
from pathflip.interop.qupath import read_qupath, write_qupath
from pathflip.interop.slidechat import read_slidechat, write_slidechat
from pathflip.interop.stamp import read_stamp, write_stamp
from pathflip.interop.tiles import ReadOptions, Tiles, encoder_of
from pathflip.interop.trident import read_trident, write_trident
from pathflip.io.files import path_inside, write_text
from pathflip.io.hdf5 import File, opened, read_file
from pathflip.io.slide_id import check_name, slide_id
from pathflip.processes import follow_parent
from pathflip.slide import read_coords
from pathflip.slide.tiling import write_coords

__all__ = ["TARGETS", "Converted", "Separately", "all_foreign", "convert", "detect", "feature_files_below",
           "find_inputs", "read_tiles"]  # fmt: skip


@dataclass(frozen=True)
class Converted:
    """What became of one converted file.

    Attributes:
        slide_id: the slide.
        source: the file read; ``detected`` what it was taken for ("" where that failed).
        files: what was written.
        tiles: rows; dim: width of their features, 0 for coordinates alone.
        encoder, tile_px, mpp, stride_px: of the features; ``tile_px0`` the side of a tile in level-0 pixels.
        warnings: what a person should know although it went well.
        error: one line, where it did not.
    """

    slide_id: str
    source: str
    detected: str = ""
    to: str = ""
    files: tuple[str, ...] = ()
    tiles: int = 0
    dim: int = 0
    encoder: str = ""
    tile_px: int = 0
    mpp: float = 0.0
    tile_px0: int = 0
    stride_px: int = 0
    warnings: tuple[str, ...] = ()
    error: str | None = None


def _file(path: Path) -> File:
    """A neighbour's file, whatever it calls its datasets: as ``features`` and ``coords``."""
    with opened(path) as file:
        features = named_dataset(path, file, FEATURE_NAMES, "features")
        coords = named_dataset(path, file, COORDS_NAMES, "coordinates")
    return read_file(path, {name: own for name, own in ((features, "features"), (coords, "coords")) if name})


def read_tiles(path: str | Path, options: ReadOptions | None = None) -> tuple[str, Tiles]:
    """What a file is, and its tiles.

    Raises:
        FeatureError: unknown, damaged, contradictory, or it needs something ``options`` does not hold (named).
    """
    path, options = Path(path), options or ReadOptions()
    kind = detect(path)
    if kind in ("pathflip", "pathflip coordinates"):
        return kind, _read_ours(path, kind, options)
    if kind in ("trident", "trident coordinates"):
        return kind, read_trident(_file(path), options)
    by_file = {"clam": read_clam, "clam coordinates": read_clam_coords, "stamp": read_stamp}
    if kind in by_file:
        return kind, by_file[kind](_file(path), options)
    by_path = {
        "clam pt": read_clam_pt,
        "lazyslide": read_lazyslide,
        "slidechat": read_slidechat,
        "qupath": read_qupath,
    }
    return kind, by_path[kind](path, options)


def _read_ours(path: Path, kind: str, options: ReadOptions) -> Tiles:
    if kind == "pathflip coordinates":
        grid = read_coords(path)
        return Tiles(replace(grid, info=replace(grid.info, slide_id=check_name(slide_id(path), "name", path))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        slide = read_features(path, drop_invalid=options.drop_invalid)
    encoder_of(path, options, slide.encoder)
    notes = tuple(str(one.message) for one in caught)
    valid = slide.valid
    grid = TileGrid(slide.info, slide.spec, slide.coords[valid])
    lost = int((~valid).sum())
    notes += (f"{lost} unreadable tiles left out: only PathFLIP's format can mark them",) if lost else ()
    if len(grid) == 0:
        raise FeatureError(f"{path}: holds no readable tile; nothing to convert")
    return Tiles(grid, slide.encoder, slide.features[valid], notes)


def _write_ours(tiles: Tiles, out: Path) -> list[Path]:
    if tiles.features is None:
        target = path_inside(out, "coords", f"{tiles.slide_id}.h5")
        write_coords(target, tiles.grid)
        return [target]
    slide = tiles.slide_features()
    target = path_inside(out, f"features_{slide.encoder}", f"{slide.slide_id}.h5")
    write_features(target, slide)
    return [target]


TARGETS: dict[str, Callable[[Tiles, Path], list[Path]]] = {
    "pathflip": _write_ours,
    "trident": write_trident,
    "clam": write_clam,
    "stamp": write_stamp,
    "lazyslide": write_lazyslide,
    "slidechat": write_slidechat,
    "qupath": write_qupath,
}
"""The formats that can be written, and how."""

_OURS_BESIDE = ".excluded.csv"
"""Tables that extraction leaves beside feature files: no features."""
_SUFFIXES = (".h5", ".hdf5", ".pt", ".csv", ".geojson", ".zarr")


def find_inputs(paths: Paths) -> list[Path]:
    """Files as given; folders as the feature files in them (sorted, not recursive).

    Of a CLAM folder with ``h5_files`` and ``pt_files`` the former is taken: it holds the same and coordinates. Of a
    TRIDENT job folder, and of a STAMP folder with one extractor, the folder with the features.

    Raises:
        ConfigError: a folder without any, or with several kinds of features (named).
    """
    inputs: list[Path] = []
    for path in as_paths(paths, "paths"):
        if not path.is_dir() or path.suffix.lower() == ".zarr" or (path / "zarr.json").is_file():
            inputs.append(path)
            continue
        inside = _files_of(path) or _files_of(path / "h5_files") or _files_of(path / "pt_files")
        inside = inside or _files_below(path)
        if not inside:
            raise ConfigError(f"'{path}': no {', '.join(_SUFFIXES)} in this folder")
        inputs += inside
    return list(dict.fromkeys(inputs))


def _files_below(folder: Path) -> list[Path]:
    """Feature files one or two folders down: ``20x_256px_0px_overlap/features_uni_v1`` or ``<extractor>``."""
    folders = [p for pattern in ("*", "*/*") for p in sorted(folder.glob(pattern)) if p.is_dir() and p.name[0] != "."]
    filled = {p: files for p in folders if p.name not in _NOT_FEATURES and (files := _files_of(p))}
    named = {p: files for p, files in filled.items() if p.name.startswith("features_")}
    chosen = named or {p: files for p, files in filled.items() if p.parent == folder}
    if len(chosen) > 1 and not named and (cases := _files_of_cases(list(chosen.values()))):
        return cases
    if len(chosen) > 1:
        names = ", ".join(str(p.relative_to(folder)) for p in list(chosen)[:4])
        raise ConfigError(f"'{folder}': holds features of {len(chosen)} kinds ({names}); expected one: give its folder")
    return next(iter(chosen.values()), [])


def _files_of_cases(folders: Sequence[Sequence[Path]]) -> list[Path]:
    """The files of several folders where these are cases: all of one kind, and no slide in two; else none.

    Raises:
        ConfigError: they are of one kind, and some have equal names.
    """
    files = [file for own in folders for file in own]
    try:
        check_cohort(files)
    except PathFLIPError:
        return []
    names = {frozenset(file.stem for file in own) for own in folders}
    if len(names) == 1 and len(folders[0]) > 1:
        return []  # the same slides in each: folders of extractors
    homes: dict[str, Path] = {}
    equal = [file for file in files if homes.setdefault(file.stem, file) is not file]
    if equal:
        one, other = homes[equal[0].stem], equal[0]
        raise ConfigError(
            f"'{one}' and '{other}' have one name; expected a name of its own for every slide: call them "
            f"{one.parent.name}__{one.name} and {other.parent.name}__{other.name}, as pathflip extract --names folder "
            "does"
        )
    return files


def feature_files_below(folder: Path) -> list[Path]:
    """The ``.h5`` feature files in the folders of a folder: a TRIDENT job, a CLAM or STAMP parent, or what
    ``pathflip extract --out`` wrote; none where it holds no such folder.

    Raises:
        ConfigError: there are features of several kinds (named).
    """
    files = _files_of(folder / "h5_files") or _files_below(folder)
    return [file for file in files if file.suffix.lower() == ".h5"]


def all_foreign(files: Sequence[Path]) -> str:
    """What tool wrote these files, where none of them is ours; "" where one is, or none can be read."""
    kinds = []
    for path in files:
        with contextlib.suppress(PathFLIPError):
            kinds.append(detect(path))
            if kinds[-1].startswith("pathflip"):
                return ""
    return kinds[0] if kinds else ""


_NOT_FEATURES = ("patches", "slides", "thumbnails", "contours", "contours_geojson", "visualization", "masks", "coords")
"""Folders of TRIDENT, CLAM and ours that hold no features."""


def _files_of(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    candidates = (p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in candidates if not p.name.endswith(_OURS_BESIDE))


def convert(
    paths: Sequence[str | Path],
    to: str,
    out: str | Path,
    options: ReadOptions | None = None,
    *,
    isolated: bool = False,
    progress: Callable[[int, int, Converted], None] | None = None,
) -> list[Converted]:
    """Convert files one by one. One bad file never stops the others, and nothing half-written is ever left.

    One call is one cohort: its first file sets encoder, width, tile size and resolution, and files of another
    kind are refused, named. ``out/failures.jsonl`` lists what failed (absent when all went well).

    Args:
        paths: files, or folders of them.
        to: a key of :data:`TARGETS`.
        out: folder, created where absent; files of an earlier run are replaced.
        options: what files do not say.
        isolated: read and write in a process of its own. Some damaged HDF5 files crash the HDF5 library, which
            would take this process and the rest of the batch along. (A script that asks for it needs the
            ``if __name__ == "__main__":`` guard.)
        progress: called after every file with the number done, the total, and the outcome.

    Returns:
        One outcome a file, in the order given.

    Raises:
        ConfigError: an unknown format, or nothing to convert; before anything is written.
    """
    if to not in TARGETS:
        raise ConfigError(f"convert: no format '{to}'; expected one of {', '.join(TARGETS)}")
    files, out, cohort = find_inputs(paths), Path(out), _Cohort()
    outcomes: list[Converted] = []
    with contextlib.closing(Separately(_attempt)) as separately:
        attempt = separately if isolated else _attempt
        for path in files:
            outcome = attempt(path, to, out, options or ReadOptions(), cohort)
            if outcome.error is None:
                cohort = cohort.joined_by(outcome)
            outcomes.append(outcome)
            if progress is not None:
                progress(len(outcomes), len(files), outcome)
    _write_failures(out / "failures.jsonl", outcomes)
    return outcomes


class Separately:
    """A function called in another process (spawned: fork would copy locked threads), started again when one dies.

    Args:
        function: importable by name; takes the file first and returns an outcome.
    """

    def __init__(self, function: Callable[..., Converted]) -> None:
        self._function = function
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, path: Path, *rest: Any) -> Converted:
        """The function's outcome; an outcome that says so if the process died."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=follow_parent)
        try:
            return self._pool.submit(self._function, path, *rest).result()
        except BrokenProcessPool:
            self.close()
            error = f"{path}: the process reading it died (a damaged file, or out of memory); copy or extract it again"
            return Converted(path.stem, str(path), error=error)

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _write_failures(target: Path, outcomes: Sequence[Converted]) -> None:
    failed = [{"slide_id": o.slide_id, "path": o.source, "error": o.error} for o in outcomes if o.error]
    if failed:
        write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in failed))
    else:
        target.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Cohort:
    """What the files so far were, so that no two kinds and no slide twice go into one folder."""

    first: tuple[FeatureKind, str] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def admit(self, path: Path, tiles: Tiles) -> None:
        """Refuse a second file of one slide, and another kind of features than the first file's."""
        if tiles.slide_id in self.sources:
            raise FeatureError(
                f"{path}: slide '{tiles.slide_id}' was converted from {self.sources[tiles.slide_id]}; names join "
                "slides with captions: expected each slide once"
            )
        if self.first is None or tiles.features is None or tiles.encoder is None:
            return
        spec = tiles.grid.spec
        kind = FeatureKind(tiles.encoder, tiles.features.shape[1], spec.tile_px, spec.mpp, spec.stride_px)
        if kind.difference(self.first[0]) is not None:
            raise FeatureError(
                f"{path}: features of {kind}, but this cohort began with {self.first[1]}: {self.first[0]}; "
                "expected one encoder, tile size, stride and resolution: convert each kind into a folder of its own"
            )

    def joined_by(self, row: Converted) -> "_Cohort":
        """The same join with one file more."""
        kind = FeatureKind(row.encoder, row.dim, row.tile_px, row.mpp, row.stride_px)
        first = self.first or ((kind, row.source) if row.dim else None)
        return _Cohort(first, {**self.sources, row.slide_id: row.source})


def _attempt(path: Path, to: str, out: Path, options: ReadOptions, cohort: _Cohort) -> Converted:
    try:
        return _convert_one(path, to, out, options, cohort)
    except Exception as error:
        line = " ".join(str(error).split())
        text = line if isinstance(error, PathFLIPError) else f"{path}: {type(error).__name__}: {line}"
        return Converted(path.stem, str(path), to=to, error=text)


def _convert_one(path: Path, to: str, out: Path, options: ReadOptions, cohort: _Cohort) -> Converted:
    if out.resolve() in path.resolve().parents:
        raise FeatureError(f"{path}: lies in {out} itself, where its conversion could replace it; give another --out")
    kind, tiles = read_tiles(path, options)
    cohort.admit(path, tiles)
    written = TARGETS[to](tiles, out)
    row = Converted(tiles.slide_id, str(path), kind, to, tuple(map(str, written)), len(tiles.grid))
    spec, features = tiles.grid.spec, tiles.features
    return replace(
        row,
        dim=0 if features is None else int(features.shape[1]),
        encoder=tiles.encoder or "",
        tile_px=spec.tile_px,
        mpp=spec.mpp,
        stride_px=spec.stride_px,
        tile_px0=tiles.grid.tile_px0,
        warnings=tiles.warnings,
    )
