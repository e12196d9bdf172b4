"""Few-shot classification: k labelled slides a class, a small classifier on frozen embeddings, many seeds.

Logistic regression on slide embeddings, and attention pooling (ABMIL, Ilse et al. 2018, arXiv 1802.04712) of patch
embeddings; the same on the encoder's own features is the baseline, on the same slides, compared on the same patients.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate import metrics
from pathflip.evaluate.bootstrap import PatientBootstrap, bounds
from pathflip.evaluate.labels import SlideLabel
from pathflip.evaluate.paired import paired_difference
from pathflip.features import read_features
from pathflip.inference import Aligned, encode_case
from pathflip.inference.embedding import read_embeddings
from pathflip.io.slide_id import join_ids

__all__ = ["SHOTS", "Bags", "FewShotSpec", "bags_of", "bags_of_embeddings", "few_shot"]

SHOTS = (1, 2, 4, 8, 16, 32)
CLASSIFIERS = ("logistic regression", "ABMIL")
MODEL, BASELINE = "model", "encoder features"


@dataclass(frozen=True)
class FewShotSpec:
    """How few-shot classification is measured.

    Attributes:
        shots: labelled slides a class. seeds: draws of these slides. classifiers: of :data:`CLASSIFIERS`.
        test_fraction: of the patients, where no split is given. patches: kept a slide, drawn once.
        epochs, lr, width: of ABMIL. resamples: bootstrap cohorts of test patients.
    """

    shots: tuple[int, ...] = SHOTS
    seeds: int = 10
    classifiers: tuple[str, ...] = CLASSIFIERS
    test_fraction: float = 0.5
    patches: int = 256
    epochs: int = 40
    lr: float = 1e-2
    width: int = 64
    resamples: int = 1000


@dataclass(frozen=True, eq=False)
class Bags:
    """What classifiers see of every slide: one vector, and some patches."""

    slide: dict[str, NDArray[np.float32]]
    patches: dict[str, NDArray[np.float32]]


def bags_of(
    model: Aligned, files: Mapping[str, Sequence[Path]], spec: FewShotSpec, seed: int, progress: Callable[..., None]
) -> dict[str, Bags]:
    """Embeddings of the model, and the encoder's own features of the very same patches, slide by slide.

    Args:
        files: of every slide; several are those of a case, whose patches are one set.
    """
    rng = np.random.default_rng(seed)
    ours, plain = Bags({}, {}), Bags({}, {})
    for done, (name, own) in enumerate(files.items(), start=1):
        read = [read_features(file) for file in own]
        encoded = encode_case(model, read, name)
        tiles = [np.flatnonzero(one.row_of_tile >= 0) for one in encoded.slides]
        embeddings = np.concatenate([
            one.code.patches[0].float().cpu().numpy()[one.row_of_tile[at]]
            for one, at in zip(encoded.slides, tiles, strict=True)
        ])  # fmt: skip
        features = np.concatenate([one.features[at] for one, at in zip(read, tiles, strict=True)])
        chosen = np.sort(rng.permutation(len(features))[: spec.patches])
        ours.slide[name] = encoded.code.slide[0].float().cpu().numpy()
        ours.patches[name], plain.patches[name] = embeddings[chosen], features[chosen]
        plain.slide[name] = features.mean(0)
        progress(done, len(files), name)
    return {MODEL: ours, BASELINE: plain}


def few_shot(
    bags: Mapping[str, Bags],
    labels: Sequence[SlideLabel],
    *,
    spec: FewShotSpec,
    split_of: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Callable[..., None] = lambda done, total, note="": None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Balanced accuracy of every system, classifier and number of slides a class.

    Args:
        bags: what is known of the slides, by system: :func:`bags_of`. labels: of the slides.
        spec: see there. split_of: split of each slide; training slides are drawn from "train" and "val", measured
            is "test". None: half of the patients of every class, by seed. seed: of the draws.

    Returns:
        Rows (system, classifier, shots, value, standard deviation over seeds, interval over patients, chance, and, for
        every other system, the paired difference of the model to it), and remarks. Systems without patches have no row
        of ABMIL.

    Raises:
        CaptionError: a class has fewer than two patients, or none in a split.
    """
    classes = sorted({one.label for one in labels})
    pool, test = _pool_and_test(labels, classes, spec, split_of, seed)
    truth = np.array([classes.index(one.label) for one in test])
    cohorts = PatientBootstrap(np.array([one.patient for one in test]), spec.resamples, seed)
    fewest = min(sum(one.label == name for one in pool) for name in classes)
    shots = [k for k in spec.shots if k <= fewest]
    notes = [f"{k} slides a class: left out, a class has {fewest} to draw from" for k in spec.shots if k > fewest]
    rows: list[dict[str, Any]] = []
    total = len(shots) * len(spec.classifiers) * spec.seeds
    done = 0
    for k in shots:
        draws = [_draw(pool, classes, k, [seed, k, number]) for number in range(spec.seeds)]
        for classifier in spec.classifiers:
            able = {name: own for name, own in bags.items() if own.patches or classifier != "ABMIL"}
            guesses: dict[str, list[NDArray[np.int64]]] = {system: [] for system in able}
            for number, chosen in enumerate(draws):
                for system, own in able.items():
                    guesses[system].append(_fitted(classifier, own, chosen, test, classes, spec, seed + number))
                done += 1
                progress(done, total, f"{classifier}, {k} a class")
            rows += _rows(classifier, k, guesses, truth, cohorts, len(classes))
    return rows, notes


