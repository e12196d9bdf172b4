"""The parts of a report: which letters or numbers name them, and which part a line or a sentence is of.

"A.", "A)", "(A)", "A -" at the beginning of a line or a sentence, "Part A", "Specimen 2", "Entnahme B", "検体A"
anywhere, and references within a sentence ("… of part A.", "… (B and C)").
"""

import re
from collections.abc import Iterable, Sequence

from pathflip.text.headings import heading_of, keyword_part

__all__ = ["WEAK_MARK", "inline_part", "parts_of", "referred_parts", "strong_mark", "title_mark"]

WEAK_MARK = re.compile(r"[\s•●▪■*#>–-]*\(?(?P<label>[A-Z]|\d{1,2}|[IVX]{2,4})(?:\s?[.):\]]+|\s[-–—])\s+(?=\S)")
_TITLE = re.compile(r"\s*(?:\d{1,2}[.)]\s+)?[A-ZÄÖÜÉ][^:.;\n]{2,80}\((?P<label>[A-Z])\)\s*:\s*")
_LISTED_MARK = re.compile(r"(?:^|(?<=[:;.])\s*)(?P<label>[A-Z]),\s+(?=[a-zäöüé])", re.MULTILINE)
_INLINE_MARK = re.compile(r"(?<=[.;:!?。)])\s+(?:\(?(?P<label>[A-Z])\)?\s?[.):]\s+(?=[A-ZÄÖÜÉ(\[]|[a-zäöüé]))")
_INLINE_KEYWORD = re.compile(r"(?<=[.;:!?。\n])\s*(?=\S)")
_REFERENCE = re.compile(r"\(\s*(?P<labels>[A-Z](?:\s*(?:,|and|&|und|et|y|\+|/|-|–)\s*[A-Z])*)\s*\)\W*$")
_BARE_REFERENCE = re.compile(
    r"\b(?:in|of|from|on|for|bei|aus|zu|dans|sur|en)\s+(?P<labels>[A-Z](?:\s*(?:,|and|&|und|et|y|\+|/|-|–)\s*[A-Z])*)\W*$"
)
_KEYWORD_REFERENCE = re.compile(
    r"(?<!\w)(?:parts?|specimens?|samples?|teil\w*|proben?|entnahmen?|präparat\w*|prélèvements?|muestras?|piezas?|検体|標本)\s*"
    r"(?P<labels>[A-Z](?:\s*(?:,|and|&|und|et|y|\+|/|-|–)\s*[A-Z])*)\b(?!['’.]\w)",
    re.IGNORECASE,
)
_LEADING = re.compile(r"^\(?(?P<labels>[A-Z])(?:\)|,|:|\s[-–])\s+(?=\S)")


def parts_of(lines: Iterable[str]) -> tuple[str, ...]:
    """The labels of the parts a report names: a run of letters from A, or numbers behind "Part" or "Specimen"."""
    named: set[str] = set()
    letters: set[str] = set()
    titled: set[str] = set()
    numbers: set[str] = set()
    for rest in lines:
        heading = heading_of(rest)
        if heading is not None:
            named |= {heading.part} - {""}
            rest = rest[heading.length :]
        stripped = rest.lstrip(" \t•●▪■*#>–-")
        if (match := keyword_part(stripped)) is not None:
            named.add(match["label"])
        elif heading is not None and heading.kind == "specimen" and re.fullmatch(r"\s*[A-Z]\W*", rest):
            named.add(rest.strip()[0])
        elif (weak := WEAK_MARK.match(rest)) is not None:
            (numbers if weak["label"].isdigit() else letters).add(weak["label"])
        for inline in _INLINE_MARK.finditer(rest):
            letters.add(inline["label"])
        if (title := _TITLE.match(rest)) is not None:
            titled.add(title["label"])
        letters |= {listed["label"] for listed in _LISTED_MARK.finditer(rest)}
        for place in _INLINE_KEYWORD.finditer(rest):
            if (match := keyword_part(rest[place.end() :])) is not None:
                named.add(match["label"])
    if len(_run(titled)) > 1:
        letters |= titled
    run = _run(letters | {label for label in named if len(label) == 1 and label.isalpha()})
    named_numbers = sorted((label for label in named if label.isdigit()), key=int)
    if run:
        return tuple(run)
    if named_numbers:
        return tuple(named_numbers)
    roman = [label for label in ("I", "II", "III", "IV", "V", "VI", "VII", "VIII") if label in letters | named]
    return tuple(roman) if roman[:2] == ["I", "II"] else tuple(sorted(named & {"A", "B", "C", "D"}))


def _run(labels: set[str]) -> list[str]:
    """The letters from A on without a gap: "H. pylori" at a line's beginning is no part H."""
    run: list[str] = []
    for code in range(ord("A"), ord("Z") + 1):
        if chr(code) not in labels:
            break
        run.append(chr(code))
    return run


def strong_mark(rest: str, parts: Sequence[str]) -> tuple[str, int] | None:
    """The part that "Part A:" at the beginning of a text opens, and the length of the mark."""
    lead = len(rest) - len(rest.lstrip(" \t•●▪■*#>–-(["))
    match = keyword_part(rest[lead:])
    if match is None or match["label"] not in parts:
        return None
    after = re.match(r"[\s:：.,)\]*–-]*", rest[lead + match.end() :])
    return match["label"], lead + match.end() + (after.end() if after else 0)


def title_mark(rest: str, parts: Sequence[str]) -> tuple[str, int] | None:
    """The part that a title with its letter in brackets opens ("1. Lobe, wedge (A):"), and the length of the title."""
    title = _TITLE.match(rest)
    return (title["label"], title.end()) if title is not None and title["label"] in parts else None


def inline_part(sentence: str, part: str | None, parts: Sequence[str]) -> tuple[str | None, int]:
    """A part that opens within a line ("… B: fat tissue"), and how much of the sentence its mark takes."""
    if not parts:
        return part, 0
    strong = strong_mark(sentence, parts)
    if strong:
        return strong[0], strong[1]
    weak = WEAK_MARK.match(sentence)
    if weak is not None and weak["label"] in parts:
        return weak["label"], weak.end()
    return part, 0


def referred_parts(sentence: str, part: str | None, parts: Sequence[str]) -> tuple[str | None, int]:
    """The parts a sentence names itself ("… of part A.", "… (B)"), and the length of a label at its beginning."""
    if not parts:
        return part, 0
    labels: set[str] = set()
    patterns = (_KEYWORD_REFERENCE, _REFERENCE, _BARE_REFERENCE)
    for match in (match for pattern in patterns for match in pattern.finditer(sentence)):
        labels |= _labels(match["labels"])
    leading = _LEADING.match(sentence)
    length = 0
    if leading and leading["labels"] in parts:
        labels |= {leading["labels"]}
        length = leading.end()
    known = [label for label in parts if label in labels]
    return (", ".join(known), length) if known else (part, length)


def _labels(text: str) -> set[str]:
    """The letters of "A and C" and "B-D"."""
    letters = set(re.findall(r"[A-Z]", text))
    for first, last in re.findall(r"([A-Z])\s*[-–]\s*([A-Z])", text):
        letters |= {chr(code) for code in range(ord(first), ord(last) + 1)}
    return letters
