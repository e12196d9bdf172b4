"""What the same features give when every tile is labelled: a bound no weakly supervised model should pass."""

import warnings

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from pathflip.data.patches import Neighbourhood
from pathflip.evaluate import metrics
from pathflip.evaluate.simulated.measures import SMALL, TILE_FRACTION, Cohort, CohortSlide
from pathflip.simulate.cases import HELD_OUT_COMBINATIONS
from pathflip.simulate.world import FINDINGS

__all__ = ["supervised_upper_bound"]

TOP_TILES = 8


def supervised_upper_bound(train: Cohort, test: Cohort, *, max_tiles: int = 14_000, seed: int = 0) -> dict[str, float]:
    """Train a small tile classifier on labelled tiles of the training slides; measure it on the test slides.

    A multilayer perceptron on the tile's feature and its neighbourhood mean, one output a finding. Presence is the
    mean probability of a slide's 8 best tiles. Type, grade and pattern are logistic regressions on the mean feature
    of the tiles without a finding (chosen by the truth: this is an upper bound, not a method).

    Returns:
        "grounding AP", "grounding AP, small findings", "presence AUROC", "type, balanced accuracy" and the like,
        named as the measures they bound.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    inputs, labels = _labelled_tiles(train, max_tiles, rng)
    model = make_pipeline(StandardScaler(), MLPClassifier((96,), max_iter=20, early_stopping=True, random_state=seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 20 rounds are not the very last word is no news to the user
        model.fit(inputs, labels)
    probabilities = [_per_finding(model, slide) for slide in test.slides]
    bounds = {**_grounding(test, probabilities), **_presence(test, probabilities)}
    for column, name in (("tumour", "type"), ("grade", "grade"), ("pattern", "pattern")):
        learned, asked = ([s for s in cohort.slides if s.row["benign"] == "0"] for cohort in (train, test))
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        head.fit(np.stack([_slide_vector(slide) for slide in learned]), [slide.row[column] for slide in learned])
        guess = head.predict(np.stack([_slide_vector(slide) for slide in asked]))
        truth = np.array([slide.row[column] for slide in asked])
        bounds[f"{name}, balanced accuracy"] = metrics.balanced_accuracy(truth, guess)
        if name != "grade":
            pairs = [(slide.row["tumour"], slide.row["pattern"]) for slide in asked]
            known = np.array([pair not in HELD_OUT_COMBINATIONS for pair in pairs])
            measure = f"{name}, balanced accuracy, type-pattern pairs seen in training"
            bounds[measure] = metrics.balanced_accuracy(truth[known], guess[known]) if known.any() else float("nan")
    return bounds


def _inputs(slide: CohortSlide, rows: Int[np.ndarray, " V"] | None = None) -> Float[np.ndarray, "V 2D"]:
    """Features and neighbourhood means of some tiles, or of all."""
    features = slide.features
    rows = np.arange(len(features.valid)) if rows is None else rows
    context = Neighbourhood(features.grid.cells(), features.valid).mean(features.features, rows)
    return np.concatenate([features.features[rows], context], axis=1)


def _labelled_tiles(
    cohort: Cohort, most: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Tiles with their dominant finding (0 is none), rare findings kept first."""
    per_slide = max(8, most // max(1, len(cohort.slides)))
    inputs, labels = [], []
    for slide in cohort.slides:
        fraction = slide.fractions.max(1)
        label = np.where(fraction >= TILE_FRACTION, slide.fractions.argmax(1) + 1, 0)
        usable = np.flatnonzero(slide.features.valid)
        with_finding = usable[label[usable] > 0]
        without = usable[label[usable] == 0]
        chosen = np.concatenate(
            [rng.permutation(with_finding)[: per_slide // 2], rng.permutation(without)[: per_slide // 2]]
        )
        inputs.append(_inputs(slide, chosen))
        labels.append(label[chosen])
    return np.concatenate(inputs).astype(np.float32), np.concatenate(labels)


def _per_finding(model: object, slide: CohortSlide) -> Float[np.ndarray, "N F"]:
    predicted = model.predict_proba(_inputs(slide))  # type: ignore[attr-defined]
    out = np.zeros((len(predicted), len(FINDINGS)))
    for column, label in enumerate(model.classes_):  # type: ignore[attr-defined]
        if label > 0:
            out[:, label - 1] = predicted[:, column]
    return out


def _grounding(cohort: Cohort, probabilities: list[NDArray[np.floating]]) -> dict[str, float]:
    every, small = [], []
    for slide, of_slide in zip(cohort.slides, probabilities, strict=True):
        valid = slide.features.valid
        for finding in np.flatnonzero(slide.present):
            truth = slide.fractions[valid, finding] >= TILE_FRACTION
            if truth.any() and not truth.all():
                precision = metrics.average_precision(truth, of_slide[valid, finding])
                every.append(precision)
                if slide.extents[finding] < SMALL:
                    small.append(precision)
    return {
        "grounding AP": float(np.mean(every)),
        "grounding AP, small findings": float(np.mean(small)) if small else float("nan"),
    }


def _presence(cohort: Cohort, probabilities: list[NDArray[np.floating]]) -> dict[str, float]:
    scores = np.stack([np.sort(of_slide, axis=0)[-TOP_TILES:].mean(0) for of_slide in probabilities])
    truth = np.stack([slide.present for slide in cohort.slides])
    usable = [f for f in range(truth.shape[1]) if 0 < truth[:, f].sum() < len(truth)]
    value = float(np.mean([metrics.auroc(truth[:, f], scores[:, f]) for f in usable]))
    return {"presence AUROC": value, "absence AUROC": value}


def _slide_vector(slide: CohortSlide) -> Float[np.ndarray, " D"]:
    """Mean feature over the tiles without any finding: mostly tumour and stroma."""
    plain = slide.features.valid & (slide.fractions.max(1) < TILE_FRACTION)
    rows = plain if plain.any() else slide.features.valid
    return slide.features.features[rows].mean(0)
