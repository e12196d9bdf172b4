"""Slides composed of real H&E tiles: the case grammar of the painted cohort over textures that no painter made.

A case is planned and laid out as in the painted cohort; every class of tissue on it is then filled with real images of
that class (``quilt``), of donors of the slide's own split. What the slide shows where is known to half a pixel of the
label map, because the map is taken from the finished composition. Grade and growth pattern are not known of real
images, so neither plan nor report speaks of them.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from pathflip.errors import ConfigError
from pathflip.io.files import write_json
from pathflip.simulate.cases import plan_cases
from pathflip.simulate.layout import lay_out
from pathflip.simulate.painted_cohort import Progress, run_plans, write_case
from pathflip.simulate.quilt import alike, quilt
from pathflip.simulate.tissue_classes import TissueClass, TissueImages, split_donors
from pathflip.simulate.world import LABELS, SPLITS, TUMOUR_ONLY, CasePlan, PlacedFinding, World

__all__ = ["MosaicSpec", "compose", "mosaic"]

MOST_IMAGES = 300
"""Images of a class and split that a cohort is made of, at most (a seeded sample)."""
TILES_A_SLIDE = 12
"""Of these, images of one class on one slide: near each other in colour, so that its stain is one."""
GROUNDS = ("fibrous_stroma", "hyalinised_collagen", "smooth_muscle", "normal_glands", "adipose_tissue")
"""What the tissue between findings is, the first for which there are images."""
GLASS = (243, 242, 244)
SOFT_CELLS = 0.9
"""How much outlines are rounded, in cells of the label map."""
LEAST_PX = 16
"""Side of an image at the slides' resolution, at least."""


