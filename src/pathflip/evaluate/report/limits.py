"""What the model cannot do, said from the numbers by fixed rules; and each finding's row."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pathflip.evaluate.estimates import Estimate
from pathflip.evaluate.report.content import Confusion, FindingRow, ReportContent, model_names
from pathflip.evaluate.report.measure_tables import comparison_verdict
from pathflip.evaluate.report.number_formats import format_name, format_number, format_percent, join_list

__all__ = ["FEW_SLIDES", "NEAR_CHANCE", "POINTS", "by_success", "finding_view", "model_limits"]

NEAR_CHANCE = 0.60
"""An AUROC below this is told as hardly better than a coin."""
POINTS = 2.0
"""A mean AP below this many times what chance gives is told as not showing where."""
FEW_SLIDES = 5
"""Nothing is said of a finding or class with fewer slides than this."""
HALF = 0.5
HELD_OUT = ", held-out wording"
SMALL_FINDINGS = ", small findings"


def by_success(rows: Iterable[FindingRow]) -> list[FindingRow]:
    """Findings, best located first; what could not be measured last."""
    return sorted(rows, key=lambda row: -np.nan_to_num(row.average_precision, nan=-1.0))


def finding_view(row: FindingRow) -> dict[str, Any]:
    """A finding's row of the table, and which of its numbers fail the rules."""
    few = row.present < FEW_SLIDES
    failures = {
        "presence": _below(row.presence_auroc, NEAR_CHANCE),
        "absence": _below(row.absence_auroc, NEAR_CHANCE),
        "where": _cannot_point(row),
    }
    wordings = {"presence": "presence near chance", "absence": "absence near chance", "where": "does not show where"}
    verdict = [wordings[key] for key, failed in failures.items() if failed]
    return {
        "finding": format_name(row.finding),
        "present": row.present,
        "presence": format_number(row.presence_auroc),
        "absence": format_number(row.absence_auroc),
        "where": format_number(row.average_precision),
        "prevalence": format_number(row.prevalence),
        "failures": {} if few else failures,
        "verdict": "too few slides to say" if few else "; ".join(verdict) or "works",
        "state": "few" if few else "fails" if verdict else "works",
    }


def _below(value: float, limit: float) -> bool:
    return bool(math.isfinite(value) and value < limit)


def _cannot_point(row: FindingRow) -> bool:
    return math.isfinite(row.prevalence) and _below(row.average_precision, POINTS * row.prevalence)


def model_limits(content: ReportContent) -> list[tuple[str, str]]:
    """What this model cannot do, (headline, sentence), said from the numbers by fixed rules."""
    limits = [
        *_small_finding_limits(content),
        *_wording_limits(content),
        *_finding_limits(content.findings),
        *_class_limits(content.confusions),
        *_comparison_limits(content),
        *_upper_bound_limits(content),
    ]
    nothing = (
        "No failure met these rules.",
        "That says the rules are few or the cohort is easy, not that the model is complete.",
    )
    return limits or [nothing]


def _reference(content: ReportContent, measure: str) -> Estimate | None:
    entry = content.estimates.get(measure, {}).get(content.reference)
    return entry if entry is not None and math.isfinite(entry.value) else None


def _small_finding_limits(content: ReportContent) -> list[tuple[str, str]]:
    out = []
    for measure in content.estimates:
        small, whole = _reference(content, measure), _reference(content, measure.removesuffix(SMALL_FINDINGS))
        if not measure.endswith(SMALL_FINDINGS) or small is None or whole is None or small.value >= whole.value:
            continue
        upper_bound = content.upper_bounds.get(measure, math.nan)
        limit = f", supervised upper bound {format_number(upper_bound)}" if math.isfinite(upper_bound) else ""
        out.append(
            (
                "Small findings are shown less well.",
                f"{measure}: {format_number(small.value)}, against {format_number(whole.value)} over all findings "
                f"(chance {format_number(small.chance)}{limit}).",
            )
        )
    return out


