"""``pathflip eval``: everything that can be measured of a checkpoint on the slides given, as plain rows."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.data.case_items import Item, by_part, name_digest, pair_reports, with_findings
from pathflip.data.splits import SPLITS, named_splits, read_split
from pathflip.errors import ConfigError
from pathflip.evaluate import metrics
from pathflip.evaluate.estimates import Measure, estimate_all, mean_of
from pathflip.evaluate.simulated.measures import measures, read_cohort, score_model
from pathflip.features.store import check_cohort
from pathflip.inference import Aligned, encode_files, load, retrieve
from pathflip.io.slide_id import slide_id
from pathflip.io.tables import PLAIN, TableOptions
from pathflip.text.captions import read_captions
from pathflip.types import Caption

__all__ = ["evaluate_checkpoint"]


def evaluate_checkpoint(
    model: Path,
    files: Sequence[Path],
    *,
    cohort: Path | None = None,
    captions: Path | None = None,
    split: str | None = None,
    options: TableOptions = PLAIN,
    splits: Path | None = None,
    allow_missing: bool = False,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Measure an alignment checkpoint.

    Args:
        model: checkpoint directory.
        files: feature files. cohort: a simulated cohort, whose truth allows every measure. captions: of
            slides and cases among the files, which allow retrieval among these. options: of the table of captions.
        splits: which slides and cases (of ``captions``) belong to which split. split: the one to measure, "test" if
            not given; of a cohort too.
        allow_missing: pass over captions without features and features without captions, with a warning.
        device: where to run; None takes a GPU if there is one.

    Returns:
        One row a measure: measure, value, low, high (95 % over patients), chance, note, and the numbers of items
        (``slides``: slides and cases), ``patients`` and distinct ``texts``.

    Raises:
        ConfigError: neither or both of ``cohort`` and ``captions``, or a split and no file of splits.
        CaptionError: slides and captions do not match.
        FeatureError: the files are of several kinds (named).
    """
    if (cohort is None) == (captions is None):
        raise ConfigError("eval: give either --cohort (a simulated cohort) or --captions (of real slides)")
    if cohort is not None and split is not None and split not in SPLITS:
        raise ConfigError(f"--split: got '{split}', expected {', '.join(SPLITS)}")
    if captions is not None and split is not None and splits is None:
        raise ConfigError(f"--split {split}: give --splits, the table that says which slide is in it")
    check_cohort(files)
    loaded = load(model, device)
    if cohort is not None:
        known = read_cohort(cohort, files[0].parent, split or "test")
        measured, patients = measures(score_model("model", loaded, known), known), known.patients
        names, texts = [one.slide_id for one in known.slides], [one.text for one in known.slides]
    else:
        assert captions is not None
        items = _items(files, captions, splits, split or "test", options, allow_missing)
        measured, patients = _retrieval(loaded, items), np.array([item.caption.patient for item in items])
        names, texts = [slide_id(file) for item in items for file in item.files], [one.caption.text for one in items]
    if line := _seen_in_training(loaded, names, patients.tolist()):
        warnings.warn(line, stacklevel=2)
    counts = {"slides": len(patients), "patients": len(set(patients.tolist())), "texts": len(set(map(_key, texts)))}
    return [
        {
            "measure": name,
            "value": entry["model"].value,
            "low": entry["model"].low,
            "high": entry["model"].high,
            "chance": entry["model"].chance,
            "note": entry["model"].note,
            **counts,
        }
        for name, entry in estimate_all({"model": measured}, patients, "model").items()
    ]


def _key(text: str) -> str:
    """A text as it is compared: without case, whatever its spaces."""
    return " ".join(text.casefold().split())


def _items(
    files: Sequence[Path], captions: Path, splits: Path | None, split: str, options: TableOptions, allow_missing: bool
) -> list[Item]:
    """The slides and cases to measure on, each with its report."""
    if splits is None:
        reports: Sequence[Caption] = read_captions(captions, options=options)
    else:
        files, reports = read_split(files, captions, splits, options, asked=split)[split]
        if not reports:
            raise ConfigError(
                f"'{splits.name}' has no report of '{captions.name}' in the split '{split}'; it names "
                f"{named_splits(splits)}"
            )
    return with_findings(by_part(pair_reports(files, reports, allow_missing)), "evaluation")


def _seen_in_training(model: Aligned, slides: Iterable[str], patients: Iterable[str]) -> str:
    """A line on slides and patients that the model was trained on; "" where there is none, or nobody can tell."""
    known = model.checkpoint.config["recipe"].get("trained_on", {})
    names = {"slides": list(dict.fromkeys(slides)), "patients": list(dict.fromkeys(patients))}
    seen = {what: [one for one in own if name_digest(one) in set(known.get(what, ()))] for what, own in names.items()}
    if not any(seen.values()):
        return ""
    counted = " and ".join(f"{len(seen[what])} of {len(own)} {what}" for what, own in names.items() if seen[what])
    return f"{counted} were trained on: these numbers say nothing of new slides; give --splits FILE --split test"


def _retrieval(model: Aligned, items: Sequence[Item]) -> list[Measure]:
    """Retrieval among slides and cases, both ways. Those with the same report are all right answers."""
    texts = [item.caption.text for item in items]
    retrieval = retrieve(model, [encode_files(model, item.files, item.name) for item in items], texts)
    keys = [_key(text) for text in texts]
    same = metrics.positives_from_keys(keys, keys)
    distinct = len(set(keys))
    note = (
        "" if distinct == len(keys) else f"{len(keys)} reports are {distinct} distinct texts: equal ones count as right"
    )
    measures = []
    # Equal texts have equal scores: beyond the first, a slide's best texts are counted where there are as many.
    for direction, matrix, most in (
        ("slide → text", retrieval.scores, distinct),
        ("text → slide", retrieval.scores.T, len(items)),
    ):
        for k in (1, 5, 10):
            if k <= most:
                hits = metrics.hits_at_k(matrix, k, same)
                measures.append(Measure(f"R@{k} {direction}", mean_of(hits), metrics.chance_of_hits(k, same), note))
    return measures
