"""Does a sub-caption say what the report says? Rules that find words, numbers, denials and attributes it does not hold.

They are for sub-captions a language model makes of a report: mostly the report's own words, now and then an invention.
A sub-caption may be worded anew within limits (inflection, British or American spelling, numbers as words, order); what
goes further is flagged. So a flag means "look at this", not "false". How often it is right: docs/decompose.md.
"""

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from pathflip.text.sentences import split_sentences
from pathflip.text.sub_captions import polar_clauses

__all__ = ["Source"]

# Words that state nothing by themselves: grammar, the verbs of reports, what denies (polarity is compared apart), and
# the general words for a tumour and for tissue.
_EMPTY = frozenset(
    """a an the this that these those there it its their his her is are was were be been being am has have had having
    do does did will would can could may might should must and or nor but as at by for from in into of off on onto
    out over per than then through to toward towards under up upon via with within which who whom whose what where
    when while also both each either all any every some such other another same only very much more most less least
    well no not none without neither never absent absence lack lacks lacking negative free devoid nothing cannot
    present presence presents seen see sees identified identify found find finding findings noted note observed
    observe evident evidence detected demonstrate demonstrates demonstrated demonstrating show shows showed showing
    shown reveal reveals revealed revealing exhibit exhibits exhibited display displays displayed contain contains
    contained include includes including included indicate indicates indicated indicating describe described report
    reported confirm confirms confirmed consist consists consistent compatible feature features characterized
    characterised appear appears examination examined analysis evaluation assessment pathological pathology
    pathologic histological histologic histology microscopic microscopically diagnosis diagnosed diagnostic overall
    additionally additional furthermore notably specifically however although tumor tumors neoplasm neoplasms lesion
    lesions mass area areas region regions section sections slide specimen specimens tissue tissues sample patient
    case disease diseases sign signs type s t cm mm centimeter
    centimeters millimeter millimeters percent""".split()  # noqa: SIM905
)
_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()  # noqa: SIM905
    )
}
_SPELLING = (
    (re.compile(r"haem"), "hem"),
    (re.compile(r"aem(?=i[ac])"), "em"),
    (re.compile(r"\boe(?=dema|soph|str)"), "e"),
    (re.compile(r"(?<=[a-z]{2})our(?=s?\b|e|al|l)"), "or"),
    (re.compile(r"(?<=[a-z]{3})is(?=(?:e[ds]?|ing|ation)\b)"), "iz"),
    (re.compile(r"(?<=cent|fibr)re\b"), "er"),
    (re.compile(r"\bgrey"), "gray"),
)
# Words of one group exclude each other; which noun they stand with is what a report states.
_ATTRIBUTES = (
    "high low intermediate",
    "well moderately poorly",
    "moderate",
    "differentiated undifferentiated dedifferentiated",
    "left right bilateral",
    "focal multifocal diffuse extensive patchy widespread",
    "small large",
    "acute chronic",
    "benign malignant",
    "invasive noninvasive situ",
    "superficial deep",
    "inner outer",
    "anterior posterior",
    "upper lower",
    "medial lateral",
    "proximal distal",
    "mild severe marked minimal",
    "mature immature",
    "typical atypical",
)
_ATTRIBUTE = frozenset(word for group in _ATTRIBUTES for word in group.split())
_UNITS = {"cm": 10.0, "mm": 1.0, "centimeter": 10.0, "centimeters": 10.0, "millimeter": 1.0, "millimeters": 1.0}
_QUANTITY = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?:\s*(%|percent\b|cm\b|mm\b|centimet\w+|millimet\w+))?(?![\w]|\.\d)")
_TOKEN = re.compile(r"[^\W_]+")
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|shows?|extends?|highlights?|measures?|reveals?)\b", re.IGNORECASE)
_KINSHIP = 0.7
"""Stems that share this much of the longer one are forms of one word ("metastasi", "metastat")."""
_ENOUGH = 0.7
"""Share of a sub-caption's words that one place of the report must hold."""


class _Clause(NamedTuple):
    words: frozenset[str]
    denies: bool


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    stem: str = _stemmer().stemWord(word)
    return {"invad": "invas", "extrud": "extrus"}.get(stem, stem)


def _plain(text: str) -> str:
    """Lower case, one spelling, numbers as digits."""
    text = text.lower().replace("’", "'")
    text = re.sub(r"\b(non|intra|extra|peri|sub)-(?=[a-z])", r"\1", text)
    for pattern, spelling in _SPELLING:
        text = pattern.sub(spelling, text)
    return re.sub(r"[a-z]+", lambda match: _NUMBER_WORDS.get(match.group(), match.group()), text)


@lru_cache(maxsize=16384)
def _contents(text: str) -> tuple[str, ...]:
    """Stems of the words that state something, in order; plain numbers are left to :func:`_quantities`."""
    words = _TOKEN.findall(_plain(text))
    return tuple(
        word if word in _ATTRIBUTE else _stem(word) for word in words if word not in _EMPTY and not word.isdigit()
    )


def _quantities(text: str) -> set[tuple[str, str]]:
    """(number, unit) of every number of its own; lengths in millimetres."""
    quantities = set()
    for number, unit in _QUANTITY.findall(_plain(text)):
        value = float(number)
        if unit.startswith(("cm", "mm", "cent", "mill")):
            quantities.add((f"{value * _UNITS.get(unit, 10.0 if unit[0] == 'c' else 1.0):g}", "mm"))
        else:
            quantities.add((f"{value:g}", "%" if unit else ""))
    return quantities


