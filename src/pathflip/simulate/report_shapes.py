"""The shapes a painted case's report comes in: under headings, as a form, as prose, German, HTML, without line ends.

What is said is handed in as parts with their sub-captions; each shape words and orders it, adds what stands around
findings in hospitals, and gives back the text with what each sentence of it states.
"""

import html
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pathflip.simulate.german_report import german_non_visual, german_sentence
from pathflip.simulate.phrases import NAMES, sentence_case
from pathflip.simulate.report_writer import PaintedSubCaption, particulars
from pathflip.simulate.synoptic_lines import BOXES, synoptic_lines, unanswered_line
from pathflip.simulate.world import FINDINGS

__all__ = ["SHAPES", "Part", "ReportSentence", "ReportText", "shaped"]

_DIAGNOSIS_KINDS = ("diagnosis", "type", "grade_pattern", "type_grade", "pattern", "benign")
_SITES = (
    "soft tissue, left",
    "soft tissue, right",
    "tissue, deep",
    "tissue, superficial",
    "main lesion",
    "second lesion",
)
_PROCEDURES = ("excision", "biopsy", "resection")
_COLUMNS = 96


@dataclass(frozen=True)
class Part:
    """A part of a case: its label ("" where the report has no parts), its slides, what is said of them."""

    label: str
    slides: tuple[str, ...]
    sub_captions: tuple[PaintedSubCaption, ...]

    def of_kind(self, *kinds: str) -> list[PaintedSubCaption]:
        """Its sub-captions of some kinds, in order."""
        return [one for one in self.sub_captions if one.kind in kinds]

    @property
    def visual(self) -> list[PaintedSubCaption]:
        """What a slide can show, but the diagnosis."""
        return [one for one in self.sub_captions if one.visual and one.kind not in _DIAGNOSIS_KINDS]


@dataclass(frozen=True)
class ReportSentence:
    """One sentence or line of a report: its words, what it states, its part, its language."""

    sentence: str
    facts: PaintedSubCaption
    part: str = ""
    language: str = "en"


@dataclass(frozen=True)
class ReportText:
    """A whole report and all that is said in it."""

    text: str
    sentences: tuple[ReportSentence, ...]


@dataclass
class _Page:
    """A report being written: lines, and what they state."""

    lines: list[str] = field(default_factory=list)
    sentences: list[ReportSentence] = field(default_factory=list)

    def add(self, *lines: str) -> None:
        self.lines += lines

    def heading(self, words: str, text: str = "") -> None:
        """A heading with an empty line before it; with ``text``, on one line with a colon."""
        self.add("", f"{words}: {text}" if text else words)

    def tell(self, sub_captions: Iterable[PaintedSubCaption], part: str = "", language: str = "en") -> str:
        """Note what sub-captions say; gives back their sentences as one stretch of text."""
        noted = [ReportSentence(one.sentence, one, part, language) for one in sub_captions]
        self.sentences += noted
        return " ".join(one.sentence for one in noted)

    def report(self) -> ReportText:
        return ReportText("\n".join(self.lines).strip() + "\n", tuple(self.sentences))


def shaped(shape: str, parts: Sequence[Part], accession: str, rng: np.random.Generator) -> ReportText:
    """The report of a case in one of :data:`SHAPES`."""
    return SHAPES[shape](parts, accession, rng)


# --- Under headings --------------------------------------------------------------------------------------------------


