"""``make demo``: the whole road on a synthetic cohort, and one page that shows what came of it.

Paint slides, find tissue, cut tiles, extract features, train PathFLIP and what it must beat, then look at patients
none of them has seen. Run again into the same folder, it goes on where it stopped.
"""

import csv
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from pathflip import __version__
from pathflip.evaluate.ceiling import supervised_ceiling
from pathflip.evaluate.cohort import Cohort, CohortScores, measures, read_cohort, score_model
from pathflip.evaluate.compare import Estimate, estimate_all
from pathflip.evaluate.examples import confusions, finding_rows, grounding_examples, retrieval_examples
from pathflip.evaluate.report import ModelNote, ReportContent, write_report
from pathflip.features import extract_cohort
from pathflip.files import write_json
from pathflip.geometry import TileSpec
from pathflip.inference import Aligned, load
from pathflip.recipes import (
    AlignRecipe,
    align_base,
    align_published_small,
    clip_abmil,
    clip_mean,
    read_split,
    train_align,
    with_settings,
)
from pathflip.simulate import World, simulate
from pathflip.train import read_metrics

__all__ = ["run_demo"]

REFERENCE = "PathFLIP"
BASELINE = "mean-pool CLIP"
DESCRIPTIONS = {
    "PathFLIP": "this project's recipe (align_base): text meets patches, gates and margins, late interaction",
    "mean-pool CLIP": "one vector a slide, the mean over its patches, against one a caption",
    "ABMIL CLIP": "one vector a slide, pooled by gated attention, against one a caption",
    "published PathFLIP": "the paper's model at this size: Q-Formers, regions of 4 × 4 tiles, text-region attention",
}
SELECTION = (
    "Phrases stand at even steps of the model's average precision, best to worst, and reports at even steps of rank; "
    "none was picked by hand."
)
QUICK_NOTE = "A quick run: it shows that everything works; too few slides and steps for its numbers to mean much."
VERSIONS = {"pathflip": __version__, "torch": torch.__version__, "python": platform.python_version()}
NOTE = (
    "Trained on painted slides: what it says about real tissue means nothing. Research software, not a medical device."
)


@dataclass
class _Clock:
    """Seconds of every stage."""

    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.say(f"{name} …")
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.say(f"{name}: {self.seconds[name]:.1f} s")


def run_demo(
    out: Path,
    *,
    quick: bool = False,
    seed: int = 0,
    num_workers: int = 2,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[..., None] = lambda done, total, note="": None,
) -> dict[str, Any]:
    """The main job end to end.

    Args:
        out: folder for everything; ``out/report.html`` is the result.
        quick: the small world and few steps: shows that everything runs, not how good it gets.
        seed: of the world, the weights and the data order.

    Returns:
        Paths, seconds a stage, and every measured value (also in ``out/results.json``).
    """
    clock = _Clock(say)
    world = World.named("quick" if quick else "demo", seed)
    say(world.describe())
    with clock.stage("paint slides, write reports"):
        simulate(world, out / "cohort", num_workers=num_workers, progress=progress)
    with clock.stage("find tissue, cut tiles, extract features"):
        features = _extract(world, out, num_workers, progress)
    recipes = _recipes(quick, seed)
    with clock.stage("train four models"):
        seconds = _train_all(recipes, features, out, num_workers, progress)
    models = {name: load(out / "runs" / recipe.name) for name, recipe in recipes.items()}
    with clock.stage("evaluate on unseen patients"):
        test = read_cohort(out / "cohort", features, "test")
        scores, ceilings = _score_all(recipes, features, out, num_workers)
        found = {name: measures(score, test) for name, score in scores.items()}
        estimates = estimate_all(found, test.patients, REFERENCE, num=200 if quick else 1000)
    say(_table(estimates, ceilings))
    with clock.stage("write the report"):
        notes = [_model_note(name, model, seconds[name]) for name, model in models.items()]
        content = _content(out / "cohort", test, scores[REFERENCE], models)
        made = f"pathflip demo --out {out.name} --seed {seed}" + (" --quick" if quick else "")
        write_report(
            out / "report.html",
            ReportContent(
                world=world.describe(),
                splits=_splits(out / "cohort"),
                reference=REFERENCE,
                models=notes,
                estimates=estimates,
                ceilings=ceilings,
                timings=clock.seconds,
                command=made,
                versions=VERSIONS,
                notes=[QUICK_NOTE] if quick else [],
                baseline=BASELINE,
                selection=SELECTION,
                **content,
            ),
        )
    result = {
        "report": str(out / "report.html"),
        "seconds": {name: round(value, 1) for name, value in clock.seconds.items()},
        "versions": VERSIONS,
        "ceilings": ceilings,
        "measures": {m: {name: vars(e) for name, e in entries.items()} for m, entries in estimates.items()},
    }
    write_json(out / "results.json", _finite(result))
    return result


def _extract(world: World, out: Path, num_workers: int, progress: Callable[..., None]) -> Path:
    """Tissue, tiles and features of every slide; returns the folder of feature files."""
    rows = extract_cohort(
        sorted((out / "cohort" / "slides").glob("*.tif")),
        TileSpec(world.tile_px, world.mpp),
        "stain_texture",
        out,
        num_workers=num_workers,
        progress=lambda p: progress(p.slides_done, p.slides, f"{p.tiles_per_s:.0f} tiles/s"),
    )
    return Path(rows[0].path).parent


