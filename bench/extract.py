"""End-to-end extraction against the same encoder fed by OpenSlide in a DataLoader.

    python bench/extract.py SLIDE… [--workers 2] [--tiles 400] [--repeat 3] [--encoders stain_texture,mean_colour]
                                   [--json]

Both sides are given the same tiles (256 px at 0.5 mpp), encode them with the same encoder in batches of 256 in the
main process, and write the same feature file:

* ``pathflip``   open, :func:`pathflip.features.extract` with ``--workers`` reading threads, write;
* ``baseline``   a torch ``DataLoader`` with ``--workers`` processes, each with ``read_region`` at the best level,
  ``convert("RGB")`` and a Pillow resize, as TRIDENT, CLAM and LazySlide do it.

Both run in a process set up as those of ``pathflip extract`` are (one thread, freed memory kept for the next array).
Rounds are interleaved and each side's best round counts. ``mean_colour`` costs almost nothing and shows what reading is
worth; ``stain_texture`` costs more than reading, and shows what is left of that. Seconds of the clock say little on a
machine that other work keeps busy, so processor seconds (of all processes and threads of a side) are given too.
``--json`` ends with one object: tiles_per_s, baseline_tiles_per_s, ratio and cpu_ratio over all slides together with
the first encoder, then the same for every encoder and slide, and where the time goes: reading alone, encoding alone.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pathflip.errors import PathFLIPError
from pathflip.features import extract, load_encoder, write_features
from pathflip.features.encoders import Encoder
from pathflip.features.extraction import read_tiles
from pathflip.features.workers import settle_worker
from pathflip.geometry import TileGrid, TileSpec, best_level
from pathflip.slide import find_tissue, open_slide, tile_slide
from pathflip.types import SlideFeatures

SPEC = TileSpec(256, 0.5)
BATCH = 256


class MeanColour:
    """The mean of each channel: an encoder that costs almost nothing."""

    name, revision, dim, tile_px, mpp, sample_tiles = "mean_colour", "1", 3, None, None, 0

    def prepare(self, sample: NDArray[np.uint8]) -> None:
        """Nothing to measure."""

    def encode(self, tiles: NDArray[np.uint8], state: Any = None) -> NDArray[np.float32]:
        """Means of every fourth pixel."""
        return np.asarray(tiles)[:, ::4, ::4].mean(axis=(1, 2), dtype=np.float32)


class Cost(NamedTuple):
    """Seconds of the clock, and of the processors (this process, its threads, its ended children)."""

    clock: float
    cpu: float

    @classmethod
    def now(cls) -> "Cost":
        """Both clocks."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in used))

    def since(self) -> "Cost":
        """What has passed since."""
        now = Cost.now()
        return Cost(now.clock - self.clock, now.cpu - self.cpu)


class RegionTiles(Dataset):
    """Tiles through ``openslide.read_region`` and Pillow; the slide is opened once in every worker."""

    def __init__(self, path: Path, grid: TileGrid, rows: NDArray[np.int64]) -> None:
        self.path, self.grid, self.rows, self.slide = path, grid, rows, None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        import openslide
        from PIL import Image

        if self.slide is None:
            self.slide = openslide.OpenSlide(self.path)
        level = best_level(tuple(self.slide.level_downsamples), self.grid.tile_px0 / SPEC.tile_px)
        side = round(self.grid.tile_px0 / self.slide.level_downsamples[level])
        x, y = self.grid.coords[self.rows[index]].tolist()
        region = self.slide.read_region((x, y), level, (side, side)).convert("RGB")
        return torch.from_numpy(np.array(region.resize((SPEC.tile_px, SPEC.tile_px), Image.Resampling.BILINEAR)))


