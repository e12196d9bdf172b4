"""What exists in the synthetic world, and the plan of one case: the words painter, truth and reports share.

A world is a name and a seed: ``World.named("demo", seed=0)`` is the same cohort on every machine.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pathflip.errors import ConfigError

__all__ = [
    "BENIGN_FRACTION",
    "CONCEPTS",
    "EXTENTS",
    "FINDINGS",
    "GRADES",
    "LABELS",
    "PATTERNS",
    "PLACES",
    "SCATTERED",
    "SPLITS",
    "TUMOUR_ONLY",
    "TUMOUR_TYPES",
    "CasePlan",
    "Measured",
    "PlacedFinding",
    "World",
    "compass",
    "extent_of",
    "far_places",
]

TUMOUR_TYPES = (
    "adenocarcinoma",
    "squamous_cell_carcinoma",
    "small_cell_carcinoma",
    "clear_cell_carcinoma",
    "melanoma",
)
GRADES = (1, 2, 3)
PATTERNS = ("glandular", "papillary", "solid_nests", "single_files")
FINDINGS = (
    "keratin_pearls",
    "mucin_pools",
    "necrosis",
    "lymphoid_aggregates",
    "tumour_infiltrating_lymphocytes",
    "vascular_invasion",
    "perineural_invasion",
    "desmoplastic_stroma",
    "hyalinised_collagen",
    "smooth_muscle",
    "adipose_tissue",
    "normal_glands",
    "haemorrhage",
    "calcification",
    "multinucleated_giant_cells",
    "foamy_macrophages",
    "eosinophil_infiltrate",
    "neutrophil_abscess",
    "cystic_spaces",
    "haemosiderin_pigment",
)
TUMOUR_ONLY = frozenset(
    {
        "keratin_pearls",
        "tumour_infiltrating_lymphocytes",
        "vascular_invasion",
        "perineural_invasion",
        "desmoplastic_stroma",
    }
)
"""Findings that need a tumour: a benign slide never has them."""

LABELS = ("glass", "fibrous_stroma", "tumour", *FINDINGS, "artefact")
"""``LABELS[i]`` names class id i of a label map (one id a pixel; a finding inside the tumour keeps its own id)."""

CONCEPTS: dict[str, tuple[str, ...]] = {
    "tumour": (
        "tumour",
        "keratin_pearls",
        "tumour_infiltrating_lymphocytes",
        "vascular_invasion",
        "perineural_invasion",
    ),
    "fibrous_stroma": ("fibrous_stroma", "desmoplastic_stroma", "hyalinised_collagen"),
    **{finding: (finding,) for finding in FINDINGS},
}
"""What a report can speak of -> the labels that count as it. Tumour cells also stand in vessels, around nerves, …"""

SPLITS = ("train", "val", "test")
BENIGN_FRACTION = 0.15
SCATTERED = "scattered"
PLACES = (
    "upper left",
    "upper",
    "upper right",
    "left",
    "central",
    "right",
    "lower left",
    "lower",
    "lower right",
    SCATTERED,
)
"""Nine cells of a 3×3 compass over the bounding box of the tissue, row by row, and ``scattered``."""

EXTENTS = ((0.03, "focal"), (0.10, "moderate"), (1.01, "extensive"))
"""Upper end of a fraction of the tissue -> the word reports use for it."""


def extent_of(fraction: float) -> str:
    """ "focal" below 3 % of the tissue, "moderate" below 10 %, "extensive" from there."""
    return next(word for upper, word in EXTENTS if fraction < upper)


def compass(x: float, y: float) -> str:
    """The compass cell of a point given in the tissue's bounding box, x and y in [0, 1], y downwards."""
    column, row = min(int(x * 3), 2), min(int(y * 3), 2)
    return PLACES[3 * row + column]


