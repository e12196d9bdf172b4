"""Questions as prompts, and as the sub-captions a slide is searched for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from pathflip.arguments import refuse_text
from pathflip.errors import CaptionError
from pathflip.text.refusals import cannot_tell
from pathflip.text.sub_captions import parse_sub_caption

__all__ = [
    "GRAMMAR",
    "MOST_OPTIONS",
    "QueryText",
    "asks_whether",
    "format_question",
    "query_texts",
    "question_content",
    "refers_to_options",
]

MOST_OPTIONS = len(ascii_uppercase)

GRAMMAR = frozenset(
    """what which where who when why how is are was were be do does did has have can could would should will a an the of
    on in at to for with by from as it its this that these those there following any some please many much extensive
    slide image seen shown present visible see show shows located lie lies found based given describe tell me you your
    observe observed and or no not but consists identified noted confirms whole provided histopathological part
    tissue""".split()  # noqa: SIM905
)
"""Words that say nothing of what is on a slide."""
_WHETHER = re.compile(r"\W*(?:is|are|was|were|do|does|did|has|have|can|could|any)\b", re.IGNORECASE)
_REFERS_TO_OPTIONS = re.compile(r"\b(these|following|which|option|options|below)\b", re.IGNORECASE)


@dataclass(frozen=True)
class QueryText:
    """A text to look for. ``option`` is the number of the option it belongs to, from 1; 0 is the question.
    ``joined``: question and option together. ``probe``: looked for though nobody asked."""

    text: str
    option: int = 0
    joined: bool = False
    probe: bool = False


def format_question(question: str, options: Sequence[str] = ()) -> str:
    """The question, and each option on a line of its own behind its letter.

    Raises:
        CaptionError: an empty question or option, or more options than letters.
        TypeError: one text for options: its letters are none.
    """
    if not question.strip():
        raise CaptionError("question: got an empty text, expected words")
    refuse_text(options, "options")
    if len(options) > MOST_OPTIONS or len(options) == 1:
        raise CaptionError(f"options: got {len(options)}, expected none or 2 to {MOST_OPTIONS}")
    if any(not option.strip() for option in options):
        raise CaptionError("options: got an empty one, expected words in each")
    lines = [f"{letter}. {option.strip()}" for letter, option in zip(ascii_uppercase, options, strict=False)]
    return "\n".join([question.strip(), *lines])


def refers_to_options(question: str) -> bool:
    """Whether the question makes no sense without its options ("which of these")."""
    return bool(_REFERS_TO_OPTIONS.search(question))


def asks_whether(question: str) -> bool:
    """Whether the answer is yes or no, and the question names something ("Is there necrosis?")."""
    return _WHETHER.match(question) is not None and bool(question_content(question))


def question_content(question: str) -> str:
    """What a question speaks of: its words without the asking ("Where is the necrosis?" -> "necrosis")."""
    words = re.findall(r"[\w'-]+", question)
    return " ".join(word for word in words if word.lower() not in GRAMMAR)


def query_texts(question: str, options: Sequence[str] = (), limit: int = 64) -> list[QueryText]:
    """The texts a slide is searched for when it is asked this, the most telling first, at most ``limit``.

    The question's content; each option alone, and with the question's content; the items of a list in the question
    ("How many of these: a, b, c?"). Where the question denies ("Which of these is absent?"), each option is denied:
    the sub-caption to look for is "no necrosis".
    """
    refuse_text(options, "options")
    head, colon, tail = question.partition(":")
    # Without its question mark, which would leave open whether anything is denied.
    if refers_to_options(question) and (parsed := parse_sub_caption(head.rstrip(" ?"))).negated:
        head, options = parsed.content, [o if cannot_tell(o) else f"no {o.strip()}" for o in options]
    listed = [part.strip(" ?.!") for part in re.split(r",|;|\band\b", tail)] if colon else []
    content = question_content(head)
    texts = [QueryText(option.strip(), number) for number, option in enumerate(options, start=1)]
    texts += [QueryText(item) for item in listed if item]
    if content:
        texts.insert(0, QueryText(content))
        texts += [QueryText(f"{content} {o.strip()}", n, joined=True) for n, o in enumerate(options, start=1)]
    if not texts:
        texts = [QueryText(question.strip())]
    return texts[:limit]
