"""How fast tiles are read: PathFLIP, OpenSlide, tiffslide, and the bare decoder, in one run.

    python bench/read.py SLIDE… [--workers 1,2] [--tiles 300] [--repeat 5] [--json]

Every reader cuts the same tiles (256 px at 0.5 mpp, of the tissue, row by row) from a freshly opened slide:

* ``pathflip``   ``Slide.read_tile``;
* ``openslide``  ``read_region`` at the best level, ``convert("RGB")``, Pillow bilinear resize, as extraction tools do;
* ``tiffslide``  the same through tiffslide, where it is installed (``make`` does);
* ``limit``      decoding the stored JPEG tiles under these tiles, each once, at full size, and nothing else.

Workers are threads of one process, on runs of neighbouring tiles; the process is set up as those of ``pathflip
extract`` are (freed memory is kept for the next array), for every reader. Rounds are interleaved and each reader's best
round counts, so that a busy machine slows all of them alike. MB/s are tile pixels delivered, uncompressed. ``--json``
ends with one object: tiles_per_s, vs_openslide, vs_tiffslide (null without it), vs_limit over all slides together with
the first number of workers, then the same for every number of workers and for every slide.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.errors import PathFLIPError
from pathflip.features.workers import settle_worker
from pathflip.geometry import TileGrid, TileSpec, best_level
from pathflip.slide import find_tissue, open_slide, tile_slide
from pathflip.slide.sources.tiled_tiff import TiledTIFFSource

SPEC = TileSpec(256, 0.5)
CHUNK = 16
Corners = Sequence[tuple[int, int]]
ReadSome = Callable[[Corners], None]


def pathflip_reader(path: Path, grid: TileGrid) -> tuple[ReadSome, Callable[[], None]]:
    """The package's own reader."""
    slide = open_slide(path)

    def read(corners: Corners) -> None:
        for x, y in corners:
            slide.read_tile(x, y, grid.spec)

    return read, slide.close


def region_reader(path: Path, grid: TileGrid, opener: Callable[[str], Any]) -> tuple[ReadSome, Callable[[], None]]:
    """``read_region`` of OpenSlide or of a library with its interface."""
    handle = opener(str(path))
    factor = grid.tile_px0 / grid.spec.tile_px
    level = best_level(tuple(handle.level_downsamples), factor)
    side = round(grid.tile_px0 / handle.level_downsamples[level])
    out = (grid.spec.tile_px, grid.spec.tile_px)

    def read(corners: Corners) -> None:
        from PIL import Image

        for x, y in corners:
            region = handle.read_region((x, y), level, (side, side)).convert("RGB")
            np.asarray(region.resize(out, Image.Resampling.BILINEAR))

    return read, handle.close