def _pool_and_test(
    labels: Sequence[SlideLabel],
    classes: Sequence[str],
    spec: FewShotSpec,
    split_of: Mapping[str, str] | None,
    seed: int,
) -> tuple[list[SlideLabel], list[SlideLabel]]:
    if split_of is not None:
        pool = [one for one in labels if split_of.get(one.slide_id) in ("train", "val")]
        test = [one for one in labels if split_of.get(one.slide_id) == "test"]
    else:
        rng = np.random.default_rng(seed)
        held: set[str] = set()
        for name in classes:
            patients = sorted({one.patient for one in labels if one.label == name} - held)
            order = [patients[i] for i in rng.permutation(len(patients))]
            held |= set(order[: max(1, round(spec.test_fraction * len(order)))])
        pool = [one for one in labels if one.patient not in held]
        test = [one for one in labels if one.patient in held]
    shared = {one.patient for one in pool} & {one.patient for one in test}
    if shared:
        raise ConfigError(f"few-shot: patient '{min(shared)}' has slides in training and in test; expected one split")
    for name in classes:
        for what, part in (("train", pool), ("test", test)):
            if not any(one.label == name for one in part):
                number = sum(one.label == name for one in labels)
                raise CaptionError(
                    f"few-shot: class '{name}' has {number} slides and none to {what}; expected two patients of it "
                    "at least"
                )
    return pool, test


def _draw(pool: Sequence[SlideLabel], classes: Sequence[str], k: int, seed: Sequence[int]) -> list[SlideLabel]:
    """k slides a class, of k patients where there are as many."""
    rng = np.random.default_rng(seed)
    chosen = []
    for name in classes:
        own = [one for one in pool if one.label == name]
        own = [own[i] for i in rng.permutation(len(own))]
        first = {one.patient: one for one in reversed(own)}
        ordered = [*first.values(), *(one for one in own if first[one.patient] is not one)]
        chosen += ordered[:k]
    return chosen


def _fitted(
    classifier: str,
    bags: Bags,
    train: Sequence[SlideLabel],
    test: Sequence[SlideLabel],
    classes: Sequence[str],
    spec: FewShotSpec,
    seed: int,
) -> NDArray[np.int64]:
    """The class each test slide is given."""
    labels = np.array([classes.index(one.label) for one in train])
    if classifier == "logistic regression":
        scaler = StandardScaler().fit(np.stack([bags.slide[one.slide_id] for one in train]))
        model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaler.transform(np.stack([bags.slide[one.slide_id] for one in train])), labels)
        answer: NDArray[np.int64] = model.predict(
            scaler.transform(np.stack([bags.slide[one.slide_id] for one in test]))
        )
        return answer
    if classifier == "ABMIL":
        return _abmil(bags, train, test, labels, len(classes), spec, seed)
    raise ConfigError(f"few-shot: classifier '{classifier}', expected one of {', '.join(CLASSIFIERS)}")


