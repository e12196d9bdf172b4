"""Zero-shot subtyping: CAMELYON16, CPTAC-NSCLC, TCGA-NSCLC and TCGA-RCC, by words alone.

Ways of asking, measured apart: one prompt a class (the published PathFLIP script), 22 and 23 sentences times synonyms
(CONCH's and TITAN's ways, in our words), and, with an assistant, one yes/no question a class (PRISM2's dialogue).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.assistant import build_prompt, load_assistant, option_probabilities, prepare_slide, verdicts
from pathflip.benchmarks.measured import paired_scores
from pathflip.benchmarks.prompts import CLASS_NAMES, WAYS
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Published, Score, Skipped
from pathflip.benchmarks.slide_files import encode_each, item_files, open_model, scores_of_slides
from pathflip.benchmarks.test_sets import KnownSet, recognise
from pathflip.errors import CaptionError, FeatureError
from pathflip.evaluate.class_scores import check_classes, class_scores, confusion
from pathflip.evaluate.labels import SlideLabel, read_labels
from pathflip.features import read_features
from pathflip.inference import zero_shot

__all__ = ["PROTOCOLS"]

DIALOGUE = "yes/no dialogue"
SIDES = ("Yes", "No")
_ALIASES = {"LSCC": "LUSC", "TUMOUR": "TUMOR", "METASTASIS": "TUMOR", "NEGATIVE": "NORMAL", "CCRCC": "KIRC"}
"""Other names of classes: CPTAC calls squamous cell carcinoma of the lung LSCC."""


@dataclass(frozen=True)
class _Task:
    """A subtyping benchmark: its classes with their names, its published sets and values."""

    name: str
    title: str
    classes: Mapping[str, Sequence[str]]
    sets: tuple[KnownSet, ...]
    published: tuple[Published, ...]


def run(task: _Task, inputs: Inputs) -> Outcome:
    """Classify the slides of ``inputs.data``, in every way the model allows."""
    inputs.require(task.name, "model", "assistant")
    labels = [_named(task, one) for one in read_labels(inputs.data)]
    rows = [(one.slide_id, one.label) for one in labels]
    test_set, published = recognise(inputs.data.name, rows, task.sets, inputs.other_set)
    files, skipped = item_files(task.name, [one.slide_id for one in labels], inputs)
    chances: dict[str, tuple[list[str], NDArray[np.floating]]] = {}
    if inputs.model is not None:
        names, scores = _by_templates(task, files, inputs, skipped)
        chances |= {way: (names, scores[:, place]) for place, way in enumerate(WAYS)}
    if inputs.assistant is not None:
        chances[DIALOGUE] = _by_dialogue(task, files, inputs, skipped)
    label_of = {one.slide_id: one for one in labels}
    outcomes: list[Score] = []
    tables: dict[str, Any] = {}
    items: list[dict[str, Any]] = []
    notes: list[str] = []
    for way, (names, probabilities) in chances.items():
        own = [label_of[name] for name in names]
        notes += check_classes([one.label for one in own], list(task.classes))
        outcomes += _scores(way, own, probabilities, list(task.classes), inputs)
        tables[f"Confusion, {way} (rows: truth)"] = _confusion_table(own, probabilities, list(task.classes))
        items += [
            {"slide": one.slide_id, "patient": one.patient, "label": one.label, "way": way}
            | {name: round(float(p), 6) for name, p in zip(task.classes, row, strict=True)}
            for one, row in zip(own, probabilities, strict=True)
        ]
    scored = {item["slide"] for item in items}
    return Outcome(
        scores=tuple(_beside_first_way(outcomes, chances)), scored=len(scored), total=len(labels), test_set=test_set,
        published_applies=published, skipped=tuple(dict.fromkeys(skipped)), items=tuple(items),
        notes=tuple(dict.fromkeys(notes)), tables=tables,
        compared_on=tuple((one.slide_id, one.patient) for one in labels if one.slide_id in scored),
    )  # fmt: skip


def _beside_first_way(scores: Sequence[Score], chances: Mapping[str, tuple[list[str], Any]]) -> list[Score]:
    """Every way of asking compared with the first one on the same slides."""
    first = next(iter(chances))
    plain = {score.measure: score for score in scores if score.group == first}
    return [
        score
        if score.group == first or chances[score.group][0] != chances[first][0]
        else replace(score, paired={first: paired_scores(score, plain[score.measure])})
        for score in scores
    ]


def _named(task: _Task, one: SlideLabel) -> SlideLabel:
    """The label without its cohort's prefix ("TCGA-LUAD" is "LUAD").

    Raises:
        CaptionError: it is none of the classes.
    """
    bare = one.label.upper().rpartition("-")[2].strip()
    bare = _ALIASES.get(bare, bare)
    for name in task.classes:
        if bare == name.upper():
            return SlideLabel(one.slide_id, one.patient, name)
    raise CaptionError(
        f"{task.name}: slide '{one.slide_id}' is labelled '{one.label}', expected one of {', '.join(task.classes)}"
    )


def _by_templates(
    task: _Task, files: dict[str, Any], inputs: Inputs, skipped: list[Skipped]
) -> tuple[list[str], NDArray[np.floating]]:
    """Slide names, and probabilities (slides, ways, classes)."""
    model = open_model(inputs)

    def score(slides: list[Any]) -> NDArray[np.floating]:
        return np.stack([zero_shot(model, slides, task.classes, way).probabilities for way in WAYS.values()], axis=1)

    return scores_of_slides(encode_each(task.name, model, files, inputs, skipped), score)


def _by_dialogue(
    task: _Task, files: dict[str, Any], inputs: Inputs, skipped: list[Skipped]
) -> tuple[list[str], NDArray[np.floating]]:
    """Slide names, and the probability of "yes" to each class, made to sum to 1."""
    assert inputs.assistant is not None
    assistant = load_assistant(inputs.assistant, inputs.device, inputs.settings.get("language_model"))
    names, rows = [], []
    for slide, own in files.items():
        try:
            views = [prepare_slide(assistant.aligned, read_features(file)) for file in own]
        except FeatureError as error:
            if not inputs.allow_missing:
                raise FeatureError(f"{task.name}: {error}; or give --allow-missing") from None
            skipped.append(Skipped(slide, "its feature file cannot be read"))
            continue
        questions = [f"Does this slide show {words[0]}?" for words in task.classes.values()]
        chances = option_probabilities(assistant, [build_prompt(assistant, q, views, SIDES) for q in questions])
        decided = verdicts(assistant, [build_prompt(assistant, q, views) for q in questions])
        yes = np.array([c[0] if v is None else v.probability for c, v in zip(chances, decided, strict=True)], float)
        names.append(slide)
        rows.append(yes / max(yes.sum(), 1e-12))
    if not rows:
        raise FeatureError(f"{task.name}: no slide could be read; expected one at least")
    return names, np.stack(rows)


def _scores(
    way: str, own: Sequence[SlideLabel], probabilities: NDArray[np.floating], classes: list[str], inputs: Inputs
) -> list[Score]:
    truth = np.array([classes.index(one.label) for one in own])
    patients = [one.patient for one in own]
    return [
        Score(
            one.measure,
            way,
            one.value,
            one.low,
            one.high,
            len(own),
            one.chance,
            baselines=one.baselines,
            drawn=one.drawn,
            right=one.right,
        )
        for one in class_scores(truth, probabilities, patients, num=inputs.resamples, seed=inputs.seed)
    ]


def _confusion_table(
    own: Sequence[SlideLabel], probabilities: NDArray[np.floating], classes: list[str]
) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    truth = np.array([classes.index(one.label) for one in own])
    counts = confusion(truth, probabilities.argmax(1), len(classes))
    return ("", *classes), tuple((name, *map(int, row)) for name, row in zip(classes, counts, strict=True))


def _published(accuracy: float, auroc: float, f1: float, conch: float) -> tuple[Published, ...]:
    group = "one prompt"
    return (
        Published("PathFLIP", "accuracy", group, accuracy),
        Published("PathFLIP", "AUROC one-vs-rest", group, auroc),
        Published("PathFLIP", "weighted F1", group, f1),
        Published("CONCH", "AUROC one-vs-rest", group, conch, "as the PathFLIP paper ran it"),
    )


_TASKS = (
    _Task(
        "camelyon16-zero-shot", "CAMELYON16, zero-shot", CLASS_NAMES["camelyon16"],
        (KnownSet(129, "CAMELYON16 test", "d87983b3b65df3ef"),), _published(0.643, 0.681, 0.511, 0.645),
    ),
    _Task(
        "cptac-nsclc-zero-shot", "CPTAC-NSCLC, zero-shot", CLASS_NAMES["nsclc"],
        (KnownSet(444, "CPTAC-NSCLC test", "dedee26ec22d3faa"),), _published(0.696, 0.746, 0.622, 0.727),
    ),
    _Task(
        "tcga-nsclc-zero-shot", "TCGA-NSCLC, zero-shot", CLASS_NAMES["nsclc"],
        (KnownSet(212, "TCGA-NSCLC test", "a1913fe1bda70ad4"),), (),
    ),
    _Task(
        "tcga-rcc-zero-shot", "TCGA-RCC, zero-shot", CLASS_NAMES["rcc"],
        (KnownSet(189, "TCGA-RCC test", "000fb62751cc846a"),), _published(0.572, 0.621, 0.426, 0.782),
    ),
)  # fmt: skip

PROTOCOLS = tuple(
    Protocol(
        name=task.name,
        title=task.title,
        metric="balanced accuracy, accuracy, weighted F1, AUROC, in each way of asking",
        needs="a table slide_id, label; an alignment model or an assistant, and features",
        run=partial(run, task),
        published=task.published,
        source="arXiv 2512.17621",
    )
    for task in _TASKS
)
