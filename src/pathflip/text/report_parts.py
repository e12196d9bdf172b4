"""The parts of a report: which letters or numbers name them, and which part a line or a sentence is of.

"A.", "A)", "(A)", "A -" at the beginning of a line or a sentence, "Part A", "Specimen 2", "Entnahme B", "検体A"
anywhere, and references within a sentence ("… of part A.", "… (B and C)").
"""

import re
from collections.abc import Iterable, Sequence

from pathflip.text.finding_words import names_a_finding
from pathflip.text.headings import heading_of, keyword_part

__all__ = ["inline_part", "is_of_part", "parts_of", "referred_parts", "strong_mark", "title_mark", "weak_mark"]

_JOINT = r"\s*(?:,|\band\b|&|\bund\b|\bet\b|\by\b|\+|/|-|–|\bto\b|\bthrough\b|\bbis\b|、|～|~)\s*"
_LABEL = r"(?:[IVX]{2,4}(?![A-Za-z])|[A-Z]\d{0,2}|\d{1,2})"
_LABELS = rf"{_LABEL}(?:{_JOINT}{_LABEL})*"
_WEAK_MARK = re.compile(rf"[\s•●▪■*#>–-]*[(\[]?(?P<labels>{_LABELS})(?:\s?[.):\]]+|\s[-–—])\s+(?=\S)")
_MORE_LABELS = re.compile(rf"(?:{_JOINT}{_LABEL}\b)+(?=\s*(?:[:：.)\],]|[-–—]\s|\n|$))")
# A numbered list is of parts where every item begins with what was taken from where ("1. Skin, scalp, biopsy: …").
_NUMBERED_TITLE = re.compile(r"\s*\(?(?P<number>\d{1,2})[.)]\s+(?P<title>[^:：\n]{3,80})[:：]\s*\S")
# "1. (Sigmoid) Tubular adenoma."
_NUMBERED_BRACKET = re.compile(r"\s*\(?(?P<number>\d{1,2})[.)]\s+\((?P<title>[^()\d\n]{3,40})\)\s*[:：]?\s*\S")
_TAKEN = re.compile(
    r"\b(?:biops\w+|excisions?|resections?|\w+ectom\w+|curett\w+|cores?|shave|punch|polyps?|lobes?|isthmus|skin|stomach|antrum|"
    r"corpus|colon|rectum|c[a]?ecum|o?esophagus|duodenum|ileum|breast|lung|kidney|liver|prostate|bladder|uterus|cervix|"
    r"endometrium|ovar(?:y|ies)|thyroid|parathyroid|tongue|tonsil|larynx|(?:lymph )?nodes?|bone|"
    r"soft tissue|base|apex|mid|"
    r"quadrant|haut|magen|darm|brust|leber|niere|lunge|schilddrüse|exzis\w+|biopsie|peau|estomac|sein|foie|poumon|biopsia|"
    r"piel|estómago|mama|hígado|pulmón)\b|生検|切除|皮膚|乳腺|大腸|肝|肺",
    re.IGNORECASE,
)
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
    lines = list(lines)
    for rest in lines:
        heading = heading_of(rest)
        titled_so = heading is not None and heading.kind in ("nodes", "specimen", "margins")  # "A. Lymph node"
        for begin in [0] if heading is None else [0, heading.length] if titled_so else [heading.length]:
            if (weak := _WEAK_MARK.match(rest[begin:])) is not None:
                letters |= {label for label in _expanded(weak["labels"]) if not label.isdigit()}
        stripped = rest.lstrip(" \t•●▪■*#>–-")
        if (labels := _keyword_labels(stripped)) is not None:
            named |= set(labels[0])
        elif heading is not None:
            named |= {heading.part} - {""}
            rest = rest[heading.length :]
            if heading.kind == "specimen" and re.fullmatch(r"\s*[A-Z]\W*", rest):
                named.add(rest.strip()[0])
        for inline in _INLINE_MARK.finditer(rest):
            letters.add(inline["label"])
        if (title := _TITLE.match(rest)) is not None:
            titled.add(title["label"])
        letters |= {listed["label"] for listed in _LISTED_MARK.finditer(rest)}
        for place in _INLINE_KEYWORD.finditer(rest):
            if (labels := _keyword_labels(rest[place.end() :])) is not None:
                named |= set(labels[0])
    if len(_run(titled)) > 1:
        letters |= titled
    return _chosen(letters, named, lines)


