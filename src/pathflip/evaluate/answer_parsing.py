"""Which option a free answer names, read by rule; an answer that names none, or two, is refused and says so.

A wrong reading is worse than none: it turns the writing of a model into its accuracy, either way. So whatever could
mean two things is refused and counted apart.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal, NamedTuple

from pathflip.arguments import refuse_text

__all__ = ["ParsedAnswer", "parse_answer"]

Why = Literal["letter", "text", "empty", "ambiguous", "conflict", "declined", "none"]


class ParsedAnswer(NamedTuple):
    """The option's letter, or None; and what it was read from, or why it could not be."""

    letter: str | None
    why: Why


_THOUGHTS = re.compile(r"<think>.*?</think>|^.*</think>", re.DOTALL | re.IGNORECASE)
_MARKUP = re.compile(r"\\(?:boxed|text|textbf|mathrm)\s*\{([^{}]*)\}|[*_`$\"“”]|</?\w+>")
_BRACKETED = r"[(\[{{<]?\s*([{letters}])\s*[)\]}}>]?"
_SAYS = (
    r"(?:the\s+|my\s+)?(?:(?:most\s+|best\s+|final\s+|single\s+)?(?:likely|correct|right|best|appropriate|final|probable)\s+)*"
    r"(?:answer|option|choice|response|selection|prediction)\s*(?:is|would be|should be|must be|:|=|-|–|→)+"
    r"\s*(?:clearly|probably|likely|therefore|either|between|both|:)?\s*(?:option|choice|answer|letter)?s?\s*:?\s*"
)
_PICKS = (
    r"(?:i\s+(?:would\s+)?(?:choose|pick|select|go\s+with|answer)|option|choice|select)\s*:?\s*(?:option|choice)?\s*"
)
_DECLINES = re.compile(
    r"\b(?:can(?:not|['’]t| not)|unable to|not possible to|impossible to|insufficient|not enough information|"
    r"i do(?: not|n['’]t) know|none of (?:the above|these))\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:\bnot|\bnon|\bneither|\bnor|\brather than|\binstead of|\bexclud\w+|\brul\w+ out|"
    r"\bunlike|\beliminat\w+|\bexcept)\s+(?:(?:option|choice|a|an|the)\s+)?$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"^\s*[)\]]?\s*(?:is|are|was|were|can be|seems)\s+(?:not|incorrect|wrong|unlikely|excluded|ruled out|"
    r"less likely)\b",
    re.IGNORECASE,
)

_CLASS_OF = re.compile(
    r"\b(?:vitamin|grade|type|pattern|hepatitis|stage|class|group|category|level|influenza|immunoglobulin|ig)\s+$",
    re.IGNORECASE,
)


def parse_answer(answer: str, options: Sequence[str]) -> ParsedAnswer:
    """Read an answer to a multiple-choice question.

    Args:
        answer: whatever a model wrote: "C", "c.", "(C)", "**C**", "The answer is C", "C: papillary …", the option.
        options: texts of options A, B, …

    Refused are two letters, a letter beside the text of another option, and a letter that may be the article "A".
    """
    refuse_text(options, "options")
    text = _plain(answer)
    if not text:
        return ParsedAnswer(None, "empty")
    letters = ascii_uppercase[: len(options)]
    whole = re.fullmatch(rf"{_BRACKETED.format(letters=letters)}\s*[.:,;!)]*", text, re.IGNORECASE)
    if whole:
        return ParsedAnswer(whole.group(1).upper(), "letter")
    exact = [letters[i] for i, option in enumerate(options) if _norm(option) and _norm(option) == _norm(text)]
    if len(exact) == 1:
        return ParsedAnswer(exact[0], "text")
    named = _letters(text, letters)
    by_text = _texts(text, options, letters)
    if len(named) > 1:
        return ParsedAnswer(None, "ambiguous")
    if named:
        letter = next(iter(named))
        return ParsedAnswer(None, "conflict") if by_text and letter not in by_text else ParsedAnswer(letter, "letter")
    if len(by_text) == 1:
        return ParsedAnswer(next(iter(by_text)), "text")
    if by_text:
        return ParsedAnswer(None, "ambiguous")
    return ParsedAnswer(None, "declined" if _DECLINES.search(text) else "none")


