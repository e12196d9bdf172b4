"""What the report page shows of a case: its report as it was read, and its sub-captions on each of its slides."""

from typing import Any

from pathflip.evaluate.report.content import CaseExample, CasePhrase, CaseSlideMap
from pathflip.evaluate.report.example_views import PANEL_PX
from pathflip.evaluate.report.number_formats import format_number, format_signed
from pathflip.evaluate.report.pictures import heatmap_panel, mask_outline, score_range
from pathflip.geometry import Box
from pathflip.plots import embedded, shrunk

__all__ = ["case_view"]


def case_view(case: CaseExample) -> dict[str, Any]:
    """The case's section: sentences with their kind, and a row a phrase with a panel a slide."""
    first = case.phrases[0].slides if case.phrases else ()
    return {
        "case": case.case,
        "patient": case.patient,
        "parts": case.parts,
        "sentences": [{"text": one.text, "kind": one.kind.replace(" ", "-"), "note": one.note} for one in case.report],
        "slides": [
            {"slide_id": one.slide_id, "is_of": _is_of(case, one), "src": embedded(_small(one))} for one in first
        ],
        "phrases": [_phrase_view(case, phrase) for phrase in case.phrases],
    }


def _small(slide: CaseSlideMap) -> Any:
    return shrunk(slide.thumbnail, PANEL_PX)


def _is_of(case: CaseExample, slide: CaseSlideMap) -> str:
    """The part of the report, or the block of the specimen, that a slide is of."""
    return f"{'part' if case.parts else 'block'} {slide.part}" if slide.part else ""


def _phrase_view(case: CaseExample, phrase: CasePhrase) -> dict[str, Any]:
    """One sub-caption; its maps share their colours, so that the slides compare."""
    ranges = [score_range(slide.heatmap) for slide in phrase.slides]
    limits = (min(low for low, _ in ranges), max(high for _, high in ranges))
    return {
        "text": phrase.text,
        "part": phrase.part,
        "panels": [_panel(phrase, slide, _is_of(case, slide), limits) for slide in phrase.slides],
        "evidence": [
            {"slide_id": name, "x": box.x, "y": box.y, "side": f"{box.width} × {box.height}", "score": format_number(s)}
            for name, box, s in phrase.evidence
        ],
    }


def _panel(phrase: CasePhrase, slide: CaseSlideMap, is_of: str, limits: tuple[float, float]) -> dict[str, Any]:
    thumbnail = _small(slide)
    height, width = thumbnail.shape[:2]
    shows = bool(slide.truth.any())
    own = [box for name, box, _ in phrase.evidence if name == slide.slide_id]
    where = "outlined" if shows else "none on this slide"
    return {
        "title": ", ".join(filter(None, (slide.slide_id, is_of))),
        "src": embedded(heatmap_panel(slide.heatmap, thumbnail, limits)),
        "alt": f"Heatmap of {phrase.text!r} on slide {slide.slide_id}; truth: {where}",
        "detail": f"truth: {where}; presence logit {format_signed(slide.presence)}",
        "path": mask_outline(slide.truth, (width, height)) if shows else "",
        "boxes": [_scaled(box, width / slide.heatmap.grid.info.size0[0]) for box in own],
        "width": width,
        "height": height,
    }


def _scaled(box: Box, scale: float) -> dict[str, float]:
    return {
        "x": round(box.x * scale, 1),
        "y": round(box.y * scale, 1),
        "w": round(box.width * scale, 1),
        "h": round(box.height * scale, 1),
    }
