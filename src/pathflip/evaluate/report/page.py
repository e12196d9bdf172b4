"""One HTML page about a run: first what a pathologist wants to see, then the numbers, then what fails, then how.

The page is one file: pictures are embedded, nothing is fetched, no script runs, all text is escaped. Outlines and
interval plots are inline SVG, so they stay sharp in print. What the model *cannot* do is derived from the numbers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError
from pathflip.evaluate.compare import Estimate
from pathflip.evaluate.report.language_sections import answers_view, verification_view
from pathflip.evaluate.simulated.answered_questions import AssistantStudy
from pathflip.evaluate.simulated.verified_reports import CohortVerification
from pathflip.io.files import page_template, write_text
from pathflip.plots import COLOR_MAP, RANGE_PERCENTILES, embedded, heat_image, shrunk
from pathflip.types import Heatmap

__all__ = [
    "Confusion",
    "FindingRow",
    "GroundingExample",
    "ModelNote",
    "ReportContent",
    "RetrievalExample",
    "RetrievedSlide",
    "write_report",
]

PANEL_PX = 560
"""Longest side of a slide or heatmap on the page; retrieved slides are ``SMALL_PX``."""
SMALL_PX = 260
HEAT_OPACITY = 0.82
NEAR_CHANCE = 0.60
"""An AUROC below this is told as hardly better than a coin."""
POINTS = 2.0
"""A mean AP below this many times what chance gives is told as not showing where."""
FEW_SLIDES = 5
"""Nothing is said of a finding or class with fewer slides than this."""
HALF = 0.5
HELD_OUT = ", held-out wording"
SMALL_FINDINGS = ", small findings"
GROUPS = (
    ("Retrieval", ("R@",)),
    ("Is it there?", ("presence", "absence")),
    ("Where is it?", ("grounding",)),
    ("Zero-shot classification", ("type", "grade", "pattern", "malignan")),
)
MARKS = {"better": "▲", "worse": "▼", "unclear": "○", "none": ""}
DASH = "–"


@dataclass(frozen=True, eq=False)
class GroundingExample:
    """A phrase on a slide: what is true, and what two models show.

    Attributes:
        thumbnail: the whole of level 0, RGB, (h, w, 3).
        baseline: the map of the model named in ``ReportContent.baseline``, or None.
        truth: where the thing the phrase affirms or denies is, (h', w'), any size, spanning level 0; all False where
            the slide has none of it. The page calls the statement true when this and ``negated`` say so.
        average_precision: of the model's tiles against the truth; NaN where the slide has none of it.
        presence: logit that the statement is true of the slide.
    """

    slide_id: str
    phrase: str
    negated: bool
    thumbnail: NDArray[np.uint8] = field(repr=False)
    heatmap: Heatmap
    baseline: Heatmap | None
    truth: NDArray[np.bool_] = field(repr=False)
    average_precision: float
    presence: float
    baseline_average_precision: float = math.nan

    def __post_init__(self) -> None:
        _check_picture(self.slide_id, self.thumbnail)
        if self.truth.ndim != 2 or self.truth.dtype != np.bool_ or not self.truth.size:
            raise ConfigError(
                f"GroundingExample '{self.slide_id}': truth is {self.truth.dtype} {self.truth.shape}, "
                "expected a boolean (height, width) mask that spans level 0"
            )


@dataclass(frozen=True, eq=False)
class RetrievedSlide:
    """One answer: a slide, its thumbnail (h, w, 3), its score, whether it is the right one, words of its report."""

    slide_id: str
    thumbnail: NDArray[np.uint8] = field(repr=False)
    score: float
    is_own: bool
    excerpt: str

    def __post_init__(self) -> None:
        _check_picture(self.slide_id, self.thumbnail)


@dataclass(frozen=True, eq=False)
class RetrievalExample:
    """A report, the slide it was written for, and the slides the model found for it, best first."""

    text: str
    slide_id: str
    thumbnail: NDArray[np.uint8] = field(repr=False)
    ranked: Sequence[RetrievedSlide]

    def __post_init__(self) -> None:
        _check_picture(self.slide_id, self.thumbnail)


@dataclass(frozen=True, eq=False)
class Confusion:
    """Slides of each true class (rows) by the class the model chose (columns): ``counts`` (C, C)."""

    task: str
    classes: tuple[str, ...]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.counts.shape != (len(self.classes),) * 2:
            raise ConfigError(
                f"Confusion '{self.task}': counts are {self.counts.shape}, expected one row and one column for each "
                f"of {len(self.classes)} classes"
            )


@dataclass(frozen=True)
class FindingRow:
    """How one finding fares. NaN where it could not be measured.

    Attributes:
        present: test slides that show it.
        average_precision: mean over those slides.
        prevalence: mean share of the tiles that show it on those slides, which is what chance gives as AP.
    """

    finding: str
    present: int
    presence_auroc: float
    absence_auroc: float
    average_precision: float
    prevalence: float


@dataclass(frozen=True)
class ModelNote:
    """What a model is, in a line, and what it cost."""

    name: str
    description: str
    num_parameters: int
    train_seconds: float


@dataclass(frozen=True, eq=False)
class ReportContent:
    """Everything the page tells.

    Attributes:
        world: what the cohort holds, some lines of plain text.
        splits: number of slides by split.
        reference: the model the page is about; a key of the inner mappings of ``estimates``.
        models: in the order of the columns; the reference may stand anywhere.
        estimates: measure -> model -> estimate (differences are reference minus model).
        ceilings: measure -> what a supervised classifier reaches on the same features.
        timings: stage -> seconds.
        versions: package -> version.
        notes: lines shown under the title, such as "A quick run: too few slides for its numbers to mean much."
        baseline: whose maps stand beside the model's.
        answers, verification: what the assistant and the verifier showed; None leaves their sections out.
        selection: a sentence on how the phrases and reports were picked, so that nobody takes them for hand-picked.
    """

    world: str
    splits: Mapping[str, int]
    reference: str
    models: Sequence[ModelNote]
    groundings: Sequence[GroundingExample]
    retrievals: Sequence[RetrievalExample]
    confusions: Sequence[Confusion]
    estimates: Mapping[str, Mapping[str, Estimate]]
    ceilings: Mapping[str, float]
    findings: Sequence[FindingRow]
    timings: Mapping[str, float]
    command: str
    versions: Mapping[str, str]
    notes: Sequence[str] = ()
    baseline: str = "mean-pool CLIP"
    selection: str = ""
    answers: AssistantStudy | None = None
    verification: CohortVerification | None = None

    def __post_init__(self) -> None:
        if self.reference not in _model_names(self):
            raise ConfigError(
                f"ReportContent.reference: got '{self.reference}', expected one of {', '.join(_model_names(self))}"
            )


def write_report(target: Path, content: ReportContent) -> None:
    """Write the page to ``target``, atomically."""
    page = page_template(Path(__file__).with_name("templates") / "report.html").render(
        content=content,
        color_bar=_color_bar(),
        groundings=[_grounding_view(example, content) for example in content.groundings],
        retrievals=[_retrieval_view(example) for example in content.retrievals],
        confusions=[_confusion_view(table) for table in content.confusions],
        models=_models_view(content),
        verdicts=_verdicts(content),
        groups=_measure_groups(content),
        floors=_floor_rows(content),
        findings=[_finding_view(row) for row in _by_success(content.findings)],
        limits=_limits(content),
        timings=_timing_view(content.timings),
        rules={"near_chance": NEAR_CHANCE, "points": POINTS, "few": FEW_SLIDES},
        dash=DASH,
        answers=answers_view(content.answers) if content.answers else None,
        verified=verification_view(content.verification) if content.verification else None,
    )
    write_text(target, page)


# --- pictures ---------------------------------------------------------------------------------------------------------


def _check_picture(slide_id: str, picture: NDArray[np.uint8]) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise ConfigError(
            f"slide '{slide_id}': the thumbnail is {picture.dtype} {picture.shape}, expected uint8 (height, width, 3)"
        )


def _color_bar() -> str:
    from matplotlib import colormaps

    row = colormaps[COLOR_MAP](np.linspace(0, 1, 256))[None, :, :3]
    return embedded(np.rint(row * 255).astype(np.uint8), "PNG")


def _heat_panel(heatmap: Heatmap, thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The map over a pale grey slide, stretched between percentiles of its own scores: colours mean tile, not stain."""
    from matplotlib import colormaps

    image = heat_image(heatmap, thumbnail.shape[:2])
    low, high = _heat_range(heatmap)
    scaled = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    color = 255 * colormaps[COLOR_MAP](np.nan_to_num(scaled))[..., :3]
    grey = 255 - 0.5 * (255 - thumbnail @ np.array([0.299, 0.587, 0.114]))
    paper = np.repeat(grey[..., None], 3, axis=2)
    shown = np.where(np.isfinite(image)[..., None], HEAT_OPACITY * color + (1 - HEAT_OPACITY) * paper, paper)
    return np.rint(shown).astype(np.uint8)


