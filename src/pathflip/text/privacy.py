"""What a tokenizer must not learn: words of identifiers, and words that only one report holds.

A vocabulary is saved with the model and travels with it. A surname that became a token would be published with it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from pathflip.text.decompose.identifiers import find_identifiers

__all__ = ["FEWEST_REPORTS", "identifier_note", "without_private_words"]

FEWEST_REPORTS = 20
"""From so many reports on, a word must stand in two of them to shape the vocabulary."""
_WORD = re.compile(r"[^\W_]+")
_COMMON = frozenset(
    """the a an of and or in on at by for from with dr drs mr mrs ms prof doctor professor patient name surname
    physician surgeon pathologist signed reported date dated received number no is was case record medical accession
    hospital specimen""".split()  # noqa: SIM905
)


def identifier_note(texts: Iterable[str]) -> str:
    """One line on what in texts to train on may tell who somebody is; "" where nothing was seen."""
    kinds: Counter[str] = Counter()
    reports = total = 0
    for text in texts:
        seen = find_identifiers(text)
        kinds.update(one.kind for one in seen)
        reports, total = reports + bool(seen), total + 1
    if not reports:
        return ""
    counted = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common())
    return (
        f"{reports} of {total} training texts hold what may tell who somebody is ({counted}): a model learns from it; "
        "'pathflip decompose --redact' takes it out"
    )


def without_private_words(reports: Iterable[Sequence[str]]) -> list[str]:
    """The texts of all reports without the words that may tell who somebody is.

    Left out everywhere: the words of names, dates and numbers that :func:`find_identifiers` knows by a title, a label
    or their form, unless three other reports hold them elsewhere; and, among 20 reports or more, words of a single
    report.

    Args:
        reports: for each report its texts (the report, and the contents of its sub-captions).
    """
    listed = [list(texts) for texts in reports]
    words_of = [Counter(word for text in texts for word in _words(text)) for texts in listed]
    frequency = Counter(word for words in words_of for word in words)
    named: Counter[str] = Counter()
    for texts in listed:
        inside = {word for text in texts for one in find_identifiers(text) for word in _words(one.text)}
        named.update(inside - _COMMON)
    private = {word for word, count in named.items() if frequency[word] - count < 3}
    if len(listed) >= FEWEST_REPORTS:
        single = {word for word, count in frequency.items() if count == 1}
        private |= {word for word in single if not word.isdigit() or len(word) > 3}
    if not private:
        return [text for texts in listed for text in texts]
    return [_without(text, private) for texts in listed for text in texts]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _without(text: str, private: set[str]) -> str:
    return _WORD.sub(lambda match: " " if match.group().lower() in private else match.group(), text)