def _sections(parts: Sequence[Part], accession: str, rng: np.random.Generator) -> ReportText:
    """History, gross description, microscopy, stains, diagnosis, comment; a line a part where there are parts."""
    page = _Page()
    page.add("NORTHFIELD GENERAL HOSPITAL, DEPARTMENT OF PATHOLOGY", f"Accession: {accession}")
    page.heading("CLINICAL HISTORY")
    page.add(page.tell([*_all_of(parts, "history"), _earlier_biopsy(parts, rng)]))
    titles = _titles(parts, rng)
    if titles:
        page.heading("SPECIMENS")
        page.add(*(f"{label}. {sentence_case(title)}" for label, title in titles.items()))
    page.heading("GROSS DESCRIPTION")
    for part in parts:
        page.add(_marked(part, page.tell([*part.of_kind("specimen"), _cut_surface(rng)])))
    page.heading("MICROSCOPIC DESCRIPTION")
    wrapped = rng.random() < 0.5
    for part in parts:
        body = _marked(part, page.tell(part.visual, part.label))
        page.add(*(textwrap.wrap(body, _COLUMNS, break_on_hyphens=False) if wrapped else [body]))
    if stains := _all_of(parts, "receptors"):
        page.heading("IMMUNOHISTOCHEMISTRY")
        page.add(page.tell(stains))
    page.heading("FINAL DIAGNOSIS")
    for part in parts:
        if part.label:
            page.add(f"{part.label}. {titles[part.label].upper()}:")
        for one in part.of_kind(*_DIAGNOSIS_KINDS, "margins", "nodes", "stage"):
            page.add(f"   - {page.tell([one], part.label)}")
    if remarks := _all_of(parts, "administration"):
        page.heading("COMMENT")
        page.add(page.tell(remarks))
    page.add("", f"Signed: Dr. {particulars(rng)['doctor']}")
    return page.report()


def _all_of(parts: Sequence[Part], kind: str) -> list[PaintedSubCaption]:
    """The sub-captions of a kind, of all parts; one of each sentence."""
    return list({one.sentence: one for part in parts for one in part.of_kind(kind)}.values())


def _marked(part: Part, text: str) -> str:
    return f"{part.label}. {text}" if part.label else text


def _titles(parts: Sequence[Part], rng: np.random.Generator) -> dict[str, str]:
    """What was sent, by part; nothing where the report has no parts."""
    sites, procedure = rng.permutation(_SITES), str(rng.choice(_PROCEDURES))
    return {part.label: f"{site}, {procedure}" for part, site in zip(parts, sites, strict=False) if part.label}


def _earlier_biopsy(parts: Sequence[Part], rng: np.random.Generator) -> PaintedSubCaption:
    """Findings of another time: some that the slides lack."""
    spoken_of = {one.concept for part in parts for one in part.sub_captions}
    others = [name for name in FINDINGS if name not in spoken_of]
    name = NAMES[others[int(rng.integers(len(others)))]].wording.seen[0]
    template = str(rng.choice(("An earlier biopsy showed {}.", "Known {} on a biopsy elsewhere.", "Rule out {}.")))
    return PaintedSubCaption(template.format(name), "history", "history", visual=False)


def _cut_surface(rng: np.random.Generator) -> PaintedSubCaption:
    """What the naked eye saw."""
    look = str(rng.choice(("haemorrhagic", "grey-white and firm", "necrotic", "cystic", "fatty")))
    return PaintedSubCaption(f"On sectioning the cut surface is {look}.", "specimen", "specimen", visual=False)


# --- Forms -----------------------------------------------------------------------------------------------------------


def _synoptic(parts: Sequence[Part], accession: str, rng: np.random.Generator) -> ReportText:
    """A form: a line a question, with tick boxes or a value."""
    page = _Page()
    page.add("SYNOPTIC REPORT", f"Accession: {accession}")
    page.add(f"Clinical history: {page.tell([*_all_of(parts, 'history'), _earlier_biopsy(parts, rng)])}", "")
    titles = _titles(parts, rng)
    style = BOXES[int(rng.integers(len(BOXES)))]
    boxes = style if rng.random() < 0.6 else None
    for part in parts:
        if part.label:
            page.add(f"Specimen {part.label}: {sentence_case(titles[part.label])}")
        for one in part.sub_captions:
            if one.kind not in ("history", "administration"):
                page.add(*(page.tell([line], part.label) for line in synoptic_lines(one, boxes, rng)))
        spoken_of = {name for one in part.sub_captions for name in (one.concept, *one.others)}
        open_names = [name for name in FINDINGS if name not in spoken_of]
        page.add(page.tell([unanswered_line(open_names, style, rng)], part.label), "")
    if remarks := _all_of(parts, "administration"):
        page.add(f"Comment: {page.tell(remarks)}")
    return page.report()