def _plain(answer: str) -> str:
    """Without thoughts, markup and outer white space."""
    text = _THOUGHTS.sub(" ", answer)
    for _ in range(2):  # \boxed{\text{C}}
        text = _MARKUP.sub(lambda match: match.group(1) or "", text)
    return " ".join(text.split())


def _norm(text: str) -> str:
    """Letters and digits in lower case, one space between words."""
    return " ".join(re.findall(r"[^\W_]+(?:\.\d+)?|[<>≤≥+]", text.lower()))


def _letters(text: str, letters: str) -> set[str]:
    """Option letters the answer commits itself to; the strongest kind of mention that is there decides."""
    if re.fullmatch(
        rf"(?:[\s(\[]*[{letters}](?![A-Za-z])[\s)\].,:;/&+]*(?:and|or)?)+", text
    ):  # letters and nothing else
        return set(re.findall(rf"[{letters}]", text))
    one = _BRACKETED.format(letters=letters)
    end = r"(?![\w'’]|-\w)"
    joint = r"(?:,\s*or|,\s*and|,|or|and|/|&)\s*(?:possibly|maybe|perhaps|even)?"
    alternatives = rf"(?:{one}{end}\s*{joint}\s*)*{one}{end}"
    for lead, flags in ((_SAYS, re.IGNORECASE), (r"^\s*", re.IGNORECASE), (_PICKS, re.IGNORECASE)):
        named: set[str] = set()
        for match in re.finditer(rf"(?:{lead})({alternatives})", text, flags):
            # the article: "the answer is a papillary carcinoma"
            group = match.group(1)
            if not _is_article(group, text[match.end() :], leading=lead == r"^\s*"):
                named |= {letter.upper() for letter in re.findall(rf"(?<!\w)[{letters}](?!\w)", group, flags)}
        named = {letter for letter in named if not _refused(text, letter)}
        if named:
            return named
    marked = re.finditer(rf"[(\[]\s*([{letters}])\s*[)\]]|(?<![\w'’.-])([{letters}])(?=[.):](?:\s|$))", text)
    loose = re.finditer(rf"(?<![\w'’.-])([{letters}])(?![\w'’-])", text)
    for mentions in (marked, loose):
        named = {next(group for group in match.groups() if group) for match in mentions if _is_mention(text, match)}
        if named:
            return named
    return set()


def _is_mention(text: str, match: re.Match[str]) -> bool:
    """Whether a letter stands for its option: not denied, not the article, not the class of something ("grade C")."""
    before, after = text[: match.start()], text[match.end() :]
    if _DENIED.search(before) or _DENIED_AFTER.search(after) or _CLASS_OF.search(before):
        return False
    return match.group() != "A" or not re.match(r"\s+(?!(?:or|and|is|because|since|as|but)\b)[a-z]", after)


def _is_article(group: str, rest: str, leading: bool) -> bool:
    """Whether a bare "a" is the article: a word follows without punctuation between."""
    if group.strip().lower() != "a":
        return False
    return bool(re.match(r"\s+[a-z]", rest)) or (leading and bool(re.match(r"\s+\w", rest)))


def _refused(text: str, letter: str) -> bool:
    """Whether every mention of a letter denies it."""
    mentions = list(re.finditer(rf"(?<![\w'’]){letter}(?![\w'’])", text))
    return bool(mentions) and all(
        _DENIED.search(text[: m.start()]) or _DENIED_AFTER.search(text[m.end() :]) for m in mentions
    )


def _texts(text: str, options: Sequence[str], letters: str) -> set[str]:
    """Options whose text the answer holds; one inside a longer option's text counts only where it stands alone."""
    normalised = f" {_norm(text)} "
    order = sorted(range(len(options)), key=lambda i: -len(_norm(options[i])))
    named = set()
    for i in order:
        wanted = _norm(options[i])
        if len(wanted) < 2 and not wanted.isdigit():
            continue
        hit = False
        for match in re.finditer(rf"(?<= ){re.escape(wanted)}(?= )", normalised):
            before = normalised[: match.start()]
            hit |= not (_DENIED.search(before) or _DENIED_AFTER.search(normalised[match.end() :]))
        if hit:
            named.add(letters[i])
        normalised = re.sub(rf"(?<= ){re.escape(wanted)}(?= )", "\0", normalised)
    return named
