"""Alignment models on painted worlds of several seeds: mean and standard deviation, paired differences, chance levels.

``python bench/worlds.py --seeds 200-204 --out worlds``: paint each world, extract its features, train each model
with the world's seed, and measure it on the test patients. Worlds 100-109 are for development; 200-204 are for
results, opened once the recipe is frozen. Run again, it goes on where it stopped: what is painted, trained or measured
is kept. ``--json`` ends with one object {measure: {model: [value a seed]}}.

``--world hospital --models align_base,align_base@hospital``: ``@hospital`` trains on the cases' reports as hospitals
write them, and is measured on the same slides and plain test reports as the model beside it.

``--models align_base,align_base@1/4,align_base@1/8 --curve curve.svg``: ``@1/4`` trains on a quarter of the training
patients (nested: an eighth lies inside it; drawn with the world's seed) and as many steps, and is measured on all test
patients; ``--curve`` draws a few measures against the number of patients.

``--planted-errors`` adds how well each trained model tells errors planted in true test reports from what is true
(:mod:`pathflip.evaluate.simulated.planted_errors`), beside the words alone and another patient's slide. About a minute
a model.

Time: about 4 minutes a world to paint and extract on two cores, and 2 to 5 minutes a model on one.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathflip import plots
from pathflip.benchmarks.learning_curve import nested_patients, parse_fraction
from pathflip.demo import Demo, paint_and_extract
from pathflip.demo.jobs import Job, run_jobs
from pathflip.evaluate.simulated.measures import measures, read_cohort, score_model
from pathflip.evaluate.simulated.planted_errors import read_truth, study_verification
from pathflip.evaluate.simulated.upper_bound import supervised_upper_bound
from pathflip.evaluate.verifier_calibration import calibrate
from pathflip.features import read_features
from pathflip.inference import encode_slide, load
from pathflip.io.files import write_json
from pathflip.io.slide_id import slide_id
from pathflip.recipes.align import RECIPES
from pathflip.recipes.settings import with_settings
from pathflip.simulate import World
from pathflip.train.align_run import read_split, train_align
from pathflip.types import Caption

MODELS = ("align_base", "clip_mean", "clip_abmil", "clip_best", "align_published_small")
HOSPITAL = "hospital"
PLANTED = "planted errors"
CURVE_MEASURES = ("R@1 combined", "R@1 combined, held-out wording", "presence AUROC", "grounding AP")
Values = dict[str, dict[str, list[float]]]


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="200-204", help="numbers and ranges: 200-204 or 100,103")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything; a folder a seed")
    parser.add_argument(
        "--models",
        default=",".join(MODELS),
        help="recipes: align_base+train.steps=300, align_base@hospital, align_base@1/4",
    )
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--world", default="demo", help="demo, hospital, or quick to see that it runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--curve", type=Path, help="draw models trained on fractions of the patients into this .svg")
    parser.add_argument("--planted-errors", action="store_true", help="of trained models, on the test patients")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seeds, models = read_seeds(arguments.seeds), arguments.models.split(",")
    kinds = [arguments.split, *([PLANTED] if arguments.planted_errors else [])]
    for seed in seeds:
        demo = Demo(arguments.out / str(seed), seed, arguments.workers)
        paint_and_extract(World.named(arguments.world, seed), demo, lambda *_: None)
        missing = [model for model in models if not result_file(demo, model, arguments.split).is_file()]
        jobs = [Job(model, train_and_measure, (demo, model, arguments.split)) for model in missing]
        if arguments.planted_errors:
            left = [model for model in models if not result_file(demo, model, PLANTED).is_file()]
            after = {model: (model,) if model in missing else () for model in left}
            jobs += [Job(f"{PLANTED} {m}", measure_planted_errors, (demo, m), after[m]) for m in left]
        run_jobs(jobs, arguments.workers)
        say(f"world {seed}: {len(missing)} models trained, {len(models) - len(missing)} kept")
    values = collect(arguments.out, seeds, models, kinds)
    print(table(values, models, chance_levels(arguments.out, seeds[0], models[0], kinds)))
    if arguments.curve:
        draw_curve(arguments.curve, arguments.out, seeds, values)
    if arguments.json:
        print(json.dumps(values))


def read_seeds(text: str) -> list[int]:
    """Seeds of "200-204,300"."""
    out: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return out


def train_and_measure(demo: Demo, model: str, split: str) -> None:
    """One model of one world: its checkpoint under ``runs/``, its numbers in a file of their own."""
    torch.set_num_threads(1)
    if model == "supervised_upper_bound":
        train, test = (read_cohort(demo.cohort, demo.features, part) for part in ("train", split))
        reached = supervised_upper_bound(train, test)
        numbers: Mapping[str, Any] = {measure: {"value": value} for measure, value in reached.items()}
    else:
        with_set, variant = split_model(model)
        name, *settings = with_set.split("+")
        recipe = with_settings(RECIPES[name](), [f"train.seed={demo.seed}", *settings])
        parts = read_parts(demo, variant == HOSPITAL)
        files, captions = parts["train"]
        if variant not in ("", HOSPITAL):
            chosen = training_patients(demo, variant)
            captions = [caption for caption in captions if caption.patient in chosen]
            slides = {caption.slide_id for caption in captions}
            files = [file for file in files if slide_id(file) in slides]
        run = demo.run(file_name(model))
        val_files, val_captions = parts["val"]
        words = {"val_files": val_files, "val_captions": val_captions, "store": demo.out / "packed"}
        train_align(recipe, files, captions, run, **words, resume=True)
        cohort = read_cohort(demo.cohort, demo.features, split)
        everyone = np.arange(len(cohort.slides))
        measured = measures(score_model(name, load(run), cohort), cohort)
        numbers = {measure.name: {"value": measure.of(everyone), "chance": measure.chance} for measure in measured}
    write_json(result_file(demo, model, split), numbers)


def measure_planted_errors(demo: Demo, model: str) -> None:
    """Errors planted in true reports of test slides: AUROC against what is true, a verifier calibrated on val."""
    torch.set_num_threads(1)
    aligned, parts = load(demo.run(file_name(model))), read_parts(demo, False)
    slides = {part: [encode_slide(aligned, read_features(file)) for file in own] for part, (own, _) in parts.items()}
    captions = {part: paired_captions(*parts[part]) for part in parts}
    training = captions["train"]
    calibration = calibrate(
        aligned, slides["val"], captions["val"], training, slides["train"], split="val", seed=demo.seed
    )
    truths = read_truth(demo.cohort, [caption.slide_id for caption in captions["test"]])
    study = study_verification(aligned, slides["test"], truths, calibration, training, seed=demo.seed, num=2)
    numbers = {}
    for row in study.rows:
        name = f"{PLANTED}, {row.kind.replace('_', ' ')}{f', {row.attribute}' if row.attribute else ''}"
        levels = {"": row.auroc.value, ", words alone": row.words, ", another patient's slide": row.wrong_slide}
        numbers |= {f"{name}{level}": {"value": value, "chance": 0.5} for level, value in levels.items()}
    write_json(result_file(demo, model, PLANTED), numbers)


def paired_captions(files: Sequence[Path], captions: Sequence[Caption]) -> list[Caption]:
    """The captions in the order of their slides' files."""
    by_slide = {caption.slide_id: caption for caption in captions}
    return [by_slide[slide_id(file)] for file in files]


