"""A report against its slide: is each sentence supported, contradicted, not visible or uncertain, and what is missing?

Verdicts come from calibrated probabilities only. A model without a calibration file gives its scores and regions, and
calls every visible sentence uncertain: a score nobody has checked must not look like an answer.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from pathflip import plots
from pathflip.errors import CaptionError
from pathflip.inference import Aligned, EncodedCase, EncodedSlide, slides_in
from pathflip.text.known_words import unknown_fraction
from pathflip.text.sentences import split_sentences
from pathflip.text.sub_captions import not_visual_kind, sub_captions_of
from pathflip.types import Evidence, SubCaption
from pathflip.verify.calibration import Fit, VerifierCalibration
from pathflip.verify.heatmaps import heatmaps
from pathflip.verify.lexicon import Lexicon
from pathflip.verify.scores import (
    Knowledge,
    Weighing,
    finding_scores,
    mentioned_findings,
    score_rows,
    weigh_sub_captions,
)

__all__ = [
    "Judgement",
    "Omission",
    "Verdict",
    "Verification",
    "best_regions",
    "is_foreign",
    "omission_scores",
    "verify_report",
]

Verdict = Literal["supported", "contradicted", "not visible", "uncertain"]

REGIONS = 3
"""Best tiles kept as evidence of a sentence."""
PAIRS_AT_ONCE = 2**24
"""Tiles times sentences whose similarity is in memory at once."""
MOST_OMISSIONS = 8

_WHY_NOT_VISIBLE = {
    "margins": "margins: a slide shows its own edge, not the surgeon's",
    "nodes": "lymph nodes are on other slides",
    "stage": "stage is put together from several sources",
    "size": "size and weight are measured on the specimen",
    "gross": "a description of the specimen, not of the slide",
    "clinical": "clinical information",
    "receptors": "needs another stain",
    "molecular": "needs a molecular test",
    "administration": "administration",
    "no information": "says that nothing is known",
    "interpretation": "an interpretation, not something to see",
}
_UNCALIBRATED = (
    "This model has no calibration, so no sentence is called supported or contradicted; fit one on slides it was not "
    "trained on with  pathflip calibrate"
)


_NOTHING_KNOWN = Knowledge(lexicon=Lexicon(words=frozenset(), findings=(), alternatives={}))


@dataclass(frozen=True)
class Judgement:
    """One sentence and what the slide says of it.

    Attributes:
        probability: that it is true, at even odds; None where nothing may be said.
        logit: the model's own score, None where the sentence was not put to it.
        negated: it states an absence; regions are then where the thing would be.
        reason: one line for people: why it is not visible or not judged, or what the slide speaks for instead.
        rival: what the slide speaks for more than for the sentence ("" where there is nothing).
        regions: the tiles most similar to the words.
    """

    sentence: str
    verdict: Verdict
    probability: float | None
    logit: float | None
    negated: bool
    reason: str
    rival: str
    regions: tuple[Evidence, ...]


@dataclass(frozen=True)
class Omission:
    """A finding the slide shows and the report does not speak of."""

    finding: str
    probability: float
    regions: tuple[Evidence, ...]


@dataclass(frozen=True)
class Verification:
    """A report against its slide. ``notes`` are lines a reader must see before anything else.

    ``omission_score`` is the probability of the most probable finding that the report does not speak of, None without
    a vocabulary.
    """

    slide_id: str
    judgements: tuple[Judgement, ...]
    omissions: tuple[Omission, ...]
    omission_score: float | None
    notes: tuple[str, ...]
    calibration: VerifierCalibration | None = field(repr=False)

    def as_row(self) -> dict[str, Any]:
        """What JSON holds: verdicts, probabilities, regions, and how the calibration came about."""
        fitted = self.calibration
        return {
            "slide_id": self.slide_id,
            "calibrated": fitted is not None,
            "notes": list(self.notes),
            "sentences": [_row(j, sentence=j.sentence) for j in self.judgements],
            "omissions": [
                {"finding": o.finding, "probability": round(o.probability, 4), "regions": _region_rows(o.regions)}
                for o in self.omissions
            ],
            "omission_score": None if self.omission_score is None else round(self.omission_score, 4),
            "calibration": None
            if fitted is None
            else {
                "split": fitted.split,
                "slides": fitted.slides,
                "patients": fitted.patients,
                "sub_captions": _fit_row(fitted.sub_captions),
                "findings": None if fitted.findings is None else _fit_row(fitted.findings),
                "note": fitted.note,
            },
            "caution": "Research software, not a medical device.",
        }


def verify_report(
    model: Aligned,
    slide: EncodedSlide | EncodedCase,
    report: str | Sequence[str | SubCaption],
    calibration: VerifierCalibration | None,
) -> Verification:
    """Judge every sentence of a report and look for what it leaves out.

    Args:
        model: the aligned model. slide: encoded by it; of a case, every region says on which of its slides it is.
        report: the text, or its sub-captions where they are known already.
        calibration: of this model (:func:`~pathflip.verify.calibration.read_verifier_calibration`), or None.

    Raises:
        CaptionError: the report holds no sentence.
    """
    sub_captions = _sub_captions(report)
    knowledge = calibration.knowledge if calibration else _NOTHING_KNOWN
    foreign = {s for s in sub_captions if calibration and is_foreign(s, calibration)}
    judged = [s for s in sub_captions if s.decided and s not in foreign]
    weighings = weigh_sub_captions(model, slide, judged, knowledge)
    probabilities = _probabilities(weighings, calibration)
    regions = best_regions(model, slide, [s.text for s in judged])
    weighed = dict(zip(judged, zip(weighings, probabilities, regions, strict=True), strict=True))
    judgements = []
    for sub_caption in sub_captions:
        if sub_caption in weighed:
            weighing, probability, places = weighed[sub_caption]
            judgements.append(_judge(sub_caption, weighing, probability, places, calibration))
        else:
            judgements.append(_unjudged(sub_caption, sub_caption in foreign))
    score, omissions = _omissions(model, slide, judged, calibration)
    return Verification(
        slide_id=slide.slide_id,
        judgements=tuple(judgements),
        omissions=omissions,
        omission_score=score,
        notes=_notes(sub_captions, foreign, calibration),
        calibration=calibration,
    )


# --- Sentences -------------------------------------------------------------------------------------------------------


def _sub_captions(report: str | Sequence[str | SubCaption]) -> list[SubCaption]:
    if isinstance(report, str):
        sub_captions = [one for sentence in split_sentences(report) for one in sub_captions_of(sentence)]
    else:
        sub_captions = [one for part in report for one in (_sub_captions(part) if isinstance(part, str) else (part,))]
    if not sub_captions:
        shown = report[:40] if isinstance(report, str) else ""
        raise CaptionError(f"the report holds no sentence (got {shown!r}); expected at least one")
    return sub_captions


def is_foreign(sub_caption: SubCaption, calibration: VerifierCalibration) -> bool:
    """Whether a sentence is of mostly words that the training captions do not hold: it cannot be judged."""
    return unknown_fraction(sub_caption.content, calibration.knowledge.lexicon.words) >= calibration.unknown_fraction


def _probabilities(evidence: Sequence[Weighing], calibration: VerifierCalibration | None) -> list[float | None]:
    if calibration is None or not evidence:
        return [None] * len(evidence)
    return [float(p) for p in calibration.sub_captions.logistic.probability(score_rows(evidence))]


def _judge(
    sub_caption: SubCaption,
    weighing: Weighing,
    probability: float | None,
    regions: tuple[Evidence, ...],
    calibration: VerifierCalibration | None,
) -> Judgement:
    verdict: Verdict = "uncertain"
    if calibration is not None and probability is not None:
        verdict = _verdict(probability, calibration.sub_captions)
    rival = weighing.rival if verdict != "supported" else ""
    reason = f"The slide speaks more for {rival}." if rival else ""
    if calibration is None:
        reason = "not calibrated"
    return Judgement(
        sentence=sub_caption.text,
        verdict=verdict,
        probability=probability,
        logit=weighing.logit,
        negated=sub_caption.negated,
        reason=reason,
        rival=rival,
        regions=regions,
    )


def _verdict(probability: float, fit: Fit) -> Verdict:
    if fit.high is not None and probability >= fit.high:
        return "supported"
    if fit.low is not None and probability <= fit.low:
        return "contradicted"
    return "uncertain"


def _unjudged(sub_caption: SubCaption, foreign: bool) -> Judgement:
    """Why a sentence is not judged: it cannot be understood, or a slide cannot show it."""
    verdict: Verdict = "uncertain"
    negated = sub_caption.negated
    if foreign and sub_caption.visual:
        reason = "Cannot judge: mostly words that the training captions do not hold."
    elif sub_caption.visual and sub_caption.undecided:
        negated = False
        reason = "Cannot judge: the sentence leaves open whether it is there."
        if sub_caption.reason and sub_caption.reason.startswith("language"):
            reason = "Cannot judge: not in a language whose denials are known."
    else:
        verdict = "not visible"
        kind = sub_caption.reason or not_visual_kind(sub_caption.text) or ""
        reason = _WHY_NOT_VISIBLE.get(kind, "nothing a slide can show")
        if kind.startswith("part "):
            reason = f"{kind}, of which no slide is given"
    return Judgement(
        sentence=sub_caption.text,
        verdict=verdict,
        probability=None,
        logit=None,
        negated=negated,
        reason=reason,
        rival="",
        regions=(),
    )


def _notes(
    sub_captions: Sequence[SubCaption], foreign: Set[SubCaption], calibration: VerifierCalibration | None
) -> tuple[str, ...]:
    notes = [] if calibration else [_UNCALIBRATED]
    visible = sum(s.visual for s in sub_captions)
    if num_foreign := sum(s.visual and s in foreign for s in sub_captions):
        notes.append(
            f"Cannot judge {num_foreign} of {visible} sentences: mostly words that the training captions do not hold "
            "(another language, or another organ?)"
        )
    if not visible:
        notes.append("No sentence of this report speaks of something a slide can show")
    return tuple(notes)


# --- Findings left out -----------------------------------------------------------------------------------------------


def omission_scores(
    model: Aligned,
    slides: Sequence[EncodedSlide | EncodedCase],
    reports: Sequence[Sequence[SubCaption]],
    calibration: VerifierCalibration,
) -> Float[np.ndarray, " n"]:
    """For each slide and the visible sentences of its report, the probability of the most probable finding that no
    sentence speaks of; 0 where every finding is spoken of or there is no vocabulary."""
    per_report = [_unspoken(model, s, r, calibration) for s, r in zip(slides, reports, strict=True)]
    return np.array([max(unspoken.values(), default=0.0) for unspoken in per_report])


def _unspoken(
    model: Aligned, slide: EncodedSlide | EncodedCase, judged: Sequence[SubCaption], calibration: VerifierCalibration
) -> dict[int, float]:
    """Findings that the report does not speak of, most probable first, and how probable each is."""
    if calibration.findings is None:
        return {}
    scores = finding_scores(model, [slide], calibration.knowledge)[0]
    probability = calibration.findings.logistic.probability(scores[:, None])
    spoken = mentioned_findings(judged, calibration.knowledge)
    return {int(i): float(probability[i]) for i in np.argsort(-probability, kind="stable") if not spoken[i]}


def _omissions(
    model: Aligned,
    slide: EncodedSlide | EncodedCase,
    judged: Sequence[SubCaption],
    calibration: VerifierCalibration | None,
) -> tuple[float | None, tuple[Omission, ...]]:
    """The omission score, and the findings probable enough to be named."""
    if calibration is None or calibration.findings is None:
        return None, ()
    knowledge, limit = calibration.knowledge, calibration.omitted_from
    findings = knowledge.lexicon.findings
    unspoken = _unspoken(model, slide, judged, calibration)
    first = {knowledge.groups[i]: i for i in reversed(unspoken)}  # of two names the more frequent or probable
    named = [i for i, p in unspoken.items() if limit is not None and p > limit and first[knowledge.groups[i]] == i]
    named = named[:MOST_OMISSIONS]
    regions = best_regions(model, slide, [findings[i].asks[0] for i in named])
    shown = (Omission(findings[i].name, unspoken[i], r) for i, r in zip(named, regions, strict=True))
    return max(unspoken.values(), default=0.0), tuple(shown)


# --- Where -----------------------------------------------------------------------------------------------------------


def best_regions(
    model: Aligned, encoded: EncodedSlide | EncodedCase, texts: Sequence[str]
) -> list[tuple[Evidence, ...]]:
    """The best tiles of every text, on whichever slide of a case they are."""
    per_slide = [_regions_on(model, slide, texts) for slide in slides_in(encoded)]
    return [
        tuple(sorted((one for own in of_text for one in own), key=lambda one: -one.score)[:REGIONS])
        for of_text in zip(*per_slide, strict=True)
    ]


def _regions_on(model: Aligned, slide: EncodedSlide, texts: Sequence[str]) -> list[tuple[Evidence, ...]]:
    """The best tiles of every text on one slide, some texts at a time."""
    step = max(1, PAIRS_AT_ONCE // max(1, len(slide.row_of_tile)))
    regions = []
    for start in range(0, len(texts), step):
        for heatmap in heatmaps(model, slide, texts[start : start + step]):
            best = plots.top_tiles(heatmap, REGIONS)
            regions.append(tuple(Evidence(box, score, heatmap.text, slide.slide_id) for box, score in best))
    return regions


def _row(judgement: Judgement, sentence: str) -> dict[str, Any]:
    probability, logit = judgement.probability, judgement.logit
    return {
        "sentence": sentence,
        "verdict": judgement.verdict,
        "probability": None if probability is None else round(probability, 4),
        "logit": None if logit is None else round(logit, 4),
        "negated": judgement.negated,
        "reason": judgement.reason,
        "rival": judgement.rival,
        "regions": _region_rows(judgement.regions),
    }


def _region_rows(regions: Sequence[Evidence]) -> list[dict[str, Any]]:
    return [
        {
            "slide": r.slide_id,
            "x": r.box.x,
            "y": r.box.y,
            "width": r.box.width,
            "height": r.box.height,
            "score": round(r.score, 4),
        }
        for r in regions
    ]


def _fit_row(fit: Fit) -> dict[str, Any]:
    return {
        "ece_before": fit.ece_before,
        "ece_after": fit.ece_after,
        "brier_skill_before": fit.brier_skill_before,
        "brier_skill_after": fit.brier_skill_after,
        "log_loss_skill_before": fit.log_loss_skill_before,
        "log_loss_skill_after": fit.log_loss_skill_after,
        "auroc": fit.auroc,
        "contradicted_up_to": fit.low,
        "supported_from": fit.high,
        "examples": list(fit.examples),
    }
