"""``make demo``: the whole road on a synthetic cohort, and one page that shows what came of it.

Paint slides, find tissue, cut tiles, extract features, train PathFLIP and what it must beat, teach a small language
model to answer from it, then look at patients none of them has seen. Run again into the same folder, it goes on where
it stopped.
"""

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathflip import __version__
from pathflip.data.splits import read_splits
from pathflip.demo.stages import BASELINE, DESCRIPTIONS, REFERENCE, Demo, Measured, train_and_measure
from pathflip.evaluate.estimates import Estimate, estimate_all
from pathflip.evaluate.report.content import ModelNote, ReportContent
from pathflip.evaluate.report.page import write_report
from pathflip.evaluate.simulated.case_example import case_example
from pathflip.evaluate.simulated.examples import confusions, finding_rows, grounding_examples, retrieval_examples
from pathflip.evaluate.simulated.measures import measures, read_cohort
from pathflip.features import extract_cohort
from pathflip.features.devices import device_named
from pathflip.geometry import TileSpec
from pathflip.inference import Aligned, load
from pathflip.io.files import write_json
from pathflip.simulate import World, simulate

__all__ = ["Demo", "paint_and_extract", "play", "run_demo"]

SELECTION = (
    "Phrases stand at even steps of the model's average precision, best to worst, and reports at even steps of rank; "
    "none was picked by hand."
)
QUICK_NOTE = "A quick run: it shows that everything works; too few slides and steps for its numbers to mean much."
VERSIONS = {"pathflip": __version__, "torch": torch.__version__, "python": platform.python_version()}


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
    device: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[..., None] = lambda done, total, note="": None,
) -> dict[str, Any]:
    """The main job end to end.

    Args:
        out: folder for everything; ``out/report.html`` is the result.
        quick: the small world, few steps, no assistant: shows that everything runs, not how good it gets.
        seed: of the world, the weights and the data order.
        num_workers: processes.
        device: where to encode, train and measure: cpu, cuda, cuda:1, …; None takes a GPU if there is one.

    Returns:
        Paths, seconds a stage, and every measured value (also in ``out/results.json``).
    """
    command = f"pathflip demo --out {out.name} --seed {seed}" + (" --quick" if quick else "")
    command += f" --device {device}" if device is not None else ""
    say(f"on {device_named(device)}: features, training, measuring; on the CPU: painting, tissue, tiles")
    demo = Demo(out, seed, num_workers, device=device)
    if quick:
        demo = replace(demo, steps=16, assistant_steps=0, resamples=200)
    notes = [QUICK_NOTE] if quick else []
    return play(demo, World.named("quick-hospital" if quick else "hospital", seed), command, notes, say, progress)


def play(
    demo: Demo,
    world: World,
    command: str,
    notes: list[str],
    say: Callable[[str], None],
    progress: Callable[..., None],
) -> dict[str, Any]:
    """:func:`run_demo` with everything said: the world to paint, what to train, how the page says it was made."""
    clock = _Clock(say)
    say(world.describe())
    with clock.stage("paint slides, write reports"):
        paint(world, demo, progress)
    with clock.stage("find tissue, cut tiles, extract features"):
        _extract(world, demo, progress)
    with clock.stage("train, look at unseen patients"):
        measured = train_and_measure(demo, progress)
    with clock.stage("resample patients"):
        test = read_cohort(demo.cohort, demo.features, "test")
        by_model = {name: measures(score, test) for name, score in measured.scores.items()}
        estimates = estimate_all(by_model, test.patients, REFERENCE, num=demo.resamples)
    say(_table(estimates, measured.upper_bounds))
    with clock.stage("write the report"):
        models = {name: load(demo.run(recipe.name), demo.device) for name, recipe in demo.recipes().items()}
        content = ReportContent(
            world=world.describe(),
            splits=_splits(demo.cohort),
            reference=REFERENCE,
            models=[_model_note(name, model, measured.seconds[name]) for name, model in models.items()],
            groundings=grounding_examples(
                demo.cohort, test, measured.scores[REFERENCE], models[REFERENCE], models[BASELINE]
            ),
            retrievals=retrieval_examples(demo.cohort, test, measured.scores[REFERENCE]),
            confusions=confusions(test, measured.scores[REFERENCE]),
            findings=finding_rows(test, measured.scores[REFERENCE]),
            estimates=estimates,
            upper_bounds=measured.upper_bounds,
            timings=clock.seconds,
            command=command,
            versions={**VERSIONS, "device": str(device_named(demo.device))},
            notes=notes,
            baseline=BASELINE,
            selection=SELECTION,
            case=case_example(demo.cohort, test, models[REFERENCE]),
            answers=measured.answers,
            verification=measured.verification,
        )
        write_report(demo.out / "report.html", content)
    result = _result(demo, clock.seconds, estimates, measured)
    write_json(demo.out / "results.json", result)
    return result


