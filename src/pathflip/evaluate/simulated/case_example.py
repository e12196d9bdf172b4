"""A case of several slides with one report, for the page: how the report was read, and where its findings are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pathflip import plots
from pathflip.evaluate.report.content import CaseExample, CasePhrase, CaseSlideMap, ReportSentence
from pathflip.evaluate.simulated.examples import GROUNDING_PX, thumbnail
from pathflip.evaluate.simulated.measures import Cohort, CohortSlide
from pathflip.inference import Aligned, EncodedSlide, encode_slide, ground
from pathflip.simulate import truth as slide_truth
from pathflip.simulate.world import FINDINGS
from pathflip.text.case_tables import findings_on
from pathflip.text.reports import Report, read_report
from pathflip.types import CaseSlide, SubCaption

__all__ = ["case_example"]

_SHOWN_AS = ("sections", "synoptic", "html", "prose")
"""Shapes of reports that read well on a page, in this order."""
_EVIDENCE = 4


def case_example(folder: Path, cohort: Cohort, model: Aligned, num: int = 3) -> CaseExample | None:
    """A case of two slides of different parts, if there is one among the slides; else one of two slides; else None.

    Args:
        folder: a simulated cohort with the reports of cases. cohort: its test slides. num: findings to show.
    """
    path = folder / "cases.jsonl"
    if not path.is_file():
        return None
    known = {slide.slide_id: slide for slide in cohort.slides}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(row["slides"]) > 1 and all(one["slide"] in known for one in row["slides"])]
    if not rows:
        return None
    return _example(folder, min(rows, key=_preference), known, model, num)


def _preference(row: dict[str, Any]) -> tuple[bool, int, str]:
    """Parts first, then the shape, then the order of the table."""
    shape = row["shape"]
    place = _SHOWN_AS.index(shape) if shape in _SHOWN_AS else len(_SHOWN_AS)
    return row["slides"][0]["part"] != "A", place, row["case"]


def _example(folder: Path, row: dict[str, Any], known: dict[str, CohortSlide], model: Aligned, num: int) -> CaseExample:
    slides = [known[one["slide"]] for one in row["slides"]]
    parts = {one["slide"]: one["part"] for one in row["slides"]}
    encoded = [encode_slide(model, slide.features) for slide in slides]
    report = read_report(row["text"])
    sub_captions = findings_on(
        report.all_sub_captions, report.parts, [CaseSlide(slide.slide_id, parts[slide.slide_id]) for slide in slides]
    )
    chosen = _told_apart([one for one in row["sub_captions"] if one["visual"] and one["concept"] in FINDINGS], num)
    return CaseExample(
        case=row["case"],
        patient=row["patient"],
        parts=report.parts,
        report=tuple(_sentences(report, sub_captions)),
        phrases=tuple(_phrase(folder, one, slides, parts, encoded, model) for one in chosen),
    )


def _told_apart(sub_captions: Sequence[dict[str, Any]], num: int) -> list[dict[str, Any]]:
    """Findings that one slide alone shows, the slides in turn; then others that are affirmed; each once."""
    affirmed = list({one["concept"]: one for one in reversed(sub_captions) if not one["negated"]}.values())[::-1]
    slides_of: dict[str, set[str]] = {}
    for one in sub_captions:
        if not one["negated"]:
            slides_of.setdefault(one["concept"], set()).update(one["slides"])
    by_slide: dict[str, list[dict[str, Any]]] = {}
    for one in affirmed:
        if len(slides_of[one["concept"]]) == 1:
            by_slide.setdefault(one["slides"][0], []).append(one)
    queues = list(by_slide.values())
    in_turn = [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]
    return [*in_turn, *(one for one in affirmed if len(slides_of[one["concept"]]) > 1)][:num]


def _phrase(
    folder: Path,
    sub_caption: dict[str, Any],
    slides: Sequence[CohortSlide],
    parts: dict[str, str],
    encoded: Sequence[EncodedSlide],
    model: Aligned,
) -> CasePhrase:
    maps = []
    places = []
    for slide, code in zip(slides, encoded, strict=True):
        heatmap = ground(model, code, sub_caption["sentence"])
        labels = slide_truth.read_labels(folder / "truth" / f"{slide.slide_id}.png")
        maps.append(
            CaseSlideMap(
                slide_id=slide.slide_id,
                part=parts[slide.slide_id],
                thumbnail=thumbnail(folder, slide.slide_id, GROUNDING_PX),
                heatmap=heatmap,
                truth=slide_truth.concept_mask(labels, sub_caption["concept"]),
                presence=heatmap.presence,
            )
        )
        places += [(slide.slide_id, box, score) for box, score in plots.top_tiles(heatmap, _EVIDENCE)]
    best = sorted(places, key=lambda one: -one[2])[:_EVIDENCE]
    return CasePhrase(sub_caption["sentence"], sub_caption["part"], tuple(maps), tuple(best))


def _sentences(report: Report, sub_captions: Sequence[SubCaption]) -> list[ReportSentence]:
    """The report from its first to its last character, cut where sub-captions begin and end."""
    pieces: list[ReportSentence] = []
    end = 0
    for one in sorted(sub_captions, key=lambda one: one.place or (0, 0)):
        if one.place is None or one.place[0] < end or one.place[1] <= one.place[0]:
            continue
        start, stop = one.place
        pieces += [ReportSentence(report.text[end:start]), ReportSentence(report.text[start:stop], *_reading(one))]
        end = stop
    return [piece for piece in [*pieces, ReportSentence(report.text[end:])] if piece.text]


def _reading(one: SubCaption) -> tuple[str, str]:
    """How a sub-caption was read, and a note on it."""
    part = f"part {one.part}" if one.part else "no part"
    if not one.visual:
        return "not visible", f"{part}; not visible: {one.reason or one.section or 'not on a slide'}"
    return one.polarity, f"{part}; {one.polarity}" + (f" ({one.reason})" if one.undecided and one.reason else "")
