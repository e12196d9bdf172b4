"""Refuse a query whose words the model cannot read: another language, or no word it knows."""

import re

from pathflip.errors import CaptionError
from pathflip.inference import Aligned
from pathflip.text.language_detection import language_of

__all__ = ["check_words", "foreign_language"]

_WORD = re.compile(r"[^\W\d_]{2,}")
_NAMES = {
    "de": "German", "fr": "French", "es": "Spanish", "ja": "Japanese", "zh": "Chinese", "ru": "Russian",
    "it": "Italian", "pt": "Portuguese", "nl": "Dutch", "mixed": "of several languages",
}  # fmt: skip
ENOUGH = 0.5
"""Of the words of a query that seems to be in another language, the fraction the model must know."""


def check_words(model: Aligned, text: str) -> None:
    """Refuse a query the model cannot read.

    A word is known if the tokenizer, trained on the reports the model learned from, has it whole, or in two pieces of
    which the first has three letters at least. A language other than English is refused unless the model knows half
    of the words: then it was trained on reports in that language.

    Raises:
        CaptionError: no word, no known word, or another language.
    """
    words = [word.lower() for word in _WORD.findall(text)]
    if not words:
        raise CaptionError(f"query {text[:40]!r}: holds no word; expected for example  'keratin pearls are seen'")
    known = [word for word in words if _is_known(model, word)]
    if not known:
        raise CaptionError(
            f"query {text[:40]!r}: the model knows none of its words; use words of the reports it was trained on"
        )
    language = foreign_language(text, len(known) / len(words))
    if language:
        raise CaptionError(
            f"query {text[:40]!r}: seems to be {language}, and the model knows {len(known)} of its {len(words)} words; "
            "ask in the language of the reports it was trained on"
        )


def foreign_language(text: str, known_fraction: float) -> str:
    """The language a text seems to be in, as a word; "" for English, and where the model knows enough of its words."""
    language = language_of(text)
    return "" if language == "en" or known_fraction >= ENOUGH else _NAMES.get(language, "another language")


def _is_known(model: Aligned, word: str) -> bool:
    backend = model.checkpoint.tokenizer.backend
    for form in (word, f" {word}"):
        tokens = backend.encode(form, add_special_tokens=False).tokens
        pieces = [token.lstrip("#Ġ▁") for token in tokens]
        if len(pieces) == 1 and pieces[0].lower() == word:
            return True
        if len(pieces) == 2 and len(pieces[0]) >= 3:
            return True
    return False