def _heat_range(heatmap: Heatmap) -> tuple[float, float]:
    finite = heatmap.scores[np.isfinite(heatmap.scores)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.percentile(finite, RANGE_PERCENTILES)
    return float(low), float(high)


def _outline(mask: NDArray[np.bool_], size: tuple[int, int]) -> str:
    """The borders of a mask as an SVG path on a canvas of (width, height)."""
    import cv2

    finer = max(1, math.ceil(2 * max(size) / max(mask.shape)))
    rows, columns = mask.shape[0] * finer, mask.shape[1] * finer
    smooth = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR)
    padded = np.pad((smooth >= HALF).astype(np.uint8), 1)
    rings, _ = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    scale = np.array([size[0] / columns, size[1] / rows])
    parts = []
    for ring in rings:
        points = (cv2.approxPolyDP(ring, 1.0, True)[:, 0] - HALF) * scale
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return "".join(parts)


# --- what the model shows ---------------------------------------------------------------------------------------------


def _grounding_view(example: GroundingExample, content: ReportContent) -> dict[str, Any]:
    thumbnail = shrunk(example.thumbnail, PANEL_PX)
    height, width = thumbnail.shape[:2]
    seen = (
        "none on this slide" if not example.truth.any() else f"{_percent(float(example.truth.mean()))} of the picture"
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
        "presence": _signed(example.presence),
        **_statement(example),
        "panels": panels,
        "path": _outline(example.truth, (width, height)) if example.truth.any() else "",
        "width": width,
        "height": height,
    }


