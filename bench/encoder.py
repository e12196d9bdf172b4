"""What encoders are worth: 5-nearest-neighbour tissue and slide classification, and tiles a second.

    python bench/encoder.py                                  # simulates 24 small cases for the tissue task
    python bench/encoder.py --world runs/demo/world --data ../shared/data --json

Tissue: tiles of simulated slides, classed by the painted truth, two folds by patient. Slides: which real slide a tile
is from, neighbours taken from the spatially separated other half of the slides. Every encoder is scored on its
vectors as they are and standardised on the reference tiles; the better counts. Balanced accuracy throughout.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from pathflip.errors import PathFLIPError
from pathflip.features import Encoder, load_encoder
from pathflip.features.extraction import read_tiles
from pathflip.features.texture import describe, estimate_stains
from pathflip.geometry import TileGrid, TileSpec
from pathflip.slide import find_tissue, open_slide, tile_slide

ASSUMED_MPP = {"colon-submucosal-lipoma": 0.5, "head-neck-frozen-section-no-mpp": 0.5}
SPECS = (TileSpec(256, 0.5), TileSpec(64, 2.0))
CALIBRATION_WEIGHT = {"joint_re": 4.0}
Tiles = dict[str, NDArray[Any]]
"""tiles uint8 (n, px, px, 3); group (n,) slide; target (n,) class; fold (n,) 0 or 1, -1 for neither."""


def real_slides(folder_name: str | None) -> Path | None:
    """The folder of real slides, or None."""
    folder = Path(folder_name or os.environ.get("PATHFLIP_REAL_DATA") or Path(__file__).parents[1] / "../shared/data")
    return folder / "slides" if (folder / "slides").is_dir() else None


def slide_task(folder: Path, spec: TileSpec, per_slide: int) -> Tiles:
    """Tiles of every usable real slide; halves by the longer axis with a tenth left out between them."""
    parts: dict[str, list[NDArray[Any]]] = {"tiles": [], "group": [], "half": []}
    for path in sorted(folder.iterdir()):
        try:
            with open_slide(path, slide_mpp=ASSUMED_MPP.get(path.stem)) as slide:
                grid = tile_slide(slide, find_tissue(slide), spec)
                rows = np.sort(np.random.default_rng(0).permutation(len(grid))[:per_slide])
                tiles, readable = read_tiles(slide, grid, rows)
        except PathFLIPError as error:
            print(f"  left out at {spec.mpp:g} mpp: {type(error).__name__}: {path.name}")
            continue
        if len(rows) < 20:
            continue
        along = grid.coords[rows][:, np.ptp(grid.coords[rows], axis=0).argmax()][readable]
        low, high = np.quantile(along, [0.45, 0.55])
        parts["tiles"].append(tiles[readable])
        parts["group"].append(np.full(len(along), path.stem))
        parts["half"].append(np.where(along < low, 0, np.where(along > high, 1, -1)))
    task = {key: np.concatenate(values) for key, values in parts.items()}
    half = task.pop("half")
    return task | {"target": task["group"], "fold": half}


def tissue_task(world: Path, limit: int) -> Tiles:
    """Tiles at least three quarters of one painted class (tumours by type), folds by patient."""
    parts: dict[str, list[Any]] = {"tiles": [], "group": [], "target": [], "patient": []}
    with (world / "splits.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows[:limit]:
        _add_painted(world, row, parts)
    task = {key: np.concatenate(values) for key, values in parts.items()}
    keep = _at_most(task["target"], task["group"], 25)
    task = {key: values[keep] for key, values in task.items()}
    patients = np.random.default_rng(0).permutation(np.unique(task["patient"]))
    return task | {"fold": np.isin(task.pop("patient"), patients[: len(patients) // 2]).astype(int)}


def _add_painted(world: Path, row: dict[str, str], parts: dict[str, list[Any]]) -> None:
    record = json.loads((world / "truth" / f"{row['slide']}.json").read_text(encoding="utf-8"))
    names = np.array([record["plan"]["tumour"] if name == "tumour" else name for name in record["labels"]], dtype=str)
    labels = cv2.imread(str(world / "truth" / f"{row['slide']}.png"), cv2.IMREAD_UNCHANGED)
    spec, side = TileSpec(64, record["mpp"]), 64 // record["downsample"]
    height, width = labels.shape[0] // side, labels.shape[1] // side
    blocks = labels.reshape(height, side, width, side).transpose(0, 2, 1, 3).reshape(height * width, -1)
    counts = np.stack([(blocks == k).sum(axis=1) for k in range(len(names))], axis=1)
    concepts = names[counts.argmax(axis=1)]
    pure = (counts.max(axis=1) >= 0.75 * side * side) & ~np.isin(concepts, ["glass", "artefact"])
    y, x = np.divmod(np.flatnonzero(pure), width)
    with open_slide(world / "slides" / f"{row['slide']}.tif") as slide:
        grid = TileGrid(slide.info, spec, np.stack([x, y], axis=1).astype(np.int64) * 64)
        parts["tiles"].append(read_tiles(slide, grid, np.arange(len(grid)))[0])
    parts["group"].append(np.full(len(grid), row["slide"]))
    parts["target"].append(concepts[pure])
    parts["patient"].append(np.full(len(grid), row["patient"]))


def _at_most(target: NDArray[Any], group: NDArray[Any], count: int) -> NDArray[np.int64]:
    rng, rows_of_groups = np.random.default_rng(0), []
    for pair in sorted(set(zip(target.tolist(), group.tolist(), strict=True))):
        rows = np.flatnonzero((target == pair[0]) & (group == pair[1]))
        rows_of_groups.append(rng.permutation(rows)[:count])
    return np.concatenate(rows_of_groups)


def vectors(encoder: Encoder, task: Tiles) -> NDArray[np.float32]:
    """Features of a task's tiles, slide by slide (an encoder may measure each slide's staining)."""
    out = np.zeros((len(task["tiles"]), encoder.dim), np.float32)
    for group in np.unique(task["group"]):
        rows = np.flatnonzero(task["group"] == group)
        state = encoder.prepare(task["tiles"][rows[:64]]) if encoder.sample_tiles else None
        for part in np.array_split(rows, max(1, len(rows) // 128)):
            out[part] = encoder.encode(task["tiles"][part], state)
    return out


def score(matrix: NDArray[np.float32], task: Tiles) -> float:
    """Balanced accuracy of 5 nearest neighbours, mean of both folds; the better of plain and standardised."""
    results: list[list[float]] = [[], []]
    for fold in (0, 1):
        reference = task["fold"] == fold
        query = (task["fold"] == 1 - fold) & np.isin(task["target"], np.unique(task["target"][reference]))
        mean, std = matrix[reference].mean(axis=0), matrix[reference].std(axis=0) + 1e-4
        for scaled, values in enumerate((matrix, (matrix - mean) / std)):
            model = KNeighborsClassifier(5).fit(values[reference], task["target"][reference])
            results[scaled].append(balanced_accuracy_score(task["target"][query], model.predict(values[query])))
    return float(max(np.mean(results[0]), np.mean(results[1])))


def calibrate(tasks: dict[str, Tiles]) -> None:
    """Print CENTRE and SPREAD for features/texture_scale.py, from the raw descriptor of every task's tiles."""
    groups: dict[str, list[NDArray[np.float32]]] = {}
    for task in tasks.values():
        for group in np.unique(task["group"]):
            tiles = task["tiles"][task["group"] == group]
            for name, values in describe(torch.as_tensor(tiles), estimate_stains(tiles[:64])).items():
                groups.setdefault(name, []).append(values.t().numpy())
    centre, spread = [], []
    for name, parts in groups.items():
        values = np.concatenate(parts)
        centre += values.mean(axis=0).tolist()
        spread += (np.maximum(values.std(axis=0), 0.01) / CALIBRATION_WEIGHT.get(name, 1.0)).tolist()
    for label, numbers in (("CENTRE", centre), ("SPREAD", spread)):
        print(f"{label} = ({', '.join(f'{number:.3g}' for number in numbers)})")


