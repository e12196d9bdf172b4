"""Answers that stand apart from what they answer: columns of a table, and lists below "Negative for:"."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pathflip.text.cues import LANGUAGES, cues_of
from pathflip.text.polarity import first_denial, value_polarity
from pathflip.types import SubCaption

__all__ = ["columns_as_answers", "with_lead_ins"]

_CELL = re.compile(r"\t|\|")
_TICK = re.compile(r"[\[(]?\s*(?:[xX×✓✔√☑☒🗸+•●■*1yYjJoO]|yes|ja|oui|sí|あり|○)\s*[\])]?")
_BLANK = re.compile(r"[\[(]?\s*[-–—_.☐□]*\s*[\])]?")
_ITEM = re.compile(r"\s*(?:[-–—•●▪■◦‣⁃·*+]\s*|[(\[]?(?:\d{1,2}|[a-zA-Z])[.)\]]\s+)(?=\S)")
_NEGATIVES = re.compile(
    r"\b(?:pertinent |relevant )?negatives?\b|\bnegativ(?:e[rn]?|o|a|os|as)?\b|\bnégatif\w*|\babsentes?\b|"
    r"\bausentes?\b|"
    r"\bfehlend\w*|\bnon (?:vus?|retrouvés?)\b|(?:認めない|なし|陰性)",
    re.IGNORECASE,
)
_LONGEST_ITEM = 9


def columns_as_answers(text: str) -> str:
    """The text with the rows of a table of columns "Present" and "Absent" as answers: "Necrosis<tab><tab>X".

    A row becomes "Necrosis: Absent"; one with no mark, or several, "Necrosis: ?". Everything else stays as it is.
    """
    if "\t" not in text and "|" not in text:
        return text
    lines, header = text.split("\n"), None
    for place, line in enumerate(lines):
        cells = _cells(line)
        if (named := _answer_columns(cells)) is not None and _has_marks_below(lines[place + 1 :], len(cells), named):
            header = (len(cells), named)
            lines[place] = ""
        elif header is not None and not re.fullmatch(r"[\s|:=+-]*", line):
            row = _row(cells, *header)
            header, lines[place] = (header, row) if row is not None else (None, line)
    return "\n".join(lines)


def _cells(line: str) -> list[str]:
    stripped = line.strip(" ")
    if stripped.startswith("|") and stripped.endswith("|"):
        stripped = stripped[1:-1]
    return [cell.strip() for cell in _CELL.split(stripped)]


def _answer_columns(cells: Sequence[str]) -> dict[int, str] | None:
    """The columns of a header that are answers, by place; None where it does not name yes and no."""
    if (
        len(cells) < 3
        or value_of(cells[0]) is not None
        or any(_TICK.fullmatch(cell) and value_of(cell) is None for cell in cells)
    ):
        return None
    named = {place: cell for place, cell in enumerate(cells) if place and value_of(cell) is not None}
    meanings = [value_of(cell) for cell in named.values()]
    return named if "affirmed" in meanings and "denied" in meanings else None


def _has_marks_below(lines: Sequence[str], width: int, named: dict[int, str]) -> bool:
    """Whether the next row of a table is marked in one of the columns of answers."""
    rows = (_cells(line) for line in lines if not re.fullmatch(r"[\s|:=+-]*", line))
    row = next(rows, [])
    return 2 <= len(row) <= width and any(place < len(row) and _TICK.fullmatch(row[place]) for place in named)


def value_of(cell: str) -> str | None:
    """What a cell says as an answer in any of the languages; None where it is none."""
    if not re.search(r"[^\W\d_]{2}", cell):
        return None
    return next((meaning for name in LANGUAGES if (meaning := value_polarity(cell, name))), None)


def _row(cells: Sequence[str], width: int, named: dict[int, str]) -> str | None:
    """A row as a line; None where it is none of the table's."""
    if not 2 <= len(cells) <= width or not cells[0] or len(cells[0].split()) > _LONGEST_ITEM:
        return None
    ticked = [head for place, head in named.items() if place < len(cells) and _TICK.fullmatch(cells[place])]
    other = any(
        not _TICK.fullmatch(cells[place]) and not _BLANK.fullmatch(cells[place])
        for place in named
        if place < len(cells)
    )
    rest = [cell for place, cell in enumerate(cells) if place and place not in named and cell]
    label = cells[0].rstrip(" :")
    answer = ticked[0] if len(ticked) == 1 and not other else "?"
    return ", ".join([f"{label}: {answer}", *rest])


def with_lead_ins(text: str, sub_captions: Sequence[SubCaption], language: str) -> list[SubCaption]:
    """The sub-captions with what stands below "Negative for:" denied.

    Items with a bullet or a number are surely of the list. Lines right below without one may be: they are undecided.

    Args:
        text: the report. sub_captions: in its order, with their places. language: of the report.
    """
    out: list[SubCaption] = []
    lead, lead_end, marked = "", -1, False
    for one in sub_captions:
        if one.place is None or not one.text.strip():
            out.append(one)
            continue
        start, end = one.place
        if lead and not one.text.rstrip().endswith((":", "：")) and _goes_on(text, lead_end, start):
            item = _ITEM.match(_line(text, start)) is not None
            if item or (lead == "list" and not marked):
                if one.visual:
                    one = _denied(one, language) if item and lead == "list" else _unclear(one)
                out.append(one)
                marked, lead_end = marked or item, end
                continue
        lead, lead_end, marked = _lead_in(text[start:end].split("\n")[0], one, language), end, False
        out.append(one)
    return out


def _line(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    return text[start : text.find("\n", position) if "\n" in text[position:] else len(text)]


def _goes_on(text: str, end: int, start: int) -> bool:
    """Whether a line follows right below another."""
    between = text[end:start]
    return between.count("\n") == 1 or (
        "\n" not in between and start > end and _ITEM.match(_line(text, start)) is not None
    )


def _lead_in(line: str, one: SubCaption, language: str) -> Literal["list", "inline", ""]:
    """What a sub-caption's first line opens: a denied list below it ("Negative for:"), or maybe one ("No: mucin")."""
    body, colon, rest = line.strip().partition(":" if ":" in line else "：")
    if not colon or len(body.split()) > _LONGEST_ITEM:
        return ""
    own = one.language if one.language in LANGUAGES else language
    denies = _NEGATIVES.search(body) or first_denial(body, own if own in LANGUAGES else "en") is not None
    return "" if not denies else "inline" if rest.strip() else "list"


def _is_noun_phrase(one: SubCaption, language: str) -> bool:
    name = one.language if one.language in LANGUAGES else language
    verbs = cues_of(name if name in LANGUAGES else "en").verbs
    return (
        len(one.text.split()) <= _LONGEST_ITEM
        and re.search(verbs, one.text, re.IGNORECASE) is None
        and ":" not in one.text
    )


def _denied(one: SubCaption, language: str) -> SubCaption:
    if one.negated:
        return one
    if one.undecided or not _is_noun_phrase(one, language):
        return replace(one, undecided=True, reason="doubt")
    return replace(one, negated=True)


def _unclear(one: SubCaption) -> SubCaption:
    if one.negated or not _is_noun_phrase(one, one.language or "en"):
        return one
    return replace(one, undecided=True, negated=False, reason="doubt")
