"""Retrieval of similar slides, the honest way: nothing of the same patient counts, and every organ by itself.

Leave one patient out; the diagnosis of the nearest slide, and the majority of the nearest three and five; macro F1 an
organ. The floor is not chance alone: patches of a plain encoder that vote for the slide their nearest patch is of are
within noise of slide encoders.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from pathflip.benchmarks.measured import metric_score
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Published, Score, Skipped
from pathflip.benchmarks.slide_files import encode_each, feature_files, open_model
from pathflip.benchmarks.test_sets import content_hash
from pathflip.errors import CaptionError
from pathflip.features import read_features
from pathflip.io.tables import first_of, read_table
from pathflip.text.captions import PATIENT_KEYS, patient_of, slide_of_row

__all__ = ["PROTOCOL", "nearest_votes", "patch_votes"]

NAME = "patient-retrieval"
VOTES = (1, 3, 5)
PATCHES = 64
"""Patches drawn a slide for the patch vote."""


@dataclass(frozen=True)
class _Slide:
    """A slide of the table."""

    name: str
    patient: str
    organ: str
    diagnosis: str


def _read(path: Path) -> list[_Slide]:
    slides: dict[str, _Slide] = {}
    for number, row in enumerate(read_table(path, expected="a table slide, patient, organ, diagnosis"), 1):
        name = slide_of_row(row)
        diagnosis = first_of(row, ("diagnosis", "label", "subtype", "class"))
        organ = first_of(row, ("organ", "site", "tissue", "tumor"))
        if diagnosis is None or organ is None:
            lacking = "diagnosis" if diagnosis is None else "organ"
            raise CaptionError(
                f"{path.name}: row {number}: no {lacking}; expected the columns slide, patient, organ, diagnosis"
            )
        if name in slides:
            raise CaptionError(f"{path.name}: row {number}: slide '{name}' stands there already; expected each once")
        patient = str(first_of(row, PATIENT_KEYS) or patient_of(name))
        slides[name] = _Slide(name, patient, str(organ).strip(), str(diagnosis).strip())
    return list(slides.values())


def nearest_votes(
    similarity: NDArray[np.floating], patients: Sequence[str], diagnoses: Sequence[str], k: int
) -> list[str]:
    """For each slide, the diagnosis most frequent among its k nearest of other patients; the nearest breaks ties."""
    names, answers = np.asarray(patients), []
    for row, scores in enumerate(similarity):
        allowed = np.flatnonzero(names != names[row])
        order = allowed[np.argsort(-scores[allowed], kind="stable")][:k]
        votes = Counter(diagnoses[i] for i in order)
        most = max(votes.values(), default=0)
        answers.append(next((diagnoses[i] for i in order if votes[diagnoses[i]] == most), ""))
    return answers


def patch_votes(patches: Sequence[NDArray[Any]], patients: Sequence[str], diagnoses: Sequence[str]) -> list[str]:
    """For each slide, the diagnosis that most of its patches' nearest patches (cosine, other patients) are of."""
    unit = [p / np.maximum(np.linalg.norm(p, axis=1, keepdims=True), 1e-12) for p in patches]
    owner = np.repeat(np.arange(len(unit)), [len(p) for p in unit])
    everything = np.concatenate(unit)
    names, answers = np.asarray(patients), []
    for row, own in enumerate(unit):
        allowed = names[owner] != names[row]
        nearest = owner[allowed][(own @ everything[allowed].T).argmax(1)]
        votes = Counter(diagnoses[i] for i in nearest)
        answers.append(max(sorted(votes), key=lambda name: votes[name]))
    return answers


def run(inputs: Inputs) -> Outcome:
    """Find the nearest slides of other patients, organ by organ."""
    inputs.require(NAME, "model")
    slides = _read(inputs.data)
    files, skipped = feature_files(NAME, [one.name for one in slides], inputs)
    rng = np.random.default_rng(inputs.seed)
    vectors, patches = _vectors(files, inputs, skipped, rng)
    scores: list[Score] = []
    items: list[dict[str, Any]] = []
    notes: list[str] = []
    scored = 0
    for organ in dict.fromkeys(one.organ for one in slides):
        own = [one for one in slides if one.organ == organ and one.name in vectors]
        patients = {one.patient for one in own}
        if len(patients) < 2 or len({one.diagnosis for one in own}) < 2:
            notes.append(
                f"{organ}: {len(patients)} patients, {len({o.diagnosis for o in own})} diagnoses: not measured"
            )
            skipped += [Skipped(one.name, "its organ has one patient or one diagnosis") for one in own]
            continue
        of_organ, rows = _organ(organ, own, vectors, patches, inputs)
        scores += of_organ
        items += rows
        scored += len(own)
    if not scores:
        raise CaptionError(f"{inputs.data.name}: no organ has two patients and two diagnoses; nothing can be retrieved")
    digest = content_hash([(one.name, one.organ, one.diagnosis) for one in slides])
    return Outcome(
        scores=(*_means(scores), *scores), scored=scored, total=len(slides),
        test_set=f"{len(slides):,} slides (content hash {digest})",
        skipped=tuple(skipped), items=tuple(items), notes=tuple(notes),
    )  # fmt: skip


