"""Features and reports of a large cohort, simulated: ``python bench/large_cohort.py --out large [--slides 5000]``.

Nothing is painted: patch features are drawn, so that five thousand slides take minutes. A slide is one to four pieces
of tissue of 100 to 700 tiles in all. Its features are one of eight tissues, noise, and a shift of the whole slide (its
staining); two to four of twelve findings each change a patch of neighbouring tiles, 3 to 15 % of the slide. The report
names what is there and denies two things that are not. What comes out:

- ``features/slide-00000.h5`` …: feature files of the encoder ``simulated``, 64 numbers a tile of 256 px at 0.5 mpp;
- ``captions.csv``: slide, patient, text; ``splits.csv``: slide, patient, split (four fifths train, by patient);
- ``labels.csv``: slide, patient, organ, age, split, findings (the truth, to check what a search brings).
"""

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathflip.features import write_features
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.types import SlideFeatures

DIM, TILE_PX, SIDE = 64, 256, 120
ORGANS = ("lung", "colon", "breast", "kidney", "skin")
FINDINGS = ("keratin pearls", "necrosis", "mucin pools", "lymphocytes", "calcification", "giant cells",
            "clear cells", "mitoses", "haemorrhage", "fibrosis", "papillary fronds", "vascular invasion")  # fmt: skip
ONE = {"necrosis", "calcification", "haemorrhage", "fibrosis", "vascular invasion"}
PRESENT = ("{0} {1} seen.", "There {1} {2}.", "{0} {1} present.", "The section shows {2}.")
ABSENT = ("No {2} {1} identified.", "There {1} no {2}.", "{0} {1} absent.")
Numbers = NDArray[np.float32]


def main() -> None:
    """Make the cohort."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--slides", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, tiles = time.monotonic(), 0
    world = np.random.default_rng([options.seed, 1]).standard_normal((8 + len(FINDINGS), DIM)).astype(np.float32)
    captions, splits, labels = [], [], []
    for number in range(options.slides):
        rng = np.random.default_rng([options.seed, 2, number])
        name, patient = f"slide-{number:05d}", f"P{number // 2:05d}"
        present = sorted(rng.choice(len(FINDINGS), int(rng.integers(2, 5)), replace=False).tolist())
        slide = draw_slide(name, present, world, rng)
        write_features(options.out / "features" / f"{name}.h5", slide)
        tiles += len(slide.coords)
        split = "test" if number // 2 % 5 == 0 else "train"
        captions.append({"slide": name, "patient": patient, "text": report(present, rng)})
        splits.append({"slide": name, "patient": patient, "split": split})
        facts = {"organ": ORGANS[int(rng.integers(len(ORGANS)))], "age": int(rng.integers(30, 90)), "split": split}
        labels.append({"slide": name, "patient": patient, **facts, "findings": "; ".join(FINDINGS[i] for i in present)})
    for file, rows in (("captions", captions), ("splits", splits), ("labels", labels)):
        write_table(options.out / f"{file}.csv", rows)
    seconds = time.monotonic() - started
    print(f"{options.slides:,} slides, {tiles:,} tiles of {DIM} numbers, {seconds:.0f} s")


def draw_slide(name: str, present: Sequence[int], world: Numbers, rng: np.random.Generator) -> SlideFeatures:
    """Features of one slide on pieces of tissue of a square lattice."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    tissue = np.zeros((SIDE, SIDE), bool)
    for _ in range(int(rng.integers(1, 5))):
        y, x = rng.uniform(15, SIDE - 15, 2)
        tissue |= np.hypot((rows - y) / rng.uniform(4, 9), (columns - x) / rng.uniform(4, 9)) < 1
    cells = np.argwhere(tissue)
    count = len(cells)
    features = world[rng.integers(8)] + rng.standard_normal((count, DIM)).astype(np.float32)
    features += 0.5 * rng.standard_normal(DIM).astype(np.float32)
    for finding in present:
        middle = cells[rng.integers(count)]
        near = np.argsort(np.hypot(*(cells - middle).T))[: max(3, int(count * rng.uniform(0.03, 0.15)))]
        features[near] += world[8 + finding]
    info = SlideInfo(name, (SIDE * TILE_PX, SIDE * TILE_PX), 0.5, (1.0,), "simulated", "simulated")
    coords = cells[:, ::-1].astype(np.int64) * TILE_PX
    return SlideFeatures(name, features, coords, np.ones(count, bool), info, TileSpec(TILE_PX, 0.5), "simulated")


def report(present: Sequence[int], rng: np.random.Generator) -> str:
    """Sentences on all findings that are there, and on two that are not."""
    absent = rng.choice([i for i in range(len(FINDINGS)) if i not in present], 2, replace=False)
    lines = [sentence(PRESENT, i, rng) for i in present] + [sentence(ABSENT, int(i), rng) for i in absent]
    return " ".join(lines[i] for i in rng.permutation(len(lines)))


def sentence(forms: Sequence[str], finding: int, rng: np.random.Generator) -> str:
    """One of several wordings."""
    name = FINDINGS[finding]
    return forms[int(rng.integers(len(forms)))].format(name.capitalize(), "is" if name in ONE else "are", name)


def write_table(path: Path, rows: Sequence[dict[str, str | int]]) -> None:
    """A CSV file."""
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
