"""Which sentences cannot stand in one caption: two about one finding, or two that say different things of the tumour.

Rules over words, on the side of leaving out: a caption that lacks a true sentence is poorer, one that contradicts
itself is wrong.
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from pathflip.text.known_words import content_words, word_tokens
from pathflip.types import SubCaption
from pathflip.verify.lexicon import Lexicon, denied_phrases, exchangeable, subjects
from pathflip.verify.scores import Knowledge

__all__ = ["CONTRADICTIONS", "Topic", "clash", "clashes", "topic_of"]

_ENTITY = re.compile(
    r"\b\w*(?:carcinom|sarcom|lymphom|melanom|adenom|gliom|blastom|astrocytom|myelom|thymom|mesotheliom|seminom|"
    r"papillom|fibrom|lipom|leiomyom|hamartom|haemangiom|hemangiom|meningiom|schwannom|teratom|insulinom|ependymom|"
    r"leukaemi|leukemi|metasta|naev|nev(?=us|i\b)|polyp|hyperplas|dysplas|karzinom)\w*"
)
_MALIGNANT = re.compile(
    r"\b\w*(?:carcinom|karzinom|sarcom|lymphom|melanom|gliobl|blastom|myelom|mesotheliom|seminom|leukaemi|leukemi|metasta|"
    r"malignan|neoplas|cancer|invasive tum)\w*|\btumou?rs?\b"
)
_BENIGN = re.compile(r"\b(?:benign|gutartig\w*|normal (?:tissue|histology|limits)|tumou?r-free)\b")
_NOT_OF_THE_TYPE = frozenset(
    """grade high low intermediate well moderately poorly differentiated undifferentiated diagnosis consistent focal
    extensive multifocal diffuse residual primary malignant histologically there within composed arranged pattern
    glandular nested growth architecture confirms confirm features appearances classified represents identified
    predominantly solid acinar cribriform trabecular""".split()  # noqa: SIM905
)
_TYPE_WORDS = 3
_AS_SUCH = frozenset({"residual", "viable", "invasive", "any", "obvious", "primary", "definite", "evidence", "of"})
_GRADES = (
    (1, r"well[- ]differentiated|low[- ](?:nuclear )?grade|grade\s*:?\s*(?:1|i)\b|\bg1\b|gut differenziert\w*"),
    (2, r"moderately[- ](?:well[- ])?differentiated|intermediate[- ](?:nuclear )?grade|grade\s*:?\s*(?:2|ii)\b|\bg2\b"),
    (
        3,
        r"poorly[- ]differentiated|high[- ](?:nuclear )?grade|grade\s*:?\s*(?:3|iii)\b|\bg3\b|"
        r"schlecht differenziert\w*",
    ),
    (4, r"undifferentiated|anaplastic|grade\s*:?\s*(?:4|iv)\b|\bg4\b"),
)
_PLACES = {
    "left": "left", "right": "right", "upper": "upper", "top": "upper", "superior": "upper", "lower": "lower",
    "bottom": "lower", "inferior": "lower", "central": "centre", "centrally": "centre", "centre": "centre",
    "center": "centre", "middle": "centre", "peripheral": "edge", "periphery": "edge", "edge": "edge",
    "scattered": "spread", "multifocal": "spread", "multifocally": "spread", "diffuse": "spread",
    "diffusely": "spread", "throughout": "spread", "several": "spread",
}  # fmt: skip
OVERLAP = 1 / 3
"""Fraction of the content words of the shorter of two sentences that the other holds: both speak of one thing."""
STEM = 5
"""Letters in which words count as one: nucleus, nuclei, nuclear."""
_SCORE = re.compile(r"\b(?:gleason|nottingham|isup|fuhrman)\b[^.;]*?((?:\d+\s*[+/=]?\s*)+)")


@dataclass(frozen=True)
class Topic:
    """What a sentence speaks of.

    Attributes:
        negated: it states an absence. findings: groups of the findings it names; tumour: it names the tumour as one.
        denied: words of each thing it denies. words: all its words. content: beginnings of those that say something
            beside place and diagnosis.
        entity: the diagnosis it affirms, in words ("" for none). grades: what it says of the grade.
        malignant, benign: it says so. attributes: phrases with alternatives, by the group of alternatives they are of.
        place: words of the compass.
    """

    negated: bool
    findings: frozenset[int]
    tumour: bool
    denied: tuple[frozenset[str], ...]
    words: frozenset[str]
    content: frozenset[str]
    entity: str
    grades: frozenset[str]
    malignant: bool
    benign: bool
    attributes: Mapping[str, frozenset[str]]
    place: frozenset[str]


def topic_of(sub_caption: SubCaption, knowledge: Knowledge) -> Topic:
    """What a decided sub-caption speaks of."""
    lexicon, content = knowledge.lexicon, sub_caption.content
    named = subjects(content, lexicon)
    whole = {row for row in named if not content_words(lexicon.findings[row].name)}
    whole |= {row for row in named if _MALIGNANT.fullmatch(lexicon.findings[row].name)}
    groups = {knowledge.groups[row] for row in named} - {knowledge.groups[row] for row in whole}
    malignant = _MALIGNANT.search(content) is not None
    negated = sub_caption.negated
    return Topic(
        negated=negated,
        findings=frozenset(groups),
        tumour=bool(whole),
        denied=tuple(frozenset(word_tokens(p)) for p in denied_phrases(sub_caption)) if negated else (),
        words=frozenset(word_tokens(content)),
        content=frozenset(w[:STEM] for w in content_words(content) if w not in _PLACES and not _ENTITY.match(w)),
        entity="" if negated else _entity(content),
        grades=frozenset() if negated else _grades(content),
        malignant=malignant and not negated,
        benign=_denies_malignancy(sub_caption) if negated else _BENIGN.search(content) is not None,
        attributes=_attributes(content, lexicon),
        place=frozenset(_PLACES[word] for word in word_tokens(content) if word in _PLACES),
    )


CONTRADICTIONS = frozenset({"presence", "malignancy", "diagnosis", "grade", "attribute", "place"})


def clash(first: Topic, second: Topic) -> str:
    """Why two sentences cannot stand together; "" where they can.

    "same finding", "same words" and "same attribute" say it twice; the others are what they contradict each other in
    (:data:`CONTRADICTIONS`).
    """
    if any(_denies(one, other) for one, other in ((first, second), (second, first))):
        return "presence"
    if first.findings & second.findings:
        return "same finding"
    if (first.benign and (second.malignant or second.grades)) or (second.benign and (first.malignant or first.grades)):
        return "malignancy"
    if first.entity and second.entity and not _same_entity(first.entity, second.entity):
        return "diagnosis"
    if first.grades and second.grades and not first.grades & second.grades:
        return "grade"
    if first.negated != second.negated or first.findings or second.findings:
        return ""
    return _same_or_other_attribute(first, second)


def _same_or_other_attribute(first: Topic, second: Topic) -> str:
    """What two sentences of one polarity say of the same thing, where neither names a finding."""
    if not first.negated:
        both = [
            (first.attributes[kind], second.attributes[kind]) for kind in first.attributes.keys() & second.attributes
        ]
        if any(not one & other for one, other in both):
            return "attribute"
        if first.place and second.place and first.place != second.place:
            return "place"
        if both or (first.place and second.place):
            return "same attribute"
    shorter = min(len(first.content), len(second.content))
    if not shorter:  # "Sections show melanoma."
        return "same words" if first.entity and second.entity else ""
    return "same words" if len(first.content & second.content) >= OVERLAP * shorter else ""


def _denies_malignancy(sub_caption: SubCaption) -> bool:
    """Whether a denial is of malignancy as such ("no residual tumour"), not of one form or place of it."""
    return any(
        all(_MALIGNANT.fullmatch(word) or word in _AS_SUCH for word in word_tokens(phrase))
        for phrase in denied_phrases(sub_caption)
    )


def _denies(one: Topic, other: Topic) -> bool:
    """Whether the first denies what the second affirms."""
    if not one.negated or other.negated:
        return False
    return any(phrase and phrase <= other.words for phrase in one.denied)


def _entity(content: str) -> str:
    """The diagnosis a text names: its head word with up to three words before it that tell its type."""
    match = _ENTITY.search(content)
    if match is None:
        return ""
    before: list[str] = []
    for word in reversed(word_tokens(content[: match.start()])):
        if len(before) == _TYPE_WORDS or not content_words(word) or word in _NOT_OF_THE_TYPE:
            break
        before.insert(0, word)
    return " ".join([*before, match.group()])


def _same_entity(first: str, second: str) -> bool:
    """Whether one names the other, more or less exactly: "carcinoma", "adenocarcinoma"."""
    return first.endswith(second) or second.endswith(first)


def _grades(content: str) -> frozenset[str]:
    levels = {str(level) for level, words in _GRADES if re.search(rf"\b(?:{words})", content)}
    scores = {re.sub(r"\s", "", match.group(1)) for match in _SCORE.finditer(content)}
    return frozenset(levels or scores)


def _attributes(content: str, lexicon: Lexicon) -> dict[str, frozenset[str]]:
    group_of = _groups_of_alternatives(tuple(sorted(lexicon.alternatives.items())))
    phrases: dict[str, set[str]] = {}
    for phrase in (one for one in exchangeable(content, lexicon) if not _PLACES.keys() & set(one.split())):
        phrases.setdefault(group_of[phrase], set()).add(phrase)
    return {group: frozenset(own) for group, own in phrases.items()}


@lru_cache(maxsize=8)
def _groups_of_alternatives(alternatives: tuple[tuple[str, tuple[str, ...]], ...]) -> dict[str, str]:
    """Phrase -> the first of all phrases it can be exchanged for, directly or over others: grades, places, patterns."""
    group: dict[str, str] = {}
    for phrase, others in alternatives:
        members = {phrase, *others}
        joined = {group.get(one, one) for one in members}
        first = min(joined)
        group |= dict.fromkeys(members, first)
        group |= {one: first for one, of in group.items() if of in joined}
    return group


def clashes(topic: Topic, others: Sequence[Topic], of: Set[str] | None = None) -> str:
    """The first reason (of those named in ``of``) why a sentence cannot stand beside others; "" where it can."""
    reasons = (clash(topic, one) for one in others)
    return next((why for why in reasons if why and (of is None or why in of)), "")
