"""Where and how much: what a phrase such as "upper left" or "extensive" looks like in a heatmap, learned from captions.

A model that pools patches by their similarity to a sentence hardly hears its words of place and extent: the best
patches of "necrosis, upper left" and "necrosis, lower right" are the same ones. Their place and number stand in the
heatmap of the finding. So the heatmap is described by a few numbers; over the training slides these are averaged for
every phrase that captions exchange for another in otherwise equal sentences; and a sub-caption is asked whether its
phrase or a rival fits the slide better (linear discriminant analysis, Fisher 1936: one mean a phrase, one covariance).
No table of place words is needed, and none is used.
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from pathflip.inference import Aligned, EncodedCase, EncodedSlide
from pathflip.types import Caption, SubCaption
from pathflip.verify.heatmaps import encoded_once, tile_similarity
from pathflip.verify.lexicon import Lexicon, exchangeable, subjects

__all__ = ["DESCRIPTORS", "Shapes", "describe", "describe_findings", "learn_shapes", "shape_lead"]

DESCRIPTORS = (
    "x",
    "y",
    "standard deviation",
    "log fraction above half",
    "log fraction above 0.3",
    "log fraction above 0.5",
    "peak",
    "median",
)
PEAK_TILES = 8
FEWEST_SHOWN = 5
"""Slides whose captions use a phrase of a finding, for the phrase to have a mean."""
RIDGE = 1e-3
SMALLEST_FRACTION = 1e-3


class Shapes(BaseModel):
    """Mean description of every phrase, and the inverse of the covariance they share.

    Attributes:
        means: phrase -> mean of ``DESCRIPTORS`` over the training slides whose caption says it of a finding.
        precision: inverse covariance within phrases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    means: dict[str, tuple[float, ...]]
    precision: tuple[tuple[float, ...], ...]


def describe(heat: Float[np.ndarray, " n"], place: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " 8"]:
    """A heatmap in eight numbers: centre, standard deviation and fraction of what lies above half height, and heights.

    Args:
        heat: score of every valid tile. place: its centre in the box around the tissue, 0 to 1, y downwards.
    """
    peak = float(np.partition(heat, -min(PEAK_TILES, len(heat)))[-min(PEAK_TILES, len(heat)) :].mean())
    median = float(np.median(heat))
    half = (peak + median) / 2
    weight = np.maximum(heat - half, 0) + 1e-12
    weight = weight / weight.sum()
    centre = weight @ place
    deviation = float(np.sqrt(weight @ ((place - centre) ** 2).sum(1)))
    fractions = [np.log((heat > level).mean() + SMALLEST_FRACTION) for level in (half, 0.3, 0.5)]
    return np.array([*centre, deviation, *fractions, peak, median])


def describe_findings(model: Aligned, slide: EncodedSlide, lexicon: Lexicon) -> Float[np.ndarray, "F 8"]:
    """The description of every finding of the vocabulary on a slide, from the mean heatmap of its wordings."""
    asks = tuple(ask for finding in lexicon.findings for ask in finding.asks)
    shown = slide.row_of_tile >= 0
    heat = tile_similarity(model, slide, encoded_once(model, asks))[:, shown]
    ends = np.cumsum([len(finding.asks) for finding in lexicon.findings])
    centres = slide.grid.coords[shown] + slide.grid.tile_px0 / 2
    place = (centres - centres.min(0)) / np.maximum(np.ptp(centres, axis=0), 1)
    return np.stack([describe(part.mean(0), place) for part in np.split(heat, ends[:-1])])


def learn_shapes(
    model: Aligned, pairs: Iterable[tuple[EncodedSlide | EncodedCase, Caption]], lexicon: Lexicon
) -> Shapes | None:
    """Means and covariance from training slides and their captions; None where captions exchange too little.

    Cases of several slides are left out: place and extent are of one slide.
    """
    if not lexicon.findings:
        return None
    seen: dict[str, list[np.ndarray]] = defaultdict(list)
    for slide, caption in pairs:
        if isinstance(slide, EncodedCase):
            continue
        described = describe_findings(model, slide, lexicon)
        for sub_caption in caption.sub_captions:
            for finding, phrase in _phrases(sub_caption, lexicon):
                seen[phrase].append(described[finding])
    means = {phrase: np.mean(rows, 0) for phrase, rows in sorted(seen.items()) if len(rows) >= FEWEST_SHOWN}
    if len(means) < 2:
        return None
    rest = np.concatenate([np.stack(seen[phrase]) - mean for phrase, mean in means.items()])
    precision = np.linalg.inv(rest.T @ rest / len(rest) + RIDGE * np.eye(len(DESCRIPTORS)))
    return Shapes(
        means={phrase: tuple(map(float, mean)) for phrase, mean in means.items()},
        precision=tuple(tuple(map(float, row)) for row in precision),
    )


def shape_lead(
    sub_caption: SubCaption, described: Float[np.ndarray, "F 8"], lexicon: Lexicon, shapes: Shapes
) -> tuple[float, str] | None:
    """The smallest lead (log-likelihood) of a phrase of the sub-caption over its rivals, and the rival in words.

    None where the sub-caption names no finding of the vocabulary or no phrase with a rival.
    """
    best: tuple[float, str] | None = None
    for finding, phrase in _phrases(sub_caption, lexicon):
        rivals = [other for other in lexicon.alternatives[phrase] if other in shapes.means]
        if phrase not in shapes.means or not rivals:
            continue
        fit = {name: _fit(described[finding], name, shapes) for name in (phrase, *rivals)}
        rival = max(rivals, key=lambda name: fit[name])
        lead = fit[phrase] - fit[rival]
        if best is None or lead < best[0]:
            best = (lead, f"“{rival}” rather than “{phrase}”")
    return best


def _fit(described: Float[np.ndarray, " 8"], phrase: str, shapes: Shapes) -> float:
    away = described - np.array(shapes.means[phrase])
    return float(-0.5 * away @ np.array(shapes.precision) @ away)


def _phrases(sub_caption: SubCaption, lexicon: Lexicon) -> list[tuple[int, str]]:
    """(finding, phrase) of an affirmative sub-caption that names a finding."""
    if sub_caption.negated or not sub_caption.decided:
        return []
    named = subjects(sub_caption.content, lexicon)
    return [(named[0], phrase) for phrase in exchangeable(sub_caption.content, lexicon)] if named else []
