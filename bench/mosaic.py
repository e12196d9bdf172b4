"""Encoders on composed slides of real tissue: grounding and retrieval of ``align_base`` on each one's features.

    python bench/mosaic.py --slides ../shared/data/slides --out mosaic

Regions of five real slides, marked by hand below, are cut into images of 70 µm and composed to a mosaic cohort
(docs/simulate.md); ``align_base`` is then trained on the features of each encoder and measured on the test patients.
Run again, it goes on where it stopped; ``--json`` ends with one object {measure: {encoder: value, chance: value}}.

A place (a, b, c or d) stands for a donor: places of one letter are all in training, validation or testing. Glands and
stroma are of another slide at each place, so the model meets a slide's tissue that it never learned from. The other
classes have one slide each at hand: there places are different parts of it, and colour alone tells the class.

Time: about 10 minutes on one core, a third of it EfficientNet (37 tiles a second).
"""

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pathflip.data.splits import read_splits
from pathflip.evaluate.simulated.measures import measures, read_cohort, score_model
from pathflip.features import Encoder, extract_cohort, load_encoder
from pathflip.features.concatenated import Concatenated
from pathflip.geometry import TileSpec
from pathflip.inference import load
from pathflip.io.files import write_json
from pathflip.recipes.align import align_base
from pathflip.recipes.settings import with_settings
from pathflip.simulate import World
from pathflip.simulate.mosaic import mosaic
from pathflip.simulate.tissue_classes import find_tissue_images
from pathflip.slide import open_slide
from pathflip.train.align_run import read_split, train_align

ENCODERS = ("stain_texture", "efficientnet_lite0", "efficientnet_lite0+stain_texture")
MPP, IMAGE_PX, TILE_PX, IMAGES_A_REGION = 1.1, 64, 64, 24
WHITE, MOST_WHITE = 225, 0.3
"""An image is left out where more of it than this is brighter in all colours; of fat, which is white, none is."""
COLON, LIPOMA = ("colon-crohn-disease.tif", None), ("colon-submucosal-lipoma.tif", 0.5)
DUODENUM, LUNG = ("duodenum-giardiasis.svs", None), ("lung-squamous-cell-carcinoma.svs", None)
PANCREAS = ("pancreas-ductal-adenocarcinoma.svs", None)
Region = tuple[str, tuple[str, float | None], tuple[int, int, int, int]]
REGIONS: dict[str, tuple[Region, ...]] = {
    "normal_glands": (
        ("a", COLON, (4650, 1900, 750, 1900)),
        ("a", COLON, (1300, 6200, 1000, 1200)),
        ("b", LIPOMA, (900, 6100, 4200, 700)),
        ("b", LIPOMA, (2500, 1500, 1700, 900)),
        ("c", DUODENUM, (4700, 12800, 4000, 1400)),
        ("c", DUODENUM, (6000, 2400, 1700, 2000)),
    ),
    "fibrous_stroma": (
        ("a", LUNG, (3500, 3200, 2100, 2800)),
        ("a", LUNG, (2300, 9500, 2300, 1800)),
        ("b", PANCREAS, (6450, 3250, 450, 650)),
        ("b", PANCREAS, (2700, 9250, 450, 900)),
        ("c", DUODENUM, (4900, 12050, 1900, 500)),
        ("d", LIPOMA, (2840, 5790, 400, 180)),
    ),
    "adipose_tissue": (
        ("a", LIPOMA, (9000, 1500, 4000, 1300)),
        ("b", LIPOMA, (8800, 3300, 4600, 1200)),
        ("c", LIPOMA, (9200, 5000, 3600, 1300)),
    ),
    "lymphoid_aggregates": (
        ("a", COLON, (3250, 5000, 800, 700)),
        ("b", COLON, (7200, 2250, 700, 900)),
        ("c", COLON, (9500, 6700, 500, 1000)),
        ("d", COLON, (8900, 4000, 550, 500)),
    ),
    "squamous_cell_carcinoma": (
        ("a", LUNG, (7700, 6100, 2300, 1700)),
        ("b", LUNG, (10400, 6300, 1700, 2200)),
        ("c", LUNG, (11000, 8700, 2200, 1600)),
        ("d", LUNG, (14400, 7500, 900, 1100)),
    ),
    "adenocarcinoma": (
        ("a", PANCREAS, (1250, 7800, 600, 700)),
        ("b", PANCREAS, (2000, 9650, 600, 750)),
        ("c", PANCREAS, (4800, 5950, 550, 650)),
    ),
}
"""Class of tissue -> place, slide with its microns per pixel where the file says none, and x, y, width, height at
level 0."""


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, required=True, help="the folder of the five real slides")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoders", default=",".join(ENCODERS))
    parser.add_argument("--num-slides", type=int, default=96)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*may tell who somebody is")
    out: Path = arguments.out
    if not (out / "classes").is_dir():
        cut_regions(arguments.slides, out / "classes")
    world = World("mosaic", arguments.seed, arguments.num_slides, slide_px=640, mpp=MPP, tile_px=TILE_PX)
    images = find_tissue_images(out / "classes", donor_pattern=r"/([a-d])_\d+\.png$")
    mosaic(world, images, out / "cohort", mpp=MPP, num_workers=1)
    values: dict[str, dict[str, float]] = {}
    for encoder in arguments.encoders.split(","):
        for measure, own in measure_encoder(encoder, out, arguments.steps, arguments.seed).items():
            values.setdefault(measure, {"chance": own["chance"]})[encoder] = own["value"]
    counts = dict.fromkeys(("train", "val", "test"), 0) | Counter(read_splits(out / "cohort" / "splits.csv").values())
    print(", ".join(f"{number} slides of {split}" for split, number in counts.items()))
    print(table(values))
    if arguments.json:
        print(json.dumps(values))