def _chosen(letters: set[str], named: set[str], lines: Sequence[str]) -> tuple[str, ...]:
    """The labels that are parts, of all that look like one."""
    run = _run(letters | {label for label in named if len(label) == 1 and label.isalpha()})
    if run:
        return tuple(run)
    blocks = sorted(label for label in letters | named if re.fullmatch(r"[A-Z]\d{1,2}", label))
    if (
        len(blocks) > 1
        and blocks[0] == "A1"
        and len(_run({label[0] for label in blocks})) == len({b[0] for b in blocks})
    ):
        return tuple(blocks)
    numbers = sorted((label for label in named if label.isdigit() and int(label)), key=int)
    if numbers:
        return tuple(numbers)
    roman = [label for label in ("I", "II", "III", "IV", "V", "VI", "VII", "VIII") if label in letters | named]
    if roman[:2] == ["I", "II"]:
        return tuple(roman)
    return _numbered_titles(lines) or tuple(sorted(named & {"A", "B", "C", "D"}))


def _numbered_titles(lines: Sequence[str]) -> tuple[str, ...]:
    """The numbers of a list whose items all begin with a specimen ("2. Skin, nose, biopsy: …"); else ()."""
    marks = [re.match(r"\s*\(?(\d{1,2})[.)]\s+\S", line) for line in lines]
    marked = [line for line, mark in zip(lines, marks, strict=True) if mark]
    titles = [_NUMBERED_BRACKET.match(line) for line in marked]
    if not all(titles):
        titles = [_NUMBERED_TITLE.match(line) for line in marked]
        titles = [title if title and _TAKEN.search(title["title"]) else None for title in titles]
    if len(titles) < 2 or not all(title and not names_a_finding(title["title"]) for title in titles):
        return ()
    numbers = [int(title["number"]) for title in titles if title]
    return tuple(map(str, numbers)) if numbers == list(range(1, len(numbers) + 1)) else ()


def _keyword_labels(text: str) -> tuple[list[str], int] | None:
    """The labels behind "Part", "Specimens 1-3", "Teile A und B" at the beginning of a text, and where they end."""
    match = keyword_part(text)
    if match is None:
        return None
    more = _MORE_LABELS.match(text[match.end("label") :])
    end = match.end("label") + (more.end() if more else 0)
    return _expanded(text[match.start("label") : end]), max(end, match.end())


def _expanded(labels: str) -> list[str]:
    """Every label of "A", "A and C", "A-C", "1-3"."""
    listed = re.findall(_LABEL, labels)
    for first, last in re.findall(rf"({_LABEL})\s*(?:-|–|~|～|\bto\b|\bthrough\b|\bbis\b)\s*({_LABEL})", labels):
        if first.isdigit() and last.isdigit():
            listed += [str(number) for number in range(int(first), int(last))]
        elif len(first) == len(last) == 1:
            listed += [chr(code) for code in range(ord(first), ord(last))]
    return list(dict.fromkeys(listed))


def is_of_part(label: str, part: str) -> bool:
    """Whether a slide's part is one of a finding's ("A, B"): itself, the part of a block ("A" of "A1")."""
    part = part.strip().upper()
    block = re.compile(rf"{re.escape(part)}(?:(?<=[A-Z])\d{{1,2}})?")
    return any(block.fullmatch(one) is not None for one in label.split(", "))


def _known(labels: Iterable[str], parts: Sequence[str]) -> list[str]:
    """Those that are parts of the report, in its order; the block "A2" of part A is of A where blocks are no parts."""
    own = {label if label in parts else label[:1] for label in labels}
    return [part for part in parts if part in own]


def _run(labels: set[str]) -> list[str]:
    """The letters from A on without a gap: "H. pylori" at a line's beginning is no part H."""
    run: list[str] = []
    for code in range(ord("A"), ord("Z") + 1):
        if chr(code) not in labels:
            break
        run.append(chr(code))
    return run


def strong_mark(rest: str, parts: Sequence[str]) -> tuple[str, int] | None:
    """The part ("A", or several: "A, B") that "Part A:" opens at the beginning of a text, and the mark's length."""
    lead = len(rest) - len(rest.lstrip(" \t•●▪■*#>–-(["))
    labels = _keyword_labels(rest[lead:])
    known = _known(labels[0], parts) if labels is not None else []
    if labels is None or not known:
        return None
    after = re.match(r"[\s:：.,)\]*–-]*", rest[lead + labels[1] :])
    return ", ".join(known), lead + labels[1] + (after.end() if after else 0)


def weak_mark(rest: str, parts: Sequence[str]) -> tuple[str, int] | None:
    """The part that "A.", "B)", "A & B:", "C -" opens at the beginning of a text, and the length of the mark."""
    mark = _WEAK_MARK.match(rest)
    known = _known(_expanded(mark["labels"]), parts) if mark is not None else []
    return (", ".join(known), mark.end()) if mark is not None and known else None


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
    return weak_mark(sentence, parts) or (part, 0)


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
