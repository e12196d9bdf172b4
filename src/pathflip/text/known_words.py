"""Which words of a text say something, and which of them a model was trained on. Plain Python, no model."""

import re
from collections.abc import Iterable

__all__ = ["FRAME", "UNKNOWN_WORDS", "content_words", "holds_no_known_word", "unknown_fraction", "word_tokens"]

_TOKEN = re.compile(r"[^\W_]+(?:[-'’./][^\W_]+)*|[^\w\s]")
FRAME = frozenset(
    """a an the this these that there it its is are was were be been has have had of in on at by for from to with
    without any as well also or and nor no not none neither either both evidence sign signs presence present seen
    identified noted observed found detected evident demonstrated appreciated visible shown can could positive
    contain contains containing show shows showing reveal reveals exhibit exhibits tissue section sections slide
    sample specimen biopsy material background definite obvious significant some something tumour tumor here
    involved features""".split()  # noqa: SIM905
)
"""Words that surround a finding and are no part of it."""
UNKNOWN_WORDS = (
    "the model saw none of these words in training (another language, or another organ?): the score means nothing"
)


def word_tokens(text: str) -> list[str]:
    """Words, numbers and signs of a text, lower case."""
    return _TOKEN.findall(text.lower())


def content_words(text: str) -> list[str]:
    """Words of a text that are neither frame nor number, lower case."""
    return [w for w in word_tokens(text) if w not in FRAME and w[0].isalpha() and len(w) > 1]


def unknown_fraction(text: str, words: Iterable[str]) -> float:
    """Fraction of a sub-caption's content words that no training caption holds; 1 where it has none at all.

    A word counts as known when it stands there in singular or plural, Latin and Greek ones included (mitosis, mitoses;
    nucleus, nuclei). Another spelling ("tumor" for "tumour") and a slip of the pen do not: a model reads them as other
    words than those it learnt.
    """
    known = words if isinstance(words, (set, frozenset)) else set(words)
    own = content_words(text)
    missing = [word for word in own if not (_singular_and_plural(word) & known)]
    return len(missing) / len(own) if own else 1.0


_ENDINGS = (
    ("", "s"), ("", "es"), ("y", "ies"), ("is", "es"), ("us", "i"), ("um", "a"), ("a", "ae"), ("a", "ata"),
)  # fmt: skip


def _singular_and_plural(word: str) -> set[str]:
    """A word with what may be its singular or its plural."""
    forms = {word}
    for singular, plural in _ENDINGS:
        if word.endswith(plural) and len(word) > len(plural) + 2:
            forms.add(word.removesuffix(plural) + singular)
        if word.endswith(singular) and len(word) > len(singular) + 2:
            forms.add(word[: len(word) - len(singular)] + plural)
    return forms


def holds_no_known_word(text: str, words: Iterable[str] | None) -> bool:
    """Whether a text has no content word among ``words``; False where these are not known (None).

    Words count as the tokenizer splits them, at hyphens and dots. Of a text of frame words alone ("tumour is seen")
    one of these must be known.
    """
    if words is None:
        return False
    apart = re.sub(r"[-'’./]", " ", text)
    if content_words(apart):
        return unknown_fraction(apart, words) == 1
    return not any(word in words for word in word_tokens(apart))
