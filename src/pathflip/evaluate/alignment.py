"""``pathflip eval``: everything that can be measured of a checkpoint on the slides given, as plain rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.data.align import pair_by_slide
from pathflip.errors import ConfigError
from pathflip.evaluate import metrics
from pathflip.evaluate.estimates import Measure, estimate_all, mean_of
from pathflip.evaluate.simulated.measures import measures, read_cohort, score_model
from pathflip.features import read_features
from pathflip.features.store import check_cohort
from pathflip.inference import Aligned, encode_slide, load, retrieve
from pathflip.io.slide_id import paths_by_id
from pathflip.io.tables import PLAIN, TableOptions
from pathflip.text.captions import named_as, read_captions

__all__ = ["evaluate_checkpoint"]


def evaluate_checkpoint(
    model: Path,
    files: Sequence[Path],
    *,
    cohort: Path | None = None,
    captions: Path | None = None,
    split: str = "test",
    options: TableOptions = PLAIN,
) -> list[dict[str, Any]]:
    """Measure a checkpoint.

    Args:
        model: checkpoint directory.
        files: feature files. cohort: a simulated cohort, whose truth allows every measure. captions: of
            slides among the files, which allow retrieval among these. split: of the cohort. options: of the
            table of captions.

    Returns:
        One row a measure: measure, value, low, high (95 % over patients), chance, note.

    Raises:
        ConfigError: neither or both of ``cohort`` and ``captions``.
        CaptionError: slides and captions do not match.
        FeatureError: the files are of several kinds (named).
    """
    if (cohort is None) == (captions is None):
        raise ConfigError("eval: give either --cohort (a simulated cohort) or --captions (of real slides)")
    check_cohort(files)
    loaded = load(model)
    if cohort is not None:
        known = read_cohort(cohort, files[0].parent, split)
        measured, patients = measures(score_model("model", loaded, known), known), known.patients
    else:
        assert captions is not None
        measured, patients = _retrieval(loaded, files, captions, options)
    return [
        {
            "measure": name,
            "value": entry["model"].value,
            "low": entry["model"].low,
            "high": entry["model"].high,
            "chance": entry["model"].chance,
            "note": entry["model"].note,
            "slides": len(patients),
        }
        for name, entry in estimate_all({"model": measured}, patients, "model").items()
    ]


def _retrieval(
    model: Aligned, files: Sequence[Path], captions: Path, options: TableOptions
) -> tuple[list[Measure], np.ndarray]:
    """Retrieval among the slides that the captions name; the other feature files are left out, and counted."""
    by_id = paths_by_id(files)
    reports = named_as(read_captions(captions, options=options), by_id)
    known = {report.slide_id for report in reports}
    pairs = pair_by_slide([file for slide_id, file in by_id.items() if slide_id in known], reports)
    others = len(files) - len(pairs)
    left_out = f"{others} of {len(files)} feature files have no caption in '{captions.name}' and are left out"
    note = left_out if others else ""
    slides = [encode_slide(model, read_features(file)) for file, _ in pairs]
    retrieval = retrieve(model, slides, [caption.text for _, caption in pairs])
    # Slides with word-for-word the same report are all right answers.
    same = metrics.positives_from_keys([c.text for _, c in pairs], [c.text for _, c in pairs])
    out = []
    for direction, matrix in (("slide → text", retrieval.scores), ("text → slide", retrieval.scores.T)):
        for k in (1, 5, 10):
            if k <= len(pairs):
                hits = metrics.hits_at_k(matrix, k, same)
                chance = metrics.chance_recall_at_k(k, len(pairs))
                out.append(Measure(f"R@{k} {direction}", mean_of(hits), chance, note))
    return out, np.array([caption.patient for _, caption in pairs])