def _akin(first: str, second: str) -> bool:
    """Whether two stems are forms of one word."""
    if first == second:
        return True
    if first in _ATTRIBUTE or second in _ATTRIBUTE or min(len(first), len(second)) < 4:
        return False
    shared = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    return shared >= max(4, _KINSHIP * max(len(first), len(second)))


class Source:
    """A report, prepared for checking sub-captions against it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.squashed = re.sub(r"[^a-z0-9]", "", _plain(text))
        self.quantities = _quantities(text)
        self.sentences = [_contents(sentence) for sentence in split_sentences(text)]
        self._known: dict[str, frozenset[str]] = {}
        self.places = [frozenset((*a, *b)) for a, b in zip(self.sentences, [*self.sentences[1:], ()], strict=True)]

    @cached_property
    def clauses(self) -> list[_Clause]:
        """Every clause with its words and whether it denies.

        Of a clause that denies, what stands whole before its first comma counts by itself too: "The stage is T2N0,
        indicating no spread" affirms the stage.
        """
        clauses = [clause for sentence in split_sentences(self.text) for clause in polar_clauses(sentence)]
        heads = [text.partition(",")[0] for text, denies in clauses if denies and "," in text]
        clauses += [pair for head in heads if _VERB.search(head) for pair in polar_clauses(head)]
        return [_Clause(frozenset(_contents(text)), denies) for text, denies in clauses]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """All content stems of the report."""
        return frozenset(word for sentence in self.sentences for word in sentence)

    def problems(self, sub_caption: str) -> tuple[str, ...]:
        """What ``sub_caption`` says that the report does not; nothing where it is supported.

        Each entry begins with its kind: ``words`` (not in the report), ``number``, ``scattered`` (the words stand in
        the report, but nowhere together), ``attribute`` (grade, side, extent … of something else), ``denial`` (the
        report says the opposite).
        """
        words = _contents(sub_caption)
        unknown = [word for word in dict.fromkeys(words) if not self._knows(word)]
        if unknown:
            return (f"words: {', '.join(unknown)}", *self._wrong_numbers(sub_caption))
        problems = [*self._wrong_numbers(sub_caption)]
        if words and self._best_place(words) < _ENOUGH:
            problems.append("scattered: the report says these things apart")
        problems += self._wrong_attributes(words)
        problems += self._wrong_polarity(sub_caption)
        return tuple(problems)

    def coverage(self, sub_captions: Iterable[str]) -> float:
        """Share of the report's content words that some sub-caption holds."""
        covered_words = {word for sub_caption in sub_captions for word in _contents(sub_caption)}
        known = [
            word
            for word in self.vocabulary
            if word in covered_words or any(_akin(word, other) for other in covered_words)
        ]
        return len(known) / len(self.vocabulary) if self.vocabulary else 1.0

    def _forms(self, word: str) -> frozenset[str]:
        """The report's words that are forms of ``word``."""
        if word not in self._known:
            part = any(c.isdigit() for c in word) and len(word) > 1  # "pT2b" of "pT2bN0"
            akin = (o for o in self.vocabulary if _akin(word, o) or (part and o.startswith(word)))
            self._known[word] = frozenset(akin)
        return self._known[word]

    def _knows(self, word: str) -> bool:
        return bool(self._forms(word)) or (any(c.isdigit() for c in word) and word in self.squashed)

    def _held(self, wanted: Iterable[str], place: Iterable[str]) -> float:
        """Share of the words wanted that stand in a place of the report."""
        words = frozenset(place)
        near = [not words.isdisjoint(self._forms(word)) for word in wanted]
        return sum(near) / len(near)

    def _wrong_numbers(self, sub_caption: str) -> list[str]:
        bare = {number for number, unit in self.quantities}
        wrong = [
            f"{number} {unit}".strip()
            for number, unit in sorted(_quantities(sub_caption) - self.quantities)
            if unit or (number not in bare and not re.search(rf"(?<!\d){re.escape(number)}(?!\d)", _plain(self.text)))
        ]
        return [f"number: {', '.join(wrong)}"] if wrong else []

    def _best_place(self, words: tuple[str, ...]) -> float:
        return max((self._held(set(words), place) for place in self.places), default=0.0)

    def _wrong_attributes(self, words: tuple[str, ...]) -> list[str]:
        """Attributes that stand in the report beside something else only."""
        others = {word for word in words if word not in _ATTRIBUTE}
        wrong = []
        for place, word in enumerate(words):
            if word in _ATTRIBUTE and others:
                noun = next((other for other in words[place + 1 :] if other not in _ATTRIBUTE), None)
                if not any(self._goes_with(word, noun, others, sentence) for sentence in self.sentences):
                    wrong.append(word)
        return [f"attribute: {', '.join(dict.fromkeys(wrong))}"] if wrong else []

    def _goes_with(self, attribute: str, noun: str | None, others: set[str], sentence: tuple[str, ...]) -> bool:
        """Whether a sentence has the attribute closely before its noun, or with most of what it is said of."""
        if attribute not in sentence:
            return False
        after = (sentence[i + 1 : i + 4] for i, word in enumerate(sentence) if word == attribute)
        close = noun is not None and any(self._held([noun], words) for words in after)
        return close or self._held(others, sentence) >= _ENOUGH

    def _wrong_polarity(self, sub_caption: str) -> list[str]:
        """Clauses whose like in the report all have the other sign."""
        for text, denies in polar_clauses(sub_caption):
            wanted = set(_contents(text))
            if not wanted:
                continue
            held = [(self._held(wanted, clause.words), clause.denies) for clause in self.clauses]
            best = max((share for share, _ in held), default=0.0)
            if best >= _ENOUGH and all(sign != denies for share, sign in held if share >= best - 1e-9):
                return ["denial: the report says the opposite"]
        return []