def _wording_limits(content: ReportContent) -> list[tuple[str, str]]:
    drops = []
    for measure in content.estimates:
        plain = measure.removesuffix(HELD_OUT)
        held, seen = _reference(content, measure), _reference(content, plain)
        if measure.endswith(HELD_OUT) and held is not None and seen is not None and held.value < seen.value:
            fraction = format_percent(1 - held.value / seen.value)
            drops.append(f"{plain} from {format_number(seen.value)} to {format_number(held.value)} ({fraction} lower)")
    if not drops:
        return []
    return [("Wording it never saw costs accuracy.", f"With phrasings held out of training: {join_list(drops)}.")]


def _finding_limits(rows: Sequence[FindingRow]) -> list[tuple[str, str]]:
    enough = [row for row in rows if row.present >= FEW_SLIDES]
    scarce = [row for row in rows if row.present < FEW_SLIDES]
    kinds: list[tuple[str, str, list[FindingRow]]] = [
        (
            "It hardly knows whether these are there.",
            f"Presence AUROC below {NEAR_CHANCE:.2f}",
            [row for row in enough if _below(row.presence_auroc, NEAR_CHANCE)],
        ),
        (
            "It misreads sentences that say these are absent.",
            f"Absence AUROC below {NEAR_CHANCE:.2f}",
            [row for row in enough if _below(row.absence_auroc, NEAR_CHANCE)],
        ),
        (
            "It cannot show where these are.",
            f"Mean AP below {POINTS:g} × what chance gives",
            [row for row in enough if _cannot_point(row)],
        ),
        ("Too rare to say.", f"Fewer than {FEW_SLIDES} test slides show", scarce),
    ]
    return [(head, f"{rule}: {join_list([format_name(r.finding) for r in hit])}.") for head, rule, hit in kinds if hit]


def _class_limits(tables: Sequence[Confusion]) -> list[tuple[str, str]]:
    wordings = []
    for table in tables:
        for place, counts in enumerate(table.counts):
            total = int(counts.sum())
            if total < FEW_SLIDES or counts[place] / total >= HALF:
                continue
            others = np.where(np.arange(len(counts)) == place, -1, counts)
            taken = format_name(table.classes[int(others.argmax())])
            fraction = format_percent(counts[place] / total)
            name = format_name(table.classes[place])
            wordings.append(f"{table.task} {name} ({fraction} of {total} slides, most often taken for {taken})")
    return (
        [("It recognises these classes on fewer than half of their slides.", f"{join_list(wordings)}.")]
        if wordings
        else []
    )


def _comparison_limits(content: ReportContent) -> list[tuple[str, str]]:
    out = []
    for model in model_names(content)[1:]:
        verdicts = {name: comparison_verdict(by[model]) for name, by in content.estimates.items() if model in by}
        worse = [name for name, verdict in verdicts.items() if verdict == "worse"]
        unclear = [name for name, verdict in verdicts.items() if verdict == "unclear"]
        if worse:
            out.append((f"{model} is better at some things.", f"{join_list(worse)}."))
        if unclear:
            head = f"It is not shown to differ from {model} in all things."
            out.append((head, f"The interval of the paired difference holds zero for {join_list(unclear)}."))
    return out


def _upper_bound_limits(content: ReportContent) -> list[tuple[str, str]]:
    gaps = []
    for name, upper_bound in content.upper_bounds.items():
        entry = _reference(content, name)
        if entry is not None and math.isfinite(upper_bound) and entry.high < upper_bound:
            gaps.append(f"{name} {format_number(entry.value)} of {format_number(upper_bound)}")
    if not gaps:
        return []
    head = "It leaves what a supervised classifier finds in the same features."
    return [(head, f"Even the upper end of its interval stays below the supervised upper bound: {join_list(gaps)}.")]