def _map_panel(
    name: str, heatmap: Heatmap, precision: float, thumbnail: NDArray[np.uint8], example: GroundingExample
) -> dict[str, Any]:
    low, high = _heat_range(heatmap)
    score = f"AP {_number(precision)}" if math.isfinite(precision) else ""
    return {
        "title": name,
        "src": embedded(_heat_panel(heatmap, thumbnail)),
        "alt": f"Heatmap of {name} for {example.phrase!r} on slide {example.slide_id} {score}".strip(),
        "score": score,
        "detail": f"scores {_number(low, 2)} to {_number(high, 2)}",
    }


def _statement(example: GroundingExample) -> dict[str, Any]:
    """Whether the statement is true of the slide, and whether the model leans that way."""
    true = bool(example.truth.any()) != example.negated
    leans = None if not math.isfinite(example.presence) else example.presence > 0
    return {
        "statement": "true" if true else "false",
        "leans": "neither way" if leans is None else ("true" if leans else "false"),
        "right": leans is not None and leans == true,
    }


def _retrieval_view(example: RetrievalExample) -> dict[str, Any]:
    ranked = [
        {
            "rank": rank,
            "slide_id": found.slide_id,
            "src": embedded(shrunk(found.thumbnail, SMALL_PX)),
            "score": _signed(found.score),
            "is_own": found.is_own,
            "excerpt": _excerpt(found.excerpt),
        }
        for rank, found in enumerate(example.ranked, start=1)
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


def _confusion_view(table: Confusion) -> dict[str, Any]:
    rows = []
    for place, counts in enumerate(table.counts):
        total = int(counts.sum())
        cells = [
            {"count": int(count), "share": round(float(count) / total, 3) if total else 0.0, "own": column == place}
            for column, count in enumerate(counts)
        ]
        rows.append(
            {
                "label": _plain(table.classes[place]),
                "cells": cells,
                "total": total,
                "recall": _percent(counts[place] / total) if total else DASH,
            }
        )
    classes = [_plain(name) for name in table.classes]
    return {"task": table.task, "classes": classes, "rows": rows, "total": int(table.counts.sum())}


# --- the numbers ------------------------------------------------------------------------------------------------------


def _model_names(content: ReportContent) -> list[str]:
    """The reference first, then the rest in the order given."""
    measured = [name for by_model in content.estimates.values() for name in by_model]
    names = dict.fromkeys([*(model.name for model in content.models), *measured])
    return sorted(names, key=lambda name: name != content.reference)


def _models_view(content: ReportContent) -> list[dict[str, Any]]:
    notes = {model.name: model for model in content.models}
    return [
        {
            "name": name,
            "style": min(place, 5),
            "is_reference": name == content.reference,
            "description": notes[name].description if name in notes else DASH,
            "parameters": f"{notes[name].num_parameters:,}" if name in notes else DASH,
            "trained": _duration(notes[name].train_seconds) if name in notes else DASH,
        }
        for place, name in enumerate(_model_names(content))
    ]


def _measure_groups(content: ReportContent) -> list[dict[str, Any]]:
    """All measures, also those only a ceiling is known for, under headings."""
    measures = list(dict.fromkeys([*content.estimates, *content.ceilings]))
    heading = {name: next((t for t, starts in GROUPS if name.startswith(starts)), "Other") for name in measures}
    titles = dict.fromkeys([*(title for title, _ in GROUPS), "Other"])
    groups = [{"title": t, "rows": [_measure_row(n, content) for n in measures if heading[n] == t]} for t in titles]
    return [group for group in groups if group["rows"]]


def _measure_row(name: str, content: ReportContent) -> dict[str, Any]:
    by_model = content.estimates.get(name, {})
    models = _model_names(content)
    ceiling = content.ceilings.get(name, math.nan)
    floors = [entry.floor for entry in by_model.values()]
    bars = [_bar(by_model[model], place) for place, model in enumerate(models) if model in by_model]
    return {
        "name": name,
        "note": next((entry.note for entry in by_model.values() if entry.note), ""),
        "cells": [_estimate_cell(by_model.get(model), model == content.reference) for model in models],
        "ceiling": _number(ceiling),
        "plot": {
            "height": 10 * len(models) + 6,
            "floor": _at(floors[0]) if floors else None,
            "ceiling": _at(ceiling),
            "bars": [bar for bar in bars if bar],
        },
    }


def _estimate_cell(entry: Estimate | None, is_reference: bool) -> dict[str, Any]:
    if entry is None:
        return {"value": DASH, "interval": "", "difference": "", "mark": "", "verdict": "none"}
    verdict = "none" if is_reference else _verdict(entry)
    interval = _interval(entry.low, entry.high, _number)
    difference = ""
    if not is_reference and entry.difference is not None:
        difference = f"{_signed(entry.difference, 3)} {_interval(entry.difference_low, entry.difference_high, _gap)}"
    return {
        "value": _number(entry.value),
        "interval": interval,
        "difference": difference.strip(),
        "mark": MARKS[verdict],
        "verdict": verdict,
    }


def _verdict(entry: Estimate) -> str:
    """How the reference stands to this model: better, worse, unclear (the interval holds zero), none (not measured)."""
    low, high = entry.difference_low, entry.difference_high
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "none"
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def _bar(entry: Estimate, place: int) -> dict[str, Any] | None:
    at = _at(entry.value)
    if at is None:
        return None
    return {"at": at, "low": _at(entry.low), "high": _at(entry.high), "y": 8 + 10 * place, "style": min(place, 5)}


def _at(value: float) -> float | None:
    """Place on a 0 to 1 axis that is 200 wide."""
    return round(200 * min(max(value, 0.0), 1.0), 1) if math.isfinite(value) else None


def _verdicts(content: ReportContent) -> list[dict[str, Any]]:
    """For every other model: on how many measures the reference is better, worse, not told apart."""
    out = []
    for model in _model_names(content)[1:]:
        found = [_verdict(by_model[model]) for by_model in content.estimates.values() if model in by_model]
        counts = {verdict: found.count(verdict) for verdict in ("better", "worse", "unclear")}
        out.append({"model": model, **counts, "measured": sum(counts.values())})
    return [entry for entry in out if entry["measured"]]


def _floor_rows(content: ReportContent) -> list[dict[str, str]]:
    """Chance for every measure of the reference, and how much of the way from there to 1 it goes."""
    rows = []
    for name, by_model in content.estimates.items():
        entry = by_model.get(content.reference)
        if entry is None:
            continue
        way = (entry.value - entry.floor) / (1 - entry.floor) if entry.floor < 1 else math.nan
        rows.append(
            {
                "name": name,
                "floor": _number(entry.floor),
                "value": _number(entry.value),
                "way": _percent(way) if math.isfinite(way) else DASH,
                "why": _why_floor(name),
            }
        )
    return rows


def _why_floor(name: str) -> str:
    if name.startswith("R@"):
        return "one right answer among all test slides"
    if "AUROC" in name:
        return "slides ordered at random"
    if "AP" in name:
        return "mean share of tiles that show the finding"
    return "guessing among the classes" if "accuracy" in name else ""


# --- finding by finding, and what fails -------------------------------------------------------------------------------


def _by_success(rows: Iterable[FindingRow]) -> list[FindingRow]:
    return sorted(rows, key=lambda row: -np.nan_to_num(row.average_precision, nan=-1.0))


def _finding_view(row: FindingRow) -> dict[str, Any]:
    few = row.present < FEW_SLIDES
    failures = {
        "presence": _below(row.presence_auroc, NEAR_CHANCE),
        "absence": _below(row.absence_auroc, NEAR_CHANCE),
        "where": _cannot_point(row),
    }
    said = {"presence": "presence near chance", "absence": "absence near chance", "where": "does not show where"}
    verdict = [said[key] for key, failed in failures.items() if failed]
    return {
        "finding": _plain(row.finding),
        "present": row.present,
        "presence": _number(row.presence_auroc),
        "absence": _number(row.absence_auroc),
        "where": _number(row.average_precision),
        "prevalence": _number(row.prevalence),
        "failures": {} if few else failures,
        "verdict": "too few slides to say" if few else "; ".join(verdict) or "works",
        "state": "few" if few else "fails" if verdict else "works",
    }


def _below(value: float, limit: float) -> bool:
    return math.isfinite(value) and value < limit


def _cannot_point(row: FindingRow) -> bool:
    return math.isfinite(row.prevalence) and _below(row.average_precision, POINTS * row.prevalence)


def _limits(content: ReportContent) -> list[tuple[str, str]]:
    """What this model cannot do, (headline, sentence), said from the numbers by fixed rules."""
    found = [
        *_small_finding_limits(content),
        *_wording_limits(content),
        *_finding_limits(content.findings),
        *_class_limits(content.confusions),
        *_comparison_limits(content),
        *_ceiling_limits(content),
    ]
    nothing = (
        "No failure met these rules.",
        "That says the rules are few or the cohort is easy, not that the model is complete.",
    )
    return found or [nothing]


def _reference(content: ReportContent, measure: str) -> Estimate | None:
    entry = content.estimates.get(measure, {}).get(content.reference)
    return entry if entry is not None and math.isfinite(entry.value) else None


def _small_finding_limits(content: ReportContent) -> list[tuple[str, str]]:
    out = []
    for measure in content.estimates:
        small, whole = _reference(content, measure), _reference(content, measure.removesuffix(SMALL_FINDINGS))
        if not measure.endswith(SMALL_FINDINGS) or small is None or whole is None or small.value >= whole.value:
            continue
        ceiling = content.ceilings.get(measure, math.nan)
        limit = f", supervised ceiling {_number(ceiling)}" if math.isfinite(ceiling) else ""
        out.append(
            (
                "Small findings are shown less well.",
                f"{measure}: {_number(small.value)}, against {_number(whole.value)} over all findings "
                f"(chance {_number(small.floor)}{limit}).",
            )
        )
    return out


def _wording_limits(content: ReportContent) -> list[tuple[str, str]]:
    drops = []
    for measure in content.estimates:
        plain = measure.removesuffix(HELD_OUT)
        held, seen = _reference(content, measure), _reference(content, plain)
        if measure.endswith(HELD_OUT) and held is not None and seen is not None and held.value < seen.value:
            share = _percent(1 - held.value / seen.value)
            drops.append(f"{plain} from {_number(seen.value)} to {_number(held.value)} ({share} lower)")
    if not drops:
        return []
    return [("Wording it never saw costs accuracy.", f"With phrasings held out of training: {_listed(drops)}.")]


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
            "It misreads statements that these are absent.",
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
    return [(head, f"{rule}: {_listed([_plain(r.finding) for r in hit])}.") for head, rule, hit in kinds if hit]


def _class_limits(tables: Sequence[Confusion]) -> list[tuple[str, str]]:
    said = []
    for table in tables:
        for place, counts in enumerate(table.counts):
            total = int(counts.sum())
            if total < FEW_SLIDES or counts[place] / total >= HALF:
                continue
            others = np.where(np.arange(len(counts)) == place, -1, counts)
            taken = _plain(table.classes[int(others.argmax())])
            share = _percent(counts[place] / total)
            said.append(
                f"{table.task} {_plain(table.classes[place])} ({share} of {total} slides, most often taken for {taken})"
            )
    return [("It recognises these classes on fewer than half of their slides.", f"{_listed(said)}.")] if said else []


def _comparison_limits(content: ReportContent) -> list[tuple[str, str]]:
    out = []
    for model in _model_names(content)[1:]:
        verdicts = {name: _verdict(by[model]) for name, by in content.estimates.items() if model in by}
        worse = [name for name, verdict in verdicts.items() if verdict == "worse"]
        unclear = [name for name, verdict in verdicts.items() if verdict == "unclear"]
        if worse:
            out.append((f"{model} is better at some things.", f"{_listed(worse)}."))
        if unclear:
            head = f"It is not shown to differ from {model} in all things."
            out.append((head, f"The interval of the paired difference holds zero for {_listed(unclear)}."))
    return out


def _ceiling_limits(content: ReportContent) -> list[tuple[str, str]]:
    gaps = []
    for name, ceiling in content.ceilings.items():
        entry = _reference(content, name)
        if entry is not None and math.isfinite(ceiling) and entry.high < ceiling:
            gaps.append(f"{name} {_number(entry.value)} of {_number(ceiling)}")
    if not gaps:
        return []
    head = "It leaves what a supervised classifier finds in the same features."
    return [(head, f"Even the upper end of its interval stays below the ceiling: {_listed(gaps)}.")]


# --- words and numbers ------------------------------------------------------------------------------------------------


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else DASH


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−") if math.isfinite(value) else DASH


def _gap(value: float) -> str:
    return _signed(value, 3)


def _interval(low: float | None, high: float | None, shown: Any) -> str:
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{shown(low)}, {shown(high)}]"


def _percent(share: float) -> str:
    """Tenths below ten per cent, and a true minus sign, never a minus zero."""
    percent = round(100 * share, 1 if 0 < share < 0.1 else 0) or 0.0
    return f"{percent:.{1 if 0 < percent < 10 else 0}f} %".replace("-", "−")


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _listed(parts: Sequence[str]) -> str:
    return "; ".join(parts)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _timing_view(timings: Mapping[str, float]) -> dict[str, Any]:
    finite = [seconds for seconds in timings.values() if math.isfinite(seconds)]
    longest = max(finite, default=0.0) or 1.0
    rows = [
        {"stage": stage, "time": _duration(seconds), "share": round(100 * seconds / longest, 1) if finite else 0.0}
        for stage, seconds in timings.items()
    ]
    return {"rows": rows, "total": _duration(sum(finite))}