def result_file(demo: Demo, model: str, kind: str) -> Path:
    """Where the numbers of a model stand: those of a split's patients, or of planted errors."""
    return demo.out / "measured" / f"{file_name(model)}.{kind.replace(' ', '_')}.json"


def file_name(model: str) -> str:
    """A model's name as a file or folder may be called."""
    return model.replace("=", "_").replace("/", "_of_")


def split_model(model: str) -> tuple[str, str]:
    """Recipe with its settings, and what comes behind an @: "hospital", a fraction of the patients, or nothing."""
    name, _, variant = model.partition("@")
    return name, variant


def read_parts(demo: Demo, cases: bool) -> Mapping[str, tuple[list[Path], list[Caption]]]:
    """Feature files and reports (plain, or of cases as hospitals write them) of train, val and test."""
    reports = demo.cohort / ("reports.csv" if cases else "captions.jsonl")
    return read_split(list(demo.files().values()), reports, demo.cohort / "splits.csv")


def training_patients(demo: Demo, fraction: str) -> set[str]:
    """The training patients of a fraction, drawn with the world's seed."""
    patients = [caption.patient for caption in read_parts(demo, False)["train"][1]]
    return set(nested_patients(patients, parse_fraction(fraction or "1"), demo.seed))


def draw_curve(target: Path, out: Path, seeds: Sequence[int], values: Values) -> None:
    """Measures against the number of training patients; models without a fraction have all of them."""
    panels = {}
    for measure in CURVE_MEASURES:
        lines: dict[str, list[tuple[int, list[float]]]] = {}
        for model, by_seed in values[measure].items():
            name, fraction = split_model(model)
            patients = len(training_patients(Demo(out / str(seeds[0]), seeds[0]), fraction))
            lines.setdefault(name.partition("+")[0], []).append((patients, by_seed))
        panels[measure] = lines
    plots.save_curves(panels, target, x_label="training patients")


def collect(out: Path, seeds: Sequence[int], models: Sequence[str], kinds: Sequence[str]) -> Values:
    """Every measure of every model, one value a seed."""
    values: Values = {}
    for model in models:
        for seed in seeds:
            for measure, entry in read_numbers(out, seed, model, kinds).items():
                values.setdefault(measure, {}).setdefault(model, []).append(entry["value"])
    return values


def chance_levels(out: Path, seed: int, model: str, kinds: Sequence[str]) -> dict[str, float]:
    """What knowing nothing gives, by measure."""
    numbers = read_numbers(out, seed, model, kinds)
    return {measure: entry["chance"] for measure, entry in numbers.items() if "chance" in entry}


def read_numbers(out: Path, seed: int, model: str, kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    """The measures of a model on one world."""
    numbers: dict[str, dict[str, float]] = {}
    for kind in kinds:
        numbers |= json.loads(result_file(Demo(out / str(seed), seed), model, kind).read_text())
    return numbers


def table(values: Values, models: Sequence[str], chance: Mapping[str, float]) -> str:
    """Markdown: mean ± standard deviation over worlds; after the first model's, how much better it is than each other
    model, world by world, with the 95 % interval of a paired t-test."""
    lines = [f"| measure | {' | '.join(models)} | chance |", "|---" * (len(models) + 2) + "|"]
    for measure, by_model in values.items():
        first = np.array(by_model.get(models[0], []))
        cells = []
        for model in models:
            own = np.array(by_model.get(model, []))
            cell = f"{own.mean():.2f} ± {own.std(ddof=1) if len(own) > 1 else 0:.2f}" if len(own) else ""
            if model != models[0] and len(own) == len(first) > 1:
                low, high = paired_interval(first - own)
                cell += f" ({(first - own).mean():+.2f}, {low:+.2f} to {high:+.2f})"
            cells.append(cell)
        level = f"{chance[measure]:.2f}" if measure in chance else ""
        lines.append(f"| {measure} | {' | '.join(cells)} | {level} |")
    return "\n".join(lines)


def paired_interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of paired differences (Student's t)."""
    from scipy.stats import t

    half = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean() - half), float(differences.mean() + half)


def say(text: str) -> None:
    """A message for people: standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
