"""The lines of a painted case's form: "Necrosis: [X] Present [ ] Absent", "Mucin pools: not identified"."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pathflip.simulate.phrases import (
    DEGREES,
    GRADES_SAID,
    NAMES,
    NUCLEAR,
    PATTERNS_SAID,
    PLACES_SAID,
    TYPES_SAID,
    sentence_case,
)
from pathflip.simulate.report_writer import PaintedSubCaption, particulars

__all__ = ["BOXES", "synoptic_lines", "unanswered_line"]

Boxes = tuple[str, str]
BOXES: tuple[Boxes, ...] = (("[X]", "[ ]"), ("[x]", "[ ]"), ("☒", "☐"), ("(x)", "( )"), ("_X_", "___"), ("☑", "☐"))
"""A ticked box and an empty one, of one export each."""
_ANSWERS = (("Present", "Absent"), ("Present", "Not identified"), ("Identified", "Not identified"), ("Yes", "No"))
_YES, _NO = ("present", "identified"), ("absent", "not identified", "none", "not seen")


def synoptic_lines(
    sub_caption: PaintedSubCaption, boxes: Boxes | None, rng: np.random.Generator
) -> list[PaintedSubCaption]:
    """A sub-caption as lines of a form, one a question.

    Args:
        sub-caption: from a plain report.
        boxes: a ticked and an empty box, one of :data:`BOXES`; None where findings have a value instead.
    """
    facts = replace(sub_caption, template="")
    if sub_caption.kind in ("finding", "absence"):
        names = (sub_caption.concept, *sub_caption.others)
        return [_finding_line(replace(facts, concept=name, others=()), boxes, rng) for name in names]
    if not sub_caption.visual:
        return [replace(facts, sentence=line) for line in _unseen_line(sub_caption, boxes, rng)]
    return [replace(facts, sentence=line) for line in _tumour_lines(sub_caption, rng)]


def unanswered_line(names: Sequence[str], boxes: Boxes, rng: np.random.Generator) -> PaintedSubCaption:
    """A question nobody ticked: it says nothing about one of ``names``."""
    name = names[int(rng.integers(len(names)))]
    line = f"{_label(name, rng)}: {_options(None, boxes, rng)}"
    return PaintedSubCaption(line, "unanswered", "unanswered", visual=False)


def _finding_line(facts: PaintedSubCaption, boxes: Boxes | None, rng: np.random.Generator) -> PaintedSubCaption:
    label = _label(facts.concept, rng)
    if boxes:
        line = f"{label}: {_options(not facts.negated, boxes, rng)}"
        return replace(facts, sentence=line, place=None, extent=None, percent=None)
    value = [str(rng.choice(_NO if facts.negated else _YES))]
    if facts.extent:
        value.append(str(rng.choice(DEGREES[facts.extent].seen)))
    if facts.place:
        value.append(str(rng.choice(PLACES_SAID[facts.place].seen)))
    return replace(facts, sentence=f"{label}: {', '.join(value)}", percent=None)


def _label(name: str, rng: np.random.Generator) -> str:
    return sentence_case(str(rng.choice(NAMES[name].wording.seen)))


def _options(answer: bool | None, boxes: Boxes, rng: np.random.Generator) -> str:
    """Both answers with their boxes, the right one ticked; none where ``answer`` is None."""
    ticked, empty = boxes
    yes, no = _ANSWERS[int(rng.integers(len(_ANSWERS)))]
    options = [f"{ticked if answer is True else empty} {yes}", f"{ticked if answer is False else empty} {no}"]
    return "  ".join(options if rng.random() < 0.5 else options[::-1])


def _tumour_lines(facts: PaintedSubCaption, rng: np.random.Generator) -> list[str]:
    """Lines on the diagnosis, the nuclei, share and place of the tumour, the background."""
    if facts.kind == "benign":
        return ["Diagnosis: benign tissue"]
    if facts.kind == "background":
        return [f"Background: {rng.choice(NAMES['fibrous_stroma'].wording.seen)}"]
    if facts.kind == "tumour_extent":
        return [f"Tumour content: approx. {facts.percent} % of the tissue"]
    if facts.kind == "tumour_place":
        return [f"Tumour: present, {rng.choice(PLACES_SAID[str(facts.place)].seen)}"]
    if facts.kind == "nuclei" and facts.grade:
        return [f"Nuclei: {rng.choice(NUCLEAR[facts.grade].seen)}"]
    lines = []
    if facts.tumour:
        lines.append(f"Histologic type: {rng.choice(TYPES_SAID[facts.tumour].seen)}")
    if facts.grade:
        lines.append(f"Histologic grade: {rng.choice(GRADES_SAID[facts.grade].seen)}")
    if facts.pattern:
        lines.append(f"Growth pattern: {rng.choice(PATTERNS_SAID[facts.pattern].seen)}")
    return lines


def _unseen_line(facts: PaintedSubCaption, boxes: Boxes | None, rng: np.random.Generator) -> list[str]:
    """What no slide can confirm, as a form asks for it."""
    numbers = particulars(rng)
    free = rng.random() < 0.5
    answers = {
        "margins": f"Margins: {_margins(free, boxes)}",
        "nodes": f"Regional lymph nodes: {numbers['k']}/{numbers['n']} involved",
        "stage": f"Pathologic stage: pT{numbers['t']}{numbers['sub']} N{numbers['k3']}",
        "receptors": f"Oestrogen receptor: positive ({numbers['percent']} %)",
        "specimen": f"Specimen size: {numbers['cm']} x {numbers['cm2']} x {numbers['cm3']} cm",
    }
    return [answers[facts.kind]] if facts.kind in answers else []


def _margins(free: bool, boxes: Boxes | None) -> str:
    if boxes is None:
        return "free" if free else "involved"
    ticked, empty = boxes
    return f"{ticked if free else empty} Uninvolved by tumour  {empty if free else ticked} Involved"
