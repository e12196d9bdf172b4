"""What the report page shows of single slides: phrases on slides, retrieved slides, confusion matrices."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.evaluate.report.content import Confusion, GroundingExample, ReportContent, RetrievalExample
from pathflip.evaluate.report.number_formats import DASH, format_name, format_number, format_percent, format_signed
from pathflip.evaluate.report.pictures import heatmap_panel, mask_outline, score_range
from pathflip.plots import embedded, shrunk
from pathflip.types import Heatmap

__all__ = ["confusion_view", "grounding_view", "retrieval_view"]

PANEL_PX = 560
"""Longest side of a slide or heatmap on the page; retrieved slides are ``SMALL_PX``."""
SMALL_PX = 260


def grounding_view(example: GroundingExample, content: ReportContent) -> dict[str, Any]:
    """A phrase on a slide: the slide with the true outline, and a heatmap for each model."""
    thumbnail = shrunk(example.thumbnail, PANEL_PX)
    height, width = thumbnail.shape[:2]
    seen = (
        "none on this slide"
        if not example.truth.any()
        else f"{format_percent(float(example.truth.mean()))} of the picture"
    )
    panels = [
        {
            "title": "Slide and truth",
            "src": embedded(thumbnail),
            "alt": f"Slide {example.slide_id}; outlined: the true place of {example.phrase!r}, {seen}",
            "score": "",
            "detail": f"truth: {seen}",
        },
        _map_panel(content.reference, example.heatmap, example.average_precision, thumbnail, example),
    ]
    if example.baseline is not None:
        panels.append(
            _map_panel(content.baseline, example.baseline, example.baseline_average_precision, thumbnail, example)
        )
    return {
        "slide_id": example.slide_id,
        "phrase": example.phrase,
        "negated": example.negated,
        "presence": format_signed(example.presence),
        **_truth_of_phrase(example),
        "panels": panels,
        "path": mask_outline(example.truth, (width, height)) if example.truth.any() else "",
        "width": width,
        "height": height,
    }


def _map_panel(
    name: str, heatmap: Heatmap, precision: float, thumbnail: NDArray[np.uint8], example: GroundingExample
) -> dict[str, Any]:
    low, high = score_range(heatmap)
    score = f"AP {format_number(precision)}" if math.isfinite(precision) else ""
    return {
        "title": name,
        "src": embedded(heatmap_panel(heatmap, thumbnail)),
        "alt": f"Heatmap of {name} for {example.phrase!r} on slide {example.slide_id} {score}".strip(),
        "score": score,
        "detail": f"scores {format_number(low, 2)} to {format_number(high, 2)}",
    }


def _truth_of_phrase(example: GroundingExample) -> dict[str, Any]:
    """Whether the phrase is true of the slide, and whether the model leans that way."""
    true = bool(example.truth.any()) != example.negated
    leans = None if not math.isfinite(example.presence) else example.presence > 0
    return {
        "phrase_is": "true" if true else "false",
        "leans": "neither way" if leans is None else ("true" if leans else "false"),
        "right": leans is not None and leans == true,
    }


def retrieval_view(example: RetrievalExample) -> dict[str, Any]:
    """A report and the slides found for it, with the rank of its own."""
    ranked = [
        {
            "rank": rank,
            "slide_id": retrieved.slide_id,
            "src": embedded(shrunk(retrieved.thumbnail, SMALL_PX)),
            "score": format_signed(retrieved.score),
            "is_own": retrieved.is_own,
            "excerpt": _excerpt(retrieved.excerpt),
        }
        for rank, retrieved in enumerate(example.ranked, start=1)
    ]
    place = next((entry["rank"] for entry in ranked if entry["is_own"]), None)
    return {
        "text": example.text,
        "slide_id": example.slide_id,
        "src": embedded(shrunk(example.thumbnail, SMALL_PX)),
        "ranked": ranked,
        "verdict": f"own slide found at rank {place}" if place else f"own slide not among the first {len(ranked)}",
        "first": place == 1,
    }


def _excerpt(text: str) -> str:
    """Text that was cut inside a sentence ends after a whole word, with an ellipsis."""
    text = text.strip()
    whole = text.endswith((".", "!", "?", "…")) or " " not in text
    return text if whole else f"{text.rsplit(' ', 1)[0]} …"


def confusion_view(table: Confusion) -> dict[str, Any]:
    """A confusion matrix, a row a true class."""
    rows = []
    for place, counts in enumerate(table.counts):
        total = int(counts.sum())
        cells = [
            {"count": int(count), "fraction": round(float(count) / total, 3) if total else 0.0, "own": column == place}
            for column, count in enumerate(counts)
        ]
        rows.append(
            {
                "label": format_name(table.classes[place]),
                "cells": cells,
                "total": total,
                "recall": format_percent(counts[place] / total) if total else DASH,
            }
        )
    classes = [format_name(name) for name in table.classes]
    return {"task": table.task, "classes": classes, "rows": rows, "total": int(table.counts.sum())}
