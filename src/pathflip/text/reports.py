"""A report as a hospital writes it: parts, sections, sentences, and what of it one slide can show.

A report is read line by line. Headings open sections (:mod:`pathflip.text.headings`), "A.", "Part B" and the like open
parts; each sentence keeps its part, its section, its language and its place. History, gross description, stains and
margins are not on the slide, and what another part shows is not either. What cannot be told is undecided.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from pathflip.text.answers_below import with_answers
from pathflip.text.checkboxes import checked_lines, has_boxes
from pathflip.text.cues import LANGUAGES
from pathflip.text.finding_words import is_histology, names_a_finding
from pathflip.text.headings import HIDDEN_SECTIONS, heading_of
from pathflip.text.language_detection import MIXED, language_of
from pathflip.text.lead_ins import columns_as_answers, with_lead_ins
from pathflip.text.markup import plain_text
from pathflip.text.node_specimens import parts_that_are_nodes, seen_in_a_node
from pathflip.text.report_lines import Line, flat_lines, logical_lines
from pathflip.text.report_parts import (
    inline_part,
    is_of_part,
    parts_of,
    referred_parts,
    strong_mark,
    title_mark,
    weak_mark,
)
from pathflip.text.sentences import split_sentences
from pathflip.text.specimen_titles import (
    PROCEDURE,
    answers_a_finding,
    is_prose,
    is_specimen_label,
    is_title,
    states_a_finding,
    title_length,
)
from pathflip.text.sub_captions import sub_captions_of
from pathflip.text.visibility import not_visual_kind
from pathflip.types import Caption, SubCaption

__all__ = ["ALL_PARTS", "Report", "read_report", "undecided_note"]

ALL_PARTS = "*"
"""The part of an item that holds slides of every part: a case."""

# With text behind their colon these are one line of a form and open no section.
_LINE_KINDS = frozenset(("margins", "nodes", "stage", "administration", "specimen"))
# Opened with text behind the colon, these end where the next part begins, or at an empty line.
_SHORT_KINDS = frozenset(("clinical", "frozen"))
_TABLE_HEAD = re.compile(
    r"^\W*(?:findings?|parameters?|items?|features?|befund|merkmal|élément|hallazgo|項目)\W+(?:results?|values?|status|ergebnis|"
    r"résultat|resultado|結果)\W*$",
    re.IGNORECASE,
)
_TAB = re.compile(r"(?<=[\w)]) *\t\s*(?=\S)")  # "Mitoses<tab>0": a question and its answer
_WORD = re.compile(r"[^\W\d_]{2,}|[\u3040-\u9fff]")
_WORD_CHARACTER = re.compile(r"\w")
_SEEN_BY_EYE = ("gross", "size", "clinical")
_RULE = re.compile(r"^[\s|:=_*~.–—-]*$")


@dataclass(frozen=True)
class Report:
    """A report taken apart.

    Attributes:
        text: the words of the report; every ``place`` counts characters of it.
        parts: the parts it names, in order ("A", "B", …); empty where it names none.
        language: of the report as a whole.
        all_sub_captions: every one in reading order, whatever part it belongs to.
        notes: what was done to the text ("HTML", "mojibake repaired").
        node_parts: the parts whose specimen is a lymph node ("Lymph node, left axilla, excision: …"); None among them
            where the report names no part and is of a node as a whole. Elsewhere nodes are not on the slide.
    """

    text: str
    parts: tuple[str, ...]
    language: str
    all_sub_captions: tuple[SubCaption, ...]
    notes: tuple[str, ...] = ()
    node_parts: frozenset[str | None] = frozenset()

    def sub_captions(self, part: str | None = None) -> tuple[SubCaption, ...]:
        """The sub-captions as they stand to a slide of one part.

        What belongs to another part is not visible on it. Without a part, and in a report of several, nobody can tell
        which findings the slide shows: they are undecided. A sub-caption of no part counts for every slide.

        Args:
            part: "A", "2", …; :data:`ALL_PARTS` for an item of all slides; None where it is not known.
        """
        if len(self.parts) < 2 and self.node_parts:
            return tuple(seen_in_a_node(one) for one in self.all_sub_captions)
        if part == ALL_PARTS or len(self.parts) < 2:
            return self.all_sub_captions
        return tuple(self._for_part(one, part) for one in self.all_sub_captions)

    def _for_part(self, one: SubCaption, part: str | None) -> SubCaption:
        if one.part in self.node_parts and part is not None and one.part is not None and is_of_part(one.part, part):
            one = seen_in_a_node(one)
        if one.part is None or not one.visual:
            return one
        if part is None:
            return replace(one, undecided=True, negated=False, reason="the slide's part is not known")
        if is_of_part(one.part, part):
            return one
        return replace(one, visual=False, reason=f"part {one.part}")

    def caption(self, part: str | None = None) -> str:
        """What the report says of a slide as one text: the report itself where all of it is of this slide."""
        return self.text_of(self.sub_captions(part))

    def text_of(self, stated: Sequence[SubCaption]) -> str:
        """What the report says as one text: itself, or, where it has parts or sections, the decided of ``stated``."""
        structured = len(self.parts) > 1 or any(one.section for one in stated)
        if not structured:
            return self.text
        return " ".join(dict.fromkeys(one.text for one in stated if one.decided)) or self.text


@lru_cache(maxsize=4096)
def read_report(raw: str, file_language: str = "en") -> Report:
    """Take a report apart: markup off, then parts, sections, sentences and what they state.

    Args:
        raw: the report as exported: plain text, HTML, RTF, with tick boxes or tables.
        file_language: what it is written in where its own words do not tell (:func:`language_of_file`).
    """
    plain = plain_text(raw)
    plain = replace(plain, text=columns_as_answers(plain.text))
    lines = logical_lines(plain.text)
    if "\n" not in plain.text.strip():
        lines = flat_lines(plain.text)
    parts = parts_of(plain.text[line.start : line.end] for line in lines)
    language = _language_of_report(plain.text, file_language)
    sub_captions: list[SubCaption] = []
    blocks = _blocks(plain.text, lines, parts) if len(lines) > 1 or "\n" in plain.text.strip() or parts else ()
    for block in blocks or (_Block(0, len(plain.text), None, None),):
        sub_captions += _block_sub_captions(plain.text, block, parts, language)
    stated = tuple(with_lead_ins(plain.text, with_answers(sub_captions), language))
    return Report(plain.text, parts, language, stated, plain.notes, parts_that_are_nodes(plain.text, parts))


def _language_of_report(text: str, file_language: str) -> str:
    """The language of most lines where the whole is mixed: one foreign line does not make a report foreign."""
    language = language_of(text, file_language)
    if language != MIXED:
        return language
    spoken = Counter(language_of(line, file_language) for line in text.split("\n") if len(line.split()) > 1)
    most, count = spoken.most_common(1)[0] if spoken else (MIXED, 0)
    return most if most in LANGUAGES and 3 * count >= 2 * spoken.total() else MIXED


def undecided_note(captions: Iterable[Caption]) -> str | None:
    """One line about sentences that could not be understood, for a whole file; None where there are none.

    Doubt that a report itself expresses is no such case.
    """
    reasons = Counter(
        str(one.reason)
        for caption in captions
        for one in caption.sub_captions
        if one.undecided and one.visual and one.reason not in (None, "doubt", "contradicting ticks")
    )
    if not reasons:
        return None
    counts = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common(6))
    return f"{sum(reasons.values())} sentences are undecided and will not train ({counts})"


# --- Blocks ----------------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """A stretch of the report of one part and one section. ``title``: names a specimen or the hospital."""

    start: int
    end: int
    part: str | None
    section: str | None
    title: bool = False


@dataclass
class _State:
    part: str | None = None
    strong: bool = False
    section: str | None = None
    short: bool = False
    begun: bool = False
    opened: bool = False  # the section's heading is the last thing that was read
    by_part: bool = False  # a section of findings at operation that goes through the parts
    sectioned: bool = False


def _blocks(text: str, lines: Sequence[Line], parts: Sequence[str]) -> Iterator[_Block]:
    kinds = {heading.kind for a, b in lines if (heading := heading_of(text[a:b])) is not None}
    state = _State(sectioned=bool(kinds & {"microscopy", "diagnosis", "synoptic"}))
    structured = bool(parts or kinds)
    pending: list[_Block] = []
    for line in lines:
        content = text[line.start : line.end]
        if not content.strip() or _RULE.match(content) or _TABLE_HEAD.match(content):
            yield from pending
            pending = []
            if state.short and not content.strip():
                state.section, state.short = None, False
            continue
        if not state.sectioned and heading_of(content) is None and _leaves(state.section, content):
            state.section = None
        block = _read_line(text, line, state, parts, structured)
        if block is None:
            yield from pending
            pending = []
            continue
        same = pending and pending[-1][2:] == block[2:] and _only_line_ends(text[pending[-1].end : block.start])
        if same and not block.title:
            pending[-1] = pending[-1]._replace(end=block.end)
        else:
            yield from pending
            pending = [block]
    yield from pending


def _read_line(text: str, line: Line, state: _State, parts: Sequence[str], structured: bool) -> _Block | None:
    """What is left of a line when its headings and part marks are read; None where nothing is."""
    position = line.start
    marked = False
    for _ in range(4):
        rest = text[position : line.end]
        strong = strong_mark(rest, parts) or (title_mark(rest, parts) if not marked else None)
        if strong:
            _open_part(state, *strong[:1], strong=True)
            position, marked = position + strong[1], True
            continue
        heading, weak = heading_of(rest), weak_mark(rest, parts)
        if heading is not None and weak is not None and heading.kind in ("nodes", "margins", "specimen"):
            heading = None  # "A. Lymph node"
        named = marked and heading is not None and heading.kind in ("nodes", "margins", "specimen")  # "B. Node: …"
        if heading is not None and not named and not (heading.kind == "specimen" and heading.part):
            inline = text[position + heading.length : line.end].strip()
            label = re.fullmatch(r"\(?([A-Z]|\d{1,2})\W*", inline)
            if label and heading.kind == "specimen" and label[1] in parts:
                _open_part(state, label[1], strong=True)
                return None
            if inline and heading.kind in _LINE_KINDS:
                state.begun = True
                own = heading.part if heading.part in parts else state.part
                return _Block(position, line.end, own, heading.kind)
            _open_section(state, heading.kind, heading.part if heading.part in parts else "", bool(inline))
            position, marked = position + heading.length, False
            continue
        if weak is None:
            break
        _open_part(state, weak[0], strong=False)
        position, marked = position + weak[1], True
    rest = text[position : line.end]
    if not rest.strip():
        return None
    state.opened = False
    if not parts and not state.begun and answers_a_finding(rest):
        state.begun = True  # a form below its title, with no heading of its own
    if structured and not state.begun and (parts or state.sectioned or not states_a_finding(rest)):
        return _Block(position, line.end, None, "header", title=not is_prose(rest))
    if marked and state.section is None and state.sectioned and not names_a_finding(rest):
        return _Block(
            position, line.end, state.part, None, title=not is_prose(rest) or PROCEDURE.search(rest) is not None
        )
    if marked:
        return _after_mark(text, position, line.end, state)
    return _Block(position, line.end, state.part, state.section, title=is_specimen_label(rest))


def _only_line_ends(between: str) -> bool:
    """Whether one line follows another: cells of one line ("Necrosis: absent   Mitoses: many") stay apart."""
    return between.strip() == "" and "\n" in between


def _leaves(section: str | None, line: str) -> bool:
    """Whether a line behind a gross description or a procedure is histology, in a report that has no heading for it."""
    if section == "specimen":
        return names_a_finding(line) and not is_prose(line)
    return section == "gross" and is_histology(line) and not_visual_kind(line, language_of(line)) not in _SEEN_BY_EYE


def _open_part(state: _State, label: str, strong: bool) -> None:
    state.by_part = state.by_part or (state.section == "frozen" and state.opened and not state.short)
    if (state.short or state.section in _SHORT_KINDS) and not state.by_part:
        state.section, state.short = None, False
    state.opened = False
    if strong and state.section in ("specimen", "header"):
        state.section = None
    state.part, state.strong, state.begun = label, strong, True


def _open_section(state: _State, kind: str, part: str, inline: bool) -> None:
    state.section, state.begun, state.opened, state.by_part = kind, True, True, False
    state.short = inline and kind in _SHORT_KINDS
    if part:
        state.part, state.strong = part, False
    elif not state.strong:
        state.part = None


def _after_mark(text: str, start: int, end: int, state: _State) -> _Block:
    """The line behind "A.": its title ("Colon, sigmoid, resection:") is no sub-caption."""
    rest = text[start:end]
    colon = re.search(r"[:：]\s*|\.{3,}\s*", rest[:100])
    if colon and is_title(rest[: colon.start()], rest[colon.end() :]):
        if not rest[colon.end() :].strip():
            return _Block(start, end, state.part, state.section, title=True)
        return _Block(start + colon.end(), end, state.part, state.section)
    bare = not names_a_finding(rest) and not is_prose(rest) and not has_boxes(rest)
    bare = bare and re.search(r"[.!?。]\s", rest) is None
    return _Block(start, end, state.part, state.section, title=is_specimen_label(rest) or bare)


# --- Sentences -------------------------------------------------------------------------------------------------------


def _block_sub_captions(text: str, block: _Block, parts: Sequence[str], language: str) -> Iterator[SubCaption]:
    part = block.part
    for start, end in _sentence_spans(text, block):
        sentence = text[start:end]
        part, skip = inline_part(sentence, part, parts)
        skip += title_length(sentence[skip:]) if skip else 0
        named = skip > 0 and block.section is None and is_specimen_label(sentence[skip:])
        own, labelled = referred_parts(sentence[skip:], part, parts)
        sentence = sentence[skip + labelled :]
        if _WORD.search(sentence) is None:
            continue
        yield from _sentence_sub_captions(
            sentence,
            start + skip + labelled,
            end,
            own,
            block._replace(title=block.title or named),
            language,
        )


def _sentence_sub_captions(
    raw: str, start: int, end: int, part: str | None, block: _Block, language: str
) -> Iterator[SubCaption]:
    sentence, cells = " ".join(raw.split()), " ".join(_TAB.sub(": ", raw, count=1).split())
    if ":" in sentence or len(_TAB.findall(raw)) != 1:
        cells = sentence
    spoken = language_of(sentence, default=language if language in LANGUAGES else "en")
    heading = heading_of(sentence) if block.section is None else None  # "Clinical history: smoking." within prose
    section = heading.kind if heading is not None else block.section
    hidden = section if section in HIDDEN_SECTIONS else None
    if block.title:
        hidden = "header" if block.section == "header" else "specimen"
    for one in sub_captions_of(cells, spoken):
        if one.text == cells:
            one = replace(one, text=sentence)
        reason = hidden or one.reason
        place = (start, end)
        if one.place is not None and end - start == len(sentence):
            place = (start + one.place[0], start + one.place[1])
        yield replace(
            one,
            visual=one.visual and hidden is None,
            reason=reason,
            part=part,
            section=None if block.section == "header" and not block.title else block.section,
            place=place,
        )


def _sentence_spans(text: str, block: _Block) -> Iterator[tuple[int, int]]:
    """Start and end of every sentence of a block; the tick boxes of a question are one."""
    prose = block.start
    lines = logical_lines(text[block.start : block.end])
    for line in lines:
        start, end = block.start + line.start, block.start + line.end
        if has_boxes(text[start:end]):
            start, end = _boxed(text, start, end)
            yield from _located(text, prose, start)
            yield start, end
            prose = end
    yield from _located(text, prose, block.end)


def _boxed(text: str, start: int, end: int) -> tuple[int, int]:
    """The form within a line, without the sentences before its label and behind its last option."""
    lines = checked_lines(text[start:end])
    first, last = lines[0].options[0].start, lines[-1].options[-1]
    before = list(re.finditer(r"[.!?。]\s+(?=\S)", text[start : start + first]))
    after = re.search(r"[.!?。]\s+(?=[A-ZÄÖÜÉ])", text[start + last.start : end])
    stop = start + last.start + after.start() + 1 if after else end
    return (start + before[-1].end() if before else start), stop


def _located(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The sentences of a stretch of text with their places in it."""
    position = start
    for sentence in split_sentences(text[start:end]):
        words = sentence.split()
        place = _words_in_order(text, words, position, end) or _words_searched(text, words, position, end)
        if place is None:  # a bullet within: the first and the last word tell the place
            first = text.find(words[0], position, end)
            last = text.find(words[-1], max(first, position), end)
            if first < 0 or last < 0:
                continue
            place = first, last + len(words[-1])
        yield place
        position = place[1]


def _words_in_order(text: str, words: Sequence[str], start: int, end: int) -> tuple[int, int] | None:
    """From the first of these words to the last, where each next one follows with nothing but marks between.

    None where that fails at the first place: :func:`_words_searched` then tries the others, at twenty times the cost,
    for a pattern has to be compiled for every sentence.
    """
    first = position = text.find(words[0], start, end)
    for word in words:
        place = text.find(word, position, end)
        if place < 0 or _WORD_CHARACTER.search(text, position, place):
            return None
        position = place + len(word)
    return first, position


def _words_searched(text: str, words: Sequence[str], start: int, end: int) -> tuple[int, int] | None:
    """The same, wherever it may begin."""
    match = re.compile(r"\W*?\s*".join(map(re.escape, words))).search(text, start, end)
    return None if match is None else match.span()