def tiled(path: Path, most: int) -> TileGrid:
    """The slide's tiles, at most so many: neighbours, as in a whole slide."""
    with open_slide(path) as slide:
        grid = tile_slide(slide, find_tissue(slide), SPEC)
    start = max(0, (len(grid) - most) // 2)
    return TileGrid(grid.info, grid.spec, grid.coords[start : start + most])


def ours(path: Path, grid: TileGrid, encoder: Encoder, workers: int, out: Path) -> Cost:
    """From the file to the features."""
    start = Cost.now()
    with open_slide(path) as slide:
        features = extract(slide, grid, encoder, batch_size=BATCH, readers=workers)
    write_features(out / "ours.h5", features, settings={})
    return start.since()


def baseline(path: Path, grid: TileGrid, encoder: Encoder, workers: int, out: Path) -> Cost:
    """The same with OpenSlide in a DataLoader."""
    start = Cost.now()
    state = None
    if encoder.sample_tiles:
        rows = np.sort(np.random.default_rng(0).permutation(len(grid))[: encoder.sample_tiles])
        state = encoder.prepare(np.concatenate([b.numpy() for b in loader(path, grid, rows, workers)]))
    batches = loader(path, grid, np.arange(len(grid)), workers)
    matrix = np.concatenate([encoder.encode(batch.numpy(), state) for batch in batches])
    valid = np.ones(len(grid), bool)
    features = SlideFeatures(path.stem, matrix, grid.coords, valid, grid.info, grid.spec, encoder.name)
    write_features(out / "baseline.h5", features, settings={})
    return start.since()


def loader(path: Path, grid: TileGrid, rows: NDArray[np.int64], workers: int) -> DataLoader:
    """Batches in order; small enough that every worker has one."""
    size = max(1, min(BATCH, -(-len(rows) // max(1, workers))))
    return DataLoader(RegionTiles(path, grid, rows), batch_size=size, num_workers=workers)


def alone(path: Path, grid: TileGrid, encoder: Encoder) -> dict[str, float]:
    """Processor seconds of our reading alone and of encoding alone."""
    with open_slide(path) as slide:
        start = Cost.now()
        tiles, _ = read_tiles(slide, grid, np.arange(len(grid)))
        read = start.since()
    state = encoder.prepare(tiles[: encoder.sample_tiles]) if encoder.sample_tiles else None
    start = Cost.now()
    for row in range(0, len(tiles), BATCH):
        encoder.encode(tiles[row : row + BATCH], state)
    return {"read_cpu_s": read.cpu, "encode_cpu_s": start.since().cpu}


def measure(path: Path, encoder: Encoder, workers: int, most: int, repeat: int, out: Path) -> dict[str, Any]:
    """Best seconds of both sides on one slide."""
    grid = tiled(path, most)
    if len(grid) == 0:
        raise PathFLIPError(f"slide '{path.stem}': no tiles")
    rounds = [
        (ours(path, grid, encoder, workers, out), baseline(path, grid, encoder, workers, out)) for _ in range(repeat)
    ]
    best = {
        f"{side}_{clock}": min(getattr(costs[i], clock) for costs in rounds)
        for i, side in enumerate(("ours", "baseline"))
        for clock in ("clock", "cpu")
    }
    return {"slide": path.stem, "tiles": len(grid), **best, **alone(path, grid, encoder)}


def rates(rows: list[dict[str, Any]]) -> dict[str, float]:
    """All tiles over all seconds."""
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "slide"}
    return {
        "tiles_per_s": round(total["tiles"] / total["ours_clock"], 1),
        "baseline_tiles_per_s": round(total["tiles"] / total["baseline_clock"], 1),
        "ratio": round(total["baseline_clock"] / total["ours_clock"], 3),
        "cpu_ratio": round(total["baseline_cpu"] / total["ours_cpu"], 3),
        "read_cpu_ms": round(1000 * total["read_cpu_s"] / total["tiles"], 2),
        "encode_cpu_ms": round(1000 * total["encode_cpu_s"] / total["tiles"], 2),
    }


def main() -> int:
    """Measure, print a table, and with ``--json`` one object at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tiles", type=int, default=400, help="tiles per slide at most")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--encoders", default="stain_texture,mean_colour")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settle_worker()
    by_encoder: dict[str, Any] = {}
    columns = f"{'tiles/s':>8} {'baseline':>8} {'ratio':>6} {'cpu ratio':>9} {'read ms':>8} {'encode ms':>9}"
    print(f"{'encoder':<18}{'slide':<34} {'tiles':>6} {columns}")
    for name in args.encoders.split(","):
        rows = []
        with tempfile.TemporaryDirectory() as out:
            for path in args.slides:
                try:
                    encoder = MeanColour() if name == "mean_colour" else load_encoder(name)
                    rows.append(measure(path, encoder, args.workers, args.tiles, args.repeat, Path(out)))
                except PathFLIPError as error:
                    print(f"left out: {error}", file=sys.stderr)
        if not rows:
            print("no slide could be measured", file=sys.stderr)
            return 1
        for group in [*([row] for row in rows), rows]:
            r, tiles = rates(group), sum(row["tiles"] for row in group)
            slide = group[0]["slide"] if len(group) == 1 else f"all {len(rows)}"
            print(
                f"{name:<18}{slide[:33]:<34} {tiles:>6} {r['tiles_per_s']:>8.0f} {r['baseline_tiles_per_s']:>8.0f} "
                f"{r['ratio']:>6.2f} {r['cpu_ratio']:>9.2f} {r['read_cpu_ms']:>8.2f} {r['encode_cpu_ms']:>9.2f}"
            )
        by_encoder[name] = {**rates(rows), "slides": {row["slide"]: rates([row]) for row in rows}}
    if args.json:
        first = next(iter(by_encoder.values()))
        print(json.dumps({**{k: v for k, v in first.items() if k != "slides"}, "encoders": by_encoder}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
