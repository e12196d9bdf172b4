"""``pathflip eval caption``: captions against references, with intervals over patients, beside baselines."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate.bertscore import BertScorer
from pathflip.evaluate.bootstrap import PatientBootstrap, bounds
from pathflip.evaluate.caption_baselines import bag_of_words, constant_caption
from pathflip.evaluate.caption_scores import BertScores, CaptionScores, caption_scores
from pathflip.features.devices import device_named
from pathflip.io.slide_id import join_ids
from pathflip.io.tables import PLAIN, TableOptions, column_name, read_table
from pathflip.text.captions import TEXT_KEYS, read_captions, slide_of_row
from pathflip.types import Caption

__all__ = ["are_references", "caption_measures", "evaluate_captions", "read_generated"]

_SAID_KEYS = ("output", "prediction", "pred", "generated", "response", "answer", *TEXT_KEYS)
_MOST = {"CIDEr": 10.0}
"""The best a measure can be, where that is not 1."""


def read_generated(path: Path, options: TableOptions = PLAIN) -> dict[str, str]:
    """Generated captions by slide, from JSON lines, JSON or CSV; an empty one is an empty text.

    The text is the first of ``output``, ``prediction``, ``generated``, ``response``, ``answer``, ``text``, ``caption``
    that is there, so files that hold the true caption beside the model's are read rightly.

    Raises:
        CaptionError: the file cannot be read, a row names no slide or no text, or a slide stands twice.
    """
    generated: dict[str, str] = {}
    rows = read_table(path, options)
    some_key = next((key for key in _SAID_KEYS if any(key in row for row in rows)), None)
    for number, row in enumerate(rows, 1):
        key = next((key for key in _SAID_KEYS if key in row), some_key)  # null in JSON is an empty caption
        if key is None:
            raise CaptionError(
                f"{path.name}: row {number} holds no caption; expected one of {', '.join(_SAID_KEYS[:8])}"
            )
        slide_id = slide_of_row(row)
        if slide_id in generated:
            raise CaptionError(
                f"{path.name}: row {number}: slide '{slide_id}' stands there already; expected one caption"
            )
        generated[slide_id] = str(row.get(key) or "").strip()
    return generated


def are_references(generated: Sequence[str], truth: Sequence[str]) -> bool:
    """Whether these are the references themselves, word for word: every score is then the best there is."""
    same = [" ".join(own.split()) == " ".join(true.split()) for own, true in zip(generated, truth, strict=True)]
    return len(same) > 1 and all(same)


def evaluate_captions(
    predictions: Path,
    references: Path,
    *,
    text_only: Path | None = None,
    train: Path | None = None,
    group_column: str | None = None,
    meteor_jar: Path | None = None,
    bertscore: Path | None = None,
    bertscore_layer: int | None = None,
    device: str | None = None,
    num: int = 1000,
    seed: int = 0,
    options: TableOptions = PLAIN,
) -> list[dict[str, Any]]:
    """Files to rows; see :func:`caption_measures`. A slide without a prediction counts as an empty caption.

    Args:
        text_only: captions of the same language model without the slide. train: captions that baselines are made of.
        group_column: a column of ``references`` (the organ) for the baseline "one constant caption a group".
        bertscore: folder of the language model BERTScore is counted with. bertscore_layer: see
            :class:`~pathflip.evaluate.bertscore.BertScorer`. device: where that runs; None takes a GPU if there is one.
        options: columns and encoding of ``references`` and ``train``; of generated captions the slide's column, where
            they have it, and the encoding.

    Raises:
        CaptionError: files that cannot be read or do not belong together.
        ConfigError: no such model or layer.
    """
    if bertscore_layer is not None and bertscore is None:
        raise ConfigError("BERTScore layer: there is no model it is a layer of; give --bertscore FOLDER, too")
    truth = read_captions(references, options=options)
    known = [caption.slide_id for caption in truth]
    generated = _named_as(known, read_generated(predictions, options.of_answers))
    unaware = _named_as(known, read_generated(text_only, options.of_answers)) if text_only else None
    if not set(known) & set(generated):
        raise CaptionError(
            f"no slide of '{predictions.name}' (first '{next(iter(generated))}') stands in '{references.name}' "
            f"(first '{known[0]}'); expected captions of the same slides"
        )
    if are_references([generated.get(slide, "") for slide in known], [one.text for one in truth]):
        warnings.warn(f"{predictions.name}: all captions are the references word for word", stacklevel=2)
    scorer = BertScorer(bertscore, bertscore_layer, device_named(device)) if bertscore else None
    rows = caption_measures(
        [generated.get(slide, "") for slide in known],
        truth,
        text_only=[unaware.get(slide, "") for slide in known] if unaware is not None else None,
        train=[caption.text for caption in read_captions(train, options=options)] if train else None,
        groups=_groups(references, known, group_column, options) if group_column else None,
        meteor_jar=meteor_jar,
        bert=scorer,
        num=num,
        seed=seed,
    )
    counts = {"missing": len(set(known) - set(generated)), "strays": len(set(generated) - set(known))}
    return [row | counts | (_read_by(scorer) if "BERTScore" in row["measure"] else {}) for row in rows]


def _named_as(known: Sequence[str], generated: Mapping[str, str]) -> dict[str, str]:
    """Generated captions under the names that the references have for their slides."""
    slide_of = join_ids(generated, known)
    return {slide_of.get(name, name): text for name, text in generated.items()}


def _read_by(scorer: BertScorer | None) -> dict[str, Any]:
    """What a BERTScore depends on besides the captions, and how many texts were longer than the model reads."""
    assert scorer is not None
    return {"model": scorer.model_name, "layer": scorer.layer, "truncated": scorer.truncated}


def _groups(path: Path, known: Sequence[str], column: str, options: TableOptions) -> list[str]:
    by_slide = {slide_of_row(row): row.get(column_name(column)) for row in read_table(path, options)}
    if not any(by_slide.values()):
        raise CaptionError(f"{path.name}: no column '{column}' with anything in it")
    return [str(by_slide.get(slide) or "") for slide in known]


def caption_measures(
    generated: Sequence[str],
    truth: Sequence[Caption],
    *,
    text_only: Sequence[str] | None = None,
    train: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    meteor_jar: Path | None = None,
    bert: BertScores | None = None,
    num: int = 1000,
    seed: int = 0,
    draws: bool = False,
) -> list[dict[str, Any]]:
    """Every captioning measure, a row each.

    Args:
        generated: a caption for each of ``truth`` (empty where there is none).
        text_only: the same language model's captions without the slide.
        train: captions the baselines are made of; without them, those of ``truth``, which flatters the baselines.
        groups: of each slide (its organ), for a baseline that knows the group.
        draws: keep the value on every cohort in the rows, as ``drawn``, and the baselines' as ``baselines_drawn``.
        bert: what counts BERTScore; None leaves it out.

    Returns:
        Rows with ``measure``, ``captions``, ``value``, ``low``, ``high`` (95 % over patients), ``baselines`` by name,
        ``skill`` = (value - best baseline) / (best possible - best baseline), and with ``text_only``: ``text_only``,
        ``difference``, ``difference_low``, ``difference_high``.
    """
    references = [[caption.text] for caption in truth]
    ours = caption_scores(generated, references, meteor_jar=meteor_jar, bert=bert)
    twin = caption_scores(text_only, references, meteor_jar=meteor_jar, bert=bert) if text_only is not None else None
    baselines = {
        name: caption_scores(texts, references, meteor_jar=meteor_jar, bert=bert)
        for name, texts in _baseline_captions(truth, train, groups).items()
    }
    patients = np.array([caption.patient for caption in truth])
    bootstrap = PatientBootstrap(patients, num, seed)
    everyone = np.arange(len(truth))
    cohorts = list(bootstrap.cohorts())
    return [_row(name, ours, twin, baselines, everyone, cohorts, draws) for name in ours.names]


def _baseline_captions(
    truth: Sequence[Caption], train: Sequence[str] | None, groups: Sequence[str] | None
) -> dict[str, list[str]]:
    pool = list(train) if train else [caption.text for caption in truth]
    baselines = {
        "constant": [constant_caption(pool)] * len(truth),
        "bag of words": [bag_of_words(pool)] * len(truth),
    }
    if groups is not None:
        texts = {
            group: constant_caption([c.text for c, g in zip(truth, groups, strict=True) if g == group])
            for group in sorted(set(groups))
        }
        baselines["constant a group"] = [texts[group] for group in groups]
    return baselines


def _row(
    name: str,
    ours: CaptionScores,
    twin: CaptionScores | None,
    baselines: Mapping[str, CaptionScores],
    everyone: NDArray[np.int64],
    cohorts: Sequence[NDArray[np.int64]],
    draws: bool,
) -> dict[str, Any]:
    value = ours.of(name, [everyone])[0]
    drawn = np.array(ours.of(name, cohorts))
    low, high = bounds(drawn)
    known = {baseline: scores.of(name, [everyone])[0] for baseline, scores in baselines.items()}
    best = max(known.values())
    row: dict[str, Any] = {
        "measure": name,
        "captions": len(everyone),
        "value": value,
        "low": low,
        "high": high,
        "baselines": known,
        "skill": (value - best) / (_MOST.get(name, 1.0) - best),
    }
    if twin is not None:
        row["text_only"] = twin.of(name, [everyone])[0]
        row["difference"] = value - row["text_only"]
        row["difference_low"], row["difference_high"] = bounds(drawn - np.array(twin.of(name, cohorts)))
    if draws:
        row["drawn"] = drawn
        row["baselines_drawn"] = {known: np.array(scores.of(name, cohorts)) for known, scores in baselines.items()}
    return row
