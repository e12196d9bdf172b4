"""Reports of painted slides, sentence by sentence with the truth of each, and reports with planted errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pathflip.errors import ConfigError
from pathflip.simulate.phrases import (
    ABSENCE,
    AMOUNTS,
    ARRANGEMENTS,
    DEGREES,
    DIAGNOSIS,
    GRADES_SAID,
    NAMES,
    NON_VISUAL,
    NUCLEAR,
    PATTERNS_SAID,
    PLACES_SAID,
    PRESENCE,
    PRESENCE_PLAIN,
    TYPES_SAID,
    Wording,
    agreement,
    article,
    sentence_case,
)
from pathflip.simulate.world import (
    FINDINGS,
    GRADES,
    PATTERNS,
    SPLITS,
    TUMOUR_ONLY,
    TUMOUR_TYPES,
    CasePlan,
    Measured,
    extent_of,
    far_places,
)

__all__ = [
    "ERROR_KINDS",
    "CorruptedReport",
    "PaintedSubCaption",
    "PlantedError",
    "Report",
    "corrupt_report",
    "filled_in",
    "particulars",
    "write_report",
]


@dataclass(frozen=True)
class PaintedSubCaption:
    """One sentence of a report and what it states; a field is None where the sentence does not say.

    Attributes:
        sentence: exactly as it stands in the report.
        kind: "diagnosis", "type", "grade_pattern", "type_grade", "pattern", "benign", "nuclei", "tumour_extent",
            "tumour_place", "finding", "absence", "background", or the topic of a sentence no slide can confirm.
        concept: what it speaks of: a key of ``world.CONCEPTS``, "benign", or the non-visual topic.
        others: further concepts of the same sentence ("neither a nor b").
        negated: whether it states an absence.
        visual: whether the slide can show it.
        percent: of the tissue, as written.
        template: what the sentence was filled in from.
    """

    sentence: str
    kind: str
    concept: str
    negated: bool = False
    visual: bool = True
    place: str | None = None
    extent: str | None = None
    percent: str | None = None
    tumour: str | None = None
    grade: int | None = None
    pattern: str | None = None
    others: tuple[str, ...] = ()
    template: str = ""


_SubCaptions = list[PaintedSubCaption]


@dataclass(frozen=True)
class Report:
    """A report; on test slides also a second one of the same case, worded only in held-out ways ("" elsewhere)."""

    text: str
    sub_captions: tuple[PaintedSubCaption, ...]
    paraphrase: str = ""
    paraphrase_sub_captions: tuple[PaintedSubCaption, ...] = ()


def write_report(
    plan: CasePlan, measured: Mapping[str, Measured], rng: np.random.Generator, split: str | None = None
) -> Report:
    """Write up one slide: what ``plan`` says of the diagnosis and ``measured`` of everything that has a place.

    Args:
        measured: concept -> what was really painted; a concept that is missing counts as absent.
        split: "train", "val" or "test" (default: the plan's); test reports also get a held-out paraphrase.
    """
    split = plan.split if split is None else split
    if split not in SPLITS:
        raise ConfigError(f"unknown split '{split}': expected one of {', '.join(SPLITS)}")
    text, sub_captions = _compose(_SentenceWriter(plan, measured, rng, held_out=False))
    if split != "test":
        return Report(text, sub_captions)
    return Report(text, sub_captions, *_compose(_SentenceWriter(plan, measured, rng, held_out=True)))


def _compose(writer: "_SentenceWriter") -> tuple[str, tuple[PaintedSubCaption, ...]]:
    """Eight to twelve sub-captions in the order pathologists use, and the text they make."""
    rng = writer.rng
    plan, present = writer.plan, writer.present
    absent = [name for name in FINDINGS if name not in present]
    extras = ["split", "absence", "nonvisual", "nonvisual", "tumour_extent", "tumour_place", "nuclei", "background"]
    if plan.tumour is None:
        extras = ["absence", "absence", "nonvisual", "background"]
    elif not plan.grade:  # of real tissue neither grade nor pattern is known
        extras = ["absence", "nonvisual", "nonvisual", "tumour_extent", "tumour_place", "background"]
    wanted = int(rng.integers(8, 13)) - (1 + len(present) + 2 + 2)
    more = [extras[i] for i in rng.permutation(len(extras))][: max(wanted, 0)]
    opening = writer.diagnosis("split" in more)
    opening += [writer.about_tumour(kind) for kind in ("nuclei", "tumour_extent", "tumour_place") if kind in more]
    body = [writer.finding(present[i]) for i in rng.permutation(len(present))]
    if "background" in more:
        body.append(writer.background())
    denials = writer.absences(absent, 2 + more.count("absence"))
    unseen = writer.non_visual(2 + more.count("nonvisual"))
    before = int(rng.integers(0, 2))
    sections = [unseen[:before], opening, body, denials, unseen[before:]]
    joiner = "\n" if rng.random() < 0.3 else " "
    text = joiner.join(" ".join(s.sentence for s in section) for section in sections if section)
    return text, tuple(sub_caption for section in sections for sub_caption in section)


class _SentenceWriter:
    """Writes single sentences about one slide, each with what it states."""

    def __init__(
        self, plan: CasePlan, measured: Mapping[str, Measured], rng: np.random.Generator, held_out: bool
    ) -> None:
        self.plan, self.measured, self.rng, self.held_out = plan, measured, rng, held_out
        self.present = [name for name in FINDINGS if name in measured and measured[name].present]

    def diagnosis(self, split: bool) -> list[PaintedSubCaption]:
        """Type, grade and pattern in one sentence or two."""
        if self.plan.tumour is None:
            return [self._worded(PaintedSubCaption("", "benign", "benign"), DIAGNOSIS["benign"])]
        if not self.plan.grade:
            return [self.about_tumour("type")]
        ways = (("type", "grade_pattern"), ("type_grade", "pattern"))
        kinds = ways[int(self.rng.integers(2))] if split else ("diagnosis",)
        return [self.about_tumour(kind) for kind in kinds]

    def about_tumour(self, kind: str) -> PaintedSubCaption:
        """One of the kinds of :data:`~pathflip.simulate.phrases.DIAGNOSIS`, true of the plan."""
        plan, tumour = self.plan, self.measured.get("tumour")
        facts = PaintedSubCaption("", kind, "tumour", tumour=plan.tumour, grade=plan.grade, pattern=plan.pattern)
        if tumour is not None:
            facts = replace(facts, place=tumour.place, percent=_nearest_five(tumour.fraction))
        return self._worded(facts, DIAGNOSIS[kind])

    def finding(self, name: str) -> PaintedSubCaption:
        """A finding that is there, with its extent, its place or both."""
        measures = self.measured[name]
        extent, percent = extent_of(measures.fraction), f"{100 * measures.fraction:.1f}"
        facts = PaintedSubCaption("", "finding", name, place=measures.place, extent=extent, percent=percent)
        return self._worded(facts, PRESENCE)

    def background(self) -> PaintedSubCaption:
        """The sentence about the stroma between the tumour."""
        return self._worded(PaintedSubCaption("", "background", "fibrous_stroma"), DIAGNOSIS["background"])

    def absences(self, absent: Sequence[str], number: int) -> list[PaintedSubCaption]:
        """``number`` sentences on things that are not there (on a benign slide, a tumour first)."""
        order = [absent[i] for i in self.rng.permutation(len(absent))]
        if self.plan.tumour is None:
            order = ["tumour", *order]
        denials: list[PaintedSubCaption] = []
        while order and len(denials) < number:
            concept, *order = order
            facts = PaintedSubCaption("", "absence", concept, negated=True, others=tuple(order[:1]))
            sub_caption = self._worded(facts, ABSENCE)
            order = [name for name in order if name not in sub_caption.others]
            denials.append(sub_caption)
        return denials

    def non_visual(self, number: int) -> list[PaintedSubCaption]:
        """``number`` sentences of different topics that the slide cannot confirm."""
        topics = list(NON_VISUAL) if self.plan.tumour else ["history", "specimen", "administration"]
        chosen = [topics[i] for i in self.rng.permutation(len(topics))[:number]]
        sub_captions = (PaintedSubCaption("", topic, topic, visual=False) for topic in chosen)
        return [self._worded(facts, NON_VISUAL[facts.kind]) for facts in sub_captions]

    def _worded(self, facts: PaintedSubCaption, wording: Wording) -> PaintedSubCaption:
        templates = wording.of(self.held_out)
        return filled_in(replace(facts, template=str(self.rng.choice(templates))), self.rng, self.held_out)


def _nearest_five(fraction: float) -> str:
    return str(max(5, 5 * round(20 * fraction)))


_SLOTS_OF = {
    "place": ("place",),
    "extent": ("amount", "degree"),
    "percent": ("percent",),
    "tumour": ("type", "a_type"),
    "grade": ("grade", "a_grade", "nuclear"),
    "pattern": ("pattern", "a_pattern", "arrangement"),
    "others": ("other",),
}


_ALL_CLEAR = ("margin is clear", "margins are clear", "margins are free", "0/", "negative")


def filled_in(facts: PaintedSubCaption, rng: np.random.Generator, held_out: bool = False) -> PaintedSubCaption:
    """Fill the sub-caption's template, and forget the facts that it does not mention."""
    if not facts.visual:
        sentence = facts.template.format(**particulars(rng))
        return replace(facts, sentence=sentence, negated=any(cue in sentence for cue in _ALL_CLEAR))
    silent: dict[str, Any] = {
        field: () if field == "others" else None
        for field, slots in _SLOTS_OF.items()
        if not any(f"{{{slot}}}" in facts.template for slot in slots)
    }
    facts = replace(facts, **silent)
    return replace(facts, sentence=sentence_case(facts.template.format(**_slots(facts, rng, held_out))))


def _slots(facts: PaintedSubCaption, rng: np.random.Generator, held_out: bool) -> dict[str, str]:
    def pick(wording: Wording) -> str:
        return str(rng.choice(wording.of(held_out)))

    slots: dict[str, str] = {}
    if facts.concept in NAMES:
        slots |= agreement(facts.concept, pick(NAMES[facts.concept].wording))
    if facts.others:
        slots["other"] = pick(NAMES[facts.others[0]].wording)
    if facts.extent:
        slots |= {"amount": pick(AMOUNTS[facts.extent]), "degree": pick(DEGREES[facts.extent])}
    if facts.place:
        slots["place"] = pick(PLACES_SAID[facts.place])
    if facts.percent:
        slots["percent"] = facts.percent
    if facts.tumour:
        slots["type"] = pick(TYPES_SAID[facts.tumour])
        slots["a_type"] = article(slots["type"])
    if facts.grade:
        slots |= {"grade": pick(GRADES_SAID[facts.grade]), "nuclear": pick(NUCLEAR[facts.grade])}
        slots["a_grade"] = article(slots["grade"])
    if facts.pattern:
        slots |= {"pattern": pick(PATTERNS_SAID[facts.pattern]), "arrangement": pick(ARRANGEMENTS[facts.pattern])}
        slots["a_pattern"] = article(slots["pattern"])
    return slots


def particulars(rng: np.random.Generator) -> dict[str, str]:
    """Numbers and names for sentences that no slide can confirm: independent of the slide, on purpose."""
    nodes = int(rng.integers(4, 29))
    return {
        "cm": f"{rng.uniform(0.4, 7.5):.1f}",
        "cm2": f"{rng.uniform(0.4, 5.5):.1f}",
        "cm3": f"{rng.uniform(0.3, 2.5):.1f}",
        "mm": f"{rng.uniform(0.5, 9.5):.1f}",
        "n": str(nodes),
        "k": str(int(rng.integers(1, min(nodes, 6)))),
        "k3": str(int(rng.integers(0, 3))),
        "t": str(int(rng.integers(1, 5))),
        "sub": str(rng.choice(("a", "b", "c"))),
        "age": str(int(rng.integers(28, 89))),
        "years": f"{rng.uniform(1, 9):.1f}",
        "person": str(rng.choice(("woman", "man"))),
        "illness": str(rng.choice(("diabetes", "hypertension", "breast cancer", "smoking", "asthma"))),
        "doctor": str(rng.choice(("Hall", "Meyer", "Okafor", "Sato", "Lindqvist"))),
        "percent": str(int(rng.integers(1, 20)) * 5),
        "digit": str(int(rng.integers(0, 10))),
        "hour": str(int(rng.integers(8, 12))),
        "minute": f"{int(rng.integers(0, 60)):02d}",
        "number": f"S-{int(rng.integers(1000, 9999))}",
    }


ERROR_KINDS = ("attribute_swapped", "finding_invented", "finding_omitted", "negation_flipped")


@dataclass(frozen=True)
class PlantedError:
    """One false sentence put into a report, or a true one left out.

    Attributes:
        kind: one of :data:`ERROR_KINDS`.
        concept: what it is about.
        attribute: for a swap, "tumour" (its type), "grade", "pattern", "place" or "extent".
        sentence: the false sentence; None where one was left out.
        original: the true sentence it replaced or that was left out; None where one was invented.
    """

    kind: str
    concept: str
    attribute: str | None
    sentence: str | None
    original: str | None


@dataclass(frozen=True)
class CorruptedReport:
    """A report with errors in it; ``sub_captions`` hold what the false text states, not what is true."""

    text: str
    sub_captions: tuple[PaintedSubCaption, ...]
    errors: tuple[PlantedError, ...]


def corrupt_report(
    report: Report,
    plan: CasePlan,
    measured: Mapping[str, Measured],
    rng: np.random.Generator,
    kinds: Sequence[str] | None = None,
) -> CorruptedReport:
    """Plant errors in ``report.text``: those of ``kinds`` in turn (default: one or two kinds at random).

    Every error hits another sentence, and makes the text false of the slide without contradicting itself. A kind for
    which the report has no sentence left is passed over (an omission needs a finding, for example).
    """
    if kinds is None:
        kinds = [str(kind) for kind in rng.permutation(ERROR_KINDS)[: int(rng.integers(1, 3))]]
    if unknown := set(kinds) - set(ERROR_KINDS):
        raise ConfigError(f"unknown kinds of error {sorted(unknown)}: expected some of {', '.join(ERROR_KINDS)}")
    sub_captions = list(report.sub_captions)
    errors: list[PlantedError] = []
    for kind in kinds:
        touched = {error.sentence for error in errors}
        free = [i for i, s in enumerate(sub_captions) if s.visual and s.sentence not in touched]
        error = _PLANTERS[kind](sub_captions, free, measured, rng)
        if error is not None:
            errors.append(error)
    return CorruptedReport(" ".join(s.sentence for s in sub_captions), tuple(sub_captions), tuple(errors))


def _swap_attribute(
    sub_captions: _SubCaptions, free: Sequence[int], measured: Mapping[str, Measured], rng: np.random.Generator
) -> PlantedError | None:
    choices = [(i, field, values) for i in free for field, values in _wrong_values(sub_captions[i]).items() if values]
    if not choices:
        return None
    where, field, values = choices[int(rng.integers(len(choices)))]
    old = sub_captions[where]
    value = values[int(rng.integers(len(values)))]
    sub_captions[where] = new = filled_in(replace(old, **{field: value}), rng)  # type: ignore[arg-type]
    return PlantedError("attribute_swapped", old.concept, field, new.sentence, old.sentence)


def _wrong_values(sub_caption: PaintedSubCaption) -> dict[str, list[object]]:
    """Values that would make each attribute a sub-caption mentions false."""
    extents = {"focal": ["extensive"], "moderate": ["focal", "extensive"], "extensive": ["focal"]}
    return {
        "tumour": [t for t in TUMOUR_TYPES if sub_caption.tumour and t != sub_caption.tumour],
        "grade": [g for g in GRADES if sub_caption.grade and g != sub_caption.grade],
        "pattern": [p for p in PATTERNS if sub_caption.pattern and p != sub_caption.pattern],
        "place": [*far_places(sub_caption.place)] if sub_caption.place else [],
        "extent": [*extents[sub_caption.extent]] if sub_caption.extent else [],
    }


def _invent(
    sub_captions: _SubCaptions, free: Sequence[int], measured: Mapping[str, Measured], rng: np.random.Generator
) -> PlantedError | None:
    spoken_of = {name for s in sub_captions for name in (s.concept, *s.others)}
    benign = any(s.kind == "benign" for s in sub_captions)
    absent = [
        name
        for name in FINDINGS
        if name not in spoken_of and not (name in measured and measured[name].present)
        if not (benign and name in TUMOUR_ONLY)
    ]
    if not absent:
        return None
    extent = str(rng.choice(("focal", "moderate", "extensive")))
    place = str(rng.choice(list(PLACES_SAID)))
    templates = [template for template in PRESENCE.seen if "{percent}" not in template]
    facts = PaintedSubCaption("", "finding", str(rng.choice(absent)), place=place, extent=extent)
    new = filled_in(replace(facts, template=str(rng.choice(templates))), rng)
    after = [i for i, s in enumerate(sub_captions) if s.kind == "finding"] or list(free) or [-1]
    sub_captions.insert(after[int(rng.integers(len(after)))] + 1, new)
    return PlantedError("finding_invented", new.concept, None, new.sentence, None)


def _omit(
    sub_captions: _SubCaptions, free: Sequence[int], measured: Mapping[str, Measured], rng: np.random.Generator
) -> PlantedError | None:
    findings = [i for i in free if sub_captions[i].kind == "finding" and measured[sub_captions[i].concept].present]
    if not findings:
        return None
    old = sub_captions.pop(findings[int(rng.integers(len(findings)))])
    return PlantedError("finding_omitted", old.concept, None, None, old.sentence)


def _flip_negation(
    sub_captions: _SubCaptions, free: Sequence[int], measured: Mapping[str, Measured], rng: np.random.Generator
) -> PlantedError | None:
    choices = [
        i
        for i in free
        if sub_captions[i].kind in ("finding", "absence") and sub_captions[i].concept in FINDINGS
        if not sub_captions[i].others
    ]
    if not choices:
        return None
    where = choices[int(rng.integers(len(choices)))]
    old = sub_captions[where]
    denials = [template for template in ABSENCE.seen if "{other}" not in template]
    templates = PRESENCE_PLAIN.seen if old.negated else denials
    kind = "finding" if old.negated else "absence"
    facts = PaintedSubCaption("", kind, old.concept, negated=not old.negated, template=str(rng.choice(templates)))
    sub_captions[where] = new = filled_in(facts, rng)
    return PlantedError("negation_flipped", old.concept, None, new.sentence, old.sentence)


_Planter = Callable[[_SubCaptions, Sequence[int], Mapping[str, Measured], np.random.Generator], PlantedError | None]
_PLANTERS: dict[str, _Planter] = dict(zip(ERROR_KINDS, (_swap_attribute, _invent, _omit, _flip_negation), strict=True))