def limit_reader(path: Path, grid: TileGrid) -> tuple[ReadSome, Callable[[], None]]:
    """Each stored tile under the grid belongs to the first tile that needs it."""
    slide = open_slide(path)
    source = slide._source
    assert isinstance(source, TiledTIFFSource)
    level = best_level(slide.info.downsamples, grid.tile_px0 / grid.spec.tile_px)
    stored, scale = source._levels[level], slide.info.downsamples[level]
    side = grid.tile_px0 / scale
    due: dict[tuple[int, int], list[int]] = {}
    seen: set[int] = set()
    for x, y in map(tuple, grid.coords.tolist()):
        left, top = x / scale, y / scale
        right, bottom = min(stored.size[0], left + side) - 1, min(stored.size[1], top + side) - 1
        rows = range(int(top // stored.tile[1]), int(bottom // stored.tile[1]) + 1)
        columns = range(int(left // stored.tile[0]), int(right // stored.tile[0]) + 1)
        under = [row * stored.columns + column for row in rows for column in columns]
        due[x, y] = [index for index in under if index not in seen]
        seen.update(under)

    def read(corners: Corners) -> None:
        for corner in corners:
            for index in due[corner]:
                source._decoded(level, index, 0)

    return read, slide.close


def seconds(make: Callable[[], tuple[ReadSome, Callable[[], None]]], corners: Corners, workers: int) -> float:
    """One round on a freshly opened slide; opening is not counted."""
    read, close = make()
    chunks = [corners[i : i + CHUNK] for i in range(0, len(corners), CHUNK)]
    with ThreadPoolExecutor(workers) as pool:
        start = time.perf_counter()
        if workers == 1:
            read(corners)
        else:
            list(pool.map(read, chunks))
        taken = time.perf_counter() - start
    close()
    return taken


def measure(path: Path, num_tiles: int, repeat: int, workers: Sequence[int]) -> dict[str, Any]:
    """Best seconds of every reader for every number of workers, on one slide."""
    import openslide

    with open_slide(path) as slide:
        grid = tile_slide(slide, find_tissue(slide), SPEC)
        reader = slide.info.reader
    grid = TileGrid(grid.info, grid.spec, grid.coords[:num_tiles])
    corners = [tuple(c) for c in grid.coords.tolist()]
    makers = {
        "pathflip": lambda: pathflip_reader(path, grid),
        "openslide": lambda: region_reader(path, grid, openslide.OpenSlide),
    }
    if "JPEG tiles" in reader:
        makers["limit"] = lambda: limit_reader(path, grid)
    try:
        import tiffslide

        makers["tiffslide"] = lambda: region_reader(path, grid, tiffslide.TiffSlide)
    except ImportError:
        pass
    best = {count: dict.fromkeys(makers, float("inf")) for count in workers}
    for _ in range(repeat):
        for count in workers:
            for name, make in makers.items():
                best[count][name] = min(best[count][name], seconds(make, corners, count))
    return {"slide": path.stem, "tiles": len(corners), "reader": reader, "seconds": best}


def ratios(rows: Sequence[dict[str, Any]], workers: int) -> dict[str, float | None]:
    """Rates of the slides together: all tiles over all seconds."""
    tiles = sum(row["tiles"] for row in rows)

    def rate(name: str) -> float | None:
        times = [row["seconds"][workers].get(name) for row in rows]
        return None if None in times else tiles / sum(times)

    ours = rate("pathflip")

    def over(name: str) -> float | None:
        other = rate(name)
        return round(ours / other, 3) if other else None

    return {
        "tiles_per_s": round(ours, 1),
        "mb_per_s": round(ours * SPEC.tile_px**2 * 3 / 1e6, 1),
        "vs_openslide": over("openslide"),
        "vs_tiffslide": over("tiffslide"),
        "vs_limit": over("limit"),
        "openslide_tiles_per_s": round(rate("openslide"), 1),
    }


def main() -> int:
    """Measure, print a table, and with ``--json`` one object at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--workers", default="1,2", help="comma-separated numbers of threads")
    parser.add_argument("--tiles", type=int, default=300, help="tiles per slide at most")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settle_worker()
    workers = [int(w) for w in args.workers.split(",")]
    rows = []
    for path in args.slides:
        try:
            rows.append(measure(path, args.tiles, args.repeat, workers))
        except PathFLIPError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not rows:
        print("no slide could be measured", file=sys.stderr)
        return 1
    print(
        f"{'slide':<36} {'workers':>7} {'tiles/s':>8} {'MB/s':>6} {'×openslide':>10} {'×tiffslide':>10} {'of limit':>8}"
    )
    for group in [*([row] for row in rows), rows]:
        for count in workers:
            r = ratios(group, count)
            name = group[0]["slide"] if len(group) == 1 else f"all {len(rows)}"
            cells = [f"{r[k]:.2f}" if r[k] else "–" for k in ("vs_openslide", "vs_tiffslide", "vs_limit")]
            print(
                f"{name[:36]:<36} {count:>7} {r['tiles_per_s']:>8.0f} {r['mb_per_s']:>6.0f} "
                f"{cells[0]:>10} {cells[1]:>10} {cells[2]:>8}"
            )
    if args.json:
        by_workers = {str(count): ratios(rows, count) for count in workers}
        slides = {row["slide"]: {str(count): ratios([row], count) for count in workers} for row in rows}
        print(json.dumps({**ratios(rows, workers[0]), "workers": by_workers, "slides": slides}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
