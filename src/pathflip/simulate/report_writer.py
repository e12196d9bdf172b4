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

__all__ = ["ERROR_KINDS", "CorruptedReport", "PlantedError", "Report", "Statement", "corrupt_report", "write_report"]


@dataclass(frozen=True)
class Statement:
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


@dataclass(frozen=True)
class Report:
    """A report; on test slides also a second one of the same case, worded only in held-out ways ("" elsewhere)."""

    text: str
    statements: tuple[Statement, ...]
    paraphrase: str = ""
    paraphrase_statements: tuple[Statement, ...] = ()


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
    text, statements = _compose(_Scribe(plan, measured, rng, held_out=False))
    if split != "test":
        return Report(text, statements)
    return Report(text, statements, *_compose(_Scribe(plan, measured, rng, held_out=True)))


def _compose(scribe: "_Scribe") -> tuple[str, tuple[Statement, ...]]:
    """Eight to twelve statements in the order pathologists use, and the text they make."""
    rng = scribe.rng
    plan, present = scribe.plan, scribe.present
    absent = [name for name in FINDINGS if name not in present]
    extras = ["split", "absence", "nonvisual", "nonvisual", "tumour_extent", "tumour_place", "nuclei", "background"]
    if plan.tumour is None:
        extras = ["absence", "absence", "nonvisual", "background"]
    wanted = int(rng.integers(8, 13)) - (1 + len(present) + 2 + 2)
    more = [extras[i] for i in rng.permutation(len(extras))][: max(wanted, 0)]
    opening = scribe.diagnosis("split" in more)
    opening += [scribe.about_tumour(kind) for kind in ("nuclei", "tumour_extent", "tumour_place") if kind in more]
    body = [scribe.finding(present[i]) for i in rng.permutation(len(present))]
    if "background" in more:
        body.append(scribe.background())
    denials = scribe.absences(absent, 2 + more.count("absence"))
    unseen = scribe.non_visual(2 + more.count("nonvisual"))
    before = int(rng.integers(0, 2))
    sections = [unseen[:before], opening, body, denials, unseen[before:]]
    joiner = "\n" if rng.random() < 0.3 else " "
    text = joiner.join(" ".join(s.sentence for s in section) for section in sections if section)
    return text, tuple(statement for section in sections for statement in section)


class _Scribe:
    """Words single statements about one slide."""

    def __init__(
        self, plan: CasePlan, measured: Mapping[str, Measured], rng: np.random.Generator, held_out: bool
    ) -> None:
        self.plan, self.measured, self.rng, self.held_out = plan, measured, rng, held_out
        self.present = [name for name in FINDINGS if name in measured and measured[name].present]

    def diagnosis(self, split: bool) -> list[Statement]:
        """Type, grade and pattern in one sentence or two."""
        if self.plan.tumour is None:
            return [self._speak(Statement("", "benign", "benign"), DIAGNOSIS["benign"])]
        ways = (("type", "grade_pattern"), ("type_grade", "pattern"))
        kinds = ways[int(self.rng.integers(2))] if split else ("diagnosis",)
        return [self.about_tumour(kind) for kind in kinds]

    def about_tumour(self, kind: str) -> Statement:
        """One of the kinds of :data:`~pathflip.simulate.phrases.DIAGNOSIS`, true of the plan."""
        plan, tumour = self.plan, self.measured.get("tumour")
        facts = Statement("", kind, "tumour", tumour=plan.tumour, grade=plan.grade, pattern=plan.pattern)
        if tumour is not None:
            facts = replace(facts, place=tumour.place, percent=_nearest_five(tumour.fraction))
        return self._speak(facts, DIAGNOSIS[kind])

    def finding(self, name: str) -> Statement:
        """A finding that is there, with its extent, its place or both."""
        seen = self.measured[name]
        percent = f"{100 * seen.fraction:.1f}"
        facts = Statement("", "finding", name, place=seen.place, extent=extent_of(seen.fraction), percent=percent)
        return self._speak(facts, PRESENCE)

    def background(self) -> Statement:
        """What lies between."""
        return self._speak(Statement("", "background", "fibrous_stroma"), DIAGNOSIS["background"])

    def absences(self, absent: Sequence[str], number: int) -> list[Statement]:
        """``number`` sentences on things that are not there (on a benign slide, a tumour first)."""
        order = [absent[i] for i in self.rng.permutation(len(absent))]
        if self.plan.tumour is None:
            order = ["tumour", *order]
        said: list[Statement] = []
        while order and len(said) < number:
            concept, *order = order
            facts = Statement("", "absence", concept, negated=True, others=tuple(order[:1]))
            statement = self._speak(facts, ABSENCE)
            order = [name for name in order if name not in statement.others]
            said.append(statement)
        return said

    def non_visual(self, number: int) -> list[Statement]:
        """``number`` sentences of different topics that the slide cannot confirm."""
        topics = list(NON_VISUAL) if self.plan.tumour else ["history", "specimen", "administration"]
        chosen = [topics[i] for i in self.rng.permutation(len(topics))[:number]]
        statements = (Statement("", topic, topic, visual=False) for topic in chosen)
        return [self._speak(facts, NON_VISUAL[facts.kind]) for facts in statements]

    def _speak(self, facts: Statement, wording: Wording) -> Statement:
        templates = wording.of(self.held_out)
        return _spoken(replace(facts, template=str(self.rng.choice(templates))), self.rng, self.held_out)


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


