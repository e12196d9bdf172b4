"""The learning curve: how good a model gets from a sixteenth of the patients, an eighth, … all of them.

Parts are nested (an eighth holds the sixteenth of the same seed), drawn by patient, measured on the same test
patients, and every recipe has the same choice of learning rates, chosen on validation patients. Every point is a
folder; a run that was stopped goes on with the points that are missing.
"""

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.data.case_items import Item, by_part, join_reports
from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate import metrics
from pathflip.evaluate.bootstrap import PatientBootstrap
from pathflip.evaluate.labels import SlideLabel
from pathflip.evaluate.paired import PairedComparison, paired_difference
from pathflip.inference import Aligned, encode_files, load, retrieve, zero_shot
from pathflip.io.files import path_inside, write_json
from pathflip.train.align_run import AlignRecipe, train_align
from pathflip.train.run_folder import digest_of
from pathflip.types import Caption

__all__ = [
    "FRACTIONS",
    "CurveData",
    "compare_recipes",
    "curve_rows",
    "items_to_measure",
    "nested_patients",
    "parse_fraction",
    "run_curve",
]  # fmt: skip

FRACTIONS = (Fraction(1, 16), Fraction(1, 8), Fraction(1, 4), Fraction(1, 2), Fraction(1))
FEWEST_PATIENTS = 2

Part = tuple[list[Path], list[Caption]]


@dataclass(frozen=True, eq=False)
class CurveData:
    """Feature files and captions to train, to choose the learning rate, and to measure on; labels for zero-shot."""

    train: Part
    val: Part
    test: Part
    labels: Mapping[str, SlideLabel] | None = None


def parse_fraction(text: str) -> Fraction:
    """ "1/8" or "0.125" as a fraction.

    Raises:
        ConfigError: it is none above 0 and up to 1.
    """
    try:
        value = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1:
        raise ConfigError(f"--fraction: got '{text}', expected for example 1/8 or 0.5, above 0 and up to 1")
    return value


def nested_patients(patients: Sequence[str], fraction: Fraction, seed: int) -> list[str]:
    """The patients of a fraction: the first of one seeded order, so that smaller fractions lie inside larger ones."""
    unique = sorted(set(patients))
    order = np.random.default_rng(seed).permutation(len(unique))
    number = max(1, ceil(fraction * len(unique)))
    return [unique[i] for i in order[:number]]


def run_curve(
    recipes: Mapping[str, AlignRecipe],
    data: CurveData,
    out: Path,
    *,
    fractions: Sequence[Fraction] = FRACTIONS,
    seeds: int = 3,
    learning_rates: Sequence[float] = (),
    device: str | None = None,
    progress: Callable[..., None] = lambda done, total, note="": None,
) -> list[dict[str, Any]]:
    """Train every point that is not there yet, and measure it.

    Args:
        recipes: by name; ours and baselines. data: of one split by patient. out: folder of the points.
        fractions: of the training patients. seeds: trainings a point, each with its own draw of patients.
        learning_rates: every recipe tries each at every fraction (first seed) and keeps the best on the validation
            patients; empty keeps the recipes' own.
        device: where models are measured; None takes a GPU if there is one. progress: called with points done and all.

    Returns:
        A row a point (recipe, fraction, patients, seed, learning rate, measures); see :func:`curve_rows` for means.

    Raises:
        ConfigError: nothing to measure on, or learning rates to choose and no validation patients.
    """
    if not data.test[1]:
        raise ConfigError("curve: no test patients; expected --splits with train, val and test")
    if learning_rates and not data.val[1]:
        raise ConfigError("curve: --tune needs validation patients; expected --splits with val")
    patients = [caption.patient for caption in data.train[1]]
    points = [(r, f, s) for f in sorted(fractions) for r in recipes for s in range(seeds)]
    rows: list[dict[str, Any]] = []
    for done, (name, fraction, seed) in enumerate(points):
        progress(done, len(points), f"{name}, {fraction} of the patients, seed {seed}")
        chosen = nested_patients(patients, fraction, seed)
        if len(chosen) < FEWEST_PATIENTS:
            raise CaptionError(
                f"curve: {fraction} of {len(set(patients))} patients is {len(chosen)}; expected {FEWEST_PATIENTS} or "
                "more: give larger fractions"
            )
        first = nested_patients(patients, fraction, 0)
        rate = _learning_rate(recipes[name], name, fraction, data, out, learning_rates, first, device)
        rows.append(_point(recipes[name], name, fraction, seed, rate, chosen, data, out, device))
    progress(len(points), len(points))
    return rows


