"""How fast tiles are read: PathFLIP, fastslide, OpenSlide, tiffslide, and the bare decoder, in one run.

    python bench/read.py SLIDE_OR_FOLDER… [--workers 1,2] [--tiles 300] [--rounds 7] [--json]

Every way cuts the same tiles: 256 px at 0.5 mpp (at the slide's own resolution where that is coarser or unknown), of
the tissue (of the whole slide where none is found), row by row. The ways:

* ``pathflip``   ``Slide.read_tiles(…, workers=n)``: n threads within the batch;
* ``openslide``, ``tiffslide``  ``read_region`` at the best level, ``convert("RGB")``, Pillow bilinear resize, as
  extraction tools do, by n threads that each take runs of 16;
* ``fastslide``  the same through fastslide, whose ``read_region`` uses all processors within one call; without a cache
  (its default) and with one of 96 MB (ours);
* ``limit``      decoding the stored tiles under these tiles, each once, at full size, and nothing else, by n threads.

The process is set up as those of ``pathflip extract`` are (freed memory is kept for the next array), for every way.
First our tiles of the batch are compared with those read one by one, untimed. Pixels at the stored resolution are
compared with OpenSlide's by ``bench/region.py``; resized ones differ by the resizing.

How times and ratios are taken: ``bench/readers.py``. ``--json`` ends with one object: tiles_per_s and mb_per_s (of all
tiles, at the first number of workers), vs_fastslide, vs_openslide, vs_tiffslide, cpu_vs_fastslide … (geometric means
over the slides), smallest_vs_fastslide …, vs_limit, and the numbers of every slide.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pathflip.errors import PathFLIPError
from pathflip.features.workers import settle_worker
from pathflip.geometry import TileGrid, TileSpec, best_level
from pathflip.slide import Slide, find_tissue, open_slide, tile_slide
from pathflip.slide.sources.stored_tiles import StoredTiles
from readers import (
    CHUNK,
    Corner,
    Pixels,
    ReadMany,
    Way,
    by_threads,
    geometric_mean,
    measure,
    other_libraries,
    ratio,
    slides_in,
    summary,
    table,
    totals,
)

TILE_PX, MPP = 256, 0.5


def opened(path: Path) -> Slide:
    """The slide; where its resolution is unknown, 0.5 mpp."""
    slide = open_slide(path)
    if slide.info.mpp0 is not None:
        return slide
    slide.close()
    return open_slide(path, slide_mpp=MPP)


def tiles_of(path: Path, count: int) -> TileGrid:
    """Up to ``count`` tiles from the middle of the tissue."""
    with opened(path) as slide:
        spec = TileSpec(TILE_PX, max(MPP, slide.info.mpp0 or MPP))
        try:
            grid = tile_slide(slide, find_tissue(slide), spec)
        except PathFLIPError:  # too coarse to look for tissue
            grid = TileGrid(slide.info, spec, np.empty((0, 2), np.int64))
        if len(grid) == 0:
            side0 = round(spec.tile_px0(slide.info))
            width, height = slide.info.size0
            places = [(x, y) for y in range(0, height, side0) for x in range(0, width, side0)]
            grid = TileGrid(slide.info, spec, np.array(places, np.int64))
    start = max(0, (len(grid) - count) // 2)
    return TileGrid(grid.info, grid.spec, grid.coords[start : start + count])


def our_way(path: Path, grid: TileGrid, workers: Sequence[int]) -> Way:
    """``Slide.read_tiles``."""

    def begin() -> tuple[ReadMany, Callable[[], None]]:
        slide = opened(path)

        def read_many(corners: Sequence[Corner], count: int) -> Iterable[Pixels]:
            return slide.read_tiles(corners, grid.spec, workers=count)

        return read_many, slide.close

    return Way("pathflip", begin, workers)


def other_way(name: str, opener: Callable[[], Any], grid: TileGrid, workers: Sequence[int]) -> Way:
    """``read_region`` of another library, then Pillow."""

    def begin() -> tuple[ReadMany, Callable[[], None]]:
        from PIL import Image

        handle = opener()
        downsamples = tuple(handle.level_downsamples)
        level = best_level(downsamples, grid.tile_px0 / TILE_PX)
        side = round(grid.tile_px0 / downsamples[level])
        native = name.startswith("fastslide")  # its corners are pixels of the level

        def read_one(corner: Corner) -> Pixels:
            if native:
                at = (round(corner[0] / downsamples[level]), round(corner[1] / downsamples[level]))
                region = Image.fromarray(handle.read_region(at, level, (side, side)).numpy())
            else:
                region = handle.read_region(corner, level, (side, side)).convert("RGB")
            return np.asarray(region.resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR))

        return by_threads(read_one), handle.close

    return Way(name, begin, workers)


def limit_way(path: Path, grid: TileGrid, workers: Sequence[int]) -> Way:
    """Each stored tile under the grid belongs to the first tile that needs it."""

    def begin() -> tuple[ReadMany, Callable[[], None]]:
        slide = opened(path)
        source = slide._source
        assert isinstance(source, StoredTiles)
        level = best_level(slide.info.downsamples, grid.tile_px0 / TILE_PX)
        due = stored_tiles_due(source, level, grid, slide.info.downsamples[level])

        def read_one(corner: Corner) -> Pixels:
            for index in due[corner]:
                source._decoded(level, index, 0)
            return np.empty(0, np.uint8)

        return by_threads(read_one), slide.close

    return Way("limit", begin, workers)


def stored_tiles_due(source: StoredTiles, level: int, grid: TileGrid, scale: float) -> dict[Corner, list[int]]:
    """The stored tiles under each tile that no tile before it needs."""
    stored, side = source._levels[level], grid.tile_px0 / scale
    due: dict[Corner, list[int]] = {}
    seen: set[int] = set()
    for x, y in map(tuple, grid.coords.tolist()):
        left, top = x / scale, y / scale
        right, bottom = min(stored.size[0], left + side) - 1, min(stored.size[1], top + side) - 1
        rows = range(int(top // stored.tile[1]), int(bottom // stored.tile[1]) + 1)
        columns = range(int(left // stored.tile[0]), int(right // stored.tile[0]) + 1)
        under = [row * stored.columns + column for row in rows for column in columns]
        due[x, y] = [index for index in under if index not in seen]
        seen.update(under)
    return due


def check_batch(path: Path, grid: TileGrid) -> None:
    """Tiles of a batch are those read one by one."""
    corners = [tuple(corner) for corner in grid.coords[: 4 * CHUNK].tolist()]
    with opened(path) as slide, opened(path) as other:
        for corner, tile in zip(corners, slide.read_tiles(corners, grid.spec), strict=True):
            if not np.array_equal(tile, other.read_tile(*corner, grid.spec)):
                raise AssertionError(f"{path.stem}: the tile at {corner} differs in a batch")


def measured(path: Path, count: int, rounds: int, workers: Sequence[int]) -> dict[str, Any]:
    """One slide's numbers."""
    grid = tiles_of(path, count)
    check_batch(path, grid)
    corners = [tuple(corner) for corner in grid.coords.tolist()]
    ways = [our_way(path, grid, workers)]
    ways += [other_way(*opener, grid, workers) for opener in other_libraries(path).items()]
    with opened(path) as slide:
        reader, has_limit = slide.info.reader, isinstance(slide._source, StoredTiles)
    if has_limit:
        ways.append(limit_way(path, grid, workers))
    times = measure(ways, corners, rounds)
    row = {**summary(times, len(corners), workers), "reader": reader, "mpp": grid.spec.mpp}
    row["vs_limit"] = {
        str(n): round(ratio(times, ("limit", n), ("pathflip", n)), 3) if has_limit else None for n in workers
    }
    row["seconds"] = median(times["pathflip", workers[0]].wall)
    return row


def main() -> int:
    """Measure, print a table, and with ``--json`` one object at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--workers", default="1,2", help="comma-separated numbers of threads")
    parser.add_argument("--tiles", type=int, default=300, help="tiles per slide at most")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settle_worker()
    workers = [int(count) for count in args.workers.split(",")]
    rows: dict[str, dict[str, Any]] = {}
    for path in slides_in(args.slides):
        rows[path.stem] = measured(path, args.tiles, args.rounds, workers)
        print(f"{path.stem}: {rows[path.stem]['images']} tiles, {rows[path.stem]['reader']}", flush=True)
    if not rows:
        print("no slide could be measured", file=sys.stderr)
        return 1
    table(rows, "tiles", workers)
    limits = {str(n): geometric_mean(row["vs_limit"][str(n)] for row in rows.values()) for n in workers}
    print(f"\nof the decode limit (geometric mean): {limits}")
    if args.json:
        rate = sum(row["images"] for row in rows.values()) / sum(row["seconds"] for row in rows.values())
        speed = {"tiles_per_s": round(rate, 1), "mb_per_s": round(rate * TILE_PX**2 * 3 / 1e6, 1)}
        print(json.dumps({**speed, **totals(rows), "vs_limit": limits[str(workers[0])], "limits": limits}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