# --- Prose -----------------------------------------------------------------------------------------------------------


def _prose(parts: Sequence[Part], accession: str, rng: np.random.Generator) -> ReportText:
    """One paragraph, or one a part."""
    page = _Page()
    words = str(rng.choice(("Part", "Specimen")))
    for part in parts:
        text = page.tell(part.sub_captions, part.label)
        page.add(f"{words} {part.label}: {text}" if part.label else text)
    return page.report()


# --- German ----------------------------------------------------------------------------------------------------------


def _german(parts: Sequence[Part], accession: str, rng: np.random.Generator) -> ReportText:
    """The sections of a German report."""
    page = _Page()
    page.add("Institut für Pathologie", f"Eingangsnummer: {accession}")
    page.heading("Klinische Angaben")
    page.add(page.tell(german_non_visual(_all_of(parts, "history"), rng), language="de") or "Keine Angaben.")
    page.heading("Makroskopie")
    for part in parts:
        page.add(
            _marked(part, page.tell(german_non_visual(part.of_kind("specimen"), rng), language="de") or "Ein Exzisat.")
        )
    page.heading("Mikroskopie")
    for part in parts:
        sentences = [line for one in part.visual for line in german_sentence(one, rng)]
        page.add(_marked(part, page.tell(sentences, part.label, "de")))
    if stains := _all_of(parts, "receptors"):
        page.heading("Immunhistochemie")
        page.add(page.tell(german_non_visual(stains, rng), language="de"))
    page.heading(str(rng.choice(("Diagnose", "Beurteilung"))))
    for part in parts:
        diagnosis = _whole_diagnosis(part)
        noted = [line for one in diagnosis for line in german_sentence(one, rng)]
        noted += german_non_visual(part.of_kind("margins", "nodes", "stage"), rng)
        page.add(_marked(part, page.tell(noted, part.label, "de")))
    if remarks := _all_of(parts, "administration"):
        page.heading("Anmerkung")
        page.add(page.tell(german_non_visual(remarks, rng), language="de"))
    return page.report()


def _whole_diagnosis(part: Part) -> list[PaintedSubCaption]:
    """Type, grade and pattern as one sub-caption, however many sentences the plain report has for them."""
    diagnosis = part.of_kind(*_DIAGNOSIS_KINDS)
    if len(diagnosis) < 2:
        return diagnosis
    whole = replace(diagnosis[0], kind="diagnosis")
    for one in diagnosis[1:]:
        whole = replace(
            whole,
            tumour=whole.tumour or one.tumour,
            grade=whole.grade or one.grade,
            pattern=whole.pattern or one.pattern,
        )
    return [whole]


# --- Markup ----------------------------------------------------------------------------------------------------------


def _html(parts: Sequence[Part], accession: str, rng: np.random.Generator) -> ReportText:
    """Sections as HTML, as a laboratory's system shows them."""
    plain = _sections(parts, accession, rng)
    break_tag = str(rng.choice(("<br>", "<br/>\n", "</p>\n<p>")))
    lines = [html.escape(line, quote=False).replace("   ", "&nbsp;&nbsp; ") for line in plain.text.split("\n")]
    lines = [f"<b>{line}</b>" if line.isupper() else line for line in lines]
    return replace(plain, text=f"<html><body><p>{break_tag.join(lines)}</p></body></html>")


def _one_line(parts: Sequence[Part], accession: str, rng: np.random.Generator) -> ReportText:
    """Sections whose line ends were lost on the way out of a laboratory's system."""
    plain = _sections(parts, accession, rng)
    lines = [line.strip() for line in plain.text.split("\n")]
    inline = [f"{line}:" if line.isupper() and not line.endswith(":") and "," not in line else line for line in lines]
    return replace(plain, text=" ".join(line for line in inline if line))


_Shape = Callable[[Sequence[Part], str, np.random.Generator], ReportText]
SHAPES: Mapping[str, _Shape] = {
    "sections": _sections,
    "synoptic": _synoptic,
    "prose": _prose,
    "german": _german,
    "html": _html,
    "one line": _one_line,
}
"""Every shape by its name."""
