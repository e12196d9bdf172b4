"""Word lists for reading reports: what denies, what doubts, what a slide cannot show; one file a language.

Each file names where its words come from. They are regular expressions matched in any case, kept as data so that a
pathologist can read and correct them. English is complete; the other languages hold the wordings of routine reports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module

__all__ = ["LANGUAGES", "NEXT_SENTENCE", "Cues", "cues_of"]

LANGUAGES = ("en", "de", "fr", "es", "ja")
"""Languages with a table. Text in any other one is undecided."""

_OPEN_ABBREVIATIONS = (
    "dr",
    "drs",
    "prof",
    "mr",
    "mrs",
    "ms",
    "vs",
    "fig",
    "ca",
    "st",
    "hosp",
    "dra",
    "mme",
)
NEXT_SENTENCE = (
    r"(?<=[a-zäöüßéèñ]{2})" + "".join(rf"(?<!\b{word})" for word in _OPEN_ABBREVIATIONS) + r"\.\s+(?=(?-i:[A-ZÄÖÜÉ]))"
)
"""A break of polarity: a full stop that a capital follows, but not that of "Dr. Hall"."""


@dataclass(frozen=True)
class Cues:
    """The tables of one language.

    Attributes:
        not_visual: reason -> wordings of what this slide cannot show.
        findings: words of a diagnosis or a microscopic finding.
        empty: wordings that state no finding, unless a word of ``findings`` stands beside them.
        not_visual_cased: the same where capitals matter ("ER", not "er").
        visible_anyway: wordings that hold one of those and are visible all the same.
        denials: (wording, positive counterpart), tried in this order.
        pseudo: wordings that hold a denial word and deny nothing, and double denials.
        doubts: wordings that leave a finding open, whatever else stands in the clause.
        hedges: the same, unless a denial stands before them ("nothing suspicious").
        breaks: where polarity may change within a sentence.
        dependent: how a clause without a subject of its own begins.
        frame: words that alone state nothing a slide could show.
        degrees: words of degree: a denial of one ("not extensive") denies no finding.
        yes, no, open, blank: answers behind "finding:"; ``blank`` ones say nothing.
        predicates: words that end a telegraphic item ("mitoses frequent").
        verbs: finite verbs, by which a clause of its own is told.
    """

    not_visual: Mapping[str, tuple[str, ...]]
    denials: tuple[tuple[str, str], ...]
    pseudo: tuple[str, ...]
    doubts: tuple[str, ...]
    hedges: tuple[str, ...]
    breaks: tuple[str, ...]
    frame: frozenset[str]
    yes: tuple[str, ...]
    no: tuple[str, ...]
    open: tuple[str, ...]
    blank: tuple[str, ...]
    degrees: frozenset[str] = frozenset()
    predicates: frozenset[str] = frozenset()
    verbs: str = r"(?!)"
    dependent: str = r"(?!)"
    visible_anyway: tuple[str, ...] = ()
    findings: str = r"(?!)"
    empty: Mapping[str, str] = field(default_factory=dict)
    not_visual_cased: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=len(LANGUAGES))
def cues_of(language: str) -> Cues:
    """The tables of a language; those of English where there are none (such text is undecided anyway)."""
    name = language if language in LANGUAGES else "en"
    cues: Cues = import_module(f"pathflip.text.cues.{name}").CUES
    return cues
