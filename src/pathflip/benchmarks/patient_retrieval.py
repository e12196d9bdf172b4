"""Retrieval of similar slides, the honest way: nothing of the same patient counts, and every organ by itself.

Leave one patient out; the diagnosis of the nearest slide, and the majority of the nearest three and five; macro F1 an
organ. The floor is not chance alone: patches of a plain encoder that vote for the slide their nearest patch is of are
within noise of slide encoders.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.benchmarks.measured import mean_over_groups, metric_score
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Published, Score, Skipped
from pathflip.benchmarks.slide_files import encode_each, item_files, open_model
from pathflip.benchmarks.test_sets import content_hash
from pathflip.errors import CaptionError
from pathflip.evaluate.class_scores import macro_f1
from pathflip.features import read_features
from pathflip.io.tables import first_of, read_table
from pathflip.text.captions import patient_of_row, slide_of_row

__all__ = ["PROTOCOL", "nearest_votes", "patch_votes"]

NAME = "patient-retrieval"
_MEASURES = {1: "nearest slide", 3: "majority of 3", 5: "majority of 5"}
"""Ways of answering, by the number of slides that vote."""
_PATCHES, _LARGEST = "patch votes", "largest class"
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
        patient = patient_of_row(row, name)
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
    files, skipped = item_files(NAME, [one.name for one in slides], inputs)
    rng = np.random.default_rng(inputs.seed)
    vectors, patches = _vectors(files, inputs, skipped, rng)
    organs: list[_Organ] = []
    notes: list[str] = []
    for organ in dict.fromkeys(one.organ for one in slides):
        own, alone = _with_company([one for one in slides if one.organ == organ and one.name in vectors])
        if alone:
            skipped += [Skipped(one.name, "no other patient of its organ has its diagnosis") for one in alone]
            rare = dict.fromkeys(one.diagnosis for one in alone)
            notes.append(f"{organ}: {len(rare)} diagnoses of one patient alone are left out ({', '.join(rare)})")
        patients = {one.patient for one in own}
        if len(patients) < 2 or len({one.diagnosis for one in own}) < 2:
            notes.append(
                f"{organ}: {len(patients)} patients, {len({o.diagnosis for o in own})} diagnoses: not measured"
            )
            skipped += [Skipped(one.name, "its organ has one patient or one diagnosis") for one in own]
            continue
        organs.append(_organ(organ, own, vectors, patches))
    if not organs:
        raise CaptionError(f"{inputs.data.name}: no organ has two patients and two diagnoses; nothing can be retrieved")
    digest = content_hash([(one.name, one.organ, one.diagnosis) for one in slides])
    measured = [one for organ in organs for one in organ.slides]
    return Outcome(
        scores=tuple(_scores(organs, inputs)), scored=len(measured), total=len(slides),
        test_set=f"{len(slides):,} slides (content hash {digest})", skipped=tuple(skipped),
        items=tuple(row for organ in organs for row in organ.rows()), notes=tuple(notes),
        compared_on=tuple((one.name, one.patient) for one in measured),
    )  # fmt: skip


def _with_company(own: Sequence[_Slide]) -> tuple[list[_Slide], list[_Slide]]:
    """Slides whose diagnosis another patient has, too, and those that nothing right can be retrieved for."""
    patients: dict[str, set[str]] = {}
    for one in own:
        patients.setdefault(one.diagnosis, set()).add(one.patient)
    alone = [one for one in own if len(patients[one.diagnosis]) < 2]
    return [one for one in own if len(patients[one.diagnosis]) > 1], alone


def _vectors(
    files: dict[str, tuple[Path, ...]], inputs: Inputs, skipped: list[Skipped], rng: np.random.Generator
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The model's embedding of every slide, and some patches of the plain encoder."""
    vectors, patches = {}, {}
    for name, encoded in encode_each(NAME, open_model(inputs), files, inputs, skipped):
        vectors[name] = encoded.code.slide[0].float().cpu().numpy()
        read = [read_features(file) for file in files[name]]
        valid = np.concatenate([one.features[one.valid] for one in read])
        chosen = rng.permutation(len(valid))[:PATCHES]
        patches[name] = valid[np.sort(chosen)].astype(np.float64)
    return vectors, patches


@dataclass(frozen=True, eq=False)
class _Organ:
    """Slides of one organ, their diagnoses as numbers, and what each way of answering says of them."""

    name: str
    slides: tuple[_Slide, ...]
    classes: tuple[str, ...]
    truth: NDArray[np.int64]
    answers: Mapping[str, NDArray[np.int64]]

    def f1(self, way: str) -> Callable[[NDArray[Any]], float]:
        """Macro F1 of a way of answering, of some slides."""
        return lambda rows: macro_f1(self.truth[rows], self.answers[way][rows], len(self.classes))

    def chance(self) -> float:
        """Expected macro F1 of guessing among the classes."""
        fractions = np.bincount(self.truth) / len(self.truth)
        return float(np.mean(2 * fractions / len(self.classes) / (fractions + 1 / len(self.classes))))

    def rows(self) -> list[dict[str, Any]]:
        """A row a slide, for ``items.csv``."""
        named = {way: [self.classes[code] for code in codes] for way, codes in self.answers.items()}
        return [
            {"slide": one.name, "organ": self.name, "diagnosis": one.diagnosis,
             **{way.replace(" ", "_"): predicted[i] for way, predicted in named.items() if way != _LARGEST}}
            for i, one in enumerate(self.slides)
        ]  # fmt: skip


def _organ(name: str, own: Sequence[_Slide], vectors: dict[str, Any], patches: dict[str, Any]) -> _Organ:
    patients, diagnoses = [one.patient for one in own], [one.diagnosis for one in own]
    matrix = np.stack([vectors[one.name] for one in own]).astype(np.float64)
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    classes = tuple(sorted(set(diagnoses)))
    diagnoses_by: dict[str, Sequence[str]] = {
        measure: nearest_votes(matrix @ matrix.T, patients, diagnoses, k) for k, measure in _MEASURES.items()
    }
    diagnoses_by[_PATCHES] = patch_votes([patches[one.name] for one in own], patients, diagnoses)
    diagnoses_by[_LARGEST] = [max(classes, key=diagnoses.count)] * len(own)
    codes = {way: np.array([classes.index(one) for one in predicted]) for way, predicted in diagnoses_by.items()}
    return _Organ(name, tuple(own), classes, np.array([classes.index(one) for one in diagnoses]), codes)


def _scores(organs: Sequence[_Organ], inputs: Inputs) -> list[Score]:
    """Every measure as the mean over organs, and of each organ; patients are drawn for all organs together."""
    patients = [one.patient for organ in organs for one in organ.slides]
    means, single = [], []
    for way in _MEASURES.values():
        own = [
            metric_score(f"macro F1, {way}", organ.name, organ.f1(way), [one.patient for one in organ.slides],
                         organ.chance(), inputs, rivals={rival: organ.f1(rival) for rival in (_PATCHES, _LARGEST)})
            for organ in organs
        ]  # fmt: skip
        means.append(
            metric_score(
                f"macro F1, {way}", "mean over organs", _over(organs, way), patients,
                float(np.mean([score.chance for score in own])), inputs,
                rivals={rival: _over(organs, rival) for rival in (_PATCHES, _LARGEST)},
                note=f"standard deviation between organs {np.std([score.value for score in own]):.3f}",
            )
        )  # fmt: skip
        single += own
    return [*means, *single]


def _over(organs: Sequence[_Organ], way: str) -> Callable[[NDArray[Any]], float]:
    return mean_over_groups([(len(organ.slides), organ.f1(way)) for organ in organs])


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
