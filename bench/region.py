"""How fast regions of 512 px of level 0 are read: PathFLIP, fastslide, OpenSlide and tiffslide, in one run.

    python bench/region.py SLIDE_OR_FOLDER… [--workers 1,2] [--regions 96] [--rounds 7] [--json]

Two sets of places a slide: neighbours, row by row over tissue (over the whole slide where none is found; overlapping
where the slide is small), and places drawn at random. The ways:

* ``pathflip``              ``Slide.read_regions(…, workers=n)``: n threads within the batch;
* ``openslide``, ``tiffslide``  ``read_region`` and ``convert("RGB")``, by n threads that each take runs of 16;
* ``fastslide``             ``read_region``, which uses all processors within one call, by n threads as well;
  without a cache (its default) and with one of 96 MB (ours).

First every region is compared, untimed: ours with OpenSlide's (the script fails if a single pixel differs where
OpenSlide reads the slide), and fastslide's with OpenSlide's (the largest difference is printed).

How times and ratios are taken: ``bench/readers.py``. ``--json`` ends with one object: vs_fastslide, cpu_vs_fastslide
(geometric means over all slides and both sets), smallest_vs_fastslide, the same for OpenSlide and tiffslide, and the
numbers of every slide.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.errors import PathFLIPError
from pathflip.features.workers import settle_worker
from pathflip.geometry import TileSpec
from pathflip.slide import find_tissue, open_slide, tile_slide
from readers import (
    Corner,
    Pixels,
    ReadMany,
    Way,
    by_threads,
    measure,
    other_libraries,
    slides_in,
    summary,
    table,
    totals,
)

SIDE = 512


def neighbours(path: Path, count: int) -> list[Corner]:
    """Up to ``count`` regions side by side, row by row, from the middle of the tissue."""
    with open_slide(path) as slide:
        width, height = slide.info.size0
        mpp = slide.info.mpp0 or 0.5
    try:
        with open_slide(path, slide_mpp=mpp) as slide:
            corners = [tuple(c) for c in tile_slide(slide, find_tissue(slide), TileSpec(SIDE, mpp)).coords.tolist()]
    except PathFLIPError:
        corners = []
    step = SIDE
    while len(corners) < count // 2 and step >= 64:
        corners = [
            (x, y) for y in range(0, max(1, height - SIDE + 1), step) for x in range(0, max(1, width - SIDE + 1), step)
        ]
        step //= 2
    start = max(0, (len(corners) - count) // 2)
    return corners[start : start + count]


def scattered(path: Path, count: int) -> list[Corner]:
    """``count`` regions anywhere."""
    rng = np.random.default_rng(0)
    with open_slide(path) as slide:
        limits = [max(1, side - SIDE + 1) for side in slide.info.size0]
    return [tuple(corner) for corner in rng.integers(0, limits, (count, 2)).tolist()]


def our_way(path: Path, workers: Sequence[int]) -> Way:
    """``Slide.read_regions``."""

    def opened() -> tuple[ReadMany, Callable[[], None]]:
        slide = open_slide(path)

        def read_many(corners: Sequence[Corner], count: int) -> Iterable[Pixels]:
            return slide.read_regions(0, corners, SIDE, SIDE, workers=count)

        return read_many, slide.close

    return Way("pathflip", opened, workers)


def region_of(name: str, handle: Any, corner: Corner) -> Pixels:
    """One region through another library: uint8 (512, 512, 3)."""
    if name.startswith("fastslide"):
        pixels: Pixels = handle.read_region(corner, 0, (SIDE, SIDE)).numpy()
        return pixels
    return np.asarray(handle.read_region(corner, 0, (SIDE, SIDE)).convert("RGB"))


def other_way(name: str, opener: Callable[[], Any], workers: Sequence[int]) -> Way:
    """``read_region`` of another library."""

    def opened() -> tuple[ReadMany, Callable[[], None]]:
        handle = opener()
        return by_threads(lambda corner: region_of(name, handle, corner)), handle.close

    return Way(name, opened, workers)


def differences(path: Path, corners: Sequence[Corner], openers: dict[str, Callable[[], Any]]) -> dict[str, int | None]:
    """The largest difference to OpenSlide's pixels over all regions."""
    if "openslide" not in openers:
        return {"pathflip": None, "fastslide": None}
    reference, fast = openers["openslide"](), openers.get("fastslide", lambda: None)()
    worst: dict[str, int | None] = {"pathflip": 0, "fastslide": 0 if fast else None}
    with open_slide(path) as slide:
        for corner, ours in zip(corners, slide.read_regions(0, corners, SIDE, SIDE), strict=True):
            want = region_of("openslide", reference, corner).astype(int)
            worst["pathflip"] = max(worst["pathflip"] or 0, int(np.abs(ours - want).max()))
            if fast:
                got = region_of("fastslide", fast, corner)[..., :3]
                want = want[: got.shape[0], : got.shape[1]]  # it leaves out what lies beyond the slide
                worst["fastslide"] = max(worst["fastslide"] or 0, int(np.abs(got - want).max()))
    return worst


def main() -> int:
    """Compare, measure, print tables, and with ``--json`` one object at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--workers", default="1,2", help="comma-separated numbers of threads")
    parser.add_argument("--regions", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settle_worker()
    workers = [int(count) for count in args.workers.split(",")]
    rows: dict[str, dict[str, Any]] = {}
    for path in slides_in(args.slides):
        openers = other_libraries(path)
        for places in (neighbours, scattered):
            corners = places(path, args.regions)
            worst = differences(path, corners, openers)
            ways = [our_way(path, workers), *(other_way(*opener, workers) for opener in openers.items())]
            name = f"{path.stem} {places.__name__}"
            rows[name] = {**summary(measure(ways, corners, args.rounds), len(corners), workers), "difference": worst}
            print(f"{name}: largest difference to OpenSlide {worst}", flush=True)
    if not rows:
        print("no slide could be measured", file=sys.stderr)
        return 1
    for places in (neighbours, scattered):
        table({name: row for name, row in rows.items() if name.endswith(places.__name__)}, places.__name__, workers)
    if args.json:
        print(json.dumps(totals(rows)))
    return 1 if any(row["difference"]["pathflip"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
