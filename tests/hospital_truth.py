"""Reports of painted cases taken apart by the package and held against what they really state."""

import re
from collections import Counter
from dataclasses import dataclass, field

from pathflip.simulate.case_reports import CaseReport, CaseSubCaption
from pathflip.text.case_tables import findings_on
from pathflip.text.reports import read_report
from pathflip.types import CaseSlide, SubCaption

__all__ = ["Outcomes", "held_against_truth"]


@dataclass
class Outcomes:
    """What became of the sub-captions of some reports, counted, and the sentences that went wrong.

    "right": decided with the right polarity; "lost": visible and not decided; "opposite": decided with the other
    polarity; "hidden": not visible and not decided; "leaked": not visible, yet decided; "invented": decided, and
    nothing that the report says (a heading, a name).
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str]] = field(default_factory=list)

    def add(self, outcome: str, sentence: str) -> None:
        self.counts[outcome] += 1
        if outcome not in ("right", "hidden"):
            self.wrong.append((outcome, sentence))

    @property
    def recovered(self) -> float:
        """Of visible sub-captions, the fraction that come out right."""
        visible = sum(self.counts[name] for name in ("right", "lost", "opposite"))
        return self.counts["right"] / visible if visible else 1.0


def held_against_truth(case: CaseReport, outcomes: Outcomes) -> None:
    """Take a case's report apart and count what became of each of its sub-captions."""
    report = read_report(case.text)
    slides = [CaseSlide(one.slide, one.part or None) for one in case.slides]
    sub_captions = findings_on(report.all_sub_captions, report.parts, slides)
    end: dict[str, int] = {}
    places: list[tuple[int, int]] = []
    for sub_caption in case.sub_captions:
        pattern = re.compile(r"\s+".join(map(re.escape, sub_caption.sentence.split())))
        match = pattern.search(report.text, end.get(sub_caption.sentence, 0)) or pattern.search(report.text)
        assert match is not None, (sub_caption.sentence, report.text)
        end[sub_caption.sentence] = match.end()
        places.append(match.span())
        own = [one for one in sub_captions if _overlaps(one, *match.span())]
        outcomes.add(_outcome(sub_caption, own), sub_caption.sentence)
    for one in sub_captions:
        if one.decided and not any(_overlaps(one, *place) for place in places):
            outcomes.add("invented", one.text)


def _overlaps(one: SubCaption, start: int, stop: int) -> bool:
    """Whether more than half of a sub-caption lies in a stretch of the report."""
    assert one.place is not None
    first, last = one.place
    return 2 * (min(last, stop) - max(first, start)) > last - first


def _outcome(sub_caption: CaseSubCaption, sub_captions: list[SubCaption]) -> str:
    decided = {one.polarity for one in sub_captions if one.decided}
    if not sub_caption.visual:
        return "leaked" if decided else "hidden"
    expected = "denied" if sub_caption.negated else "affirmed"
    if decided - {expected}:
        return "opposite"
    return "right" if decided else "lost"