def _result(
    demo: Demo, seconds: Mapping[str, float], estimates: Mapping[str, Mapping[str, Estimate]], measured: Measured
) -> dict[str, Any]:
    """Everything measured, as JSON holds it."""
    result: dict[str, Any] = {
        "report": str(demo.out / "report.html"),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "job_seconds": {name: round(value, 1) for name, value in measured.seconds.items()},
        "versions": VERSIONS,
        "upper_bounds": measured.upper_bounds,
        "measures": {m: {name: vars(e) for name, e in entries.items()} for m, entries in estimates.items()},
    }
    if measured.answers is not None:
        result["questions"] = list(measured.answers.rows)
        result["yes_or_no"] = {name: vars(entry) for name, entry in measured.answers.yes_or_no.items()}
        result["faithfulness"] = {name: vars(entry) for name, entry in measured.answers.faithfulness.items()}
        result["calibration"] = measured.answers.calibration.model_dump(mode="json")
    if measured.verification is not None:
        study = measured.verification.study
        result["verification"] = {
            "rows": [{**vars(row), "auroc": row.auroc._asdict()} for row in study.rows],
            "ece_raw": study.ece_raw,
            "ece": study.ece,
            "brier_skill_raw": study.skills_raw[0],
            "brier_skill": study.skills[0],
            "log_loss_skill_raw": study.skills_raw[1],
            "log_loss_skill": study.skills[1],
        }
    finite: dict[str, Any] = _finite(result)
    return finite


def paint(world: World, demo: Demo, progress: Callable[..., None]) -> None:
    """Paint the cohort, reports and truth with it."""
    simulate(world, demo.cohort, num_workers=demo.num_workers, progress=progress)


def paint_and_extract(world: World, demo: Demo, progress: Callable[..., None]) -> None:
    """A painted cohort and its features; what is there already is kept."""
    paint(world, demo, progress)
    _extract(world, demo, progress)


def _extract(world: World, demo: Demo, progress: Callable[..., None]) -> None:
    """Tissue, tiles and features of every slide."""
    extract_cohort(
        sorted((demo.cohort / "slides").glob("*.tif")),
        TileSpec(world.tile_px, world.mpp),
        "stain_texture",
        demo.out,
        num_workers=demo.num_workers,
        device=demo.device,
        progress=lambda p: progress(p.slides_done, p.slides, f"{p.tiles_per_s:.0f} tiles/s"),
    )


def _splits(cohort: Path) -> dict[str, int]:
    return dict(Counter(read_splits(cohort / "splits.csv").values()))


def _model_note(name: str, model: Aligned, seconds: float) -> ModelNote:
    parameters = sum(p.numel() for p in model.checkpoint.model.parameters())
    return ModelNote(name, DESCRIPTIONS[name], parameters, seconds)


def _table(estimates: Mapping[str, Mapping[str, Estimate]], upper_bounds: Mapping[str, float]) -> str:
    names = list(next(iter(estimates.values())))
    lines = [f"{'':<66}" + "".join(f"{name:>18}" for name in names) + f"{'upper bound':>12}{'chance':>8}"]
    for name, by_model in estimates.items():
        cells = "".join(f"{e.value:>7.3f} {f'{e.low:.2f}-{e.high:.2f}':>10}" for e in by_model.values())
        upper_bound = f"{upper_bounds[name]:>12.3f}" if name in upper_bounds else f"{'':>12}"
        lines.append(f"{name:<66}{cells}{upper_bound}{by_model[names[0]].chance:>8.3f}")
    return "\n".join(lines)


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that could not be measured is null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