def _learning_rate(
    recipe: AlignRecipe,
    name: str,
    fraction: Fraction,
    data: CurveData,
    out: Path,
    rates: Sequence[float],
    patients: Sequence[str],
    device: str | None,
) -> float:
    """The best of the learning rates on the validation patients, first seed; the recipe's own where none are given."""
    if not rates:
        return recipe.train.optim.lr
    tried = {rate: _point(recipe, name, fraction, 0, rate, patients, data, out, device)["val_r1"] for rate in rates}
    return max(tried, key=lambda rate: tried[rate])


def _point(
    recipe: AlignRecipe,
    name: str,
    fraction: Fraction,
    seed: int,
    rate: float,
    patients: Sequence[str],
    data: CurveData,
    out: Path,
    device: str | None,
) -> dict[str, Any]:
    """One trained and measured model; from its folder, where it is whole and of these very settings."""
    wanted = set(patients)
    captions = [caption for caption in data.train[1] if caption.patient in wanted]
    items = _paired(data.train[0], captions)
    slides = {item.name for item in items}
    files = [file for item in items for file in item.files]
    train = recipe.train.model_copy(
        update={
            "seed": seed,
            "batch_size": min(recipe.train.batch_size, len(items)),
            "optim": recipe.train.optim.model_copy(update={"lr": rate}),
        }
    )
    own = recipe.model_copy(update={"train": train})
    folder = path_inside(out, "points", name, str(fraction).replace("/", "_"), f"seed{seed}_lr{rate:g}")
    same_anywhere = own.model_copy(update={"train": train.model_copy(update={"device": "auto"})})
    key = digest_of([same_anywhere.model_dump(mode="json"), sorted(slides), sorted(c.slide_id for c in data.test[1])])
    file = folder / "point.json"
    if file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored.get("key") == key and "test_hits" in stored["row"]:
            row: dict[str, Any] = stored["row"]
            return row
        if stored.get("key") != key:
            raise ConfigError(
                f"curve: '{folder}' holds a point of other settings or data; expected the same: choose another --out"
            )
    train_align(own, files, captions, folder / "run", val_files=data.val[0], val_captions=data.val[1], resume=True)
    model = load(folder / "run", device)
    hits = _hits(model, data.test)
    chance = len(items_to_measure(data.test))
    row = {
        "recipe": name, "fraction": str(fraction), "patients": len(wanted), "slides": len(files), "seed": seed,
        "learning_rate": rate, "val_r1": float(np.mean(_hits(model, data.val))) if data.val[1] else None,
        "test_r1": float(np.mean(hits)), "chance_r1": 1 / chance, "test_hits": hits,
    }  # fmt: skip
    if data.labels is not None:
        row |= _zero_shot(model, data)
    shutil.rmtree(folder / "run" / "packed", ignore_errors=True)  # the training store is as large as the features
    write_json(file, {"key": key, "row": row})
    return row


def items_to_measure(part: Part, whole: Collection[str] = ()) -> list[Item]:
    """The slides and cases of a part with their reports, as evaluation takes them: cases of several parts a part each.

    Args:
        part: feature files and captions. whole: cases that stay one item, because labels name them.
    """
    items = _paired(*part)
    return [one for item in items for one in ([item] if item.name in whole else by_part([item]))]


def _paired(files: Sequence[Path], captions: Sequence[Caption]) -> list[Item]:
    """Reports with their files; what has no partner is left out (it was told where the files were read)."""
    return join_reports(files, captions).items


def _hits(model: Aligned, part: Part) -> list[float]:
    """For every caption of the part with a slide: R@1, the mean of both directions."""
    items = items_to_measure(part)
    slides = [encode_files(model, item.files, item.name) for item in items]
    texts = [item.caption.text for item in items]
    same = metrics.positives_from_keys(texts, texts)
    retrieval = retrieve(model, slides, texts)
    both = (metrics.hits_at_k(retrieval.scores, 1, same) + metrics.hits_at_k(retrieval.scores.T, 1, same)) / 2
    return [float(value) for value in both]


