"""The places behind an answer: which tiles were looked at for it, as boxes with scores, as files, and removed."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from pathflip import plots
from pathflip.assistant.generation import Prompt
from pathflip.assistant.visual_tokens import SlideView
from pathflip.geometry import Box
from pathflip.inference import Aligned, ground
from pathflip.io import geojson
from pathflip.types import Answer, Evidence, SlideTokens

__all__ = ["evidence_rows", "evidence_to_files", "option_evidence", "statement_evidence", "tiles_of"]


def option_evidence(asked: Prompt, views: Sequence[SlideView], option: int, most: int) -> tuple[Evidence, ...]:
    """The tiles the language model was shown for one option (from 1) of a multiple-choice question, best first."""
    found: list[Evidence] = []
    for view, tokens in zip(views, asked.slides, strict=True):
        heat = _tile_heat(tokens, option)
        text = asked.options[option - 1]
        found += _apart(view, heat, text, most)
    return tuple(sorted(found, key=lambda one: -one.score)[:most])


def statement_evidence(model: Aligned, views: Sequence[SlideView], text: str, most: int) -> tuple[Evidence, ...]:
    """Where a statement is, over all slides of a case: best tiles of its heatmap. Nothing for an absence, or for what
    a slide cannot show: there is no place to point at.
    """
    found: list[Evidence] = []
    for view in views:
        heatmap = ground(model, view.encoded, text)
        if not heatmap.negated:
            rows = np.flatnonzero(np.isfinite(heatmap.scores))
            found += _apart(view, dict(zip(rows.tolist(), heatmap.scores[rows].tolist(), strict=True)), text, most)
    return tuple(sorted(found, key=lambda one: -one.score)[:most])


def tiles_of(answer: Answer, view: SlideView) -> Bool[np.ndarray, " N"]:
    """Which tiles of a slide are evidence of an answer."""
    corners = {(e.box.x, e.box.y) for e in answer.evidence if e.slide_id == view.slide_id}
    return np.array([(x, y) in corners for x, y in view.features.coords.tolist()], bool)


def evidence_to_files(
    answer: Answer, view: SlideView, stem: Path, *, thumbnail: np.ndarray | None = None, note: str = ""
) -> list[str]:
    """Write an answer's places on one slide as QuPath annotations and, with a thumbnail, as a picture.

    Returns:
        The files.
    """
    own = [one for one in answer.evidence if one.slide_id == view.slide_id]
    info = view.features.info
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


def _tile_heat(tokens: SlideTokens, option: int) -> dict[int, float]:
    """Heat of every tile that tokens of this option stand for; the question's, where the option has none of its own."""
    slots = tokens.slot.tolist()
    wanted = option if any(slot == option and len(t) for slot, t in zip(slots, tokens.tiles, strict=True)) else 0
    heat: dict[int, float] = {}
    for slot, tiles, scores in zip(slots, tokens.tiles, tokens.scores, strict=True):
        if slot == wanted:
            for tile, score in zip(tiles.tolist(), scores.tolist(), strict=True):
                heat[tile] = max(score, heat.get(tile, -np.inf))
    return heat


def _apart(view: SlideView, heat: dict[int, float], text: str, most: int) -> list[Evidence]:
    """The hottest tiles that do not touch each other."""
    coords, reach = view.features.coords, 1.5 * view.features.grid.tile_px0
    taken: list[int] = []
    for row in sorted(heat, key=lambda one: (-heat[one], one)):
        if len(taken) == most:
            break
        if not taken or np.abs(coords[taken] - coords[row]).max(axis=1).min() >= reach:
            taken.append(row)
    grid = view.features.grid
    return [Evidence(grid.box(row), float(heat[row]), text, view.slide_id) for row in taken]