def _spoken(facts: Statement, rng: np.random.Generator, held_out: bool = False) -> Statement:
    """Fill the statement's template, and forget the facts that it does not mention."""
    if not facts.visual:
        sentence = facts.template.format(**_particulars(rng))
        return replace(facts, sentence=sentence, negated=any(cue in sentence for cue in _ALL_CLEAR))
    silent: dict[str, Any] = {
        field: () if field == "others" else None
        for field, slots in _SLOTS_OF.items()
        if not any(f"{{{slot}}}" in facts.template for slot in slots)
    }
    facts = replace(facts, **silent)
    return replace(facts, sentence=sentence_case(facts.template.format(**_slots(facts, rng, held_out))))


def _slots(facts: Statement, rng: np.random.Generator, held_out: bool) -> dict[str, str]:
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


def _particulars(rng: np.random.Generator) -> dict[str, str]:
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
    """One lie put into a report.

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
    """A report with errors in it; ``statements`` hold what the false text states, not what is true."""

    text: str
    statements: tuple[Statement, ...]
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
    statements = list(report.statements)
    errors: list[PlantedError] = []
    for kind in kinds:
        touched = {error.sentence for error in errors}
        free = [i for i, s in enumerate(statements) if s.visual and s.sentence not in touched]
        error = _PLANTERS[kind](statements, free, measured, rng)
        if error is not None:
            errors.append(error)
    return CorruptedReport(" ".join(s.sentence for s in statements), tuple(statements), tuple(errors))


def _swap_attribute(
    statements: list[Statement], free: Sequence[int], measured: Mapping[str, Measured], rng: np.random.Generator
) -> PlantedError | None:
    choices = [(i, field, values) for i in free for field, values in _wrong_values(statements[i]).items() if values]
    if not choices:
        return None
    where, field, values = choices[int(rng.integers(len(choices)))]
    old = statements[where]
    value = values[int(rng.integers(len(values)))]
    statements[where] = new = _spoken(replace(old, **{field: value}), rng)  # type: ignore[arg-type]
    return PlantedError("attribute_swapped", old.concept, field, new.sentence, old.sentence)


def _wrong_values(statement: Statement) -> dict[str, list[object]]:
    """Values that would make each attribute a statement mentions false."""
    extents = {"focal": ["extensive"], "moderate": ["focal", "extensive"], "extensive": ["focal"]}
    return {
        "tumour": [t for t in TUMOUR_TYPES if statement.tumour and t != statement.tumour],
        "grade": [g for g in GRADES if statement.grade and g != statement.grade],
        "pattern": [p for p in PATTERNS if statement.pattern and p != statement.pattern],
        "place": [*far_places(statement.place)] if statement.place else [],
        "extent": [*extents[statement.extent]] if statement.extent else [],
    }


def _invent(
    statements: list[Statement], free: Sequence[int], measured: Mapping[str, Measured], rng: np.random.Generator
) -> PlantedError | None:
    spoken_of = {name for s in statements for name in (s.concept, *s.others)}
    benign = any(s.kind == "benign" for s in statements)
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
    facts = Statement("", "finding", str(rng.choice(absent)), place=place, extent=extent)
    new = _spoken(replace(facts, template=str(rng.choice(templates))), rng)
    after = [i for i, s in enumerate(statements) if s.kind == "finding"] or list(free) or [-1]
    statements.insert(after[int(rng.integers(len(after)))] + 1, new)
    return PlantedError("finding_invented", new.concept, None, new.sentence, None)


def _omit(
    statements: list[Statement], free: Sequence[int], measured: Mapping[str, Measured], rng: np.random.Generator
) -> PlantedError | None:
    findings = [i for i in free if statements[i].kind == "finding" and measured[statements[i].concept].present]
    if not findings:
        return None
    old = statements.pop(findings[int(rng.integers(len(findings)))])
    return PlantedError("finding_omitted", old.concept, None, None, old.sentence)


def _flip_negation(
    statements: list[Statement], free: Sequence[int], measured: Mapping[str, Measured], rng: np.random.Generator
) -> PlantedError | None:
    choices = [
        i
        for i in free
        if statements[i].kind in ("finding", "absence") and statements[i].concept in FINDINGS
        if not statements[i].others
    ]
    if not choices:
        return None
    where = choices[int(rng.integers(len(choices)))]
    old = statements[where]
    denials = [template for template in ABSENCE.seen if "{other}" not in template]
    templates = PRESENCE_PLAIN.seen if old.negated else denials
    kind = "finding" if old.negated else "absence"
    facts = Statement("", kind, old.concept, negated=not old.negated, template=str(rng.choice(templates)))
    statements[where] = new = _spoken(facts, rng)
    return PlantedError("negation_flipped", old.concept, None, new.sentence, old.sentence)


_Planter = Callable[[list[Statement], Sequence[int], Mapping[str, Measured], np.random.Generator], PlantedError | None]
_PLANTERS: dict[str, _Planter] = dict(zip(ERROR_KINDS, (_swap_attribute, _invent, _omit, _flip_negation), strict=True))
