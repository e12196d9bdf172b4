"""The report page's tables of numbers: every measure of every model, with intervals, chance level and upper bound."""

import math
from typing import Any

from pathflip.evaluate.estimates import Estimate
from pathflip.evaluate.report.content import ReportContent, model_names
from pathflip.evaluate.report.number_formats import (
    DASH,
    format_duration,
    format_gap,
    format_interval,
    format_number,
    format_p_value,
    format_percent,
    format_signed,
)

__all__ = ["chance_rows", "comparison_verdict", "measure_groups", "models_view", "verdict_counts"]

GROUPS = (
    ("Retrieval", ("R@",)),
    ("Is it there?", ("presence", "absence")),
    ("Where is it?", ("grounding",)),
    ("Zero-shot classification", ("type", "grade", "pattern", "malignan")),
)
MARKS = {"better": "▲", "worse": "▼", "unclear": "○", "none": ""}


def models_view(content: ReportContent) -> list[dict[str, Any]]:
    """What each model is and what it cost, in the order of the columns."""
    notes = {model.name: model for model in content.models}
    return [
        {
            "name": name,
            "style": min(place, 5),
            "is_reference": name == content.reference,
            "description": notes[name].description if name in notes else DASH,
            "parameters": f"{notes[name].num_parameters:,}" if name in notes else DASH,
            "trained": format_duration(notes[name].train_seconds) if name in notes else DASH,
        }
        for place, name in enumerate(model_names(content))
    ]


def measure_groups(content: ReportContent) -> list[dict[str, Any]]:
    """All measures, also those only an upper bound is known for, under headings."""
    measures = list(dict.fromkeys([*content.estimates, *content.upper_bounds]))
    heading = {name: next((t for t, starts in GROUPS if name.startswith(starts)), "Other") for name in measures}
    titles = dict.fromkeys([*(title for title, _ in GROUPS), "Other"])
    groups = [{"title": t, "rows": [_measure_row(n, content) for n in measures if heading[n] == t]} for t in titles]
    return [group for group in groups if group["rows"]]


def _measure_row(name: str, content: ReportContent) -> dict[str, Any]:
    by_model = content.estimates.get(name, {})
    models = model_names(content)
    upper_bound = content.upper_bounds.get(name, math.nan)
    chances = [entry.chance for entry in by_model.values()]
    bars = [_bar(by_model[model], place) for place, model in enumerate(models) if model in by_model]
    return {
        "name": name,
        "note": next((entry.note for entry in by_model.values() if entry.note), ""),
        "cells": [_estimate_cell(by_model.get(model), model == content.reference) for model in models],
        "upper_bound": format_number(upper_bound),
        "plot": {
            "height": 10 * len(models) + 6,
            "chance": _position(chances[0]) if chances else None,
            "upper_bound": _position(upper_bound),
            "bars": [bar for bar in bars if bar],
        },
    }


def _estimate_cell(entry: Estimate | None, is_reference: bool) -> dict[str, Any]:
    if entry is None:
        return {"value": DASH, "interval": "", "difference": "", "mark": "", "verdict": "none"}
    verdict = "none" if is_reference else comparison_verdict(entry)
    difference = ""
    if not is_reference and entry.difference is not None:
        bounds = format_interval(entry.difference_low, entry.difference_high, format_gap)
        difference = f"{format_signed(entry.difference, 3)} {bounds} {format_p_value(entry.p_value)}"
    return {
        "value": format_number(entry.value),
        "interval": format_interval(entry.low, entry.high, format_number),
        "difference": difference.strip(),
        "mark": MARKS[verdict],
        "verdict": verdict,
    }


def comparison_verdict(entry: Estimate) -> str:
    """How the reference stands to this model: better, worse, unclear (the interval holds zero), none (not measured)."""
    low, high = entry.difference_low, entry.difference_high
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "none"
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def _bar(entry: Estimate, place: int) -> dict[str, Any] | None:
    at = _position(entry.value)
    if at is None:
        return None
    return {
        "at": at,
        "low": _position(entry.low),
        "high": _position(entry.high),
        "y": 8 + 10 * place,
        "style": min(place, 5),
    }


def _position(value: float) -> float | None:
    """Place on a 0 to 1 axis that is 200 wide."""
    return round(200 * min(max(value, 0.0), 1.0), 1) if math.isfinite(value) else None


def verdict_counts(content: ReportContent) -> list[dict[str, Any]]:
    """For every other model: on how many measures the reference is better, worse, not told apart."""
    out = []
    for model in model_names(content)[1:]:
        verdicts = [comparison_verdict(by_model[model]) for by_model in content.estimates.values() if model in by_model]
        counts = {verdict: verdicts.count(verdict) for verdict in ("better", "worse", "unclear")}
        out.append({"model": model, **counts, "measured": sum(counts.values())})
    return [entry for entry in out if entry["measured"]]


def chance_rows(content: ReportContent) -> list[dict[str, str]]:
    """Chance for every measure of the reference, and how much of the way from there to 1 it goes."""
    rows = []
    for name, by_model in content.estimates.items():
        entry = by_model.get(content.reference)
        if entry is None:
            continue
        way = (entry.value - entry.chance) / (1 - entry.chance) if entry.chance < 1 else math.nan
        rows.append(
            {
                "name": name,
                "chance": format_number(entry.chance),
                "value": format_number(entry.value),
                "way": format_percent(way) if math.isfinite(way) else DASH,
                "why": _why_chance(name),
            }
        )
    return rows


def _why_chance(name: str) -> str:
    if name.startswith("R@"):
        return "one right answer among all test slides"
    if "AUROC" in name:
        return "slides ordered at random"
    if "AP" in name:
        return "mean fraction of tiles that show the finding"
    return "guessing among the classes" if "accuracy" in name else ""