def _zero_shot(model: Aligned, data: CurveData) -> dict[str, Any]:
    """Balanced accuracy of the labels' own names as prompts, on the test slides."""
    assert data.labels is not None
    own = [item for item in items_to_measure(data.test, data.labels) if item.name in data.labels]
    truth = [data.labels[item.name].label for item in own]
    classes = sorted(set(truth))
    if len(classes) < 2:
        raise CaptionError(f"curve: {len(classes)} classes among the labelled test slides; expected two at least")
    encoded = [encode_files(model, item.files, item.name) for item in own]
    answer = zero_shot(model, encoded, {name: name for name in classes})
    return {
        "test_balanced_accuracy": metrics.balanced_accuracy(truth, list(answer.best)),
        "test_classes": list(answer.best),
        "chance_balanced_accuracy": 1 / len(classes),
    }


def curve_rows(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of every recipe and fraction, smallest fraction first."""
    rows = []
    for recipe, fraction in dict.fromkeys((p["recipe"], p["fraction"]) for p in points):
        own = [p for p in points if (p["recipe"], p["fraction"]) == (recipe, fraction)]
        row: dict[str, Any] = {
            "recipe": recipe, "fraction": fraction, "seeds": len(own),
            "patients": round(float(np.mean([p["patients"] for p in own]))),
        }  # fmt: skip
        for measure, chance in (("test_r1", "chance_r1"), ("test_balanced_accuracy", "chance_balanced_accuracy")):
            if measure in own[0]:
                values = [p[measure] for p in own]
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
                row |= {measure: float(np.mean(values)), f"{measure}_sd": spread, chance: own[0][chance]}
        rows.append(row)
    return rows


def compare_recipes(
    points: Sequence[Mapping[str, Any]], data: CurveData, *, num: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """The first recipe against each other one at every fraction, paired over the test patients.

    A slide's hit is the mean over the trainings (seeds); McNemar's test, where slides have labels, is of the class that
    most trainings give.

    Args:
        points: as :func:`run_curve` returns them. data: what they were measured on. num, seed: of the bootstrap.

    Returns:
        Rows: fraction, first, second, measure, difference (first minus second), low, high, mcnemar_p (or None).
    """
    recipes = list(dict.fromkeys(point["recipe"] for point in points))
    rows = []
    for fraction in dict.fromkeys(point["fraction"] for point in points):
        own = {name: [p for p in points if (p["recipe"], p["fraction"]) == (name, fraction)] for name in recipes}
        for other in recipes[1:]:
            named = {"fraction": fraction, "first": recipes[0], "second": other}
            for measure, compared in _compared(own[recipes[0]], own[other], data, num, seed).items():
                rows.append(named | {"measure": measure} | compared._asdict())
    return rows


def _compared(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], data: CurveData, num: int, seed: int
) -> dict[str, PairedComparison]:
    patients = np.array([item.caption.patient for item in items_to_measure(data.test)])
    cohorts = PatientBootstrap(patients, num, seed)
    ours, theirs = (np.mean([point["test_hits"] for point in own], axis=0) for own in (first, second))
    everyone = np.arange(len(patients))
    drawn = cohorts.means(ours, everyone), cohorts.means(theirs, everyone)
    compared = {"test_r1": paired_difference((float(ours.mean()), float(theirs.mean())), drawn)}
    if data.labels is None:
        return compared
    labels = [data.labels[item.name] for item in items_to_measure(data.test, data.labels) if item.name in data.labels]
    truth = np.array([one.label for one in labels])
    cohorts = PatientBootstrap(np.array([one.patient for one in labels]), num, seed)
    guesses = [np.array([point["test_classes"] for point in own]) for own in (first, second)]

    def mean(guessed: NDArray[np.str_], rows: NDArray[np.int64]) -> float:
        return float(np.mean([metrics.balanced_accuracy(truth[rows], one[rows]) for one in guessed]))

    values = [mean(guessed, np.arange(len(truth))) for guessed in guesses]
    resampled = [cohorts.values(partial(mean, guessed)) for guessed in guesses]
    right = [np.array([_most_given(column) for column in guessed.T]) == truth for guessed in guesses]
    compared["test_balanced_accuracy"] = paired_difference(
        (values[0], values[1]), (resampled[0], resampled[1]), (right[0], right[1])
    )
    return compared


def _most_given(classes: NDArray[np.str_]) -> str:
    names, counts = np.unique(classes, return_counts=True)
    return str(names[counts.argmax()])
