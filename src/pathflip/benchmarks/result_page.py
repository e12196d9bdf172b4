"""One HTML page of results: a row a benchmark, then every measure of each. One file, nothing fetched, no script."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pathflip.evaluate.report.number_formats import DASH, format_gap, format_interval, format_number, format_p_value
from pathflip.io.files import page_template, write_text

__all__ = ["at_chance", "shown_comparisons", "summary_rows", "verdict", "write_page"]

_TABLES = {
    "zero-shot": "Zero-shot: no label of the task was trained on",
    "questions": "Questions and captions",
    "places": "Places: where on a slide a phrase is",
    "supervised": "Supervised: labels of the task were trained on. Not to be compared with zero-shot rows",
}


def write_page(
    target: Path, results: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write the page of one or several results, atomically.

    Args:
        comparisons: of results of the same items: :func:`~pathflip.benchmarks.comparison.compare_results`.
    """
    rows = [_row(result) for result in results]
    groups = []
    for key in dict.fromkeys([*_TABLES, *(row["table"] for row in rows)]):
        own = [row for row in rows if row["table"] == key]
        if own:
            groups.append({"title": _TABLES.get(key, key), "rows": own})
    page = page_template(Path(__file__).with_name("templates") / "results.html").render(
        groups=groups,
        details=[_detail(result) for result in results],
        dash=DASH,
        single=len(results) == 1,
        comparisons=[_comparison(row) for row in comparisons],
    )
    write_text(target, page)


def summary_rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A plain row a result, for the terminal and ``--json``."""
    return [
        {
            "name": r["protocol"]["name"],
            "table": r["protocol"]["table"],
            "measure": r["metric"]["measure"],
            "group": r["metric"]["group"],
            "value": r["metric"]["value"],
            "low": r["metric"]["low"],
            "high": r["metric"]["high"],
            "chance_level": r["chance_level"],
            "verdict": verdict(r["scores"][0], r["chance_level"]),
            "text_only": r["text_only"],
            "baselines": r["baselines"],
            "compared": shown_comparisons(r["scores"][0]),
            "scored": r["scored"],
            "total": r["total"],
            "test_set": r["test_set"]["set"],
            "published_not_run_here": _published(r),
            "model": r["model"]["name"],
        }
        for r in results
    ]


def _number(value: Any, digits: int = 3) -> str:
    return DASH if value is None else format_number(float(value), digits)


def _published(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(result["published"])


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    metric, baselines = result["metric"], result["baselines"]
    best = max(baselines, key=lambda name: baselines[name] or 0.0) if baselines else None
    return {
        "table": result["protocol"]["table"],
        "title": result["protocol"]["title"],
        "name": result["protocol"]["name"],
        "model": result["model"]["name"] or "no model",
        "measure": metric["measure"],
        "group": metric["group"],
        "value": _number(metric["value"]),
        "interval": format_interval(metric["low"], metric["high"], _number),
        "chance": _number(result["chance_level"]),
        "verdict": verdict(result["scores"][0], result["chance_level"]),
        "text_only": _number(result["text_only"]),
        "baseline": DASH if best is None else _number(baselines[best]),
        "baseline_name": best or "",
        "scored": result["scored"],
        "total": result["total"],
        "short": result["scored"] < result["total"],
        "published": [{**p, "shown": _number(p["value"])} for p in result["published"]],
        "same_set": result["test_set"]["published_set"],
    }


def verdict(score: Mapping[str, Any], chance: float | None) -> str:
    """What a number must not hide: that it is at chance, or not above what answering without the slide gives."""
    if at_chance(score, chance):
        return "at chance"
    return "not above answering without the slide" if any(not above for above in _above(score)) else ""


def _above(score: Mapping[str, Any]) -> list[bool]:
    """Whether the score is above each answer without the slide: by the paired interval, where it was compared."""
    if score["value"] is None:
        return []
    low = score["low"] if score["low"] is not None else score["value"]
    paired = {name: row["low"] for name, row in score.get("paired", {}).items()}
    known = dict(score["baselines"])
    if score["text_only"] is not None:
        known["text only"], paired["text only"] = score["text_only"], score["difference_low"]
    above = []
    for name, value in known.items():
        if paired.get(name) is not None:
            above.append(paired[name] > 0)
        elif value is not None:
            above.append(low > value)
    return above


def at_chance(metric: Mapping[str, Any], chance: float | None) -> bool:
    """Whether a score is no better than chance: its interval reaches down to the chance level, or below."""
    if chance is None or metric["value"] is None:
        return False
    low = metric["low"] if metric["low"] is not None else metric["value"]
    return bool(low <= chance)


def _detail(result: Mapping[str, Any]) -> dict[str, Any]:
    scores = [
        {
            **score,
            "value": _number(score["value"]),
            "interval": format_interval(score["low"], score["high"], _number),
            "chance": _number(score["chance"]),
            "verdict": verdict(score, score["chance"]),
            "beside": [(name, _number(value)) for name, value in _beside(score).items()],
            "compared": [_difference(name, row) for name, row in shown_comparisons(score).items()],
        }
        for score in result["scores"]
    ]
    tables = [
        {"title": title, "header": table["header"], "rows": [[_cell(c) for c in row] for row in table["rows"]]}
        for title, table in result["tables"].items()
    ]
    return {"against": None, **result, "shown_scores": scores, "shown_tables": tables}


def _beside(score: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside a score: other systems, the text-only baseline, baselines that look at nothing."""
    others = {name: row["value"] for name, row in score.get("paired", {}).items()}
    known = {"text only": score["text_only"]} if score["text_only"] is not None else {}
    return {**others, **known, **score["baselines"]}


def shown_comparisons(score: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The paired comparisons worth a reader's time: other systems, the text-only baseline, the best other baseline."""
    paired = dict(score.get("paired", {}))
    plain = {name: paired.pop(name) for name in score["baselines"] if name in paired}
    if score["difference"] is not None:
        paired["text only"] = {
            "value": score["text_only"], "difference": score["difference"], "low": score["difference_low"],
            "high": score["difference_high"], "p_value": score["p_value"],
        }  # fmt: skip
    if plain:
        best = max(plain, key=lambda name: plain[name]["value"] or 0.0)
        paired[best] = plain[best]
    return paired


def _difference(name: str, row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": name,
        "difference": DASH if row["difference"] is None else format_gap(row["difference"]),
        "interval": format_interval(row["low"], row["high"], format_gap),
        "p_value": format_p_value(row["p_value"]),
    }


def _comparison(row: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: _number(row[name]) for name in ("first_value", "second_value")}
    return {**row, **values, **_difference("", row)}


def _cell(value: Any) -> str:
    return _number(value) if isinstance(value, float) else DASH if value is None else str(value)