class _AttentionPool(nn.Module):
    """Gated attention over patches, and a linear classifier of the pooled patch."""

    def __init__(self, dim: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(dim, width), nn.Linear(dim, width)
        self.score, self.head = nn.Linear(width, 1), nn.Linear(dim, num_classes)

    def forward(self, bag: Tensor, mask: Tensor) -> Tensor:
        scores = self.score(torch.tanh(self.value(bag)) * torch.sigmoid(self.gate(bag)))[..., 0]
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return self.head((weights[..., None] * bag).sum(1))


def _abmil(
    bags: Bags,
    train: Sequence[SlideLabel],
    test: Sequence[SlideLabel],
    labels: NDArray[np.int64],
    num_classes: int,
    spec: FewShotSpec,
    seed: int,
) -> NDArray[np.int64]:
    everything = np.concatenate([bags.patches[one.slide_id] for one in train])
    mean, std = everything.mean(0), everything.std(0) + 1e-6

    def padded(slides: Sequence[SlideLabel]) -> tuple[Tensor, Tensor]:
        own = [torch.from_numpy((bags.patches[one.slide_id] - mean) / std).float() for one in slides]
        longest = max(len(one) for one in own)
        mask = torch.stack([torch.arange(longest) < len(one) for one in own])
        return torch.stack([functional.pad(one, (0, 0, 0, longest - len(one))) for one in own]), mask

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _AttentionPool(everything.shape[1], spec.width, num_classes)
        optimiser = torch.optim.AdamW(net.parameters(), lr=spec.lr, weight_decay=1e-2)
        patches, mask = padded(train)
        target = torch.from_numpy(labels)
        for _ in range(spec.epochs):
            optimiser.zero_grad()
            functional.cross_entropy(net(patches, mask), target).backward()
            optimiser.step()
        with torch.no_grad():
            parts = [net(*padded(test[i : i + 64])).argmax(1) for i in range(0, len(test), 64)]
    answer: NDArray[np.int64] = torch.cat(parts).numpy()
    return answer


def _rows(
    classifier: str,
    k: int,
    guesses: Mapping[str, Sequence[NDArray[np.int64]]],
    truth: NDArray[np.int64],
    cohorts: PatientBootstrap,
    num_classes: int,
) -> list[dict[str, Any]]:
    """A row a system; intervals are over test patients, of the mean over seeds.

    McNemar's test is of the class that most draws give a slide: draws are no independent witnesses.
    """
    everyone = np.arange(len(truth))

    def mean_over_seeds(system: str) -> Callable[[NDArray[Any]], float]:
        return lambda rows: float(np.mean([metrics.balanced_accuracy(truth[rows], g[rows]) for g in guesses[system]]))

    drawn = {system: cohorts.values(mean_over_seeds(system)) for system in guesses}
    rows = []
    for system, own in guesses.items():
        low, high = bounds(drawn[system])
        per_seed = [metrics.balanced_accuracy(truth, guess) for guess in own]
        row: dict[str, Any] = {
            "system": system, "classifier": classifier, "shots": k, "seeds": len(own),
            "balanced_accuracy": mean_over_seeds(system)(everyone), "sd_over_seeds": float(np.std(per_seed)),
            "low": low, "high": high, "chance": 1 / num_classes, "test_slides": len(truth),
        }  # fmt: skip
        if system != MODEL and MODEL in guesses:
            compared = paired_difference(
                (mean_over_seeds(MODEL)(everyone), row["balanced_accuracy"]), (drawn[MODEL], drawn[system]),
                (_most_given(guesses[MODEL]) == truth, _most_given(own) == truth),
            )  # fmt: skip
            row |= {
                "model_minus_this": compared.difference, "difference_low": compared.low,
                "difference_high": compared.high, "mcnemar_p": compared.p_value,
            }  # fmt: skip
        rows.append(row)
    return rows


def _most_given(guesses: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The class that most draws give each slide; the lowest of equally frequent ones."""
    guessed = np.stack(guesses)
    counts = np.stack([(guessed == code).sum(0) for code in range(int(guessed.max()) + 1)])
    most: NDArray[np.int64] = counts.argmax(0)
    return most


def bags_of_embeddings(path: Path, slides: Sequence[str]) -> Bags:
    """Somebody's slide embeddings, as ``pathflip embed`` writes them, for the slides named.

    Raises:
        CaptionError, ConfigError: the file cannot be read. CaptionError: slides without an embedding.
    """
    embeddings = read_embeddings(path)
    own = [str(one) for one in embeddings.about["slide"]]
    place = {name: row for row, name in enumerate(own)}
    slide_of = join_ids(own, slides)
    row_of = {slide: place[name] for name, slide in slide_of.items()}
    if lost := [slide for slide in slides if slide not in row_of]:
        raise CaptionError(
            f"{path.name}: {len(lost)} of {len(slides)} labelled slides have no embedding in it (the first: "
            f"'{lost[0]}'); expected all: a paired comparison needs the same slides"
        )
    return Bags({slide: embeddings.vectors[row] for slide, row in row_of.items()}, {})
