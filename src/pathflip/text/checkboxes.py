"""Ticked forms: "Necrosis: [X] Present [ ] Absent" says that necrosis is present.

A box may stand before its option ("[x] Present") or behind it ("Present [x]"). Marks met in exports: square and round
brackets with x, X, ✓ or nothing, the box characters of Unicode, and the ``_X_`` / ``___`` of typed forms. What is not
ticked states nothing; a line with no tick, or with contradicting ticks, is left undecided.
"""

import re
from dataclasses import dataclass

from pathflip.text.polarity import value_polarity

__all__ = ["CheckedLine", "Option", "checked_lines", "has_boxes"]

_TICKED = (
    r"\[\s*(?:[xX×✓✔√☓✗✘*■●vV#]|XX|xx|yes)\s*\]|\(\s*[xX×✓✔√■●•]\s*\)|[☑☒⊠🗹🗷❎✅"
    r"\uf0fe\uf0fd\uf052\uf053]|(?<![A-Za-z])_+[xX✓✔]_+(?![A-Za-z])"
)
_EMPTY = r"\[\s*\]|\[_+\]|\(\s+\)|\(_+\)|[☐□▢❏❑❒⬜\uf0a8\uf06f\uf071\uf0a3]|(?<![A-Za-z_])_{2,}(?![A-Za-z_xX✓✔])"
# Told from bullets only where their counterpart stands in the same line.
_PAIRS = tuple(
    (re.compile(on), re.compile(off))
    for on, off in (
        ("[■▣]", "□"), ("[◼◾]", "[◻◽]"), ("▪", "▫"), ("[●◉⦿◎]", "○"),
        ("✓", "✗"), ("✔", "✘"), ("[✓✔√]", "[☐□]"), ("þ", "¨"),
        (r"\[\s*\+\s*\]", r"\[\s*[-−–]\s*\]"), (r"\[\s*[yY]\s*\]", r"\[\s*[nN]\s*\]"), (r"\[\s*1\s*\]", r"\[\s*0\s*\]"),
        (r"\{\s*[xX✓*]\s*\}", r"\{\s*\}"), (r"<\s*[xX✓*]\s*>", r"<\s+>"), (r"\|[xX✓*]\|", r"\|\s\|"),
    )
)  # fmt: skip
_BOX = re.compile(rf"(?P<ticked>{_TICKED})|(?P<empty>{_EMPTY})")
_LEAD = re.compile(r"^[\s:：=\-–—•*.,;|]+|[\s:：=\-–—|,;]+$")


@dataclass(frozen=True)
class Option:
    """One choice of a form line."""

    text: str
    ticked: bool
    start: int
    end: int


@dataclass(frozen=True)
class CheckedLine:
    """A question of a form with its options. ``label`` is empty for a list of findings with a box each."""

    label: str
    options: tuple[Option, ...]
    start: int
    end: int


def has_boxes(text: str) -> bool:
    """Whether a text holds tick boxes: a bracket pair alone at the end of a word is none."""
    return bool(_boxes(text))


def _boxes(text: str) -> list[tuple[int, int, bool]]:
    boxes = [(m.start(), m.end(), m["ticked"] is not None) for m in _BOX.finditer(text)]
    for on, off in _PAIRS:
        ticks, blanks = list(on.finditer(text)), list(off.finditer(text))
        if ticks and blanks:
            boxes = sorted((m.start(), m.end(), ticked) for ms, ticked in ((ticks, True), (blanks, False)) for m in ms)
    round_or_line = [text[a] in "(_" for a, _, _ in boxes]
    if boxes and all(round_or_line) and len(boxes) < 2 and text[: boxes[0][0]].strip():
        # One "(x)" or "____" in running text is a place-holder, unless it answers a label.
        a, b, ticked = boxes[0]
        answers = text[:a].rstrip().endswith((":", "=")) and text[b:].strip()
        if not answers or not (ticked or value_polarity(text[b:]) is not None):
            return []
    return boxes


def checked_lines(text: str) -> list[CheckedLine]:
    """The form lines of a text, [] where it holds no boxes."""
    boxes = _boxes(text)
    if not boxes:
        return []
    behind = _boxes_stand_behind(text, boxes)
    return _behind(text, boxes) if behind else _before(text, boxes)


def _boxes_stand_behind(text: str, boxes: list[tuple[int, int, bool]]) -> bool:
    head, tail = text[: boxes[0][0]].rstrip(), text[boxes[-1][1] :]
    if tail.strip(" \t.,;:|"):
        return False
    return bool(head) and not head.endswith((":", "：", "=", "|", "\t"))


def _before(text: str, boxes: list[tuple[int, int, bool]]) -> list[CheckedLine]:
    """``Label: [x] option [ ] option``, several labels in a row included."""
    lines: list[CheckedLine] = []
    label, label_start = _clean(text[: boxes[0][0]]), 0
    options: list[Option] = []
    for place, (start, stop, ticked) in enumerate(boxes):
        end = boxes[place + 1][0] if place + 1 < len(boxes) else len(text)
        choice, next_label, cut = _split_label(text[stop:end]) if place + 1 < len(boxes) else (text[stop:end], "", 0)
        choice_end = stop + cut if next_label else end
        options.append(Option(_clean(choice), ticked, start, choice_end))
        if next_label:
            lines.append(CheckedLine(label, tuple(options), label_start, choice_end))
            label, label_start, options = next_label, choice_end, []
    lines.append(CheckedLine(label, tuple(options), label_start, len(text)))
    return [line for line in lines if line.options]


def _split_label(between: str) -> tuple[str, str, int]:
    """An option and the label of the question after it, told by its colon: ``Absent; Ulceration:``."""
    if not re.search(r"[:：=]\s*$", between):
        return between, "", 0
    parts = list(re.finditer(r"[;.,|\n]\s*|\s{2,}", between.rstrip(" :：=")))
    if parts:
        return between[: parts[-1].start()], _clean(between[parts[-1].end() :]), parts[-1].end()
    words = between.split()
    for count in range(min(3, len(words) - 1), 0, -1):
        if value_polarity(" ".join(words[:count])) is not None:
            cut = between.index(words[count], sum(len(word) for word in words[:count]))
            return between[:cut], _clean(between[cut:]), cut
    return between, "", 0


def _behind(text: str, boxes: list[tuple[int, int, bool]]) -> list[CheckedLine]:
    """``Label: option [x] option [ ]``."""
    head = text[: boxes[0][0]]
    colon = max(head.rfind(":"), head.rfind("："), head.rfind("="))
    label, position = (_clean(head[:colon]), colon + 1) if colon >= 0 else ("", 0)
    options = []
    for start, stop, ticked in boxes:
        options.append(Option(_clean(text[position:start]), ticked, position, stop))
        position = stop
    if not label and len(options) > 1 and all(value_polarity(option.text) for option in options[1:]):
        words = options[0].text.split()  # "Necrosis present [x] absent [ ]": the label runs into its first option
        for count in range(len(words) - 1, 0, -1):
            if value_polarity(" ".join(words[count:])) is not None:
                label = " ".join(words[:count])
                first = options[0]
                options[0] = Option(" ".join(words[count:]), first.ticked, first.start, first.end)
    return [CheckedLine(label, tuple(options), 0, len(text))]


def _clean(text: str) -> str:
    return " ".join(_LEAD.sub("", _LEAD.sub("", text)).split())