class Remembered:
    """An encoder of single tiles that computes each tile once, for every set of features it is part of."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.name, self.revision, self.dim = encoder.name, encoder.revision, encoder.dim
        self.tile_px, self.mpp, self.sample_tiles = encoder.tile_px, encoder.mpp, 0
        self.vectors: dict[bytes, NDArray[np.float32]] = {}

    def prepare(self, sample: NDArray[np.uint8]) -> None:
        """Nothing of a slide is measured."""

    def encode(self, tiles: NDArray[np.uint8] | torch.Tensor, state: Any = None) -> NDArray[np.float32]:
        """Vectors (n, dim) of tiles (n, px, px, 3)."""
        array = np.asarray(tiles)
        keys = [sha256(tile.tobytes()).digest() for tile in array]
        new = [i for i, key in enumerate(keys) if key not in self.vectors]
        if new:
            self.vectors |= zip((keys[i] for i in new), self.encoder.encode(array[new]), strict=True)
        return np.stack([self.vectors[key] for key in keys])


@cache
def load_once(name: str) -> Encoder:
    """An encoder by name; one that measures nothing of a slide remembers its tiles. ``A+B`` is made of both."""
    parts = name.split("+")
    if len(parts) > 1:
        return Concatenated([load_once(part) for part in parts])
    encoder = load_encoder(name)
    return encoder if encoder.sample_tiles else Remembered(encoder)


def cut_regions(slides: Path, out: Path) -> None:
    """Images of every class, at seeded places of its regions: ``CLASS/PLACE_NUMBER.png``."""
    rng = np.random.default_rng(0)
    for name, regions in REGIONS.items():
        (out / name).mkdir(parents=True)
        for number, (place, (file, mpp), box) in enumerate(regions):
            with open_slide(slides / file, slide_mpp=mpp) as slide:
                side = IMAGE_PX * MPP / slide.info.mpp0
                x, y, width, height = box
                corners = rng.uniform((x, y), (x + width - side, y + height - side), (4 * IMAGES_A_REGION, 2))
                cut = (slide.read_box(*corner, side, side, (IMAGE_PX, IMAGE_PX)) for corner in corners)
                usable = [image for image in cut if name == "adipose_tissue" or not is_white(image)]
            for i, image in enumerate(usable[:IMAGES_A_REGION]):
                file_name = f"{place}_{number * IMAGES_A_REGION + i}.png"
                cv2.imwrite(str(out / name / file_name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def is_white(image: NDArray[np.uint8]) -> bool:
    """Whether an image is a gap rather than tissue."""
    return float((image.min(axis=2) > WHITE).mean()) > MOST_WHITE


def measure_encoder(encoder: str, out: Path, steps: int, seed: int) -> dict[str, dict[str, float]]:
    """``align_base`` trained on an encoder's features and measured on the test patients: value and chance."""
    target = out / "measured" / f"{encoder}.json"
    if target.is_file():
        known: dict[str, dict[str, float]] = json.loads(target.read_text())
        return known
    slides = sorted((out / "cohort" / "slides").glob("*.tif"))
    done = extract_cohort(slides, TileSpec(TILE_PX, MPP), load_once(encoder), out)
    files = [one.path for one in done if one.status in ("done", "skipped")]
    parts = read_split(files, out / "cohort" / "captions.jsonl", out / "cohort" / "splits.csv")
    recipe = with_settings(align_base(), [f"train.steps={steps}", f"train.seed={seed}"])
    run = out / "runs" / encoder
    train_align(recipe, *parts["train"], run, store=out / "packed" / encoder, resume=True)
    cohort = read_cohort(out / "cohort", files[0].parent, "test")
    everyone = np.arange(len(cohort.slides))
    measured = measures(score_model(encoder, load(run), cohort), cohort)
    numbers = {one.name: {"value": float(one.of(everyone)), "chance": float(one.chance)} for one in measured}
    write_json(target, numbers)
    return numbers


def table(values: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: a row a measure, a column an encoder, chance last."""
    encoders = [*(name for name in next(iter(values.values())) if name != "chance"), "chance"]
    lines = [f"| measure | {' | '.join(encoders)} |", "|---" * (len(encoders) + 1) + "|"]
    for measure, by_encoder in values.items():
        cells = " | ".join(f"{by_encoder[encoder]:.3f}" for encoder in encoders)
        lines.append(f"| {measure} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