@dataclass(frozen=True)
class MosaicSpec:
    """What the slides of a mosaic cohort are made of.

    Attributes:
        pools: (class, split) -> the images that slides of that split show of that class.
        scale: by how much images are reduced. ground: the label of tissue without a finding.
    """

    pools: Mapping[tuple[TissueClass, str], tuple[Path, ...]]
    scale: float
    ground: str

    def tiles(self, one: TissueClass, split: str, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
        """Images of a class for one slide, near each other in colour."""
        return alike(_squares(self.pools[one, split], self.scale), TILES_A_SLIDE, rng)


def mosaic(
    world: World,
    images: TissueImages,
    out: str | Path,
    *,
    mpp: float,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a cohort of real tissue to ``out``, in the folders and tables of :func:`pathflip.simulate.simulate`.

    ``mosaic.json`` beside ``world.json`` says which classes, how many images and donors, and how donors are split.

    Args:
        world: size, resolution and seed. images: what to compose of.
        mpp: microns per pixel of the images; they are reduced to the world's, never enlarged.

    Returns:
        The content of ``mosaic.json``.

    Raises:
        ConfigError: too few classes or donors, images coarser than the world, or ``out`` holds another world.
    """
    if not (0 < mpp <= world.mpp * 1.01):
        raise ConfigError(
            f"mosaic: images of {mpp:g} µm a pixel, slides of {world.mpp:g}; images are never enlarged: expected "
            f"--classes-mpp of at most {world.mpp:g}, or a larger --mpp"
        )
    labels = {one.label for one in images.images}
    ground = next((name for name in GROUNDS if name in labels), "")
    if not ground or len(_placeable(images, ground)) + len(images.tumours) < 1:
        raise ConfigError(
            f"mosaic: got images of {', '.join(sorted(labels)) or 'nothing'}; expected one of {', '.join(GROUNDS)} for "
            "the ground, and a tumour or another finding to lie in it"
        )
    spec = MosaicSpec(_pools(images, world), mpp / world.mpp, ground)
    facts = _facts(images, spec, mpp)
    _claim_images(Path(out) / "mosaic.json", facts)
    run_plans(world, _plans(world, images, ground), out, partial(compose_case, spec=spec), num_workers, progress)
    return facts


def _pools(images: TissueImages, world: World) -> dict[tuple[TissueClass, str], tuple[Path, ...]]:
    """A seeded sample of each class's images for each split, of that split's donors alone."""
    split_of = split_donors(images, world.rng("donors"))
    pools = {}
    for one, pairs in images.images.items():
        for split in SPLITS:
            own = [file for file, donor in pairs if split_of[donor] == split]
            order = world.rng("images", str(one), split).permutation(len(own))[:MOST_IMAGES]
            pools[one, split] = tuple(own[i] for i in sorted(order))
    return pools


def _claim_images(file: Path, facts: dict[str, Any]) -> None:
    """Write mosaic.json, or check that the one there says the same: one cohort is of one set of images."""
    if not file.exists():
        write_json(file, facts)
    elif json.loads(file.read_text(encoding="utf-8")) != json.loads(json.dumps(facts)):
        raise ConfigError(
            f"'{file.parent}' already holds a mosaic of other images, donors or resolution; give an empty folder"
        )


def _facts(images: TissueImages, spec: MosaicSpec, mpp: float) -> dict[str, Any]:
    rows = [
        {
            "label": one.label,
            "tumour": one.tumour,
            **{f"{split}_images": len(spec.pools[one, split]) for split in SPLITS},
            "donors": len({donor for _, donor in pairs}),
        }
        for one, pairs in images.images.items()
    ]
    return {
        "classes": rows,
        "ground": spec.ground,
        "images_mpp": mpp,
        "left_out": list(images.left_out),
        "donors_known": images.donors_known,
        "images_digest": zlib.crc32(repr(sorted((str(k), v) for k, v in spec.pools.items())).encode()),
        "caution": "real tissue, composed: what lies beside what is invented, and so are the reports",
    }


def _placeable(images: TissueImages, ground: str) -> tuple[str, ...]:
    return tuple(name for name in images.findings if name != ground)


def _plans(world: World, images: TissueImages, ground: str) -> list[CasePlan]:
    """The painted cohort's plans, of the classes there are: sizes and places stay, names are drawn anew."""
    plans = []
    for plan in plan_cases(world):
        rng = world.rng("mosaic", plan.slide_id)
        tumour = None
        if plan.tumour is not None and images.tumours:
            types = images.tumours
            tumour = types[zlib.crc32(plan.patient.encode()) % len(types)]
        names = [n for n in _placeable(images, ground) if tumour is not None or n not in TUMOUR_ONLY]
        drawn = [names[i] for i in rng.permutation(len(names))]
        most = max(1, len(names) - 1) if len(names) > 1 else len(names)  # something stays absent
        findings = tuple(
            PlacedFinding(name, old.fraction, old.place)
            for name, old in zip(drawn[:most], plan.findings[:most], strict=False)
        )
        fraction = plan.tumour_fraction if tumour is not None else 0.0
        plans.append(replace(plan, tumour=tumour, grade=0, pattern=None, tumour_fraction=fraction, findings=findings))
    return plans


def compose_case(plan: CasePlan, world: World, out: Path, spec: MosaicSpec) -> None:
    """Compose one slide and write everything about it."""
    rgb, labels = compose(plan, world, spec)
    write_case(plan, world, out, rgb, labels)


def compose(plan: CasePlan, world: World, spec: MosaicSpec) -> tuple[UInt8[np.ndarray, "s s 3"], NDArray[np.uint8]]:
    """The picture of a slide, and its label map (one pixel is ``world.label_px`` of the picture)."""
    rng = np.random.default_rng(np.random.SeedSequence([world.seed, plan.seed]))
    planned = lay_out(plan, world, rng).labels
    planned[planned == LABELS.index("fibrous_stroma")] = LABELS.index(spec.ground)
    shown = _smooth(planned, world.label_px)
    rgb = _glass(plan, world, spec, rng)
    for label in np.unique(shown):
        name = LABELS[int(label)]
        if name == "glass":
            continue
        mask = shown == label
        one = TissueClass(name, plan.tumour) if name == "tumour" else TissueClass(name)
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        window = (slice(y, y + height), slice(x, x + width))
        picture = quilt(spec.tiles(one, plan.split, rng), mask[window], rng)
        alpha = cv2.GaussianBlur(mask[window].astype(np.float32), (0, 0), 1.0)[..., None]
        alpha = np.where(mask[window][..., None], np.maximum(alpha, 0.5), 0.0)
        rgb[window] = np.rint(rgb[window] + alpha * (picture.astype(np.float32) - rgb[window])).astype(np.uint8)
    return rgb, _majority(shown, world.label_px)


def _glass(plan: CasePlan, world: World, spec: MosaicSpec, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Empty glass: real where there are images of it, else an even near-white with a little noise."""
    side = world.slide_px
    if (TissueClass("glass"), plan.split) in spec.pools:
        return quilt(spec.tiles(TissueClass("glass"), plan.split, rng), np.ones((side, side), bool), rng)
    noise = rng.integers(-2, 3, (side, side, 1))
    return np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)


def _smooth(planned: NDArray[np.uint8], label_px: int) -> NDArray[np.uint8]:
    """The label of every pixel: outlines of the map's cells made round, by about half a cell."""
    side = len(planned) * label_px
    best = np.full((side, side), -1.0, np.float32)
    shown = np.zeros((side, side), np.uint8)
    for label in np.unique(planned):
        blurred = cv2.GaussianBlur((planned == label).astype(np.float32), (0, 0), SOFT_CELLS)
        share = cv2.resize(blurred, (side, side), interpolation=cv2.INTER_LINEAR)
        higher = share > best
        best[higher], shown[higher] = share[higher], label
    return shown


def _majority(shown: NDArray[np.uint8], label_px: int) -> NDArray[np.uint8]:
    """The most frequent label in every square of ``label_px`` pixels."""
    side = len(shown) // label_px
    blocks = shown.reshape(side, label_px, side, label_px).transpose(0, 2, 1, 3).reshape(side, side, -1)
    counts = np.stack([(blocks == label).sum(-1) for label in range(len(LABELS))], axis=-1)
    return counts.argmax(-1).astype(np.uint8)


@lru_cache(maxsize=64)
def _squares(files: tuple[Path, ...], scale: float) -> tuple[NDArray[np.uint8], ...]:
    """Images as RGB squares of one side at the slide's resolution.

    Raises:
        ConfigError: none can be read, or they are smaller than a few cells at that resolution.
    """
    read = [picture for file in files if (picture := _read(file)) is not None]
    if not read:
        raise ConfigError(f"mosaic: none of {len(files)} images can be read (first '{files[0] if files else ''}')")
    sides = sorted(min(picture.shape[:2]) for picture in read)
    side = sides[len(sides) // 4]  # some smaller ones give way to a larger common square
    target = int(side * scale)
    if target < LEAST_PX:
        raise ConfigError(
            f"mosaic: images like '{files[0]}' are {target} px wide at the slides' resolution; expected at least "
            f"{LEAST_PX}: choose a finer --mpp"
        )
    squares = []
    for picture in read:
        height, width = picture.shape[:2]
        if min(height, width) >= side:
            y, x = (height - side) // 2, (width - side) // 2
            square = picture[y : y + side, x : x + side]
            resized = cv2.resize(square, (target, target), interpolation=cv2.INTER_AREA)
            squares.append(np.asarray(resized, np.uint8))
    return tuple(squares)


def _read(file: Path) -> NDArray[np.uint8] | None:
    """An image as RGB; None where it is damaged."""
    try:
        data = np.fromfile(file, np.uint8)
    except OSError:
        return None
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    return None if picture is None else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
