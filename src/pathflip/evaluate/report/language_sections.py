"""The sections of the report page that tell of the assistant and of verified reports."""

from collections.abc import Mapping, Sequence
from typing import Any

from pathflip.evaluate.estimates import Estimate
from pathflip.evaluate.report.number_formats import format_p_value
from pathflip.evaluate.simulated.answered_questions import AnsweredExample, AssistantStudy, CaptionExample
from pathflip.evaluate.simulated.planted_errors import ErrorRow
from pathflip.evaluate.simulated.verified_reports import CohortVerification, VerifiedExample
from pathflip.geometry import Box
from pathflip.plots import embedded

__all__ = ["answers_view", "verification_view"]

NAMED = {
    "attribute_swapped": "attribute swapped",
    "finding_invented": "finding invented",
    "finding_omitted": "finding left out",
    "negation_flipped": "negation flipped",
}
GROUPS = ("all", "needs the slide", "answerable, needs the slide")
DASH = "–"


def answers_view(study: AssistantStudy) -> dict[str, Any]:
    """What the page shows of an assistant, as plain values."""
    accuracy = [row for row in study.rows if row["measure"] == "accuracy"]
    return {
        "examples": [_example_view(example) for example in study.examples],
        "captions": [_caption_view(example) for example in study.captions],
        "groups": [_accuracy_view(row) for row in accuracy if row["category"] in GROUPS],
        "categories": [
            _accuracy_view(row) for row in accuracy if row["category"] not in GROUPS and row["how"] == "likelihood"
        ],
        "abstentions": [_fraction_view(row) for row in study.rows if row["measure"].startswith("abst")],
        "faithfulness": [_estimate_view(name, entry) for name, entry in study.faithfulness.items()],
        "yes_or_no": [{**_estimate_view(n, entry), "note": entry.note} for n, entry in study.yes_or_no.items()],
        "yes_or_no_fitted": fitted.fitted_on if (fitted := study.calibration.yes_or_no) is not None else "",
        "calibration": study.calibration,
        "measured": {name: _number(value) for name, value in study.calibration.measured.items()},
    }


def verification_view(verification: CohortVerification) -> dict[str, Any]:
    """What the page shows of verified reports, as plain values."""
    study = verification.study
    return {
        "rows": [_error_view(row) for row in study.rows],
        "ece_raw": _number(study.ece_raw, 3),
        "ece": _number(study.ece, 3),
        "skills_raw": [_number(value, 3) for value in study.skills_raw],
        "skills": [_number(value, 3) for value in study.skills],
        "sentences": study.sentences,
        "examples": [_verified_view(example) for example in verification.examples],
    }


def _example_view(example: AnsweredExample) -> dict[str, Any]:
    answer = example.answer
    chances = answer.probabilities or (0.0,) * len(example.question.options)
    return {
        "slide_id": example.question.slide_id,
        "question": example.question.question,
        "category": example.question.category,
        "options": [
            {"text": text, "chance": f"{chance:.0%}", "fraction": round(100 * chance), "true": text == example.truth,
             "said": text == answer.text, "text_only": text == example.text_only}
            for text, chance in zip(example.question.options, chances, strict=True)
        ],
        "right": example.right,
        "said": answer.text,
        "truth": example.truth,
        "src": embedded(example.thumbnail),
        "width": example.thumbnail.shape[1],
        "height": example.thumbnail.shape[0],
        "evidence": _boxes([place.box for place in answer.evidence], example.size0, example.thumbnail.shape),
        "true_boxes": _boxes(example.true_boxes, example.size0, example.thumbnail.shape),
    }  # fmt: skip


def _caption_view(example: CaptionExample) -> dict[str, Any]:
    places = [place.box for place in example.answer.evidence]
    sentences = [place.text for place in example.answer.evidence]
    return {
        "slide_id": example.slide_id,
        "text": example.answer.text,
        "report": example.report,
        "src": embedded(example.thumbnail),
        "width": example.thumbnail.shape[1],
        "height": example.thumbnail.shape[0],
        "places": [
            {"number": number, "text": text, **box}
            for number, (text, box) in enumerate(
                zip(sentences, _boxes(places, example.size0, example.thumbnail.shape), strict=True), start=1
            )
        ],
    }


def _boxes(boxes: Sequence[Box], size0: tuple[int, int], shape: Sequence[int]) -> list[dict[str, float]]:
    """Level-0 boxes on a thumbnail."""
    across, down = shape[1] / size0[0], shape[0] / size0[1]
    return [
        {
            "x": round(box.x * across, 1),
            "y": round(box.y * down, 1),
            "w": round(box.width * across, 1),
            "h": round(box.height * down, 1),
        }
        for box in boxes
    ]


def _accuracy_view(row: Mapping[str, Any]) -> dict[str, Any]:
    baselines = row["baselines"]
    return {
        **_fraction_view(row),
        "unread": sum(row["unread"].values()),
        "constant": _number(baselines["constant"]),
        "longest": _number(baselines["longest"]),
        "chance": _number(baselines["chance"]),
    }


def _fraction_view(row: Mapping[str, Any]) -> dict[str, Any]:
    gap = row.get("difference")
    return {
        "measure": row["measure"],
        "category": row["category"],
        "how": row["how"],
        "questions": row["questions"],
        "value": _number(row["value"]),
        "interval": _interval(row["low"], row["high"]),
        "text_only": _number(row.get("text_only")),
        "gap": DASH if gap is None else f"{gap:+.2f}",
        "gap_interval": _interval(row.get("difference_low"), row.get("difference_high")),
        "p_value": format_p_value(row.get("mcnemar_p")),
    }


def _estimate_view(name: str, entry: Estimate) -> dict[str, str]:
    return {
        "name": name,
        "value": _number(entry.value),
        "interval": _interval(entry.low, entry.high),
        "chance": _number(entry.chance),
    }


def _error_view(row: ErrorRow) -> dict[str, Any]:
    attribute = f": {row.attribute}" if row.attribute else ""
    return {
        "kind": NAMED.get(row.kind, row.kind) + attribute,
        "errors": row.errors,
        "auroc": _number(row.auroc.value),
        "interval": _interval(row.auroc.low, row.auroc.high),
        "words": _number(row.words),
        "wrong_slide": _number(row.wrong_slide),
        "caught": _fraction(row.caught),
        "false_alarms": _fraction(row.false_alarms),
    }


def _verified_view(example: VerifiedExample) -> dict[str, Any]:
    return {
        "slide_id": example.slide_id,
        "thumbnail": example.view["thumbnail"],
        "rows": example.view["rows"],
        "counts": example.view["counts"],
        "errors": [
            {
                "kind": NAMED.get(error.kind, error.kind) + (f": {error.attribute}" if error.attribute else ""),
                "sentence": error.sentence,
                "original": error.original,
                "outcome": error.outcome,
                "probability": _number(error.probability),
            }
            for error in example.errors
        ],
    }


def _number(value: float | None, digits: int = 2) -> str:
    return DASH if value is None or value != value else f"{value:.{digits}f}"


def _fraction(value: float) -> str:
    return DASH if value != value else f"{value:.0%}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None or low != low else f"{low:.2f}–{high:.2f}"
