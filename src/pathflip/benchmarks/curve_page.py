"""The page of a learning curve: the plot, and the numbers behind it."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.evaluate.report.number_formats import DASH, format_gap, format_interval, format_number, format_p_value
from pathflip.io.files import page_template, write_json, write_text
from pathflip.plots import line_with_spread

__all__ = ["write_curve"]

_MEASURES = {"test_r1": ("Mean R@1 of both directions", "chance_r1"),
             "test_balanced_accuracy": ("Zero-shot balanced accuracy", "chance_balanced_accuracy")}  # fmt: skip


def write_curve(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write ``curve.json`` (a row a point, their means, and the recipes compared) and ``curve.html``."""
    write_json(out / "curve.json", {"format": "pathflip-learning-curve", "format_version": 1, "means": list(rows),
                                    "comparisons": list(comparisons), "points": list(points)})  # fmt: skip
    shown = [measure for measure in _MEASURES if measure in rows[0]]
    figures = [
        {
            "title": _MEASURES[m][0],
            "src": _figure(rows, m),
            "rows": [_row(r, m) for r in rows],
            "comparisons": [_comparison(c) for c in comparisons if c["measure"] == m],
        }
        for m in shown
    ]
    page = page_template(Path(__file__).with_name("templates") / "curve.html").render(figures=figures, dash=DASH)
    write_text(out / "curve.html", page)


def _row(row: Mapping[str, Any], measure: str) -> dict[str, Any]:
    spread = row[f"{measure}_sd"]
    return {
        "recipe": row["recipe"], "fraction": row["fraction"], "patients": row["patients"], "seeds": row["seeds"],
        "mean": format_number(row[measure]), "sd": DASH if spread is None else format_number(spread),
        "chance": format_number(row[_MEASURES[measure][1]]),
    }  # fmt: skip


def _comparison(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row, "difference": format_gap(row["difference"]), "p_value": format_p_value(row["p_value"]),
        "interval": format_interval(row["low"], row["high"], format_gap),
    }  # fmt: skip


def _figure(rows: Sequence[Mapping[str, Any]], measure: str) -> str:
    """The plot as embedded SVG: mean and standard deviation over seeds against patients, chance dotted."""
    from base64 import b64encode

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for place, recipe in enumerate(dict.fromkeys(row["recipe"] for row in rows)):
        own = sorted((row for row in rows if row["recipe"] == recipe), key=lambda row: Fraction(row["fraction"]))
        x = [row["patients"] for row in own]
        spread = [row[f"{measure}_sd"] or 0.0 for row in own]
        line_with_spread(axes, place, recipe, x, [row[measure] for row in own], spread)
    axes.axhline(float(np.mean([row[_MEASURES[measure][1]] for row in rows])), color="#8a949e", linestyle=":",
                 label="chance")  # fmt: skip
    ticks = sorted({row["patients"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training patients")
    axes.set_ylabel(_MEASURES[measure][0])
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    picture = BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{b64encode(picture.getvalue()).decode()}"
