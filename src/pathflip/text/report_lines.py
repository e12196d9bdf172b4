"""The lines of a report: wrapped tick boxes joined, lines that an export lost found again by their headings."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from pathflip.text.checkboxes import has_boxes
from pathflip.text.headings import heading_of
from pathflip.text.polarity import value_polarity

__all__ = ["Line", "flat_lines", "logical_lines"]

# "壊死：（－）　粘液：（＋）", "Necrosis: absent   Mitoses: frequent"
_WIDE_SPACE = re.compile(
    r"(?:\u3000+|[ \u00a0]{2,}|\t+)(?=[^:：\s\d][^:：\n]{0,40}[:：][ \u3000]*\S)|"
    r" (?=[ぁ-んァ-ヶー一-龯]{1,15}[:：]\s*\S)"
)
_ANSWERED = re.compile(r"[^\W\d_][:：)）]?\s*[:：]\s*[^\s:：]")
_CAPITALS = re.compile(r"(?<!\S)[A-Z][A-Z/&'-]*(?: [A-Z/&'-]+){0,5}(?=\s?:\s)")


class Line(NamedTuple):
    """Start and end of a line, counted in characters of the report."""

    start: int
    end: int


def logical_lines(text: str) -> list[Line]:
    """Lines with text; the tick boxes of one question stand together though they are written on several lines."""
    lines: list[Line] = []
    start = 0
    for raw in text.split("\n"):
        line = Line(start, start + len(raw))
        start += len(raw) + 1
        if not raw.strip():
            lines.append(line)
            continue
        before = text[lines[-1].start : lines[-1].end] if lines else ""
        if lines and before.strip() and _goes_with(before, raw):
            lines[-1] = Line(lines[-1].start, line.end)
        else:
            lines += _cells(raw, line.start)
    return lines


def _cells(raw: str, start: int) -> list[Line]:
    """A line of several "label: answer" cells, set apart by bars or wide spaces, as a line a cell; else itself."""
    wide = [match.start() for match in _WIDE_SPACE.finditer(raw) if _ANSWERED.search(raw[: match.start()])]
    if wide and "|" not in raw and not has_boxes(raw):
        edges = [0, *wide, len(raw)]
        return [Line(start + a, start + b) for a, b in pairwise(edges)]
    bars = [match.start() for match in re.finditer(r"\|", raw)]
    if not bars or len(re.findall(r"(?:^|\|)[^|:]*[^\W\d_][^|:]*:[^|]*\S", raw)) < 2 or has_boxes(raw):
        return [Line(start, start + len(raw))]
    edges = [-1, *bars, len(raw)]
    cells = [(a + 1, b) for a, b in pairwise(edges) if raw[a + 1 : b].strip()]
    return [Line(start + a, start + b) for a, b in cells]


def flat_lines(text: str) -> list[Line]:
    """The lines of a report whose line ends were lost, cut before each heading; one line where it has no headings.

    A caption of one paragraph may hold a sentence like "Macroscopy: a firm mass."; it is a report of sections only with
    two headings of which one is in capitals, three of which one is of microscopy, or four.
    """
    starts = [0] + [match.end() for match in re.finditer(r"[.!?;。]\s+(?=\S)", text)]
    starts = sorted({*starts, *_capital_headings(text)})
    headings = [(start, heading) for start in starts if (heading := heading_of(text[start : start + 120])) is not None]
    inside = [(start, heading) for start, heading in headings if ":" in text[start : start + heading.length]]
    capitals = any(text[start : start + heading.length].isupper() for start, heading in inside)
    histology = any(heading.kind == "microscopy" for _, heading in inside)
    if len(inside) < (2 if capitals else 3 if histology else 4):
        return [Line(0, len(text))]
    cuts = sorted({0, *(start for start, _ in inside)})
    return [Line(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _capital_headings(text: str) -> Iterator[int]:
    """Where headings in capitals stand within a line: "… Accession: H26-17 CLINICAL HISTORY: smoker"."""
    for run in _CAPITALS.finditer(text):
        words = [run.start() + word.start() for word in re.finditer(r"\S+", run.group())]
        yield from [start for start in words if heading_of(text[start : run.end() + 2]) is not None][:1]


def _goes_with(before: str, line: str) -> bool:
    """Whether a line of boxes belongs to the question above it."""
    if not has_boxes(line) or re.match(r"\s*[\w(]*[A-Za-z]{2}|\s*[^\W\d_]{2,}\s*[:：]", line):
        return False
    if has_boxes(before):
        return re.search(r"[:：]", before.split("\n")[0]) is not None
    option = re.sub(r"^\W+|^_*[xX]?_+\s*", "", line.strip()).strip()
    return (before.rstrip().endswith((":", "：")) and heading_of(before) is None) or value_polarity(option) is not None