def _content(
    cohort: Path,
    test: Cohort,
    scores: CohortScores,
    models: Mapping[str, Aligned],
) -> dict[str, Any]:
    """What the page shows: phrases, retrieved cases, confusions, findings."""
    return {
        "groundings": grounding_examples(cohort, test, scores, models[REFERENCE], models[BASELINE]),
        "retrievals": retrieval_examples(cohort, test, scores),
        "confusions": confusions(test, scores),
        "findings": finding_rows(test, scores),
    }


def _recipes(quick: bool, seed: int) -> dict[str, AlignRecipe]:
    """The model and what it must beat: same steps, same batches, same optimiser."""
    found = dict(zip(DESCRIPTIONS, (align_base(), clip_mean(), clip_abmil(), align_published_small()), strict=True))
    settings = [f"train.seed={seed}"]
    if quick:
        settings += ["train.steps=30", "train.batch_size=16", "train.optim.warmup_steps=5"]
    return {name: with_settings(recipe, settings) for name, recipe in found.items()}


def _train_all(
    recipes: Mapping[str, AlignRecipe], features: Path, out: Path, num_workers: int, progress: Callable[..., None]
) -> dict[str, float]:
    """Train every recipe, ``num_workers`` at a time, one thread each (quicker than sharing a step between threads).

    Returns:
        Seconds of each.
    """
    total = sum(recipe.train.steps for recipe in recipes.values())
    logs = [out / "runs" / recipe.name / "metrics.jsonl" for recipe in recipes.values()]
    with ProcessPoolExecutor(max(1, num_workers), mp_context=get_context("spawn")) as pool:
        longest_first = sorted(recipes, key=lambda name: name != "published PathFLIP")
        jobs = {name: pool.submit(_train, recipes[name], features, out) for name in longest_first}
        running = set(jobs.values())
        while running:
            _, running = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            progress(sum(_last_step(log) for log in logs), total, "steps")
        return {name: job.result() for name, job in jobs.items()}


def _score_all(
    recipes: Mapping[str, AlignRecipe], features: Path, out: Path, num_workers: int
) -> tuple[dict[str, CohortScores], dict[str, float]]:
    """Ask every model about the test patients, and measure the supervised ceiling beside them."""
    with ProcessPoolExecutor(max(1, num_workers), mp_context=get_context("spawn")) as pool:
        ceiling = pool.submit(_ceiling, features, out)
        jobs = {name: pool.submit(_score, name, recipe.name, features, out) for name, recipe in recipes.items()}
        return {name: job.result() for name, job in jobs.items()}, ceiling.result()


def _score(name: str, run: str, features: Path, out: Path) -> CohortScores:
    _one_thread()
    return score_model(name, load(out / "runs" / run), read_cohort(out / "cohort", features, "test"))


def _ceiling(features: Path, out: Path) -> dict[str, float]:
    _one_thread()
    return supervised_ceiling(*(read_cohort(out / "cohort", features, split) for split in ("train", "test")))


def _one_thread() -> None:
    """Two jobs side by side with a thread each are quicker than two that share their threads."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def _last_step(log: Path) -> int:
    """The step a running training has reached, from the log it writes."""
    steps = [row["step"] for row in read_metrics(log)] if log.exists() else []
    return int(max(steps, default=0))


def _train(recipe: AlignRecipe, features: Path, out: Path) -> float:
    _one_thread()
    cohort = out / "cohort"
    parts = read_split(sorted(features.glob("*.h5")), cohort / "captions.jsonl", cohort / "splits.csv")
    start = time.perf_counter()
    train_align(
        recipe,
        *parts["train"],
        out / "runs" / recipe.name,
        val_files=parts["val"][0],
        val_captions=parts["val"][1],
        resume=True,
        note=NOTE,
    )
    return time.perf_counter() - start


def _splits(cohort: Path) -> dict[str, int]:
    with open(cohort / "splits.csv", newline="", encoding="utf-8") as handle:
        return dict(Counter(row["split"] for row in csv.DictReader(handle)))


def _model_note(name: str, model: Aligned, seconds: float) -> ModelNote:
    parameters = sum(p.numel() for p in model.checkpoint.model.parameters() if p.requires_grad)
    return ModelNote(name, DESCRIPTIONS[name], parameters, seconds)


def _table(estimates: Mapping[str, Mapping[str, Estimate]], ceilings: Mapping[str, float]) -> str:
    names = list(next(iter(estimates.values())))
    lines = [f"{'':<66}" + "".join(f"{name:>18}" for name in names) + f"{'ceiling':>10}{'chance':>8}"]
    for measure, found in estimates.items():
        cells = "".join(f"{e.value:>7.3f} {f'{e.low:.2f}-{e.high:.2f}':>10}" for e in found.values())
        ceiling = f"{ceilings[measure]:>10.3f}" if measure in ceilings else f"{'':>10}"
        lines.append(f"{measure:<66}{cells}{ceiling}{found[names[0]].floor:>8.3f}")
    return "\n".join(lines)


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that could not be measured is null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
