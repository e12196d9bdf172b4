"""What a laboratory's own captions teach about its words: which it uses, which findings it looks for, and which
attributes exclude one another.

Three lists, all read off the training captions and kept with the calibration. **Words**: a sentence of mostly other
words (another language, another organ) cannot be judged. **Findings**: what reports deny they also look for ("no
necrosis"), so the denied noun phrases are a vocabulary of what a report may have left out. **Alternatives**: phrases
that stand in one another's place in otherwise equal sentences ("well differentiated", "poorly differentiated"); a
sub-caption is compared with the same sentence saying something else. Plain Python, no model.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations

from pydantic import BaseModel, ConfigDict

from pathflip.text.known_words import FRAME, content_words, word_tokens
from pathflip.types import Caption, SubCaption

__all__ = [
    "Finding",
    "Lexicon",
    "denied_phrases",
    "exchangeable",
    "learn_lexicon",
    "rewordings",
    "subjects",
]

MIN_CAPTIONS = 2
"""A phrase counts as a finding that is looked for when so many captions deny it."""
MINFRAMES = 3
"""Two phrases count as alternatives when they stand in one another's place in so many contexts."""
CONTEXT_WORDS = 3
"""Words on either side that make a context; whole sentences repeat too rarely in real reports."""
LONGEST_PHRASE = 4
MOST_ALTERNATIVES = 8
MOST_SLOTS = 4
ASKS = 4
"""Wordings in which presence of a finding is asked, averaged."""
EDGE = ("<", ">")

_NUMBER = re.compile(r"\d+(?:[.,]\d+)?$")
_JOINED = re.compile(r"\s*(?:,|;|\bor\b|\band\b|\bnor\b)\s*")
_KEPT_ALONE = frozenset({"tumour", "tumor"})
"""Frame words that are a finding where nothing else is left ("no tumour is seen")."""
_ENDINGS = frozenset({"tissue"})
"""Frame words that belong to a finding when they close it ("adipose tissue")."""


class Finding(BaseModel):
    """A finding that reports look for.

    Attributes:
        name: the phrase, as the captions write it.
        asks: sub-captions of its presence, in the captions' own words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    asks: tuple[str, ...]


class Lexicon(BaseModel):
    """Words, findings and alternatives of a set of captions.

    Attributes:
        words: every content word that stands in a visual sub-caption.
        findings: what reports deny in at least ``MIN_CAPTIONS`` captions, most frequent first.
        alternatives: phrase -> phrases that can stand in its place and mean something else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: frozenset[str]
    findings: tuple[Finding, ...]
    alternatives: dict[str, tuple[str, ...]]


def learn_lexicon(captions: Sequence[Caption]) -> Lexicon:
    """Read the three lists off captions (training captions: the model knows no other words)."""
    visual = [s for caption in captions for s in caption.sub_captions if s.decided]
    words = frozenset(word for sub_caption in visual for word in content_words(sub_caption.content))
    findings = _findings(captions)
    topics = {finding.name for finding in findings}
    return Lexicon(words=words, findings=findings, alternatives=_alternatives(visual, topics))


def denied_phrases(sub_caption: SubCaption) -> list[str]:
    """The noun phrases of a denial: "neither necrosis nor calcification is seen" gives both.

    The given concept where there is one, else what is left of each part when frame words are taken from its ends.
    """
    if sub_caption.concept:
        return [sub_caption.concept]
    phrases = []
    for part in _JOINED.split(sub_caption.content):
        words = word_tokens(part)
        inner = _stripped(words)
        phrase = " ".join(inner) or next((w for w in words if w in _KEPT_ALONE), "")
        if phrase and len(inner) <= LONGEST_PHRASE and not _NUMBER.match(phrase):
            phrases.append(phrase)
    return phrases


def rewordings(content: str, lexicon: Lexicon) -> list[list[str]]:
    """A sub-caption with one phrase replaced by its alternatives: a list of rewordings for each such phrase.

    Longer phrases come first, and a phrase within one already taken is passed over ("well differentiated" is
    replaced whole, not "well" alone).
    """
    words = word_tokens(content)
    return [
        [_written([*words[:a], *other.split(), *words[b:]]) for other in lexicon.alternatives[" ".join(words[a:b])]]
        for a, b in _slots(words, lexicon)
    ]


def exchangeable(content: str, lexicon: Lexicon) -> list[str]:
    """The phrases of a sub-caption that have alternatives."""
    words = word_tokens(content)
    return [" ".join(words[a:b]) for a, b in _slots(words, lexicon)]


def subjects(content: str, lexicon: Lexicon) -> list[int]:
    """Which findings of the vocabulary a sub-caption names, by its words, in the order of their first mention.

    A name within a longer one is none ("necrosis" in "coagulative necrosis"), unless it stands elsewhere too.
    """
    words = tuple(word_tokens(content))
    rows_of = _rows_by_name(tuple(finding.name for finding in lexicon.findings))
    taken = [False] * len(words)
    named: list[tuple[int, int]] = []
    for length in sorted({len(name) for name in rows_of}, reverse=True):
        for start in range(len(words) - length + 1):
            rows = rows_of.get(words[start : start + length])
            if rows is not None and not all(taken[start : start + length]):
                taken[start : start + length] = [True] * length
                named += [(start, row) for row in rows]
    return list(dict.fromkeys(row for _, row in sorted(named)))


