"""A painted cohort without paint, with a model trained on it: what benchmarks are run on where truth must be known.

Plans, reports and questions are the simulator's; tiles are noisy one-hot vectors of the finding they show, of the
tumour's type where they show none. A real PathFLIP model is trained on them in seconds.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmark_files import write_csv, write_lines
from keyword_world import AXES, SIDE, as_planned, features_of
from pathflip.features import write_features
from pathflip.recipes.align import align_base
from pathflip.recipes.settings import with_settings
from pathflip.simulate.cases import plan_cases
from pathflip.simulate.question_writer import write_questions
from pathflip.simulate.report_writer import write_report
from pathflip.simulate.world import FINDINGS, TUMOUR_TYPES, CasePlan, World
from pathflip.train.align_run import read_split, train_align
from pathflip.types import SlideFeatures

TILE_PX0 = 64
SHOWN = ("type", "presence", "largest", "location")
"""Categories of questions about what tiles show; grade, pattern and number of glands are not on them."""
SETTINGS = (
    "text.pretrained=", "model.width=64", "model.embed_dim=48", "train.steps=220", "train.batch_size=24",
    "train.eval_every=0", "train.save_every=0", "train.optim.warmup_steps=20", "train.average_last=0",
)  # fmt: skip


@dataclass(frozen=True)
class PaintedWorld:
    """Folders and tables of the cohort, and its plans by slide."""

    folder: Path
    plans: dict[str, CasePlan]
    reports: dict[str, str]

    @property
    def features(self) -> Path:
        """Feature files of all slides."""
        return self.folder / "features"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.folder / "run"

    def of(self, split: str) -> list[str]:
        """Slides of a split."""
        return [name for name, plan in self.plans.items() if plan.split == split]

    def shown(self, slide: str) -> np.ndarray:
        """What every tile shows, as a place in ``AXES``, (side, side)."""
        return shown_by(features_of(self.plans[slide])).reshape(SIDE, SIDE)


def shown_by(slide: SlideFeatures) -> np.ndarray:
    """The finding of every tile, as a place in ``AXES``."""
    return np.asarray(slide.features).argmax(1)


def with_type(slide: SlideFeatures, plan: CasePlan) -> SlideFeatures:
    """The slide with the tumour's type on every tile that shows no finding; the last column is benign tissue."""
    rng = np.random.default_rng(plan.seed + 1)
    kinds = np.zeros((len(slide.features), len(TUMOUR_TYPES) + 1))
    column = TUMOUR_TYPES.index(plan.tumour) if plan.tumour else len(TUMOUR_TYPES)
    kinds[shown_by(slide) == AXES.index("other"), column] = 1
    kinds += 0.2 * rng.standard_normal(kinds.shape)
    return replace(slide, features=np.concatenate([slide.features, kinds], axis=1).astype(np.float32))


def painted_world(folder: Path, num: int = 200, seed: int = 3) -> PaintedWorld:
    """Write the cohort and train the model."""
    world = World("words", seed, num)
    plans, reports, captions, questions = {}, {}, [], []
    for plan in plan_cases(world):
        measured = as_planned(plan)
        report = write_report(plan, measured, world.rng("report", plan.slide_id))
        plans[plan.slide_id], reports[plan.slide_id] = plan, report.text
        write_features(folder / "features" / f"{plan.slide_id}.h5", with_type(features_of(plan), plan))
        captions.append({"slide": plan.slide_id, "patient": plan.patient, "text": report.text})
        rng = world.rng("questions", plan.slide_id)
        for place, one in enumerate(write_questions(plan, measured, rng)):
            row = {**asdict(one), "id": f"{plan.slide_id}-{place}", "slide": plan.slide_id, "patient": plan.patient}
            questions.append(row | {"options": list(one.options)})
    write_lines(folder / "captions.jsonl", captions)
    write_lines(folder / "questions.jsonl", questions)
    splits = write_csv(folder / "splits.csv", [{"slide": n, "split": p.split} for n, p in plans.items()])
    files = sorted((folder / "features").glob("*.h5"))
    parts = read_split(files, folder / "captions.jsonl", splits)
    train_align(with_settings(align_base(), SETTINGS), *parts["train"], folder / "run")
    return PaintedWorld(folder, plans, reports)


def questions_of(world: PaintedWorld, split: str) -> list[dict]:
    """Questions about the slides of a split whose answer the tiles show, as SlideBench's columns name them."""
    rows = []
    for line in (world.folder / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if world.plans[row["slide"]].split == split and row["answerable"] and row["category"] in SHOWN:
            options = dict(zip("ABCD", row["options"], strict=True))
            rows.append({"ID": row["id"], "Slide": f"h5_files/{row['slide']}.h5", "Tumor": "painted",
                         "Broad Category": "Microscopy", "Narrow Category": row["category"],
                         "Question": row["question"], **options, "Answer": row["answer"]})  # fmt: skip
    return rows


def boxes_of(world: PaintedWorld, slides: list[str]) -> list[dict]:
    """A box a finding of every slide that shows it in one place."""
    rows = []
    for slide in slides:
        shown = world.shown(slide)
        for finding in world.plans[slide].findings:
            if finding.place == "scattered":
                continue
            ys, xs = np.nonzero(shown == FINDINGS.index(finding.name))
            box = [int(v) * TILE_PX0 for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
            rows.append({"image_id": f"{slide}.svs", "width": SIDE * TILE_PX0, "height": SIDE * TILE_PX0, "bbox": box,
                         "bbox_id": f"{slide}-{finding.name}", "finding": finding.name})  # fmt: skip
    return rows
