"""Clinical sentence splitting. No torch, no model: a scan over full stops with word lists one can read.

Why not a general splitter: pathology prose is full of decimals ("1.5 cm"), stages ("pT2b N0."), binomials
("H. pylori"), initials, units with a stop ("1.5 cm. in diameter") and classes named by one letter ("hepatitis B.").
What is decided, and on what grounds, stands in :func:`_is_end`.
"""

import re
from collections.abc import Iterator

__all__ = ["split_sentences"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Abbreviations whose stop never ends a sentence, because something must follow. From the house style of pathology
# reports (English; the German and French ones met most often), lower case, without the final stop.
_OPEN_ABBREVIATIONS = _words(
    """dr drs mr mrs ms prof doz pd priv.-doz dipl st e.g i.e eg ie cf c.f vs v.s viz approx appr ca circa c.ca resp
    fig figs tab eq nr bzw z.b d.h u.a v.a s.o vgl ggf inkl exkl evtl z.n v.a p.ex env incl excl esp max min avg dept
    hosp temp diff mod sp spp ssp subsp var no nos num vol pp ref refs sect chap para obs"""
)
# Abbreviations that open something only before a digit ("No. 3", "Nos. 4 and 5", "max. 3 mm"): elsewhere the word
# is a word ("Necrosis: No. Grade 2.", "type NOS. The tumour …").
_OPEN_BEFORE_DIGIT = _words("no nos nr num tab max min vol pp ref refs sect chap para obs eq var diff mod")
# Abbreviations that may end a sentence: they do when what follows is a usual sentence opening.
_CLOSING_ABBREVIATIONS = _words(
    "etc al ed eds jr sr ph.d m.d md inc ltd co corp dx hx pt pts lt rt h&e h.e h.p.f hpf a.m p.m u.s u.k wt usw"
)
# Units written with a stop ("1.5 cm. in greatest dimension"), and the words that then continue the sentence.
_UNITS = _words("cm mm µm um nm m g gm gms kg mg ml cc l cu sq in ft oz lb lbs sec hr hrs min yr yrs mo mos")
_AFTER_UNIT = _words(
    """in x × by of from to at and or per thick long wide deep high away below above beyond greatest largest maximum max
    diameter dimension length segment portion piece fragment fragments each apart proximal distal inferior superior
    medial lateral anterior posterior aggregate across is are was were with without"""
)
# Words before a single letter that make the letter a class, not an initial ("hepatitis B. The", "stage I. No").
_CLASSIFIERS = _words(
    """stage grade type level class group hepatitis vitamin dukes category pattern zone block part specimen subtype
    factor score slide section cassette figo barrett phase antigen lesion clark zona variant and or to"""
)
# Words that usually open a sentence, so that "… H.E. The", "stage C. There" and "et al. In" end one.
_OPENERS = _words(
    """the a an this these those that there it its they no not none neither in on of at by for from with within without
    all both each some several many multiple most other others additional additionally however although though while
    moreover furthermore notably importantly overall also examination microscopic microscopically microscopy
    histologically grossly macroscopically immunohistochemistry immunohistochemical tumor tumour tumors tumours
    carcinoma margins margin lymph lymphovascular vascular perineural surgical resection pathological pathologic
    pathology sections section focal foci areas necrosis invasive metastatic specimen patient he she we one two three
    four five six findings further as if when where after before here given"""
)
# Words after which a wrapped line goes on even if the next line starts with a capital or a digit.
_DANGLING = _words(
    """a an the of and or with without in on at by to from for as is are was were be been measuring measures showing
    shows than into per no not approximately about x × - – / ( , which that"""
)

# A line this long, ending in the middle of a sentence, was wrapped by a typewriter or a PDF; a shorter one is an item.
_WRAP_WIDTH = 40

# A semicolon ends a sub-caption where what follows turns it ("…; however, no perineural invasion is seen").
_AFTER_SEMICOLON = _words(
    "however but no not neither there although while nevertheless otherwise additionally furthermore"
)

_SEPARATORS = re.compile(r"</s>|<br\s*/?>", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[•●▪■◦‣⁃·*–—-]+\s+|[•●▪■◦‣⁃]+|[-–—*](?=[^\W_]))(?=\S)")
_NUMBERING = re.compile(r"^\s*[(\[]?(?:\d{1,2}|[A-Za-z]|[ivxIVX]{1,4})[.)\]]\s+\S")
# A run of stops with closing quotes and brackets: at white space or the end of a block; glued to a capitalised word
# ("identified.The"); a full-width stop; or a semicolon.
_CANDIDATE = re.compile(
    r"""[.!?…]+["'”’»)\]]*(?=\s|$)|(?<=[a-z]{3})\.(?=[A-Z][a-z])|[。！？｡।؟]+["'”’»）」』]*|;(?=\s)"""
)
_ANSWER_BEHIND = re.compile(
    r"(?:[-–:]\s*)?(?:yes|no|none|absent|present|not (?:identified|seen|present)|ja|nein|keine|oui|non|sí|si)(?!\w)"
    r"[.;,]?(?:\s+[A-ZÄÖÜÉ]|\s*$)",
    re.IGNORECASE,
)
_SHORT_ANSWER = re.compile(r"^(?!.*\b(?:is|are|was|were|shows?|with|there|of|and)\b)[^.]{2,40}[:\s]no$")
# Two lines of a form: "Necrosis: +/-" does not go on in "Mucin: n/a".
_ANSWERED = re.compile(r"[^\W\d_][^:：.;\n]{1,60}[:：]\s*\S")
_LEFT_WORD = re.compile(r"[^\s(\[{\"“‘'«,;:/]+$")
_WORD = re.compile(r"[^\W\d_]{2,}")
_DOTTED = re.compile(r"^(?:[^\W\d_]\.)+[^\W\d_]$")
_ROMAN = re.compile(r"^[IVX]{1,4}$")


def split_sentences(text: str) -> list[str]:
    """Split clinical prose into sentences, each with its own full stop.

    Never cut: decimals, stages, abbreviations ("e.g.", "approx.", "Dr.", "No. 3"), initials, list numbers ("1. …"
    stays with its item), text in brackets. Cut: at sentence ends, at blank lines, at line ends unless the line
    plainly goes on, at ``</s>``, and at a semicolon before a turn ("; however, …", "; no …"). White space inside a
    sentence becomes single spaces; bullets and ``</s>`` are dropped; nothing else is lost. Text without a letter or
    digit gives [].

    Args:
        text: a caption or report, any language written with ``. ! ?`` or their full-width forms.

    Returns:
        Sentences in reading order, none empty.
    """
    pieces: list[str] = []
    for block in _blocks(text):
        start = 0
        for end in [*_ends(block), len(block)]:
            piece = " ".join(block[start:end].split())
            start = end
            if not piece:
                continue
            if not any(character.isalnum() for character in piece):  # stray punctuation belongs to its neighbour
                if pieces:
                    pieces[-1] = f"{pieces[-1]} {piece}"
                else:
                    pieces.append(piece)
            elif pieces and not any(character.isalnum() for character in pieces[-1]):
                pieces[-1] = f"{pieces[-1]} {piece}"
            else:
                pieces.append(piece)
    if len(pieces) == 1 and not any(character.isalnum() for character in pieces[0]):
        return []
    return pieces


def _blocks(text: str) -> Iterator[str]:
    """Runs of lines that belong together: wrapped lines are joined, everything else stands alone."""
    for part in _SEPARATORS.split(text):
        block, width = "", 0
        for raw in part.splitlines():
            line = _BULLET.sub("", raw).strip()
            if block and line and line == raw.strip() and _goes_on(block, line, wrapped=width >= _WRAP_WIDTH):
                block, width = f"{block} {line}", len(line)
                continue
            if block:
                yield block
            block, width = line, len(line)
        if block:
            yield block


def _goes_on(block: str, line: str, wrapped: bool) -> bool:
    """Whether ``line`` continues the sentence at the end of ``block``, whose last line may be ``wrapped``."""
    if _NUMBERING.match(line) or (_ANSWERED.match(block) and _ANSWERED.match(line)):
        return False
    if ("\t" in block and "\t" in line) or (re.search(r"\s[+±−–-]+$", block) and re.search(r"\s[+±−–-]+$", line)):
        return False  # rows of a table
    last = block.split()[-1].lower()
    if last == "no" and _SHORT_ANSWER.search(block):  # "Ulceration no", and a line of its own behind it
        return False
    if (
        last[-1] in ",(["
        or re.search(r"\w[-–/]$", last)
        or last in _DANGLING
        or last.rstrip(".") in _OPEN_ABBREVIATIONS
    ):
        return True
    if last[-1] == ":":  # a heading and its text
        return True
    return wrapped and last[-1] not in ".!?;。！？" and line[0].islower() and not re.match(r"[a-z]{1,2}[A-Z]", line)


def _ends(block: str) -> Iterator[int]:
    """Offsets at which a sentence of ``block`` ends."""
    start, scanned, open_brackets = 0, 0, 0
    for match in _CANDIDATE.finditer(block):
        if match.end() == len(block):
            return
        for character in block[scanned : match.end()]:
            open_brackets = max(0, open_brackets + (character in "([") - (character in ")]"))
        scanned = match.end()
        if open_brackets and _closes_soon(block, match.end()):
            continue
        if _is_end(block, start, match):
            yield match.end()
            start, open_brackets = match.end(), 0


def _closes_soon(block: str, position: int, within: int = 300) -> bool:
    """Whether a bracket opened before ``position`` is closed near it; a forgotten bracket must not glue a report."""
    rest = block[position : position + within]
    return ")" in rest or "]" in rest


def _is_end(block: str, start: int, match: re.Match[str]) -> bool:
    """Whether the stop at ``match`` ends the sentence that began at ``start``."""
    stop = match.group()[0]
    if _is_leader(block, match):
        return False
    left, right = block[start : match.start()], block[match.end() :].lstrip()[:60]
    if stop == ";" and _ANSWER_BEHIND.match(right):  # "Invasion: present; not identified"
        return False
    if stop == ";":
        following = re.match(r"\w*", right)
        return len(_WORD.findall(left)) >= 2 and following is not None and following.group().lower() in _AFTER_SEMICOLON
    if stop in "。！？｡।؟":
        return True
    if stop == "?" and _ANSWER_BEHIND.match(right):  # "Is necrosis seen? No."
        return False
    opens_low = right[0].islower() and not re.match(r"[a-z]{1,2}[A-Z]", right)  # "pT2" and "mRNA" are no low openings
    if stop in "!?…" or len(match.group().rstrip("\"'”’»)]")) > 1:
        return not opens_low
    word = _LEFT_WORD.search(left.rstrip())
    return word is None or _word_ends(word.group(), left[: word.start()], right, opens_low)


def _is_leader(block: str, match: re.Match[str]) -> bool:
    """Whether dots lead from a question to its answer: "Perineural invasion ...... Not identified"."""
    dots = len(match.group().strip()) - len(match.group().strip().lstrip("."))
    return dots >= 4 or (dots >= 2 and block[: match.start()].endswith(" "))


def _word_ends(word: str, before: str, right: str, opens_low: bool) -> bool:
    """Whether ``word`` + "." ends a sentence, given the sentence so far and what follows."""
    low, first = word.lower(), re.split(r"[\s,;:]", right, maxsplit=1)[0].strip("\"'“‘(.").lower()
    opener = first in _OPENERS and not opens_low
    if low in ("neg", "pos") and first == "for":
        return False
    if low in _OPEN_ABBREVIATIONS:
        return low in _OPEN_BEFORE_DIGIT and not re.match(r"[#(]?(?:[A-Z]{1,4}-?)?\d", right)
    if low.split("-")[-1] in _UNITS and before.rstrip()[-1:].isdigit():
        return right[0].isupper() or first not in _AFTER_UNIT
    numbering = re.fullmatch(r"\d{1,2}|[^\W\d_]|[IVX]{1,4}", word) is not None
    if numbering and (not before.strip() or before.rstrip()[-1:] == ":"):
        return False
    if low in _CLOSING_ABBREVIATIONS or _DOTTED.match(word):
        return opener or (low in ("etc", "a.m", "p.m") and not opens_low)
    if len(word) == 1 and word.isalpha():
        previous = before.split()[-1].lower().strip(",.(") if before.strip() else ""
        return not opens_low and (opener or previous in _CLASSIFIERS or _ROMAN.match(word) is not None)
    return True