@lru_cache(maxsize=8)
def _rows_by_name(names: tuple[str, ...]) -> dict[tuple[str, ...], list[int]]:
    """Rows of the findings by the words of their names."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(tuple(word_tokens(name)), []).append(row)
    return rows


def _slots(words: Sequence[str], lexicon: Lexicon) -> list[tuple[int, int]]:
    """Where phrases with alternatives stand, longest first, none within another."""
    spans = sorted(
        ((a, b) for a in range(len(words)) for b in range(a + 1, min(a + LONGEST_PHRASE, len(words)) + 1)),
        key=lambda span: (span[0] - span[1], span[0]),
    )
    taken: set[int] = set()
    slots: list[tuple[int, int]] = []
    for a, b in spans:
        if lexicon.alternatives.get(" ".join(words[a:b])) and not taken & set(range(a, b)) and len(slots) < MOST_SLOTS:
            taken |= set(range(a, b))
            slots.append((a, b))
    return slots


# --- Reading captions ------------------------------------------------------------------------------------------------


def _written(words: Sequence[str]) -> str:
    return re.sub(r"\s+([,.;:)%])", r"\1", " ".join(words)).replace("( ", "(")


def _stripped(words: Sequence[str]) -> list[str]:
    """Without frame words and punctuation at either end."""
    inner = list(words)
    while inner and (inner[0] in FRAME or not inner[0][0].isalnum()):
        inner.pop(0)
    while inner and (inner[-1] in FRAME - _ENDINGS or not inner[-1][0].isalnum()):
        inner.pop()
    return inner if any(w not in FRAME for w in inner) else []


def _findings(captions: Sequence[Caption]) -> tuple[Finding, ...]:
    denied: Counter[str] = Counter()
    asks: dict[str, Counter[str]] = defaultdict(Counter)
    for caption in captions:
        here = set()
        for sub_caption in caption.sub_captions:
            if not (sub_caption.visual and sub_caption.negated):
                continue
            phrases = denied_phrases(sub_caption)
            here |= set(phrases)
            if len(phrases) == 1:
                asks[phrases[0]][sub_caption.content] += 1
        denied.update(here)
    names = [name for name, count in denied.most_common() if count >= MIN_CAPTIONS]
    return tuple(
        Finding(name=name, asks=tuple(text for text, _ in _steady(asks[name])[:ASKS]) or (f"{name} present",))
        for name in sorted(names, key=lambda name: (-denied[name], name))
    )


def _steady(counts: Counter[str]) -> list[tuple[str, int]]:
    """Most frequent first, ties by the alphabet: the same captions in any order give the same list."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def _alternatives(visual: Sequence[SubCaption], topics: set[str]) -> dict[str, tuple[str, ...]]:
    """Phrases that stand in one another's place, findings left out: necrosis does not exclude calcification."""
    shared: Counter[tuple[str, str]] = Counter()
    for phrases in _contexts(visual).values():
        for first, second in combinations(sorted(phrases), 2):
            a, b = first.split(), second.split()
            if a[0] != b[0] and a[-1] != b[-1]:  # what differs, and not a word of the context with it
                shared[first, second] += 1
    topic_words = [set(topic.split()) for topic in topics]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for (first, second), count in shared.items():
        if count >= MINFRAMES and not any(_speaks_of(phrase, topic_words) for phrase in (first, second)):
            counts[first][second] += count
            counts[second][first] += count
    return {phrase: tuple(o for o, _ in _steady(counts[phrase])[:MOST_ALTERNATIVES]) for phrase in sorted(counts)}


def _speaks_of(phrase: str, topics: Sequence[set[str]]) -> bool:
    """Whether the phrase is a finding, part of one, or holds one."""
    words = set(phrase.split())
    return any(words <= topic or topic <= words for topic in topics)


def _contexts(visual: Sequence[SubCaption]) -> Mapping[tuple[tuple[str, ...], tuple[str, ...]], set[str]]:
    """Context -> the phrases met in it, from the distinct affirmative sub-captions."""
    contexts: dict[tuple[tuple[str, ...], tuple[str, ...]], set[str]] = defaultdict(set)
    for content in sorted({s.content for s in visual if not s.negated}):
        words = [EDGE[0], *word_tokens(content), EDGE[1]]
        for a in range(1, len(words) - 1):
            for b in range(a + 1, min(a + LONGEST_PHRASE, len(words) - 1) + 1):
                phrase = words[a:b]
                if phrase != _stripped(phrase) or all(_NUMBER.match(w) for w in phrase):
                    continue
                before, after = words[max(0, a - CONTEXT_WORDS) : a], words[b : b + CONTEXT_WORDS]
                contexts[tuple(before), tuple(after)].add(" ".join(phrase))
    return contexts
