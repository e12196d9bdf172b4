"""Reports of painted cases as hospitals write them: several slides and parts a report, forms, German; and their truth.

A case is a patient. Its report says of each slide what the slide's plain report says (the same findings, affirmed and
denied, by the same seeds), in another shape: under headings, as a form with tick boxes, in German, as HTML, without
line ends. Around it stand a clinical history, a gross description, stains and parts without a slide, which name
findings that the slides do not show. The truth keeps what each sentence states and which slides show it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pathflip.simulate.phrases import ABSENCE, PRESENCE_PLAIN
from pathflip.simulate.report_shapes import SHAPES, Part, ReportSentence, shaped
from pathflip.simulate.report_writer import PaintedSubCaption, filled_in
from pathflip.simulate.world import FINDINGS, Measured, World

__all__ = ["CaseReport", "CaseSlideTruth", "CaseSubCaption", "PaintedSlide", "write_case_report"]

_SHAPE_WEIGHTS: Mapping[str, float] = {
    "sections": 0.30, "synoptic": 0.25, "prose": 0.15, "german": 0.12, "html": 0.10, "one line": 0.08,
}  # fmt: skip
assert _SHAPE_WEIGHTS.keys() == set(SHAPES)
_TWO_PARTS = 0.6
"""Of cases with two slides, those whose slides are of two parts; the others are two blocks of one specimen."""
_UNSCANNED_PART = 0.3
"""Of cases with one slide, those whose report has a second part without a slide."""


@dataclass(frozen=True)
class PaintedSlide:
    """What is known of a slide when its case is written up: what it shows, and its plain report's sub-captions."""

    slide_id: str
    measured: Mapping[str, Measured]
    sub_captions: tuple[PaintedSubCaption, ...]

    @property
    def present(self) -> tuple[str, ...]:
        """The findings that were really painted."""
        return tuple(name for name in FINDINGS if name in self.measured and self.measured[name].present)


@dataclass(frozen=True)
class CaseSlideTruth:
    """A slide of a case: its part ("A", "A2", "" where the report has no parts)."""

    slide: str
    part: str


