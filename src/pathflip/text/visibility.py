"""What this slide cannot show, and why: margins, nodes, stage, size, history, stains that are not on it.

The words are in :mod:`pathflip.text.cues`, by language. A clause without a subject of its own shares the fate of the
clause before it ("The nodes are reactive, without malignancy").
"""

import re
from functools import lru_cache

from pathflip.text.cues import LANGUAGES, cues_of

__all__ = ["kinds_of", "not_visual_kind", "without_asides"]

# In brackets, or (stage) at the end behind a comma, these kinds are cut away from an otherwise visible sentence.
_ASIDES = ("stage", "size", "nodes", "receptors", "margins")


@lru_cache(maxsize=len(LANGUAGES))
def _compiled(language: str) -> tuple[list[tuple[str, re.Pattern[str]]], re.Pattern[str], re.Pattern[str]]:
    cues = cues_of(language)
    kinds = [(kind, re.compile(pattern)) for kind, pattern in cues.not_visual_cased.items()]
    kinds += [(kind, re.compile("|".join(patterns), re.IGNORECASE)) for kind, patterns in cues.not_visual.items()]
    anyway = re.compile("|".join(cues.visible_anyway) or r"(?!)", re.IGNORECASE)
    return kinds, anyway, re.compile(cues.dependent, re.IGNORECASE)


@lru_cache(maxsize=65536)
def not_visual_kind(text: str, language: str = "en") -> str | None:
    """Why a slide cannot show ``text`` ("margins", "nodes", "stage", …), or None if it can."""
    kinds, anyway, _ = _compiled(language if language in LANGUAGES else "en")
    rest = anyway.sub(" ", text)
    return next((kind for kind, pattern in kinds if pattern.search(rest)), None)


def kinds_of(clauses: list[str], language: str = "en") -> list[str | None]:
    """Why each clause cannot be seen; one without a subject inherits from the clause before it."""
    dependent = _compiled(language if language in LANGUAGES else "en")[2]
    kinds: list[str | None] = []
    for clause in clauses:
        kind = not_visual_kind(clause, language)
        if kind is None and kinds and dependent.match(clause):
            kind = kinds[-1]
        kinds.append(kind)
    return kinds


def without_asides(text: str, language: str = "en") -> str:
    """The sentence without bracketed or trailing stage, size and count fragments."""

    def aside(match: re.Match[str]) -> str:
        return "" if not_visual_kind(match.group(), language) in _ASIDES else match.group()

    parts = re.split(r"(,\s+)", re.sub(r"\s*\([^()]*\)", aside, text))
    while len(parts) > 2 and not_visual_kind(parts[-1], language) == "stage" and len(parts[-1].split()) <= 6:
        del parts[-2:]
    return "".join(parts)
