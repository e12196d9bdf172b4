"""Questions about painted slides: multiple choice with the tissue that holds the answer, and open yes-or-no ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pathflip.simulate.phrases import (
    ARRANGEMENTS,
    GRADES_SAID,
    NAMES,
    PLACES_SAID,
    TYPES_SAID,
    agreement,
    sentence_case,
)
from pathflip.simulate.world import (
    EXTENTS,
    FINDINGS,
    TUMOUR_TYPES,
    CasePlan,
    Measured,
    extent_of,
    far_places,
)
from pathflip.text.refusals import CANNOT_TELL

__all__ = ["OpenQuestion", "PaintedQuestion", "ask_presence", "write_presence_questions", "write_questions"]


@dataclass(frozen=True)
class PaintedQuestion:
    """A question on one slide.

    Attributes:
        options: four, to be shown as A to D.
        answer: the letter of the right one.
        category: "malignancy", "type", "grade", "pattern", "presence", "absence", "location", "extent", "largest",
            "count", "not visible" or "absent tissue".
        needs_slide: the right answer differs between slides (it does not where no slide could ever tell).
        answerable: False where the right answer is :data:`CANNOT_TELL`.
        evidence: the concept whose tissue shows the answer (a key of ``world.CONCEPTS``); None where none does.
    """

    slide_id: str
    question: str
    options: tuple[str, str, str, str]
    answer: str
    category: str
    needs_slide: bool = True
    answerable: bool = True
    evidence: str | None = None

    @property
    def answer_text(self) -> str:
        """The right option itself."""
        return self.options["ABCD".index(self.answer)]


@dataclass(frozen=True)
class OpenQuestion:
    """A question that is answered in words: "Is there necrosis?", "Yes, necrosis is present."

    Attributes:
        concept: the finding it asks for.
        present: whether the slide shows it.
    """

    slide_id: str
    question: str
    answer: str
    concept: str
    present: bool


_PRESENCE_ASKED = (
    "{Is} there {name}?",
    "{Is} there any {name}?",
    "{Is} {name} present?",
    "{Is} {name} seen?",
    "Does the slide show {name}?",
    "Can {name} be seen on this slide?",
)


def ask_presence(concept: str, number: int) -> str:
    """The ``number``-th way to ask whether a finding is there; ways and names take turns."""
    wording = NAMES[concept].wording.seen
    words = agreement(concept, wording[number // len(_PRESENCE_ASKED) % len(wording)])
    words["Is"] = words["is"].capitalize()
    return _PRESENCE_ASKED[number % len(_PRESENCE_ASKED)].format(**words)


def write_presence_questions(
    plan: CasePlan, measured: Mapping[str, Measured], rng: np.random.Generator
) -> list[OpenQuestion]:
    """Whether a finding is there, asked openly: for one that is, and one that is not."""
    present = [name for name in FINDINGS if name in measured and measured[name].present]
    absent = [name for name in FINDINGS if name not in present]
    questions = []
    for names, there in ((present, True), (absent, False)):
        if names:
            concept = names[int(rng.integers(len(names)))]
            wording = NAMES[concept].wording.seen
            words = agreement(concept, wording[int(rng.integers(len(wording)))])
            words["Is"] = words["is"].capitalize()
            question = _PRESENCE_ASKED[int(rng.integers(len(_PRESENCE_ASKED)))].format(**words)
            answer = f"{'Yes' if there else 'No'}, {words['name']} {words['is']} {'present' if there else 'not seen'}."
            questions.append(OpenQuestion(plan.slide_id, question, answer, concept, there))
    return questions


def write_questions(
    plan: CasePlan, measured: Mapping[str, Measured], rng: np.random.Generator
) -> list[PaintedQuestion]:
    """All questions of one slide, about ten, among them two or three whose answer is :data:`CANNOT_TELL`.

    That option also stands, wrong, in most answerable questions, so its being there tells nothing.
    """
    asker = _Asker(plan, measured, rng)
    questions = [asker.malignancy()]
    if plan.tumour is not None:
        questions.append(asker.type())
        questions += [asker.grade(), asker.pattern()] if plan.grade else []
    if asker.present:
        questions += [asker.presence(), asker.location(), asker.extent(), asker.largest()]
    if len(asker.present) >= 3:
        questions.append(asker.absence())
    questions += [asker.count(), asker.not_visible(), asker.absent_tissue()]
    return [question for question in questions if question is not None]


_NOT_VISIBLE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Are the surgical resection margins free of tumour?", ("yes, all of them", "no, one is involved", "no, all are")),
    ("How many lymph nodes contain metastasis?", ("none", "one", "four")),
    ("What is the pathological N stage?", ("N0", "N1", "N2")),
    ("Which disease is part of the clinical history?", ("diabetes", "hypertension", "asthma")),
    ("What was the size of the specimen as received?", ("1.5 cm", "3.2 cm", "6.0 cm")),
    ("What is the oestrogen receptor status?", ("negative", "weakly positive", "strongly positive")),
    ("How old is the patient?", ("34 years", "57 years", "81 years")),
)
_CANNOT_TELL_FRACTION = 0.75
"""Of answerable questions that offer CANNOT_TELL as a wrong option: makes it right about as often as any other."""


class _Asker:
    """Words single questions on one slide."""

    def __init__(self, plan: CasePlan, measured: Mapping[str, Measured], rng: np.random.Generator) -> None:
        self.plan, self.measured, self.rng = plan, measured, rng
        self.present = [name for name in FINDINGS if name in measured and measured[name].present]
        self.absent = [name for name in FINDINGS if name not in self.present]

    def malignancy(self) -> PaintedQuestion:
        right, wrong = "a malignant tumour", "only benign tissue"
        if self.plan.tumour is None:
            right, wrong = wrong, right
        others = [wrong, "no tissue at all", "bone marrow"]
        evidence = "tumour" if self.plan.tumour else None
        return self._ask(
            self._pick(("What does this slide show?", "What is on the slide?")), right, others, "malignancy", evidence
        )

    def type(self) -> PaintedQuestion:
        right = TYPES_SAID[str(self.plan.tumour)].seen[0]
        others = self._some([TYPES_SAID[t].seen[0] for t in TUMOUR_TYPES if t != self.plan.tumour], 3)
        question = self._pick(
            ("What is the tumour type?", "Which tumour is this?", "What is the histological diagnosis?")
        )
        return self._ask(question, right, others, "type", "tumour")

    def grade(self) -> PaintedQuestion:
        grades = [f"grade {grade}" for grade in GRADES_SAID]
        right = grades.pop(self.plan.grade - 1)
        question = self._pick(("What is the grade of the tumour?", "How is the tumour graded?"))
        return self._ask(question, right, [*grades, CANNOT_TELL], "grade", "tumour")

    def pattern(self) -> PaintedQuestion:
        right = ARRANGEMENTS[str(self.plan.pattern)].seen[0]
        others = [wording.seen[0] for name, wording in ARRANGEMENTS.items() if name != self.plan.pattern]
        question = self._pick(("In which pattern does the tumour grow?", "How are the tumour cells arranged?"))
        return self._ask(question, right, others, "pattern", "tumour")

    def presence(self) -> PaintedQuestion:
        name = self._one(self.present)
        question = self._pick(("Which of these is present on the slide?", "Which finding does the slide show?"))
        return self._ask(question, self._said(name), self._all_said(self._some(self.absent, 3)), "presence", name)

    def absence(self) -> PaintedQuestion:
        """The one that is not there; its evidence is nowhere."""
        question = self._pick(("Which of these is absent from the slide?", "Which finding is not seen on the slide?"))
        others = self._all_said(self._some(self.present, 3))
        return self._ask(question, self._said(self._one(self.absent)), others, "absence", None)

    def location(self) -> PaintedQuestion:
        """Where a finding lies; the wrong places are far from the right one."""
        single = [name for name in self.present if far_places(self.measured[name].place)] or self.present
        name = self._one(single)
        place = self.measured[name].place
        far = self._some(far_places(place) or ("upper left", "central", "lower right"), 3)
        question = self._where(name)
        return self._ask(question, _put(place), [_put(other) for other in far], "location", name)

    def extent(self) -> PaintedQuestion:
        name = self._one(self.present)
        words = [word for _, word in EXTENTS]
        right = words.pop(words.index(extent_of(self.measured[name].fraction)))
        return self._ask(f"How extensive {self._be(name)}?", right, [*words, CANNOT_TELL], "extent", name)

    def largest(self) -> PaintedQuestion:
        """Of the findings there (and absent ones to make four), which covers most."""
        order = sorted(self.present, key=lambda name: -self.measured[name].fraction)
        others = self._all_said([*order[1:4], *self._some(self.absent, 3)][:3])
        question = self._pick(("Which of these covers the largest area?", "Which of these is the most extensive?"))
        return self._ask(question, self._said(order[0]), others, "largest", order[0])

    def count(self) -> PaintedQuestion:
        """How many of three findings are there; about as often each number the slide allows."""
        number = int(self.rng.integers(0, min(3, len(self.present)) + 1))
        findings = [*self._some(self.present, number), *self._some(self.absent, 3 - number)]
        listed = [self._said(findings[i]) for i in self.rng.permutation(3)]
        question = f"How many of these are present: {listed[0]}, {listed[1]}, {listed[2]}?"
        words = ["none", "one", "two", "three"]
        return self._ask(question, words.pop(number), words, "count", None, offer_cannot_tell=False)

    def not_visible(self) -> PaintedQuestion:
        question, values = _NOT_VISIBLE[int(self.rng.integers(len(_NOT_VISIBLE)))]
        return self._ask(question, CANNOT_TELL, values, "not visible", None)

    def absent_tissue(self) -> PaintedQuestion:
        """Asks where or how much something is that is not there."""
        name = self._one(self.absent)
        if self.rng.random() < 0.5:
            wrong = [word for _, word in EXTENTS]
            return self._ask(f"How extensive {self._be(name)}?", CANNOT_TELL, wrong, "absent tissue", None)
        wrong = [_put(place) for place in self._some(list(PLACES_SAID), 3)]
        return self._ask(self._where(name), CANNOT_TELL, wrong, "absent tissue", None)

    def _ask(
        self,
        question: str,
        right: str,
        wrong: Sequence[str],
        category: str,
        evidence: str | None,
        offer_cannot_tell: bool = True,
    ) -> PaintedQuestion:
        """Shuffle the options; put CANNOT_TELL in a wrong one's stead often enough."""
        options = [right, *wrong]
        if offer_cannot_tell and CANNOT_TELL not in options and self.rng.random() < _CANNOT_TELL_FRACTION:
            options[-1] = CANNOT_TELL
        order = [int(i) for i in self.rng.permutation(4)]
        a, b, c, d = (options[i] for i in order)
        return PaintedQuestion(
            slide_id=self.plan.slide_id,
            question=question,
            options=(a, b, c, d),
            answer="ABCD"[order.index(0)],
            category=category,
            needs_slide=category != "not visible",
            answerable=right != CANNOT_TELL,
            evidence=evidence,
        )

    def _where(self, name: str) -> str:
        be = self._be(name)
        return self._pick((f"Where in the tissue {be}?", f"Where {be} located?", f"In which part of the tissue {be}?"))

    def _be(self, name: str) -> str:
        words = agreement(name, self._said(name))
        return f"{words['is']} the {words['name']}"

    def _said(self, name: str) -> str:
        return NAMES[name].wording.seen[0]

    def _all_said(self, names: Iterable[str]) -> list[str]:
        return [self._said(name) for name in names]

    def _pick(self, phrases: Sequence[str]) -> str:
        return sentence_case(phrases[int(self.rng.integers(len(phrases)))])

    def _one(self, names: Sequence[str]) -> str:
        return names[int(self.rng.integers(len(names)))]

    def _some(self, names: Sequence[str], number: int) -> list[str]:
        return [names[i] for i in self.rng.permutation(len(names))[:number]]


def _put(place: str) -> str:
    return PLACES_SAID[place].seen[0]