def far_places(place: str) -> tuple[str, ...]:
    """Places that nobody could mean where ``place`` is right: at least two cells away (from the centre: the corners).

    Beside a single place, ``scattered`` is wrong too; beside ``scattered``, no single place is quite wrong: ().
    """
    if place == SCATTERED:
        return ()
    if place == "central":
        return ("upper left", "upper right", "lower left", "lower right", SCATTERED)
    row, column = divmod(PLACES.index(place), 3)
    cells = PLACES[:9]
    return (*(p for i, p in enumerate(cells) if max(abs(i // 3 - row), abs(i % 3 - column)) == 2), SCATTERED)


@dataclass(frozen=True)
class World:
    """A cohort to be: everything in it follows from ``name`` and ``seed``.

    Attributes:
        num_cases: slides.
        slide_px: side of a slide at level 0.
        mpp: microns per level-0 pixel.
        tile_px: side of the tiles the cohort is meant to be cut into, at level 0.
        label_px: level-0 pixels per pixel of a label map.
        reports: "plain", one a slide; "hospital" has those of the cases beside them, as hospitals write them. Changes
            nothing else: the slides, their truth and their plain reports are the same.
    """

    name: str
    seed: int
    num_cases: int
    slide_px: int = 2048
    mpp: float = 2.0
    tile_px: int = 64
    label_px: int = 16
    reports: Literal["plain", "hospital"] = "plain"

    @classmethod
    def named(cls, name: str, seed: int = 0) -> "World":
        """One of the worlds of the project: ``quick`` (48 small slides), ``demo`` (400) or ``study`` (1,500).

        ``hospital`` is ``demo`` with the reports of hospitals, ``quick-hospital`` is ``quick`` with them.
        """
        sizes = {"quick": (48, 1024), "demo": (400, 2048), "study": (1500, 2048)}
        with_hospital = {"hospital": "demo", "quick-hospital": "quick"}
        if name not in sizes and name not in with_hospital:
            raise ConfigError(f"unknown world '{name}': expected one of {', '.join([*sizes, *with_hospital])}")
        painted = with_hospital.get(name, name)
        num_cases, slide_px = sizes[painted]
        reports: Literal["plain", "hospital"] = "hospital" if name in with_hospital else "plain"
        return cls(name=painted, seed=seed, num_cases=num_cases, slide_px=slide_px, reports=reports)

    def rng(self, *keys: int | str) -> np.random.Generator:
        """A random stream of this world's own for the purpose ``keys`` name; streams do not disturb one another."""
        words = [zlib.crc32(str(key).encode()) for key in (self.name, *keys)]
        return np.random.default_rng(np.random.SeedSequence([self.seed, *words]))

    def describe(self) -> str:
        """What this world holds, in a few lines (the demo prints it)."""
        side_mm = self.slide_px * self.mpp / 1000
        lattice = self.slide_px // self.tile_px
        return "\n".join(
            (
                f"World '{self.name}', seed {self.seed}: {self.num_cases} painted H&E-like slides with reports.",
                f"  slides    {self.slide_px} × {self.slide_px} px at {self.mpp} mpp ({side_mm:.1f} mm square), "
                f"{lattice} × {lattice} tiles of {self.tile_px} px",
                f"  tumours   {len(TUMOUR_TYPES)} types × {len(GRADES)} grades × {len(PATTERNS)} patterns, "
                f"and {BENIGN_FRACTION:.0%} benign slides",
                f"  findings  {len(FINDINGS)}, two to five a slide, each on 1–20 % of the tissue",
                "  reports   8–12 sentences: what is there, how much and where, what is absent, "
                "and what no slide can show",
                *_HOSPITAL_LINES[self.reports],
                "  split     by patient, about 70 / 10 / 20; held out for testing: 3 type-pattern combinations,",
                "            8 pairs of findings, and a share of the phrasings",
            )
        )


_HOSPITAL_LINES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "hospital": (
        "  cases     a report a patient in reports.csv: parts, forms, German, HTML; whose truth is in cases.jsonl",
    ),
}


@dataclass(frozen=True)
class PlacedFinding:
    """A finding to paint: its fraction of the tissue (0 to 1) and one of :data:`PLACES`."""

    name: str
    fraction: float
    place: str


@dataclass(frozen=True)
class CasePlan:
    """What one slide shall show. ``tumour`` and ``pattern`` are None and ``grade`` is 0 on benign slides.

    ``tumour_fraction`` is the fraction of the tissue that the label ``tumour`` shall cover (findings take theirs beside
    it). ``seed`` drives whatever the painter draws at random for this slide, stain shift included.
    """

    slide_id: str
    patient: str
    split: str
    tumour: str | None
    grade: int
    pattern: str | None
    tumour_fraction: float
    findings: tuple[PlacedFinding, ...]
    seed: int


@dataclass(frozen=True)
class Measured:
    """What a concept really covers on the painted slide, measured on the label map.

    Attributes:
        fraction: of the tissue.
        place: one of :data:`PLACES`.
        present: whether it is there at all (the painter may fail to fit a small finding).
    """

    fraction: float
    place: str
    present: bool