@dataclass(frozen=True)
class CaseSubCaption:
    """One sentence or line of a case's report and what it states.

    Attributes:
        sentence: as it stands in the report (before any HTML).
        concept, others: what it speaks of, as in :class:`~pathflip.simulate.report_writer.PaintedSubCaption`.
        negated: whether it states an absence.
        visual: whether a slide of the case can show it.
        part: of the report; "" where it has none, or the sentence belongs to none.
        language: "en" or "de".
        slides: those it is true of: they show what it affirms, or all of its part lack what it denies.
    """

    sentence: str
    concept: str
    negated: bool
    visual: bool
    part: str
    language: str
    slides: tuple[str, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseReport:
    """A case: its slides, its report, and the truth of it. ``shape``: one of ``report_shapes.SHAPES``."""

    case: str
    patient: str
    shape: str
    slides: tuple[CaseSlideTruth, ...]
    text: str
    sub_captions: tuple[CaseSubCaption, ...]


def write_case_report(world: World, patient: str, slides: Sequence[PaintedSlide]) -> CaseReport:
    """Write up one case; the same for the same world, patient and slides.

    Args:
        slides: of one patient, with one diagnosis.
    """
    rng = world.rng("hospital", patient)
    number = int(patient.lstrip("P"))
    shape = str(rng.choice(list(_SHAPE_WEIGHTS), p=list(_SHAPE_WEIGHTS.values())))
    parts, layout = _parts_of_case(slides, rng)
    written = shaped(shape, parts, f"H26-{number:05d}", rng)
    shown = {part.label: [one for one in slides if one.slide_id in part.slides] for part in parts}
    return CaseReport(
        case=f"H26-{number:05d}",
        patient=patient,
        shape=shape,
        slides=layout,
        text=written.text,
        sub_captions=tuple(_truth(one, shown, slides) for one in written.sentences),
    )


def _parts_of_case(
    slides: Sequence[PaintedSlide], rng: np.random.Generator
) -> tuple[list[Part], tuple[CaseSlideTruth, ...]]:
    """The parts of a report with their sub-captions, and which slide is of which."""
    if len(slides) > 1 and rng.random() < _TWO_PARTS:
        parts = [Part(chr(ord("A") + i), (one.slide_id,), one.sub_captions) for i, one in enumerate(slides)]
        return parts, tuple(CaseSlideTruth(part.slides[0], part.label) for part in parts)
    if len(slides) > 1:
        blocks = tuple(CaseSlideTruth(one.slide_id, f"A{i}") for i, one in enumerate(slides, start=1))
        return [Part("", tuple(one.slide_id for one in slides), _of_all(slides, rng))], blocks
    (slide,) = slides
    if rng.random() < _UNSCANNED_PART:
        parts = [Part("A", (slide.slide_id,), slide.sub_captions), Part("B", (), _elsewhere(slide, rng))]
        return parts, (CaseSlideTruth(slide.slide_id, "A"),)
    return [Part("", (slide.slide_id,), slide.sub_captions)], (CaseSlideTruth(slide.slide_id, ""),)


def _of_all(slides: Sequence[PaintedSlide], rng: np.random.Generator) -> tuple[PaintedSubCaption, ...]:
    """What one report says of several blocks: findings of any, denials that hold of all, no places.

    The places and percentages of a plain report are those of one slide, so the sentences that hold them are worded
    without.
    """
    first = slides[0].sub_captions
    sub_captions = [one for one in first if one.kind in ("diagnosis", "type", "grade_pattern", "type_grade", "pattern")]
    sub_captions += [one for one in first if one.kind in ("benign", "nuclei", "background")]
    present = list(dict.fromkeys(name for slide in slides for name in slide.present))
    sub_captions += [_plain(name, False, rng) for name in present]
    denied = dict.fromkeys(
        name for slide in slides for one in slide.sub_captions if one.kind == "absence"
        for name in (one.concept, *one.others)
    )  # fmt: skip
    sub_captions += [_plain(name, True, rng) for name in denied if name not in present]
    unseen: dict[str, PaintedSubCaption] = {}
    for one in (one for slide in slides for one in slide.sub_captions if not one.visual):
        unseen.setdefault(one.kind, one)
    return (*sub_captions, *unseen.values())


def _elsewhere(slide: PaintedSlide, rng: np.random.Generator) -> tuple[PaintedSubCaption, ...]:
    """Findings of a part that was not scanned: two that the slide lacks, and a denial of one that it shows."""
    absent = [name for name in FINDINGS if name not in slide.present]
    shown = [_plain(absent[i], False, rng) for i in rng.permutation(len(absent))[:2]]
    denied = [_plain(name, True, rng) for name in slide.present[:1]]
    return (PaintedSubCaption("Benign tissue.", "benign", "benign"), *shown, *denied)


def _plain(name: str, negated: bool, rng: np.random.Generator) -> PaintedSubCaption:
    """A finding affirmed or denied, without place and extent."""
    templates = [t for t in ABSENCE.seen if "{other}" not in t] if negated else list(PRESENCE_PLAIN.seen)
    kind = "absence" if negated else "finding"
    return filled_in(PaintedSubCaption("", kind, name, negated=negated, template=str(rng.choice(templates))), rng)


def _truth(
    sentence: ReportSentence, shown: Mapping[str, Sequence[PaintedSlide]], slides: Sequence[PaintedSlide]
) -> CaseSubCaption:
    """Which slides show what a sentence states."""
    facts = sentence.facts
    own = shown.get(sentence.part, slides) if facts.visual else ()
    if facts.kind == "finding":
        own = [one for one in own if facts.concept in one.present]
    return CaseSubCaption(
        sentence=sentence.sentence,
        concept=facts.concept,
        negated=facts.negated,
        visual=facts.visual and bool(own),
        part=sentence.part,
        language=sentence.language,
        slides=tuple(one.slide_id for one in own),
        others=facts.others,
    )
