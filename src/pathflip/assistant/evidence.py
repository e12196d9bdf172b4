"""The places behind an answer: the tiles it rests on, as boxes with scores and as files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from pathflip import plots
from pathflip.assistant.generation import Prompt
from pathflip.assistant.visual_tokens import PreparedSlide
from pathflip.geometry import Box
from pathflip.inference import Aligned, ground
from pathflip.io import geojson
from pathflip.types import Answer, Evidence, SlideTokens

__all__ = ["evidence_rows", "evidence_to_files", "option_evidence", "text_evidence", "tiles_of"]


def option_evidence(prompt: Prompt, slides: Sequence[PreparedSlide], option: int, most: int) -> tuple[Evidence, ...]:
    """The tiles the language model was shown for one option (from 1) of a multiple-choice question, best first."""
    evidence: list[Evidence] = []
    for slide, tokens in zip(slides, prompt.slides, strict=True):
        similarity = _tile_similarity(tokens, option)
        text = prompt.options[option - 1]
        evidence += _apart(slide, similarity, text, most)
    return tuple(sorted(evidence, key=lambda one: -one.score)[:most])


def text_evidence(model: Aligned, slides: Sequence[PreparedSlide], text: str, most: int) -> tuple[Evidence, ...]:
    """Where a text is, over all slides of a case: best tiles of its heatmap. Nothing for an absence: there is no
    place to point at.
    """
    evidence: list[Evidence] = []
    for slide in slides:
        heatmap = ground(model, slide.encoded, text)
        if not heatmap.negated:
            rows = np.flatnonzero(np.isfinite(heatmap.scores))
            evidence += _apart(slide, dict(zip(rows.tolist(), heatmap.scores[rows].tolist(), strict=True)), text, most)
    return tuple(sorted(evidence, key=lambda one: -one.score)[:most])


def tiles_of(answer: Answer, slide: PreparedSlide) -> Bool[np.ndarray, " N"]:
    """Which tiles of a slide are evidence of an answer."""
    corners = {(e.box.x, e.box.y) for e in answer.evidence if e.slide_id == slide.slide_id}
    return np.array([(x, y) in corners for x, y in slide.features.coords.tolist()], bool)


def evidence_to_files(
    answer: Answer, slide: PreparedSlide, stem: Path, *, thumbnail: np.ndarray | None = None, note: str = ""
) -> list[str]:
    """Write an answer's places on one slide as QuPath annotations and, with a thumbnail, as a picture.

    Returns:
        The files.
    """
    own = [one for one in answer.evidence if one.slide_id == slide.slide_id]
    info = slide.features.info
    files = [f"{stem}.evidence.geojson"]
    features = [
        geojson.feature(
            [geojson.box_ring(one.box)],
            name=f"{rank}. {one.text}",
            info=info,
            classification="evidence",
            measurements={"similarity": one.score},
        )
        for rank, one in enumerate(own, start=1)
    ]
    geojson.write_features(files[0], features)
    if thumbnail is not None:
        files.append(f"{stem}.evidence.png")
        boxes: list[tuple[Box, str]] = [(one.box, str(rank)) for rank, one in enumerate(own, start=1)]
        plots.save_boxes_png(boxes, info, thumbnail, files[1], title=answer.text, note=note)
    return files


def evidence_rows(answer: Answer) -> list[dict[str, Any]]:
    """Places as plain values, for JSON."""
    return [
        {"slide_id": e.slide_id, "text": e.text, "score": round(e.score, 4), **asdict(e.box)} for e in answer.evidence
    ]


def _tile_similarity(tokens: SlideTokens, option: int) -> dict[int, float]:
    """Similarity of every tile behind tokens of this option; the question's, where the option has none of its own."""
    slots = tokens.slot.tolist()
    shown_slot = option if any(slot == option and len(t) for slot, t in zip(slots, tokens.tiles, strict=True)) else 0
    similarity: dict[int, float] = {}
    for slot, tiles, scores in zip(slots, tokens.tiles, tokens.scores, strict=True):
        if slot == shown_slot:
            for tile, score in zip(tiles.tolist(), scores.tolist(), strict=True):
                similarity[tile] = max(score, similarity.get(tile, -np.inf))
    return similarity


def _apart(slide: PreparedSlide, similarity: dict[int, float], text: str, most: int) -> list[Evidence]:
    """The most similar tiles that do not touch each other."""
    coords, reach = slide.features.coords, 1.5 * slide.features.grid.tile_px0
    taken: list[int] = []
    for row in sorted(similarity, key=lambda one: (-similarity[one], one)):
        if len(taken) == most:
            break
        if not taken or np.abs(coords[taken] - coords[row]).max(axis=1).min() >= reach:
            taken.append(row)
    grid = slide.features.grid
    return [Evidence(grid.box(row), float(similarity[row]), text, slide.slide_id) for row in taken]