def _vectors(
    files: dict[str, Path], inputs: Inputs, skipped: list[Skipped], rng: np.random.Generator
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The model's embedding of every slide, and some patches of the plain encoder."""
    vectors, patches = {}, {}
    for name, encoded in encode_each(NAME, open_model(inputs), files, inputs, skipped):
        vectors[name] = encoded.code.slide[0].float().cpu().numpy()
        features = read_features(files[name])
        rows = np.flatnonzero(features.valid)
        chosen = rng.permutation(rows)[:PATCHES]
        patches[name] = features.features[np.sort(chosen)].astype(np.float64)
    return vectors, patches


def _organ(
    organ: str, own: Sequence[_Slide], vectors: dict[str, Any], patches: dict[str, Any], inputs: Inputs
) -> tuple[list[Score], list[dict[str, Any]]]:
    patients, truth = [one.patient for one in own], np.array([one.diagnosis for one in own])
    matrix = np.stack([vectors[one.name] for one in own]).astype(np.float64)
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    classes = sorted(set(truth))
    voted = np.array(patch_votes([patches[one.name] for one in own], patients, list(truth)))
    largest = np.full(len(own), Counter(truth).most_common(1)[0][0])

    def macro(answers: NDArray[Any]) -> Callable[[NDArray[Any]], float]:
        return lambda rows: float(
            f1_score(truth[rows], answers[rows], labels=classes, average="macro", zero_division=0.0)
        )

    everyone = np.arange(len(own))
    baselines = {"patch votes": macro(voted)(everyone), "largest class": macro(largest)(everyone)}
    chance = float(np.mean([2 * f / len(classes) / (f + 1 / len(classes)) for f in _fractions(truth, classes)]))
    scores, votes_of = [], {}
    for k in VOTES:
        answers = np.array(nearest_votes(matrix @ matrix.T, patients, list(truth), k))
        votes_of[k] = answers
        measure = "macro F1, nearest slide" if k == 1 else f"macro F1, majority of {k}"
        scores.append(metric_score(measure, organ, macro(answers), patients, chance, inputs, baselines=baselines))
    rows = [
        {"slide": one.name, "organ": organ, "diagnosis": one.diagnosis, "nearest": votes_of[1][i],
         "majority_of_5": votes_of[5][i], "patch_votes": voted[i]}
        for i, one in enumerate(own)
    ]  # fmt: skip
    return scores, rows


def _fractions(truth: NDArray[Any], classes: Sequence[str]) -> list[float]:
    return [float((truth == name).mean()) for name in classes]


def _means(scores: Sequence[Score]) -> list[Score]:
    """The mean over organs of every measure, with the standard deviation between organs."""
    means = []
    for measure in dict.fromkeys(score.measure for score in scores):
        own = [score for score in scores if score.measure == measure]
        values = [score.value for score in own]
        names = own[0].baselines
        means.append(
            Score(
                measure, "mean over organs", float(np.mean(values)), None, None, sum(s.number for s in own),
                float(np.mean([s.chance for s in own])),
                baselines={name: float(np.mean([s.baselines[name] for s in own])) for name in names},
                note=f"standard deviation between organs {np.std(values):.3f}",
            )
        )  # fmt: skip
    return means


PROTOCOL = Protocol(
    name=NAME,
    title="Similar slides, one patient left out",
    metric="macro F1 an organ: nearest slide, majority of 3 and 5",
    needs="a table slide, patient, organ, diagnosis; an alignment model and features",
    run=run,
    published=(Published("best of ten pipelines, 9,387 TCGA slides", "macro F1", "mean over organs", 0.68,
                         "± 0.21 between organs"),),
    table="zero-shot",
)  # fmt: skip
