"""Scores of a classification: accuracy, balanced accuracy, weighted F1, AUROC, skills, confusion; with intervals.

Class metrics are scikit-learn's but for those of :mod:`pathflip.evaluate.metrics`, which treat ties as a coin would.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import confusion_matrix, f1_score

from pathflip.errors import CaptionError, PathFLIPError
from pathflip.evaluate import metrics
from pathflip.evaluate.bootstrap import PatientBootstrap, bounds
from pathflip.evaluate.probability_scores import brier_skill, log_loss_skill

__all__ = [
    "ClassScore",
    "auroc_ovo",
    "auroc_ovr",
    "check_classes",
    "class_scores",
    "confusion",
    "macro_f1",
    "weighted_f1",
]

FEW = 5
"""A class with fewer slides is named: its recall moves in steps of a fifth and more."""


@dataclass(frozen=True)
class ClassScore:
    """A measure with its interval over patients, what knowing nothing gives, and what the largest class gives."""

    measure: str
    value: float
    low: float | None
    high: float | None
    chance: float
    baselines: dict[str, float] = field(default_factory=dict)
    drawn: np.ndarray | None = field(default=None, repr=False, compare=False)
    """The value on every bootstrap cohort."""
    right: np.ndarray | None = field(default=None, repr=False, compare=False)
    """Of accuracy: whether each slide is right."""


def weighted_f1(truth: Int[np.ndarray, " n"], guess: Int[np.ndarray, " n"], num_classes: int) -> float:
    """F1 of each class, averaged by the number of its slides."""
    labels = list(range(num_classes))
    return float(f1_score(truth, guess, labels=labels, average="weighted", zero_division=0.0))


def macro_f1(truth: Int[np.ndarray, " n"], guess: Int[np.ndarray, " n"], num_classes: int) -> float:
    """Mean F1 of the classes; a guess of ``num_classes`` and more is of none. 0 for a class that is neither there nor
    guessed, as scikit-learn counts it with all classes named and ``zero_division`` 0; much faster for a bootstrap.
    """
    right = np.bincount(truth[truth == guess], minlength=num_classes)[:num_classes]
    both = np.bincount(truth, minlength=num_classes) + np.bincount(guess, minlength=num_classes)[:num_classes]
    return float(np.mean(np.divide(2 * right, both, out=np.zeros(num_classes), where=both > 0)))


def auroc_ovr(truth: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n C"]) -> float:
    """Mean over the classes of the AUROC of each against the rest (of two, the AUROC); nan where one is absent."""
    places = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return float(np.mean([metrics.auroc(truth == place, probabilities[:, place]) for place in places]))


def auroc_ovo(truth: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n C"]) -> float:
    """Mean over pairs of classes of how well their own scores tell them apart (Hand and Till 2001)."""
    values = []
    for first, second in combinations(range(probabilities.shape[1]), 2):
        rows = (truth == first) | (truth == second)
        for own in (first, second):
            values.append(metrics.auroc(truth[rows] == own, probabilities[rows, own]))
    return float(np.mean(values))


def confusion(truth: Int[np.ndarray, " n"], guess: Int[np.ndarray, " n"], num_classes: int) -> Int[np.ndarray, "C C"]:
    """Slides of each true class (rows) by the class they were given (columns)."""
    return np.asarray(confusion_matrix(truth, guess, labels=list(range(num_classes))))


def check_classes(labels: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Remarks on classes that are too small to say much.

    Raises:
        CaptionError: a label that is no class, or a class with no slide or a single one.
    """
    count = Counter(labels)
    if strange := [label for label in count if label not in classes]:
        raise CaptionError(f"label '{strange[0]}' is none of the classes {', '.join(classes)}; expected one of them")
    if empty := [name for name in classes if not count[name]]:
        raise CaptionError(
            f"no slide of class '{empty[0]}' among {len(labels)}; its recall cannot be measured: leave the class "
            "out, or add slides"
        )
    if single := [name for name in classes if count[name] == 1]:
        raise CaptionError(
            f"class '{single[0]}' has one slide among {len(labels)}: its recall is 0 or 1, without an interval; "
            "expected two at least: leave the class out, or add slides"
        )
    few = [f"'{name}' has {count[name]}" for name in classes if count[name] < FEW]
    return [f"classes of very few slides: {', '.join(few)}"] if few else []


def class_scores(
    truth: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n C"],
    patients: Sequence[str],
    *,
    num: int = 1000,
    seed: int = 0,
) -> list[ClassScore]:
    """Everything measured of class probabilities: accuracy, balanced accuracy, weighted F1, AUROCs, skills.

    Args:
        truth: true class of each slide. probabilities: of the classes, a row a slide (rows sum to 1).
        patients: of the slides; whole patients are resampled. num, seed: of the bootstrap.
    """
    if len(truth) != len(probabilities) or not len(truth):
        raise PathFLIPError(f"got {len(truth)} labels and {len(probabilities)} rows, expected as many, not 0")
    width = probabilities.shape[1]
    guess = probabilities.argmax(1)
    largest = np.full(len(truth), np.bincount(truth, minlength=width).argmax())
    fractions = np.bincount(truth, minlength=width) / len(truth)
    cohorts = PatientBootstrap(np.asarray(patients), num, seed)

    def score(name: str, of: Callable[[np.ndarray], float], chance: float, constant: float | None = None) -> ClassScore:
        drawn = cohorts.values(of)
        low, high = bounds(drawn)
        known = {} if constant is None else {"largest class": constant}
        right = truth == guess if name == "accuracy" else None
        return ClassScore(name, of(np.arange(len(truth))), low, high, chance, known, drawn, right)

    by_chance_f1 = float(np.sum(fractions * 2 * fractions / width / np.maximum(fractions + 1 / width, 1e-12)))
    return [
        score("balanced accuracy", lambda r: metrics.balanced_accuracy(truth[r], guess[r]), 1 / width, 1 / width),
        score("accuracy", lambda r: float((truth[r] == guess[r]).mean()), 1 / width, float(fractions.max())),
        score(
            "weighted F1",
            lambda r: weighted_f1(truth[r], guess[r], width),
            by_chance_f1,
            weighted_f1(truth, largest, width),
        ),
        score("AUROC one-vs-rest", lambda r: auroc_ovr(truth[r], probabilities[r]), metrics.AUROC_CHANCE),
        score("AUROC one-vs-one", lambda r: auroc_ovo(truth[r], probabilities[r]), metrics.AUROC_CHANCE),
        score("Brier skill", lambda r: brier_skill(probabilities[r], truth[r]), 0.0),
        score("log-loss skill", lambda r: log_loss_skill(probabilities[r], truth[r]), 0.0),
    ]