def speed(encoder: Encoder, px: int, seconds: float = 4.0) -> tuple[float, float]:
    """Tiles a second by the clock, and a second of processor time (fair on a machine that others load too).

    One thread a core, each encoding batches of its own, as extraction runs one process a core.
    """
    cores = os.cpu_count() or 1
    tiles = np.random.default_rng(0).integers(0, 256, (128, px, px, 3), dtype=np.uint8)
    encoder.encode(tiles)
    clock, cpu = time.perf_counter(), time.process_time()

    def run(_: int) -> int:
        done = 0
        while time.perf_counter() - clock < seconds:
            done += len(encoder.encode(tiles))
        return done

    with ThreadPoolExecutor(cores) as pool:
        done = sum(pool.map(run, range(cores)))
    return done / (time.perf_counter() - clock), done / (time.process_time() - cpu)


def simulated_world(folder: str, cases: int) -> Path:
    """A small cohort to measure on."""
    from pathflip.simulate import World, simulate

    print(f"simulating {cases} cases (give --world to use a cohort you have)")
    simulate(World("encoder", 0, cases), folder, num_workers=2)
    return Path(folder)


def main() -> None:
    """Print the table; with --json, one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", help="folder of a simulated cohort; default: simulate one")
    parser.add_argument("--cases", type=int, default=24, help="cases used of it")
    parser.add_argument(
        "--data", help="folder with slides/ of real slides; default PATHFLIP_REAL_DATA or ../shared/data"
    )
    parser.add_argument("--per-slide", type=int, default=150, help="tiles of a real slide")
    parser.add_argument("--encoders", default="stain_texture,colour_histogram,random_resnet18")
    parser.add_argument("--calibrate", action="store_true", help="print the constants of features/texture_scale.py")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # see speed()
    tasks: dict[str, Tiles] = {}
    with tempfile.TemporaryDirectory() as temporary:
        world = Path(arguments.world) if arguments.world else simulated_world(temporary, arguments.cases)
        tasks["tissue"] = tissue_task(world, arguments.cases)
    folder = real_slides(arguments.data)
    if folder is None:
        print("real slides: absent (give --data or set PATHFLIP_REAL_DATA); only the simulated task is measured")
    for spec in SPECS if folder else ():
        tasks[f"slides_{spec.tile_px}px"] = slide_task(folder, spec, arguments.per_slide)
    for name, task in tasks.items():
        classes = len(np.unique(task["target"]))
        print(f"{name}: {len(task['tiles'])} tiles, {classes} classes (chance {1 / classes:.3f})")
    if arguments.calibrate:
        calibrate(tasks)
        return
    rows = [measure(name, tasks) for name in arguments.encoders.split(",")]
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    print(f"{cores} cores, load {load:.1f} while measuring, torch threads {torch.get_num_threads()}")
    if load > cores:
        print("the machine is loaded by others: compare tiles per processor second × cores, not the clock")
    if arguments.json:
        print(json.dumps({"encoders": rows, "cores": cores, "load": load}))


def measure(name: str, tasks: dict[str, Tiles]) -> dict[str, Any]:
    """One row of the table, printed as it is done."""
    encoder = load_encoder(name)
    row: dict[str, Any] = {"encoder": name, "dim": encoder.dim}
    row |= {task: round(score(vectors(encoder, tiles), tiles), 4) for task, tiles in tasks.items()}
    for px in (256, 64):
        clock, cpu = speed(encoder, px)
        row |= {f"tiles_per_s_{px}px": round(clock), f"tiles_per_cpu_s_{px}px": round(cpu)}
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
